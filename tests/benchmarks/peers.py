"""Other implementations, each loaded from its one file so that its package need not be installed.

They come from PyPI, without their dependencies, into a folder of their own:

    pip download --no-deps --dest peers time-interpret==0.3.0 inseq==0.7.1
    for wheel in peers/*.whl; do unzip -q -o "$wheel" -d peers; done
"""

import importlib.util
import itertools
import sys
import types
import typing
from pathlib import Path
from typing import Any

import captum._utils.typing

HOW_TO_GET = __doc__.split("\n\n", 1)[1].strip()
FILES = {
    "tint": "tint/attr/seq_ig.py",
    "inseq": "inseq/attr/feat/ops/sequential_integrated_gradients.py",
}


def sequential_integrated_gradients(
    folder: Path | None, peer: str, words: int | None = None
) -> Any:
    """A peer's class, or None where it is not there.

    With `words` its loop over positions ends early (it must be asked to show its progress), for
    a look at what it holds in memory.
    """
    path = folder / FILES[peer] if folder else None
    if path is None or not path.exists():
        return None
    captum._utils.typing.Literal = typing.Literal  # both import the name from there
    for name in ("tint", "tint.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["tint.utils"].get_progress_bars = lambda: (
        lambda positions, **_: itertools.islice(positions, words)
    )
    spec = importlib.util.spec_from_file_location(f"{peer}_sig", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SequentialIntegratedGradients

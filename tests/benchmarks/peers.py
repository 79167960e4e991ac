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
from typing import Any, Protocol

import captum._utils.typing
from numpy.typing import NDArray

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


class Citer(Protocol):
    """Scores of a prompt's sentences, (S,), from so many random ablations."""

    def __call__(
        self, model: Any, tokenizer: Any, sources: Any, game: Any, ablations: int
    ) -> NDArray[Any]: ...


def context_citer(folder: Path | None) -> Citer | None:
    """`context-cite` where it and what it needs is installed, or in the folder; else None.

    It asks for sentences to be split by NLTK's data, which it downloads; here it is given them.
    """
    if folder is not None:
        sys.path.append(str(folder))
    if importlib.util.find_spec("context_cite") is None:
        return None
    import nltk

    nltk.download = lambda *_, **__: False
    import context_cite
    from context_cite.context_partitioner import BaseContextPartitioner

    class Sentences(BaseContextPartitioner):
        def __init__(self, sources: Any, game: Any) -> None:
            super().__init__(sources.context)
            self._sources, self._game = sources, game

        @property
        def num_sources(self) -> int:
            return len(self._sources.sentences)

        def split_context(self) -> None:
            pass

        def get_source(self, index: int) -> str:
            return self._sources.sentences[index]

        def get_context(self, mask: NDArray[Any] | None = None) -> str:
            return self.context if mask is None else self._game(mask)

    def scores(model: Any, tokenizer: Any, sources: Any, game: Any, ablations: int) -> NDArray[Any]:
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        citer = context_cite.ContextCiter(
            model, tokenizer, sources.context, sources.query, num_ablations=ablations,
            prompt_template="{context}{query}", partitioner=Sentences(sources, game),
        )  # fmt: skip
        citer._cache["output"] = sources.context + sources.query + sources.target
        return citer.get_attributions(verbose=False)

    return scores

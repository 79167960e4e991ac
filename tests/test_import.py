"""Importing stays light, and the guard that says so bites."""

import functools
import importlib.metadata as metadata
import subprocess
import sys

import pytest

import captum_sig

HEAVY = [
    "transformers", "ray", "rich", "typer", "tokenizers", "pandas", "pyarrow", "duckdb", "datasets",
]  # fmt: skip


@functools.cache
def loaded(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    program = f"import sys\n{statement}\nprint(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def too_heavy(statement: str) -> set[str]:
    return loaded(statement) & set(HEAVY)


def test_importing_loads_no_more_than_captum():
    extra = loaded("import captum_sig") - loaded("import captum")
    third_party = {name for name in extra if name not in sys.stdlib_module_names}
    assert third_party - {"captum_sig"} <= {"_distutils_hack"}


def test_the_guard_bites():
    assert too_heavy("import captum_sig, tokenizers") >= {"tokenizers"}
    assert too_heavy("import captum_sig") == set()


@pytest.mark.parametrize("name", captum_sig.__all__)
def test_public_names_are_there_and_documented(name):
    assert getattr(captum_sig, name).__doc__


def test_a_notebook_completes_public_names_only():
    assert dir(captum_sig) == sorted(captum_sig.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'sgi'"):
        captum_sig.sgi  # noqa: B018


def test_the_submodules_load_when_used():
    assert "torch" not in loaded("import captum_sig")
    assert "torch" in loaded("import captum_sig; captum_sig.words")
    assert captum_sig.__version__ == metadata.version("captum_sig")

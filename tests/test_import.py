"""Importing stays light, and the guard that says so bites."""

import functools
import importlib.metadata as metadata
import os
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


def loaded_by_command(*arguments: str, **environment: str) -> tuple[set[str], int]:
    """Top-level packages that the command has loaded when it ends, and its exit code."""
    program = (
        "import atexit, sys\n"
        "def show(): print('\\n!', *{m.split('.')[0] for m in sys.modules}, file=sys.stderr)\n"
        "atexit.register(show)\n"
        "from captum_sig.cli.main import app\n"
        "app(prog_name='captum-sig')"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    return set(done.stderr.rpartition("!")[2].split()), done.returncode


SLOW = {"torch", "captum", "transformers", "numpy", "ray", "pyarrow", "duckdb", "datasets"}
COMMANDS = ("explain", "evaluate", "corpus", "report", "trace")


@pytest.mark.parametrize(
    "arguments",
    [
        "--version", "--help", *(f"{command} --help" for command in COMMANDS),
        *(f"{command} x --no-such-option" for command in COMMANDS),
        "nope", "evaluate x", "explain x --method lime", "explain x --baseline zeros",
        "explain x --level letter", "explain x --format xml", "explain x --task translation",
        "corpus x --output y --engine spark", "corpus x --output y --num-workers 2",
        "evaluate x --output y --methods sig,lime", "evaluate x --output y --metrics luck",
        "explain x --model /no/such/folder", "explain x --contrast y", "explain x --format png",
    ],
)  # fmt: skip
def test_help_and_usage_errors_load_no_model_libraries(arguments):
    packages, code = loaded_by_command(*arguments.split())
    assert code == (0 if arguments.endswith(("--version", "--help")) else 2)
    assert "typer" in packages
    assert not packages & SLOW


def test_completion_loads_no_model_libraries():
    line = "captum-sig explain --method "
    packages, code = loaded_by_command(
        _CAPTUM_SIG_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD="3"
    )
    assert code == 0
    assert "typer" in packages
    assert not packages & SLOW


def test_explaining_a_text_loads_what_it_needs():
    packages, code = loaded_by_command("explain", "It's not good.")
    assert code == 0
    assert {"torch", "transformers"} <= packages  # the guard bites
    assert not packages & {"ray", "pyarrow", "duckdb", "datasets", "pandas"}

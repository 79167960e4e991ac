"""Fixtures; no test touches the network, and none leaves global settings changed."""

import contextlib
import os
import pty
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
# The models are tiny: threads would only wait for each other.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0]))

SHARED = Path(__file__).parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a test draws without a generator of its own may not decide whether it passes."""
    parser.addoption("--seed", type=int, default=0, help="what tests draw from")


@pytest.hookimpl(tryfirst=True)  # before xdist reads it
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes, if pytest-xdist is there and a test has one thread.

    Those come here too, and must not start more.
    """
    option = config.option
    if "PYTEST_XDIST_WORKER" in os.environ or getattr(option, "numprocesses", 0) is not None:
        return
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    chosen = option.markexpr or option.keyword or option.usepdb
    if whole and not chosen and torch.get_num_threads() == 1:
        option.numprocesses, option.dist = 2, "loadfile"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU that PyTorch can use"))


@pytest.fixture(autouse=True, scope="session")
def _no_file_in_the_users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CAPTUM_SIG_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _settings_stay_as_they_were(pytestconfig: pytest.Config) -> Iterator[None]:
    torch.manual_seed(pytestconfig.getoption("seed"))
    before = torch.is_grad_enabled(), torch.backends.cudnn.enabled, torch.get_num_threads()
    yield
    assert (
        torch.is_grad_enabled(),
        torch.backends.cudnn.enabled,
        torch.get_num_threads(),
    ) == before


@pytest.fixture(scope="session")
def demo():
    """The demo model's explainer."""
    from captum_sig import TextClassificationExplainer
    from captum_sig.demo_model import PATH

    return TextClassificationExplainer.from_pretrained(PATH)


@pytest.fixture
def run() -> Callable[..., Any]:
    """Runs the command with these arguments and returns its output and exit code."""
    from typer.testing import CliRunner

    from captum_sig.cli.main import app

    def run_command(*arguments: object, stdin: str | None = None, columns: int = 80) -> Any:
        environment = {"COLUMNS": str(columns)}
        return CliRunner().invoke(app, [*map(str, arguments)], input=stdin, env=environment)

    return run_command


@pytest.fixture
def in_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., str]:
    """Runs the command with a terminal to write to, and returns what the terminal was sent."""
    from captum_sig.cli.main import app

    def run(*arguments: str, **variables: str) -> str:
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        leader, follower = pty.openpty()
        with (
            ThreadPoolExecutor(1) as reader,
            open(follower, "w", encoding="utf-8") as stream,
            contextlib.redirect_stdout(stream),
        ):
            shown = reader.submit(_read_to_end, leader)
            app(arguments, standalone_mode=False)
        os.close(leader)
        assert capsys.readouterr().err == ""
        return shown.result().decode()

    return run


def _read_to_end(terminal: int) -> bytes:
    """Return all that a terminal is sent until it is closed; it arrives in pieces."""
    pieces = []
    with contextlib.suppress(OSError):  # Linux's way of saying that nothing more will come
        while piece := os.read(terminal, 4096):
            pieces.append(piece)
    return b"".join(pieces)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with a fine-tuned BERT, a GPT-2 and SST-2."""
    if not SHARED.exists():
        pytest.skip("no folder `shared` with real models and data beside the project")
    return SHARED

"""The command in a process of its own: closed, full and broken streams, interrupts, file checks."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captum_sig._files import check_file, check_folder, check_model_path

COMMAND = f"{shlex.quote(sys.executable)} -m captum_sig"


def shell(line: str) -> subprocess.CompletedProcess:
    """Run a line in which {} is the command."""
    return subprocess.run(
        ["bash", "-c", line.format(COMMAND)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("{} explain good >&-", 2, "captum-sig: stdout is closed: pass --output FILE\n"),
        ("{} explain good >&- 2>&-", 2, ""),
        ("{} explain - <&-", 2, "captum-sig: stdin is closed: pass the text itself\n"),
        ("{} explain good --output /dev/null >&- <&-", 0, ""),
        ("{} explain good >/dev/full", 2, "captum-sig: [Errno 28] No space left on device\n"),
        ("{} --version >/dev/full", 1, "captum-sig: [Errno 28] No space left on device\n"),
        ("{} explain good | true; exit ${{PIPESTATUS[0]}}", 1, ""),
    ],
)
def test_streams_that_take_nothing(line, code, message):
    done = shell(line)
    assert (done.returncode, done.stderr) == (code, message)


def test_a_closed_stderr_loses_no_result():
    assert "good +" in shell("{} explain good 2>&-").stdout


@pytest.mark.parametrize("delay", [0.15, 0.7])
def test_an_interrupt_while_imports_run_is_quiet(delay):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "explain", "good"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")


# Imports take as long on any machine: this one sleeps where PyTorch would be imported.
PROGRAM = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers"):
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                raise ValueError("an import swallows the interrupt")
sys.meta_path.insert(0, Slow())
sys.modules.pop("captum_sig.__main__", None)
from captum_sig.__main__ import run
print("started", flush=True)
run()
"""


def test_a_file_is_checked_before_it_is_written(tmp_path):
    existing = tmp_path / "results.json"
    existing.write_text("kept", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    for path in (existing, tmp_path / "new.json"):
        check_file(path)
    assert (existing.read_text(encoding="utf-8"), sorted(tmp_path.iterdir())) == ("kept", before)
    with pytest.raises(ValueError, match="is a folder: name a file"):
        check_file(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        check_file(tmp_path / "none" / "new.json")
    with pytest.raises(ValueError, match="there is no folder"):
        check_file(existing / "new.json")


def test_a_folder_is_checked_before_it_is_made(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(ValueError, match="file is a file: name a folder"):
            check_folder(path)
    with pytest.raises(OSError, match="/proc/none/folder cannot be written"):
        check_folder(Path("/proc/none/folder"))


@pytest.mark.parametrize("name", ["gpt2", "owner/model", "owner-1/model_2.3"])
def test_names_of_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_model_path(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "models/mine",
            "no folder models/mine, and the hub is not asked, since models is a folder",
        ),
        ("models/bert/mine", "there is no folder models/bert/mine: correct the path"),
        ("./mine", "there is no folder ./mine"),
        ("~/mine", "there is no folder ~/mine"),
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("models\\mine", "there is no folder"),
        ("weights", "weights is a file: name the folder that the model was saved to"),
    ],
)
def test_paths_to_nothing_are_no_names_of_the_hub(run, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "weights").touch()
    with pytest.raises(ValueError, match="folder"):
        check_model_path(name)
    for task in ("text-classification", "text-generation"):
        result = run("explain", "good", "--model", name, "--task", task)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "explain good --output {}/none/x.json", "trace good --output {}/none/x.json",
        "evaluate {}/data.tsv --output {}/file", "corpus {}/data.tsv --output {}/file/folder",
        "evaluate {}/data.tsv --output /proc/x", "corpus {}/data.tsv --output /proc/x",
        "report {} --output {}/file/folder", "report {} --output /proc/x",
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    run, arguments, tmp_path, monkeypatch
):
    (tmp_path / "data.tsv").write_text("text\tlabel\ngood\tPOSITIVE\n", encoding="utf-8")
    (tmp_path / "file").touch()
    monkeypatch.setattr("captum_sig.cli.terminal._loading", None)  # no model is loaded
    monkeypatch.setattr("captum_sig.corpus.report.make_report", None)
    result = run(*arguments.replace("{}", str(tmp_path)).split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert any(word in result.stderr for word in ("no folder", "is a file", "cannot be written"))

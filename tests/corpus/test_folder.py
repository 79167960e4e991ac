"""`captum-sig corpus` in this process: what it writes, how it resumes, what it refuses."""

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from captum_sig.cli.corpus import Progress
from captum_sig.cli.main import app
from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus import folder as corpus_folder
from captum_sig.corpus.manifest import Manifest
from captum_sig.corpus.report import make_report
from captum_sig.corpus.shard_files import ShardWriter
from captum_sig.demo_model import PATH
from tests.shards import content, scan_corpus

parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = [f"{start} film number {number} is {end}." for number, (start, end) in enumerate(
    [("A", "charming"), ("This old", "dull, yet good"), ("No", "bad")] * 4)]  # fmt: skip


def run(*arguments: object):
    return CliRunner().invoke(app, ["corpus", *map(str, arguments)])


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"id": f"n{i}", "text": text}) for i, text in enumerate(TEXTS)]
    path.write_text("\n".join([*lines, '{"id": "bad", "text": null}', "{"]), encoding="utf-8")
    return path


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("part-"))


def test_shards_hold_the_explainers_results(data, tmp_path, demo):
    result = run(data, "--output", tmp_path / "out", "--shard-size", 5)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[:3] == [
        "Texts: 14; 12 explained, 2 failed.",
        "  texts.jsonl, row 13: the text is null; wanted a string: correct the row or leave it out",
        "  texts.jsonl, row 14: line 14: not valid JSON at character 2: Expecting property name "
        "enclosed in double quotes; wanted an object on each line",
    ]  # fmt: skip
    found = content(tmp_path / "out")
    assert [len(columns["row"]) for columns in found.values()] == [5, 5, 4]
    rows = [dict(zip(columns, row, strict=True)) for columns in found.values()
            for row in zip(*columns.values(), strict=True)]  # fmt: skip
    assert [row["row"] for row in rows] == list(range(1, 15))
    assert [row["id"] for row in rows] == [f"n{i}" for i in range(12)] + ["bad", "texts.jsonl:14"]
    assert {row["file"] for row in rows} == {"texts.jsonl"}
    for row, result in zip(rows, demo(TEXTS), strict=False):
        assert (row["text"], row["label"], row["error"]) == (result.text, result.label, None)
        assert row["probability"] == pytest.approx(result.probability, abs=1e-6)
        assert row["words"] == [word.word for word in result.words]
        assert row["offsets"] == [[word.start, word.end] for word in result.words]
        assert row["scores"] == pytest.approx(result.scores, abs=1e-5)
        assert row["max_abs_word_delta"] < 1e-4
    assert [row["text"] for row in rows[12:]] == [None, None]
    file = parquet.ParquetFile(tmp_path / "out" / "part-000000.parquet")
    assert file.metadata.row_group(0).column(3).compression == "ZSTD"


def test_the_manifest_has_settings_counts_and_versions(data, tmp_path):
    run(data, "--output", tmp_path / "out", "--target", "NEGATIVE", "--level", "token")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    settings = manifest["settings"]
    assert (settings["model"], settings["target"], settings["level"]) == (
        "demo",
        "NEGATIVE",
        "token",
    )
    assert len(settings["weights"]) == 16
    assert [(file["file"], file["rows"]) for file in settings["input"]] == [("texts.jsonl", 14)]
    assert manifest["counts"] == {"shards": 1, "rows": 14, "explained": 12, "failed": 2,
                                  "truncated": 0, "duplicate_ids": 0}  # fmt: skip
    assert manifest["finished"] is True
    assert {"captum_sig", "torch", "transformers", "python"} <= set(manifest["versions"][0])
    assert left_over(tmp_path / "out") == [".lock", "manifest.json"]


def test_the_strongest_words_of_a_corpus_and_a_resumed_run(tmp_path, demo):
    long = " ".join(TEXTS)
    data, out = tmp_path / "texts.jsonl", tmp_path / "out"
    data.write_text("\n".join(json.dumps({"text": text}) for text in (long, *TEXTS[:3])))
    arguments = (data, "--output", out, "--shard-size", 2, "--method", "sig:two_sided")
    assert run(*arguments, "--top", 8).exit_code == 0
    whole = content(out)
    (out / "part-000000.parquet").unlink()
    assert "(2 from earlier runs)" in run(*arguments, "--top", 8).stdout
    assert content(out) == whole
    assert run(*arguments, "--top", 9).exit_code != 0
    rows = whole["part-000000.parquet"]
    result = demo(long, method="sig:two_sided", top=8)
    assert rows["evidence"] == [
        [word.evidence for word in result.words],
        ["exact"] * len(rows["words"][1]),
    ]
    assert rows["bound"] == [pytest.approx(result.audit.bound, abs=1e-5), None]
    assert rows["confidence"] == [pytest.approx(0.9), None]


@pytest.mark.parametrize("contexts", ["input", "two_sided", "auto"])
def test_a_resumed_run_leaves_finished_shards_alone(contexts, data, tmp_path):
    out = tmp_path / "out"
    arguments = (data, "--output", out, "--shard-size", 4, "--contexts", contexts)
    assert run(*arguments).exit_code == 0
    whole = content(out)
    (out / "part-000001.parquet").unlink()
    (out / ".part-000001.host.1.tmp").write_bytes(b"half")
    untouched = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    result = run(*arguments)
    assert "Texts: 14 (10 from earlier runs); 12 explained, 2 failed." in result.stdout
    assert content(out) == whole
    assert untouched.items() <= {p.name: p.stat().st_mtime_ns for p in out.iterdir()}.items()
    assert left_over(out) == [".lock", "manifest.json"]


@pytest.mark.parametrize(
    ("place", "moment", "kept"),
    [("fsync", 1, None), ("fsync", 2, 0), ("fsync", 3, 4), ("fsync", 4, 8), ("fsync", 6, 14),
     ("link", 1, 0), ("link", 2, 4), ("link", 4, 12), ("replace", 1, None), ("replace", 2, 14)],
)  # fmt: skip
def test_an_interruption_at_any_write_costs_that_shard_alone(
    place, moment, kept, data, tmp_path, monkeypatch
):
    arguments = (data, "--output", tmp_path / "out", "--shard-size", 4)
    assert run(data, "--output", tmp_path / "whole", "--shard-size", 4).exit_code == 0
    real, calls = getattr(os, place), []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == moment:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(os, place, interrupted)
    result = run(*arguments)
    assert result.exit_code == 130
    if kept is not None:  # the manifest comes first
        assert f"interrupted: {kept} texts are kept" in result.stderr
    monkeypatch.undo()
    assert not list((tmp_path / "out").glob(".*.tmp"))
    assert run(*arguments).exit_code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--method", "saliency"), "made with method 'sig', not 'saliency'"),
        (("--baseline", "pad"), "made with baseline 'mask', not 'pad'"),
        (("--target", "0"), "made with target None, not '0'"),
        (("--limit", "3"), "made with limit None, not 3"),
        (("--shard-size", "5"), "made with --shard-size 4, not 5"),
        (("--no-truncation",), "made with truncation True, not False"),
        (("--text-column", "id"), "made with --text-column None, not 'id'"),
    ],
    ids=str,
)
def test_a_folder_made_with_other_settings_is_refused(more, why, data, tmp_path):
    assert run(data, "--output", tmp_path / "out", "--shard-size", 4).exit_code == 0
    before = content(tmp_path / "out")
    result = run(data, "--output", tmp_path / "out", "--shard-size", 4, *more)
    assert result.exit_code == 2
    assert why in result.stderr
    assert content(tmp_path / "out") == before


def test_other_texts_or_weights_are_refused(data, tmp_path):
    arguments = ("--output", tmp_path / "out", "--model", tmp_path / "model")
    shutil.copytree(PATH, tmp_path / "model")
    assert run(data, *arguments).exit_code == 0
    data.write_text(data.read_text(encoding="utf-8").replace("dull", "lull"), encoding="utf-8")
    result = run(data, *arguments)
    assert "holds shards of other texts (texts.jsonl)" in result.stderr
    data.write_text(data.read_text(encoding="utf-8").replace("lull", "dull"), encoding="utf-8")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["classifier.bias"][0] += 1e-3
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    result = run(data, *arguments)
    assert result.exit_code == 2
    assert "made with weights" in result.stderr


def test_folders_that_cannot_be_used(data, tmp_path):
    out = tmp_path / "out"
    assert "is a file: name a folder" in run(data, "--output", data).stderr
    assert "is a file: name a folder" in run(data, "--output", data / "sub").stderr
    result = run(tmp_path, "--output", out)
    assert f"{out} lies in the input" in result.stderr
    assert run(data, "--output", out).exit_code == 0


def test_two_runs_do_not_share_a_folder(data, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        result = run(data, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "another run is writing to" in result.stderr
    assert run(data, "--output", tmp_path / "out").exit_code == 0


def test_ids_that_occur_twice_are_kept_and_counted(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("id\ttext\n1\tGood.\n2\tBad.\n1\tFine.\n1\tDull.\n", encoding="utf-8")
    result = run(path, "--output", tmp_path / "out", "--shard-size", 2)
    assert "Texts: 4; 4 explained, 0 failed." in result.stdout
    assert "2 rows repeat an id; file and row still differ." in result.stdout


def test_a_line_of_a_megabyte_is_cut_and_counted(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\nGood.\n" + "good " * 200_000 + "\nBad.\n", encoding="utf-8")
    result = run(path, "--output", tmp_path / "out")
    assert "Texts: 3; 3 explained, 1 truncated, 0 failed." in result.stdout
    (found,) = content(tmp_path / "out").values()
    assert len(found["text"][1]) == 1_000_000
    assert found["dropped_tokens"][1] > 100  # a lower bound: the rest is not tokenised


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--address", "auto"), "--address is for --engine ray only: leave it out"),
        (("--num-workers", "2"), "--num-workers is for --engine ray only: leave it out"),
        (("--target", "NEUTRAL"), "unknown label 'NEUTRAL'; choose from NEGATIVE (0), "),
        (("--text-column", "txt"), "has no column 'txt'"),
        (("--model", "./nowhere"), "there is no folder ./nowhere"),
    ],
    ids=str,
)
def test_mistakes_are_reported_before_a_folder_is_made(arguments, why, data, tmp_path):
    result = run(data, "--output", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert why in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_stops_working_ends_the_run_and_keeps_finished_shards(
    data, tmp_path, monkeypatch
):
    real, calls = CorpusExplainer.columns, []

    def columns(self, *given, **more):
        calls.append(given)
        if len(calls) == 3:
            raise RuntimeError("the model stopped working")
        return real(self, *given, **more)

    monkeypatch.setattr(CorpusExplainer, "columns", columns)
    result = run(data, "--output", tmp_path / "out", "--shard-size", 4)
    assert (result.exit_code, result.stderr) == (
        2, "captum-sig: the model stopped working\n",
    )  # fmt: skip
    assert len(content(tmp_path / "out")) == 2


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "captum_sig", "corpus", *map(str, arguments)]


def test_kill_9(data, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(data, "--output", whole, "--shard-size", 1).exit_code == 0
    process = subprocess.Popen(
        command(data, "--output", out, "--shard-size", 1),
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # rounds likewise
    )
    while len(list(out.glob("part-*.parquet"))) < 3 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not json.loads((out / "manifest.json").read_text(encoding="utf-8"))["finished"]
    assert run(data, "--output", out, "--shard-size", 1).exit_code == 0
    assert content(out) == content(whole)


def limited(bytes: int):
    """Limit the size of files in a child process, as a full disk does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))


def test_a_full_disk_is_reported_and_finished_shards_stay(data, tmp_path):
    small = subprocess.run(
        command(data, "--output", tmp_path / "out", "--shard-size", 7),
        capture_output=True, text=True, check=False, preexec_fn=limited(4096),
    )  # fmt: skip
    assert small.returncode == 2
    assert "File too large" in small.stderr
    assert left_over(tmp_path / "out") == [".lock", "manifest.json"]
    assert run(data, "--output", tmp_path / "out", "--shard-size", 7).exit_code == 0
    assert len(content(tmp_path / "out")) == 2


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_empty_cells_are_failed_rows_and_count_in_no_table(tmp_path, ending, separator):
    data = tmp_path / f"texts.{ending}"
    cells = [("text", "n"), ("Good.", "1"), ("", "2"), ("   ", "3"), ("Bad.", "4"), ("", "")]
    data.write_text("".join(separator.join(row) + "\n" for row in cells), encoding="utf-8")
    result = run(data, "--output", tmp_path / "out")
    assert result.stdout.splitlines()[:3] == [
        "Texts: 4; 2 explained, 2 failed.",
        f"  texts.{ending}, row 2: empty text",
        f"  texts.{ending}, row 3: empty text",
    ]
    report = make_report(tmp_path / "out", tmp_path / "report")
    assert sum(row["texts"] for row in report.classes) == 2
    assert (report.overview["rows"], report.overview["failed"]) == (4, 2)


def test_progress_in_a_log_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr("captum_sig.cli.corpus.SECONDS_BETWEEN_LINES", 0.0)
    progress = Progress(1000, 5000, 400, 3000)
    progress.update(100, 1000)  # half of the work that was left, as these are long
    assert progress.line(50.0) == "500 of 1,000 texts, 2.0/s, 00:50 left"
    progress.update(500, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" texts")[0] for line in lines] == ["500 of 1,000", "1,000 of 1,000"]


def test_the_bar_on_a_terminal_counts_texts_and_measures_work(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    with (progress := Progress(1000, 5000, 400, 3000)).bar:
        progress.update(100, 500)
    assert "70%|" in stream.getvalue()
    assert "| 500 of 1,000 texts [" in stream.getvalue()


@pytest.mark.parametrize("name", ["pyarrow.parquet", "duckdb"])
def test_missing_packages_are_reported_before_the_model_is_loaded(name, tmp_path, monkeypatch):
    (tmp_path / "texts.tsv").write_text("text\nGood.\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("captum_sig.cli.terminal.load_corpus_explainer", pytest.fail)
    result = run(tmp_path / "texts.tsv", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert f'writing shards needs {name}: run pip install ".[data]" in the' in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_finished_corpus_on_a_read_only_disk_is_finished(data, tmp_path, monkeypatch):
    import filelock

    out = tmp_path / "out"
    assert run(data, "--output", out, "--shard-size", 5).exit_code == 0

    def read_only(*given, **options):
        raise OSError(30, "Read-only file system")

    for place in ("tempfile.TemporaryFile", "os.replace", "os.link", "os.fsync"):
        monkeypatch.setattr(place, read_only)
    monkeypatch.setattr(filelock.FileLock, "acquire", read_only)
    changed = out.stat().st_mtime_ns
    result = run(data, "--output", out, "--shard-size", 5)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Texts: 14 (14 from earlier runs); 12 explained, 2 failed." in result.stdout
    assert out.stat().st_mtime_ns == changed
    (out / "part-000001.parquet").unlink()
    result = run(data, "--output", out, "--shard-size", 5)
    assert (result.exit_code, result.stderr) == (
        2, f"captum-sig: {out} cannot be written to: Read-only file system\n",
    )  # fmt: skip


def test_a_shard_that_no_manifest_lists_is_kept(data, tmp_path, monkeypatch):
    """The run is killed after a shard has got its name, and before the manifest lists it."""
    monkeypatch.setattr(corpus_folder, "SECONDS_BETWEEN_RECORDS", 0.0)
    written, real = [], Manifest.write

    def killed(self, folder):
        written.append(len(self.shards))
        if len(written) > 3:
            raise KeyboardInterrupt
        real(self, folder)

    monkeypatch.setattr(Manifest, "write", killed)
    assert run(data, "--output", tmp_path / "out", "--shard-size", 4).exit_code == 130
    assert written == [0, 1, 2, 3, 3]
    monkeypatch.undo()
    assert len(Manifest.read(tmp_path / "out").shards) == 2
    untouched = (tmp_path / "out" / "part-000002.parquet").stat().st_mtime_ns
    result = run(data, "--output", tmp_path / "out", "--shard-size", 4)
    assert "Texts: 14 (12 from earlier runs); 12 explained, 2 failed." in result.stdout
    assert (tmp_path / "out" / "part-000002.parquet").stat().st_mtime_ns == untouched
    assert run(data, "--output", tmp_path / "whole", "--shard-size", 4).exit_code == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_two_writers_of_one_shard_agree_on_the_first(data, tmp_path, monkeypatch):
    """As when a worker that was given up as lost goes on."""
    shard = scan_corpus([str(data)], limit=3).shards[0]
    explain = CorpusExplainer(PATH)
    lost, other = (ShardWriter(tmp_path / "out", explain, "run") for _ in range(2))
    (tmp_path / "out").mkdir()
    outcomes, real = [], CorpusExplainer.columns

    def columns(self, *given, **more):
        monkeypatch.undo()
        outcomes.append(other.write(shard))
        found = real(self, *given, **more)
        return found | {"probability": [0.0] * len(found["probability"])}

    monkeypatch.setattr(CorpusExplainer, "columns", columns)
    assert lost.write(shard) == outcomes[0]
    (columns_written,) = content(tmp_path / "out").values()
    assert 0.0 not in columns_written["probability"]
    with pytest.raises(ValueError, match=r"part-000000\.parquet is of a run with other settings"):
        ShardWriter(tmp_path / "out", explain, "another").write(shard)


def test_a_version_that_cuts_otherwise_is_refused(data, tmp_path, monkeypatch):
    assert run(data, "--output", tmp_path / "out").exit_code == 0
    monkeypatch.setattr("captum_sig.corpus.shards.WORK_OF_A_ROW", 0)
    assert "cuts the input into other shards" in run(data, "--output", tmp_path / "out").stderr


def test_a_file_system_without_locks_gives_a_warning(data, tmp_path, monkeypatch):
    import filelock

    def refuse(self, timeout):
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    result = run(data, "--output", tmp_path / "out")
    assert result.exit_code == 0
    assert "cannot be locked: make sure that no other run writes to it" in result.stderr


def test_the_manifest_has_all_versions(data, tmp_path, monkeypatch):
    arguments = (data, "--output", tmp_path / "out")
    run(*arguments)
    monkeypatch.setattr(corpus_folder.metadata, "version", lambda name: "9.9")
    for _ in range(2):
        run(*arguments)  # writes nothing
        (tmp_path / "out" / "part-000000.parquet").unlink()
        run(*arguments)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert [one["captum_sig"] for one in manifest["versions"]][1:] == ["9.9"]

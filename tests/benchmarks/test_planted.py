"""The benchmark of planted words: it runs on a tiny model, and resumes."""

from tests import tiny_planted
from tests.benchmarks import planted, record


def test_it_measures_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    tiny_planted.model().save_pretrained(tmp_path / "tiny")
    tiny_planted.tokenizer().save_pretrained(tmp_path / "tiny")
    data = tmp_path / "texts.tsv"
    lines = [f"{one.text}\t{one.label}\n" for one in tiny_planted.records()]
    data.write_text("".join(["sentence\tlabel\n", *lines]), encoding="utf-8")
    arguments = [
        "--data", data, "--model", tmp_path / "tiny", "--folder", tmp_path / "out", "--texts", 8,
        "--methods", "sig", "random", "--shortcuts", "single_token", "--record", "tiny",
    ]  # fmt: skip
    for _ in range(2):
        planted.main([*map(str, arguments)])
        figures = record.read("tiny")
        row = figures.row("differences", shortcut="single_token", metric="precision_at_k")
        assert (row["method"], row["reference"], row["n"]) == ("random", "sig", 8)
        assert row["mean"] < 0
        assert len(figures.tables["planted"]) == 4
        assert figures.row("reliance", shortcut="single_token")["followed"] >= 0.95
    assert figures.figures["cpu_seconds_of_this_run"] < 1  # nothing was trained again
    assert "single_token" in capsys.readouterr().out

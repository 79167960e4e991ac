"""The benchmark of rationales trains, explains and compares, on a few harmless comments."""

import csv
import json

import pytest

from captum_sig.data.records import Record
from captum_sig.demo_model import PATH
from tests.benchmarks import rationales

COMMENTS = ["You are a {} indeed.", "What {} people write!", "A {} said so.", "It is {}, I say."]
WORDS = ["silly", "rotten", "nasty"]


def test_what_is_marked_is_left_out():
    assert rationales.without("You are a fool, fool!", ((8, 14), (16, 20))) == "You are , !"
    assert rationales.without("fool", ((0, 4),)) == ""
    assert rationales.without("fine as is", ()) == "fine as is"


def test_held_out_comments_are_short_and_not_trained_on():
    records = [Record(" ".join(["a"] * n), None, spans=((0, 1),)) for n in (3, 30, 4, 4, 10)]
    held_out, rest = rationales.split([*records, Record("none", None, spans=())], 2, 5)
    assert held_out == [records[0], records[2]]
    assert rest == [records[4]]  # the fourth repeats a held-out one, the second is too long


def test_ranks():
    means = [{"method": method, "metric": metric, "mean": mean}
             for metric in rationales.METRICS
             for method, mean in (("a", 1.0), ("b", 2.0), ("c", 2.0))]  # fmt: skip
    table = rationales.ranks(means, "abc")
    assert [row["auprc"] for row in table] == [3, 1.5, 1.5]
    assert [row["log_odds"] for row in table] == [1, 2.5, 2.5]


@pytest.fixture
def files(tmp_path):
    """Comments with offsets of one word, and other texts."""
    with (tmp_path / "spans.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["spans", "text"])
        for comment in COMMENTS:
            for word in WORDS:
                start = comment.index("{")
                offsets = list(range(start, start + len(word)))
                writer.writerow([json.dumps(offsets), comment.format(word)])
    (tmp_path / "plain.tsv").write_text("sentence\n" + "A warm film.\nLong and dull.\n" * 4)
    return tmp_path


def test_a_run_trains_once_and_compares(files, capsys):
    plain = str(files / "plain.tsv")
    arguments = [
        "--data", str(files / "spans.csv"), "--model", str(PATH), "--plain", plain, plain,
        "--folder", str(files / "out"), "--texts", "3", "--epochs", "1", "--methods", "sig",
        "random", "--n-steps", "2",
    ]  # fmt: skip
    rationales.main(arguments)
    printed = capsys.readouterr().out
    assert "epoch 1" in printed
    assert "accuracy_without_marked" in printed
    assert "spearman_auprc_log_odds" in printed
    rationales.main(arguments)
    again = capsys.readouterr().out
    assert "epoch" not in again
    assert again.split("methods:")[1] == printed.split("methods:")[1]

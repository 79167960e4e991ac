"""What a command measured stands in a file that says how, when and where."""

import argparse
import json

import numpy as np
import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.corpus import CorpusExplainer
from captum_sig.demo_model import PATH as DEMO
from captum_sig.faithfulness import METRICS
from captum_sig.faithfulness.examples import prepare_examples
from tests.benchmarks import evaluated, faithfulness, generation, scale
from tests.benchmarks.record import (
    RESULTS,
    ROOT,
    add_record_option,
    command_line,
    read,
    record,
    show_and_record,
)

ROWS = [{"method": "sig", "mean": -0.123456789, "n": 3}, {"method": "ig", "mean": None, "n": 2}]


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = record("one", {"means": ROWS}, command="python -m x", folder=tmp_path)
    assert path == tmp_path / "one.json"
    found = read("one", tmp_path)
    assert found.tables == {"means": [{**ROWS[0], "mean": -0.123457}, ROWS[1]]}
    assert (found.name, found.command, found.figures) == ("one", "python -m x", {})


def test_a_record_says_by_which_code_and_where(tmp_path):
    found = read("one", record("one", {}, command="x", folder=tmp_path).parent)
    assert len(found.commit.removesuffix("+")) == 40 or found.commit == "unknown"
    assert found.machine["threads"] == torch.get_num_threads()
    assert {"processor", "cores", "python", "torch", "captum", "transformers"} <= {*found.machine}


def test_scalars_of_numpy_and_pytorch_are_numbers(tmp_path):
    figures = {"a": np.float32(1 / 3), "b": torch.tensor(2), "c": np.int64(4), "d": np.bool_(True)}
    record("one", {}, command="x", figures=figures, folder=tmp_path)
    assert read("one", tmp_path).figures == {"a": 0.333333, "b": 2, "c": 4, "d": True}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"t": [{"a": float("nan")}]}, r"t\.a is nan: give a string, a finite number"),
        ({"t": [{"a": [1, 2]}]}, r"t\.a is \[1, 2\]"),
        ({"t": [{"a": 1}, {"b": 1}]}, r"row 2 of table 't' has the columns \['b'\]"),
    ],
)
def test_what_is_no_flat_row_of_values_is_an_error(tables, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        record("one", tables, command="x", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_is_short_and_plain(tmp_path):
    with pytest.raises(ValueError, match="named 'A/b'"):
        record("A/b", {}, command="x", folder=tmp_path)


def test_a_row_is_a_line(tmp_path):
    text = record("one", {"t": ROWS, "u": ROWS}, command="x", folder=tmp_path).read_text()
    assert text.count('{"method": ') == 4
    assert all(line.count("{") < 2 for line in text.splitlines())


def test_an_unknown_record_names_the_known(tmp_path):
    record("one", {}, command="x", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no record 'two': choose from one"):
        read("two", tmp_path)


def test_a_command_names_no_folder_of_the_machine():
    arguments = ["--data", "/a/sst2/dev.tsv", "--peer", "../x/peers", "--few", "a b"]
    shown = "python -m m --data sst2/dev.tsv --peer x/peers --few 'a b'"
    assert command_line("m", arguments) == shown


@pytest.fixture
def results(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.benchmarks.record.RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["", "--seed", "1"])
    return tmp_path / "results"


def test_a_command_shows_its_tables_and_records_them_if_asked(results, capsys):
    parser = argparse.ArgumentParser()
    add_record_option(parser)
    tables = {"t": [{"method": "sig", "s": {"cpu": 0.123456}}, {"method": "ig", "mib": 2}]}
    show_and_record(parser.parse_args([]), "tests.x.__main__", tables, {"n": 3})
    assert "| sig | 0.1235 |  |" in capsys.readouterr().out
    assert not results.exists()
    show_and_record(parser.parse_args(["--record", "one"]), "tests.x.__main__", tables, {"n": 3})
    found = read("one")
    assert found.command == "python -m tests.x --seed 1"
    assert found.tables["t"] == [
        {"method": "sig", "s_cpu": 0.123456, "mib": None},
        {"method": "ig", "s_cpu": None, "mib": 2},
    ]


def test_what_evaluate_wrote_is_recorded(results, tmp_path):
    head = "method,baseline,metric,mean,low,high,n"
    (tmp_path / "table.csv").write_text(f"{head}\nsig,mask,log_odds,-1.5,-2,-1.25,5\n")
    (tmp_path / "paired.csv").write_text("method,reference,mean\nsig,ig,\n")
    evaluated.main([str(tmp_path), "--record", "some"])
    assert read("some").row("methods", method="sig") == {
        "method": "sig", "baseline": "mask", "metric": "log_odds",
        "mean": -1.5, "low": -2, "high": -1.25, "n": 5,
    }  # fmt: skip
    assert read("some").tables["differences"] == [
        {"method": "sig", "reference": "ig", "mean": None}
    ]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_records_of_the_project(path):
    found = read(path.stem)
    assert found.name == path.stem
    is_command = found.command.startswith(("python -m tests.", "captum-sig ", "OMP_NUM_THREADS="))
    assert is_command or (found.transcribed and found.command.startswith("# no command")), (
        f"{path.name}: the command that writes it begins with `python -m tests.`"
    )
    assert not any(part in path.read_text() for part in ("/tmp/", "/work/", "/home/", "/root/"))
    assert json.loads(path.read_text())["commit"]


# What takes seconds to measure again. The labels of planted words: see test_agreement.py.


def test_the_demo_model_is_as_large_as_the_readme_says():
    size = sum(path.stat().st_size for path in DEMO.iterdir() if path.is_file())
    assert f"({size / 1e6:.0f} MB; nothing is downloaded" in (ROOT / "README.md").read_text()


def test_the_work_of_a_corpus_is_the_one_on_record(shared):
    texts = scale.texts(shared / "data/sst2/train.tsv", 1_000)
    work = scale.row_tokens(CorpusExplainer(DEMO), texts) / len(texts)
    assert round(work) == read("scale").row("costs", texts=1_000)["row_tokens_a_text"]


def test_the_tokens_of_a_generation_are_those_on_record(shared):
    question = generation.MethodInput(shared / "models/gpt2-movies", 64, 16)
    found = generation.in_contexts(question, ["input"], 1)
    for row in generation.tables_of({"contexts": found})["contexts"]:
        on_record = read("generation_contexts").row("contexts", contexts=row["contexts"])
        assert (row["passes"], row["tokens"]) == (on_record["passes"], on_record["tokens"])


def test_faithfulness_is_the_one_on_record(shared):
    """One method and metric on all texts, to the digits that the page prints."""
    on_record = read("faithfulness").row("methods", model="demo", baseline="mask", method="lrp")
    records = faithfulness.chosen_records(shared / "data/sst2/dev.tsv", on_record["n"], seed=0)
    explainer = TextClassificationExplainer.from_pretrained(DEMO, level="token")
    examples = prepare_examples(explainer, records, "predicted")
    results = faithfulness.explain(explainer, examples, "lrp")
    values = METRICS["log_odds"](
        explainer.log_probabilities,
        [example.sentence for example in examples],
        [result.scores for result in results],
        0.2,
        original=[example.log_probability for example in examples],
    )
    assert values.mean().item() == pytest.approx(on_record["log_odds"], abs=5e-4)

"""Units in corpora: rows against plain loops over ids, resumed runs, and the report by name."""

import csv
import json
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from captum_sig import SimilarityExplainer, TextClassificationExplainer
from captum_sig.cli.main import app
from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus.report import make_report
from captum_sig.corpus.report_page import to_page
from captum_sig.corpus.rows import from_row, to_row
from captum_sig.demo_model import PATH
from tests.shards import content
from tests.tiny_models import bert, wordpiece_tokenizer

TEXT = "the movie is not good. bad movies!"
HOSTILE = "=cmd|\x1b[2J<script>alert(1)</script>"
UNITS = [[4, 16, "what"], {"start": 23, "end": 34, "name": HOSTILE}]
COLUMNS = ["level", "words", "names", "offsets", "scores", "error"]


def without(explainer, text, parts):
    """The predicted label's logit minus that without each part, by ids."""
    tokenizer = explainer.tokenizer
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids, effects = torch.tensor(encoding["input_ids"]), []
    with torch.no_grad():
        whole = explainer.model(ids[None]).logits[0]
        for start, end in parts:
            changed = ids.clone()
            for position, (first, last) in enumerate(encoding["offset_mapping"]):
                if start <= first < last <= end:
                    changed[position] = tokenizer.mask_token_id
            change = whole - explainer.model(changed[None]).logits[0]
            effects.append(float(change[whole.argmax()]))
    return effects


@pytest.fixture(scope="module")
def explainer():
    return TextClassificationExplainer(bert(), wordpiece_tokenizer())


@pytest.fixture(scope="module")
def explain(explainer):
    return CorpusExplainer(explainer, units_column="units")


@pytest.mark.parametrize(
    "units",
    [
        json.dumps(UNITS),
        UNITS,
        [(4, 16, "what"), (23, 34, HOSTILE)],
        np.array([*UNITS, None], dtype=object)[:2],
    ],
    ids=["JSON", "lists", "tuples", "NumPy"],
)
def test_units_are_a_plain_loop_over_ids(explain, explainer, units):
    columns = pickle.loads(pickle.dumps(explain))({"text": [TEXT, TEXT], "units": [units, None]})
    assert columns["names"] == [["what", HOSTILE], [None] * 9]
    assert columns["words"][0] == ["movie is not", "bad movies!"]
    assert columns["offsets"][0] == [[4, 16], [23, 34]]
    assert columns["level"] == ["unit", "word"]
    expected = without(explainer, TEXT, [(4, 16), (23, 34)])
    assert columns["scores"][0] == pytest.approx(expected, abs=1e-10)
    assert columns["scores"][1] == pytest.approx(explainer(TEXT).scores, abs=1e-10)
    assert columns["error"] == ["", ""]


@pytest.mark.parametrize("level", ["sentence", "paragraph"])
def test_a_level_is_that_of_the_explainer(explainer, level):
    explainer = TextClassificationExplainer(explainer.model, explainer.tokenizer, level=level)
    columns = CorpusExplainer(explainer).columns([TEXT, "bad"])
    assert columns["level"] == [level] * 2
    assert "names" not in columns
    ends = [(0, 22), (23, 34)] if level == "sentence" else [(0, 34)]
    assert columns["scores"][0] == pytest.approx(without(explainer, TEXT, ends), abs=1e-10)
    assert CorpusExplainer(explainer).work(TEXT * 9) < CorpusExplainer(
        TextClassificationExplainer(explainer.model, explainer.tokenizer)
    ).work(TEXT * 9)


@pytest.mark.parametrize("target", ["all", None])
def test_a_row_is_the_result(explain, explainer, target):
    result = explainer(TEXT, target, units=[(4, 16, "what"), (23, 34)])
    row = to_row(result)
    assert row["names"] == ["what", None]
    if target is None:
        restored = from_row({"text": TEXT, **row}, result.method, result.baseline)
        assert restored.words == result.words
        assert restored.level == "unit"


def test_labels_of_units(explainer):
    explain = CorpusExplainer(explainer, units_column="units", target="all")
    columns = explain({"text": [TEXT], "units": [UNITS]})
    result = explainer(TEXT, "all", units=[(4, 16), (23, 34)])
    assert columns["target_scores"][0] == [
        pytest.approx(row, abs=1e-10) for row in result.matrix.tolist()
    ]
    assert columns["names"] == [["what", HOSTILE]]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("nonsense[", "the units are not JSON: "),
        ("[" * 100_000, "the units are not JSON: "),
        (7, "units of the text are 7; wanted a list of [start, end]"),
        ([7], "units of the text have 7; wanted (start, end)"),
        ([[0, 99]], "unit (0, 99) of the text is not in the text, which has 34 characters"),
        ([[0, 9], [3, 12]], "units (0 to 9) and (3 to 12) of the text overlap"),
        ([[0, 3, "\ud800"]], "is not valid Unicode"),
        ([], "units of the text are empty"),
        ([[1, 3]], "ValueError: no word of "),
    ],
)
def test_bad_units_fail_their_row_alone(explain, units, message):
    columns = explain({"text": [TEXT, TEXT, "bad"], "units": [UNITS, units, ""]})
    assert [not error for error in columns["error"]] == [True, False, True]
    assert message in columns["error"][1]
    assert columns["scores"][1] == columns["names"][1] == []


def test_columns_of_another_length(explain):
    with pytest.raises(ValueError, match="2 texts and 1 entries of units"):
        explain({"text": [TEXT, TEXT], "units": [None]})
    with pytest.raises(ValueError, match="no column 'units': units_column must be one of 'text'"):
        explain({"text": [TEXT]})


def test_units_of_pairs(explainer):
    pairs = {"text": [TEXT, TEXT], "other": ["not bad", "not bad"]}
    sided = [{"start": 0, "end": 3, "side": "text"}, {"start": 4, "end": 7, "side": "text_pair"}]
    for own in (sided, [[[0, 3]], [[4, 7]]], ([(0, 3)], [(4, 7)])):
        explain = CorpusExplainer(explainer, pair_column="other", units_column="units")
        columns = explain({**pairs, "units": [own, [[0, 3]]]})
        assert columns["words"][0] == ["the", "bad"]
        assert columns["sides"][0] == ["text", "text_pair"]
        assert "units of the text do not say which text they are in" in columns["error"][1]


def test_units_of_similar_texts():
    encoder = SimilarityExplainer(bert().bert, wordpiece_tokenizer())
    explain = CorpusExplainer(encoder, pair_column="other", units_column="units")
    sided = [{"start": 0, "end": 3, "side": "text"}, {"start": 4, "end": 7, "side": "text_pair"}]
    columns = explain({"text": [TEXT], "other": ["not bad"], "units": [sided]})
    assert columns["error"] == [""]
    assert columns["words"] == [["the", "bad"]]


# The command.


def run(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


ROWS = [
    ("The plot is thin. The acting is superb.", [[0, 17, "plot"], [18, 39, "acting"]]),
    ("Dull from the start! Nobody cares.", [[0, 20, "plot"], [21, 34, "acting"]]),
    ("It is good. It is bad.", None),
    ("Fine film here.", [[0, 9, HOSTILE]]),
    ("Fine.", [[0, 99]]),
]


def write(path: Path) -> Path:
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "units": units}) for text, units in ROWS]
        path.write_text("\n".join(lines), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            cells = [[text, "" if units is None else json.dumps(units)] for text, units in ROWS]
            csv.writer(file).writerows([["text", "units"], *cells])
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        named = [
            units and [dict(zip(("start", "end", "name"), one, strict=False)) for one in units]
            for _, units in ROWS
        ]
        table = arrow.table({"text": [text for text, _ in ROWS], "units": named})
        parquet.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("units")
    data, out = write(root / "data.jsonl"), root / "out"
    result = run("corpus", data, "--level", "sentence", "--units-column", "units", "--output", out,
                 "--shard-size", 2)  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


def rows_of(folder: Path) -> list[dict]:
    return [dict(zip(columns, row, strict=True)) for columns in content(folder).values()
            for row in zip(*columns.values(), strict=True)]  # fmt: skip


def test_the_command_writes_what_the_explainer_returns(folder, demo):
    rows = rows_of(folder)
    assert [row["level"] for row in rows] == ["unit", "unit", "sentence", "unit", None]
    assert rows[3]["names"] == [HOSTILE]
    assert "unit (0, 99) of the text is not in the text" in rows[4]["error"]
    for row, (text, units) in zip(rows[:2], ROWS, strict=False):
        assert row["scores"] == pytest.approx(
            demo(text, units=[tuple(one) for one in units]).scores, abs=1e-5
        )
    assert rows[2]["words"] == ["It is good.", "It is bad."]


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_columns_of_other_files(tmp_path, folder, name):
    out = tmp_path / "out"
    arguments = "--level", "sentence", "--units-column", "units", "--output", out
    assert run("corpus", write(tmp_path / name), *arguments).exit_code == 0
    for row, expected in zip(rows_of(out), rows_of(folder), strict=True):
        assert {name: row[name] for name in COLUMNS} == {
            name: pytest.approx(expected[name], abs=1e-5) if name == "scores" else expected[name]
            for name in COLUMNS
        }


def test_a_run_resumes_with_its_own_level_and_units_alone(tmp_path):
    out, data = tmp_path / "out", write(tmp_path / "data.jsonl")
    arguments = "corpus", data, "--output", out, "--shard-size", 2, "--level", "sentence"
    assert run(*arguments, "--units-column", "units").exit_code == 0
    whole = content(out)
    (out / "part-000001.parquet").unlink()
    assert "(3 from earlier runs)" in run(*arguments, "--units-column", "units").stdout
    assert content(out) == whole
    for others, message in (
        (["--level", "word", "--units-column", "units"], "level 'sentence', not 'word'"),
        ([], "units_column 'units'"),
        (["--units-column", "units", "--target", "POSITIVE"], "target"),
    ):
        refused = run(*arguments, *others)
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1
        assert message.replace("units_column", "--units-column") in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--units-column", "spans"], "has no column 'spans': --units-column must be one of"),
        (["--units-column", "text"], "--units-column 'text' is read as something else"),
        (["--budget", 9], "--budget is for --level auto: leave it out"),
        (["--stride", 9, "--task", "fill-mask", "--model", PATH],
         "--stride is for text-classification only"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, options, message):
    data = write(tmp_path / "data.jsonl")
    result = run("corpus", data, "--output", tmp_path / "out", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_corpus_has_no_messages(tmp_path):
    data = write(tmp_path / "data.jsonl")
    result = run("corpus", data, "--output", tmp_path / "out", "--level", "message")
    assert result.exit_code == 2
    assert "Traceback" not in result.output


# The report.


def test_named_units_have_one_effect_over_all_texts(folder, tmp_path):
    made = make_report(folder, tmp_path)
    assert made.kinds == "units"
    scores = defaultdict(list)
    for row in rows_of(folder):
        for name, word, score in zip(row["names"], row["words"], row["scores"], strict=True):
            scores[row["label"], name or word.lower()].append(score)
    with (tmp_path / "words.csv").open(newline="", encoding="utf-8") as file:
        found = {(row["class"], row["word"]): row for row in csv.DictReader(file)}
    assert {word.removeprefix("'") for _, word in found} == {word for _, word in scores}
    for (label, word), values in scores.items():
        shown = f"'{word}" if word.startswith("=") else word
        row = found[label, shown]
        assert float(row["mean"]) == pytest.approx(sum(values) / len(values), abs=1e-6)
        assert int(row["count"]) == len(values)
    assert [row["word"] for row in made.extremes if row["class"] == "NEGATIVE"][0] == "plot"


def test_the_page_names_units_safely(folder, tmp_path):
    page = to_page(make_report(folder, tmp_path))
    assert "Units that move it most" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert ">plot</" in page
    shown = run("report", folder, "--output", tmp_path / "report")
    assert shown.exit_code == 0
    assert "\x1b[2J" not in shown.stdout
    assert "plot" in shown.stdout


def test_terms_are_of_words(folder, tmp_path):
    (tmp_path / "terms").write_text("good\n")
    result = run("report", folder, "--terms", tmp_path / "terms")
    assert result.exit_code == 2
    assert "terms are of words, and" in result.stderr
    assert len(result.stderr.splitlines()) == 1

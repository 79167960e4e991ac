"""`captum-sig evaluate --rationales`: against a plain recomputation, at every level, for pairs."""

import csv
import json
from statistics import fmean

import pytest
from sklearn.metrics import average_precision_score

from captum_sig import TextClassificationExplainer
from tests.tiny_models import bert
from tests.tiny_tasks import pair_tokenizer

ROWS = [
    {"text": "A warm and funny story for the family.", "label": "POSITIVE", "why": [[2, 16]]},
    {"text": "Dull.", "label": "positive", "why": "[0, 1, 2, 3]"},  # the model says otherwise
    {"text": "The plot is thin. Yet the acting is superb!", "label": "1", "why": [[36, 42]]},
    {"text": "I was moved to tears.", "label": "1", "why": []},
    {"text": "Two hours of noise.", "label": "0"},
]
NAMES = ["auprc", "token_f1", "iou"]
QUICK = ["--methods", "random,sig", "--metrics", "log_odds"]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def evaluate(run, tmp_path):
    """Runs the command; returns its result, the lines of examples, and the table."""

    def evaluate(data, *options):
        folder = tmp_path / "out"
        result = run("evaluate", data, "--rationales", "why", "--output", folder, *options)
        if result.exit_code:
            return result, [], []
        lines = (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()
        table = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
        return result, list(map(json.loads, lines)), table

    return evaluate


def true_words(result, spans):
    """Words of the first text with a character in a span, from sets of characters."""
    marked = {place for start, end in spans for place in range(start, end)}
    return [
        (word.score, bool(marked & set(range(word.start, word.end))))
        for word in result.words
        if word.side != "text_pair"
    ]


def slow_metrics(words):
    k = sum(is_true for _, is_true in words)
    order = sorted(range(len(words)), key=lambda i: (-words[i][0], i))
    n_right = sum(words[i][1] for i in order[:k])
    scores, truth = zip(*words, strict=True)
    area = average_precision_score(truth, scores)
    return {"auprc": area, "token_f1": n_right / k, "iou": n_right / (2 * k - n_right)}


@pytest.mark.parametrize("level", ["word", "token", "sentence"])
def test_metrics_are_those_of_a_plain_loop(demo, evaluate, tmp_path, level):
    result, lines, table = evaluate(write(tmp_path / "x.jsonl"), *QUICK, "--level", level)
    assert result.exit_code == 0, result.output
    explainer = TextClassificationExplainer(demo.model, demo.tokenizer, level=level)
    spans = {0: [(2, 16)], 1: [(0, 4)], 2: [(36, 42)]}
    means = {name: [] for name in NAMES}
    for line in lines:
        if line["method"] != "sig":
            continue
        assert line["explained"] == ("NEGATIVE" if line["number"] == 4 else "POSITIVE")
        if line["number"] not in spans:
            assert [line[name] for name in NAMES] == [None] * 3
            continue
        alone = explainer(line["text"], "POSITIVE")
        assert line["scores"] == pytest.approx(alone.scores, abs=1e-4)
        expected = slow_metrics(true_words(alone, spans[line["number"]]))
        assert {name: line[name] for name in NAMES} == pytest.approx(expected)
        for name in NAMES:
            means[name].append(expected[name])
    rows = {row["metric"]: row for row in table if row["method"] == "sig"}
    assert list(rows) == ["log_odds", *NAMES]
    assert [row["n"] for row in rows.values()] == ["5", "3", "3", "3"]
    for name in NAMES:
        assert float(rows[name]["mean"]) == pytest.approx(fmean(means[name]))


def test_the_command_says_what_agreement_means(evaluate, tmp_path):
    data = write(tmp_path / "x.jsonl")
    result, _, _ = evaluate(data, *QUICK, "--level", "word")
    said = " ".join(result.stdout.split())
    assert "Means of 5 texts (3 for auprc, token_f1, iou), ±" in said
    assert "The explained labels are those of the data." in said
    note = "Agreement with the words that people marked (auprc, token_f1, iou) is plausibility, not"
    assert note in said
    assert note in (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert "auprc ↑" in said
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if "out" not in line)
    resumed, _, _ = evaluate(data, *QUICK, "--level", "word", "--resume")
    assert resumed.stdout == result.stdout
    other, _, _ = evaluate(data, *QUICK, "--level", "word", "--resume", "--explain", "predicted")
    assert other.exit_code == 2
    assert "explain" in other.stderr


def test_the_model_s_labels_are_explained_if_told_or_there_are_no_others(evaluate, tmp_path):
    data = write(tmp_path / "x.jsonl", ROWS[:2])
    result, lines, _ = evaluate(data, *QUICK, "--explain", "predicted")
    assert "The explained labels are the model's." in result.stdout
    assert {line["explained"] for line in lines} == {"POSITIVE", "NEGATIVE"}
    (tmp_path / "out/examples.jsonl").unlink()
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    result, _, _ = evaluate(data, *QUICK, "--label-column", "")
    assert "The explained labels are the model's." in result.stdout


def test_metrics_that_were_chosen_too_come_once(evaluate, run, tmp_path):
    data = write(tmp_path / "x.jsonl")
    options = ["--methods", "random", "--metrics", "iou,mean_rank"]
    result, _, table = evaluate(data, *options)
    assert result.exit_code == 0
    assert [row["metric"] for row in table] == ["iou", "mean_rank", "auprc", "token_f1"]
    result = run("evaluate", data, "--output", tmp_path / "other", *options)
    assert result.exit_code == 2
    assert "metric 'iou' compares scores with words that are known" in result.stderr


def test_spans_of_pairs_are_in_the_first_text(evaluate, tmp_path):
    bert().float().save_pretrained(tmp_path / "model")
    pair_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"text": "the movie is good", "text_pair": "not bad , not good", "why": [[13, 17]]},
            {"text": "a mess", "text_pair": "bad", "why": [[2, 6]]}]  # fmt: skip
    data = write(tmp_path / "x.jsonl", rows)
    result, lines, _ = evaluate(data, *QUICK, "--model", tmp_path / "model", "--level", "word")
    assert result.exit_code == 0, result.output
    explainer = TextClassificationExplainer.from_pretrained(tmp_path / "model")
    for line in lines:
        row = rows[line["number"]]
        if line["method"] == "sig":
            alone = explainer((row["text"], row["text_pair"]), line["explained"])
            expected = slow_metrics(true_words(alone, row["why"]))
            assert {name: line[name] for name in NAMES} == pytest.approx(expected)


def test_eraser_s_annotations(evaluate, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/neg_1.txt").write_text("the plot\n\n is  dull , and slow .\n")
    evidence = {"docid": "neg_1.txt", "start_token": 3, "end_token": 4, "text": "dull"}
    row = {"annotation_id": "neg_1.txt", "classification": "negative", "why": [[evidence]],
           "evidences": [[evidence]], "docids": None, "query": "what ?"}  # fmt: skip
    result, lines, _ = evaluate(write(tmp_path / "val.jsonl", [row]), *QUICK, "--level", "word")
    assert result.exit_code == 0, result.output
    assert lines[1]["explained"] == "NEGATIVE"
    assert lines[1]["auprc"] == 1


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"why": [[0, 99]]}, [], "x.jsonl, line 1: the rationale [0, 99] is outside the text"),
        ({"why": "[0, 3"}, [], "x.jsonl, line 1: the rationale is not JSON"),
        ({"why": [0, 3]}, [], "may mean characters or the ends of spans"),
        ({"why": []}, [], "no text has any: set --rationales"),
        ({}, ["--rationales", "spans"], "has no column 'spans': --rationales must be one of 'text"),
        ({}, ["--rationales", "text"], "--rationales 'text' is read as something else"),
        ({"label": "7"}, [], "record 0 has label '7', which the model does not know"),
        ({"label": None}, ["--explain", "label"], "record 0 has no label to explain"),
    ],
)
def test_mistakes_are_one_sentence(evaluate, tmp_path, changes, options, message):
    data = write(tmp_path / "x.jsonl", [{**ROWS[0], **changes}])
    result, _, _ = evaluate(data, *QUICK, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert message in line


def test_a_missing_label_leaves_the_predicted_ones(evaluate, tmp_path):
    rows = [{**row, "label": row["label"] if number else None} for number, row in enumerate(ROWS)]
    result, lines, _ = evaluate(write(tmp_path / "x.jsonl", rows), *QUICK)
    assert result.exit_code == 0, result.output
    assert "The explained labels are the model's." in result.stdout
    assert all(line["explained"] == line["predicted"] for line in lines)

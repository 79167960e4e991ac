"""`captum-sig evaluate`: against a plain recomputation, after interruptions, with bad input."""

import csv
import functools
import io
import json
import shutil
import sys
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from typer.testing import CliRunner

from captum_sig import LayerDiscretizedIntegratedGradients, TextClassificationExplainer
from captum_sig.cli.main import app
from captum_sig.data.records import Record
from captum_sig.data.statistics import bootstrap, holm, paired_p_value
from captum_sig.data.tables import to_markdown
from captum_sig.demo_model import PATH
from captum_sig.explainers import methods
from captum_sig.faithfulness import evaluation
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.evaluation import Evaluation
from captum_sig.faithfulness.examples import prepare_examples
from captum_sig.faithfulness.summary import COLUMNS, PAIRED_COLUMNS
from tests.tiny_models import byte_level_tokenizer, tiny, wordpiece_tokenizer

ROWS = [
    ("A warm and funny story for the family.", "POSITIVE"),
    ("Dull.", "negative"),
    ("The plot is thin, and the jokes fall flat.", "0"),
    ("I was moved to tears.", "1"),
    ("Not bad at all!", "1"),
    ("Two hours of noise.", "0"),
    ("Clever, strange and beautiful.", "0"),  # the model says otherwise
    ("It tries hard, but it is a mess.", "0"),
]
NAMES = ["random", "sig", "sig:two_sided", "sig:auto", "sig:sampled4", "ig", "input_x_gradient"]
BASELINES = ["mask", "constant"]
METRICS = ["log_odds", "comprehensiveness", "sufficiency", "ablation_auc"]
SEED = 3
OPTIONS = [
    "--baselines",
    ",".join(BASELINES),
    "--n-steps",
    "6",
    "--top-fraction",
    "0.3",
    "--n-draws",
    "2",
    "--seed",
    str(SEED),
]
QUICK = ["--methods", "random,input_x_gradient", "--metrics", "log_odds", "--n-draws", "1"]


def write(path, rows=ROWS, end="\n"):
    lines = [f"{text}\t{label}" for text, label in [("sentence", "label"), *rows]]
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def run(data, output, *options):
    arguments = ["evaluate", str(data), "--output", str(output), *map(str, options)]
    return CliRunner().invoke(app, arguments)


def done(data, output, *options):
    result = run(data, output, *options)
    assert result.exit_code == 0, result.output
    return result


def lines_of(folder):
    """Return the lines without the seconds, which differ between runs."""
    written = (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in written]


def table(folder, name="table.csv"):
    text = (folder / name).read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return [{k: v for k, v in row.items() if k != "seconds_per_example"} for row in rows]


def cells(rows, column="mean"):
    return {(row["method"], row["baseline"], row["metric"]): float(row[column]) for row in rows}


def configured(*methods):
    return EvaluationConfig(
        data="d", model="m", masked_lm=None, methods=methods, baselines=("mask",),
        metrics=("log_odds",), top_fraction=0.2, level="token", explain="predicted", n_steps=50,
        n_draws=5, seed=0,
    )  # fmt: skip


def same_results(one, other):
    return lines_of(one) == lines_of(other) and all(
        table(one, name) == table(other, name) for name in ("table.csv", "paired.csv")
    )


def sorted_values(rows, method, baseline, metric):
    """Return the values sorted by text, the order in which the bootstrap draws from them."""
    mine = [row for row in rows if (row["method"], row["baseline"]) == (method, baseline)]
    return [row[metric] for row in sorted(mine, key=lambda row: row["text"])]


@pytest.fixture(scope="module")
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "Evaluation", functools.partial(Evaluation, block_size=3))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "reviews.tsv")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory, small_blocks):
    """An uninterrupted run of three blocks: its folder and its result."""
    folder = tmp_path_factory.mktemp("results") / "new" / "folder"
    options = ["--methods", ",".join(NAMES), "--metrics", ",".join(METRICS)]
    result = done(data, folder, *OPTIONS, *options)
    return folder, result


# The results of a run are recomputed.


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("method", NAMES)
def test_each_text_is_explained_as_if_alone(demo, whole, method, baseline):
    explainer = TextClassificationExplainer(
        demo.model, demo.tokenizer, baseline=baseline, level="token", n_draws=2, seed=SEED
    )
    lines = [x for x in lines_of(whole[0]) if (x["method"], x["baseline"]) == (method, baseline)]
    assert sorted(line["number"] for line in lines) == list(range(len(ROWS)))
    for line in lines:
        text, label = ROWS[line["number"]]
        alone = explainer(text, method=method, n_steps=6)
        assert (line["text"], line["label"]) == (text, demo.labels[demo.label_index(label)])
        assert line["predicted"] == line["explained"] == alone.label
        assert line["words"] == [word.word for word in alone.words]
        assert line["scores"] == pytest.approx(alone.scores, abs=2e-5)


def test_metrics_are_those_of_a_slow_loop(demo, whole):
    """At level token, the words are the positions between [CLS] and [SEP]."""
    mask_id = demo.tokenizer.mask_token_id

    @functools.cache
    def log_p(label, *ids):
        with torch.no_grad():
            logits = demo.model(torch.tensor([ids or [mask_id]])).logits[0]
        return logits.log_softmax(-1)[demo.label_index(label)].item()

    for line in lines_of(whole[0]):
        ids, label = demo.tokenizer(line["text"])["input_ids"], line["explained"]
        n = len(ids) - 2
        order = sorted(range(1, n + 1), key=lambda i: -line["scores"][i - 1])  # noqa: B023
        full, top = log_p(label, *ids), order[: max(1, int(0.3 * n))]
        masked = [
            log_p(label, *[mask_id if i in order[:k] else x for i, x in enumerate(ids)])
            for k in range(n + 1)
        ]
        removed = log_p(label, *[x for i, x in enumerate(ids) if i not in top])
        kept = log_p(label, *[x for i, x in enumerate(ids) if i in (0, n + 1, *top)])
        expected = {
            "log_odds": masked[len(top)] - full,
            "comprehensiveness": exp(full) - exp(removed),
            "sufficiency": exp(full) - exp(kept),
            "ablation_auc": (sum(map(exp, masked)) - (exp(full) + exp(masked[-1])) / 2) / n,
        }
        assert {name: line[name] for name in METRICS} == pytest.approx(expected, abs=2e-5)


def test_tables_are_means_of_the_lines(whole):
    folder, lines = whole[0], lines_of(whole[0])
    rows = list(csv.DictReader((folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == list(COLUMNS) == [
        "method", "baseline", "metric", "ablation", "mean", "low", "high", "n",
        "seconds_per_example",
    ]  # fmt: skip
    own = {"comprehensiveness": "remove", "sufficiency": "remove"}
    assert all(row["ablation"] == own.get(row["metric"], "replace") for row in rows)
    wanted = [(m, b, name) for b in BASELINES for m in NAMES for name in METRICS]
    assert [(row["method"], row["baseline"], row["metric"]) for row in rows] == wanted
    for row in rows:
        values = sorted_values(lines, row["method"], row["baseline"], row["metric"])
        expected = bootstrap(values, seed=SEED)
        assert float(row["mean"]) == pytest.approx(fmean(values), abs=1e-12)
        assert [float(row["low"]), float(row["high"])] == [expected.low, expected.high]
        assert row["n"] == "8"
        assert float(row["seconds_per_example"]) > 0
    numbers = dict.fromkeys(("mean", "low", "high", "seconds_per_example"), ".3f")
    typed = [{k: float(v) if k in numbers else v for k, v in row.items()} for row in rows]
    typed = [{**row, "n": int(row["n"])} for row in typed]
    shown = (folder / "table.md").read_text(encoding="utf-8")
    assert shown.startswith(to_markdown(typed, COLUMNS, numbers) + "\nDifferences from random")
    assert "cannot be told from 8 labelled texts" in shown


def test_paired_differences_are_to_the_first_method(whole):
    folder, lines = whole[0], lines_of(whole[0])
    rows = table(folder, "paired.csv")
    assert list(rows[0]) == list(PAIRED_COLUMNS) == [
        "method", "reference", "baseline", "metric", "ablation", "mean", "low", "high", "n", "p",
        "p_holm",
    ]  # fmt: skip
    assert len(rows) == len(BASELINES) * (len(NAMES) - 1) * len(METRICS)
    for row in rows:
        assert row["reference"] == "random" != row["method"]
        first, second = (
            sorted_values(lines, name, row["baseline"], row["metric"])
            for name in (row["reference"], row["method"])
        )
        expected = bootstrap([b - a for a, b in zip(first, second, strict=True)], seed=SEED)
        found = [float(row[name]) for name in ("mean", "low", "high")]
        assert found == [expected.mean, expected.low, expected.high]
        assert float(row["p"]) == paired_p_value(first, second, seed=SEED)
    for metric in METRICS:
        family = [row for row in rows if row["metric"] == metric]
        adjusted = holm([float(row["p"]) for row in family])
        assert [float(row["p_holm"]) for row in family] == adjusted


def test_the_command_shows_all_that_matters(whole):
    folder, result = whole
    assert result.stderr == ""  # no bar where there is no terminal
    for name in NAMES:
        assert f" {name} " in result.stdout
    assert "Means of 8 texts" in result.stdout
    said = " ".join(result.stdout.split())
    assert "Different from random at 5 % after Holm's correction: by log odds, none; by" in said
    right = fmean(line["label"] == line["predicted"] for line in lines_of(folder))
    assert 0.5 < right < 1
    assert f"predicts the label of {right:.1%} of the labelled texts" in result.stdout
    assert f"in {folder}." in result.stdout
    assert "left out" not in result.stdout


def test_explained_labels_may_be_those_of_the_data(demo, data, tmp_path):
    done(data, tmp_path / "o", *QUICK, "--explain", "label")
    lines = lines_of(tmp_path / "o")
    assert all(line["explained"] == line["label"] for line in lines)
    (wrong,) = [x for x in lines if x["number"] == 6 and x["method"] == "input_x_gradient"]
    assert wrong["explained"] == "NEGATIVE" != wrong["predicted"]
    alone = TextClassificationExplainer(demo.model, demo.tokenizer, level="token")(
        ROWS[6][0], target=0, method="input_x_gradient"
    )
    assert wrong["scores"] == pytest.approx(alone.scores, abs=2e-5)


# What the results depend on, and what they do not depend on.


FEW = ["random", "sig", "sig:auto", "sig:sampled4"]


def again(data, folder, *options):
    done(data, folder, *OPTIONS, "--methods", ",".join(FEW), "--metrics", "log_odds", *options)
    return folder


def few(rows):
    """Keep what a run of `FEW` methods and one metric has of lines or rows, too."""
    others = {*METRICS, "p_holm"} - {"log_odds"}
    return [
        {k: v for k, v in row.items() if k not in others}
        for row in rows
        if row["method"] in FEW and row.get("metric") not in others
    ]


def test_the_same_run_gives_the_same(data, whole, tmp_path):
    again(data, tmp_path)
    assert lines_of(tmp_path) == few(lines_of(whole[0]))
    for name in ("table.csv", "paired.csv"):
        assert few(table(tmp_path, name)) == few(table(whole[0], name))


def test_results_do_not_depend_on_order_or_block_size(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "Evaluation", Evaluation)
    shuffled = write(tmp_path / "reviews.tsv", [ROWS[i] for i in (5, 2, 7, 0, 3, 6, 1, 4)])
    folder = again(shuffled, tmp_path / "o")
    for name in ("table.csv", "paired.csv"):
        for column in ("mean", "low", "high"):
            one, other = (cells(few(table(f, name)), column) for f in (whole[0], folder))
            assert one == pytest.approx(other, abs=1e-4)


def test_another_seed_changes_what_is_drawn(data, whole, tmp_path):
    one, other = few(lines_of(whole[0])), lines_of(again(data, tmp_path, "--seed", SEED + 1))
    differ = {
        (x["method"], x["baseline"])
        for x, y in zip(one, other, strict=True) if x["scores"] != y["scores"]
    }  # fmt: skip
    assert differ == {(m, b) for m in FEW for b in BASELINES} - {("sig", "mask")}


# Interrupted runs.

CUTS = (0.0, 0.001, 0.13, 0.5, 0.77, 0.999, 1.0)


@pytest.fixture(scope="module")
def quick(data, tmp_path_factory, small_blocks):
    folder = tmp_path_factory.mktemp("quick")
    done(data, folder, *QUICK, "--baselines", "mask,constant")
    return folder


def resumed(data, folder, *options):
    return run(data, folder, *QUICK, "--baselines", "mask,constant", "--resume", *options)


@pytest.mark.parametrize("share", CUTS)
def test_a_run_resumes_after_any_byte(data, quick, tmp_path, share):
    folder = tmp_path / "o"
    folder.mkdir()
    content = (quick / "examples.jsonl").read_bytes()
    (folder / "examples.jsonl").write_bytes(content[: int(share * len(content))])
    shutil.copy(quick / "plan.json", folder)
    assert resumed(data, folder).exit_code == 0
    assert same_results(folder, quick)


@pytest.mark.parametrize("name", ["examples.jsonl", "table.csv", "plan.json"])
def test_a_file_may_be_missing(data, quick, tmp_path, name):
    folder = Path(shutil.copytree(quick, tmp_path / "o"))
    (folder / name).unlink()
    result = resumed(data, folder)
    if name == "plan.json":  # the settings of the results are unknown
        assert_refused(result, "has no plan.json")
        for text in ("{", "[1]", "null"):
            (folder / name).write_text(text)
            assert_refused(resumed(data, folder), "plan.json is corrupt")
    else:
        assert same_results(folder, quick)


def test_only_whole_units_are_kept_wherever_the_file_ends(demo, quick, tmp_path):
    config = configured("random", "sig")
    examples = prepare_examples(demo, [Record(text, None) for text, _ in ROWS], "predicted")
    new = functools.partial(Evaluation, config, {"mask": demo}, examples, tmp_path, block_size=3)
    new(resume=False).explain_remaining()
    path = tmp_path / "examples.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    ends = [len(b"".join(lines[:n])) for n in (0, 3, 6, 9, 12, 14, 16)]  # 3, 3 and 2 texts
    for cut in {*range(0, len(content) + 1, 61), *ends, *[max(0, end - 1) for end in ends]}:
        path.write_bytes(content[:cut])
        left = new(resume=True)
        whole_units = max(end for end in ends if end <= cut + 1)  # the last line break may lack
        assert path.read_bytes() == content[:whole_units]
        assert len(left.lines) == content[:whole_units].count(b"\n")


def test_damaged_units_are_repeated(data, quick, tmp_path):
    folder = Path(shutil.copytree(quick, tmp_path / "o"))
    lines = (folder / "examples.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = b"\0" * 40 + b"\n"
    lines.append(lines[0])  # and one is there twice
    (folder / "examples.jsonl").write_bytes(b"".join(lines))
    assert resumed(data, folder).exit_code == 0
    assert table(folder) == table(quick)
    key = ("block", "baseline", "method", "number")
    found, wanted = (
        sorted(lines_of(one), key=lambda line: tuple(line[k] for k in key))
        for one in (folder, quick)
    )
    assert found == wanted


@pytest.mark.parametrize("calls", [0, 1, 4])
def test_a_keyboard_interrupt_inside_a_method(data, quick, tmp_path, monkeypatch, calls):
    left = [calls]

    def stops(question, method=methods.METHODS["input_x_gradient"]):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return method(question)

    with monkeypatch.context() as patch:
        patch.setitem(methods.METHODS, "input_x_gradient", stops)
        assert run(data, tmp_path / "o", *QUICK, "--baselines", "mask,constant").exit_code == 130
    assert not (tmp_path / "o" / "table.csv").exists()
    assert resumed(data, tmp_path / "o").exit_code == 0
    assert same_results(tmp_path / "o", quick)


@pytest.mark.parametrize("name", ["examples.jsonl", "table.md"])
def test_results_are_not_overwritten(data, tmp_path, name):
    (tmp_path / name).write_text("mine\n")
    assert_refused(run(data, tmp_path, *QUICK), "holds results already: resume, or use another")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine\n"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "1"], "was made with seed 0, not 1"),
        (["--top-fraction", "0.5"], "was made with --top-fraction 0.2, not 0.5"),
        (["--level", "word"], "was made with level 'token', not 'word'"),
        (["--methods", "sig"], "was made with methods "),
        (["--baselines", "pad"], "was made with baselines "),
        (["--metrics", "ablation_auc"], "was made with metrics "),
        (["--n-steps", "7"], "was made with --n-steps 50, not 7"),
        (["--n-draws", "7"], "was made with --n-draws 1, not 7"),
        (["--explain", "label"], "was made with explain "),
        (["--limit", "7"], "texts '8, "),
        (["--model", str(PATH)], "model 'demo'"),
    ],
)
def test_other_settings_are_refused(data, quick, tmp_path, options, named):
    folder = Path(shutil.copytree(quick, tmp_path / "o"))
    assert_refused(resumed(data, folder, *options), named)
    assert same_results(folder, quick)


@pytest.mark.parametrize("change", [("Dull indeed.", "negative"), ("Dull.", "1"), None])
def test_other_data_of_the_same_name_is_noticed(tmp_path, change):
    data = write(tmp_path / "d.tsv", ROWS[:3])
    done(data, tmp_path / "o", *QUICK)
    write(data, [ROWS[0], change, ROWS[2]] if change else ROWS[:2])
    result = run(data, tmp_path / "o", *QUICK, "--resume")
    assert_refused(result, "was made with texts '3, ")


def test_another_model_of_the_same_name_is_noticed(data, tmp_path):
    folder = tmp_path / "model"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(PATH)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(PATH).save_pretrained(folder)
    done(data, tmp_path / "o", *QUICK, "--model", folder)
    with torch.no_grad():
        model.classifier.bias += 0.01
    model.save_pretrained(folder)
    result = run(data, tmp_path / "o", *QUICK, "--model", folder, "--resume")
    assert_refused(result, "was made with weights")


def test_integers_of_any_kind_are_settings(data, demo, tmp_path):
    config = replace(
        configured("random"), seed=np.int64(3), n_draws=torch.tensor(2), n_steps=np.int32(5)
    )
    assert (config.seed, config.n_draws, config.n_steps) == (3, 2, 5)
    Evaluation(config, {"mask": demo}, [], tmp_path, resume=False)  # ready for JSON
    assert json.loads((tmp_path / "plan.json").read_text())["seed"] == 3


# Where words are ablated.


def pooling_the_last_token(folder, pad):
    """Save a GPT-2 whose padding is the token that replaces words."""
    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    return saved(folder, "GPT2", tokenizer, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5,
                 pad_token_id=tokenizer.eos_token_id if pad else None, **ends)  # fmt: skip


@pytest.mark.parametrize("ablation", ["replace", "remove", None])
@pytest.mark.parametrize("pad", [True, False])
def test_the_last_token_stays_the_pooled_one_when_words_are_replaced(tmp_path, pad, ablation):
    """GPT-2 pools the last token other than padding, by the ids that it receives."""
    data = write(tmp_path / "d.tsv", [("a good movie", "0"), ("bad , not good at all", "1")])
    model = pooling_the_last_token(tmp_path / "model", pad)
    options = ["--model", model, "--methods", "random", "--metrics", ",".join(METRICS)]
    options += ["--top-fraction", "0.5", "--baselines", "eos", *QUICK[4:]]
    done(data, tmp_path / "o", *options, *(["--ablation", ablation] if ablation else []))
    gpt2 = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    embed, body = gpt2.get_input_embeddings(), gpt2.transformer

    def log_p(label, ids, last):
        """Pool position `last`, by hand."""
        with torch.no_grad():
            hidden = body(inputs_embeds=embed(torch.tensor([ids]))).last_hidden_state
            return gpt2.score(hidden[0, last]).log_softmax(-1)[label].item()

    for line in lines_of(tmp_path / "o"):
        ids, label = tokenizer(line["text"])["input_ids"], int(line["explained"][-1])
        n = len(ids)
        order = sorted(range(n), key=lambda i: -line["scores"][i])  # noqa: B023

        def without(gone, remove, ids=ids, label=label):
            if remove and len(gone) < len(ids):
                rest = [x for i, x in enumerate(ids) if i not in gone]
            else:
                rest = [0 if i in gone else x for i, x in enumerate(ids)][: 1 if remove else None]
            return log_p(label, rest, len(rest) - 1)

        full, top, rest = without([], False), order[: n // 2], order[n // 2 :]
        curve = [exp(without(order[:k], ablation == "remove")) for k in range(n + 1)]
        expected = {
            "log_odds": without(top, ablation == "remove") - full,
            "comprehensiveness": exp(full) - exp(without(top, ablation != "replace")),
            "sufficiency": exp(full) - exp(without(rest, ablation != "replace")),
            "ablation_auc": (sum(curve) - (curve[0] + curve[-1]) / 2) / n,
        }
        assert {name: line[name] for name in METRICS} == pytest.approx(expected, abs=2e-5)


def test_any_layer_shows_what_replaces_a_word(demo):
    """Above the embedding, positions are part of what is replaced."""
    whole = TextClassificationExplainer(
        demo.model, demo.tokenizer, layer=demo.model.base_model.embeddings
    )
    ids = demo.tokenizer("A fine film .", return_tensors="pt")["input_ids"].expand(2, -1)
    replaced = ids.clone()
    replaced[1, 2] = demo.tokenizer.mask_token_id
    at_embedding, above = (one.log_probabilities(ids, replaced) for one in (demo, whole))
    torch.testing.assert_close(at_embedding, above)
    torch.testing.assert_close(at_embedding, demo.log_probabilities(replaced))


# Errors are one line, and leave nothing behind.


def assert_refused(result, *messages):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("captum-sig: ")
    assert result.stderr.count("\n") == 1
    for message in messages:
        assert message in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", ","], "methods must be one or several names"),
        (["--methods", "sig,sig"], "each once"),
        (["--baselines", "blurred"], "needs a masked language model"),
        (["--baselines", "eos"], "the tokenizer has no eos token: use baseline mask or pad"),
        (["--masked-lm", "./nowhere"], "there is no folder ./nowhere"),
        (["--masked-lm", str(PATH)], "wanted a model that was trained to fill in masked words"),
        (["--model", "./nowhere"], "there is no folder ./nowhere"),
        (["--model", "no-such-model"], "no-such-model cannot be loaded"),
        (["--top-fraction", "0"], "--top-fraction, of the words, must lie in (0, 1], got 0.0"),
        (["--top-fraction", "2"], "got 2.0"),
        (["--limit", "0"], "limit must be an integer of at least 1, got 0"),
        (["--text-column", "review"], "must be one of 'sentence', 'label'"),
    ],
)  # fmt: skip
def test_invalid_options(data, tmp_path, options, message):
    assert_refused(run(data, tmp_path / "o", *options), message)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("luck",)}, "metric 'luck' is unknown: use one of log_odds"),
        ({"explain": "gold"}, "explain must be 'predicted' or 'label', got 'gold'"),
        ({"ablation": ("blur",)}, "ablation 'blur' is unknown: use one of replace, remove, sample"),
        ({"ablation": "remove"}, "ablation must be a tuple of names, got 'remove'"),
        ({"ablation": ("remove", "remove")}, "ablation must be one or several names, each once"),
        ({"ablation": ("sample",)}, "ablation 'sample' draws from a masked language model"),
        ({"seed": 1.5}, "seed must be an integer of at least 0, got 1.5"),
        ({"n_draws": "5"}, "n_draws must be an integer of at least 1, got '5'"),
        ({"n_draws": np.int64(0)}, "n_draws must be an integer of at least 1, got 0"),
    ],
)
def test_invalid_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(configured("sig"), **changes)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("none.tsv", None, [], "there is no file or folder"),
        ("a.tsv", b"", [], "holds no texts"),
        ("a.tsv", b"sentence\n", [], "holds no texts"),
        ("a.tsv", b"\xff\xfe\0", [], "is UTF-16: save it as UTF-8"),
        ("a.xlsx", b"", [], "convert or rename it"),
        ("a.jsonl", b"{", [], "line 1: not valid JSON at character 2"),
        ("a.parquet", b"x", [], "cannot be read as Parquet"),
        ("a.tsv", b"sentence\nFine.\n", ["--explain", "label"], "record 0 has no label to explain"),
        ("a.tsv", b"text\tlabel\nFine.\t1\nBad.\thappy\n", [],
         "record 1 has label 'happy', which the model does not know: its labels are NEGATIVE (0), "
         "POSITIVE (1)"),
        ("a.jsonl", b'{"text": ""}\n{"text": "  "}\n', [], "no text of"),
    ],
)  # fmt: skip
def test_invalid_data(tmp_path, name, content, options, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(run(tmp_path / name, tmp_path / "o", *QUICK, *options), message)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("below", ["", "below"])
def test_an_output_that_is_a_file(data, tmp_path, below):
    (tmp_path / "file").write_text("mine")
    result = run(data, tmp_path / "file" / below, *QUICK)
    assert_refused(result, "is a file: name a folder")
    assert (tmp_path / "file").read_text() == "mine"


SHAPE = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16, "max_position_embeddings": 40, "num_labels": 2}  # fmt: skip


def saved(folder, kind, tokenizer, task="SequenceClassification", **changes):
    """Save a random model and a tokenizer in a folder."""
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **changes})
    getattr(transformers, f"AutoModelFor{task}").from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def simple(tmp_path):
    return write(tmp_path / "simple.tsv", [("a good movie", "0"), ("bad , not good", "1")])


def test_a_regression_model_has_no_labels(tmp_path):
    data = write(tmp_path / "d.jsonl", [])
    data.write_text('{"text": "a good movie"}\n')
    model = saved(tmp_path / "model", "Bert", wordpiece_tokenizer(), num_labels=1)
    refused = run(data, tmp_path / "o", "--model", model)
    assert_refused(refused, "the model predicts a quantity, not probabilities")
    assert not (tmp_path / "o").exists()


def test_a_model_without_a_mask_token_falls_back_with_one_warning(simple, tmp_path):
    model = saved(tmp_path / "model", "GPT2", byte_level_tokenizer(), n_embd=16, n_layer=1,
                  n_head=2, pad_token_id=0)  # fmt: skip
    result = done(simple, tmp_path / "o", *QUICK, "--model", model, "--baselines", "mask,eos")
    assert result.stderr.count("\n") == 1
    assert "warning: the tokenizer has no mask token: its unk token" in result.stderr
    refused = run(simple, tmp_path / "p", "--model", model, "--baselines", "mask,pad")
    assert refused.exit_code == 2
    assert "the tokenizer has no pad token: use baseline unk or eos" in refused.stderr
    assert not (tmp_path / "p").exists()


def test_a_masked_lm_of_another_vocabulary(data, tmp_path):
    lm = saved(tmp_path / "lm", "Bert", wordpiece_tokenizer(), "MaskedLM")
    result = run(data, tmp_path / "o", *QUICK, "--baselines", "blurred", "--masked-lm", lm)
    assert_refused(result, "another vocabulary, of 300 tokens; wanted the tokenizer's 8000")
    assert not (tmp_path / "o").exists()


def test_a_method_that_cannot_follow_the_model(simple, tmp_path):
    """The layers of ALBERT share one ReLU, which DeepLift rejects."""
    model = saved(tmp_path / "model", "Albert", wordpiece_tokenizer(), hidden_act="relu",
                  num_hidden_layers=2)  # fmt: skip
    options = ["--model", model, "--methods", "deep_lift", "--metrics", "log_odds"]
    result = run(simple, tmp_path / "o", *options)
    assert_refused(result, "DeepLift cannot follow Albert", "use another method")
    assert not (tmp_path / "o" / "table.csv").exists()
    done(simple, tmp_path / "o", "--model", model, "--methods", "sig")  # nothing is in the way


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_model(data, tmp_path, file):
    folder = saved(tmp_path / "model", "Bert", wordpiece_tokenizer())
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    assert_refused(run(data, tmp_path / "o", "--model", folder), "cannot be loaded: ")
    assert not (tmp_path / "o").exists()


def test_dig_needs_an_embedding():
    bert = tiny("bert")
    with pytest.raises(ValueError, match="Linear"):
        LayerDiscretizedIntegratedGradients(bert.logits, bert.model.classifier)


# Texts and labels in every form.


@pytest.fixture(scope="module")
def of_four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    done(write(folder / "d.tsv", ROWS[:4]), folder / "o", *QUICK)
    return folder / "o"


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "json", "parquet", "folder"])
def test_all_formats_give_the_same(of_four, tmp_path, ending):
    path = tmp_path / f"d.{ending}"
    columns = {"sentence": [t for t, _ in ROWS[:4]], "label": [label for _, label in ROWS[:4]]}
    objects = [{"sentence": text, "label": label} for text, label in ROWS[:4]]
    if ending == "tsv":
        write(path, ROWS[:4], end="\r\n")
    elif ending == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *ROWS[:4]])
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    elif ending == "json":
        path.write_text(json.dumps(objects))
    elif ending == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    else:
        pytest.importorskip("datasets").Dataset.from_dict(columns).save_to_disk(path)
    done(path, tmp_path / "o", *QUICK)
    assert same_results(tmp_path / "o", of_four)


@pytest.mark.parametrize("label", ["POSITIVE", "positive", 1, "1", 1.0, None])
def test_a_label_by_name_or_number(tmp_path, label):
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"text": "A warm and lovely film.", "label": label}))
    result = done(data, tmp_path / "o", *QUICK)
    expected = None if label is None else "POSITIVE"
    assert {line["label"] for line in lines_of(tmp_path / "o")} == {expected}
    assert ("predicts the label of 100.0%" in result.stdout) == (label is not None)


def test_one_text(tmp_path):
    done(write(tmp_path / "d.tsv", ROWS[:1]), tmp_path / "o", *QUICK)
    for row in table(tmp_path / "o") + table(tmp_path / "o", "paired.csv"):
        assert row["mean"] == row["low"] == row["high"]
        assert row["n"] == "1"


def test_the_limit_takes_the_first(data, tmp_path, of_four):
    done(data, tmp_path / "o", *QUICK, "--limit", "4")
    assert same_results(tmp_path / "o", of_four)


def test_texts_without_a_word_are_counted(tmp_path, of_four):
    data = tmp_path / "d.jsonl"
    texts = ["", *[text for text, _ in ROWS[:2]], " \t", "[SEP]", *[t for t, _ in ROWS[2:4]]]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = done(data, tmp_path / "o", *QUICK)
    assert "Texts omitted: 2 empty, 1 without a word." in result.stdout
    assert {line["number"] for line in lines_of(tmp_path / "o")} == {1, 2, 5, 6}
    assert table(tmp_path / "o") == table(of_four)


def test_a_text_without_a_token_is_left_out():
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    model = tiny("bert", torch.float32).model
    explainer = TextClassificationExplainer(model, tokenizer, level="token")
    records = [Record("\u200b", None), Record("a good movie", None), Record("", None)]
    assert [example.number for example in prepare_examples(explainer, records, "predicted")] == [1]


def test_a_text_that_is_too_long_is_cut_with_one_warning(tmp_path):
    data = write(tmp_path / "d.tsv", [("good film " * 100, "1"), *ROWS[:3]])
    result = done(data, tmp_path / "o", *QUICK, "--baselines", "mask,constant")
    assert result.stderr.count("\n") == 1
    warning = "captum-sig: warning: 1 of 4 texts exceed the model's context of 128"
    assert result.stderr.startswith(warning)
    for line in lines_of(tmp_path / "o"):
        expected = ["good", "film"] * 63 if line["number"] == 0 else line["words"]
        assert line["words"] == expected
        assert len(line["scores"]) == len(line["words"])


def test_a_repeated_text(tmp_path):
    done(write(tmp_path / "d.tsv", [*ROWS[:2], ROWS[0]]), tmp_path / "o", *QUICK)
    lines = {(line["number"], line["method"]): line for line in lines_of(tmp_path / "o")}
    assert len(lines) == 6
    for method in ("random", "input_x_gradient"):
        assert lines[0, method]["scores"] == pytest.approx(lines[2, method]["scores"], abs=1e-5)


def test_many_short_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "Evaluation", Evaluation)
    data = write(tmp_path / "d.tsv", [(f"Film {i} is fun.", "1") for i in range(200)])
    done(data, tmp_path / "o", "--methods", "random", "--metrics", "log_odds")
    lines = lines_of(tmp_path / "o")
    assert sorted(line["number"] for line in lines) == list(range(200))
    assert len({tuple(line["scores"]) for line in lines}) == 200
    assert (tmp_path / "o" / "paired.csv").read_text() == ",".join(PAIRED_COLUMNS) + "\n"


# Failures during a run, and its progress bar.


def test_a_score_that_is_not_finite_names_the_text(data, tmp_path, monkeypatch, demo):
    (rare,) = demo.tokenizer("tears", add_special_tokens=False)["input_ids"]

    def fails(question, method=methods.METHODS["input_x_gradient"]):
        found = method(question)
        found.values[(question.inputs["input_ids"] == rare).any(1)] = torch.nan
        return found

    with monkeypatch.context() as patch:
        patch.setitem(methods.METHODS, "input_x_gradient", fails)
        result = run(data, tmp_path / "o", *QUICK)
    assert_refused(result, "not finite for record 3, ", "input_x_gradient", "leave the record out")
    assert not (tmp_path / "o" / "table.csv").exists()
    done(data, tmp_path / "o", *QUICK, "--resume")


def test_a_metric_that_is_not_finite_names_the_text(demo, tmp_path, monkeypatch):
    records = [Record("A fine film.", None), Record("Dull.", None)]
    examples = prepare_examples(demo, records, "predicted")
    infinite = lambda *args, **options: torch.tensor([-torch.inf, 0.0])  # noqa: E731
    metric = replace(evaluation.METRICS["log_odds"], function=infinite)
    monkeypatch.setitem(evaluation.METRICS, "log_odds", metric)
    run = Evaluation(configured("random"), {"mask": demo}, examples, tmp_path, resume=False)
    message = r"model's log_odds is not finite for record 1, with words ablated \(random\)"
    with pytest.raises(FloatingPointError, match=message):
        run.explain_remaining()
    assert (tmp_path / "examples.jsonl").read_text() == ""


def test_a_model_that_is_not_finite_names_the_text(tmp_path, demo):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(PATH)
    with torch.no_grad():
        model.get_input_embeddings().weight[demo.tokenizer("dull")["input_ids"][1]] = torch.nan
    explainer = TextClassificationExplainer(model, demo.tokenizer)
    records = [Record("", None), *[Record(text, label) for text, label in ROWS]]
    with pytest.raises(FloatingPointError, match="not finite for record 2, the unchanged input"):
        prepare_examples(explainer, records, "predicted")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_goes_to_terminals_only(demo, tmp_path, monkeypatch, stream, wanted):
    examples = prepare_examples(demo, [Record("A fine film.", None)], "predicted")
    monkeypatch.setattr(sys, "stderr", stream())
    run = Evaluation(configured("random"), {"mask": demo}, examples, tmp_path, resume=False)
    run.explain_remaining(progress=wanted)
    shown = sys.stderr.getvalue()
    assert ("random, mask" in shown) == (wanted and stream is Terminal)
    assert wanted or shown == ""


def test_invalid_lines_are_dropped(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text('{}\n[]\n3\n{"block": 0, "baseline": "mask"\n', encoding="utf-8")
    assert evaluation._read_units(path) == {}

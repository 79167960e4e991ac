"""Planted models: learned, checked, explained, resumed; the user's model stays as it is."""

import copy
import csv
import json
import shutil
from dataclasses import replace
from functools import partial
from statistics import fmean

import pytest
import torch
import transformers

from captum_sig import TextClassificationExplainer
from captum_sig.data.records import Record
from captum_sig.faithfulness import planted
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.evaluation import Evaluation
from captum_sig.faithfulness.examples import prepare_examples
from captum_sig.faithfulness.planted import METRICS, PlantedConfig, PlantedEvaluation
from captum_sig.faithfulness.planted_models import Training, planted_copy, predictions, reliance
from captum_sig.faithfulness.planted_texts import plantable_texts
from captum_sig.faithfulness.shortcuts import SHORTCUTS
from tests import tiny_planted
from tests.tiny_models import LSTMClassifier
from tests.tiny_pairs import byte_level

NAMES = ("single_token", "or")


def configured(shortcuts=NAMES, max_steps=600, **changes):
    evaluation = EvaluationConfig(
        data="d", model="m", masked_lm=None, methods=("sig", "random", "sig:two_sided"),
        baselines=("mask",), metrics=METRICS, top_fraction=0.2, level="token", explain="predicted",
        n_steps=5, n_draws=1, seed=0,
    )  # fmt: skip
    return PlantedConfig(
        replace(evaluation, **changes), shortcuts, n_texts=20, training=Training(max_steps)
    )


def table(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def is_of(line, row):
    return line["method"] == row["method"]


def with_labels(label):
    records = [replace(record, label=label) for record in tiny_planted.records()]
    return tiny_planted.explainer(), records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two shortcuts: its folder, its explainer, and the evaluation."""
    folder, explainer = tmp_path_factory.mktemp("planted"), tiny_planted.explainer()
    run = PlantedEvaluation(configured(), explainer, tiny_planted.records(), folder)
    run.measure_remaining()
    run.write_tables()
    return folder, explainer, run


def test_the_models_rely_on_the_planted_words(finished):
    folder, _, run = finished
    for name, measured in run.reliance.items():
        assert measured.followed >= 0.95, name
        assert measured.unmoved >= 0.85, name
        assert measured.steps < 600
    rows = table(folder / "reliance.csv")
    assert [(row["shortcut"], row["learned"]) for row in rows] == [(n, "True") for n in NAMES]
    assert "a " in rows[0]["words"]
    assert (folder / "reliance.md").read_text(encoding="utf-8").count("\n") == 4


def test_rows_are_the_means_of_the_examples(finished):
    folder, _, run = finished
    rows = table(folder / "planted.csv")
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        text = (folder / row["shortcut"] / "examples.jsonl").read_text(encoding="utf-8")
        lines = [
            line for line in map(json.loads, text.splitlines()) if line["method"] == row["method"]
        ]
        assert len(lines) == int(row["n"]) == 20
        assert fmean(line[row["metric"]] for line in lines) == pytest.approx(float(row["mean"]))
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        words = set(run.planting(row["shortcut"]).words.values())
        for line in lines:
            k = sum(word in words for word in line["words"])
            assert k == (1 if row["shortcut"] == "single_token" else 2)
            assert line["label"] == line["predicted"] == line["explained"]
            if row["metric"] == "precision_at_k":
                ranked = sorted(
                    zip(line["scores"], line["words"], strict=True), key=lambda x: -x[0]
                )
                hits = sum(word in words for _, word in ranked[:k])
                assert line["precision_at_k"] == pytest.approx(hits / k)


def test_a_token_is_found_and_chance_is_not(finished):
    folder, *_ = finished
    found = {
        (row["shortcut"], row["method"]): float(row["mean"])
        for row in table(folder / "planted.csv")
        if row["metric"] == "precision_at_k"
    }
    assert found["single_token", "sig"] > 0.9
    assert found["single_token", "random"] < 0.5


def test_a_finished_run_is_not_trained_again(finished, monkeypatch):
    folder, explainer, run = finished
    monkeypatch.setattr(planted, "planted_copy", None)
    again = PlantedEvaluation(configured(), explainer, tiny_planted.records(), folder, resume=True)
    again.measure_remaining()
    assert again.write_tables() == run.write_tables()
    for changed, records in (
        (configured(n_draws=2), tiny_planted.records()),
        (configured(), tiny_planted.records(159)),
    ):
        with pytest.raises(ValueError, match="was made with"):
            PlantedEvaluation(changed, explainer, records, folder, resume=True)
    with pytest.raises(ValueError, match="holds results already: resume"):
        PlantedEvaluation(configured(), explainer, tiny_planted.records(), folder)


def test_shortcuts_are_added_to_a_run(finished, monkeypatch):
    folder, explainer, run = finished
    monkeypatch.setattr(planted, "planted_copy", None)
    one = PlantedEvaluation(
        configured(("or",)), explainer, tiny_planted.records(), folder, resume=True
    )
    one.measure_remaining()
    assert one.write_tables() == [row for row in run.write_tables() if row["shortcut"] == "or"]
    run.write_tables()  # as before


def test_an_interrupted_run_begins_its_shortcut_anew(tmp_path, monkeypatch):
    explainer, records = tiny_planted.explainer(), tiny_planted.records()
    config = replace(configured(("single_token",), 30), min_followed=0.0, min_unmoved=0.0)
    explained = planted.Evaluation.explain_remaining

    def interrupted(run, **options):
        explained(run, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(planted.Evaluation, "explain_remaining", interrupted)
        with pytest.raises(KeyboardInterrupt):
            PlantedEvaluation(config, explainer, records, tmp_path / "a").measure_remaining()
    for folder in (tmp_path / "a", tmp_path / "b"):
        run = PlantedEvaluation(config, explainer, records, folder, resume=True)
        run.measure_remaining()
        run.write_tables()
    first, second = (table(tmp_path / x / "planted.csv") for x in "ab")
    drop = "seconds_per_example"
    assert [{**row, drop: 0} for row in first] == [{**row, drop: 0} for row in second]


def test_a_model_that_did_not_learn_is_told_and_left_out(tmp_path):
    run = PlantedEvaluation(
        configured(("or",), 2), tiny_planted.explainer(), tiny_planted.records(), tmp_path
    )
    message = (
        r"shortcut or is left out: after 2 steps the planted model follows it in \d+% of \d+ "
        r"held-out texts, wanted 95%; give more texts, or raise max_steps"
    )
    with pytest.warns(UserWarning, match=message):
        run.measure_remaining()
    with pytest.raises(ValueError, match="no planted model has learned its shortcut"):
        run.write_tables()
    (row,) = table(tmp_path / "reliance.csv")
    assert row["learned"] == "False"
    assert not (tmp_path / "planted.csv").exists()
    assert not (tmp_path / "or" / "table.csv").exists()


def test_a_model_that_follows_distractors_is_left_out(tmp_path):
    config = replace(configured(("single_token",), 400), min_unmoved=1.0)
    run = PlantedEvaluation(config, tiny_planted.explainer(), tiny_planted.records(), tmp_path)
    run.done["single_token"] = {
        "reliance": {"followed": 1.0, "unmoved": 0.5, "accuracy": 1.0, "accuracy_before": 1.0,
                     "n": 48, "steps": 9},
        "rows": [],
    }  # fmt: skip
    with pytest.warns(UserWarning, match="keeps its prediction in 50% of 48 held-out texts with a"):
        run.measure_remaining()


@pytest.mark.parametrize("is_training", [True, False])
def test_the_users_model_and_all_settings_stay_as_they_are(is_training):
    explainer = tiny_planted.explainer()
    model = explainer.model.train(is_training)
    model.classifier.weight.requires_grad_(False)
    before, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    texts = plantable_texts(explainer, tiny_planted.records(), seed=0)
    planting, random_state = texts.planting(SHORTCUTS["and"], seed=0), torch.get_rng_state()
    with torch.no_grad():
        made, steps = planted_copy(explainer, planting, texts.training, Training(3))
        assert not torch.is_grad_enabled()
    assert steps == 3
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training == is_training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in [*model.parameters(), *made.parameters()])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not torch.equal(made.classifier.weight, model.classifier.weight)
    assert not made.training
    torch.manual_seed(7)  # the global state plays no part
    again, _ = planted_copy(explainer, planting, texts.training, Training(3))
    for name, value in made.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_half_precision_is_trained_in_single_precision():
    explainer = tiny_planted.explainer()
    explainer.model.half()
    texts = plantable_texts(explainer, tiny_planted.records(), seed=0)
    planting = texts.planting(SHORTCUTS["or"], seed=0)
    made, _ = planted_copy(explainer, planting, texts.training, Training(1))
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert {p.dtype for p in explainer.model.parameters()} == {torch.float16}


def test_reliance_against_a_plain_loop():
    explainer = tiny_planted.explainer()
    texts = plantable_texts(explainer, tiny_planted.records(), seed=0)
    planting = texts.planting(SHORTCUTS["and"], seed=0)
    made, steps = planted_copy(explainer, planting, texts.training, Training(60))
    measured = reliance(explainer, made, planting, texts, steps)

    def label(model, text):
        return int(model(**explainer.tokenizer(text, return_tensors="pt")).logits.argmax())

    with torch.no_grad():
        without = [label(made, one.record.text) for one in texts.held_out]
        planted_texts = [planting.against_own_label(one) for one in texts.held_out]
        followed = [label(made, one.record.text) == one.label for one in planted_texts]
        unmoved = [
            fmean(
                label(made, planting.planted(one, pattern).record.text) == said
                for one, said in zip(texts.held_out, without, strict=True)
            )
            for pattern in SHORTCUTS["and"].distractors
        ]
        before = [label(explainer.model, x.record.text) == x.label for x in texts.held_out]
    assert measured.followed == pytest.approx(fmean(followed))
    assert measured.unmoved == pytest.approx(min(unmoved))
    assert measured.accuracy_before == pytest.approx(fmean(before))
    right = [said == one.label for said, one in zip(without, texts.held_out, strict=True)]
    assert measured.accuracy == pytest.approx(fmean(right))
    assert predictions(explainer, made, texts.held_out).tolist() == without


def test_three_labels_and_pairs(tmp_path):
    explainer = tiny_planted.explainer(n_labels=3)
    records = [replace(x, text_pair="we saw it") for x in tiny_planted.records(n_labels=3)]
    config = replace(configured(("and",), 20), min_followed=0.0, min_unmoved=0.0)
    run = PlantedEvaluation(config, explainer, records, tmp_path)
    run.measure_remaining()
    run.write_tables()
    text = (tmp_path / "and" / "examples.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    said = {explainer.labels[side] for side in run.texts.sides}
    assert lines
    assert {line["label"] for line in lines} <= said
    assert {line["text_pair"] for line in lines} == {"we saw it"}
    assert {len(line["words"]) for line in lines} == {6 + 2 + 3}


def test_a_byte_level_tokenizer(tmp_path):
    tokenizer = byte_level()
    tokenizer.model_max_length = 100
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=110, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = transformers.RobertaForSequenceClassification(config).eval()
    explainer = TextClassificationExplainer(model, tokenizer, level="word")
    settings = replace(
        configured(("negation",), 20, level="word"), min_followed=0.0, min_unmoved=0.0
    )
    run = PlantedEvaluation(settings, explainer, tiny_planted.records(), tmp_path)
    run.measure_remaining()
    run.write_tables()
    text = (tmp_path / "negation" / "examples.jsonl").read_text(encoding="utf-8")
    words = set(run.planting("negation").words.values())
    for line in map(json.loads, text.splitlines()):
        assert len(words & set(line["words"])) == 2
        assert len(line["words"]) == 6 + 2


def made_with(**changes):
    return tiny_planted.explainer(**changes), tiny_planted.records()


def without_pad():
    explainer, records = made_with()
    explainer.model.config.pad_token_id = None
    return explainer, records


def of_a_module():
    model = LSTMClassifier()
    explainer = TextClassificationExplainer(
        model, tiny_planted.tokenizer(), labels=["no", "yes"], level="token",
        forward=lambda input_ids, attention_mask: model(input_ids, attention_mask),
    )  # fmt: skip
    return explainer, tiny_planted.records()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made_with(problem_type="multi_label_classification"), "do not exclude each other"),
        (lambda: made_with(problem_type="regression"), "the model predicts a quantity"),
        (without_pad, "config has no pad_token_id"),
        (of_a_module, "LSTMClassifier is a module of your own"),
        (lambda: (tiny_planted.explainer(), tiny_planted.records(99)), "has 99 texts with a label"),
        (
            lambda: with_labels(None),
            "has 0 texts with a label and at least 3 words; planting takes 100: pass more texts",
        ),
        (lambda: with_labels("1"), "all texts have the label 'POSITIVE'; planting takes texts of"),
        (lambda: with_labels("7"), "record 0 has label '7', which the model does not know"),
        (
            lambda: (
                TextClassificationExplainer(tiny_planted.model(), tiny_planted.tokenizer(14)),
                tiny_planted.records(),
            ),
            "the model reads at most 14 tokens, and planting takes 12 beside the text",
        ),
    ],
)  # fmt: skip
def test_models_and_texts_that_do_not_serve(make, message, tmp_path):
    explainer, records = make()
    with pytest.raises(ValueError, match=message):
        PlantedEvaluation(configured(), explainer, records, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shortcuts": ("ore",)}, "shortcut 'ore' is unknown (did you mean 'or'?)"),
        ({"shortcuts": ()}, "shortcuts must be one or several names"),
        ({"shortcuts": ("or", "or")}, "each once"),
        ({"level": "sentence"}, "level 'sentence' joins planted words"),
        ({"max_steps": 0}, "max_steps must be an integer of at least 1"),
    ],
)
def test_settings_that_do_not_serve(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared below
        configured(**changes)
    assert message in str(caught.value)


def test_a_learning_rate_below_zero():
    with pytest.raises(ValueError, match="learning_rate must be above 0, got -1"):
        Training(learning_rate=-1)


def test_a_model_in_train_mode_is_judged_without_its_dropout():
    explainer, records = tiny_planted.explainer(hidden_dropout_prob=0.5), tiny_planted.records()
    texts = plantable_texts(explainer, records, seed=0)
    planting = texts.planting(SHORTCUTS["or"], seed=0)
    expected = reliance(explainer, explainer.model, planting, texts, steps=0).accuracy_before
    explainer.model.train()
    state = torch.get_rng_state()
    measured = reliance(explainer, copy.deepcopy(explainer.model).eval(), planting, texts, steps=0)
    assert measured.accuracy_before == expected
    assert explainer.model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_equal_texts_stay_together_and_are_too_few():
    text = tiny_planted.records()[0].text
    records = [Record(text, str(number % 2)) for number in range(120)]
    with pytest.raises(ValueError, match="planting takes 10 of each: pass more different texts"):
        plantable_texts(tiny_planted.explainer(), records, seed=0)


def test_a_planted_and_an_ordinary_run_leave_each_others_settings(finished, tmp_path):
    folder, explainer, run = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    examples = prepare_examples(explainer, tiny_planted.records()[:4], "predicted")
    config = replace(run.config.evaluation, metrics=("log_odds",))
    ordinary = partial(Evaluation, config, {"mask": explainer}, examples, tmp_path)
    ordinary(resume=False).explain_remaining()
    records = tiny_planted.records()
    assert PlantedEvaluation(run.config, explainer, records, tmp_path, resume=True).done == run.done
    assert len(ordinary(resume=True).lines) == 3 * 4

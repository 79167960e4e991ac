"""Faithfulness of pairs of texts and of labels that exclude no others: against plain loops."""

import csv
import json
from math import exp
from statistics import fmean

import pytest
import torch
from typer.testing import CliRunner

from captum_sig import TextClassificationExplainer
from captum_sig.cli.main import app
from captum_sig.data.records import Record
from captum_sig.faithfulness import METRICS, Sentence, comprehensiveness, log_odds
from captum_sig.faithfulness.examples import accuracy, prepare_examples
from tests.tiny_models import CLS, MASK, SEP, bert
from tests.tiny_tasks import LABELS, encoded, multi_label, pair_tokenizer

PAIRS = [("the movie is good", "not bad"), ("a mess", "bad , bad !"), ("good", "good movie")]
TEXTS = ["the movie is not good", "a gorgeous mess !", "bad", "movie , not movie"]


def plain_log_p(model, inputs, positions=None, masked=()):
    """Log-probabilities of some positions of a text, or of all with some of them masked."""
    ids, types = inputs["input_ids"].clone(), inputs["token_type_ids"]
    ids[0, list(masked)] = MASK
    kept = list(range(ids.shape[1])) if positions is None else positions
    with torch.no_grad():
        logits = model(input_ids=ids[:, kept], token_type_ids=types[:, kept]).logits[0]
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid().log()
    return logits.log_softmax(-1)


def plain_metrics(model, inputs, scores, target, k):
    """All metrics of one text of one-token words, the special tokens kept."""
    ids = inputs["input_ids"][0].tolist()
    words = [n for n, token in enumerate(ids) if token not in (CLS, SEP)]
    order = [words[i] for i in sorted(range(len(words)), key=lambda i: -scores[i])]
    top = order[: max(1, int(k * len(words)))]

    def log_p(**changes):
        return plain_log_p(model, inputs, **changes)[target].item()

    full = log_p()
    without = [n for n in range(len(ids)) if n not in top]
    only = [n for n in range(len(ids)) if n not in words or n in top]
    curve = [exp(log_p(masked=order[:j])) for j in range(len(words) + 1)]
    return {
        "log_odds": log_p(masked=top) - full,
        "comprehensiveness": exp(full) - exp(log_p(positions=without)),
        "sufficiency": exp(full) - exp(log_p(positions=only)),
        "ablation_auc": fmean((a + b) / 2 for a, b in zip(curve, curve[1:], strict=False)),
    }


@pytest.mark.parametrize("make", [bert, multi_label])
@pytest.mark.parametrize("k", [0.3, 1.0])
def test_metrics_of_pairs_keep_separators_and_token_types(make, k):
    explainer = TextClassificationExplainer(make(), pair_tokenizer())
    sentences = explainer.sentences(PAIRS, [2, 1, 0])
    results = explainer(PAIRS, [2, 1, 0])
    scores = [result.scores for result in results]
    for name in ("log_odds", "comprehensiveness", "sufficiency", "ablation_auc"):
        values = METRICS[name](explainer.log_probabilities, sentences, scores, k).tolist()
        for pair, target, of_words, value in zip(PAIRS, [2, 1, 0], scores, values, strict=True):
            inputs = encoded(explainer.tokenizer, *pair)
            expected = plain_metrics(explainer.model, inputs, of_words, target, k)
            assert value == pytest.approx(expected[name], abs=2e-6)


def test_a_removed_side_leaves_its_separators():
    """All words of the second text are removed: [CLS] … [SEP] [SEP] with types 0 … 0 1."""
    seen = []

    def predict(ids, inputs):
        seen.append((ids.tolist(), {name: tensor.tolist() for name, tensor in inputs.items()}))
        return torch.zeros(len(ids), 1)

    (sentence,) = TextClassificationExplainer(bert(), pair_tokenizer()).sentences(PAIRS[:1], [0])
    comprehensiveness(predict, [sentence], [[0, 0, 0, 0, 1, 1]], 0.4, original=[0.0])
    ((ids,), inputs) = seen[0]
    assert ids == sentence.ids.tolist()[:6] + [SEP]
    assert inputs["token_type_ids"] == [[0] * 6 + [1]]
    assert inputs["attention_mask"] == [[1] * 7]


def test_a_function_of_ids_alone_gets_ids_alone():
    (sentence,) = TextClassificationExplainer(bert(), pair_tokenizer()).sentences(PAIRS[:1], [0])
    assert set(sentence.inputs) == {"token_type_ids", "attention_mask"}

    def predict(ids):
        return torch.stack([(ids == MASK).sum(1) * -1.0, ids.sum(1) * 0.0 - 1], 1)

    assert log_odds(predict, [sentence], [range(6)], 0.4).tolist() == [-2.0]


def test_inputs_must_fit_the_ids():
    one = torch.tensor([3])
    with pytest.raises(ValueError, match=r"token_type_ids has shape \(2,\); wanted \(1,\)"):
        Sentence(one, one * 0, 0, 0, {"token_type_ids": torch.tensor([0, 1])})


def test_labels_that_exclude_no_others_are_examples_of_their_own():
    explainer = TextClassificationExplainer(multi_label(), pair_tokenizer())
    records = [Record(text, None) for text in TEXTS]
    examples = prepare_examples(explainer, records, "predicted")
    for number, text in enumerate(TEXTS):
        log_p = plain_log_p(explainer.model, encoded(explainer.tokenizer, text))
        likely = [i for i, value in enumerate(log_p.exp().tolist()) if value > 0.5]
        mine = [example for example in examples if example.number == number]
        assert [example.sentence.target for example in mine] == likely
        for example in mine:
            assert example.predicted == tuple(LABELS[i] for i in likely)
            expected = log_p[example.sentence.target].item()
            assert example.log_probability == pytest.approx(expected, abs=1e-6)
    labels = [("emotion 3", "1"), "emotion 2", "2,emotion 5; 7", ()]
    records = [Record(text, label) for text, label in zip(TEXTS, labels, strict=True)]
    examples = prepare_examples(explainer, records, "label")
    found = [[x.sentence.target for x in examples if x.number == n] for n in range(4)]
    assert found == [[1, 3], [2], [2, 5, 7], []]
    assert accuracy(examples) == 0.0
    with pytest.raises(ValueError, match=r"record 0 has label '1,nothing', which the model does"):
        prepare_examples(explainer, [Record("bad", "1,nothing")], "label")
    one = TextClassificationExplainer(bert(), pair_tokenizer())
    with pytest.raises(ValueError, match="record 0 has 2 labels, and the model predicts one"):
        prepare_examples(one, [Record("bad", ("neutral", "0"))], "label")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, model in (("emotions", multi_label(6)), ("pairs", bert())):
        model.float().save_pretrained(root / name)
        pair_tokenizer().save_pretrained(root / name)
    rows = [{"text": text, "label": ["emotion 1", "emotion 4"][: 1 + n % 2]}
            for n, text in enumerate(TEXTS)]  # fmt: skip
    (root / "emotions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"premise": a, "hypothesis": b, "label": 1} for a, b in [*PAIRS, ("a", "")]]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def evaluated(folder, name, output, *options):
    arguments = ["evaluate", str(folder / f"{name}.jsonl"), "--output", str(output), "--model",
                 str(folder / name), "--top-fraction", "0.4", *options]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--methods", "sig,random"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (output / "examples.jsonl").read_text().splitlines()]
    table = list(csv.DictReader((output / "table.csv").read_text().splitlines()))
    return result.stdout, lines, table


def test_a_text_with_several_labels_counts_once(folder, tmp_path):
    printed, lines, table = evaluated(
        folder, "emotions", tmp_path / "out", "--explain", "label", "--metrics", "log_odds"
    )
    explainer = TextClassificationExplainer.from_pretrained(folder / "emotions", level="token")
    assert len(lines) == 2 * 6
    values: dict[str, dict[int, list[float]]] = {"sig": {}, "random": {}}
    for line in lines:
        inputs = encoded(explainer.tokenizer, line["text"])
        target = explainer.labels.index(line["explained"])
        expected = plain_metrics(explainer.model, inputs, line["scores"], target, 0.4)["log_odds"]
        assert line["log_odds"] == pytest.approx(expected, abs=2e-5)
        assert line["label"] == ["emotion 1", "emotion 4"][: 1 + line["number"] % 2]
        values[line["method"]].setdefault(line["number"], []).append(line["log_odds"])
        if line["method"] == "sig":
            alone = explainer(line["text"], line["explained"])
            assert line["scores"] == pytest.approx(alone.scores, abs=2e-5)
    for row in table:
        means = [fmean(of_text) for of_text in values[row["method"]].values()]
        assert (float(row["mean"]), row["n"]) == (pytest.approx(fmean(means)), "4")
    assert "Means of 4 texts" in printed
    # an interrupted run resumes to the same lines
    path = tmp_path / "out" / "examples.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    _, again, _ = evaluated(
        folder, "emotions", tmp_path / "out", "--explain", "label", "--metrics", "log_odds",
        "--resume",
    )  # fmt: skip
    assert [one["log_odds"] for one in again] == [one["log_odds"] for one in lines]


def test_pairs_in_two_columns(folder, tmp_path):
    columns = ["--text-column", "premise", "--pair-column", "hypothesis"]
    printed, lines, _ = evaluated(folder, "pairs", tmp_path / "out", *columns)
    assert "1 empty" in printed
    model = TextClassificationExplainer.from_pretrained(folder / "pairs")
    assert len(lines) == 2 * len(PAIRS)
    for line in lines:
        pair = line["text"], line["text_pair"]
        assert pair == PAIRS[line["number"]]
        target = model.labels.index(line["explained"])
        inputs = encoded(model.tokenizer, *pair)
        expected = plain_metrics(model.model, inputs, line["scores"], target, 0.4)
        for name in ("log_odds", "comprehensiveness", "sufficiency"):
            assert line[name] == pytest.approx(expected[name], abs=2e-5)

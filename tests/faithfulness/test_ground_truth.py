"""Metrics of scores against words that are known to matter."""

import json
from itertools import permutations, product
from types import SimpleNamespace

import pytest
import torch

from captum_sig.data.records import Record
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.evaluation import Evaluation
from captum_sig.faithfulness.examples import prepare_examples
from captum_sig.faithfulness.ground_truth import (
    TRUTH_METRICS,
    auprc,
    iou,
    mean_rank,
    precision_at_k,
    token_f1,
    true_words,
)

TEXTS = ["The plot is thin, but superb acting saves it.", "Dull.", "A warm and funny story."]
SPANS = [((4, 8), (22, 28)), (), None]
CONFIG = EvaluationConfig(
    data="d", model="m", masked_lm=None, methods=("random", "sig"), baselines=("mask",),
    metrics=("precision_at_k", "log_odds", "mean_rank"), top_fraction=0.2, level="word",
    explain="predicted", n_steps=5, n_draws=1, seed=0,
)  # fmt: skip


@pytest.mark.parametrize("truth", [(True, False, False), (True, True, False), (True, True, True)])
def test_every_order_of_three_words(truth):
    for order in permutations((1.0, 2.0, 3.0)):
        ranks = [sum(other >= score for other in order) for score in order]
        true_ranks = [rank for rank, is_true in zip(ranks, truth, strict=True) if is_true]
        k = sum(truth)
        scores, mask = torch.tensor(order), torch.tensor(truth)
        assert precision_at_k(scores, mask) == sum(rank <= k for rank in true_ranks) / k
        assert mean_rank(scores, mask) == pytest.approx(sum(true_ranks) / k)


def slow_auprc(scores, truth):
    """Σ (R_t − R_{t−1}) P_t over the thresholds, in plain Python."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [
            is_true for score, is_true in zip(scores, truth, strict=True) if score >= threshold
        ]
        recall = sum(taken) / sum(truth)
        area += (recall - recall_before) * sum(taken) / len(taken)
        recall_before = recall
    return area


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_text_of_a_few_words(n):
    """Scores with ties, and every set of true words: against sets of words, in plain Python."""
    for scores in product((-2.0, 0.0, 1.5), repeat=n):
        for truth in product((False, True), repeat=n):
            true = {i for i in range(n) if truth[i]}
            if not true:
                continue
            top = set(sorted(range(n), key=lambda i: (-scores[i], i))[: len(true)])
            tensors = torch.tensor(scores, dtype=torch.float64), torch.tensor(truth)
            precision, recall = len(top & true) / len(top), len(top & true) / len(true)
            f1 = 2 * precision * recall / (precision + recall) if top & true else 0
            assert token_f1(*tensors) == pytest.approx(f1, abs=1e-15)
            assert iou(*tensors) == len(top & true) / len(top | true)
            assert auprc(*tensors) == pytest.approx(slow_auprc(scores, truth), abs=1e-14)


def test_known_areas():
    truth = torch.tensor([True, False, False, True])
    assert auprc(torch.tensor([4.0, 2.0, 1.0, 3.0]), truth) == 1
    assert auprc(torch.tensor([-4.0, -2.0, -1.0, -3.0]), truth) == (1 / 3 + 2 / 4) / 2
    assert auprc(torch.zeros(4), truth) == 0.5  # the share of true words


@pytest.mark.parametrize("name", TRUTH_METRICS)
def test_what_speaks_against_the_label_ranks_last(name):
    truth = torch.tensor([True, False, False])
    for_it, against = (TRUTH_METRICS[name](scores, truth) for scores in ([5, 0, 1], [-5, 0, 1]))
    assert (for_it > against) == (TRUTH_METRICS[name].better == "higher")
    assert TRUTH_METRICS[name]([5, 0, 1], truth & False) is None


def test_of_equal_scores_the_earlier_ranks_higher():
    scores = torch.zeros(4)
    assert mean_rank(scores, torch.tensor([False, True, False, True])) == 3
    assert precision_at_k(scores, torch.tensor([True, False, False, False])) == 1


def test_words_that_touch_a_span_are_not_in_it():
    words = [SimpleNamespace(start=a, end=b) for a, b in [(0, 3), (4, 8), (9, 11)]]
    assert true_words(words, [(3, 5)]).tolist() == [False, True, False]
    assert true_words(words, [(4, 4)]).tolist() == [False] * 3
    assert true_words(words, []).tolist() == [False] * 3
    with pytest.raises(ValueError, match="need a tokenizer of the kind 'fast'"):
        true_words([SimpleNamespace(start=None, end=None)], [(0, 1)])


def evaluated(explainer, examples, folder):
    evaluation = Evaluation(CONFIG, {"mask": explainer}, examples, folder, resume=False)
    evaluation.explain_remaining()
    return evaluation.write_tables()


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    records = [Record(text, None, spans=spans) for text, spans in zip(TEXTS, SPANS, strict=True)]
    folder = tmp_path_factory.mktemp("results")
    examples = prepare_examples(demo, records, "predicted")
    return folder, evaluated(demo, examples, folder)


def test_lines_hold_what_the_scores_say(run):
    folder, _ = run
    lines = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    for line in lines:
        values = line["precision_at_k"], line["mean_rank"]
        if line["text"] != TEXTS[0]:
            assert values == (None, None)
            continue
        ranks = [sum(x >= score for x in line["scores"]) for score in line["scores"]]
        true_ranks = [ranks[line["words"].index(word)] for word in ("plot", "superb")]
        assert values == (sum(rank <= 2 for rank in true_ranks) / 2, sum(true_ranks) / 2)


def test_without_known_words_there_is_no_metric(demo, tmp_path):
    examples = prepare_examples(demo, [Record(TEXTS[0], None, spans=())], "predicted")
    with pytest.raises(ValueError, match="no text has any: set rationale_column"):
        evaluated(demo, examples, tmp_path)


def test_spans_beside_all_words_leave_the_other_metrics(demo, tmp_path):
    examples = prepare_examples(demo, [Record(TEXTS[0], None, spans=((3, 4),))], "predicted")
    tables = evaluated(demo, examples, tmp_path)
    assert {row["metric"] for row in tables.means} == {"log_odds"}
    assert "for precision_at_k, mean_rank." in tables.notes[-1]


def test_texts_without_known_words_do_not_count(run):
    rows = run[1].means
    numbers = {row["metric"]: row["n"] for row in rows}
    assert numbers == {"precision_at_k": 1, "log_odds": 3, "mean_rank": 1}
    assert {row["metric"] for row in rows} - {"log_odds"} <= set(TRUTH_METRICS)

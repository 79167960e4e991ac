"""Every metric against a loop over single sentences; the number of rows the model evaluates."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_sig._names import MetricName
from captum_sig.faithfulness import (
    BINS,
    METRICS,
    Sentence,
    ablation_auc,
    ablation_curve,
    aopc_comprehensiveness,
    aopc_sufficiency,
    comprehensiveness,
    log_odds,
    log_probabilities,
    sufficiency,
)
from tests.tiny_models import CLS, MASK, SEP, SPECIALS, VOCAB, tiny

DELETING = [name for name, metric in METRICS.items() if metric.own_ablation is not None]
CLOSE = {"rtol": 0, "atol": 1e-12}
WITH_K = {"log_odds": log_odds, "comprehensiveness": comprehensiveness, "sufficiency": sufficiency}


class Recorder:
    """Return a tiny BERT's log-probabilities, and record its inputs."""

    def __init__(self) -> None:
        self.model = tiny("bert")
        self.calls: list[Tensor] = []
        self.grad_modes: set[bool] = set()

    def __call__(self, ids: Tensor) -> Tensor:
        self.calls.append(ids.clone())
        self.grad_modes.add(torch.is_grad_enabled())
        return self.model.logits(ids).log_softmax(-1)

    def rows(self) -> list[tuple[int, ...]]:
        return [tuple(row) for ids in self.calls for row in ids.tolist()]


@pytest.fixture
def bert() -> Recorder:
    return Recorder()


def sentence(pieces: list[int], seed: int, target: int = 1) -> Sentence:
    """Return CLS, words with these numbers of sub-tokens, SEP."""
    generator = torch.Generator().manual_seed(seed)
    words = [word for word, n in enumerate(pieces) for _ in range(n)]
    inner = torch.randint(len(SPECIALS), VOCAB, (len(words),), generator=generator)
    return Sentence(
        ids=torch.tensor([CLS, *inner.tolist(), SEP]),
        units=torch.tensor([-1, *words, -1]),
        target=target,
        replacement=MASK,
    )


def batch() -> tuple[list[Sentence], list[list[float]]]:
    """Sentences short and long, with long or split words, ties, and without special tokens."""
    sentences = [
        sentence([1, 3, 1, 2, 1, 1], seed=1),
        sentence([1], seed=2, target=0),
        sentence([4], seed=3),
        sentence([1] * 30, seed=4, target=0),
        sentence([2] * 10, seed=5),
        Sentence(torch.tensor([CLS, 9, 8, SEP, 7, 6]), torch.tensor([-1, 1, 0, -1, 1, 2]), 0, MASK),
        Sentence(torch.tensor([20, 21, 22]), torch.tensor([0, 1, 2]), 1, MASK),
        sentence([1, 2], seed=6),
    ]
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(s.n_units, generator=generator).tolist() for s in sentences]
    scores[4] = [1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 2.0, -1.0, 1.0, 1.0]
    scores[7] = [0.0, 0.0]
    return sentences, scores


# The definitions, one sentence at a time.


def count(k: float, n: int) -> int:
    return max(1, int(k * n + 1e-9))


def p(predict, asked: Sentence, ids: list[int]) -> float:
    with torch.no_grad():
        return predict(torch.tensor([ids or [asked.replacement]]))[0, asked.target].exp().item()


def top(values: list[float], size: int) -> list[int]:
    return sorted(range(len(values)), key=lambda unit: (-values[unit], unit))[:size]


def replaced(predict, asked, values, size):
    pairs = zip(asked.ids.tolist(), asked.units.tolist(), strict=True)
    gone = top(values, size)
    return p(predict, asked, [asked.replacement if u in gone else i for i, u in pairs])


def removed(predict, asked, values, size):
    pairs = zip(asked.ids.tolist(), asked.units.tolist(), strict=True)
    gone = top(values, size)
    return p(predict, asked, [i for i, u in pairs if u not in gone])


def kept(predict, asked, values, size):
    pairs = zip(asked.ids.tolist(), asked.units.tolist(), strict=True)
    left = top(values, size)
    return p(predict, asked, [i for i, u in pairs if u in left or u == -1])


def reference(name: str, predict, asked: Sentence, values: list[float], k: float) -> float:
    n = len(values)
    whole = p(predict, asked, asked.ids.tolist())
    if name == "log_odds":
        return np.log(replaced(predict, asked, values, count(k, n))) - np.log(whole)
    if name == "comprehensiveness":
        return whole - removed(predict, asked, values, count(k, n))
    if name == "sufficiency":
        return whole - kept(predict, asked, values, count(k, n))
    if name == "ablation_auc":
        curve = [replaced(predict, asked, values, size) for size in range(n + 1)]
        return sum((a + b) / 2 / n for a, b in zip(curve, curve[1:], strict=False))
    return np.mean([reference(name.removeprefix("aopc_"), predict, asked, values, k) for k in BINS])


@pytest.mark.parametrize("k", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("name", DELETING)
def test_each_metric_equals_the_slow_loop(bert, name, k):
    sentences, scores = batch()
    found = METRICS[name](bert, sentences, scores, k)
    assert found.shape == (len(sentences),)
    assert found.dtype == torch.float64
    slow = [reference(name, bert, *pair, k) for pair in zip(sentences, scores, strict=True)]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), **CLOSE)


def test_the_curve_equals_the_slow_loop(bert):
    sentences, scores = batch()
    curve = ablation_curve(bert, sentences, scores)
    assert curve.shape == (len(sentences), 31)
    for row, asked, values in zip(curve, sentences, scores, strict=True):
        n = asked.n_units
        slow = [replaced(bert, asked, values, size) for size in range(n + 1)]
        torch.testing.assert_close(row[: n + 1].tolist(), slow, **CLOSE)
        assert row[n + 1 :].isnan().all()


@pytest.mark.parametrize("name", ["comprehensiveness", "sufficiency"])
def test_aopc_is_the_mean_over_its_bins(bert, name):
    sentences, scores = batch()
    bins = (0.3, 0.6, 0.9, 1.0)
    aopc = {"comprehensiveness": aopc_comprehensiveness, "sufficiency": aopc_sufficiency}[name]
    each = torch.stack([WITH_K[name](bert, sentences, scores, k) for k in bins])
    found = aopc(bert, sentences, scores, bins)
    torch.testing.assert_close(found, each.mean(0), **CLOSE)


WEIGHTS = torch.arange(10, dtype=torch.float64) - 4  # of ids 0 … 9; id 4 is neutral


def bag(ids: Tensor) -> Tensor:
    """Return the log-probabilities of two classes whose log-odds are the summed weights."""
    logit = WEIGHTS[ids].sum(1) / 4
    return torch.stack([-logit, logit], dim=1).div(2).log_softmax(1)


def test_log_odds_of_a_bag_of_words_in_closed_form():
    asked = Sentence(torch.tensor([9, 0, 6, 2]), torch.arange(4), target=1, replacement=4)
    found = log_odds(bag, [asked], [WEIGHTS[asked.ids]], k=0.5)
    sigmoid = torch.nn.functional.logsigmoid
    total, rest = torch.tensor([5 - 4 + 2 - 2, -4 - 2], dtype=torch.float64) / 4
    torch.testing.assert_close(found[0], sigmoid(rest) - sigmoid(total), **CLOSE)


@pytest.mark.parametrize("name", DELETING)
def test_the_true_scores_are_better_than_their_opposite(name):
    asked = Sentence(torch.tensor([9, 0, 6, 2, 5]), torch.arange(5), target=1, replacement=4)
    true = WEIGHTS[asked.ids]
    metric = METRICS[name]
    good, bad = metric(bag, [asked, asked], [true, -true]).tolist()
    assert metric.better in ("lower", "higher")
    assert (good < bad) == (metric.better == "lower")
    assert good != bad


@pytest.mark.parametrize(
    ("k", "n", "units"),
    [(0.2, 1, 1), (0.2, 4, 1), (0.2, 9, 1), (0.2, 10, 2), (0.1, 30, 3), (0.29, 100, 29), (1, 3, 3)],
)
def test_the_number_of_units_in_a_fraction(k, n, units):
    asked = Sentence(torch.full((n,), 5), torch.arange(n), target=0, replacement=3)
    seen = []
    log_odds(lambda ids: seen.append(ids) or bag(ids), [asked], [[0.0] * n], k)
    assert set((torch.cat(seen) == 3).sum(1).tolist()) == {0, units}


def test_of_equal_scores_the_earlier_unit_goes_first(bert):
    asked = sentence([1] * 25, seed=0)
    log_odds(bert, [asked], [[1.0] * 25], k=0.4)
    masked = next(row for row in bert.rows() if MASK in row)
    assert [i for i, token in enumerate(masked) if token == MASK] == list(range(1, 11))


@pytest.mark.parametrize("name", DELETING)
def test_special_tokens_stay(bert, name):
    sentences = [sentence([1, 2, 1], seed=1), sentence([1], seed=2), sentence([2] * 9, seed=3)]
    scores = [torch.arange(float(s.n_units)) for s in sentences]
    METRICS[name](bert, sentences, scores, k=1.0)
    assert bert.calls
    assert all(row[0] == CLS and row[-1] == SEP for row in bert.rows())


def test_a_row_of_nothing_is_one_replacement(bert):
    asked = Sentence(torch.tensor([20, 21]), torch.tensor([0, 0]), target=1, replacement=MASK)
    comprehensiveness(bert, [asked], [[1.0]])
    assert sorted(bert.rows()) == [(MASK,), (20, 21)]


@pytest.mark.parametrize("name", DELETING)
def test_a_sentence_without_units(bert, name):
    empty = sentence([], seed=0)
    sentences = [empty, sentence([1, 1], seed=1)]
    scores = [[], [0.3, 0.1]]
    near = log_probabilities(bert, sentences) + 1e-9  # as another batch size might round it
    expected = p(bert, empty, [CLS, SEP]) if name == "ablation_auc" else 0.0
    found = METRICS[name](bert, sentences, scores)
    assert found[0] == pytest.approx(expected, abs=1e-12)
    assert found[1] == METRICS[name](bert, sentences[1:], scores[1:])[0]
    if name != "ablation_auc":
        assert METRICS[name](bert, sentences, scores, original=near)[0] == 0
    assert METRICS[name](bert, [empty], [[]])[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", DELETING)
def test_no_sentences_need_no_forward_pass(bert, name):
    assert METRICS[name](bert, [], []).shape == (0,)
    assert ablation_curve(bert, [], []).shape == (0, 1)
    assert bert.calls == []


def test_few_calls_of_one_length_without_padding(bert):
    sentences = [sentence([1] * (5 + i % 3), seed=i) for i in range(200)]
    scores = [torch.randn(s.n_units) for s in sentences]
    asked = {7: 0, 8: 0, 9: 0}
    for s in sentences:
        asked[len(s.ids)] += 1 + s.n_units
    ablation_auc(bert, sentences, scores)  # one row is evaluated again, alone
    assert sorted(ids.shape[1] for ids in bert.calls) == [7, 7, 8, 9]
    assert all(0 < len(ids) <= asked[ids.shape[1]] for ids in bert.calls)
    bert.calls.clear()
    comprehensiveness(bert, sentences, scores)
    assert sorted(ids.shape[1] for ids in bert.calls) == [6, 6, 7, 8, 9]
    allowed = {tuple(s.ids.tolist()) for s in sentences}
    shortened = {row for row in bert.rows() if row not in allowed}
    assert all(0 not in row for row in shortened)  # id 0 is padding


@pytest.mark.parametrize("max_tokens", [1, 20, np.int64(64), torch.tensor(2**20)])
def test_no_forward_pass_exceeds_max_tokens(bert, max_tokens):
    sentences, scores = batch()
    found = ablation_auc(bert, sentences, scores, max_tokens=max_tokens)
    assert all(ids.numel() <= max_tokens or len(ids) == 1 for ids in bert.calls)
    torch.testing.assert_close(found, ablation_auc(bert, sentences, scores), **CLOSE)


def test_equal_rows_are_evaluated_once(bert):
    one, values = sentence([1, 2, 1, 1, 1], seed=0), [0.1, 0.5, 0.2, 0.0, 0.3]
    other = replace(one, target=0)
    found = log_odds(bert, [one, other] * 50, [values] * 100)
    assert len(bert.rows()) == 2 + 1  # and one alone, to see whether it changes
    assert found.unique().tolist() == sorted(found[:2].tolist())
    bert.calls.clear()
    aopc_comprehensiveness(bert, [one], [values])  # all bins but the last two are one unit
    assert len(bert.rows()) == len(set(bert.rows())) == 3


@pytest.mark.parametrize("name", DELETING)
def test_order_of_sentences_is_kept(bert, name):
    sentences, scores = batch()
    order = [5, 2, 7, 0, 3, 1, 6, 4]
    found = METRICS[name](bert, [sentences[i] for i in order], [scores[i] for i in order])
    assert torch.equal(found, METRICS[name](bert, sentences, scores)[order])


@pytest.mark.parametrize("name", DELETING)
def test_the_original_is_not_evaluated_again(bert, name):
    sentences, scores = batch()
    whole = METRICS[name](bert, sentences, scores)
    original = log_probabilities(bert, sentences)
    expected = [p(bert, s, s.ids.tolist()) for s in sentences]
    torch.testing.assert_close(original.exp().tolist(), expected, **CLOSE)
    bert.calls.clear()
    found = METRICS[name](bert, sentences, scores, original=original)
    torch.testing.assert_close(found, whole, **CLOSE)
    alone = [s for s in sentences if s.n_units > 3]  # of others, the top share may be everything
    assert not {tuple(s.ids.tolist()) for s in alone} & set(bert.rows())


def test_gradients_are_off_and_the_mode_is_restored(bert):
    sentences, scores = batch()
    assert torch.is_grad_enabled()
    assert not ablation_curve(bert, sentences, scores).requires_grad
    with torch.no_grad():
        log_odds(bert, sentences, scores)
        assert not torch.is_grad_enabled()
    assert bert.grad_modes == {False}
    assert torch.is_grad_enabled()

    def broken(ids: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        log_odds(broken, sentences, scores)
    assert torch.is_grad_enabled()


def test_a_device_without_room_gets_smaller_passes(bert):
    sentences, scores = batch()

    def cramped(ids: Tensor) -> Tensor:
        if len(ids) > 3:
            raise torch.cuda.OutOfMemoryError("too many rows")
        return bert(ids)

    found = ablation_auc(cramped, sentences, scores)
    torch.testing.assert_close(found, ablation_auc(bert, sentences, scores), **CLOSE)


def test_scores_of_any_kind():
    asked = Sentence(torch.tensor([9, 0, 6]), torch.arange(3), target=1, replacement=4)
    values = [[0.5, -1.0, 2.0], [1.0, 3.0, 2.0]]
    expected = log_odds(bag, [asked] * 2, values)
    as_tensor = torch.tensor(values)
    fixed = np.array(values)
    fixed.setflags(write=False)
    kinds = [
        as_tensor,
        as_tensor.bfloat16(),
        as_tensor.clone().requires_grad_(),
        fixed,
        list(fixed),
    ]
    for scores in kinds:
        assert torch.equal(log_odds(bag, [asked] * 2, scores), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_of_any_precision_become_float64(dtype):
    asked = Sentence(torch.tensor([9, 0, 6]), torch.arange(3), target=1, replacement=4)
    exact = comprehensiveness(bag, [asked], [[1.0, 2.0, 3.0]])
    found = comprehensiveness(lambda ids: bag(ids).to(dtype), [asked], [[1.0, 2.0, 3.0]])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_the_listed_names_are_those_of_the_metrics():
    assert tuple(METRICS) == get_args(MetricName)


def test_metrics_state_their_direction():
    assert {name for name in DELETING if METRICS[name].better == "higher"} == {
        "comprehensiveness",
        "aopc_comprehensiveness",
    }
    assert {name for name, metric in METRICS.items() if metric.uses_k} == set(WITH_K)
    soft = {name for name, metric in METRICS.items() if metric.unit == "fraction"}
    assert soft == set(METRICS) - set(DELETING)
    assert {METRICS[name].better for name in soft} == {"higher"}
    assert {name for name, metric in METRICS.items() if metric.unit == "nats"} == {"log_odds"}


@pytest.mark.parametrize("name", DELETING)
@pytest.mark.parametrize("k", [0, -0.1, 1.01, float("nan")])
def test_a_fraction_outside_0_and_1_is_refused(bert, name, k):
    with pytest.raises(ValueError, match=r"fractions of the units must lie in \(0, 1\]"):
        METRICS[name](bert, *batch(), k)
    assert bert.calls == []


@pytest.mark.parametrize("name", DELETING)
def test_scores_that_do_not_fit_are_refused(bert, name):
    sentences, scores = batch()
    wrong = [
        ("sentence 3 needs 30 scores", [*scores[:3], [float("nan")] * 30, *scores[4:]]),
        ("sentence 7 needs 2 scores", [*scores[:7], [0.0]]),
        ("sentence 7 needs 2 scores", [*scores[:7], [[0.0], [1.0]]]),
        ("scores has 7 entries for 8 sentences", scores[:7]),
    ]
    for message, values in wrong:
        with pytest.raises(ValueError, match=message):
            METRICS[name](bert, sentences, values)
    assert bert.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"max_tokens": 1.5}, "max_tokens must be an integer of at least 1, got 1.5"),
        ({"original": torch.zeros(3)}, "original has 3 entries for 8 sentences"),
    ],
)
def test_options_that_do_not_fit_are_refused(bert, options, message):
    with pytest.raises(ValueError, match=message):
        log_odds(bert, *batch(), **options)


def test_no_bins_are_refused(bert):
    for none in ((), iter([]), np.array([])):
        with pytest.raises(ValueError, match="fractions of the units"):
            aopc_sufficiency(bert, *batch(), bins=none)


@pytest.mark.parametrize("bins", [0.2, None, ["half"], np.float64(0.2)])
def test_bins_that_are_not_numbers_are_refused(bert, bins):
    with pytest.raises(TypeError, match="bins must be several numbers such as"):
        aopc_comprehensiveness(bert, *batch(), bins=bins)


def test_arguments_may_be_any_iterable(bert):
    sentences, scores = batch()
    original = log_probabilities(bert, sentences)
    found = aopc_comprehensiveness(bert, sentences, scores, (0.2, 0.5), original=original)
    for bins in ((k for k in (0.2, 0.5)), np.array([0.2, 0.5]), torch.tensor([0.2, 0.5])):
        again = aopc_comprehensiveness(
            bert, iter(sentences), (iter(values) for values in scores), bins,
            original=iter(original),
        )  # fmt: skip
        torch.testing.assert_close(again, found, **CLOSE)
        assert log_probabilities(bert, iter(sentences)).equal(original)


def test_a_probability_of_0_that_stays_0_does_not_change():
    asked = Sentence(torch.tensor([9, 0, 6]), torch.arange(3), target=1, replacement=4)

    def predict(ids: Tensor) -> Tensor:  # class 1 is impossible unless id 4 is there
        possible = (ids == 4).any(1) & (ids == 9).any(1)
        other = torch.where(possible, -0.5, -torch.inf)
        return torch.stack([torch.zeros(len(ids)), other], dim=1)

    found = log_odds(predict, [asked] * 2, [[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]])
    assert found.tolist() == [0.0, torch.inf]
    assert comprehensiveness(predict, [asked], [[3.0, 1.0, 2.0]]).tolist() == [0.0]


# What is ablated.


@pytest.mark.parametrize("name", DELETING)
def test_each_metric_may_replace_or_remove(bert, name):
    asked, values = sentence([1, 1, 1, 1], seed=0), [0.4, 0.3, 0.2, 0.1]
    metric, rows = METRICS[name], {}
    for ablation in ("replace", "remove", None):
        bert.calls.clear()
        metric(bert, [asked], [values], 0.25, ablation=ablation)
        rows[ablation] = set(bert.rows())
    lengths = {kind: {len(row) for row in of_kind} for kind, of_kind in rows.items()}
    assert lengths["replace"] == {6}
    assert len(lengths["remove"]) > 1
    assert all(MASK not in row for row in rows["remove"] if len(row) > 2)
    own = "replace" if name in ("log_odds", "ablation_auc") else "remove"
    assert rows[None] == rows[own]


def test_an_unknown_ablation_is_refused(bert):
    with pytest.raises(ValueError, match="ablation 'blur' is unknown: use one of replace, remove"):
        log_odds(bert, *batch(), ablation="blur")


@pytest.mark.parametrize("name", DELETING)
def test_a_model_that_replaces_receives_its_own_ids(bert, name):
    """It receives the replaced ones beside them; metrics are those of a function of ids alone."""
    received = []

    def predict(ids: Tensor, *, replaced: Tensor | None = None) -> Tensor:
        received.append(ids)
        return bert(ids if replaced is None else replaced)

    sentences, scores = batch()
    found = METRICS[name](predict, sentences, scores, ablation="replace")
    own = {tuple(s.ids.tolist()) for s in sentences}
    assert {tuple(row) for ids in received for row in ids.tolist()} <= own
    expected = METRICS[name](bert, sentences, scores, ablation="replace")
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    "predict",
    [
        lambda ids: ids.double()[:, :2],  # logits
        lambda ids: torch.zeros(len(ids)),  # the target's alone
        lambda ids: torch.zeros(len(ids), 1) - 1,  # class 1 is missing
        lambda ids: torch.zeros(1, 2) - 1,  # one row for all
        lambda ids: torch.full((len(ids), 2), torch.nan),
    ],
)
def test_predictions_must_be_log_probabilities(predict):
    sentences = [sentence([1, 1, 1], seed=seed) for seed in range(3)]
    with pytest.raises(ValueError, match="log-probabilities as from log_softmax"):
        log_odds(predict, sentences, torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": torch.tensor([], dtype=torch.long)}, "wanted"),
        ({"ids": torch.tensor([[1, 2, 3]])}, "wanted"),
        ({"units": torch.tensor([0, 1])}, "wanted"),
        ({"units": torch.tensor([0, 2, -1])}, "without gaps"),
        ({"units": torch.tensor([-2, 0, 1])}, "without gaps"),
        ({"target": -1}, "index of a class"),
    ],
)
def test_invalid_sentences_are_refused(changes, message):
    fine = Sentence(torch.tensor([1, 2, 3]), torch.tensor([0, 1, -1]), target=0, replacement=4)
    with pytest.raises(ValueError, match=message):
        replace(fine, **changes)

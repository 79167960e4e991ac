"""Entropy, loss and excess of texts with deleted words, for models in closed form."""

import math

import pytest
import torch

from captum_sig.faithfulness.ablations import ABLATIONS, unchanged
from captum_sig.faithfulness.distribution import (
    AMOUNTS,
    COLUMNS,
    Labelled,
    distribution,
    sentence_of,
)
from captum_sig.words.encoding import Sentence

GONE = 4  # the replacement


def text(n, label=1):
    ids = torch.tensor([2, *range(10, 10 + n), 3])
    units = torch.tensor([-1, *range(n), -1])
    return Labelled(Sentence(ids, units, 0, GONE), None if label is None else (label,))


def by_share(p_of_share):
    """A model whose p(class 1) depends on the share of words that are left."""

    def predict(ids):
        left = ((ids >= 10).double().sum(1) / (ids.shape[1] - 2)).tolist()
        p = torch.tensor([p_of_share(share) for share in left], dtype=torch.float64)
        return torch.stack([1 - p, p], 1).log()

    return predict


def entropy(p):
    return -sum(x * math.log(x) for x in (p, 1 - p) if x)


def replaced(texts, predict, **options):
    return distribution(predict, texts, {"replace": ABLATIONS["replace"]}, **options)


def test_entropy_loss_and_excess_in_closed_form():
    rows = replaced([text(10), text(20), text(30)], by_share(lambda share: 0.5 + 0.4 * share))
    assert [row["amount"] for row in rows] == [0, *AMOUNTS]
    for row in rows:
        assert set(row) == set(COLUMNS)
        p = 0.5 + 0.4 * (1 - row["amount"])
        assert row["entropy"] == pytest.approx(entropy(p), abs=1e-12)
        assert row["loss"] == pytest.approx(-math.log(p), abs=1e-12)
        gap = -math.log(p) - entropy(p) - (-math.log(0.9) - entropy(0.9))
        assert row["excess"] == pytest.approx(gap, abs=1e-12)
        assert row["excess_low"] == pytest.approx(row["excess_high"], abs=1e-9)
        assert row["n"] == 3


def test_a_model_that_is_right_as_often_as_it_is_sure_has_no_excess():
    """p = 0.75 on whole texts and 0.5 on others, and three of four labels are 1."""
    texts = [text(4 + number, label=int(number % 4 > 0)) for number in range(64)]
    rows = replaced(texts, by_share(lambda share: 0.75 if share == 1 else 0.5))
    assert all(abs(row["excess"]) < 1e-12 for row in rows)
    assert sentence_of(rows).count("at no tested share of each replaced") == 1


def test_a_model_that_stays_sure_of_nothing_is_told():
    texts = [text(4 + number, label=int(number % 2)) for number in range(60)]
    rows = replaced(texts, by_share(lambda share: 0.6 if share > 0.6 else 0.99))
    sentence = sentence_of(rows)
    (half,) = (row for row in rows if row["amount"] == 0.5)
    assert 0.45 < half["deleted"] < 0.5  # odd numbers are rounded down
    assert f"from {half['deleted']:.0%} of each replaced on (60 texts" in sentence
    assert sentence.count(".") == 2  # the file's name has one


def test_the_deleted_words_are_nested_and_depend_on_seed_and_text_alone():
    asked = []

    def ablation(requests):
        asked.extend(requests)
        return [[unchanged(sentence.ids)] for sentence, _ in requests]

    predict = by_share(lambda share: 0.5)
    distribution(predict, [text(20), text(30)], {"any": ablation})
    alone = asked.copy()
    asked.clear()
    distribution(predict, [text(30)], {"any": ablation})
    of_one = [gone for sentence, gone in alone if len(sentence.ids) == 32]
    assert all(map(torch.equal, of_one, (gone for _, gone in asked)))
    sizes = [int(gone.sum()) for gone in of_one]
    assert sizes == [0, 3, 6, 15, 24]
    for fewer, more in zip(of_one, of_one[1:], strict=False):
        assert (more | ~fewer).all()
    asked.clear()
    distribution(predict, [text(30)], {"any": ablation}, seed=1)
    assert not all(map(torch.equal, of_one, (gone for _, gone in asked)))


def test_several_rows_of_a_text_are_averaged():
    def ablation(requests):
        return [[unchanged(one.ids), unchanged(torch.where(one.ids >= 10, GONE, one.ids))]
                for one, _ in requests]  # fmt: skip

    predict = by_share(lambda share: 0.9 if share else 0.5)
    row = distribution(predict, [text(9)], {"any": ablation})[0]
    assert row["entropy"] == pytest.approx((entropy(0.9) + entropy(0.5)) / 2, abs=1e-12)
    assert row["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.5)) / 2, abs=1e-12)


def test_labels_that_do_not_exclude_each_other():
    def predict(ids):
        return torch.tensor([[0.9, 0.2, 0.5]], dtype=torch.float64).expand(len(ids), -1).log()

    one = Labelled(text(5).sentence, (0, 1))
    row = replaced([one], predict, is_multi_label=True)[0]
    assert row["entropy"] == pytest.approx(sum(map(entropy, (0.9, 0.2, 0.5))) / 3, abs=1e-12)
    loss = -(math.log(0.9) + math.log(0.2) + math.log(0.5)) / 3
    assert row["loss"] == pytest.approx(loss, abs=1e-12)
    none = replaced([Labelled(text(5).sentence, ())], predict, is_multi_label=True)[0]
    assert none["loss"] == pytest.approx(-(math.log(0.1) + math.log(0.8) + math.log(0.5)) / 3)


def test_short_texts_lose_more_than_was_asked_for():
    rows = replaced([text(1), text(4)], by_share(lambda share: 0.5 + 0.4 * share))
    assert [row["deleted"] for row in rows] == [0, 0.625, 0.625, 0.75, 0.875]


def made_rows(excess_low, n_labelled=60):
    return [
        {"ablation": "remove", "deleted": share, "loss": 1.0, "excess_low": low,
         "n_labelled": n_labelled}
        for share, low in zip((0, 0.1, 0.2, 0.5, 0.8), excess_low, strict=True)
    ]  # fmt: skip


def test_from_an_amount_on_means_all_larger_ones():
    assert "at no tested share" in sentence_of(made_rows([0, 0.2, 0.1, -0.3, -0.2]))
    assert "from 20% of each removed on" in sentence_of(made_rows([0, -0.2, 0.1, 0.3, 0.2]))


def test_few_texts_tell_nothing():
    sentence = sentence_of(made_rows([0, 1, 1, 1, 1], n_labelled=19))
    assert "cannot be told from 19 labelled texts: it takes 20" in sentence


def test_texts_without_a_label_do_not_count_in_the_loss():
    predict = by_share(lambda share: 0.5 + 0.4 * share)
    alone = replaced([text(10)], predict)
    both = replaced([text(10), text(12, label=None)], predict)
    for row, of_both in zip(alone, both, strict=True):
        assert (row["loss"], row["excess"]) == (of_both["loss"], of_both["excess"])
        assert (of_both["n"], of_both["n_labelled"]) == (2, 1)


def test_without_labels_only_the_entropy_is_known():
    texts = [text(10, label=None), text(12, label=None)]
    rows = replaced(texts, by_share(lambda share: 0.5 + 0.4 * share))
    assert all(row["loss"] is None and row["excess_low"] is None for row in rows)
    assert "it is not known, without labels" in sentence_of(rows)
    assert f"{entropy(0.7):.2f} with 50% of each replaced" in sentence_of(rows)


def test_a_model_that_is_certain_and_wrong_has_a_finite_loss():
    rows = replaced([text(5, label=0)], by_share(lambda share: 1.0))
    assert {row["loss"] for row in rows} == {100}
    several = Labelled(text(5).sentence, ())
    certain = replaced([several], lambda ids: torch.zeros(len(ids), 2), is_multi_label=True)
    assert {row["loss"] for row in certain} == {100}


def test_certain_models_few_texts_and_none():
    rows = replaced([text(3)] * 2, by_share(lambda share: 1.0), n_texts=1)
    assert {row["n"] for row in rows} == {1}
    assert all(row["entropy"] == row["loss"] == row["excess"] == 0 for row in rows)
    assert replaced([], by_share(float)) == []
    assert sentence_of([]) == ""

"""What the labels of words and pairs say, on games in closed form and on planted words."""

import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.explainers.results import agreement
from tests.benchmarks import labels, record
from tests.problems import GameOfWords, either

MANY = 1_000  # more than the words of a text


def explained(rule, text="good bad movie"):
    model = GameOfWords(rule)
    explainer = TextClassificationExplainer(model, model.tokenizer)
    return explainer(text, "yes", "sig:two_sided", interactions=MANY)


SAME, TOGETHER, TURNS, APART = "say the same", "only together", "turns it", "independent"


@pytest.mark.parametrize(
    ("rule", "words", "pairs"),
    [
        (
            lambda good, bad, movie: good + 2 * bad - movie,
            ["additive", "additive", "additive"],
            {(0, 1): APART, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: either(good, bad) + movie,
            ["redundant", "redundant", "additive"],
            {(0, 1): SAME, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: -either(good, bad) + movie,  # against the label
            ["redundant", "redundant", "additive"],
            {(0, 1): SAME, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: good * bad + movie,
            ["synergistic", "synergistic", "additive"],
            {(0, 1): TOGETHER, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: good * (1 - 2 * bad) + movie,  # "bad" negates
            ["synergistic", "synergistic", "additive"],
            {(0, 1): TURNS, (0, 2): APART, (1, 2): APART},
        ),
        (
            lambda good, bad, movie: either(good * bad, movie),
            ["additive", "additive", "redundant"],  # "good" is worth 0 first and last
            {(0, 1): APART, (0, 2): SAME, (1, 2): SAME},  # but 1 without "movie"
        ),
        (
            lambda good, bad, movie: good * either(bad, movie),
            ["synergistic", "additive", "additive"],
            {(0, 1): APART, (0, 2): APART, (1, 2): SAME},
        ),
    ],
)
def test_games_in_closed_form(rule, words, pairs):
    result = explained(rule)
    assert [word.agreement for word in result.words] == words
    assert {pair.words: pair.kind for pair in result.interactions} == pairs
    for pair in result.interactions:
        i, j = pair.words

        def value(*removed):
            kept = [torch.tensor([0.0 if word in removed else 1.0]) for word in range(3)]
            return float(rule(*kept))

        expected = value() - value(i) - value(j) + value(i, j)
        assert pair.value == pytest.approx(expected, abs=1e-12)


def test_a_small_difference_is_rounding_or_noise():
    assert agreement(1.0, 0.95, 1.0) == "additive"
    result = explained(lambda good, bad, movie: good + bad + 0.05 * good * bad)
    assert {pair.kind for pair in result.interactions} == {APART}
    assert {word.agreement for word in result.words} == {"additive"}


def check_planted(explainer, name, *, turned):
    """The counts are those on record; `turned`: the least share of negations that turn a word."""
    rows = {row["check"]: row for row in labels.counts(explainer)}
    on_record = record.read("labels")
    for check, row in rows.items():
        assert {"model": name, **row} == on_record.row("counts", model=name, check=check)
    share = {check: row["right"] / row["n"] for check, row in rows.items()}
    assert share["synonyms say the same"] >= 0.9
    assert share["synonyms are redundant"] >= 0.9
    assert share["negations turn it"] >= turned
    assert share["negations go unseen"] <= 0.1
    assert share["negations are synergistic"] >= 0.85


def test_planted_words(demo):
    """The demo model reads some negations as bad words of their own: "not witty"."""
    check_planted(demo, "demo", turned=0.6)


def test_planted_words_and_a_trained_bert(shared):
    path = shared / "models/minilm-sst2"
    explainer = TextClassificationExplainer.from_pretrained(path)
    check_planted(explainer, "minilm-sst2", turned=0.8)

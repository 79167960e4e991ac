"""What every method says of games in closed form: OR, AND, XOR, negation, a token in context.

Rules are linear in each word. So a gradient at the input is what the text loses without the word,
and the integral along the straight line from the baseline is the Shapley value (Owen 1972).
"""

import functools

import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.explainers.methods import METHODS
from captum_sig.faithfulness.ground_truth import mean_rank, precision_at_k
from tests.problems import WORD_GAMES, GameOfWords, WordGame

TEXT = "good bad movie"


def in_text(game: WordGame) -> tuple[float, ...]:
    return game.in_text


def alone(game: WordGame) -> tuple[float, ...]:
    return game.alone


def shapley(game: WordGame) -> tuple[float, ...]:
    return game.shapley


def both_sides(game: WordGame) -> list[float]:
    return [(a + b) / 2 for a, b in zip(game.in_text, game.alone, strict=True)]


EXACT = {
    "sig": in_text,
    "occlusion": in_text,
    "input_x_gradient": in_text,
    "deep_lift": in_text,  # what is not a module of torch counts by its gradient
    "sequential_dig": in_text,  # whatever the path
    "sig:two_sided": both_sides,
    "sequential_dig:two_sided": both_sides,
    "sig:auto": shapley,
    "ig": shapley,
    "dig": alone,  # no embedding lies between mask and word: its path is one step from the baseline
}
EXACT_IN_PAIRS = ("rank_path", "screen")  # Shapley values: exact where no three words interact
DRAWN = ("shapley", "sig:sampled16", "gradient_shap")  # Shapley values in the mean over draws
N_SEEDS = 10
OTHERS = ("saliency", "lrp", "lrp_deletion", "random")

each_game = pytest.mark.parametrize("game", WORD_GAMES.values(), ids=WORD_GAMES)


@functools.cache
def model_of(game: WordGame) -> GameOfWords:
    return GameOfWords(game.rule)


def explainer(game: WordGame, **options) -> TextClassificationExplainer:
    model = model_of(game)
    return TextClassificationExplainer(model, model.tokenizer, **options)


def test_no_method_is_left_out():
    named = {name.partition(":")[0] for name in (*EXACT, *EXACT_IN_PAIRS, *DRAWN, *OTHERS)}
    assert named == set(METHODS)


@each_game
def test_the_closed_forms_are_those_of_the_rule(game):
    """Values of all sets of words, by hand: the mean over the six orders is the Shapley value."""

    def value(*present: int) -> float:
        words = torch.zeros(3, 1, dtype=torch.float64)
        words[list(present)] = 1
        return float(game.rule(*words))

    for word in range(3):
        i, j = {0, 1, 2} - {word}
        last, first = value(0, 1, 2) - value(i, j), value(word) - value()
        between = value(word, i) - value(i), value(word, j) - value(j)
        assert (last, first) == (game.in_text[word], game.alone[word])
        expected = (2 * last + 2 * first + sum(between)) / 6
        assert expected == pytest.approx(game.shapley[word], abs=1e-12)


@each_game
@pytest.mark.parametrize("method", EXACT)
def test_scores_are_those_of_the_theory(game, method):
    found = explainer(game)(TEXT, "yes", method)
    rounding = 1e-8 if method == "ig" else 1e-12  # Captum's weights are float32
    assert found.scores == pytest.approx(EXACT[method](game), abs=rounding)
    if found.words[0].agreement is not None:
        assert tuple(word.agreement for word in found.words) == game.agreement
        assert [word.first for word in found.words] == pytest.approx(game.alone, abs=1e-12)
        assert [word.last for word in found.words] == pytest.approx(game.in_text, abs=1e-12)


@each_game
@pytest.mark.parametrize("method", EXACT_IN_PAIRS)
def test_screens_share_out_what_pairs_say(game, method):
    scores = explainer(game)(TEXT, "yes", method).scores
    if game in (WORD_GAMES["or_of_three"], WORD_GAMES["and_of_three"]):
        assert all(0.2 < score < 0.4 for score in scores)
    else:
        assert scores == pytest.approx(game.shapley, abs=1e-12)


@pytest.mark.parametrize("name", ["or_beside_evidence", "and_of_three", "negation"])
@pytest.mark.parametrize("method", DRAWN)
def test_draws_are_right_in_the_mean(name, method):
    game = WORD_GAMES[name]
    rows = [explainer(game, seed=seed)(TEXT, "yes", method).scores for seed in range(N_SEEDS)]
    scores = torch.tensor(rows, dtype=torch.float64)
    expected = torch.tensor(game.shapley, dtype=torch.float64)
    errors = scores.std(0) / N_SEEDS**0.5
    assert ((scores.mean(0) - expected).abs() <= 4 * errors + 1e-12).all()
    assert (errors < 0.15).all()
    if method == "shapley":  # every order of the words shares out F(x) − F(x̄)
        torch.testing.assert_close(scores.sum(1), expected.sum().expand(N_SEEDS))


@each_game
def test_saliency_does_not_see_which_words_are_there(game):
    """Embeddings are summed, so that the gradient is the same at all positions."""
    scores = explainer(game)(TEXT, "yes", "saliency").scores
    assert scores == pytest.approx([sum(map(abs, game.in_text))] * 3, abs=1e-12)


@pytest.mark.parametrize("method", ["lrp", "lrp_deletion"])
def test_rules_that_do_not_apply_are_refused(method):
    with pytest.raises(ValueError, match=f"method '{method}' needs a model whose layer norms"):
        explainer(WORD_GAMES["or"])(TEXT, "yes", method)


@pytest.mark.parametrize(
    ("name", "method", "finds"),
    [
        ("or", "sig", False),  # without one, the other still says it: both score 0
        ("or", "occlusion", False),
        ("or", "input_x_gradient", False),
        ("or", "sig:two_sided", True),
        ("or", "sig:auto", True),
        ("or", "ig", True),
        ("and", "sig", True),
        ("and", "sig:two_sided", True),
        ("and", "dig", False),  # alone, neither says anything
        ("xor", "sig:two_sided", False),  # one for, together against: the mean is 0
        ("xor", "sig:auto", False),
    ],
)
def test_which_methods_find_the_words_of_a_rule(name, method, finds):
    result = explainer(WORD_GAMES[name])("the movie is a good bad mess", "yes", method)
    scores = torch.tensor(result.scores).double().round(decimals=9)
    truth = torch.tensor([word.word.strip() in ("good", "bad") for word in result.words])
    assert truth.sum() == 2
    assert precision_at_k(scores, truth) == (1.0 if finds else 0.0)
    assert mean_rank(scores, truth) == (1.5 if finds else 5.5)

"""A text as a game of its words, which shapiq and shap play."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from captum_sig import TextClassificationExplainer
from tests.tiny_models import MASK, bert, wordpiece_tokenizer

TEXT = "The movie is not unbelievable!"
SHORT = "bad movies!"


@pytest.fixture(scope="module")
def explainer():
    return TextClassificationExplainer(bert(), wordpiece_tokenizer())


@pytest.fixture(scope="module")
def game(explainer):
    return explainer.game(TEXT, "positive")


def all_masks(n):
    return np.array(list(itertools.product([False, True], repeat=n)))


def shapley_values(game):
    """By their definition, from all coalitions."""
    n = game.n_players
    values = dict(zip(map(tuple, all_masks(n)), game(all_masks(n)), strict=True))
    result = np.zeros(n)
    for player in range(n):
        for mask, value in values.items():
            if mask[player]:
                without = tuple(kept and i != player for i, kept in enumerate(mask))
                size = sum(without)
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                result[player] += weight * (value - values[without])
    return result


def test_values_are_the_logits_by_hand(explainer, game):
    encoding = wordpiece_tokenizer()(TEXT, return_tensors="pt")
    masks = all_masks(6)
    expected = []
    for mask in masks:
        ids = encoding["input_ids"].clone()
        ids[0, [p for p, w in enumerate(encoding.word_ids()) if w is not None and not mask[w]]] = (
            MASK
        )
        with torch.no_grad():
            logits = explainer.model(ids, attention_mask=encoding["attention_mask"]).logits
        expected.append(float(logits[0, 1]))
    assert game(masks) == pytest.approx(expected, abs=1e-10)
    assert game.value_of_all == pytest.approx(expected[-1], abs=1e-10)
    assert game.value_of_none == pytest.approx(expected[0], abs=1e-10)
    assert game.words == ["The", "movie", "is", "not", "unbelievable", "!"]
    assert (game.n_players, game.target, game.text) == (6, "POSITIVE", TEXT)
    assert repr(game) == f"Game({TEXT!r}, target='POSITIVE', n_players=6)"


def test_it_explains_as_the_explainer(explainer, game):
    result = explainer(TEXT, "positive")
    left_out = ~np.eye(6, dtype=bool)
    assert game.value_of_all - game(left_out) == pytest.approx(result.scores, abs=1e-10)
    assert explainer.game(TEXT).target == result.label


@pytest.mark.parametrize(
    "masks",
    [
        [[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]],
        [[True, False, True, True, False, True], [False, True, True, False, False, False]],
        np.array([[1.0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]]),
        np.array([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]], dtype=np.int8),
        torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]], dtype=torch.bfloat16),
        torch.tensor([[1.0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0]], requires_grad=True),
    ],
)
def test_masks_of_every_kind(game, masks):
    values = game(masks)
    assert (values.dtype, values.shape) == (np.float64, (2,))
    assert [game(mask)[0] for mask in masks] == pytest.approx(values.tolist(), abs=1e-10)
    assert game(masks[0]).shape == (1,)


def test_no_mask_has_no_value(game):
    assert game(np.zeros((0, 6), dtype=bool)).shape == (0,)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([[True] * 5], r"shape \(1, 5\); wanted True or False for each word, \(n, 6\) or \(6,\)"),
        (np.ones((1, 1, 6)), r"shape \(1, 1, 6\)"),
        (True, r"shape \(\)"),
        ([[0.5] * 6], "other values than 0 and 1"),
        ([[math.nan] * 6], "other values than 0 and 1"),
        ([[1] * 6, [1] * 5], "not an array of numbers"),
        ([["yes"] * 6], "not an array of numbers"),
        ([[None] * 6], "not an array of numbers"),
    ],
)
def test_bad_masks(game, masks, message):
    with pytest.raises(ValueError, match=message):
        game(masks)


@pytest.mark.parametrize("text", ["", "  ", "[SEP]"])
def test_a_text_without_words(explainer, text):
    with pytest.raises(ValueError, match="has no word to move: pass another"):
        explainer.game(text)


def test_several_texts_or_an_unknown_label(explainer):
    with pytest.raises(ValueError, match="unknown label 'great'"):
        explainer.game(TEXT, "great")
    with pytest.raises(TypeError):
        explainer.game([TEXT])


def test_a_word_that_does_not_differ_is_a_player_without_effect():
    explainer = TextClassificationExplainer(bert(), wordpiece_tokenizer(), baseline="unk")
    game = explainer.game("not zzz good")
    assert game.words == ["not", "zzz", "good"]
    values = game(all_masks(3)).reshape(2, 2, 2)
    assert (values[:, 0] == values[:, 1]).all()
    assert len(np.unique(values)) == 4
    with pytest.warns(UserWarning, match="nothing differs"):
        constant = explainer.game("zzz qqq")
    assert len(set(constant(all_masks(2)).tolist())) == 1
    assert constant.value_of_all == constant.value_of_none


def test_tokens_are_the_players_at_their_level(explainer):
    tokens = TextClassificationExplainer(explainer.model, wordpiece_tokenizer(), level="token")
    assert tokens.game("movies").words == ["movie", "s"]


def test_units_are_the_players_by_their_names(explainer, game):
    units = explainer.game(TEXT, "positive", units=[(0, 12, "start"), (13, 30)])
    assert units.words == ["start", "not unbelievable!"]
    together = [[a, a, a, b, b, b] for a in (0, 1) for b in (0, 1)]
    assert units(all_masks(2)) == pytest.approx(game(together), abs=1e-10)
    assert explainer.game("bad. good.", 1, level="sentence").words == ["bad.", "good."]


def test_a_random_baseline_is_drawn_once_by_the_seed():
    def made(seed):
        options = {"baseline": "uniform", "seed": seed}
        return TextClassificationExplainer(bert(), wordpiece_tokenizer(), **options).game(TEXT, 1)

    game = made(1)
    masks = all_masks(6)
    assert game(masks) == pytest.approx(game(masks), abs=1e-10)
    assert game(masks) == pytest.approx(made(1)(masks), abs=1e-10)
    assert game.value_of_none != pytest.approx(made(2).value_of_none, abs=1e-3)


def test_threads_wait_for_each_other(game):
    masks = all_masks(6)
    expected = game(masks)
    with ThreadPoolExecutor(4) as pool:
        for values in pool.map(game, [masks] * 8):
            assert values == pytest.approx(expected, abs=1e-10)


def test_the_model_is_left_as_it_was(explainer, game):
    with torch.inference_mode():
        inside = explainer.game(TEXT, "positive")(all_masks(6))
    assert inside == pytest.approx(game(all_masks(6)), abs=1e-10)
    modules = list(explainer.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert all(weight.grad is None for weight in explainer.model.parameters())


def test_a_model_that_takes_single_rows():
    model = bert()
    model.config.pad_token_id = None
    with pytest.warns(UserWarning, match="pad_token_id"):
        game = TextClassificationExplainer(model, wordpiece_tokenizer()).game(SHORT, 1)
    values = game(all_masks(3))
    expected = TextClassificationExplainer(bert(), wordpiece_tokenizer()).game(SHORT, 1)
    assert values == pytest.approx(expected(all_masks(3)), abs=1e-10)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_shapiq_plays_it(explainer, game):
    shapiq = pytest.importorskip("shapiq", exc_type=ImportError)
    exact = shapiq.ExactComputer(game, n_players=game.n_players)("SV", order=1)
    assert exact.get_n_order_values(1) == pytest.approx(shapley_values(game), abs=1e-8)
    estimate = shapiq.KernelSHAP(n=game.n_players, random_state=0).approximate(2**6, game)
    assert estimate.get_n_order_values(1) == pytest.approx(shapley_values(game), abs=1e-6)

    of_two = explainer.game(SHORT, 1)
    (pair, *_) = explainer(SHORT, 1, interactions=2).interactions
    kinds = shapiq.ExactComputer(of_two, n_players=3)("Moebius", order=3)
    three = tuple(range(3))
    second = kinds[pair.words] + kinds[three]  # the third word is at the input
    assert second == pytest.approx(pair.value, abs=1e-8)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_shapiqs_sampling_approximators_take_it(game):
    shapiq = pytest.importorskip("shapiq", exc_type=ImportError)
    for kind in (shapiq.PermutationSamplingSV, shapiq.StratifiedSamplingSV):
        estimate = kind(n=game.n_players, random_state=0).approximate(60, game)
        assert np.isfinite(estimate.get_n_order_values(1)).all()


@pytest.mark.filterwarnings("ignore")  # theirs
def test_shap_plays_it(game):
    shap = pytest.importorskip("shap", exc_type=ImportError)
    none, everything = np.zeros((1, game.n_players)), np.ones((1, game.n_players))
    expected = shapley_values(game)
    kernel = shap.KernelExplainer(game, none).shap_values(everything, silent=True)
    assert np.ravel(kernel) == pytest.approx(expected, abs=1e-6)
    exact = shap.ExactExplainer(game, none)(everything)
    assert exact.values[0] == pytest.approx(expected, abs=1e-8)
    permuted = shap.PermutationExplainer(game, none, seed=0)(everything, max_evals=200, silent=True)
    total = game.value_of_all - game.value_of_none
    assert permuted.values[0].sum() == pytest.approx(total, abs=1e-8)

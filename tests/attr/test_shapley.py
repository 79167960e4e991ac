"""Shapley values: exact in games, unbiased and as exact as they say elsewhere."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from captum_sig import (
    LayerSequentialIntegratedGradients,
    SequentialIntegratedGradients,
    contexts,
)
from captum_sig.attr.arguments import input_problem, layer_problem
from captum_sig.attr.problem import WordEffects
from captum_sig.explainers.results import agreement
from tests import oracle
from tests.problems import GAMES, Game, linear, quadratic
from tests.tiny_models import mask_baseline, tiny

IDS = torch.tensor([[2, 14, 11, 20, 13, 9, 7, 8, 16, 18, 3], [2, 7, 9, 16, 8, 3, 0, 0, 0, 0, 0]])
W = 8


def seeded(seed: int, **options) -> contexts.Auto:
    return contexts.auto(**options, generator=torch.Generator().manual_seed(seed))


def effects_of(f, x: Tensor, auto=None, **options) -> WordEffects:
    return input_problem(f, x, contexts=auto or seeded(0), **options).word_effects()


class Counted:
    """F, and the rows that it is asked for."""

    def __init__(self, f) -> None:
        self.f, self.n_rows, self.n_calls = f, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.n_rows += len(x)
        self.n_calls += 1
        return self.f(x)


def rows_of(f, x: Tensor, auto) -> int:
    """Rows without the one that shows whether rows depend on each other."""
    counted = Counted(f)
    effects_of(counted, x, auto)
    return counted.n_rows - 1


def random_game(seed: int, roughness: float = 1.0):
    """Values of all sets of W words, with any interactions."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2**W, generator=generator, dtype=torch.float64)
    number = 2 ** torch.arange(W)
    return lambda x: roughness * values[(x[..., 0].long() * number).sum(1)] + x.sum((1, 2))


def smooth_game(seed: int):
    """Units that saturate, as in a network."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(2, 30, W, generator=generator, dtype=torch.float64)
    return lambda x: torch.tanh(x[..., 0] @ weight.T + bias[:, 0]).sum(1)


def ones(n_words: int = W, n_examples: int = 1) -> Tensor:
    return torch.ones(n_examples, n_words, 1, dtype=torch.float64)


def exact_values(f, n_words: int = W) -> Tensor:
    x = ones(n_words)
    return oracle.shapley_values(f, x, torch.zeros_like(x), [[i] for i in range(n_words)])


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.name)
def test_games_come_out_in_closed_form(game: Game):
    found = effects_of(game.f, game.x)
    expected = torch.tensor(game.shapley, dtype=torch.float64)
    torch.testing.assert_close(found.mean, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.residual, torch.zeros(1).double(), atol=1e-12, rtol=0)
    assert (found.standard_error.nan_to_num(0.0) < 1e-12).all()
    assert rows_of(game.f, game.x, seeded(0)) <= 32 * (len(expected) + 1)


@pytest.mark.parametrize("game", [g for g in GAMES if len(g.shapley) <= 6], ids=lambda g: g.name)
def test_the_closed_forms_are_those_of_the_oracle(game: Game):
    expected = torch.tensor(game.shapley, dtype=torch.float64)
    torch.testing.assert_close(exact_values(game.f, len(expected)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("f", [linear, quadratic], ids=["linear", "quadratic"])
def test_additive_models_cost_both_sides_and_no_more(f):
    x = torch.linspace(1, 2, 12, dtype=torch.float64).reshape(1, 4, 3)
    assert rows_of(f, x, contexts.two_sided) == rows_of(f, x, seeded(0)) == 2 * (4 + 1)
    found = effects_of(f, x)
    assert torch.equal(found.standard_error, torch.zeros(4).double())
    torch.testing.assert_close(found.mean, effects_of(f, x, contexts.input).mean)


def test_few_words_are_listed_where_the_rows_allow_it():
    for f, seed in itertools.product([random_game, smooth_game], range(3)):
        game = f(seed)
        six = lambda x, game=game: game(torch.cat([x, x.new_zeros(len(x), 2, 1)], 1))  # noqa: E731
        found = effects_of(six, ones(6))
        torch.testing.assert_close(found.mean, exact_values(six, 6), atol=1e-12, rtol=0)
        assert found.standard_error.eq(0).all()
        assert rows_of(six, ones(6), seeded(0)) == 2**6
        assert effects_of(six, ones(6), seeded(0, max_rows=60)).standard_error.ne(0).all()


@pytest.mark.parametrize("make", [random_game, smooth_game])
@pytest.mark.parametrize("max_rows", [None, 120])
def test_estimates_are_unbiased_and_as_exact_as_they_say(make, max_rows):
    game, n = make(3), 120
    exact = exact_values(game)
    batch = [seeded(seed, tolerance=0.05, max_rows=max_rows) for seed in range(n)]
    found = effects_of(game, ones(W, n), batch)
    means, errors = found.mean.view(n, W), found.standard_error.view(n, W)
    sampled = ~errors.isnan().any(0)
    assert sampled.sum() >= 4
    off = (means - exact)[:, sampled]
    assert (off.mean(0).abs() < 4 * off.std(0) / n**0.5).all()
    held = (off.abs() <= 1.96 * errors[:, sampled]).double().mean()
    assert 0.88 <= held <= 0.98
    two_sided = (found.first + found.last).view(n, W) / 2
    assert torch.equal(means[:, ~sampled], two_sided[:, ~sampled])


def test_the_tolerance_is_reached_or_the_rows_are_spent():
    game = smooth_game(1)
    largest = effects_of(game, ones(), contexts.two_sided).mean.abs().max()
    for tolerance in (0.3, 0.1, 0.03):
        found = effects_of(game, ones(), seeded(0, tolerance=tolerance, max_rows=10_000))
        assert (found.standard_error.nan_to_num(0.0) <= tolerance * largest).all()
    n_rows = [rows_of(game, ones(), seeded(0, tolerance=t)) for t in (0.3, 0.1, 1e-6)]
    assert n_rows == sorted(n_rows)
    assert 31 * (W + 1) < n_rows[-1] <= 32 * (W + 1)


@pytest.mark.parametrize("max_rows", [1, 18, 19, 41, 42, 43, 60, 97, 150, 700])
def test_no_row_beyond_the_most_is_evaluated(max_rows):
    n_rows = rows_of(random_game(0), ones(), seeded(0, tolerance=1e-6, max_rows=max_rows))
    assert n_rows <= max(max_rows, 2 * (W + 1))  # both sides are always evaluated
    assert n_rows > min(max_rows, 2**W) - 2 * 2 * (W + 1)


def test_few_rows_go_to_the_words_that_disagree_most():
    game = smooth_game(2)
    most = effects_of(game, ones(), seeded(0, max_rows=2 * (W + 1) + 2 * 6 * 3))
    sides = effects_of(game, ones(), contexts.two_sided)
    sampled = ~most.standard_error.isnan()
    differences = (sides.first - sides.last).abs()
    assert 1 <= sampled.sum() <= 2
    assert differences[sampled].min() > differences[~sampled].max()
    assert torch.equal(most.mean[~sampled], sides.mean[~sampled])


@pytest.fixture(scope="module")
def bert():
    return tiny("bert")


def of_ids(bert, ids: Tensor, autos, **options) -> WordEffects:
    return layer_problem(
        bert.logits, bert.embedding, ids, baselines=mask_baseline(ids), target=1,
        contexts=autos, additional_forward_args=(ids != 0).long(), **options,
    ).word_effects()  # fmt: skip


def test_a_batch_equals_its_texts_one_by_one_in_values_errors_rows_and_rounds(bert):
    rows: list[int] = []
    hook = bert.model.register_forward_hook(lambda *call: rows.append(len(call[2].logits)))
    options = {"tolerance": 0.01, "max_rows": 250}
    try:
        batch = of_ids(bert, IDS, [seeded(5, **options), seeded(6, **options)])
        of_batch = sum(rows)
        rows.clear()
        singles = [
            of_ids(bert, IDS[:1], seeded(5, **options)),
            of_ids(bert, IDS[1:, :6], seeded(6, **options)),
        ]
    finally:
        hook.remove()
    for name in ("mean", "standard_error", "residual", "first", "last"):
        alone = torch.cat([getattr(single, name) for single in singles])
        torch.testing.assert_close(getattr(batch, name), alone, atol=1e-10, rtol=0, equal_nan=True)
    assert sum(rows) - of_batch == 1  # the row alone that each call's first chunk checks
    assert batch.standard_error[: len(singles[0].mean)].gt(0).any()


def test_texts_of_a_round_go_to_the_model_together():
    counted = Counted(smooth_game(0))
    effects_of(counted, ones(W, 20), seeded(0, tolerance=0.5), internal_batch_size=10**6)
    assert counted.n_calls <= 4  # both sides, one row alone, one round


def test_examples_that_share_a_generator_draw_in_turn():
    game = smooth_game(0)
    both = effects_of(game, ones(W, 2), seeded(7))
    shared = torch.Generator().manual_seed(7)
    in_turn = [effects_of(game, ones(), contexts.auto(generator=shared)).mean for _ in range(2)]
    torch.testing.assert_close(both.mean, torch.cat(in_turn), atol=1e-12, rtol=0)
    assert not torch.equal(*in_turn)


def test_draws_depend_on_the_seed_alone(bert):
    found = [of_ids(bert, IDS[:1], seeded(seed, max_rows=150)).mean for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("size", [1, 7])
def test_internal_batches_change_nothing(bert, size):
    expected = of_ids(bert, IDS, seeded(0, max_rows=150))
    found = of_ids(bert, IDS, seeded(0, max_rows=150), internal_batch_size=size)
    for name in ("mean", "standard_error", "residual"):
        of_both = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(*of_both, atol=1e-10, rtol=0, equal_nan=True)


def test_only_selected_words_are_sampled(bert):
    problem = layer_problem(
        bert.logits, bert.embedding, IDS[:1], baselines=mask_baseline(IDS[:1]), target=1,
        contexts=seeded(0),
    )  # fmt: skip
    selected = torch.arange(problem.paths.n_words) % 3 == 0
    found = problem.word_effects(selected)
    assert found.mean[selected].isfinite().all()
    assert found.standard_error[selected].isfinite().any()
    assert found.mean[~selected].isnan().all()
    assert found.standard_error[~selected].isnan().all()


def test_texts_without_words_are_nothing_to_draw():
    x = torch.zeros(2, 4, 1)
    with pytest.warns(UserWarning, match="nothing differs"):
        assert effects_of(nn.Flatten(), x, target=0).mean.shape == (0,)
    x[1] = 1
    found = effects_of(lambda x: x.prod(1).sum(-1), x)
    torch.testing.assert_close(found.mean, torch.full((4,), 0.25))


def test_half_precision_is_no_agreement():
    def rounded(x: Tensor) -> Tensor:
        return smooth_game(0)(x.double()).to(torch.bfloat16)

    found = effects_of(rounded, ones().to(torch.bfloat16))
    sampled = found.standard_error.isfinite()
    assert sampled.sum() > 3
    off = (found.mean.double() - exact_values(smooth_game(0)))[sampled].abs()
    assert (off < 4 * found.standard_error[sampled]).all()


@pytest.mark.parametrize(
    ("name", "words", "label"),
    [("or", [0, 1], "redundant"), ("or_of_all", range(20), "redundant"),
     ("and", [0, 1], "synergistic"), ("and_beside_others", [2, 3, 4], "synergistic"),
     ("and_beside_others", [0, 1], "additive"), ("nested", [0], "synergistic"),
     ("turned", [0], "synergistic"), ("turned", [2], "additive")],
)  # fmt: skip
def test_agreement_says_the_kind_of_a_game(name, words, label):
    game = next(game for game in GAMES if game.name == name)
    found = effects_of(game.f, game.x)
    largest = float(found.mean.abs().max())
    for word in words:
        assert agreement(float(found.first[word]), float(found.last[word]), largest) == label


def test_word_scores_are_the_same_values():
    game = smooth_game(0)
    scores = SequentialIntegratedGradients(game).attribute_words(ones(), contexts=seeded(0))
    assert torch.equal(scores[0], effects_of(game, ones()).mean)


def test_gradients_are_refused(bert):
    base = mask_baseline(IDS)
    layer = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
    plain = SequentialIntegratedGradients(linear)
    x = torch.ones(1, 4, 3)
    for call in (
        lambda: layer.attribute(IDS, base, 1, contexts=contexts.auto()),
        lambda: layer.integrate(IDS, base, 1, contexts=contexts.auto()),
        lambda: plain.attribute(x, contexts=contexts.auto()),
        lambda: plain.integrate(x, contexts=contexts.auto(), tolerance=0.1),
        lambda: plain.compute_convergence_delta(x, 0, x, contexts=contexts.auto()),
    ):
        with pytest.raises(ValueError, match=r"contexts\.auto samples scores .* attribute_words"):
            call()


def test_contexts_of_a_batch_are_all_auto_or_none():
    with pytest.raises(ValueError, match=r"contexts\.auto must be those of all examples"):
        effects_of(linear, torch.ones(2, 4, 3), [contexts.auto(), contexts.two_sided])

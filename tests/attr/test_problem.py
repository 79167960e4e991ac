"""Both sides of a word, and rows with any of the words."""

import itertools

import pytest
import torch
from torch import Tensor

from captum_sig import SequentialIntegratedGradients, contexts
from captum_sig.attr.arguments import input_problem
from captum_sig.attr.word_paths import NotFiniteError
from tests import oracle

X = torch.linspace(0.4, 2.0, 2 * 5 * 3, dtype=torch.float64).reshape(2, 5, 3)
B = torch.full_like(X, 0.25)
B[:, 2] = X[:, 2]  # a position that does not differ
B[1, 0] = X[1, 0]
WORDS = [[0], [1, 4], [3]]
MASK = torch.tensor([[7, 3, 9, 5, 3]])


def f(x: Tensor) -> Tensor:
    """Words act on each other."""
    return (x[:, :-1] * x[:, 1:].cos()).sum((1, 2)).sin() + x.prod(1).sum(-1)


def problem(chosen=None, **options):
    return input_problem(f, X, baselines=B, feature_mask=MASK, contexts=chosen, **options)


def at_words(held: Tensor, example: int) -> Tensor:
    """The oracle's differences at the first position of each word that moves, by number."""
    return torch.stack([held[0, position] for position in ((1, 3, 0), (1, 3))[example]])


@pytest.mark.parametrize("kept", [True, False])
def test_both_sides_of_a_word_equal_the_oracle(kept):
    effects = problem(contexts.two_sided).word_effects()
    expected = []
    for example in range(2):
        x, b = X[example : example + 1], B[example : example + 1]
        differences = torch.zeros(1, 5, dtype=X.dtype)
        for word, positions in enumerate(WORDS):
            held = oracle.in_background(x, b, WORDS, [kept] * 3, word)
            differences += oracle.word_differences(f, held, b, [positions])
        expected.append(at_words(differences, example))
    side = effects.last if kept else effects.first
    torch.testing.assert_close(side, torch.cat(expected), atol=1e-12, rtol=0)
    torch.testing.assert_close(effects.mean, (effects.first + effects.last) / 2)


def test_a_side_that_no_background_shows_is_nan():
    keeps = torch.tensor([[True, True, False], [False, False, False]])
    effects = problem(lambda n: keeps[:, :n]).word_effects()
    assert effects.first[:3].isfinite().all()
    assert effects.last[:3].isnan().tolist() == [True, True, False]  # 5 moves among 3 and 7


def test_the_input_alone_has_one_side():
    effects = problem().word_effects()
    assert effects.first is None is effects.last


@pytest.mark.parametrize("chosen", [None, contexts.two_sided])
def test_selected_words_have_the_effects_that_all_have(chosen):
    everything = problem(chosen).word_effects()
    selected = torch.tensor([False, True, True, True, False])
    effects = problem(chosen).word_effects(selected)
    assert torch.equal(effects.mean[selected], everything.mean[selected])
    assert effects.mean[~selected].isnan().all()
    assert torch.equal(effects.value_at_input, everything.value_at_input)


@pytest.mark.parametrize("max_rows", [None, 3])
def test_rows_keep_any_of_an_examples_words(max_rows):
    sets = torch.tensor(list(itertools.product([True, False], repeat=3)))
    example = torch.tensor([0, 1]).repeat_interleave(8)
    values = problem(internal_batch_size=max_rows).coalition_values(example, sets.repeat(2, 1))
    for row, keeps in enumerate(sets.repeat(2, 1).tolist()):
        e = int(example[row])
        numbers = ([[1, 4], [3], [0]], [[1, 4], [3]])[e]  # in the order of the mask's numbers
        x = X[e : e + 1]
        for positions, keep in zip(numbers, keeps, strict=False):
            x = x if keep else oracle.at_baseline(x, B[e : e + 1], positions)
        torch.testing.assert_close(values[row : row + 1], f(x), atol=1e-12, rtol=0)


def test_both_sides_cost_the_rows_of_two_backgrounds():
    n_rows = []

    def counted(x: Tensor) -> Tensor:
        n_rows.append(len(x))
        return f(x)

    input_problem(
        counted, X, baselines=B, feature_mask=MASK, contexts=contexts.two_sided,
        internal_batch_size=1,
    ).word_effects()  # fmt: skip
    assert sum(n_rows) == 2 * (3 + 1) + 2 * (2 + 1)


def test_a_set_of_words_that_is_not_finite_is_named():
    def broken(x: Tensor) -> Tensor:
        return f(x) / (x[:, 0, 0] != B[0, 0, 0]).double()

    made = input_problem(broken, X[:1], baselines=B[:1], feature_mask=MASK)
    with pytest.raises(NotFiniteError, match="some of its words at the baseline"):
        made.coalition_values(torch.tensor([0]), torch.zeros(1, 3, dtype=torch.bool))


def test_the_integral_has_both_sides_too():
    integral = SequentialIntegratedGradients(f).integrate(
        X, B, feature_mask=MASK, contexts=contexts.two_sided, n_steps=20
    )
    effects = problem(contexts.two_sided).word_effects()
    torch.testing.assert_close(integral.last[0, [1, 3, 0]], effects.last[:3])
    torch.testing.assert_close(integral.first[0, [1, 3, 0]], effects.first[:3])

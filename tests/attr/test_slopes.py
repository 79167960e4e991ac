"""Slopes of words at points of their own, against one row and one gradient at a time."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from captum_sig.attr.arguments import input_problem
from captum_sig.attr.slopes import ranks, slopes
from captum_sig.attr.word_paths import NotFiniteError
from tests.attr.test_chunks import LimitedExpert, SharedScale
from tests.problems import PROBLEMS, D, L

B, R = 3, 4
WORDS = [[[0], [1, 2], [3]], [[0, 3], [1], [2]], [[0, 1, 2, 3]]]  # of each example


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, X_BAR = drawn(B, L, D, seed=1), drawn(B, L, D, seed=2)
FRACTIONS = torch.rand(R, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def mask_of(words: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    mask = torch.zeros(len(words), L, dtype=torch.long)
    for example, of_example in enumerate(words):
        for number, positions in enumerate(of_example):
            mask[example, positions] = number
    return mask


def one_by_one(f: Callable[[Tensor], Tensor], fractions: Tensor) -> Tensor:
    """(R, P), by the definition."""
    columns = []
    for example, words in enumerate(WORDS):
        x, b = X[example : example + 1], X_BAR[example : example + 1]
        first = sum(map(len, WORDS[:example]))
        found = []
        for row in fractions:
            z = b.clone()
            for number, positions in enumerate(words):
                z[:, positions] += row[first + number] * (x - b)[:, positions]
            z.requires_grad_()
            (gradient,) = torch.autograd.grad(f(z).sum(), z)
            of_position = (gradient * (x - b)).sum(-1)[0]
            found.append(torch.stack([of_position[positions].sum() for positions in words]))
        columns.append(torch.stack(found))
    return torch.cat(columns, dim=1)


@pytest.mark.parametrize("max_rows", [None, 1, 2, 5])
@pytest.mark.parametrize("known", PROBLEMS, ids=lambda known: known.name)
def test_slopes_are_those_of_single_rows(known, max_rows):
    problem = input_problem(
        known.f, X, baselines=X_BAR, feature_mask=mask_of(WORDS), internal_batch_size=max_rows
    )
    torch.testing.assert_close(slopes(problem, FRACTIONS), one_by_one(known.f, FRACTIONS))


def test_the_slope_of_a_linear_function_is_its_effect():
    problem = input_problem(PROBLEMS[0].f, X, baselines=X_BAR)
    found = slopes(problem, torch.rand(2, B * L))
    torch.testing.assert_close(found, problem.word_effects().mean.expand(2, -1))


@pytest.mark.parametrize("kind", [SharedScale, LimitedExpert])
def test_rows_that_depend_on_each_other_are_evaluated_one_by_one(kind):
    module = kind()

    def f(x: Tensor) -> Tensor:
        return module(x).prod(1).sum(-1)

    problem = input_problem(f, X, baselines=X_BAR, feature_mask=mask_of(WORDS))
    with pytest.warns(UserWarning, match="depends on the rows beside it"):
        found = slopes(problem, FRACTIONS)
    torch.testing.assert_close(found, one_by_one(f, FRACTIONS))


def test_words_that_do_not_differ_cost_nothing():
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x.square().sum((1, 2))

    b = X_BAR.clone()
    b[1], b[2, 1] = X[1], X[2, 1]
    problem = input_problem(f, X, baselines=b, internal_batch_size=100)
    found = slopes(problem, torch.ones(1, len(problem.paths)))
    assert seen == [1, 2]  # the last row alone, then the two examples in which something differs
    scattered = problem.paths.scatter(found[0])[0]
    torch.testing.assert_close(scattered, (2 * X * (X - b)).sum(-1))
    assert (scattered[1] == 0).all()
    with pytest.warns(UserWarning, match="nothing differs"):
        nothing = input_problem(f, X, baselines=X)
    assert slopes(nothing, torch.ones(3, 0)).shape == (3, 0)


def test_ends_of_the_way_are_exact():
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return x.square().sum((1, 2))

    x, b = X[:1] * 1e3 + 1 / 3, X_BAR[:1] / 7
    slopes(input_problem(f, x, baselines=b), torch.tensor([[0.0] * L, [1.0] * L]))
    assert torch.equal(seen[-1], torch.cat([b, x]))


def test_a_row_that_is_not_finite_names_the_example_and_the_word():
    def f(x: Tensor) -> Tensor:
        return x.sqrt().sum((1, 2))

    x, b = X.abs() + 1, X_BAR.abs() + 1
    b[1, 2] = 0
    problem = input_problem(f, x, baselines=b)
    with pytest.raises(NotFiniteError, match=r"gradient is not finite for example 1, word 2"):
        slopes(problem, torch.zeros(1, B * L))
    b[1, 2] = -1
    with pytest.raises(NotFiniteError, match="output is not finite for example 1, with words"):
        slopes(input_problem(f, x, baselines=b), torch.zeros(1, B * L))


def test_ranks_are_those_within_the_example():
    scores, example = drawn(20), torch.tensor([0] * 4 + [1] * 11 + [5] * 5)
    rank, n_words = ranks(scores, example)
    for number in example.unique():
        mine = example == number
        assert torch.equal(scores[mine].argsort(descending=True), rank[mine].argsort())
        assert (n_words[mine] == mine.sum()).all()
    rank, _ = ranks(torch.zeros(20), example)
    assert rank.tolist() == [*range(4), *range(11), *range(5)]  # equal scores: by position

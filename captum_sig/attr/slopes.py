"""Slopes of F at points where each word stands at its own fraction of the way from b to x.

    slope_w(α) = Σ_j ∂F(z)/∂z_wj (x_wj − b_wj)          z_v = b_v + α_v (x_v − b_v) for every word v

One row yields the slopes of all its words, at the cost of a forward and a backward pass: what F
would change by if it went on along w as it does at z. B, L, D, P as in `word_paths`; R rows of each
example are evaluated in the same pass.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from captum_sig.attr.function import RowFunction, Tensors
from captum_sig.attr.problem import Problem, plain_tensors
from captum_sig.attr.word_paths import UNMOVED, NotFiniteError, WordPaths, all_finite


@plain_tensors()
def slopes(
    problem: Problem, fractions: Tensor, within: AbstractContextManager[object] | None = None
) -> Tensor:
    """Compute slope_w(α) of every word, in R rows of each example.

    Args:
        problem: F and the P words that move, in the input itself.
        fractions: α of each word in each row, (R, P), in [0, 1].
        within: a context for the model's forward passes, such as `Held`; it is entered repeatedly.

    Returns:
        (R, P), at least float32, in units of F.

    Raises:
        NotFiniteError: if F or its gradient is not finite in a row.
    """
    paths, n_rows = problem.paths, len(fractions)
    function = problem.function if within is None else _within(problem.function, within)
    fractions = fractions.to(paths.device, paths.dtype)
    totals = fractions.new_zeros(n_rows, len(paths) + 1)  # UNMOVED indexes the last
    examples = paths.background.unique()  # where something moves

    def at(rows: slice) -> tuple[Tensor, Tensor]:  # row of its example, and example; (N,) both
        number = torch.arange(rows.start, rows.stop, device=paths.device)
        return number % n_rows, examples[number // n_rows]

    def evaluate(rows: slice) -> tuple[Tensor, Tensors]:
        row, example = at(rows)
        values, gradients = function.gradients(_points(paths, fractions, row, example), example)
        _require_finite(paths, values, gradients, example)
        return values, gradients

    with problem.chunks as chunks:
        last_alone = None
        if chunks.size > 1 and not chunks.is_checked and n_rows * len(examples) > 1:
            if paths.n_examples == 1 and bool((fractions[-1] == 1).all()):
                last_alone = problem.value_at_input
            if last_alone is None:  # a forward pass alone, where `chunks` would go backward too
                row, example = fractions.new_tensor([n_rows - 1]).long(), examples[-1:]
                last_alone = function.values(_points(paths, fractions, row, example), example)
        for rows, (_, gradients) in chunks.map(evaluate, n_rows * len(examples), last_alone):
            row, example = at(rows)
            _add_products(totals, paths, gradients, row, example)
    return totals[:, :-1]


def _within(function: RowFunction, context: AbstractContextManager[object]) -> RowFunction:
    def forward(rows: Tensors, example: Tensor) -> object:
        with context:
            return function.forward(rows, example)

    return replace(function, forward=forward)


def _points(paths: WordPaths, fractions: Tensor, row: Tensor, example: Tensor) -> Tensors:
    """Z of each row, (N, L, …); new tensors."""
    with_one = torch.cat([fractions, fractions.new_ones(len(fractions), 1)], dim=1)
    points = []
    for x, b, of in zip(paths.points, paths.baselines, paths.path_of, strict=True):
        start, end = b[example].to(fractions.dtype), x[example].to(fractions.dtype)
        alpha = with_one[row[:, None], of[example]]
        alpha = alpha.view(*alpha.shape, *[1] * (x.dim() - 2))
        points.append(torch.lerp(start, end, alpha).to(x.dtype))
    return tuple(points)


def _require_finite(paths: WordPaths, values: Tensor, gradients: Tensors, example: Tensor) -> None:
    if not values.isfinite().all():
        failed = int(example[int(values.isfinite().int().argmin())])
        raise NotFiniteError("output", failed, "with words between the baseline and the input")
    for of, gradient in zip(paths.path_of, gradients, strict=True):
        row, position = (of[example] != UNMOVED).nonzero(as_tuple=True)
        finite, number = all_finite(gradient[row, position]), example[row]
        paths.require_finite("gradient", finite, number, of[number, position])


def _add_products(
    totals: Tensor,  # (R, P + 1), changed in place
    paths: WordPaths,
    gradients: Tensors,  # (N, L, …)
    row: Tensor,  # (N,)
    example: Tensor,  # (N,)
) -> None:
    """Add Σ_j gradient · (x − b) to each word's total."""
    for x, b, of, gradient in zip(
        paths.points, paths.baselines, paths.path_of, gradients, strict=True
    ):
        products = gradient.to(totals) * (x[example].to(totals) - b[example].to(totals))
        per_position = products.flatten(2).sum(-1) if products.dim() > 2 else products
        place = row[:, None].expand_as(per_position), of[example]
        totals.index_put_(place, per_position, accumulate=True)


def ranks(scores: Tensor, example: Tensor) -> tuple[Tensor, Tensor]:
    """Rank each word among those of its example; of equal scores, the earlier word ranks higher.

    Args:
        scores: (P,).
        example: of each word, ascending, (P,).

    Returns:
        the ranks, 0 for the highest score, and the number of the example's words, (P,) both.

    >>> ranks(torch.tensor([1.0, 3.0, 3.0, 7.0, 8.0]), torch.tensor([0, 0, 0, 2, 2]))
    (tensor([2, 0, 1, 1, 0]), tensor([3, 3, 3, 2, 2]))
    """
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[example[by_score].argsort(stable=True)]
    counts = torch.bincount(example)
    first = (counts.cumsum(0) - counts)[example]  # of the example's words
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank - first, counts[example]

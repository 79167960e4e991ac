"""F at the ends of paths from baseline to input, and integrals along them by a fixed rule.

B, L, D, S as in the legend of `sig`, backgrounds and paths as in `word_paths`; R is the number of
rows in a chunk, M the number of positions that they move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from captum_sig.attr.chunks import Chunks
from captum_sig.attr.function import RowFunction, Tensors
from captum_sig.attr.word_paths import (
    ANY_WORDS,
    NO_PATH,
    Places,
    WordPaths,
    all_finite,
    like,
)
from captum_sig.quadrature import Rule


class Steps(Protocol):
    """A path from baseline to input in S steps, and the weight of the gradient at each."""

    def __len__(self) -> int: ...

    def at(
        self,
        place: Places,  # example and position of each point, (M,) both
        step: Tensor,  # (M,) in 0 … S − 1
        start: Tensor,  # (M, …): the baseline there
        end: Tensor,  # (M, …): the input there
    ) -> tuple[Tensor, Tensor]:
        """Return the points, (M, …), and the gradient's weights, which broadcast with them.

        A position's weights sum to one over the steps, in every feature.
        """


WordPath = Callable[[nn.Module, Tensor, Tensor], Steps]
"""A path of the caller's, such as `dig.DiscretizedPath`: the word embedding, the token ids that it
received (B, L), and the baseline (B, L, D) → the steps from the baseline to the ids' embeddings.
"""


@dataclass(frozen=True)
class StraightLine:
    """The straight line, at the nodes of a quadrature rule."""

    rule: Rule

    def __len__(self) -> int:
        return len(self.rule.nodes)

    def at(self, place: Places, step: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """b + α (x − b), and the node's weight."""
        nodes, weights = (
            like(torch.tensor(values, dtype=start.dtype, device=start.device)[step], start)
            for values in (self.rule.nodes, self.rule.weights)
        )
        return start + nodes * (end - start), weights


@dataclass(frozen=True)
class Averages:
    """The average gradient along the paths, over each word's backgrounds, and what it cost."""

    gradients: Tensors  # shaped as the points, at least float32; zero where nothing moves
    output_changes: Tensor  # (K · P,): F at each path's end − F at its start
    n_evaluations: Tensor  # (K · P,): gradients; a background's own may be shared by its words
    converged: Tensor  # (K · P,): False where a tolerance was requested and not met


Integrate = Callable[[RowFunction, WordPaths, Chunks], Averages]


def path_ends(
    function: RowFunction,
    paths: WordPaths,
    chunks: Chunks,
    last_alone: Tensor | None = None,
    selected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate F at the end of each path (its word at the input) and its start (at the baseline).

    Forward passes only: one for each path, and one for each background, since it is one end of all
    its paths.

    Args:
        function: F.
        paths: P of them in K backgrounds.
        chunks: how many rows are evaluated at a time.
        last_alone: F of the last background, (1, …), if it was evaluated without other rows.
        selected: numbers of the N paths to evaluate, ascending, (N,); None is all.

    Returns:
        (N, …) and (N, …), with the further dimensions of F's values if there are any.
    """
    if selected is None:
        selected = torch.arange(len(paths), device=paths.device)
    backgrounds, of_path = paths.background[selected].unique(return_inverse=True)
    background = torch.cat([paths.background[selected], backgrounds])
    path = torch.cat([selected, torch.full_like(backgrounds, NO_PATH)])

    def evaluate(rows: slice) -> tuple[Tensor]:
        bg, moved = background[rows], path[rows]
        places = paths.places(bg, moved)
        values = []
        for number, (row, position) in enumerate(places):
            start, end = paths.ends(number, paths.example_of(bg[row]), position)
            values.append(torch.where(like(paths.keeps[moved[row]], start), start, end))
        outputs = function.values(paths.rows(bg, places, values), paths.example_of(bg))
        paths.require_finite("output", all_finite(outputs), bg, moved)
        return (outputs,)

    results = chunks.map(evaluate, len(background), last_alone)
    outputs = [values for _, (values,) in results] or [torch.zeros(0, dtype=paths.dtype)]
    both = torch.cat(outputs).to(background.device)
    changed, of_background = both.split([len(selected), len(backgrounds)])
    held, keeps = of_background[of_path], like(paths.keeps[selected], changed)
    return torch.where(keeps, held, changed), torch.where(keeps, changed, held)


def coalition_values(
    function: RowFunction, paths: WordPaths, chunks: Chunks, example: Tensor, keeps: Tensor
) -> Tensor:
    """Evaluate F with some of each example's words at the input, all others at the baseline.

    Args:
        function: F.
        paths: what moves.
        chunks: how many rows are evaluated at a time.
        example, keeps: (R,) and (R, W), as in `WordPaths.coalition_rows`.

    Returns:
        (R, …), one value for each row.
    """

    def evaluate(rows: slice) -> tuple[Tensor]:
        of_rows = example[rows]
        outputs = function.values(paths.coalition_rows(of_rows, keeps[rows]), of_rows)
        where = torch.full_like(of_rows, ANY_WORDS)
        paths.require_finite("output", all_finite(outputs), of_rows, where)
        return (outputs,)

    outputs = [values for _, (values,) in chunks.map(evaluate, len(example))]
    return torch.cat(outputs or [torch.zeros(0, dtype=paths.dtype)]).to(paths.device)


def path_gradients(
    function: RowFunction,
    paths: WordPaths,
    path: Tensor,  # (R,)
    places: list[Places],  # as from `paths.places`
    values: list[Tensor],  # (M, …) per tensor: the values at those places
) -> tuple[Tensor, list[Tensor]]:
    """Evaluate F, (R,), and per tensor ∇F at the moved positions, (M, …), in one pass."""
    background = paths.background[path]
    rows = paths.rows(background, places, values)
    outputs, grads = function.gradients(rows, paths.example_of(background))
    paths.require_finite("output", outputs.isfinite(), background, path)
    parts = []
    for grad, (row, position) in zip(grads, places, strict=True):
        part = grad[row, position]
        paths.require_finite("gradient", all_finite(part), background[row], path[row])
        parts.append(part)
    return outputs, parts


def by_steps(
    function: RowFunction,
    paths: WordPaths,
    chunks: Chunks,
    steps: Sequence[Steps],
) -> Averages:
    """Average ∇_w F along every path, at the same steps: one path for all tensors, or for each."""
    of_tensor = steps if len(steps) > 1 else [*steps] * len(paths.points)
    at_end, at_start = path_ends(function, paths, chunks)
    totals = paths.zeros()
    n_steps = len(of_tensor[0])

    def evaluate(rows: slice) -> tuple[Tensor, list[tuple[Places, Tensor]]]:
        number = torch.arange(rows.start, rows.stop, device=paths.background.device)
        path, step = number // n_steps, number % n_steps
        background = paths.background[path]
        places = paths.places(background, path)
        totals_at, points, weights = [], [], []
        for tensor, (row, position) in enumerate(places):
            place = paths.example_of(background[row]), position
            point, weight = of_tensor[tensor].at(place, step[row], *paths.ends(tensor, *place))
            totals_at.append(place)
            points.append(point)
            weights.append(weight)
        values, gradients = path_gradients(function, paths, path, places, points)
        return values, [
            (place, gradient * weight)
            for place, gradient, weight in zip(totals_at, gradients, weights, strict=True)
        ]

    for _, (_, parts) in chunks.map(evaluate, len(paths) * n_steps):
        for total, (place, part) in zip(totals, parts, strict=True):
            part = part.to(total.dtype) / paths.n_backgrounds
            total.index_put_(place, part, accumulate=True)
    return Averages(
        gradients=totals,
        output_changes=at_end - at_start,
        n_evaluations=torch.full_like(paths.background, n_steps),
        converged=torch.ones_like(paths.background, dtype=torch.bool),
    )

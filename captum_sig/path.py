"""Which rows to evaluate: move one word, hold the others.

The engine behind both classes of `sig`. B, L, D, W, S as in the legend of `sig`; R is the rows of
a chunk and P the *moves*: the (example, word) pairs whose positions differ from the baseline.
Only they cost anything.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig.chunks import Chunks
from captum_sig.function import RowFunction, Tensors, at_least_float32
from captum_sig.quadrature import Rule

UNMOVED = -1  # in `Moves.move_of`: no move concerns this position
NOTHING = -2  # as a row's move: the row of the unchanged input


class NotFiniteError(FloatingPointError):
    """The model gave a value or gradient that is not finite; names the example and the word."""

    def __init__(self, what: str, example: int, where: str) -> None:
        """Keep the parts: who batches examples can name them as its caller does."""
        super().__init__(
            f"the model's {what} is not finite for example {example}, {where}: "
            "check the model and its inputs, or use a wider dtype"
        )
        self.what, self.example, self.where = what, example, where


@dataclass(frozen=True)
class Moves:
    """The input x, the baseline b, and which positions go together from b to x."""

    points: Tensors  # x, each (B, Lₜ, …)
    baselines: Tensors  # b, as x
    move_of: Tensors  # (B, Lₜ): number of the move that a position belongs to, or UNMOVED
    example: Tensor  # (P,): example of each move, ascending
    word: Tensor  # (P,): its number in the feature mask

    @classmethod
    def between(cls, points: Tensors, baselines: Tensors, masks: Tensors) -> Moves:
        """Find the words that differ; `masks` holds word numbers, (B, Lₜ) each."""
        n_examples = points[0].shape[0]
        device = points[0].device
        numbers, number_of = torch.cat(masks, dim=1).to(device).unique(return_inverse=True)
        keys = torch.arange(n_examples, device=device)[:, None] * len(numbers) + number_of
        pairs, pair_of = keys.unique(return_inverse=True)  # (example, word) in ascending order
        differs = torch.cat(
            [(x != b).flatten(2).any(-1) if x.dim() > 2 else x != b
             for x, b in zip(points, baselines, strict=True)],
            dim=1,
        )  # fmt: skip
        moves = torch.zeros(len(pairs), dtype=torch.bool, device=device)
        moves[pair_of[differs]] = True
        renumbered = torch.where(moves, moves.cumsum(0) - 1, UNMOVED)
        return cls(
            points=points,
            baselines=baselines,
            move_of=renumbered[pair_of].split([x.shape[1] for x in points], dim=1),
            example=pairs[moves] // len(numbers),
            word=numbers[pairs[moves] % len(numbers)],
        )

    def __len__(self) -> int:
        """P, the number of moves."""
        return len(self.example)

    def moved(
        self,
        example: Tensor,  # (R,)
        move: Tensor,  # (R,), or NOTHING
    ) -> list[tuple[Tensor, Tensor]]:
        """Per tensor, the (row, position) pairs that each row's move concerns."""
        return [
            (of[example] == move[:, None]).nonzero(as_tuple=True)  # type: ignore[misc]
            for of in self.move_of
        ]

    def rows(
        self,
        example: Tensor,  # (R,)
        moved: Sequence[tuple[Tensor, Tensor]],  # as from the method of this name
        alpha: Tensor,  # (R,) in [0, 1]
    ) -> Tensors:
        """The input x with the moved positions at b + α (x − b); new tensors, (R, Lₜ, …)."""
        rows = []
        for x, b, (row, position) in zip(self.points, self.baselines, moved, strict=True):
            whole = x[example]
            at = example[row], position
            wide = at_least_float32(x.dtype)  # or α itself would be rounded
            start, end = b[at].to(wide), x[at].to(wide)
            step = like(alpha[row].to(wide), start) * (end - start)
            whole[row, position] = (start + step).to(x.dtype)
            rows.append(whole)
        return tuple(rows)

    def spread(self, per_move: Tensor) -> Tensors:
        """(P,) → (B, Lₜ): every position carries its move's value; zero where nothing moves."""
        with_zero = torch.cat([per_move, per_move.new_zeros(1)])  # UNMOVED indexes the last
        return tuple(with_zero[of] for of in self.move_of)

    def sums(self, attributions: Tensors) -> Tensor:
        """Σ over each move's positions and features: (B, Lₜ, …) tensors → (P,)."""
        widest = functools.reduce(torch.promote_types, (t.dtype for t in attributions))
        totals = torch.zeros(len(self) + 1, dtype=widest, device=self.example.device)
        for of, values in zip(self.move_of, attributions, strict=True):
            per_position = values.flatten(2).sum(-1) if values.dim() > 2 else values
            number = torch.where(of == UNMOVED, len(self), of)
            totals.index_add_(0, number.flatten(), per_position.flatten().to(widest))
        return totals[:-1]

    def zeros(self) -> Tensors:
        """Zeros shaped as the points, in float32 at least."""
        return tuple(torch.zeros_like(x, dtype=at_least_float32(x.dtype)) for x in self.points)

    def name(self, number: int) -> str:
        """For errors: the word and its positions."""
        if number == NOTHING:
            return "the unchanged input"
        positions = [(of == number).nonzero()[:, 1].tolist() for of in self.move_of]
        shown = positions[0] if len(positions) == 1 else positions
        return f"word {int(self.word[number])} (positions {shown})"


@dataclass(frozen=True)
class Averages:
    """The average gradient along each move's path, and what it took."""

    gradients: Tensors  # shaped as the points, in float32 at least; zero where nothing moves
    drops: Tensor  # (P,): F(x) − F(x̄ʷ)
    n_evaluations: Tensor  # (P,): nodes; of α = 1 a row may be shared by an example's words
    converged: Tensor  # (P,): False where a tolerance was asked for and not met


def move_values(
    function: RowFunction,
    moves: Moves,
    chunks: Chunks,
    whole: Tensor | None,  # (B,): F(x) where it is known
) -> tuple[Tensor, Tensor]:
    """F(x) and F(x̄ʷ) by forward passes alone.

    Returns:
        (P,) F(x) of each move's example, and (P,) F with that move at its baseline.
    """
    examples = moves.example.unique() if whole is None else moves.example[:0]
    example = torch.cat([examples, moves.example])
    move = torch.cat([torch.full_like(examples, NOTHING), torch.arange(len(moves)).to(examples)])

    def evaluate(rows: slice) -> Tensor:
        at = example[rows], move[rows]
        ends = moves.rows(at[0], moves.moved(*at), torch.zeros_like(at[0]))
        values = function.values(ends, at[0])
        require_finite("output", values.isfinite(), moves, *at)
        return values

    values = [value for _, value in chunks(evaluate, len(example))]
    if not values:
        return (none := torch.zeros(0, device=example.device)), none
    found, at_baseline = torch.cat(values).to(example.device).split([len(examples), len(moves)])
    if whole is None:
        return found[torch.searchsorted(examples, moves.example)], at_baseline
    at_input = whole.to(found)[moves.example]
    nothing = torch.full_like(moves.example, NOTHING)
    require_finite("output", at_input.isfinite(), moves, moves.example, nothing)
    return at_input, at_baseline


def move_gradients(
    function: RowFunction,
    moves: Moves,
    move: Tensor,  # (R,)
    alpha: Tensor,  # (R,)
) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """F and ∇F at x̄ʷ + α (x − x̄ʷ), in one pass.

    Returns:
        F (R,), and per tensor the gradients (K, …) at the positions that the moves concern, with
        the row (K,) and the position (K,) of each; rows ascend.
    """
    example = moves.example[move]
    moved = moves.moved(example, move)
    values, grads = function.gradients(moves.rows(example, moved, alpha), example)
    require_finite("output", values.isfinite(), moves, example, move)
    parts = []
    for grad, (row, position) in zip(grads, moved, strict=True):
        part = grad[row, position]
        require_finite("gradient", all_finite(part), moves, example[row], move[row])
        parts.append((part, row, position))
    return values, parts


def by_rule(
    function: RowFunction, moves: Moves, chunks: Chunks, whole: Tensor | None, rule: Rule
) -> Averages:
    """∫₀¹ ∇_w F(x̄ʷ + α (x − x̄ʷ)) dα of every move at the same nodes."""
    at_input, at_baseline = move_values(function, moves, chunks, whole)
    totals = moves.zeros()
    device = moves.example.device
    nodes, weights = (
        torch.tensor(values, dtype=totals[0].dtype, device=device)
        for values in (rule.nodes, rule.weights)
    )

    def evaluate(rows: slice) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
        number = torch.arange(rows.start, rows.stop, device=device)
        move, node = number // len(nodes), number % len(nodes)
        _, parts = move_gradients(function, moves, move, nodes[node])
        return [
            ((moves.example[move[row]], position), part * like(weights[node[row]], part))
            for part, row, position in parts
        ]

    for _, parts in chunks(evaluate, len(moves) * len(nodes)):
        for total, (where, part) in zip(totals, parts, strict=True):
            total.index_put_(where, part.to(total.dtype), accumulate=True)
    return Averages(
        gradients=totals,
        drops=at_input - at_baseline,
        n_evaluations=torch.full_like(moves.example, len(nodes)),
        converged=torch.ones_like(moves.example, dtype=torch.bool),
    )


def like(per_row: Tensor, rows: Tensor) -> Tensor:
    """(K,) shaped so that it multiplies (K, …)."""
    return per_row.view(-1, *[1] * (rows.dim() - 1))


def all_finite(rows: Tensor) -> Tensor:
    """(K, …) → (K,)."""
    return rows.isfinite().flatten(1).all(1) if rows.dim() > 1 else rows.isfinite()


def require_finite(what: str, finite: Tensor, moves: Moves, example: Tensor, move: Tensor) -> None:
    """Raise `NotFiniteError` for the first row that is not."""
    if finite.all():
        return
    bad = int((~finite).nonzero()[0])
    raise NotFiniteError(what, int(example[bad]), moves.name(int(move[bad])))

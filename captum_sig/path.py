"""Which rows to evaluate: move one word, hold the others.

The engine behind both classes of `sig`. B, L, D, W, S as in the legend of `sig`; R is the rows of
a chunk and P the *moves*: the (example, word) pairs whose positions differ from the baseline.
Only they cost anything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from captum_sig.function import RowFunction, Tensors
from captum_sig.quadrature import Rule

Result = TypeVar("Result")

UNMOVED = -1  # in `Moves.move_of`: no move concerns this position
NOTHING = -2  # as a row's move: the row of the unchanged input

# Bytes of moving activations in a chunk when the caller sets no `internal_batch_size`.
CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**28}


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
    example: Tensor  # (P,): example of each move
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
            step = alpha[row].to(x.dtype).view(-1, *[1] * (x.dim() - 2))
            whole[row, position] = b[at] + step * (x[at] - b[at])
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

    def name(self, number: int) -> str:
        """For errors: the word and its positions."""
        if number == NOTHING:
            return "the unchanged input"
        positions = [(of == number).nonzero()[:, 1].tolist() for of in self.move_of]
        shown = positions[0] if len(positions) == 1 else positions
        return f"word {int(self.word[number])} (positions {shown})"


def move_values(
    function: RowFunction, moves: Moves, chunk: int | None, progress: bool
) -> tuple[Tensor, Tensor]:
    """F(x) and F(x̄ʷ) by forward passes alone.

    Returns:
        (P,) F(x) of each move's example, and (P,) F with that move at its baseline.
    """
    examples = moves.example.unique()
    example = torch.cat([examples, moves.example])
    move = torch.cat([torch.full_like(examples, NOTHING), torch.arange(len(moves)).to(examples)])

    def evaluate(rows: slice) -> Tensor:
        at = example[rows], move[rows]
        ends = moves.rows(at[0], moves.moved(*at), torch.zeros_like(at[0]))
        values = function.values(ends, at[0])
        _require_finite("output", values.isfinite(), moves, *at)
        return values

    values = [value for _, value in in_chunks(evaluate, len(example), moves, chunk, progress)]
    if not values:
        return (none := torch.zeros(0, device=example.device)), none
    whole, at_baseline = torch.cat(values).to(example.device).split([len(examples), len(moves)])
    return whole[torch.searchsorted(examples, moves.example)], at_baseline


def path_gradients(
    function: RowFunction, moves: Moves, rule: Rule, chunk: int | None, progress: bool
) -> Tensors:
    """∫₀¹ ∇_w F(x̄ʷ + α (x − x̄ʷ)) dα at the positions of every move; zero elsewhere.

    Returns:
        tensors shaped as the points, in float32 at least.
    """
    totals = tuple(
        torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in moves.points
    )
    device = moves.example.device
    nodes, weights = (
        torch.tensor(values, dtype=totals[0].dtype, device=device)
        for values in (rule.nodes, rule.weights)
    )

    def evaluate(rows: slice) -> list[tuple[tuple[Tensor, Tensor], Tensor]]:
        number = torch.arange(rows.start, rows.stop, device=device)
        move, node = number // len(nodes), number % len(nodes)
        example = moves.example[move]
        moved = moves.moved(example, move)
        grads = function.gradients(moves.rows(example, moved, nodes[node]), example)
        parts = []
        for grad, (row, position) in zip(grads, moved, strict=True):
            part = grad[row, position]
            finite = part.isfinite().flatten(1).all(1) if part.dim() > 1 else part.isfinite()
            _require_finite("gradient", finite, moves, example[row], move[row])
            weight = weights[node[row]].view(-1, *[1] * (part.dim() - 1))
            parts.append(((example[row], position), part * weight))
        return parts

    for _, parts in in_chunks(evaluate, len(moves) * len(nodes), moves, chunk, progress):
        for total, (where, part) in zip(totals, parts, strict=True):
            total.index_put_(where, part.to(total.dtype), accumulate=True)
    return totals


def in_chunks(
    evaluate: Callable[[slice], Result],
    n_rows: int,
    moves: Moves,
    chunk: int | None,
    progress: bool,
) -> Iterator[tuple[slice, Result]]:
    """Evaluate rows 0 … n_rows − 1 in order, at most `chunk` at a time.

    When a device runs out of memory the chunk is halved and tried again, down to one row.
    """
    from tqdm import tqdm

    size = max(1, min(chunk or default_chunk(moves.points), n_rows))
    start = 0
    with tqdm(total=n_rows, unit="row", disable=not progress) as bar:
        while start < n_rows:
            rows = slice(start, min(start + size, n_rows))
            try:
                result = evaluate(rows)
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
            else:
                yield rows, result
                bar.update(rows.stop - start)
                start = rows.stop
                continue
            torch.cuda.empty_cache()  # after the except clause: the traceback held the tensors


def default_chunk(points: Tensors) -> int:
    """Rows in a chunk such that their activations stay within `CHUNK_BYTES`."""
    n_examples = max(1, points[0].shape[0])
    per_row = sum(x.numel() * x.element_size() // n_examples for x in points)
    budget = CHUNK_BYTES.get(points[0].device.type, CHUNK_BYTES["cuda"])
    return max(1, budget // max(1, per_row))


def _require_finite(what: str, finite: Tensor, moves: Moves, example: Tensor, move: Tensor) -> None:
    if finite.all():
        return
    bad = int((~finite).nonzero()[0])
    raise NotFiniteError(what, int(example[bad]), moves.name(int(move[bad])))

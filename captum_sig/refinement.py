"""Every word's path refined on its own until its integral meets a tolerance.

P moves, R rows, B, L and D as in `path`. A *slot* is a position that moves; S slots in a tensor.
Only slots keep their gradients: for n nodes n times the memory of the result, and no row whole.
`adaptive` decides from F and its slope along the path; the gradients are weighed where they are.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_sig.adaptive import (
    Floats,
    first_nodes,
    more_nodes,
    panel_weights,
    running_error,
    whole_error,
)
from captum_sig.chunks import Chunks
from captum_sig.function import RowFunction, at_least_float32
from captum_sig.notices import warn
from captum_sig.path import (
    NOTHING,
    Averages,
    Moves,
    all_finite,
    move_gradients,
    require_finite,
)

Ints = NDArray[np.int64]
Part = tuple[Tensor, Tensor, Tensor]  # gradients (K, …), the row and the slot of each

BLOCK = 2**23  # numbers of stored gradients that are weighed at a time


def to_tolerance(
    function: RowFunction,
    moves: Moves,
    chunks: Chunks,
    whole: Tensor | None,
    tolerance: float,
    most: int,
) -> Averages:
    """∫₀¹ ∇_w F(x̄ʷ + α (x − x̄ʷ)) dα within `tolerance` of the example's largest ‖SIG_w‖₂.

    A word is done when the estimate of its error (see `adaptive`) is, or at `most` nodes. F(x)
    comes with its gradient, so that `whole` has no use here.
    """
    paths = Paths(moves, most)
    if len(moves):
        paths.add_input(function, chunks)
    nodes = [first_nodes()[:-1]] * len(moves)  # the last is the input's, α = 1
    found = np.zeros(len(moves), bool)
    while any(len(new) for new in nodes):
        paths.add(function, chunks, nodes)
        paths.look(np.flatnonzero([len(new) > 0 for new in nodes]))
        found = paths.error <= tolerance * paths.scale()
        nodes = [
            paths.next_nodes(move) if wanted else np.empty(0)
            for move, wanted in enumerate(~found & ~paths.at_noise)
        ]
    if not found.all():
        worst = (paths.residual / paths.scale().clip(np.finfo(float).tiny))[~found].max()
        warn(
            f"{(~found).sum()} of {len(moves)} words did not reach tolerance {tolerance:g} within "
            f"{most} evaluations or the precision of F; the worst completeness residual is "
            f"{worst:.1e} of the largest word: raise n_steps, the tolerance, or the model's dtype"
        )
    return paths.result(found)


class Samples:
    """Gradients of one tensor at its slots."""

    def __init__(self, x: Tensor, b: Tensor, move_of: Tensor, most: int) -> None:
        """Number the slots; no gradient is known yet."""
        self.where = (move_of >= 0).nonzero(as_tuple=True)  # example and position of each slot
        self.move = move_of[self.where]  # (S,)
        self.slot_at = torch.full_like(move_of, -1)  # (B, L)
        self.slot_at[self.where] = torch.arange(len(self.move), device=x.device)
        dtype = at_least_float32(x.dtype)
        self.step = _flat(x[self.where].to(dtype) - b[self.where].to(dtype))  # (S, D)
        self.average = torch.zeros_like(self.step)
        self.stored = self.step.new_empty(0, self.step.shape[1], dtype=x.dtype)
        self.place = torch.zeros(len(self.move), most, dtype=torch.long, device=x.device)

    def add(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Gradients (K, D), the slot of each, and which of its slot's nodes it is for."""
        start = len(self.stored)
        for part, slot, column in parts:
            self.place[slot, column] = torch.arange(start, start + len(part), device=slot.device)
            start += len(part)
        self.stored = torch.cat([self.stored, *(part for part, _, _ in parts)])


class Paths:
    """What is known of every move's path: at its nodes F, its slope, and the slots' gradients."""

    def __init__(self, moves: Moves, most: int) -> None:
        """Nothing is known yet."""
        n_moves = len(moves)
        self.moves, self.most = moves, most
        dtypes = (at_least_float32(x.dtype) for x in moves.points)
        self.dtype = functools.reduce(torch.promote_types, dtypes)
        self.example: Ints = moves.example.cpu().numpy()
        self.count = np.zeros(n_moves, np.int64)
        self.nodes, self.values, self.slopes = np.full((3, n_moves, most), np.nan)
        self.error, self.residual, self.norm = np.full((3, n_moves), np.inf)
        self.at_noise = np.zeros(n_moves, bool)  # F is too coarse to tell the error
        self.precision = 0.0
        self.panel_errors: list[Floats] = [np.empty(0)] * n_moves
        self.samples = [
            Samples(x, b, move_of, most)
            for x, b, move_of in zip(moves.points, moves.baselines, moves.move_of, strict=True)
        ]

    def add_input(self, function: RowFunction, chunks: Chunks) -> None:
        """The node α = 1: x itself, which one row per example serves for all its words."""
        examples, n_words = self.moves.example.unique(return_counts=True)
        ends = n_words.cumsum(0)

        def evaluate(rows: slice) -> tuple[Tensor, list[Part]]:
            at = examples[rows]
            first = ends[rows.start] - n_words[rows.start]
            values, grads = function.gradients(tuple(x[at] for x in self.moves.points), at)
            nothing = torch.full_like(at, NOTHING)
            require_finite("output", values.isfinite(), self.moves, at, nothing)
            parts = []
            for grad, samples in zip(grads, self.samples, strict=True):
                slot = torch.isin(samples.where[0], at).nonzero()[:, 0]
                example, position = (where[slot] for where in samples.where)
                part = grad[torch.searchsorted(at, example), position]
                require_finite("gradient", all_finite(part), self.moves, example,
                               samples.move[slot])  # fmt: skip
                parts.append((part, samples.move[slot] - first, slot))
            return values.repeat_interleave(n_words[rows].to(values.device)), parts

        found = [result for _, result in chunks(evaluate, len(examples))]
        self._record(np.arange(len(self.moves)), np.ones(len(self.moves)), found)

    def add(self, function: RowFunction, chunks: Chunks, nodes: list[Floats]) -> None:
        """New nodes of each move."""
        of_row = np.repeat(np.arange(len(nodes)), [len(new) for new in nodes])
        alpha = np.concatenate(nodes)
        device = self.moves.example.device
        move, at = torch.from_numpy(of_row).to(device), torch.from_numpy(alpha).to(self.dtype)

        def evaluate(rows: slice) -> tuple[Tensor, list[Part]]:
            some = move[rows]
            values, parts = move_gradients(function, self.moves, some, at[rows].to(device))
            example = self.moves.example[some]
            return values, [
                (part, row, samples.slot_at[example[row], position])
                for (part, row, position), samples in zip(parts, self.samples, strict=True)
            ]

        self._record(of_row, alpha, [result for _, result in chunks(evaluate, len(of_row))])

    def _record(
        self,
        move: Ints,  # (R,) ascending
        alpha: Floats,  # (R,)
        found: list[tuple[Tensor, list[Part]]],  # per chunk of rows F, and per tensor the gradients
    ) -> None:
        column = self.count[move] + np.arange(len(move)) - np.searchsorted(move, move)
        done = 0
        by_tensor: list[list[Part]] = [[] for _ in self.samples]
        for values, parts in found:
            rows = slice(done, done := done + len(values))
            self.precision = torch.finfo(values.dtype).eps
            slope = values.new_zeros(len(values), dtype=self.dtype)
            columns = torch.from_numpy(column[rows]).to(values.device)
            for of_tensor, samples, (part, row, slot) in zip(
                by_tensor, self.samples, parts, strict=True
            ):
                along = (_flat(part).to(self.dtype) * samples.step[slot]).sum(1)
                slope.index_add_(0, row, along.to(self.dtype))
                of_tensor.append((_flat(part), slot, columns[row]))
            at = move[rows], column[rows]
            self.nodes[at] = alpha[rows]
            self.values[at] = values.double().cpu().numpy()
            self.slopes[at] = slope.double().cpu().numpy()
        for samples, of_tensor in zip(self.samples, by_tensor, strict=True):
            samples.add(of_tensor)
        np.add.at(self.count, move, 1)

    def look(self, changed: Ints) -> None:
        """Weigh what is known of the changed moves, and estimate each one's error."""
        width = sum(samples.step.numel() for samples in self.samples) / max(1, len(self.moves))
        for n in np.unique(self.count[changed]):
            alike = changed[self.count[changed] == n]
            for some in np.array_split(alike, 1 + int(len(alike) * n * width / BLOCK)):
                self._look(some, int(n))

    def _look(self, some: Ints, n: int) -> None:
        order = np.argsort(self.nodes[some, :n], axis=1)
        nodes, values, slopes = (
            np.take_along_axis(known[some, :n], order, axis=1)
            for known in (self.nodes, self.values, self.slopes)
        )
        weights = panel_weights(nodes)
        panels, running, residual = running_error(weights, slopes, values)
        doubts, norm = self._weigh(some, order, weights, weights - panel_weights(nodes, below=1))
        error = whole_error(residual, running, doubts)
        self.at_noise[some] = error <= 2 * self.precision * np.abs(values).max(1)
        self.error[some], self.residual[some], self.norm[some] = error, residual, norm
        for move, errors in zip(some, np.maximum(panels, doubts), strict=True):
            self.panel_errors[move] = errors

    def _weigh(
        self, some: Ints, order: Ints, weights: Floats, changes: Floats
    ) -> tuple[Floats, Floats]:
        """Average the gradients of some moves.

        Returns:
            norms over each move's features: of what `changes` make of each panel (m, n − 1), and
            of the attributions (m,).
        """
        numbers, ascending = (torch.from_numpy(a).to(self.moves.example.device)
                              for a in (some, order))  # fmt: skip
        change, average = (torch.from_numpy(rows).to(self.dtype).to(numbers.device)
                           for rows in (changes, weights.sum(1)))  # fmt: skip
        squares = change.new_zeros(len(some), order.shape[1])
        for samples in self.samples:
            slot = torch.isin(samples.move, numbers).nonzero()[:, 0]
            mine = torch.searchsorted(numbers, samples.move[slot])
            gradients = samples.stored[samples.place[slot].gather(1, ascending[mine])]
            gradients = gradients.to(samples.step.dtype)  # (slots, n, D)
            both = torch.cat([change[mine], average[mine, None]], 1).to(gradients.dtype)
            found = torch.einsum("spn,snd->spd", both, gradients)
            samples.average[slot] = found[:, -1]
            features = found * samples.step[slot, None]
            squares.index_add_(0, mine, features.square().sum(-1).to(self.dtype))
        norms = squares.sqrt().double().cpu().numpy()
        return norms[:, :-1], norms[:, -1]

    def scale(self) -> Floats:
        """The largest norm among the words of each move's example, (P,)."""
        largest = np.zeros(int(self.example.max(initial=-1)) + 1)
        np.maximum.at(largest, self.example, self.norm)
        return largest[self.example]

    def next_nodes(self, move: int) -> Floats:
        """Where the path of a move needs another look; none at the cap."""
        n = self.count[move]
        return more_nodes(np.sort(self.nodes[move, :n]), self.panel_errors[move], self.most - n)

    def result(self, converged: NDArray[np.bool_]) -> Averages:
        """What was found, on the points' device."""
        device = self.moves.example.device
        gradients = self.moves.zeros()
        for total, samples in zip(gradients, self.samples, strict=True):
            total[samples.where] = samples.average.reshape(total[samples.where].shape)
        ends = np.nan_to_num(self.nodes, nan=0.5)
        first, last = (self.values[ends == end] for end in (0.0, 1.0))
        return Averages(
            gradients=gradients,
            drops=torch.from_numpy(last - first).to(self.dtype).to(device),
            n_evaluations=torch.from_numpy(self.count).to(device),
            converged=torch.from_numpy(converged).to(device),
        )


def _flat(rows: Tensor) -> Tensor:
    """(K, …) → (K, D)."""
    return rows.flatten(1) if rows.dim() > 1 else rows[:, None]

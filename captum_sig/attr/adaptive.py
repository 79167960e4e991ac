"""Integration to a tolerance: how far off a path's integral is, and where to look next.

Along the path of one word the gradient's features f(α) ∈ Rᴰ are known at n nodes only, but their
sum is the slope of F, and F itself comes with every gradient. So the running integral of the sum,
∫₀^α Σ_j f_j = F(α) − F(0), is known *exactly* at each node, and an interpolant of f can be held
against it panel by panel: where the two part, the path turns more sharply than the nodes show,
and the panel is halved. All features share the nodes, and the path's sharp turns; where they
cancel in the sum, what changes at another degree shows them.

The interpolant is piecewise: within each panel the polynomial through the nodes around it.

Source: Davis and Rabinowitz, "Methods of Numerical Integration" (1984), chapter 6, for adaptive
rules; the use of F is this package's own.

P paths, R rows, B, K, L and D as in `word_paths`. A *slot* is a position that a path concerns, in
its scene; S slots in a tensor. Only slots keep their gradients: for n nodes n times the memory of
the result, and no row whole.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_sig._warnings import warn
from captum_sig.attr.chunks import Chunks
from captum_sig.attr.function import RowFunction, at_least_float32
from captum_sig.attr.integrals import Averages, path_gradients
from captum_sig.attr.word_paths import NOTHING, Places, WordPaths, all_finite, like
from captum_sig.quadrature import clenshaw_curtis, gauss_legendre

Floats = NDArray[np.float64]

DEGREE = 5
STARTS = (5, 9)  # nested Chebyshev points: most words of long texts need no more than the first
FEW = 4  # by which 5 nodes, which can miss a turn, must stay below the tolerance
REFINED = 0.5  # panels whose error is within this factor of the largest are halved
STEEPEST = 4  # neighbours wider than this many times a halved panel's width are halved with it
NARROWEST = 1e-9  # panels are halved no further: F jumps, and nodes must stay apart
RUNNING, DOUBT = 2.0, 1.5  # margins; calibrated, see tests/benchmarks/RESULTS.md


def first_nodes() -> Floats:
    """The nodes every path starts from, both ends among them; ascending."""
    return clenshaw_curtis(STARTS[0]).nodes


def panel_weights(
    nodes: Floats,  # (m, n) ascending
    below: int = 0,
) -> Floats:
    """Weights (m, n − 1, n) of the integral over each panel between neighbours.

    Row p integrates from node p to node p + 1 the polynomial through the nodes nearest to the
    panel, of `DEGREE` or, with fewer nodes, n − 1; and `below` less.
    """
    m, n = nodes.shape
    degree = min(DEGREE, n - 1) - below
    panel = np.arange(n - 1)
    window = np.clip(panel - (degree - 1) // 2, 0, n - 1 - degree)[:, None] + np.arange(degree + 1)
    inner = gauss_legendre(degree // 2 + 1)
    near = nodes[:, window]  # (m, n − 1, degree + 1)
    width = np.diff(nodes)
    at = nodes[:, :-1, None] + width[..., None] * inner.nodes
    weights = np.zeros((m, n - 1, n))
    for k in range(degree + 1):
        others = np.delete(near, k, axis=-1)
        basis = (at[..., None] - others[:, :, None]).prod(-1)  # (m, n − 1, inner nodes)
        scale = (near[..., k, None] - others).prod(-1)
        weights[:, panel, window[:, k]] = width * (basis @ inner.weights) / scale
    return weights


def running_error(
    weights: Floats,  # (m, n − 1, n), as from `panel_weights`
    slopes: Floats,  # (m, n): dF/dα at the nodes
    values: Floats,  # (m, n): F at the nodes
) -> tuple[Floats, Floats, Floats]:
    """How far ∫ slopes departs from F.

    Returns:
        |error| of each panel (m, n − 1), root mean square over the nodes of the error of ∫₀^α
        (m,), and |error| of the whole (m,), which is the completeness residual.
    """
    panels = np.einsum("mpn,mn->mp", weights, slopes) - np.diff(values)
    running = panels.cumsum(-1)
    return np.abs(panels), np.sqrt((running**2).mean(-1)), np.abs(running[:, -1])


def whole_error(
    residual: Floats,  # (m,)
    running: Floats,  # (m,)
    doubts: Floats,  # (m, n − 1): the norm over the features of what a degree less changes
) -> Floats:
    """The error of the whole path as one number, (m,)."""
    estimates = [residual, RUNNING * running, DOUBT * np.sqrt((doubts**2).sum(-1))]
    few = FEW if doubts.shape[1] + 1 < STARTS[-1] else 1
    return few * np.maximum.reduce(estimates)


def more_nodes(
    nodes: Floats,  # (n,) ascending
    panel_errors: Floats,  # (n − 1,)
    most: int,
) -> Floats:
    """Where to look next: at most `most` nodes, the worst panels' first.

    Widths of neighbours differ by a bounded factor, for else the weights grow without bound.
    """
    if len(nodes) < STARTS[-1]:
        larger = clenshaw_curtis(STARTS[-1]).nodes
        new = larger[np.abs(larger[:, None] - nodes).min(1) > NARROWEST]
        return new[:most]
    worst = np.argsort(-panel_errors, kind="stable")
    worst = worst[panel_errors[worst] >= REFINED * panel_errors.max()]
    width = np.diff(nodes)
    worst = worst[width[worst] > NARROWEST]
    beside = np.concatenate([worst - 1, worst + 1])
    narrow = np.concatenate([width[worst], width[worst]])
    inside = (beside >= 0) & (beside < len(width))
    beside, narrow = beside[inside], narrow[inside]
    steep = beside[width[beside] > STEEPEST * narrow]
    halved = np.concatenate([worst, np.setdiff1d(steep, worst)])[:most]
    return (nodes[halved] + nodes[halved + 1]) / 2


Ints = NDArray[np.int64]
Part = tuple[Tensor, Tensor, Tensor]  # gradients (K, …), the row and the slot of each

BLOCK = 2**23  # numbers of stored gradients that are weighed at a time


def to_tolerance(
    function: RowFunction,
    moves: WordPaths,
    chunks: Chunks,
    whole: Tensor | None,
    tolerance: float,
    most: int,
) -> Averages:
    """∫₀¹ ∇_w F(x̄ʷ + α (x − x̄ʷ)) dα within `tolerance` of the scene's largest ‖SIG_w‖₂.

    A word is done when the estimate of its error (see `adaptive`) is, or at `most` nodes. F comes
    with its gradient, so that `whole` has no use here.
    """
    paths = PathRefinement(moves, most)
    if len(moves):
        paths.add_scenes(function, chunks)
    first = first_nodes()
    nodes = [first[:-1] if kept else first[1:] for kept in moves.kept.tolist()]  # not the scene's
    found = np.zeros(len(moves), bool)
    while any(len(new) for new in nodes):
        paths.add(function, chunks, nodes)
        paths.look(np.flatnonzero([len(new) > 0 for new in nodes]))
        found = paths.error <= tolerance * paths.scale()
        nodes = [
            paths.next_nodes(path) if wanted else np.empty(0)
            for path, wanted in enumerate(~found & ~paths.at_noise)
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

    def __init__(self, moves: WordPaths, number: int, most: int) -> None:
        """Number the slots; no gradient is known yet."""
        path_of = moves.path_of[number]
        self.where = (path_of >= 0).nonzero(as_tuple=True)  # scene and position of each slot
        self.path = path_of[self.where]  # (S,)
        self.slot_at = torch.full_like(path_of, -1)  # (K · B, L)
        self.slot_at[self.where] = torch.arange(len(self.path), device=path_of.device)
        self.example = moves.example(self.where[0])
        start, end = moves.ends(number, self.example, self.where[1])
        self.step = _flat(end - start)  # (S, D)
        self.average = torch.zeros_like(self.step)
        dtype = moves.points[number].dtype
        self.stored = self.step.new_empty(0, self.step.shape[1], dtype=dtype)
        self.place = torch.zeros(len(self.path), most, dtype=torch.long, device=path_of.device)

    def add(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Gradients (K, D), the slot of each, and which of its slot's nodes it is for."""
        start = len(self.stored)
        for part, slot, column in parts:
            self.place[slot, column] = torch.arange(start, start + len(part), device=slot.device)
            start += len(part)
        self.stored = torch.cat([self.stored, *(part for part, _, _ in parts)])


class PathRefinement:
    """What is known of every path: at its nodes F, its slope, and the slots' gradients."""

    def __init__(self, moves: WordPaths, most: int) -> None:
        """Nothing is known yet."""
        n_paths = len(moves)
        self.moves, self.most = moves, most
        dtypes = (at_least_float32(x.dtype) for x in moves.points)
        self.dtype = functools.reduce(torch.promote_types, dtypes)
        self.scene: Ints = moves.scene.cpu().numpy()
        self.count = np.zeros(n_paths, np.int64)
        self.nodes, self.values, self.slopes = np.full((3, n_paths, most), np.nan)
        self.error, self.residual, self.norm = np.full((3, n_paths), np.inf)
        self.at_noise = np.zeros(n_paths, bool)  # F is too coarse to tell the error
        self.precision = 0.0
        self.panel_errors: list[Floats] = [np.empty(0)] * n_paths
        self.samples = [Samples(moves, number, most) for number in range(len(moves.points))]

    def add_scenes(self, function: RowFunction, chunks: Chunks) -> None:
        """The end of each path that is its scene itself: one row serves all words of a scene."""
        scenes, n_words = self.moves.scene.unique(return_counts=True)
        ends = n_words.cumsum(0)

        def evaluate(rows: slice) -> tuple[Tensor, list[Part]]:
            at = scenes[rows]
            first = ends[rows.start] - n_words[rows.start]
            values, grads = function.gradients(self.moves.scenes(at), self.moves.example(at))
            nothing = torch.full_like(at, NOTHING)
            self.moves.require_finite("output", values.isfinite(), at, nothing)
            parts = []
            for grad, samples in zip(grads, self.samples, strict=True):
                slot = torch.isin(samples.where[0], at).nonzero()[:, 0]
                scene, position = (where[slot] for where in samples.where)
                part = grad[torch.searchsorted(at, scene), position]
                path = samples.path[slot]
                self.moves.require_finite("gradient", all_finite(part), scene, path)
                parts.append((part, path - first, slot))
            return values.repeat_interleave(n_words[rows].to(values.device)), parts

        found = [result for _, result in chunks(evaluate, len(scenes))]
        alpha = self.moves.kept.cpu().numpy().astype(np.float64)
        self._record(np.arange(len(self.moves)), alpha, found)

    def add(self, function: RowFunction, chunks: Chunks, nodes: list[Floats]) -> None:
        """New nodes of each path."""
        of_row = np.repeat(np.arange(len(nodes)), [len(new) for new in nodes])
        alpha = np.concatenate(nodes)
        device = self.moves.scene.device
        path, at = torch.from_numpy(of_row).to(device), torch.from_numpy(alpha).to(self.dtype)

        def evaluate(rows: slice) -> tuple[Tensor, list[Part]]:
            some = path[rows]
            scene = self.moves.scene[some]
            moved = self.moves.moved(scene, some)
            points = self._straight(scene, moved, at[rows].to(device))
            values, grads = path_gradients(function, self.moves, some, moved, points)
            return values, [
                (grad, row, samples.slot_at[scene[row], position])
                for grad, (row, position), samples in zip(grads, moved, self.samples, strict=True)
            ]

        self._record(of_row, alpha, [result for _, result in chunks(evaluate, len(of_row))])

    def _straight(self, scene: Tensor, moved: list[Places], alpha: Tensor) -> list[Tensor]:
        """The moved positions at b + α (x − b)."""
        points = []
        for number, (row, position) in enumerate(moved):
            start, end = self.moves.ends(number, self.moves.example(scene[row]), position)
            points.append(start + like(alpha[row].to(start), start) * (end - start))
        return points

    def _record(
        self,
        path: Ints,  # (R,) ascending
        alpha: Floats,  # (R,)
        found: list[tuple[Tensor, list[Part]]],  # per chunk of rows F, and per tensor the gradients
    ) -> None:
        column = self.count[path] + np.arange(len(path)) - np.searchsorted(path, path)
        done = 0
        by_tensor: list[list[Part]] = [[] for _ in self.samples]
        for values, parts in found:
            rows = slice(done, done := done + len(values))
            self.precision = torch.finfo(values.dtype).eps
            slope = torch.zeros(len(values), dtype=self.dtype, device=self.moves.scene.device)
            columns = torch.from_numpy(column[rows]).to(slope.device)
            for of_tensor, samples, (part, row, slot) in zip(
                by_tensor, self.samples, parts, strict=True
            ):
                along = (_flat(part).to(self.dtype) * samples.step[slot]).sum(1)
                slope.index_add_(0, row, along.to(self.dtype))
                of_tensor.append((_flat(part), slot, columns[row]))
            at = path[rows], column[rows]
            self.nodes[at] = alpha[rows]
            self.values[at] = values.double().cpu().numpy()
            self.slopes[at] = slope.double().cpu().numpy()
        for samples, of_tensor in zip(self.samples, by_tensor, strict=True):
            samples.add(of_tensor)
        np.add.at(self.count, path, 1)

    def look(self, changed: Ints) -> None:
        """Weigh what is known of the changed paths, and estimate each one's error."""
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
        for path, errors in zip(some, np.maximum(panels, doubts), strict=True):
            self.panel_errors[path] = errors

    def _weigh(
        self, some: Ints, order: Ints, weights: Floats, changes: Floats
    ) -> tuple[Floats, Floats]:
        """Average the gradients of some paths.

        Returns:
            norms over each path's features: of what `changes` make of each panel (m, n − 1), and
            of the attributions (m,).
        """
        numbers, ascending = (torch.from_numpy(a).to(self.moves.scene.device)
                              for a in (some, order))  # fmt: skip
        change, average = (torch.from_numpy(rows).to(self.dtype).to(numbers.device)
                           for rows in (changes, weights.sum(1)))  # fmt: skip
        squares = change.new_zeros(len(some), order.shape[1])
        for samples in self.samples:
            slot = torch.isin(samples.path, numbers).nonzero()[:, 0]
            mine = torch.searchsorted(numbers, samples.path[slot])
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
        """The largest norm among the words of each path's scene, (P,)."""
        largest = np.zeros(int(self.scene.max(initial=-1)) + 1)
        np.maximum.at(largest, self.scene, self.norm)
        return largest[self.scene]

    def next_nodes(self, path: int) -> Floats:
        """Where the path needs another look; none at the cap."""
        n = self.count[path]
        return more_nodes(np.sort(self.nodes[path, :n]), self.panel_errors[path], self.most - n)

    def result(self, converged: NDArray[np.bool_]) -> Averages:
        """What was found, on the points' device."""
        device = self.moves.scene.device
        gradients = self.moves.zeros()
        for total, samples in zip(gradients, self.samples, strict=True):
            where = samples.example, samples.where[1]
            average = samples.average.reshape(total[where].shape) / self.moves.n_backgrounds
            total.index_put_(where, average, accumulate=True)
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

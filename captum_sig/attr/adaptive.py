"""Integration to a tolerance: estimate each path's error, and add nodes where it is largest.

Along the path of one word the gradient's features f(α) ∈ Rᴰ are known only at n nodes, but their
sum is the slope of F, and F itself comes with every gradient. So the running integral of the sum,
∫₀^α Σ_j f_j = F(α) − F(0), is known *exactly* at each node, and an interpolant of f can be compared
with it panel by panel. Where the two disagree, the path turns more sharply than the nodes show, and
the panel is halved. All features share the nodes and the path's sharp turns; where they cancel in
the sum, the change from lowering the interpolant's degree reveals them.

The interpolant is piecewise: within each panel the polynomial through the nodes around it.

P paths, R rows, B, K, L and D as in `word_paths`. A *slot* is a position that a path moves, in its
background; S slots in a tensor. Gradients are stored for slots only: n times the memory of the
result for n nodes, and never a whole row.

Source: Davis and Rabinowitz, "Methods of Numerical Integration" (1984), chapter 6, for adaptive
rules; the use of F is this package's own.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_sig._warnings import warn
from captum_sig.attr.chunks import Chunks
from captum_sig.attr.function import RowFunction
from captum_sig.attr.integrals import Averages, path_gradients
from captum_sig.attr.word_paths import NO_PATH, Places, WordPaths, all_finite, like
from captum_sig.quadrature import clenshaw_curtis, gauss_legendre

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Part = tuple[Tensor, Tensor, Tensor]  # gradients (N, …), the row and the slot of each

DEGREE = 5
STARTS = (5, 9)  # nested Chebyshev points: most words of long texts need only the first
FEW_NODES_MARGIN = 4  # for 5 nodes, which can miss a turn
REFINED = 0.5  # panels whose error is within this factor of the largest are halved
STEEPEST = 4  # neighbours wider than this many times a halved panel's width are halved with it
NARROWEST = 1e-9  # panels are halved no further: F jumps, and nodes must stay apart
RUNNING_MARGIN, DEGREE_MARGIN = 2.0, 1.5  # calibrated, see tests/benchmarks/RESULTS.md
BLOCK = 2**23  # numbers of stored gradients that are weighted at a time


def first_nodes() -> Floats:
    """Return the nodes that every path starts from, including both ends; ascending."""
    return clenshaw_curtis(STARTS[0]).nodes


def panel_weights(
    nodes: Floats,  # (m, n) ascending
    below: int = 0,
) -> Floats:
    """Weights (m, n − 1, n) of the integral over each panel between neighbours.

    Row p integrates from node p to node p + 1 the polynomial through the nodes nearest to the
    panel. Its degree is `DEGREE` or, with fewer nodes, n − 1; in both cases less `below`.
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
    """Compare ∫ slopes with F.

    Returns:
        |error| of each panel (m, n − 1); root mean square over the nodes of the error of ∫₀^α,
        (m,); |error| of the whole, (m,), which is the completeness residual.
    """
    panels = np.einsum("mpn,mn->mp", weights, slopes) - np.diff(values)
    running = panels.cumsum(-1)
    return np.abs(panels), np.sqrt((running**2).mean(-1)), np.abs(running[:, -1])


def path_error(
    residual: Floats,  # (m,)
    running: Floats,  # (m,)
    degree_changes: Floats,  # (m, n − 1): norm over the features of the change by a lower degree
) -> Floats:
    """Estimate the error of the whole path, (m,)."""
    by_degree = np.sqrt((degree_changes**2).sum(-1))
    estimates = [residual, RUNNING_MARGIN * running, DEGREE_MARGIN * by_degree]
    margin = FEW_NODES_MARGIN if degree_changes.shape[1] + 1 < STARTS[-1] else 1
    return margin * np.maximum.reduce(estimates)


def more_nodes(
    nodes: Floats,  # (n,) ascending
    panel_errors: Floats,  # (n − 1,)
    limit: int,
) -> Floats:
    """Choose at most `limit` new nodes, in the panels with the largest errors first.

    Widths of neighbours differ by a bounded factor; otherwise the weights grow without bound.
    """
    if len(nodes) < STARTS[-1]:
        larger = clenshaw_curtis(STARTS[-1]).nodes
        new = larger[np.abs(larger[:, None] - nodes).min(1) > NARROWEST]
        return new[:limit]
    worst = np.argsort(-panel_errors, kind="stable")
    worst = worst[panel_errors[worst] >= REFINED * panel_errors.max()]
    width = np.diff(nodes)
    worst = worst[width[worst] > NARROWEST]
    beside = np.concatenate([worst - 1, worst + 1])
    narrow = np.concatenate([width[worst], width[worst]])
    inside = (beside >= 0) & (beside < len(width))
    beside, narrow = beside[inside], narrow[inside]
    steep = beside[width[beside] > STEEPEST * narrow]
    halved = np.concatenate([worst, np.setdiff1d(steep, worst)])[:limit]
    return (nodes[halved] + nodes[halved + 1]) / 2


def to_tolerance(
    function: RowFunction,
    paths: WordPaths,
    chunks: Chunks,
    *,
    tolerance: float,
    max_nodes: int,
) -> Averages:
    """∫₀¹ ∇_w F(x̄ʷ + α (x − x̄ʷ)) dα within `tolerance` of the background's largest ‖SIG_w‖₂.

    A word is done when its estimated error is small enough, or at `max_nodes`.
    """
    refinement = PathRefinement(paths, max_nodes)
    if len(paths):
        refinement.add_backgrounds(function, chunks)
    first = first_nodes()
    nodes = [first[:-1] if keeps else first[1:] for keeps in paths.keeps.tolist()]
    converged = np.zeros(len(paths), bool)
    while any(len(new) for new in nodes):
        refinement.add_nodes(function, chunks, nodes)
        refinement.estimate(np.flatnonzero([len(new) > 0 for new in nodes]))
        converged = refinement.error <= tolerance * refinement.scale()
        nodes = [
            refinement.next_nodes(path) if unfinished else np.empty(0)
            for path, unfinished in enumerate(~converged & ~refinement.at_noise)
        ]
    if not converged.all():
        relative = refinement.residual / refinement.scale().clip(np.finfo(float).tiny)
        warn(
            f"{(~converged).sum()} of {len(paths)} words did not reach tolerance {tolerance:g} "
            f"within {max_nodes} evaluations or the precision of F; the worst completeness "
            f"residual is {relative[~converged].max():.1e} of the largest word: raise n_steps, "
            "the tolerance, or the model's precision"
        )
    return refinement.result(converged)


class Samples:
    """Gradients of one tensor at its slots."""

    def __init__(self, paths: WordPaths, number: int, max_nodes: int) -> None:
        path_of = paths.path_of[number]
        self.where = (path_of >= 0).nonzero(as_tuple=True)  # background and position of each slot
        self.path = path_of[self.where]  # (S,)
        self.slot_at = torch.full_like(path_of, -1)  # (K · B, L)
        self.slot_at[self.where] = torch.arange(len(self.path), device=path_of.device)
        self.example = paths.example_of(self.where[0])
        start, end = paths.ends(number, self.example, self.where[1])
        self.step = _flat(end - start)  # (S, D)
        self.average = torch.zeros_like(self.step)
        dtype = paths.points[number].dtype
        self.stored = self.step.new_empty(0, self.step.shape[1], dtype=dtype)
        shape = len(self.path), max_nodes
        self.place = torch.zeros(shape, dtype=torch.long, device=path_of.device)

    def add(self, parts: list[Part]) -> None:
        """Store gradients (N, D), with the slot of each and which of the slot's nodes it is for."""
        start = len(self.stored)
        for part, slot, column in parts:
            self.place[slot, column] = torch.arange(start, start + len(part), device=slot.device)
            start += len(part)
        self.stored = torch.cat([self.stored, *(part for part, _, _ in parts)])


class PathRefinement:
    """What is known of every path: F and its slope at the nodes, and the slots' gradients."""

    def __init__(self, paths: WordPaths, max_nodes: int) -> None:
        n_paths = len(paths)
        self.paths, self.max_nodes = paths, max_nodes
        self.dtype = paths.dtype
        self.background: Ints = paths.background.cpu().numpy()
        self.count = np.zeros(n_paths, np.int64)
        self.nodes, self.values, self.slopes = np.full((3, n_paths, max_nodes), np.nan)
        self.error, self.residual, self.norm = np.full((3, n_paths), np.inf)
        self.at_noise = np.zeros(n_paths, bool)  # F is too coarse to show the error
        self.precision = 0.0
        self.panel_errors: list[Floats] = [np.empty(0)] * n_paths
        self.samples = [Samples(paths, number, max_nodes) for number in range(len(paths.points))]

    def add_backgrounds(self, function: RowFunction, chunks: Chunks) -> None:
        """Evaluate each background, which is an end of all its paths: one row serves its words."""
        backgrounds, n_words = self.paths.background.unique(return_counts=True)
        ends = n_words.cumsum(0)

        def evaluate(rows: slice) -> tuple[Tensor, list[Part]]:
            background = backgrounds[rows]
            first = ends[rows.start] - n_words[rows.start]
            points = self.paths.background_rows(background)
            values, grads = function.gradients(points, self.paths.example_of(background))
            no_path = torch.full_like(background, NO_PATH)
            self.paths.require_finite("output", values.isfinite(), background, no_path)
            parts = []
            for grad, samples in zip(grads, self.samples, strict=True):
                slot = torch.isin(samples.where[0], background).nonzero()[:, 0]
                owner, position = (where[slot] for where in samples.where)
                part = grad[torch.searchsorted(background, owner), position]
                path = samples.path[slot]
                self.paths.require_finite("gradient", all_finite(part), owner, path)
                parts.append((part, path - first, slot))
            return values, parts

        results = [
            (values.repeat_interleave(n_words[rows].to(values.device)), parts)
            for rows, (values, parts) in chunks.map(evaluate, len(backgrounds))
        ]
        alpha = self.paths.keeps.cpu().numpy().astype(np.float64)
        self._record(np.arange(len(self.paths)), alpha, results)

    def add_nodes(self, function: RowFunction, chunks: Chunks, nodes: list[Floats]) -> None:
        """Evaluate new nodes of each path."""
        path_of_row = np.repeat(np.arange(len(nodes)), [len(new) for new in nodes])
        alpha = np.concatenate(nodes)
        device = self.paths.background.device
        all_paths = torch.from_numpy(path_of_row).to(device)
        all_alphas = torch.from_numpy(alpha).to(self.dtype)

        def evaluate(rows: slice) -> tuple[Tensor, list[Part]]:
            path = all_paths[rows]
            background = self.paths.background[path]
            places = self.paths.places(background, path)
            points = self._points(background, places, all_alphas[rows].to(device))
            values, grads = path_gradients(function, self.paths, path, places, points)
            return values, [
                (grad, row, samples.slot_at[background[row], position])
                for grad, (row, position), samples in zip(grads, places, self.samples, strict=True)
            ]

        results = [result for _, result in chunks.map(evaluate, len(path_of_row))]
        self._record(path_of_row, alpha, results)

    def _points(self, background: Tensor, places: list[Places], alpha: Tensor) -> list[Tensor]:
        """b + α (x − b) at the places."""
        points = []
        for number, (row, position) in enumerate(places):
            example = self.paths.example_of(background[row])
            start, end = self.paths.ends(number, example, position)
            points.append(start + like(alpha[row].to(start), start) * (end - start))
        return points

    def _record(
        self,
        path: Ints,  # (R,) ascending
        alpha: Floats,  # (R,)
        results: list[tuple[Tensor, list[Part]]],  # per chunk: F, and the gradients by tensor
    ) -> None:
        column = self.count[path] + np.arange(len(path)) - np.searchsorted(path, path)
        done = 0
        by_tensor: list[list[Part]] = [[] for _ in self.samples]
        for values, parts in results:
            rows = slice(done, done := done + len(values))
            self.precision = torch.finfo(values.dtype).eps
            slope = torch.zeros(len(values), dtype=self.dtype, device=self.paths.background.device)
            columns = torch.from_numpy(column[rows]).to(slope.device)
            for of_tensor, samples, (part, row, slot) in zip(
                by_tensor, self.samples, parts, strict=True
            ):
                along = (_flat(part).to(self.dtype) * samples.step[slot]).sum(1)
                slope.index_add_(0, row, along.to(self.dtype))
                of_tensor.append((_flat(part), slot, columns[row]))
            cell = path[rows], column[rows]
            self.nodes[cell] = alpha[rows]
            self.values[cell] = values.double().cpu().numpy()
            self.slopes[cell] = slope.double().cpu().numpy()
        for samples, of_tensor in zip(self.samples, by_tensor, strict=True):
            samples.add(of_tensor)
        np.add.at(self.count, path, 1)

    def estimate(self, changed: Ints) -> None:
        """Integrate the changed paths, and estimate the error of each."""
        width = sum(samples.step.numel() for samples in self.samples) / max(1, len(self.paths))
        for n in np.unique(self.count[changed]):
            equally_long = changed[self.count[changed] == n]
            n_blocks = 1 + int(len(equally_long) * n * width / BLOCK)
            for block in np.array_split(equally_long, n_blocks):
                self._estimate_block(block, int(n))

    def _estimate_block(self, block: Ints, n: int) -> None:
        order = np.argsort(self.nodes[block, :n], axis=1)
        nodes, values, slopes = (
            np.take_along_axis(known[block, :n], order, axis=1)
            for known in (self.nodes, self.values, self.slopes)
        )
        weights = panel_weights(nodes)
        panels, running, residual = running_error(weights, slopes, values)
        lower = weights - panel_weights(nodes, below=1)
        degree_changes, norm = self._integrate(block, order, weights, lower)
        error = path_error(residual, running, degree_changes)
        self.at_noise[block] = error <= 2 * self.precision * np.abs(values).max(1)
        self.error[block], self.residual[block], self.norm[block] = error, residual, norm
        for path, errors in zip(block, np.maximum(panels, degree_changes), strict=True):
            self.panel_errors[path] = errors

    def _integrate(
        self, block: Ints, order: Ints, weights: Floats, changes: Floats
    ) -> tuple[Floats, Floats]:
        """Average the gradients of a block of paths.

        Returns:
            norms over each path's features: of the panels' integrals by `changes`, (m, n − 1),
            and of the attributions, (m,).
        """
        device = self.paths.background.device
        numbers, ascending = (torch.from_numpy(array).to(device) for array in (block, order))
        change, average = (
            torch.from_numpy(rows).to(self.dtype).to(device) for rows in (changes, weights.sum(1))
        )
        squares = change.new_zeros(len(block), order.shape[1])
        for samples in self.samples:
            slot = torch.isin(samples.path, numbers).nonzero()[:, 0]
            mine = torch.searchsorted(numbers, samples.path[slot])
            gradients = samples.stored[samples.place[slot].gather(1, ascending[mine])]
            gradients = gradients.to(samples.step.dtype)  # (slots, n, D)
            both = torch.cat([change[mine], average[mine, None]], 1).to(gradients.dtype)
            with torch.autocast(device.type, enabled=False):
                integrals = torch.einsum("spn,snd->spd", both, gradients)
            samples.average[slot] = integrals[:, -1]
            features = integrals * samples.step[slot, None]
            squares.index_add_(0, mine, features.square().sum(-1).to(self.dtype))
        norms = squares.sqrt().double().cpu().numpy()
        return norms[:, :-1], norms[:, -1]

    def scale(self) -> Floats:
        """Return the largest norm among the words of each path's background, (P,)."""
        largest = np.zeros(int(self.background.max(initial=-1)) + 1)
        np.maximum.at(largest, self.background, self.norm)
        return largest[self.background]

    def next_nodes(self, path: int) -> Floats:
        """Choose where to evaluate a path next; no node at the limit."""
        n = self.count[path]
        known = np.sort(self.nodes[path, :n])
        return more_nodes(known, self.panel_errors[path], self.max_nodes - n)

    def result(self, converged: NDArray[np.bool_]) -> Averages:
        """Return the averages on the points' device."""
        device = self.paths.background.device
        gradients = self.paths.zeros()
        for total, samples in zip(gradients, self.samples, strict=True):
            where = samples.example, samples.where[1]
            average = samples.average.reshape(total[where].shape) / self.paths.n_backgrounds
            total.index_put_(where, average, accumulate=True)
        ends = np.nan_to_num(self.nodes, nan=0.5)
        first, last = (self.values[ends == end] for end in (0.0, 1.0))
        return Averages(
            gradients=gradients,
            output_changes=torch.from_numpy(last - first).to(self.dtype).to(device),
            n_evaluations=torch.from_numpy(self.count).to(device),
            converged=torch.from_numpy(converged).to(device),
        )


def _flat(rows: Tensor) -> Tensor:
    """(N, …) → (N, D)."""
    return rows.flatten(1) if rows.dim() > 1 else rows[:, None]

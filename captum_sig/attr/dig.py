"""Discretized Integrated Gradients in Captum's verbs.

    DIG_i(x) = Σ_k ∂F(γ(k)) / ∂x_i · (γ_i(k + 1) − γ_i(k))

The straight path from a baseline to a word leads through points that are no words. DIG's γ leads by
*anchors*: words, each among the nearest neighbours of the one before, moved where they must be so
that the path is monotone in every dimension, which keeps Riemann sums of it complete. All words
move at once. Completeness holds for the sentence: Σ DIG tends to F(x) − F(b) as `factor` grows.

B L D as in `sig`; P pairs of a word and a baseline vector, n neighbours, K points of a path.

Source: Sanyal and Ren, "Discretized Integrated Gradients for explaining language models", EMNLP
2021, arXiv 2108.13654, equation 3; the left Riemann sum of the published code.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from captum.log import log_usage
from torch import Tensor, nn

from captum_sig._captum import BaselineType, TargetType
from captum_sig.attr.arguments import layer_problem
from captum_sig.attr.function import at_least_float32, model_lock, warn_of_dropout
from captum_sig.attr.integrals import by_steps
from captum_sig.attr.neighbors import as_embedding, is_vocabulary, nearest_neighbors, vocabulary
from captum_sig.attr.problem import Problem, SequentialIntegral

BLOCK = {"cpu": 2**19}  # numbers in a block of candidates: what caches hold
LARGE_BLOCK = 2**26  # where there are no such caches
KEPT = 2  # searches whose anchors are remembered
CACHE_SIZE = 2**20  # ids of anchors that each remembers

Pair = tuple[int, bytes]  # token id, digest of the baseline vector


@dataclass(frozen=True)
class PathPoints:
    """Points of the paths that a batch needs; words that occur often have one."""

    points: Tensor  # (P, K, D): from the baseline, 0, to the input, K − 1; float32 at least
    of: Tensor  # (B, L): which path each position has

    def __len__(self) -> int:
        """K − 1: nothing follows the last point, so that its gradient counts for nothing."""
        return self.points.shape[1] - 1

    def at(
        self, number: int, example: Tensor, position: Tensor, step: Tensor, start: Tensor,
        end: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """A point, and how much of the way from start to end lies before the next; see `Steps`."""
        path = self.of[example, position]
        here, following = self.points[path, step], self.points[path, step + 1]
        way = end - start
        share = (following - here) / torch.where(way == 0, 1, way)
        return here, torch.where(way == 0, 1 / len(self), share)


def outside(x: Tensor, last: Tensor, baseline: Tensor) -> Tensor:
    """1 in the dimensions where x is not between the two others, ends included; 0 elsewhere."""
    inside = x.clamp(torch.minimum(last, baseline), torch.maximum(last, baseline))
    return inside.ne_(x)  # as floats, which CPUs compare and multiply much faster than bools


def step_on(last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """1/n_anchors of the way from the last point to the baseline."""
    step = last - (1 / n_anchors) * (last - baseline)
    return step.clamp(torch.minimum(last, baseline), torch.maximum(last, baseline))  # rounding


def monotonized(x: Tensor, last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """X, but a step on from the last point where x is not between that and the baseline.

    >>> zero, last = torch.zeros(3), torch.ones(3)
    >>> monotonized(torch.tensor([0.25, 2.0, -1.0]), last, zero, n_anchors=4)
    tensor([0.2500, 0.7500, 0.7500])
    """
    moved = outside(x, last, baseline).bool()
    return torch.where(moved, step_on(last, baseline, n_anchors), x)


def greedy(candidates: Tensor, last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """How far each candidate is from itself monotonized."""
    way = candidates - step_on(last, baseline, n_anchors)
    return way.mul_(outside(candidates, last, baseline)).norm(dim=-1)


def maxcount(candidates: Tensor, last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """In how many dimensions each candidate is not monotone."""
    return outside(candidates, last, baseline).sum(-1)


# Costs (P, n) of candidates (P, n, D), given the last anchor and the baseline (P, 1, D).
STRATEGIES: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "greedy": greedy,
    "maxcount": maxcount,
}


@dataclass(frozen=True)
class DiscretizedPath:
    """From a baseline to each token of a batch by words in between.

    Args:
        strategy: which neighbour of an anchor is the next: "greedy" takes the one that is moved
            least to be monotone, "maxcount" the one that is moved in fewest dimensions; of equals
            the nearest.
        n_anchors: words between the input and the baseline.
        factor: how many times the points' midpoints are put between them.
        n_neighbors: how many of an anchor's nearest neighbours are candidates.
        cache_dir: where the neighbours are kept on disk, see `neighbors.nearest_neighbors`.
    """

    strategy: str = "greedy"
    n_anchors: int = 30
    factor: int = 0
    n_neighbors: int = 500
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check the name and the numbers."""
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"strategy {self.strategy!r} is unknown: use one of {', '.join(STRATEGIES)}"
            )
        for name, least in (("n_anchors", 1), ("factor", 0), ("n_neighbors", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} at least, got {value!r}")

    def __call__(
        self,
        layer: nn.Module,
        ids: Tensor,  # (B, L)
        baselines: Tensor,  # (B, L, D)
    ) -> PathPoints:
        """The paths, with K = 2**factor · (n_anchors + 1) + 1 points.

        Where a token's vector is its baseline, the path stays there. Anchors that were found are
        remembered by weights, token and baseline; texts share most of their words.

        Args:
            layer: the word embedding.
            ids: the tokens at the paths' ends.
            baselines: the vectors at their starts, any: zeros, a token's vector, a mean.

        Raises:
            ValueError: if the layer is no embedding, or the tensors do not fit it.
        """
        _check(as_embedding(layer), ids, baselines)
        with torch.inference_mode(False), torch.no_grad():
            return self._knots(layer, ids, baselines)

    def _knots(self, layer: nn.Module, ids: Tensor, baselines: Tensor) -> PathPoints:
        with model_lock:
            search = _search(self, layer)
        vectors = search.vectors
        starts = baselines.detach().to(vectors).flatten(0, 1)  # (B · L, D)
        numbers: dict[Pair, int] = {}
        of = [
            numbers.setdefault(pair, len(numbers))
            for pair in zip(ids.flatten().tolist(), _digests(starts), strict=True)
        ]
        as_ids = functools.partial(torch.tensor, dtype=torch.long, device=vectors.device)
        words = as_ids([token for token, _ in numbers])  # (P,)
        positions = as_ids(of)
        starts = starts.new_empty(len(words), starts.shape[1]).index_copy_(0, positions, starts)
        with model_lock:
            anchors = search.anchors(list(numbers), words, starts)
        points = _points(search, words, anchors, starts)
        for _ in range(self.factor):
            points = _with_midpoints(points)
        if outside(points[:, 1:], points[:, -1:], points[:, :-1]).any():
            raise RuntimeError("a path of DIG is not monotone, which is an error of captum_sig")
        return PathPoints(points, positions.reshape(ids.shape))


@dataclass(frozen=True, eq=False)
class _AnchorSearch:
    """The search for anchors in one vocabulary, and what it has found so far."""

    path: DiscretizedPath
    vectors: Tensor  # (V, D)
    neighbors: Tensor  # (V, n)
    found: dict[Pair, list[int]] = field(default_factory=dict)  # anchors' ids, latest last

    def anchors(
        self,
        pairs: list[Pair],
        words: Tensor,  # (P,)
        starts: Tensor,  # (P, D)
    ) -> Tensor:  # (P, n_anchors)
        """Ids of the anchors, from the words on; −1 where only the baseline is left."""
        stays = (self.vectors[words] == starts).all(1).tolist()
        new = [i for i, p in enumerate(pairs) if not stays[i] and p not in self.found]
        at_once = self._pairs_at_once()
        for first in range(0, len(new), at_once):
            some = new[first : first + at_once]
            for i, ids in zip(some, self._find(words[some], starts[some]), strict=True):
                self.found[pairs[i]] = ids
        nowhere = [-1] * self.path.n_anchors
        result = [nowhere if here else self.found[p] for here, p in zip(stays, pairs, strict=True)]
        for pair in pairs:
            if pair in self.found:
                self.found[pair] = self.found.pop(pair)
        while len(self.found) > CACHE_SIZE // self.path.n_anchors:
            del self.found[next(iter(self.found))]
        shape = len(pairs), self.path.n_anchors
        return torch.tensor(result, dtype=torch.long, device=words.device).reshape(shape)

    def _pairs_at_once(self) -> int:
        n_vectors, n_features = self.vectors.shape
        width = max(self.neighbors.shape[1] * n_features, n_vectors)
        return max(1, BLOCK.get(self.vectors.device.type, LARGE_BLOCK) // width)

    def _find(self, words: Tensor, starts: Tensor) -> list[list[int]]:
        """The search itself: (P,) words and (P, D) baselines → the anchors' ids of each."""
        used = torch.zeros(len(words), len(self.vectors), dtype=torch.bool, device=words.device)
        used.scatter_(1, words[:, None], True)
        pair, token = (starts[:, :1] == self.vectors[:, 0]).nonzero(as_tuple=True)  # few
        used[pair, token] |= (starts[pair] == self.vectors[token]).all(1)  # is the baseline
        cost = STRATEGIES[self.path.strategy]
        last, anchors = words[:, None], []  # (P, 1)
        for _ in range(self.path.n_anchors):
            near = self.neighbors[last.squeeze(1)]  # (P, n)
            candidates = nn.functional.embedding(near, self.vectors)  # faster than indexing
            costs = cost(candidates, self.vectors[last], starts[:, None], self.path.n_anchors)
            costs = costs.masked_fill(used.gather(1, near), torch.inf)
            least, place = costs.min(1, keepdim=True)  # the first of equals, so the nearest
            chosen = near.gather(1, place)
            found = least < torch.inf
            anchors.append(torch.where(found, chosen, -1))
            last = torch.where(found, chosen, last)  # none now, none later
            used.scatter_(1, last, True)
        return torch.cat(anchors, 1).tolist()


_searches: list[_AnchorSearch] = []  # latest last; for one thread at a time, which has model_lock


def _search(path: DiscretizedPath, layer: nn.Module) -> _AnchorSearch:
    """The search that serves, kept or new."""
    bare = replace(path, factor=0, cache_dir=None)
    for search in _searches:
        if search.path == bare and is_vocabulary(search.vectors, layer):
            _searches.remove(search)
            break
    else:
        vectors = vocabulary(layer)
        vectors = vectors.to(at_least_float32(vectors.dtype))
        neighbors = nearest_neighbors(vectors, path.n_neighbors, path.cache_dir)
        search = _AnchorSearch(bare, vectors, neighbors)
    _searches.append(search)
    del _searches[:-KEPT]
    return search


def _points(
    search: _AnchorSearch,
    words: Tensor,  # (P,)
    anchors: Tensor,  # (P, n_anchors)
    starts: Tensor,  # (P, D)
) -> Tensor:  # (P, n_anchors + 2, D)
    """From the baselines to the words, the anchors made monotone one after the other."""
    points = [search.vectors[words]]
    for ids in anchors.T:
        anchor = torch.where((ids < 0)[:, None], starts, search.vectors[ids])
        points.append(monotonized(anchor, points[-1], starts, len(anchors.T)))
    return torch.stack([starts, *reversed(points)], dim=1)


def _with_midpoints(points: Tensor) -> Tensor:
    """(P, K, D) → (P, 2K − 1, D)."""
    middles = 0.5 * (points[:, :-1] + points[:, 1:])
    return torch.cat([torch.stack([points[:, :-1], middles], 2).flatten(1, 2), points[:, -1:]], 1)


def _digests(rows: Tensor) -> list[bytes]:
    """Of each row (N, D), by its bytes."""
    plain = rows.cpu().contiguous().view(torch.uint8).numpy()
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in plain]


def _check(layer: nn.Embedding, ids: Tensor, baselines: Tensor) -> None:
    if ids.dim() != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"ids have shape {tuple(ids.shape)} and {ids.dtype}; wanted whole numbers (B, L)"
        )
    wanted = (*ids.shape, layer.embedding_dim)
    if baselines.shape != wanted or not baselines.is_floating_point():
        raise ValueError(
            f"baselines have shape {tuple(baselines.shape)} and {baselines.dtype}; wanted floats "
            f"{wanted}: a vector for each of the ids"
        )
    if not baselines.isfinite().all():
        raise ValueError("baselines hold infinite numbers or NaN; wanted finite vectors")
    last = layer.num_embeddings - 1
    if ids.numel() and not (ids.min() >= 0 and ids.max() <= last):
        raise ValueError(
            f"ids go from {ids.min()} to {ids.max()}; wanted 0 to {last}, as the embedding has"
        )


class LayerDiscretizedIntegratedGradients(LayerIntegratedGradients):
    """DIG of a word embedding: token ids in, attributions (B, L, D) out.

    The model is explained as it is, for a fixed target, at its own word embedding; the published
    code adds positions and normalises twice, and follows the largest logit.

    Args:
        forward_func: as in `captum.attr.LayerIntegratedGradients`.
        layer: the word embedding, `model.get_input_embeddings()`.
        device_ids: as in `captum.attr.LayerIntegratedGradients`.
        multiply_by_inputs: False divides what a feature gets by its x − b.
        strategy: "greedy" or "maxcount", see `DiscretizedPath`.
        n_anchors: words on the way from a word to its baseline.
        factor: how many times midpoints are put between them; 2**factor (n_anchors + 1)
            gradients in all.
        n_neighbors: how many nearest neighbours of a word are candidates for the next.
        cache_dir: where neighbours are kept on disk; None is captum_sig's folder in the user's
            cache.

    For Sequential DIG, which moves one word at a time, pass a `DiscretizedPath` as `path=` to
    `LayerSequentialIntegratedGradients`.

    >>> import torch
    >>> embedding = torch.nn.Embedding.from_pretrained(torch.tensor([[0.0], [2.0], [3.0], [1.0]]))
    >>> dig = LayerDiscretizedIntegratedGradients(
    ...     lambda ids: embedding(ids).sum(1), embedding, n_anchors=1, n_neighbors=2
    ... )
    >>> dig.attribute(torch.tensor([[1, 2]]), baselines=0, target=0).squeeze()
    tensor([2., 3.])
    """

    def __init__(
        self,
        forward_func: Any,
        layer: nn.Module,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        strategy: str = "greedy",
        n_anchors: int = 30,
        factor: int = 0,
        n_neighbors: int = 500,
        cache_dir: Path | None = None,
    ) -> None:
        """Check the path's options.

        Raises:
            ValueError: for a strategy or number that there is not, or a layer that is no embedding.
        """
        super().__init__(forward_func, layer, device_ids, multiply_by_inputs)
        if not isinstance(layer, nn.Embedding):
            raise ValueError(
                f"DIG leads from word to word, but layer is {type(layer).__name__}: pass the word "
                "embedding, model.get_input_embeddings()"
            )
        self.path = DiscretizedPath(strategy, n_anchors, factor, n_neighbors, cache_dir)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        layer_baselines: Any = None,
        show_progress: bool = False,
    ) -> Any:
        """DIG; as `LayerSequentialIntegratedGradients.attribute`, but for these.

        The path has its own steps: there is no `n_steps` and no `method`.

        Args:
            return_convergence_delta: also return Σ DIG − (F(x) − F(b)), (B,).

        Returns:
            attributions (B, L, D), in the units of F; zero where input and baseline are equal.
        """
        problem = self._problem(inputs, baselines, layer_baselines, target,
                                additional_forward_args, grad_kwargs, internal_batch_size,
                                show_progress)  # fmt: skip
        integral, delta = self._integral(problem)
        return (integral.attributions, delta) if return_convergence_delta else integral.attributions

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: BaselineType,
        end_point: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        layer_baselines: Any = None,
    ) -> Tensor:
        """Σ attributions − (F(x) − F(b)), (B,), both asked with the input's positions."""
        return self._problem(
            end_point, start_point, layer_baselines, target, additional_forward_args
        ).convergence_delta(attributions)

    def _integral(self, problem: Problem) -> tuple[SequentialIntegral, Tensor]:
        steps = problem.path_steps(self.path)
        return problem.integral(functools.partial(by_steps, steps=steps), self.multiplies_by_inputs)

    def _problem(
        self,
        inputs: Any,
        baselines: Any,
        layer_baselines: Any,
        target: Any,
        additional_forward_args: Any,
        grad_kwargs: Any = None,
        chunk: int | None = None,
        progress: bool = False,
    ) -> Problem:
        problem = layer_problem(
            self.forward_func, self.layer, self.device_ids, inputs, baselines, layer_baselines,
            target, additional_forward_args, False, grad_kwargs, None, None, chunk, progress
        )  # fmt: skip
        warn_of_dropout(problem.function.modules)
        return problem.together()

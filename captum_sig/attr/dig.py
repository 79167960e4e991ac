"""Discretized Integrated Gradients in Captum's verbs.

    DIG_i(x) = Σ_k ∂F(γ(k)) / ∂x_i · (γ_i(k + 1) − γ_i(k))

The straight path from a baseline to a word passes through points that are not words. DIG's path γ
passes through *anchors*: words, each among the nearest neighbours of the one before, shifted where
needed so that the path is monotone in every dimension, which keeps its Riemann sums complete. All
words move at once. Completeness holds for the sentence: Σ DIG tends to F(x) − F(b) as `factor`
grows.

B, L, D as in `sig`; P pairs of a word and a baseline vector, n neighbours, K points of a path.

Source: Sanyal and Ren, "Discretized Integrated Gradients for explaining language models", EMNLP
2021, arXiv 2108.13654, equation 3; the left Riemann sum of the published code.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from captum.attr import LayerIntegratedGradients
from captum.log import log_usage
from torch import Tensor, nn

from captum_sig._captum import BaselineType, TargetType
from captum_sig._locks import ForkSafeLock
from captum_sig._names import unknown_name
from captum_sig._numbers import MAX_N_STEPS, checked_integer
from captum_sig.attr.arguments import integrator, layer_problem
from captum_sig.attr.function import Tensors, at_least_float32, warn_of_dropout
from captum_sig.attr.neighbors import as_embedding, is_vocabulary, nearest_neighbors, vocabulary
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import Places

BLOCK = {"cpu": 2**19}  # numbers in a block of candidates: what fits the caches
LARGE_BLOCK = 2**26  # on devices without such caches
MAX_SEARCHES = 2  # whose anchors are cached
CACHE_SIZE = 2**20  # ids of anchors that each search caches
MAX_FACTOR = MAX_N_STEPS.bit_length() - 1

Pair = tuple[int, bytes]  # token id, digest of the baseline vector


@dataclass(frozen=True)
class PathPoints:
    """Points of the paths that a batch needs, one path for each distinct word."""

    points: Tensor  # (P, K, D): from the baseline, 0, to the input, K − 1; at least float32
    path_of: Tensor  # (B, L): path of each position

    def __len__(self) -> int:
        return self.points.shape[1] - 1  # nothing follows the last point: its weight is zero

    def at(self, place: Places, step: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Return points, and the fraction of the way from start to end before the next; `Steps`."""
        path = self.path_of[place]
        here, following = self.points[path, step], self.points[path, step + 1]
        way = end - start
        fraction = (following - here) / torch.where(way == 0, 1, way)
        return here, torch.where(way == 0, 1 / len(self), fraction)


def outside(x: Tensor, last: Tensor, baseline: Tensor) -> Tensor:
    """Mark with 1 the dimensions in which x is not between the two others, ends included."""
    inside = x.clamp(torch.minimum(last, baseline), torch.maximum(last, baseline))
    return inside.ne_(x)  # floats, which CPUs compare and multiply much faster than bools


def step_toward(last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """Move from the last point by 1/n_anchors of the way to the baseline."""
    step = last - (1 / n_anchors) * (last - baseline)
    return step.clamp(torch.minimum(last, baseline), torch.maximum(last, baseline))  # rounding


def monotonized(x: Tensor, last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """Replace x by a step toward the baseline where it is not between the last point and that.

    >>> zero, last = torch.zeros(3), torch.ones(3)
    >>> monotonized(torch.tensor([0.25, 2.0, -1.0]), last, zero, n_anchors=4)
    tensor([0.2500, 0.7500, 0.7500])
    """
    shifted = outside(x, last, baseline).bool()
    return torch.where(shifted, step_toward(last, baseline, n_anchors), x)


def greedy(candidates: Tensor, last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """Distance of each candidate from itself monotonized."""
    shift = candidates - step_toward(last, baseline, n_anchors)
    return shift.mul_(outside(candidates, last, baseline)).norm(dim=-1)


def maxcount(candidates: Tensor, last: Tensor, baseline: Tensor, n_anchors: int) -> Tensor:
    """Number of dimensions in which each candidate is not monotone."""
    return outside(candidates, last, baseline).sum(-1)


# Costs (P, n) of candidates (P, n, D), given the last anchor and the baseline (P, 1, D).
STRATEGIES: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "greedy": greedy,
    "maxcount": maxcount,
}


@dataclass(frozen=True)
class DiscretizedPath:
    """A path from a baseline to each token of a batch, through words in between.

    Args:
        strategy: which neighbour of an anchor is the next: "greedy" takes the one that is shifted
            least to be monotone, "maxcount" the one that is shifted in the fewest dimensions; the
            nearest of equals.
        n_anchors: number of words between the input and the baseline.
        factor: how often midpoints are inserted between the points.
        n_neighbors: number of an anchor's nearest neighbours that are candidates.
        cache_dir: folder in which neighbours are stored, see `neighbors.nearest_neighbors`.
    """

    strategy: str = "greedy"
    n_anchors: int = 30
    factor: int = 0
    n_neighbors: int = 500
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(unknown_name("strategy", self.strategy, STRATEGIES))
        limits = {"n_anchors": (1, None), "factor": (0, MAX_FACTOR), "n_neighbors": (1, None)}
        for name, (least, most) in limits.items():
            value = checked_integer(name, getattr(self, name), least, most)
            object.__setattr__(self, name, value)
        n_steps = 2**self.factor * (self.n_anchors + 1)
        if n_steps > MAX_N_STEPS:
            raise ValueError(
                f"n_anchors {self.n_anchors:,} and factor {self.factor} make {n_steps:,} steps; "
                f"wanted at most {MAX_N_STEPS:,}"
            )

    def __call__(
        self,
        layer: nn.Module,
        ids: Tensor,  # (B, L)
        baselines: Tensor,  # (B, L, D)
    ) -> PathPoints:
        """Find the paths, with K = 2**factor · (n_anchors + 1) + 1 points.

        Where a token's vector is its baseline, the path stays there. Anchors are cached by weights,
        token and baseline, since texts share most of their words.

        Args:
            layer: the word embedding.
            ids: the tokens at the paths' ends.
            baselines: the vectors at their starts: zeros, a token's vector, a mean, or any other.

        Raises:
            ValueError: if the layer is not an embedding, or the tensors do not fit it.
        """
        _check(as_embedding(layer), ids, baselines)
        with torch.inference_mode(False), torch.no_grad():
            return self._points(layer, ids, baselines)

    def _points(self, layer: nn.Module, ids: Tensor, baselines: Tensor) -> PathPoints:
        with _searches_lock:
            search = _search(self, layer)
        vectors = search.vectors
        starts = baselines.detach().to(vectors).flatten(0, 1)  # (B · L, D)
        numbers: dict[Pair, int] = {}
        path_of = [
            numbers.setdefault(pair, len(numbers))
            for pair in zip(ids.flatten().tolist(), _digests(starts), strict=True)
        ]
        as_ids = functools.partial(torch.tensor, dtype=torch.long, device=vectors.device)
        words = as_ids([token for token, _ in numbers])  # (P,)
        positions = as_ids(path_of)
        starts = starts.new_empty(len(words), starts.shape[1]).index_copy_(0, positions, starts)
        with _searches_lock:
            anchors = search.anchors(list(numbers), words, starts)
        points = [vectors[words]]
        for anchor_ids in anchors.T:
            anchor = torch.where((anchor_ids < 0)[:, None], starts, vectors[anchor_ids])
            points.append(monotonized(anchor, points[-1], starts, self.n_anchors))
        path = torch.stack([starts, *reversed(points)], dim=1)  # (P, n_anchors + 2, D)
        for _ in range(self.factor):
            path = _with_midpoints(path)
        if outside(path[:, 1:], path[:, -1:], path[:, :-1]).any():
            raise RuntimeError("a path of DIG is not monotone, which is an error of captum_sig")
        return PathPoints(path, positions.reshape(ids.shape))


@dataclass(frozen=True, eq=False)
class _AnchorSearch:
    """The search for anchors in one vocabulary, with its cache."""

    path: DiscretizedPath
    vectors: Tensor  # (V, D)
    neighbors: Tensor  # (V, n)
    cache: dict[Pair, list[int]] = field(default_factory=dict)  # anchors' ids, latest last

    def anchors(
        self,
        pairs: list[Pair],
        words: Tensor,  # (P,)
        starts: Tensor,  # (P, D)
    ) -> Tensor:  # (P, n_anchors)
        """Return the anchors' ids, from the words on; −1 where only the baseline is left."""
        stays = (self.vectors[words] == starts).all(1).tolist()
        new = [i for i, p in enumerate(pairs) if not stays[i] and p not in self.cache]
        n_vectors, n_features = self.vectors.shape
        width = max(self.neighbors.shape[1] * n_features, n_vectors)
        size = max(1, BLOCK.get(self.vectors.device.type, LARGE_BLOCK) // width)
        for first in range(0, len(new), size):
            block = new[first : first + size]
            for i, ids in zip(block, self._find(words[block], starts[block]), strict=True):
                self.cache[pairs[i]] = ids
        no_anchor = [-1] * self.path.n_anchors
        result = [
            no_anchor if stay else self.cache[p] for stay, p in zip(stays, pairs, strict=True)
        ]
        for pair in pairs:
            if pair in self.cache:
                self.cache[pair] = self.cache.pop(pair)
        while len(self.cache) > CACHE_SIZE // self.path.n_anchors:
            del self.cache[next(iter(self.cache))]
        shape = len(pairs), self.path.n_anchors
        return torch.tensor(result, dtype=torch.long, device=words.device).reshape(shape)

    def _find(self, words: Tensor, starts: Tensor) -> list[list[int]]:
        """Search: (P,) words and (P, D) baselines → the anchors' ids of each."""
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
            least, place = costs.min(1, keepdim=True)  # the first of equals, hence the nearest
            best = near.gather(1, place)
            exists = least < torch.inf
            anchors.append(torch.where(exists, best, -1))
            last = torch.where(exists, best, last)  # none now, none later
            used.scatter_(1, last, True)
        return torch.cat(anchors, 1).tolist()


_searches: list[_AnchorSearch] = []  # latest last
_searches_lock = ForkSafeLock()  # held while they, or what they remember, are used


def _search(path: DiscretizedPath, layer: nn.Module) -> _AnchorSearch:
    """Return the cached search of this path and vocabulary, or a new one."""
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
    del _searches[:-MAX_SEARCHES]
    return search


def _with_midpoints(points: Tensor) -> Tensor:
    """(P, K, D) → (P, 2K − 1, D)."""
    middles = 0.5 * (points[:, :-1] + points[:, 1:])
    return torch.cat([torch.stack([points[:, :-1], middles], 2).flatten(1, 2), points[:, -1:]], 1)


def _digests(rows: Tensor) -> list[bytes]:
    """Hash the bytes of each row, (N, D) → N digests."""
    plain = rows.cpu().contiguous().view(torch.uint8).numpy()
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in plain]


def _check(layer: nn.Embedding, ids: Tensor, baselines: Tensor) -> None:
    if ids.dim() != 2 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"ids have shape {tuple(ids.shape)} and {ids.dtype}; wanted integers (B, L)"
        )
    wanted = (*ids.shape, layer.embedding_dim)
    if baselines.shape != wanted or not baselines.is_floating_point():
        raise ValueError(
            f"baselines have shape {tuple(baselines.shape)} and {baselines.dtype}; wanted floats "
            f"{wanted}: a vector for each of the ids"
        )
    if not baselines.isfinite().all():
        raise ValueError("baselines contain infinity or NaN; wanted finite vectors")
    last = layer.num_embeddings - 1
    if ids.numel() and not (ids.min() >= 0 and ids.max() <= last):
        raise ValueError(
            f"ids range from {ids.min()} to {ids.max()}; wanted 0 to {last}, as in the embedding"
        )


class LayerDiscretizedIntegratedGradients(LayerIntegratedGradients):
    """DIG of a word embedding: token ids in, attributions (B, L, D) out.

    Explains the model as it is, for a fixed target, at its own word embedding; the published code
    adds positions and normalises twice, and follows the largest logit.

    Args:
        forward_func: as in `captum.attr.LayerIntegratedGradients`.
        layer: the word embedding, `model.get_input_embeddings()`.
        device_ids: as in `captum.attr.LayerIntegratedGradients`.
        multiply_by_inputs: False divides each feature's attribution by its x − b.
        strategy: "greedy" or "maxcount", see `DiscretizedPath`.
        n_anchors: number of words between a word and its baseline.
        factor: how often midpoints are inserted between them; 2**factor (n_anchors + 1) gradients
            in all.
        n_neighbors: number of a word's nearest neighbours that are candidates for the next.
        cache_dir: folder in which neighbours are stored; None is captum_sig's folder in the user's
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
        super().__init__(forward_func, layer, device_ids, multiply_by_inputs)
        if not isinstance(layer, nn.Embedding):
            raise ValueError(
                f"DIG moves from word to word, but layer is {type(layer).__name__}: pass the word "
                "embedding, model.get_input_embeddings()"
            )
        self.path = DiscretizedPath(strategy, n_anchors, factor, n_neighbors, cache_dir)

    @overload
    def attribute(
        self, inputs: Tensor | Tensors, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., internal_batch_size: int | None = ...,
        return_convergence_delta: Literal[False] = ..., **options: Any,
    ) -> Tensor: ...  # fmt: skip
    @overload
    def attribute(
        self, inputs: Tensor | Tensors, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., internal_batch_size: int | None = ...,
        *, return_convergence_delta: Literal[True], **options: Any,
    ) -> tuple[Tensor, Tensor]: ...  # fmt: skip
    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | Tensors,
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
        """Compute DIG; as `LayerSequentialIntegratedGradients.attribute`, but for these.

        The path has its own steps: there is no `n_steps` and no `method`.

        Args:
            return_convergence_delta: also return Σ DIG − (F(x) − F(b)), (B,).

        Returns:
            attributions (B, L, D), in units of F; zero where input and baseline are equal.
        """
        problem = self._problem(
            inputs, baselines=baselines, layer_baselines=layer_baselines, target=target,
            additional_forward_args=additional_forward_args, grad_kwargs=grad_kwargs,
            internal_batch_size=internal_batch_size, show_progress=show_progress,
        )  # fmt: skip
        integrate = integrator(steps=problem.path_steps(self.path))
        integral, delta = problem.integral(integrate, self.multiplies_by_inputs)
        return (integral.attributions, delta) if return_convergence_delta else integral.attributions

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: BaselineType,
        end_point: Tensor | Tensors,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        layer_baselines: Any = None,
    ) -> Tensor:
        """Compute Σ attributions − (F(x) − F(b)), (B,), both evaluated at the input's positions."""
        return self._problem(
            end_point, baselines=start_point, layer_baselines=layer_baselines, target=target,
            additional_forward_args=additional_forward_args,
        ).convergence_delta(attributions)  # fmt: skip

    def _problem(self, inputs: Any, **arguments: Any) -> Problem:
        problem = layer_problem(
            self.forward_func, self.layer, inputs, device_ids=self.device_ids, **arguments
        )
        warn_of_dropout(problem.function.modules)
        return problem.as_one_word()

"""Nearest neighbours among a model's word embeddings, exact, computed once for each matrix.

Distances are Euclidean. Products of float64 matrices order nearly all of them; what lies within
their rounding error of each other is ordered by the differences themselves.
"""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from captum_sig._warnings import warn
from captum_sig.attr.function import at_least_float32, model_lock

BLOCK = 2**23  # numbers in the largest tensors, which are then 64 MiB
AT_ONCE = 1024  # rows to compare, which then stay in the cache
CACHE_SIZE = 4  # matrices whose neighbours stay in memory

_kept: dict[str, Tensor] = {}  # by file name, latest last; int32, so that callers get a copy
_keeping = threading.Lock()


def as_embedding(layer: nn.Module) -> nn.Embedding:
    """The layer, if it is a word embedding.

    Raises:
        ValueError: if it is no `nn.Embedding`.
    """
    if not isinstance(layer, nn.Embedding):
        raise ValueError(
            f"the layer is a {type(layer).__name__}; wanted the word embedding, "
            "model.get_input_embeddings()"
        )
    return layer


def vocabulary(layer: nn.Module) -> Tensor:
    """What the layer gives for every token id, (V, D): some embeddings scale their weight.

    Raises:
        ValueError: if the layer is no `nn.Embedding`.
    """
    with _looking_up(layer) as (look_up, ids):
        return look_up(ids)


def is_vocabulary(vectors: Tensor, layer: nn.Module) -> bool:
    """Whether `vectors` are `vocabulary(layer)` in float32 at least; quicker than building that.

    Raises:
        ValueError: if the layer is no `nn.Embedding`.
    """
    with _looking_up(layer) as (look_up, ids):
        if (len(ids), ids.device) != (len(vectors), vectors.device):
            return False
        for some, known in zip(ids.split(AT_ONCE), vectors.split(AT_ONCE), strict=True):
            found = look_up(some)
            found = found.to(at_least_float32(found.dtype))
            if found.dtype != known.dtype or not torch.equal(found, known):
                return False
        return True


@contextmanager
def _looking_up(layer: nn.Module) -> Iterator[tuple[nn.Embedding, Tensor]]:
    """The layer as it may be called, and all token ids, (V,)."""
    embedding = as_embedding(layer)
    with model_lock, torch.inference_mode(False), torch.no_grad():
        if embedding.max_norm is not None:  # a call would shorten its vectors in place
            embedding = copy.deepcopy(embedding)
        yield embedding, torch.arange(embedding.num_embeddings, device=embedding.weight.device)


def nearest_neighbors(
    vectors: Tensor,  # (V, D)
    n_neighbors: int = 500,
    cache_dir: Path | None = None,
) -> Tensor:  # (V, n)
    """Ids of the nearest other vectors of each vector, nearest first, equally near ones by id.

    The vector itself is left out by its id, so that its duplicates are its nearest neighbours.
    The order is that of distances in float64, whatever the vectors' dtype.

    Args:
        vectors: one for each token id.
        n_neighbors: how many; at most V − 1 are given.
        cache_dir: where results are kept, by a hash of the vectors; by default
            captum_sig/neighbors in $XDG_CACHE_HOME or ~/.cache. If it cannot be written, a
            warning says so.

    Raises:
        ValueError: if the vectors are not finite floats (V, D), V ≥ 2, or n_neighbors is less
            than 1.
    """
    _check(vectors)
    n = min(n_neighbors, len(vectors) - 1)
    if n < 1:
        raise ValueError(
            f"got n_neighbors {n_neighbors} for {len(vectors)} vectors; wanted at least 1 "
            "neighbour and 2 vectors"
        )
    weights = _fingerprint(vectors)
    folder = _default_folder() if cache_dir is None else Path(cache_dir)
    file = folder / f"{weights}-{n}.npz"
    with _keeping:
        found = _kept.pop(file.name, None)
        if found is None:
            found = _load(file, weights, (len(vectors), n))
        if found is None:
            found = _compute(vectors, n)
            _save(file, weights, found)
        _kept[file.name] = found
        if len(_kept) > CACHE_SIZE:
            del _kept[next(iter(_kept))]
    return found.to(vectors.device, torch.long)


@torch.inference_mode(False)
@torch.no_grad()
def nearest_tokens(
    vectors: Tensor,  # (V, D)
    points: Tensor,  # (..., D)
) -> tuple[Tensor, Tensor]:
    """The vector nearest to each point: its id and its distance, shaped (...) both.

    Of equally near vectors the one with the least id. Distances are float64, 0 for a vector itself.

    Raises:
        ValueError: if the vectors are not finite floats (V, D), or the points not (..., D).

    >>> ids, distances = nearest_tokens(torch.eye(3), torch.tensor([[0.0, 1.0, 0.5], [0, 0, 1]]))
    >>> ids.tolist(), distances.tolist()
    ([1, 2], [0.5, 0.0])
    """
    _check(vectors)
    if points.dim() == 0 or points.shape[-1] != vectors.shape[1]:
        raise ValueError(
            f"points have shape {tuple(points.shape)}; wanted (..., {vectors.shape[1]}), "
            "as the vectors have"
        )
    if not points.isfinite().all():
        raise ValueError("points hold infinite numbers or NaN; wanted finite ones")
    table = _Table(vectors)
    flat = points.detach().to(table.mean.device, torch.float64).reshape(-1, vectors.shape[1])
    found = [table.nearest(some) for some in flat.split(_rows(len(vectors)))]
    ids, distances = (torch.cat(parts) for parts in zip(*found, strict=True))
    shape = points.shape[:-1]
    return ids.reshape(shape).to(vectors.device), distances.reshape(shape)


class _Table:
    """The vectors and what products with them need.

    Of centred vectors a, b the products give ‖a‖² + ‖b‖² − 2ab. Its distance from the squared
    differences as computed, Σ(a − b)², is at most 2(D + 8)ε(‖a‖² + ‖b‖²): D for the sums of either,
    8 for centring, squaring and adding (N. Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1; any order of summation).
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors.detach()  # (V, D)
        if vectors.device.type == "mps":  # has no float64
            self.vectors = self.vectors.cpu()
        self.mean = self.vectors.mean(0, dtype=torch.float64)
        self.centred = self.vectors - self.mean
        self.norms = self.centred.square().sum(1)  # (V,)

    def by_products(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances (R, V) of points (R, D) to all vectors, and their error, (R, 1)."""
        centred = points - self.mean
        norms = centred.square().sum(1, keepdim=True)
        squares = (centred @ self.centred.T).mul_(-2).add_(self.norms).add_(norms)
        epsilon = torch.finfo(torch.float64).eps
        return squares, 2 * (points.shape[1] + 8) * epsilon * (norms + self.norms.max())

    def by_differences(self, points: Tensor, ids: Tensor) -> Tensor:
        """Squared distances (P,) of points (P, D) or (D,) to vectors (P,), given by id."""
        return (self.vectors[ids].double() - points).square().sum(1)

    def neighbors(self, rows: Tensor, n: int) -> Tensor:
        """The nearest other vectors of some vectors: ids (R,) → (R, n)."""
        squares, error = self.by_products(self.vectors[rows])
        squares.scatter_(1, rows[:, None], torch.inf)
        near = squares.topk(min(n + 1, len(self.vectors) - 1), dim=1, largest=False)
        found = near.indices[:, :n].contiguous()
        doubtful = (near.values.diff(dim=1) <= 2 * error).any(1)
        for i in doubtful.nonzero().squeeze(1).tolist():
            limit = near.values[i, n - 1] + 2 * error[i]
            candidates = (squares[i] <= limit).nonzero().squeeze(1)  # sorted
            distances = self.by_differences(self.vectors[rows[i]].double(), candidates)
            found[i] = candidates[distances.argsort(stable=True)[:n]]
        return found

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Id (R,) of the vector nearest to each point (R, D), and its distance."""
        squares, error = self.by_products(points)
        close = squares <= squares.amin(1, keepdim=True) + 2 * error
        row, token = close.nonzero(as_tuple=True)  # a pair for each point, unless vectors are alike
        some = torch.arange(len(row), device=row.device).split(_rows(points.shape[1]))
        exact = torch.cat([self.by_differences(points[row[p]], token[p]) for p in some])
        least = exact.new_full((len(points),), torch.inf)
        least.scatter_reduce_(0, row, exact, "amin")
        nearest = exact == least[row]
        ids = token.new_full((len(points),), len(self.vectors))
        ids.scatter_reduce_(0, row[nearest], token[nearest], "amin")
        return ids, least.sqrt()


def _check(vectors: Tensor) -> None:
    if vectors.dim() != 2 or not vectors.is_floating_point() or 0 in vectors.shape:
        raise ValueError(
            f"vectors have shape {tuple(vectors.shape)} and {vectors.dtype}; wanted floats (V, D)"
        )
    if not vectors.isfinite().all():
        raise ValueError("vectors hold infinite numbers or NaN; wanted finite ones")


def _rows(width: int) -> int:
    """How many rows of this width a block has."""
    return max(1, BLOCK // width)


@torch.inference_mode(False)
@torch.no_grad()
def _compute(vectors: Tensor, n: int) -> Tensor:
    """The neighbours, (V, n) int32 on the CPU."""
    table = _Table(vectors)
    blocks = torch.arange(len(vectors), device=table.mean.device).split(_rows(len(vectors)))
    return torch.cat([table.neighbors(rows, n).to("cpu", torch.int32) for rows in blocks])


def _fingerprint(vectors: Tensor) -> str:
    plain = vectors.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _default_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "captum_sig" / "neighbors"


def _load(file: Path, weights: str, shape: tuple[int, int]) -> Tensor | None:
    """What `_save` has written; None if the file is missing or anything else."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            ids, of = kept["neighbors"], str(kept["weights"])
    except Exception:  # whatever is wrong with the file, it can be made again
        return None
    good = of == weights and ids.shape == shape and ids.dtype == np.int32
    return torch.from_numpy(ids) if good else None


def _save(file: Path, weights: str, found: Tensor) -> None:
    """Atomically: a file that is there is whole."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, neighbors=found.numpy(), weights=np.array(weights))
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        warn(
            f"nearest neighbours are not kept ({error}) and will be computed again: "
            "pass a cache_dir that can be written, or set XDG_CACHE_HOME"
        )

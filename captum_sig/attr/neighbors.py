"""Nearest neighbours among a model's word embeddings: exact, and computed once for each matrix.

Distances are Euclidean. Products of float64 matrices order nearly all of them; those within their
rounding error of each other are ordered by the differences themselves. (`torch.cdist` without
products takes 15 times as long: 288 s of CPU time for 30,522 vectors of 384.)
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from captum_sig._files import replacing
from captum_sig._warnings import warn
from captum_sig.attr.function import at_least_float32

BLOCK = 2**23  # numbers in the largest tensors, which are then 64 MiB
CACHE_BYTES = 2**30  # of stored neighbours, 13 to 256 MB for a model
COMPARED_ROWS = 1024  # of a vocabulary at a time, which then stay in the cache


def as_embedding(layer: nn.Module) -> nn.Embedding:
    """Return the layer if it is a word embedding.

    Raises:
        ValueError: if it is not an `nn.Embedding`.
    """
    if not isinstance(layer, nn.Embedding):
        raise ValueError(
            f"the layer is a {type(layer).__name__}; wanted the word embedding, "
            "model.get_input_embeddings()"
        )
    return layer


def vocabulary(layer: nn.Module) -> Tensor:
    """Return the layer's output for every token id, (V, D): some embeddings scale their weight.

    Raises:
        ValueError: if the layer is not an `nn.Embedding`.
    """
    with _callable_embedding(layer) as (embedding, ids):
        return embedding(ids)


def is_vocabulary(vectors: Tensor, layer: nn.Module, *, n_compared: int = COMPARED_ROWS) -> bool:
    """Whether `vectors` equal `vocabulary(layer)` in at least float32; faster than building it.

    Raises:
        ValueError: if the layer is not an `nn.Embedding`.
    """
    with _callable_embedding(layer) as (embedding, ids):
        if (len(ids), ids.device) != (len(vectors), vectors.device):
            return False
        for some_ids, known in zip(ids.split(n_compared), vectors.split(n_compared), strict=True):
            rows = embedding(some_ids)
            rows = rows.to(at_least_float32(rows.dtype))
            if rows.dtype != known.dtype or not torch.equal(rows, known):
                return False
        return True


@contextmanager
def _callable_embedding(layer: nn.Module) -> Iterator[tuple[nn.Embedding, Tensor]]:
    """Yield an embedding that a call does not change, and all token ids, (V,)."""
    embedding = as_embedding(layer)
    with torch.inference_mode(False), torch.no_grad():
        if embedding.max_norm is not None:  # a call would shorten its vectors in place
            embedding = copy.deepcopy(embedding)
        yield embedding, torch.arange(embedding.num_embeddings, device=embedding.weight.device)


def nearest_neighbors(
    vectors: Tensor,  # (V, D)
    n_neighbors: int = 500,
    cache_dir: Path | None = None,
    *,
    block_size: int = BLOCK,
    cache_bytes: int = CACHE_BYTES,
) -> Tensor:  # (V, n)
    """Find the nearest other vectors of each vector: ids, nearest first, equally near ones by id.

    A vector is excluded from its own neighbours by its id, so that its duplicates come first. The
    order is that of distances in float64, whatever the vectors' dtype.

    Args:
        vectors: one for each token id.
        n_neighbors: number of neighbours, at most V − 1.
        cache_dir: folder in which results are stored by a hash of the vectors; by default
            neighbors in $CAPTUM_SIG_CACHE, or else in captum_sig in $XDG_CACHE_HOME or ~/.cache.
        block_size: numbers in the largest tensors.
        cache_bytes: the most that the folder may hold: those that were used longest ago are
            deleted, but never the last.

    Raises:
        ValueError: if the vectors are not finite floats (V, D) with V ≥ 2, or n_neighbors is less
            than 1.

    Warns:
        UserWarning: if the folder cannot be written.
    """
    _check(vectors)
    n = min(n_neighbors, len(vectors) - 1)
    if n < 1:
        raise ValueError(
            f"got n_neighbors {n_neighbors} for {len(vectors)} vectors; wanted at least 1 "
            "neighbour and 2 vectors"
        )
    digest = _fingerprint(vectors)
    folder = _default_folder() if cache_dir is None else Path(cache_dir)
    file = folder / f"{digest}-{n}.npz"
    neighbors = _load(file, digest, (len(vectors), n))
    if neighbors is None:
        neighbors = _compute(vectors, n, block_size)
        _save(file, digest, neighbors)
        _keep_newest(folder, cache_bytes)
    return neighbors.to(vectors.device, torch.long)


@torch.inference_mode(False)
@torch.no_grad()
def nearest_tokens(
    vectors: Tensor,  # (V, D)
    points: Tensor,  # (..., D)
    *,
    block_size: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """Find the vector nearest to each point: its id and its distance, shaped (...) both.

    Of equally near vectors it is the one with the smallest id. Distances are float64, 0 for a
    vector itself.

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
        raise ValueError("points contain infinity or NaN; wanted finite numbers")
    table = _Table(vectors, block_size)
    flat = points.detach().to(table.mean.device, torch.float64).reshape(-1, vectors.shape[1])
    nearest = [table.nearest(rows) for rows in flat.split(table.n_rows(len(vectors)))]
    ids, distances = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    shape = points.shape[:-1]
    return ids.reshape(shape).to(vectors.device), distances.reshape(shape)


class _Table:
    """The vectors, prepared for products with points.

    Of centred vectors a, b the products give ‖a‖² + ‖b‖² − 2ab. Its distance from the squared
    differences as computed, Σ(a − b)², is at most 2(D + 8)ε(‖a‖² + ‖b‖²): D for the sums of either,
    8 for centring, squaring and adding (N. Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1; any order of summation).
    """

    def __init__(self, vectors: Tensor, block_size: int = BLOCK) -> None:
        self.block_size = block_size
        self.vectors = vectors.detach()  # (V, D)
        if vectors.device.type == "mps":  # has no float64
            self.vectors = self.vectors.cpu()
        self.mean = self.vectors.mean(0, dtype=torch.float64)
        self.centred = self.vectors - self.mean
        self.norms = self.centred.square().sum(1)  # (V,)

    def n_rows(self, width: int) -> int:
        """Return the number of rows of this width in a block."""
        return max(1, self.block_size // width)

    def by_products(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared distances of points (R, D) to all vectors, (R, V), and errors, (R, 1)."""
        centred = points - self.mean
        norms = centred.square().sum(1, keepdim=True)
        squares = (centred @ self.centred.T).mul_(-2).add_(self.norms).add_(norms)
        epsilon = torch.finfo(torch.float64).eps
        return squares, 2 * (points.shape[1] + 8) * epsilon * (norms + self.norms.max())

    def by_differences(self, points: Tensor, ids: Tensor) -> Tensor:
        """Return squared distances (P,) of points (P, D) or (D,) to vectors (P,), given by id."""
        return (self.vectors[ids].double() - points).square().sum(1)

    def neighbors(self, rows: Tensor, n: int) -> Tensor:
        """Find the nearest other vectors of some vectors: ids (R,) → (R, n)."""
        squares, error = self.by_products(self.vectors[rows])
        squares.scatter_(1, rows[:, None], torch.inf)
        near = squares.topk(min(n + 1, len(self.vectors) - 1), dim=1, largest=False)
        neighbors = near.indices[:, :n].contiguous()
        doubtful = (near.values.diff(dim=1) <= 2 * error).any(1)
        for i in doubtful.nonzero().squeeze(1).tolist():
            limit = near.values[i, n - 1] + 2 * error[i]
            candidates = (squares[i] <= limit).nonzero().squeeze(1)  # sorted
            distances = self.by_differences(self.vectors[rows[i]].double(), candidates)
            neighbors[i] = candidates[distances.argsort(stable=True)[:n]]
        return neighbors

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Find the vector nearest to each point (R, D): its id (R,) and distance (R,)."""
        squares, error = self.by_products(points)
        close = squares <= squares.amin(1, keepdim=True) + 2 * error
        row, token = close.nonzero(as_tuple=True)  # one pair per point, unless vectors are equal
        blocks = torch.arange(len(row), device=row.device).split(self.n_rows(points.shape[1]))
        exact = torch.cat([self.by_differences(points[row[p]], token[p]) for p in blocks])
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
        raise ValueError("vectors contain infinity or NaN; wanted finite numbers")


@torch.inference_mode(False)
@torch.no_grad()
def _compute(vectors: Tensor, n: int, block_size: int) -> Tensor:
    """Compute the neighbours, (V, n) int32 on the CPU."""
    table = _Table(vectors, block_size)
    numbers = torch.arange(len(vectors), device=table.mean.device)
    return torch.cat(
        [
            table.neighbors(rows, n).to("cpu", torch.int32)
            for rows in numbers.split(table.n_rows(len(vectors)))
        ]
    )


def _fingerprint(vectors: Tensor) -> str:
    plain = vectors.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _default_folder() -> Path:
    if own := os.environ.get("CAPTUM_SIG_CACHE"):
        return Path(own) / "neighbors"
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "captum_sig" / "neighbors"


def _load(file: Path, digest: str, shape: tuple[int, int]) -> Tensor | None:
    """Load what `_save` has written; None if the file is missing or anything else."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            ids, stored = arrays["neighbors"], str(arrays["weights"])
    except Exception:  # whatever is wrong with the file, it can be made again
        return None
    intact = stored == digest and ids.shape == shape and ids.dtype == np.int32
    if not intact:
        return None
    with suppress(OSError):  # another user's cache can be read only
        os.utime(file)  # it was used last
    return torch.from_numpy(ids)


def _save(file: Path, digest: str, neighbors: Tensor) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, neighbors=neighbors.numpy(), weights=np.array(digest))
    except OSError as error:
        warn(
            f"nearest neighbours are not stored ({error}) and will be computed again: "
            "pass a cache_dir that can be written, or set CAPTUM_SIG_CACHE"
        )


def _keep_newest(folder: Path, n_bytes: int) -> None:
    """Delete what was used longest ago until the files, but at least one, fit into these bytes."""
    stats = {}
    for file in folder.glob("*.npz*"):  # also temporary ones that a killed process has left
        if re.fullmatch(r"\.?[0-9a-f]{64}-[0-9]+\.npz(\..+\.tmp)?", file.name):
            with suppress(OSError):  # another process has deleted it
                stats[file] = file.stat()
    newest_first = sorted(stats, key=lambda file: stats[file].st_mtime_ns, reverse=True)
    sizes = accumulate(stats[file].st_size for file in newest_first)
    for number, (file, n_kept) in enumerate(zip(newest_first, sizes, strict=True)):
        if number and n_kept > n_bytes:
            with suppress(OSError):
                file.unlink()

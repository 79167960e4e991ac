"""Rows in flight: how many are evaluated at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from captum_sig.attr.function import Tensors

Result = TypeVar("Result")

# Bytes of moving activations in a chunk unless the caller sets `internal_batch_size`: what fits a
# CPU's caches, and what keeps a GPU busy.
CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**28}


class Chunks:
    """Evaluates rows in order, as many at a time as fit the device, with a progress bar.

    When a device runs out of memory, the chunk is halved for good and retried, down to one row.
    """

    def __init__(self, points: Tensors, max_rows: int | None, show_progress: bool) -> None:
        from tqdm import tqdm

        self.size = max_rows or default_chunk(points)
        self.bar = tqdm(total=0, unit="row", disable=not show_progress)

    def __enter__(self) -> Chunks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def map(
        self, evaluate: Callable[[slice], Result], n_rows: int
    ) -> Iterator[tuple[slice, Result]]:
        """Yield each chunk of rows 0 … n_rows − 1 with what `evaluate` returns for it."""
        self.bar.total = (self.bar.total or 0) + n_rows
        start = 0
        while start < n_rows:
            rows = slice(start, min(start + self.size, n_rows))
            try:
                result = evaluate(rows)
            except torch.cuda.OutOfMemoryError:
                if rows.stop - start == 1:
                    raise
                self.size = (rows.stop - start) // 2
            else:
                yield rows, result
                self.bar.update(rows.stop - start)
                start = rows.stop
                continue
            torch.cuda.empty_cache()  # after the except clause: the traceback held the tensors


def default_chunk(points: Tensors) -> int:
    """Return the number of rows whose activations fit `CHUNK_BYTES`."""
    n_examples = max(1, points[0].shape[0])
    bytes_per_row = sum(x.numel() * x.element_size() // n_examples for x in points)
    budget = CHUNK_BYTES.get(points[0].device.type, CHUNK_BYTES["cuda"])
    return max(1, budget // max(1, bytes_per_row))

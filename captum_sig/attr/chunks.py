"""How many rows are in flight at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from captum_sig.attr.function import Tensors

Result = TypeVar("Result")

# Bytes of moving activations in a chunk when the caller sets no `internal_batch_size`: what a
# CPU's caches like, and what keeps a GPU busy.
CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**28}


class Chunks:
    """Evaluates rows in order, so many at a time as a device holds, and draws the bar.

    When a device runs out of memory the chunk is halved for good and tried again, down to one row.
    """

    def __init__(self, points: Tensors, most: int | None, progress: bool) -> None:
        """Start with chunks of `most` rows, or as many as `default_chunk` says."""
        from tqdm import tqdm

        self.size = most or default_chunk(points)
        self.bar = tqdm(total=0, unit="row", disable=not progress)

    def __enter__(self) -> Chunks:
        """Show the bar."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the bar."""
        self.bar.close()

    def __call__(
        self, evaluate: Callable[[slice], Result], n_rows: int
    ) -> Iterator[tuple[slice, Result]]:
        """What `evaluate` gives for rows 0 … n_rows − 1, chunk by chunk."""
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
    """Rows in a chunk such that their activations stay within `CHUNK_BYTES`."""
    n_examples = max(1, points[0].shape[0])
    per_row = sum(x.numel() * x.element_size() // n_examples for x in points)
    budget = CHUNK_BYTES.get(points[0].device.type, CHUNK_BYTES["cuda"])
    return max(1, budget // max(1, per_row))

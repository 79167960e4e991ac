"""Rows in flight: how many are evaluated at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from captum_sig._warnings import warn
from captum_sig.attr.function import Tensors

Result = TypeVar("Result", bound=tuple[Any, ...])  # F's values, (R, …), and what comes with them

# Bytes of moving activations in a chunk unless the caller sets `internal_batch_size`: what fits a
# CPU's caches, and what keeps a GPU busy.
CHUNK_BYTES = {"cpu": 2**21, "cuda": 2**28}


class Chunks:
    """Evaluates rows in order, as many at a time as fit the device, with a progress bar.

    When a device runs out of memory, the chunk is halved for good and retried, down to one row. If
    F of a row depends on the rows beside it (dynamic quantization, batch norm in train mode,
    experts with limited capacity), rows are evaluated one by one. The last row of the first chunk
    shows it, evaluated alone.
    """

    def __init__(
        self, points: Tensors, max_rows: int | None, show_progress: bool, is_checked: bool = False
    ) -> None:
        self.size = max_rows or default_chunk(points)
        self.show_progress = show_progress
        self.tolerance = rounding_error(points[0])
        self.is_checked = is_checked
        self.one_by_one = False

    def __enter__(self) -> Chunks:
        from tqdm import tqdm

        self.bar = tqdm(total=0, unit="row", disable=not self.show_progress)
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def map(
        self,
        evaluate: Callable[[slice], Result],
        n_rows: int,
        last_alone: Tensor | None = None,  # (1, …): F of the last row, evaluated alone, if known
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
                known = last_alone if rows.stop == n_rows else None
                if self._depends_on_others(evaluate, rows, result[0], known):
                    self.take_rows_one_by_one()
                    continue
                yield rows, result
                self.bar.update(rows.stop - start)
                start = rows.stop
                continue
            torch.cuda.empty_cache()  # after the except clause: the traceback held the tensors

    def take_rows_one_by_one(self) -> None:
        """Evaluate each row alone from now on, and warn why."""
        self.size, self.one_by_one = 1, True
        warn_of_dependent_rows()

    def _depends_on_others(
        self,
        evaluate: Callable[[slice], Result],
        rows: slice,
        values: Tensor,
        known: Tensor | None,
    ) -> bool:
        if self.is_checked or len(values) < 2:
            return False
        self.is_checked = True
        if known is not None and not changes(known, values, self.tolerance):
            return False
        last = slice(rows.stop - 1, rows.stop)
        return depends_on_others(lambda: evaluate(last)[0], values, self.tolerance)


def depends_on_others(alone: Callable[[], Tensor], values: Tensor, tolerance: float) -> bool:
    """Whether the last of several rows changes when it is evaluated alone.

    A model that differs from itself is random, which is another matter.

    Args:
        alone: evaluates the last row, (1, …).
        values: of all rows, (R, …).
        tolerance: the largest difference that is rounding, as a fraction of the largest value.
    """
    first = alone()
    if not changes(first, values, tolerance):
        return False
    return not changes(alone(), torch.cat([values, first.to(values)]), tolerance)


def changes(alone: Tensor, values: Tensor, tolerance: float) -> bool:
    """Whether the last of several rows' values, (R, …), is another one alone, (1, …)."""
    scale = float(values.abs().nan_to_num(0.0, 0.0).max())
    limit = tolerance * max(scale, tolerance)
    return not torch.allclose(alone.to(values), values[-1:], rtol=0.0, atol=limit, equal_nan=True)


def rounding_error(x: Tensor) -> float:
    """Return a bound of what rounding alone changes on x's device, as a fraction of F.

    It is the square root of the precision in which matrices are multiplied: many roundings add up,
    and all other reasons for a change are larger.
    """
    return math.sqrt(product_epsilon(x))


def product_epsilon(x: Tensor) -> float:
    """Return the relative precision in which matrices are multiplied on x's device."""
    dtype = x.dtype if x.is_floating_point() else torch.bfloat16  # ids tell nothing: the coarsest
    probe = torch.ones(1, 1, dtype=dtype, device=x.device)
    epsilon = torch.finfo((probe @ probe).dtype).eps  # autocast may choose another
    return epsilon if x.device.type == "cpu" else max(epsilon, 2**-10)  # TF32


def warn_of_dependent_rows() -> None:
    """Warn that the model does not treat each row by itself."""
    warn(
        "the model's output for a row depends on the rows beside it (dynamic quantization, batch "
        "norm in train mode, experts with limited capacity), so rows are evaluated one by one"
    )


def default_chunk(points: Tensors) -> int:
    """Return the number of rows whose activations fit `CHUNK_BYTES`."""
    n_examples = max(1, points[0].shape[0])
    bytes_per_row = sum(x.numel() * x.element_size() // n_examples for x in points)
    budget = CHUNK_BYTES.get(points[0].device.type, CHUNK_BYTES["cuda"])
    return max(1, budget // max(1, bytes_per_row))

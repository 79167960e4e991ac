"""Seconds, rows, floating-point operations, peak memory, and the machine's own speed."""

import ctypes
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.record import processor

MIB = 2**20


@dataclass
class Rows:
    """Rows that went through a model, forward alone or forward and backward."""

    forward: int = 0
    backward: int = 0


def seconds(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Wall time of a call, by CUDA's events on a GPU, and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000, result
    begun = time.perf_counter()
    result = call()
    return time.perf_counter() - begun, result


@contextmanager
def rows_through(model: nn.Module) -> Iterator[Rows]:
    """While open, counts rows; a forward pass under grad counts as one with a backward pass."""
    rows = Rows()

    def count(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        number = next(len(one) for one in given if isinstance(one, torch.Tensor))
        if torch.is_grad_enabled():
            rows.backward += number
        rows.forward += number

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call's matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def matrix_product_rate(
    device: torch.device, dtype: torch.dtype, sizes: Sequence[int] | None = None
) -> float:
    """The most floating-point operations a second that square matrix products reach here."""
    best = 0.0
    for size in sizes or ((1024, 2048) if device.type == "cpu" else (4096, 8192)):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(5):
            best = max(best, 2 * size**3 / seconds(lambda a=a, b=b: a @ b, device)[0])
    return best


def peak_mib(call: Callable[[], Any], device: torch.device) -> float | None:
    """The most memory a call holds beside what was held before, in MiB; None if not told here.

    On a CPU it is the resident size, whose highest mark Linux lets a process set back.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what is free must not hide what is taken
    clear.write_text("5")
    before = _kib(status, "VmRSS")
    call()
    return (_kib(status, "VmHWM") - before) / 1024


def _kib(status: Path, name: str) -> int:
    return int(re.search(rf"{name}:\s*(\d+) kB", status.read_text()).group(1))


def machine(device: torch.device) -> dict[str, str]:
    """What a reader must know to compare."""
    packages = ("torch", "captum", "transformers")
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{processor()}, {torch.get_num_threads()} cores"
    return {
        "machine": hardware,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "date": time.strftime("%Y-%m-%d"),
    }

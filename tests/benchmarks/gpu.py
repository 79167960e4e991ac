"""A GPU in some minutes: how fast the package is there, and what its defaults should be.

    python -m tests.benchmarks.gpu --minutes 6 --output results

Sections in order of importance, each bounded in time. What was measured is in `gpu.jsonl` and
`gpu.md` of the folder at once, so that a run may be cut off. Weights are random and shapes real;
`--model` adds a model's folder. `--tiny` does the same with little models on a CPU, `--dry` counts
the work.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.benchmarks import gpu_sections as sections
from tests.benchmarks.gpu_defaults import defaults
from tests.benchmarks.gpu_models import (
    CLASSIFIERS,
    GENERATORS,
    TINY_CLASSIFIERS,
    TINY_GENERATORS,
    of_folder,
)
from tests.benchmarks.gpu_record import OutOfTimeError, Record, Row, limit
from tests.benchmarks.gpu_sections import Bench, Cell, Sizes, name_of
from tests.benchmarks.measure import machine
from tests.benchmarks.record import add_record_option, show_and_record

# Half of what an H100 sustains in bfloat16, and a data-centre GPU in float32.
ASSUMED = {torch.bfloat16: 400e12, torch.float32: 30e12}


@dataclass(frozen=True)
class Section:
    """A title, which part of the time it may take, and its cells."""

    title: str
    part: float
    cells: Callable[[Bench], Iterator[Cell]]


SECTIONS = {
    "limits": Section("The limit: one large matrix product", 0.03, sections.limits),
    "words": Section("Exact words", 0.32, sections.words),
    "integrals": Section("Gradients, float32", 0.12, sections.integrals),
    "generation": Section("Generation, bfloat16", 0.35, sections.generation),
    "corpus": Section("Corpora, bfloat16", 0.18, sections.corpus),
}
TITLES = {
    "machine": "Machine",
    **{name: section.title for name, section in SECTIONS.items()},
    "defaults": "What the defaults should be",
}


def sizes(tiny: bool, folders: Sequence[Path]) -> Sizes:
    """What is measured."""
    added = [of_folder(path) for path in folders]
    own = (TINY_CLASSIFIERS, TINY_GENERATORS) if tiny else (CLASSIFIERS, GENERATORS)
    classifiers, generators = (
        [*shapes, *(shape for shape in added if shape.generates == generates)]
        for shapes, generates in zip(own, (False, True), strict=True)
    )
    if not tiny:
        return Sizes(classifiers, generators)
    return Sizes(
        classifiers, generators, matrices=(64, 128), lengths=(8, 12), texts=(1, 2),
        integral_texts=(1, 2), prompts=(8, 16), target=4, corpus=40,
        most=dict.fromkeys(ASSUMED, 1e8),
    )  # fmt: skip


def measure(bench: Bench, record: Record, minutes: float) -> None:
    """All sections; the time that one leaves is the next ones'."""
    end = time.monotonic() + 60 * minutes
    parts = {name: section.part for name, section in SECTIONS.items()}
    for name, section in SECTIONS.items():
        left = end - time.monotonic()
        section_end = time.monotonic() + left * parts[name] / sum(parts.values())
        del parts[name]
        for cell in section.cells(bench):
            _measure_cell(bench, record, name, cell, section_end - time.monotonic())
        record.replace("defaults", defaults(record.rows))
    for row in record.rows.pop("defaults"):
        record.add("defaults", row)


def _measure_cell(bench: Bench, record: Record, name: str, cell: Cell, left: float) -> None:
    """Its rows; or, where it would take too long, does, or fails, a row that says so."""
    needed = cell.flops / (0.5 * bench.rates.get(name_of(cell.dtype), math.inf))
    if needed > left:
        problem = f"would take {needed:.0f} s, and {max(0, left):.0f} s are left"
    else:
        try:
            with limit(left):
                for row in cell.run():
                    record.add(name, row)
            return
        except OutOfTimeError:
            problem = f"cut off after {left:.0f} s"
        except Exception as error:  # the other cells are worth having
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"
    record.add(name, {"left out": f"{cell.name}: {problem}"})


def dry(bench: Bench, minutes: float) -> None:
    """Operations of each section, and the seconds that they take at the assumed rates."""
    print("| section | bfloat16, PFLOP | float32, PFLOP | s at 400 and 30 TFLOP/s | s allowed |")
    print("|--|--:|--:|--:|--:|")
    for name, section in SECTIONS.items():
        work = dict.fromkeys(ASSUMED, 0.0)
        for cell in section.cells(bench):
            work[cell.dtype] += cell.flops
        took = sum(flops / ASSUMED[dtype] for dtype, flops in work.items())
        shown = " | ".join(f"{flops / 1e15:.2f}" for flops in work.values())
        print(f"| {name} | {shown} | {took:.1f} | {60 * minutes * section.part:.0f} |")


def _machine(device: torch.device) -> Row:
    found: Row = dict(machine(device))
    if device.type == "cuda":
        found["CUDA"] = str(torch.version.cuda)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
            found["driver"] = done.stdout.strip()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--minutes", type=float, default=6)
    add("--output", type=Path, default=Path("gpu"), help="folder for gpu.jsonl and gpu.md")
    add("--model", type=Path, nargs="+", default=[], help="folders of models to add")
    add("--tiny", action="store_true", help="little models on a CPU, to try the benchmark itself")
    add("--dry", action="store_true", help="count the work, and do none")
    add_record_option(options)
    given = options.parse_args(arguments)
    device = torch.device("cpu" if given.tiny or given.dry else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        options.error("PyTorch finds no GPU: --tiny tries the benchmark on a CPU")
    bench = Bench(device, sizes(given.tiny, given.model))
    if given.dry:
        dry(bench, given.minutes)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = Record(given.output, TITLES)
        record.add("machine", _machine(device))
        measure(bench, record, given.minutes)
    if given.record is not None:
        show_and_record(given, __spec__.name, record.rows)


if __name__ == "__main__":
    main()

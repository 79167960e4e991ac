"""Speed, accuracy and memory beside the other implementations, in one process.

    python -m tests.benchmarks --model FOLDER --data dev.tsv --peers peers --output results
    python -m tests.benchmarks --shape bert-base --device cuda --dtype bfloat16 --compile

Peers that are not there are left out; `python -m tests.benchmarks --help` tells how to get them.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tests.benchmarks import compare, growth, report, subjects
from tests.benchmarks.measure import machine
from tests.benchmarks.methods import methods
from tests.benchmarks.peers import HOW_TO_GET
from tests.benchmarks.record import add_record_option, flattened, show_and_record

Row = dict[str, Any]
PARTS = ("compare", "memory", "length", "batch")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, epilog=HOW_TO_GET,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--model", type=Path, help="folder of a text classifier; with --data")
    add("--data", type=Path, help="TSV file with a column `sentence`")
    add("--shape", choices=subjects.SHAPES, help="random weights and ids in place of a model")
    add("--peers", type=Path, help="folder with the peers' unpacked wheels (see below)")
    add("--sentences", type=int, default=64)
    add("--few", type=int, default=16, help="sentences for what is as slow as tint")
    add("--repeats", type=int, default=1, help="of each sentence; the median counts")
    add("--seed", type=int, default=0, help="chooses the sentences")
    add("--device", default="cpu")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--compile", action="store_true", help="torch.compile the model's blocks")
    add("--parts", nargs="+", choices=PARTS, default=PARTS)
    add("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    add("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    add("--words", type=int, default=128, help="words that move in a long text; time is scaled")
    add("--cache", type=Path, help="folder that keeps the float64 reference between runs")
    add("--output", type=Path, default=Path("bench"), help="folder for bench.json and bench.png")
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    options = parser().parse_args(arguments)
    if (options.shape is None) == (options.model is None or options.data is None):
        parser().error("give --model and --data, or --shape")
    if options.device == "cpu":
        torch.set_num_threads(2)
    made = {
        "count": options.sentences, "seed": options.seed, "device": options.device,
        "dtype": getattr(torch, options.dtype), "compiled": options.compile,
    }  # fmt: skip
    subject = (
        subjects.of_shape(options.shape, **made)
        if options.shape
        else subjects.from_folder(options.model, options.data, **made)
    )
    results: dict[str, object] = {
        "machine": machine(subject.device) | {"dtype": options.dtype, "seed": str(options.seed)}
    }
    measure = {
        "compare": lambda: compare.compare(
            subject, methods(subject, options.peers), options.few, options.repeats, options.cache
        ),
        "memory": lambda: growth.memory(subject, options.lengths[-1], options.words, options.peers),
        "length": lambda: growth.with_length(subject, options.lengths, options.words),
        "batch": lambda: growth.with_batch(subject, options.batches),
    }
    for part in options.parts:
        results[part] = measure[part]()
    report.show(results, Console(width=160) if not Console().is_terminal else Console())
    report.save(results, options.output)
    if options.record is not None:
        show_and_record(options, __spec__.name, *figures_of(results))


def figures_of(results: Mapping[str, Any]) -> tuple[dict[str, list[Row]], Row]:
    """Tables and single figures of the parts that were measured."""
    tables: dict[str, list[Row]] = {}
    if "compare" in results:
        tables["methods"] = flattened(results["compare"], "method")
    for part, axis in (("length", "lengths"), ("batch", "sizes")):
        if part in results:
            growth = results[part]
            tables[part] = [
                {
                    "method": method,
                    **{f"s_{size}": s for size, s in zip(growth[axis], seconds, strict=True)},
                    "exponent": growth["exponents"][method],
                }
                for method, seconds in growth["seconds"].items()
            ]
    return tables, results.get("memory", {})


if __name__ == "__main__":
    main()

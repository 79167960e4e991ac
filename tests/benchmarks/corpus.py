"""What the engines of `captum-sig corpus` cost over a plain loop, and how much memory they take.

    python -m tests.benchmarks.corpus --data ../shared/data/sst2/train.tsv

All explain the same texts with the same model and threads, one after the other, and the loop runs
before and after each, as the machine's speed drifts. "Steady" leaves out what comes before every
worker's first shard.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from captum_sig.corpus import AT_ONCE, CorpusExplainer
from captum_sig.corpus_input import corpus
from captum_sig.corpus_run import CorpusRun, Engine, locally
from captum_sig.demo_model import PATH
from captum_sig.on_ray import on_ray
from captum_sig.records import read_records
from captum_sig.shards import ShardWriter
from tests.benchmarks.measure import machine

Marks = list[tuple[float, int]]  # when so many texts were done


def plain_loop(explain: CorpusExplainer, data: Path, n_texts: int) -> Iterator[int]:
    """The explainer on as many texts at a time as the engines sort together; nothing is kept."""
    texts = [record.text for record in read_records(data, limit=n_texts)]
    for start in range(0, n_texts, AT_ONCE):
        yield len(explain.explainer(texts[start : start + AT_ONCE]))


def in_engine(
    engine: Engine, explain: CorpusExplainer, data: Path, n_texts: int, size: int
) -> Iterator[int]:
    """A whole run into a folder of its own, shard by shard."""
    with tempfile.TemporaryDirectory() as folder:
        found = corpus([str(data)], limit=n_texts, shard_size=size)
        run = CorpusRun(Path(folder, "out"), found, {})
        with run.entered():
            writer = ShardWriter(run.folder, explain)
            for outcome in engine(writer, run.left, lambda n: None):
                yield outcome.rows


def marks(done: Iterator[int]) -> Marks:
    """Run it, and look at the clock."""
    found, total, start = [(0.0, 0)], 0, time.perf_counter()
    for number in done:
        total += number
        found.append((time.perf_counter() - start, total))
    return found


def rates(found: Marks, n_workers: int) -> tuple[float, float]:
    """Texts a second: over all, and after every worker's first shard."""
    (seconds, total), (first, before) = found[-1], found[n_workers]
    return total / seconds, (total - before) / (seconds - first)


def throughput(data: Path, n_texts: int, size: int) -> None:
    """A line for each engine, between two for the loop."""
    torch.set_num_threads(2)
    explain = CorpusExplainer(PATH)
    given = explain, data, n_texts, size
    engines: dict[str, tuple[int, Engine]] = {
        "local": (1, locally),
        "ray, 1 worker": (1, partial(on_ray, num_workers=1)),
        "ray, 2 workers": (2, partial(on_ray, num_workers=2)),
    }

    def measured(name: str, done: Iterator[int], n_workers: int = 1) -> float:
        over_all, steady = rates(marks(done), n_workers)
        print(f"{name:16} {over_all:7.1f} texts/s, steady {steady:7.1f}", flush=True)
        return steady

    before = measured("loop", plain_loop(explain, data, n_texts))
    for name, (n_workers, engine) in engines.items():
        steady = measured(name, in_engine(engine, *given), n_workers)
        after = measured("loop", plain_loop(explain, data, n_texts))
        print(f"{'':16} takes {(before + after) / 2 / steady - 1:+.1%} over the loop", flush=True)
        before = after


def of_command(*arguments: object) -> tuple[float, float]:
    """Seconds and peak resident memory in MB of the command, in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "captum_sig", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    with suppress(ChildProcessError):
        process.wait()
    assert status == 0
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def peak_memory(data: Path, counts: list[int]) -> None:
    """Peak resident memory of the local engine."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            _, memory = of_command("corpus", data, "--output", f"{folder}/out", "--limit", count)
            print(f"local, {count:,} texts: peak {memory:.0f} MB", flush=True)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--data", type=Path, required=True)
    add("--texts", type=int, default=20_000)
    add("--shard-size", type=int, default=AT_ONCE)
    add("--memory", type=int, nargs="*", default=[2_000, 20_000])
    add("--parts", nargs="+", default=["throughput", "memory"])
    chosen = options.parse_args()
    print(machine(torch.device("cpu")))
    if "throughput" in chosen.parts:
        throughput(chosen.data, chosen.texts, chosen.shard_size)
    if "memory" in chosen.parts:
        peak_memory(chosen.data, chosen.memory)


if __name__ == "__main__":
    main()

"""What the engines of `captum-sig corpus` cost over a plain loop, and how much memory they take.

    python -m tests.benchmarks.corpus --data ../shared/data/sst2/train.tsv

The texts are taken in blocks; each block goes through all of them in turn, in alternating order, as
the machine's speed drifts. All work on as many texts at a time, with the same model and two threads
(Ray's two workers: one each). "Steady" leaves out what comes before every worker's first shard.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus.engines import locally, on_ray
from captum_sig.corpus.folder import CorpusFolder, Engine
from captum_sig.corpus.shard_files import ShardWriter
from captum_sig.corpus.shards import Corpus, read_rows
from captum_sig.demo_model import PATH
from tests.benchmarks.measure import machine
from tests.benchmarks.record import add_record_option, show_and_record
from tests.shards import scan_corpus

Marks = list[tuple[float, int]]  # when so many texts were done


def plain_loop(explain: CorpusExplainer, found: Corpus) -> Iterator[int]:
    """The explainer on the texts of a shard at a time; nothing is kept."""
    for shard in found.shards:
        yield len(explain.explainer([row.text for row in read_rows(shard)]))


def in_engine(engine: Engine, explain: CorpusExplainer, found: Corpus) -> Iterator[int]:
    """A whole run into a folder of its own, shard by shard."""
    with tempfile.TemporaryDirectory() as folder:
        run = CorpusFolder(Path(folder, "out"), found, {})
        with run.entered():
            writer = ShardWriter(run.folder, explain, run.manifest.run)
            for outcome in engine(writer, run.remaining, lambda n_texts, work: None):
                yield outcome.rows


def marks(done: Iterator[int]) -> Marks:
    """Run it, and look at the clock."""
    found, total, start = [(0.0, 0)], 0, time.perf_counter()
    for number in done:
        total += number
        found.append((time.perf_counter() - start, total))
    return found


def blocks(data: Path, n_texts: int, size: int, n_blocks: int) -> list[Corpus]:
    """The input in pieces of as many shards."""
    found = scan_corpus([str(data)], limit=n_texts, shard_size=size)
    n_shards = -(-len(found.shards) // n_blocks)
    return [
        replace(found, shards=found.shards[start : start + n_shards])
        for start in range(0, len(found.shards), n_shards)
    ]


def throughput(data: Path, n_texts: int, size: int, n_blocks: int) -> list[dict[str, Any]]:
    """A row for the loop and each engine."""
    import ray

    torch.set_num_threads(2)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    explain = CorpusExplainer(PATH)
    ways: dict[str, tuple[int, Callable[[Corpus], Iterator[int]]]] = {
        "loop": (1, partial(plain_loop, explain)),
        "local": (1, partial(in_engine, locally, explain)),
        "ray, 1 worker": (1, partial(in_engine, partial(on_ray, num_workers=1), explain)),
        "ray, 2 workers": (2, partial(in_engine, partial(on_ray, num_workers=2), explain)),
    }
    seen: dict[str, list[Marks]] = {name: [] for name in ways}
    for number, block in enumerate(blocks(data, n_texts, size, n_blocks)):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            seen[name].append(marks(ways[name][1](block)))
    rows: list[dict[str, Any]] = []
    for name, (n_workers, _) in ways.items():
        whole = sum(one[-1][1] for one in seen[name]) / sum(one[-1][0] for one in seen[name])
        texts = sum(one[-1][1] - one[n_workers][1] for one in seen[name])
        steady = texts / sum(one[-1][0] - one[n_workers][0] for one in seen[name])
        rows.append({"engine": name, "texts_per_s": whole, "steady_per_s": steady})
    loop = rows[0]["steady_per_s"]
    return [row | {"over_the_loop": loop / row["steady_per_s"] - 1} for row in rows]


def of_command(*arguments: object) -> tuple[float, float]:
    """Seconds and peak resident memory in MB of the command, in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "captum_sig", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:  # the peak that the kernel keeps; `wait4` counts the parent's too
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        time.sleep(0.02)
    assert process.returncode == 0
    return time.perf_counter() - start, peak


def peak_memory(data: Path, counts: list[int]) -> Iterator[dict[str, float]]:
    """Peak resident memory of the local engine."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            _, memory = of_command("corpus", data, "--output", f"{folder}/out", "--limit", count)
            yield {"texts": count, "mb": memory}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--data", type=Path, required=True)
    add("--texts", type=int, default=20_000)
    add("--shard-size", type=int, default=500)
    add("--blocks", type=int, default=5)
    add("--memory", type=int, nargs="*", default=[2_000, 20_000])
    add("--parts", nargs="+", default=["throughput", "memory"])
    add_record_option(options)
    chosen = options.parse_args()
    print(machine(torch.device("cpu")))
    tables: dict[str, list[dict[str, Any]]] = {}
    if "throughput" in chosen.parts:
        sizes = chosen.texts, chosen.shard_size, chosen.blocks
        tables["engines"] = throughput(chosen.data, *sizes)
    if "memory" in chosen.parts:
        tables["memory"] = list(peak_memory(chosen.data, chosen.memory))
    show_and_record(chosen, __spec__.name, tables)


if __name__ == "__main__":
    main()

"""Runs of `captum-sig corpus` that are killed at random, compared with one that is not.

    python -m tests.benchmarks.kills --data ../shared/data/sst2/train.tsv

Every trial has a folder of its own. Local: the command is killed (SIGKILL) at a moment drawn over
its whole life, then given again. Ray: a worker is killed, or one of two nodes removed, and the
command goes on. In the end all columns of all rows must be equal.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.record import add_record_option, show_and_record
from tests.shards import content

WORKER = "ray::MapWorker(MapBatches(ShardWriter))"


def command(data: Path, output: Path, n_texts: int, *more: str) -> list[str]:
    """The command, with shards so small that much happens."""
    return [sys.executable, "-m", "captum_sig", "corpus", str(data), "--output", str(output),
            "--limit", str(n_texts), "--shard-size", "32", *more]  # fmt: skip


def finished(arguments: list[str]) -> None:
    """Run it to its end."""
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def started(arguments: list[str]) -> subprocess.Popen:
    """The command in the background."""
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_locally(arguments: list[str], output: Path, seconds: float) -> str:
    """Kill the command after so many seconds, and give it again."""
    process = started(arguments)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = len(list(output.glob("part-*.parquet"))), len(list(output.glob(".*.tmp")))
    finished(arguments)
    return f"killed after {seconds:.1f} s, {found[0]} shards and {found[1]} unfinished were there"


def disturbed(
    arguments: list[str], output: Path, rng: random.Random, disturb: Callable[[], str]
) -> str:
    """Do something to the run when some shards are there."""
    process = started(arguments)
    wanted = rng.randint(1, 8)
    while process.poll() is None and len(list(output.glob("part-*.parquet"))) < wanted:
        time.sleep(0.02)
    time.sleep(rng.random() / 2)
    done = disturb() if process.poll() is None else "nothing: it had ended"
    assert process.wait() == 0
    return f"after {wanted} shards {done}"


def kill_a_worker() -> str:
    """Kill one of Ray's workers that explain."""
    import psutil

    workers = [one for one in psutil.process_iter() if WORKER in " ".join(one.cmdline())]
    victim = random.choice(workers)
    victim.kill()
    return f"killed worker {victim.pid}, one of {len(workers)}"


@contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], str]]]:
    """A Ray cluster of two nodes with a CPU each: its address, and what removes the second."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)

    def remove() -> str:
        cluster.remove_node(node, allow_graceful=False)
        return "removed one of two nodes"

    try:
        yield cluster.address, remove
    finally:
        cluster.shutdown()


def main() -> None:
    """Make the trials, and fail at the first difference."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--data", type=Path, required=True)
    add("--texts", type=int, default=600)
    add("--local", type=int, default=25)
    add("--ray", type=int, default=5)
    add("--nodes", type=int, default=1)
    add("--seed", type=int, default=0)
    add_record_option(options)
    chosen = options.parse_args()
    rng = random.Random(chosen.seed)
    random.seed(chosen.seed)
    root = Path(tempfile.mkdtemp())

    def made(name: str, *more: str) -> tuple[list[str], Path]:
        return command(chosen.data, root / name, chosen.texts, *more), root / name

    def compare(output: Path, reference: Path, story: str) -> None:
        assert content(output) == content(reference), output
        assert not list(output.glob(".*.tmp"))
        print(f"{output.name}: {story}: all rows equal", flush=True)

    arguments, local = made("local")
    begun = time.perf_counter()
    finished(arguments)
    lasted = time.perf_counter() - begun
    print(f"undisturbed: {lasted:.1f} s, {len(content(local))} shards", flush=True)
    for number in range(chosen.local):
        arguments, output = made(f"local-{number}")
        compare(output, local, killed_locally(arguments, output, rng.uniform(0, lasted)))
    on_ray = ("--engine", "ray", "--num-workers", "2")
    arguments, of_ray = made("ray", *on_ray)
    if chosen.ray or chosen.nodes:
        finished(arguments)
    for number in range(chosen.ray):
        arguments, output = made(f"ray-{number}", *on_ray)
        compare(output, of_ray, disturbed(arguments, output, rng, kill_a_worker))
    for number in range(chosen.nodes):
        with two_nodes() as (address, remove):
            arguments, output = made(f"nodes-{number}", *on_ray, "--address", address)
            compare(output, of_ray, disturbed(arguments, output, rng, remove))
    trials = {
        "command killed": chosen.local,
        "Ray worker killed": chosen.ray,
        "Ray node removed": chosen.nodes,
    }
    rows = [{"kind": kind, "trials": n, "equal": n} for kind, n in trials.items()]
    show_and_record(chosen, __spec__.name, {"trials": rows}, {"undisturbed_s": lasted})


if __name__ == "__main__":
    main()

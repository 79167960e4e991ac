"""Explain shards one after the other in this process, or with workers on Ray Data."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from captum_sig.corpus.explainer import Progress
from captum_sig.corpus.shard_files import Outcome, ShardWriter
from captum_sig.corpus.shards import Shard
from captum_sig.data.optional import optional_import


@dataclass(frozen=True)
class Workers:
    """The number of workers, and the CPUs and GPUs that each of them takes."""

    number: int
    cpus: int
    gpus: float

    @classmethod
    def fitting(
        cls, nodes: list[dict[str, float]], number: int | None, gpus: float | None
    ) -> Workers:
        """Choose workers for a cluster.

        By default there is one for each GPU, or, without GPUs, one for each CPU. A worker reads,
        explains and writes its shards itself, so that nothing else needs a CPU.

        Args:
            nodes: the resources of each node, as Ray names them.
            number: the number of workers; None takes as many as fit.
            gpus: the GPUs of each worker, or a fraction of one; None is 1 where there are GPUs.

        Raises:
            ValueError: if a worker fits on no node.
        """
        for name, value, least in (("num_workers", number, 1), ("gpus_per_worker", gpus, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        node_gpus = [node.get("GPU", 0.0) for node in nodes]
        gpus = (1.0 if any(node_gpus) else 0.0) if gpus is None else gpus
        if gpus > max(node_gpus):
            raise ValueError(
                f"a worker wants {gpus:g} GPUs, but no node has more than {max(node_gpus):g}: "
                "lower gpus_per_worker"
            )
        if gpus:
            capacity = sum(int(available / gpus) for available in node_gpus)
            return cls(number or capacity, 1, gpus)
        node_cpus = [int(node.get("CPU", 0)) for node in nodes]
        number = number or max(1, sum(node_cpus))
        return cls(number, max(1, min(sum(node_cpus) // number, max(node_cpus))), 0.0)


def on_ray(
    writer: ShardWriter,
    shards: list[Shard],
    progress: Progress,
    *,
    address: str | None = None,
    num_workers: int | None = None,
    gpus_per_worker: float | None = None,
) -> Iterator[Outcome]:
    """Explain shards on a Ray cluster, and yield their counts as they are finished, in any order.

    Args:
        writer: each worker makes one with the same arguments.
        shards: the shards to explain.
        progress: called with the number of texts finished since the last call, and their work.
        address: the cluster's address, such as "auto"; None starts one on this machine.
        num_workers: None takes as many as fit.
        gpus_per_worker: None is 1 where there are GPUs.

    Raises:
        ValueError: if Ray is not installed, no worker fits, or a worker reports an error.
        RuntimeError: if Ray fails.
    """
    if not shards:
        return
    ray, data = (optional_import(name, "the Ray engine", "ray") for name in ("ray", "ray.data"))
    with _cluster(ray, address), _quiet(data):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = Workers.fitting(nodes, num_workers, gpus_per_worker)
        rows = [{"shard": shard.to_json()} for shard in shards]
        work = {shard.number: shard.work for shard in shards}
        outcomes = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ShardWriter,
            fn_constructor_kwargs={
                "folder": str(writer.folder.absolute()),
                "explain": writer.explain,
                "run": writer.run,
                "weights": writer.weights,
                "threads": None if workers.gpus else workers.cpus,
            },
            batch_size=1,
            compute=data.ActorPoolStrategy(size=min(workers.number, len(shards))),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
        )
        try:
            for row in outcomes.iter_rows():
                if error := row.pop("error"):
                    raise ValueError(error)
                outcome = Outcome(**row)
                progress(outcome.rows, work[outcome.number])
                yield outcome
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise RuntimeError(f"Ray failed: {cause}") from error


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine that ends with the context."""
    if ray.is_initialized():
        yield
        return
    local_options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if port.isdecimal():  # Ray itself waits for minutes where nothing answers
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local_options)
    except OSError as error:  # ConnectionError, TimeoutError, …
        raise ValueError(f"there is no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _quiet(data: Any) -> Iterator[None]:
    """Turn off the progress bars of Ray Data, which count blocks instead of texts."""
    context, logger = data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        logger.setLevel(before[2])


def locally(writer: ShardWriter, shards: list[Shard], progress: Progress) -> Iterator[Outcome]:
    """Explain shards one after the other in this process."""
    for shard in shards:
        yield writer.write(shard, progress)

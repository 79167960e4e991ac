"""How shards are explained: one after the other in this process, or by workers on Ray Data."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from captum_sig.corpus.shards import Outcome, Shard, ShardWriter
from captum_sig.data.optional import optional_import


@dataclass(frozen=True)
class Workers:
    """How many there are, and what each of them takes."""

    number: int
    cpus: int
    gpus: float

    @classmethod
    def fitting(
        cls, nodes: list[dict[str, float]], number: int | None, gpus: float | None
    ) -> Workers:
        """Workers for a cluster.

        By default one for each GPU, or, where there are none, one for each CPU. As shards are read,
        explained and written by the same worker, nothing else needs a CPU.

        Args:
            nodes: the resources of each node, as Ray names them.
            number: of workers; None takes as many as there is room for.
            gpus: of each worker, or a part of one; None is 1 where there are GPUs.

        Raises:
            ValueError: if a worker finds no room on any node.
        """
        for name, value, least in (("num_workers", number, 1), ("gpus_per_worker", gpus, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        of_nodes = [node.get("GPU", 0.0) for node in nodes]
        gpus = (1.0 if any(of_nodes) else 0.0) if gpus is None else gpus
        if gpus > max(of_nodes):
            raise ValueError(
                f"a worker wants {gpus:g} GPUs, but no node has more than {max(of_nodes):g}: lower "
                "--gpus-per-worker"
            )
        if gpus:
            room = sum(int(there / gpus) for there in of_nodes)
            return cls(number or room, 1, gpus)
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        number = number or max(1, sum(cpus))
        return cls(number, max(1, min(sum(cpus) // number, max(cpus))), 0.0)


def on_ray(
    writer: ShardWriter,
    shards: list[Shard],
    progress: Callable[[int], object],
    *,
    address: str | None = None,
    num_workers: int | None = None,
    gpus_per_worker: float | None = None,
) -> Iterator[Outcome]:
    """An engine of `CorpusRun`: shards as they are done, in any order.

    Args:
        writer: what each worker makes anew.
        shards: which.
        progress: told how many texts are done since it was last told.
        address: of a cluster, such as "auto"; None starts one on this machine.
        num_workers: see `Workers.fitting`.
        gpus_per_worker: likewise.

    Raises:
        ValueError: if Ray is not installed, there is no room for a worker, or one tells a problem.
        RuntimeError: if workers cannot be made.
    """
    if not shards:
        return
    ray, data = (optional_import(name, "--engine ray", "ray") for name in ("ray", "ray.data"))
    with _cluster(ray, address), _quiet(data):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = Workers.fitting(nodes, num_workers, gpus_per_worker)
        rows = [{"shard": shard.to_json()} for shard in shards]
        outcomes = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            ShardWriter,
            fn_constructor_kwargs={
                "folder": str(writer.folder.absolute()),
                "explain": writer.explain,
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
                if problem := row.pop("problem"):
                    raise ValueError(problem)
                outcome = Outcome(**row)
                progress(outcome.rows)
                yield outcome
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise RuntimeError(f"Ray gave up: {cause}") from error


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """The one at this address, or one of this machine that ends with it."""
    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        _knock(address or "")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
    except OSError as error:  # ConnectionError, TimeoutError, …
        raise ValueError(f"there is no Ray cluster at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself asks for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _quiet(data: Any) -> Iterator[None]:
    """Ray Data draws no bars meanwhile: progress is told by texts, not by blocks."""
    context, logger = data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        logger.setLevel(before[2])


def locally(
    writer: ShardWriter, shards: list[Shard], progress: Callable[[int], object]
) -> Iterator[Outcome]:
    """Shards one after the other in this process."""
    for shard in shards:
        yield writer.write(shard, progress)

"""What the constants should be that decide how much is in flight, from the sweeps of `gpu`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from captum_sig.attr.chunks import CHUNK_BYTES
from captum_sig.explainers.explainer import GPU_BATCH
from captum_sig.explainers.matrix import GROUPS, LOGIT_BYTES
from captum_sig.explainers.teacher_forcing import LEAST_TOKENS
from tests.benchmarks.gpu_record import Row

Sweep = dict[int, float]  # seconds by rows in a pass
Rows = Callable[[int], int]  # a constant's value → rows in a pass


def defaults(rows: dict[str, list[Row]]) -> list[Row]:
    """Each constant with today's value, the fastest, and what that gains; those that were measured.

    Args:
        rows: what the sections have given.
    """
    measured = {
        name: [row for row in of_section if "left out" not in row]
        for name, of_section in rows.items()
    }
    words, generated = measured.get("words", []), measured.get("generation", [])
    batches = [
        row["texts/s by batch size"]
        for row in measured.get("corpus", [])
        if "texts/s by batch size" in row
    ]
    found = []
    for name, cells, today, exponents in (
        ("chunks.CHUNK_BYTES['cuda']", [(_sweep(row), _by_bytes(row)) for row in words],
         CHUNK_BYTES["cuda"], range(18, 34)),
        ("sweep.LEAST_TOKENS['cuda']", [(_sweep(row), _by_tokens(row)) for row in generated],
         LEAST_TOKENS["cuda"], range(8, 18)),
        ("sweep.LOGIT_BYTES['cuda']", [(_sweep(row), _by_logits(row)) for row in generated],
         LOGIT_BYTES["cuda"], range(22, 34)),
        ("text.GPU_BATCH[0]",
         [({size: 1 / rate for size, rate in rates.items()}, int) for rates in batches],
         GPU_BATCH[0], range(3, 10)),
    ):  # fmt: skip
        if cells:
            best, gain = best_value(cells, today, [2**exponent for exponent in exponents])
            gained = f"{gain - 1:.1%}"
            found.append({"constant": name, "today": today, "best": best, "gain": gained})
    return found


def best_value(
    cells: Sequence[tuple[Sweep, Rows]], today: int, candidates: Sequence[int]
) -> tuple[int, float]:
    """The value with the least geometric mean of times, and how many times today's takes as long.

    A value's time in a cell is that of the rows nearest to those that it gives.
    """

    def cost(value: int) -> float:
        total = 0.0
        for sweep, rows in cells:
            wanted = max(1, rows(value))
            nearest = min(sweep, key=lambda n: abs(math.log(n / wanted)))
            total += math.log(sweep[nearest] / min(sweep.values()))
        return total / len(cells)

    best = min([today, *candidates], key=cost)  # today's, if none is faster
    return best, math.exp(cost(today) - cost(best))


def _sweep(row: Row) -> Sweep:
    return row["seconds by rows"]


def _by_bytes(row: Row) -> Rows:
    return lambda size: size // row["bytes a row"]


def _by_tokens(row: Row) -> Rows:
    groups = math.ceil(row["words measured"] / GROUPS)
    return lambda n_tokens: max(groups, n_tokens // row["prompt"])


def _by_logits(row: Row) -> Rows:
    enough = _by_tokens(row)(LEAST_TOKENS["cuda"])
    return lambda size: min(size // row["logit bytes a row"], enough)

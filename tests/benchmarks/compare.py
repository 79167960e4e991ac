"""Side by side: the same sentences through every method, in alternating order."""

import statistics
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tests.benchmarks.measure import Rows, flops, matrix_product_rate, rows_through, seconds
from tests.benchmarks.methods import TINT, Method
from tests.benchmarks.reference import Reference, reference
from tests.benchmarks.subjects import Subject


@dataclass
class Record:
    """What one method took and how far off it was, over its sentences."""

    seconds: dict[int, float] = field(default_factory=dict)  # by sentence, median of repeats
    rows: Rows = field(default_factory=Rows)
    feature_errors: list[float] = field(default_factory=list)  # of each word, to the largest
    word_errors: list[float] = field(default_factory=list)


def compare(
    subject: Subject, methods: list[Method], few: int, repeats: int, cache: Path | None
) -> dict[str, dict[str, Any]]:
    """Each method's summary, by name."""
    records = {method.name: Record() for method in methods}
    for method in methods:  # first calls pay for what later ones do not
        method.call(*_question(subject, subject.sentences[0]))
    for number, ids in enumerate(tqdm(subject.sentences, desc="sentences")):
        question = _question(subject, ids)
        calls = {method.name: partial(method.call, *question) for method in methods}
        asked = [method for method in methods if number < few or not method.few]
        times: dict[str, list[float]] = {method.name: [] for method in asked}
        truth = reference(subject, ids, question[2], cache)
        for turn in range(repeats):
            start = (number + turn) % len(asked)
            for method in asked[start:] + asked[:start]:
                with rows_through(subject.model) as rows:
                    took, found = seconds(calls[method.name], subject.device)
                times[method.name].append(took)
                if turn == 0:
                    _note(records[method.name], rows, method, found.detach().cpu(), truth)
        for name, took in times.items():
            records[name].seconds[number] = statistics.median(took)
    rate = matrix_product_rate(subject.device, subject.embedding.weight.dtype)
    return {
        method.name: _summary(records[method.name], records.get(TINT))
        | {"share_of_rate": _share(subject, method, records[method.name], rate)}
        for method in methods
    }


def _question(subject: Subject, ids: Tensor) -> tuple[Tensor, Tensor, int]:
    return ids, subject.base(ids), subject.target(ids)


def _note(record: Record, rows: Rows, method: Method, found: Tensor, truth: Reference) -> None:
    record.rows.forward += rows.forward
    record.rows.backward += rows.backward
    if method.gives == "ig":
        return
    moving = truth.words[0] != 0
    words = found.double() if method.gives == "words" else found.double().sum(-1)
    off = (words - truth.words).abs() / truth.words.abs().max()
    record.word_errors += off[0][moving].tolist()
    if method.gives == "features":
        norms = truth.features.norm(dim=-1)
        off = (found.float() - truth.features).norm(dim=-1) / norms.max()
        record.feature_errors += off[0][moving].tolist()


def _summary(record: Record, tint: Record | None) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "sentences": len(record.seconds),
        "seconds": sum(record.seconds.values()),
        "rows": asdict(record.rows),
    }
    for kind, errors in [("words", record.word_errors), ("features", record.feature_errors)]:
        if errors:
            off = torch.tensor(errors, dtype=torch.float64)
            summary[f"error_{kind}"] = {
                "n": len(errors),
                "worst": off.max().item(),
                "p99": off.quantile(0.99).item(),
                **{f"share_within_{t:g}": (off <= t).double().mean().item() for t in (1e-2, 1e-3)},
            }
    if tint is not None:
        shared = sorted(record.seconds.keys() & tint.seconds.keys())
        ratios = [tint.seconds[i] / record.seconds[i] for i in shared]
        summary["faster_than_tint"] = {
            "all": sum(tint.seconds[i] for i in shared) / sum(record.seconds[i] for i in shared),
            "median": statistics.median(ratios),
        }
    return summary


def _share(subject: Subject, method: Method, record: Record, rate: float) -> float:
    """Of the machine's matrix-product rate, measured on the first sentence."""
    question = _question(subject, subject.sentences[0])
    return flops(partial(method.call, *question)) / record.seconds[0] / rate

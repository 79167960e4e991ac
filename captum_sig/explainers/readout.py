"""What a task reads from a model's output, and the results that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from captum_sig._names import Evidence, ResultLevel, TaskName, Unit
from captum_sig.attr.function import Read
from captum_sig.explainers.matrix_results import Target, TargetsAttribution
from captum_sig.explainers.method_input import Scores
from captum_sig.explainers.results import EVIDENCE, Column, Interaction, WordAttribution
from captum_sig.words.encoding import Batch

Result = WordAttribution | TargetsAttribution


@dataclass(frozen=True)
class TextTargets:
    """What is explained of a text, and what the model predicts of it."""

    targets: tuple[Target, ...]  # at most T
    is_single: bool  # whether the result is that of the only target, not a matrix
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Readout:
    """What is explained of a batch of B texts: T values, read from each row's output."""

    of_texts: Sequence[TextTargets]  # B
    read: Read  # output of R rows, (R, …), and their texts' numbers in the batch → (R, T)
    unit: Unit = "logit"

    @property
    def n_values(self) -> int:
        """T, the largest number of targets of a text."""
        return max(len(of_text.targets) for of_text in self.of_texts)


@dataclass(frozen=True)
class Explained:
    """All that is known of one text of a batch."""

    batch: Batch
    number: int
    readout: Readout
    values: Sequence[float]  # T
    scores: Sequence[Scores]  # T
    interactions: Sequence[list[tuple[Interaction, ...]] | None]  # T
    method: str
    baseline: str
    task: TaskName
    level: ResultLevel

    @property
    def result(self) -> Result:
        of_text = self.readout.of_texts[self.number]
        targets = [
            replace(target, value=value)
            for target, value in zip(of_text.targets, self.values, strict=False)
        ]
        return self._of_one(targets[0]) if of_text.is_single else self._of_all(targets)

    @property
    def _common(self) -> dict[str, Any]:
        of_text, one = self.readout.of_texts[self.number], self.batch.inputs[self.number]
        return {
            "text": one.text,
            "text_pair": one.pair,
            "label": of_text.label,
            "probability": of_text.probability,
            "probabilities": of_text.probabilities,
            "method": self.method,
            "baseline": self.baseline,
            "task": self.task,
            "level": self.level,
            "unit": self.readout.unit,
            "dropped_tokens": self.batch.dropped[self.number],
        }

    def _of_one(self, target: Target) -> WordAttribution:
        (scores, *_), number = self.scores, self.number
        residual = None if scores.residual is None else float(scores.residual[number])
        audit = None if scores.audits is None else scores.audits[number]
        pairs = self.interactions[0]
        return WordAttribution(
            **self._common,
            target=target.name,
            value=target.value,
            target_start=target.start,
            target_end=target.end,
            max_abs_word_delta=scores.word_deltas[number],
            words=scores.words(self.batch, number),
            residual=residual if audit is None else None,
            interactions=None if pairs is None else pairs[number],
            audit=audit,
        )

    def _of_all(self, targets: Sequence[Target]) -> TargetsAttribution:
        number, scores = self.number, self.scores[: len(targets)]
        spans = self.batch.spans[number]
        positions = [span.position for span in spans]

        def matrix(name: str) -> Tensor | None:
            rows = [getattr(of_target, name) for of_target in scores]
            if any(row is None for row in rows) or not rows:
                return None
            return torch.stack([row[number, positions] for row in rows]).cpu().double()

        def of_each(name: str) -> tuple[Any, ...] | None:
            values = [getattr(of_target, name) for of_target in scores]
            if any(value is None for value in values) or not values:
                return None
            return tuple(value[number] for value in values)

        empty = torch.zeros(len(targets), len(spans), dtype=torch.float64)
        values, residual, evidence = matrix("values"), of_each("residual"), matrix("evidence")
        audits = of_each("audits")
        of_targets = self.interactions[: len(targets)]
        pairs = [of_batch[number] for of_batch in of_targets if of_batch is not None]
        return TargetsAttribution(
            **self._common,
            targets=tuple(targets),
            words=tuple(
                Column(span.word, span.start, span.end, span.side, span.name) for span in spans
            ),
            matrix=empty if values is None else values,
            max_abs_word_delta=tuple(of_target.word_deltas[number] for of_target in scores),
            matrix_first=matrix("first"),
            matrix_last=matrix("last"),
            standard_error=matrix("standard_error"),
            std=matrix("std"),
            residual=(
                None if residual is None or audits is not None else tuple(map(float, residual))
            ),
            interactions=tuple(pairs) if pairs else None,
            evidence=None if evidence is None else _evidence_names(evidence),
            audit=audits,
        )


def _evidence_names(matrix: Tensor) -> tuple[tuple[Evidence, ...], ...]:  # (T, W)
    return tuple(tuple(EVIDENCE[int(index)] for index in row) for row in matrix)

"""What is explained, its unit and its direction, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from captum_sig._names import TaskName, Unit


@dataclass(frozen=True)
class Measure:
    """How a value of a unit is named, and what a positive and a negative score do to it."""

    name: str  # of the value
    units: str  # after a score, if it needs any
    raises: str
    lowers: str
    noun: str  # of what scores raise and lower
    effect: str  # what a score is, beside an axis


MEASURES: dict[Unit, Measure] = {
    "logit": Measure("logit", "logits", "for", "against", "the target", "effect on the logit"),
    "value": Measure("score", "", "raises", "lowers", "the score", "effect on the score"),
    "cosine": Measure("cosine", "", "raises", "lowers", "the similarity", "effect on the cosine"),
    "dot product": Measure(
        "dot product", "", "raises", "lowers", "the similarity", "effect on the dot product"
    ),
    "nat": Measure("log p", "nats", "for", "against", "the target", "effect on log p (nats)"),
}
MIXED = Measure("value", "", "raises", "lowers", "what is explained", "effect")

SIDES: dict[TaskName, tuple[str, str]] = {
    "question-answering": ("question", "context"),
    "zero-shot-classification": ("text", "hypothesis"),
}
EITHER_SIDE = ("first", "second")

TARGETS: dict[TaskName, tuple[str, str]] = {  # one, several
    "text-classification": ("label", "labels"),
    "zero-shot-classification": ("candidate", "candidates"),
    "token-classification": ("entity", "entities"),
    "question-answering": ("value", "values"),
    "fill-mask": ("token", "tokens"),
    "sentence-similarity": ("text", "texts"),
}


def task_of(result: Any) -> TaskName:
    """Return the task of a result; one that names none is of a classifier."""
    return getattr(result, "task", "text-classification")


def measure_of(result: Any) -> Measure:
    """Return the measure of a result's unit; one without a unit is in logits."""
    return MEASURES[getattr(result, "unit", "logit")]


WORDS = ("word", "token")  # the levels below units


def name_of(word: Any) -> str | None:
    """Return the name of a unit, if it has one."""
    return getattr(word, "name", None)


def called(word: Any) -> str:
    """Return the name of a unit, or else its text."""
    name = name_of(word)
    return str(word.word) if name is None else name


def level_of(result: Any) -> str:
    """Return what a result's words are: "word", "token", or units above words."""
    return getattr(result, "level", "word")


def nouns(result: Any) -> str:
    """Return what a result's words are called, such as "words" or "sentences"."""
    level = level_of(result)
    return "words and units" if level == "auto" else f"{level}s"


def number(value: float | None) -> str:
    """Return a value with two decimals, or three below 1; nothing if it is not known.

    >>> number(12.345), number(0.5), number(0.000123), number(None)
    ('12.35', '0.500', '1.2e-04', '')
    """
    if value is None or not math.isfinite(value):
        return ""
    size = abs(value)
    spec = ".2f" if size >= 1 or size == 0 else ".3f" if size >= 1e-3 else ".1e"
    return format(value, spec)


def explained_value(value: float | None, unit: Unit) -> str:
    """Say what F(x) is; nothing if it is not known.

    >>> explained_value(4.312, "value"), explained_value(2.0, "logit"), explained_value(-1.5, "nat")
    ('score 4.31', 'logit +2.00', '-1.50 nats')
    """
    shown = number(value)
    if not shown:
        return ""
    if unit == "nat":
        return f"{shown} nats"
    if unit == "logit" and not shown.startswith("-"):
        shown = f"+{shown}"
    return f"{MEASURES[unit].name} {shown}"


def side_labels(task: TaskName) -> tuple[str, str]:
    """Return what the two texts of a pair are called."""
    return SIDES.get(task, EITHER_SIDE)


def dropped_line(result: Any) -> str:
    """Say how many tokens were not read; nothing if all were."""
    n = getattr(result, "dropped_tokens", 0)
    if not n:
        return ""
    return f"{n:,} token{'' if n == 1 else 's'} beyond the model's limit {_was(n)} not read"


def _was(n: int) -> str:
    return "was" if n == 1 else "were"


def common_measure(results: Iterable[Any]) -> tuple[Measure, str]:
    """Return the measure that results share, and what their scores are for and against."""
    shown = list(results)
    measures = {measure_of(result) for result in shown}
    if len(measures) != 1:
        return (MIXED, MIXED.noun) if measures else (MEASURES["logit"], "the explained label")
    (measure,) = measures
    labels = measure.raises == "for" and {task_of(r) for r in shown} == {"text-classification"}
    return measure, "the explained label" if labels else measure.noun

"""What an explanation of several targets is: targets by words."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_sig._names import Evidence, Rank, ResultLevel, TaskName, Unit, unknown_name
from captum_sig.explainers.results import (
    Audit,
    Column,
    Interaction,
    WordAttribution,
    finite,
    scored_words,
    without_none,
)
from captum_sig.explainers.views import Views, dataframe
from captum_sig.viz import heatmap, heatmap_picture
from captum_sig.viz.wording import MEASURES, TARGETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group


@dataclass(frozen=True)
class Target:
    """What is explained: a label, an entity, an answer, a token, a candidate, another text.

    `value` is F(x), in the result's unit, and `probability` the model's, if it has one. `start` and
    `end` are the target's characters in the text (in the second text of a pair, for an answer), if
    it has any. `text_pair` is the second text, if each target has its own.
    """

    name: str
    value: float = float("nan")
    probability: float | None = None
    start: int | None = None
    end: int | None = None
    text_pair: str | None = None


class MatrixAttribution(Views):
    """Targets by words: what results for several targets have in common.

    Index it by a target's name, or its number, for the `WordAttribution` of that target; iterate
    over it for all of them.
    """

    matrix: Tensor  # (T, W)

    @property
    def summary(self) -> str:
        """One line: what is explained, and by which method."""
        raise NotImplementedError

    @property
    def rows(self) -> list[str]:
        """Label of each row of the matrix: the targets."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """Label of each column of the matrix: the words."""
        raise NotImplementedError

    def attribution(self, row: int) -> WordAttribution:
        """Return the explanation of the target of one row."""
        raise NotImplementedError

    if TYPE_CHECKING:  # at runtime, a dataclass takes these for the defaults of its fields

        @property
        def text(self) -> str:
            """The text that contains the words, or the first text of a pair."""

        @property
        def words(self) -> Sequence[Any]:
            """The words of the text: the first columns of the matrix."""

    @property
    def heading(self) -> Sequence[str]:
        """Lines that say what is explained, besides the summary."""
        return ()

    @property
    def totals(self) -> Tensor | None:
        """Each column's effect on all targets together, (W,), if they are parts of a whole."""
        return None

    @property
    def figures(self) -> Mapping[str, Sequence[float | None]]:
        """What is known of each target, by name, such as its value."""
        return {}

    @property
    def main_row(self) -> int | None:
        """The row of the target whose effects a text shows at first; None for all together."""
        return None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, target: str | int) -> WordAttribution:
        """Return the explanation of one target, by its name in any case, or its number.

        Raises:
            KeyError: if there is no such name, or several targets have it.
            IndexError: if there is no such number.
            TypeError: if it is neither.
        """
        if isinstance(target, numbers.Integral) and not isinstance(target, bool):
            if not -len(self) <= target < len(self):
                raise IndexError(f"there are {len(self)} targets, from 0, got {target}")
            return self.attribution(range(len(self))[target])
        if not isinstance(target, str):
            raise TypeError(f"pass a target's name or its number, got {target!r}")
        rows = [row for row, name in enumerate(self.rows) if name == target]
        rows = rows or [n for n, name in enumerate(self.rows) if name.lower() == target.lower()]
        if not rows:
            raise KeyError(unknown_name("target", target, dict.fromkeys(self.rows)))
        if len(rows) > 1:
            raise KeyError(f"targets {rows} are all {target!r}: pass one of these numbers")
        return self.attribution(rows[0])

    def __contains__(self, name: object) -> bool:
        """Whether a target has this name."""
        return name in self.rows

    def __iter__(self) -> Iterator[WordAttribution]:
        return map(self.attribution, range(len(self)))

    def plot(self, *, rank: Rank = "all") -> Figure:
        return heatmap_picture.to_figure(self, rank=rank)

    def to_plain(self, *, rank: Rank = "all") -> str:
        return heatmap.to_plain(self, rank=rank)

    def to_terminal(self, width: int = 80, *, legend: bool = True, rank: Rank = "all") -> Group:
        return heatmap.to_terminal(self, width, legend=legend, rank=rank)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        header = ["target", *self.figures, *self.columns]
        of_targets = zip(self.rows, *self.figures.values(), self.matrix.tolist(), strict=True)
        return header, [[*known, *scores] for *known, scores in of_targets]

    def to_dataframe(self) -> Any:
        """Return the matrix as a `pandas.DataFrame`: names of targets and words, and scores.

        Raises:
            ImportError: if pandas is not installed.
        """
        return dataframe(self.matrix.tolist(), self.columns, self.rows)


TENSORS = ("matrix", "matrix_first", "matrix_last", "standard_error", "std")  # targets by words


@dataclass(frozen=True, eq=False)
class TargetsAttribution(MatrixAttribution):
    """Why a model gives a text, or a pair of texts, each of T targets its value.

    `matrix[t, w]`, (T, W), float64 on the CPU, is the score of word w for target t, in `unit`: what
    `WordAttribution` holds for one target. It is NaN where a word does not belong to a target,
    which has a second text of its own. `label`, `probability` and `probabilities` are the model's
    prediction, where it has one. All that `WordAttribution` has for a target is here for each:
    `max_abs_word_delta`, `residual`, `interactions`, `evidence` and `audit`, as a tuple, (T,).
    `interactions` and `evidence` count the words that belong to the target, as its result does.
    `matrix_first`, `matrix_last`, `standard_error` and `std` are (T, W) as the matrix, or None.
    """

    text: str
    targets: tuple[Target, ...]
    words: tuple[Column, ...]
    matrix: Tensor
    method: str
    baseline: str
    task: TaskName
    unit: Unit = "logit"
    text_pair: str | None = None
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    max_abs_word_delta: tuple[float | None, ...] = ()
    dropped_tokens: int = 0
    level: ResultLevel = "word"
    matrix_first: Tensor | None = None
    matrix_last: Tensor | None = None
    standard_error: Tensor | None = None
    std: Tensor | None = None
    residual: tuple[float, ...] | None = None
    interactions: tuple[tuple[Interaction, ...], ...] | None = None
    evidence: tuple[tuple[Evidence, ...] | None, ...] | None = None
    audit: tuple[Audit | None, ...] | None = None

    def __post_init__(self) -> None:
        wanted = len(self.targets), len(self.words)
        for name in TENSORS:
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != wanted:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; wanted {wanted}")

    @property
    def rows(self) -> list[str]:
        return [target.name for target in self.targets]

    @property
    def columns(self) -> list[str]:
        return [word.label for word in self.words]

    def attribution(self, row: int) -> WordAttribution:
        target = self.targets[row]
        belongs = (~self.matrix[row].isnan()).nonzero()[:, 0].tolist()

        def of_words(matrix: Tensor | None) -> list[float] | None:
            return None if matrix is None else matrix[row, belongs].tolist()

        evidence = None if self.evidence is None else self.evidence[row]
        scores = of_words(self.matrix)
        assert scores is not None
        return WordAttribution(
            text=self.text,
            label=self.label,
            probability=self.probability,
            target=target.name,
            method=self.method,
            baseline=self.baseline,
            max_abs_word_delta=self.max_abs_word_delta[row],
            words=scored_words(
                [self.words[column] for column in belongs],
                scores,
                std=of_words(self.std),
                standard_error=of_words(self.standard_error),
                first=of_words(self.matrix_first),
                last=of_words(self.matrix_last),
                evidence=evidence,
            ),
            probabilities=self.probabilities
            or ({} if target.probability is None else {target.name: target.probability}),
            residual=None if self.residual is None else self.residual[row],
            interactions=None if self.interactions is None else self.interactions[row],
            audit=None if self.audit is None else self.audit[row],
            text_pair=self.text_pair if target.text_pair is None else target.text_pair,
            value=target.value,
            unit=self.unit,
            task=self.task,
            dropped_tokens=self.dropped_tokens,
            level=self.level,
            target_start=target.start,
            target_end=target.end,
        )

    @property
    def summary(self) -> str:
        """One line: how many targets are explained, the prediction, and the method.

        Such as "28 labels, predicted joy 93.1%  (sig, baseline mask)".
        """
        names = ("value", "values") if self.unit == "value" else TARGETS.get(self.task)
        one, several = names or ("target", "targets")
        shown = f"{len(self.targets)} {one if len(self.targets) == 1 else several}"
        if self.label is not None and self.unit == "logit":
            shown += f", predicted {self.label}"
            shown += "" if self.probability is None else f" {self.probability:.1%}"
        if (answer := self._answer) is not None:
            shown = f"answer “{answer}”"
        return f"{shown}  ({self.method}, baseline {self.baseline})"

    @property
    def _answer(self) -> str | None:
        """The answer that all targets of question-answering are about."""
        spans = {(target.start, target.end) for target in self.targets}
        if self.task != "question-answering" or len(spans) != 1 or (None, None) in spans:
            return None
        ((start, end),) = spans
        return (self.text_pair or self.text)[start:end]

    @property
    def figures(self) -> dict[str, list[float | None]]:
        known: dict[str, list[float | None]] = {
            MEASURES[self.unit].name: [target.value for target in self.targets],
            "probability": [target.probability for target in self.targets],
        }
        if self.residual is not None:
            known["residual"] = list(self.residual)
        if self.audit is not None:
            known["estimates within ±"] = [None if a is None else a.bound for a in self.audit]
        return {
            name: values
            for name, values in known.items()
            if any(value is not None and not math.isnan(value) for value in values)
        }

    @property
    def main_row(self) -> int | None:
        """The predicted label's row, an answer's sum, or else the first; None without targets."""
        if not self.targets:
            return None
        if self.task == "question-answering":
            return len(self.targets) - 1
        return self.rows.index(self.label) if self.label in self.rows else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for `json.dumps`; None is omitted.

        JSON has no NaN or infinity: such a number becomes None.
        """
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in TENSORS:
            data[name] = None if data[name] is None else data[name].tolist()
        data["targets"] = [without_none(asdict(t), OPTIONAL_OF_TARGETS) for t in self.targets]
        data["words"] = [without_none(asdict(word), ("side", "name")) for word in self.words]
        data["max_abs_word_delta"] = list(self.max_abs_word_delta)
        if self.residual is not None:
            data["residual"] = list(self.residual)
        if self.interactions is not None:
            data["interactions"] = [[p.to_dict() for p in pairs] for pairs in self.interactions]
        if self.evidence is not None:
            data["evidence"] = [None if e is None else list(e) for e in self.evidence]
        if self.audit is not None:
            data["audit"] = [None if audit is None else asdict(audit) for audit in self.audit]
        optional = tuple(name for name in data if name not in ("label", "probability"))
        return without_none(finite(data), optional)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TargetsAttribution:
        """Rebuild a result from `to_dict`.

        Raises:
            TypeError: if a field is missing or unknown.
        """
        fields_of = dict(data)
        if "targets" in data:
            fields_of["targets"] = tuple(
                Target(**{**one, "value": _number(one.get("value"))}) for one in data["targets"]
            )
        if "words" in data:
            fields_of["words"] = tuple(Column(**word) for word in data["words"])
        shape = len(fields_of.get("targets", ())), len(fields_of.get("words", ()))
        for name in TENSORS:
            if name in data:
                numbers = np.array(data[name], dtype=np.float64)  # None becomes NaN
                fields_of[name] = torch.from_numpy(numbers.reshape(shape))
        for name in ("max_abs_word_delta", "residual"):
            if name in data:
                fields_of[name] = tuple(data[name])
        if "interactions" in data:
            fields_of["interactions"] = tuple(
                tuple(map(Interaction.from_dict, pairs)) for pairs in data["interactions"]
            )
        if "evidence" in data:
            fields_of["evidence"] = tuple(None if e is None else tuple(e) for e in data["evidence"])
        if "audit" in data:
            fields_of["audit"] = tuple(None if a is None else Audit(**a) for a in data["audit"])
        return cls(**fields_of)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TargetsAttribution):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.text, self.text_pair, tuple(self.rows), self.words))


OPTIONAL_OF_TARGETS = ("probability", "start", "end", "text_pair")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value

"""What an explanation of generated text is: prompt words by target tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from captum_sig._names import ResultLevel, TaskName, Unit
from captum_sig.explainers.matrix_results import MatrixAttribution
from captum_sig.explainers.results import (
    Column,
    Interaction,
    Word,
    WordAttribution,
    finite,
    scored_words,
    without_none,
)

MATRICES = ("matrix", "matrix_first", "matrix_last", "standard_error")  # target tokens by columns
ABSENT = "∅"  # in place of a token after the end of target or contrast


@dataclass(frozen=True)
class TargetToken:
    """A token of the target, and its log-probability after everything that precedes it."""

    token: str
    id: int
    log_probability: float


@dataclass(frozen=True, eq=False)
class GenerationAttribution(MatrixAttribution):
    """Why a language model generates a target after a prompt: prompt words by target tokens.

    T rows, W columns; tensors are float64 on the CPU, in nats (natural-log probabilities).

    `matrix[t, w]` is log p(token t | prompt, tokens before t) minus the same with word w at its
    baseline; it is exact. With a contrast, row t is that of target token t minus that of contrast
    token t. T is the longer of both, and after the end of one, the other's rows stand alone, so
    that columns sum to the effect on log p(target) − log p(contrast).

    The columns are the prompt's `words`, followed with `attributes_target` by the target's tokens
    except the last (0 for tokens that do not come later). A word's `score` is its column's sum;
    `start` and `end` are offsets in `prompt`, for a chat in the text that its template produced.

    In `contexts` other than the input, `matrix` is the mean over the backgrounds. `matrix_first`
    and `matrix_last`, (T, W), are the effects where all other words are at the baseline, and where
    all are at the input; NaN for words without such a background, and None if no word has one.
    `standard_error`, (T, W), is that of the matrix where backgrounds were sampled, NaN for words
    that were not; a word's `standard_error` is that of its `score`. `residual` is Σ of the columns'
    sums − (log p(target | x) − log p(target | x̄)), x̄ the sentence of baselines. The columns are the
    words of the game, which backgrounds put at their baseline: so the target's tokens move only
    with `attributes_target`. `interactions` says how each two of the prompt's strongest words act
    together on log p(target), if that was asked for. With a contrast, all is of the difference.

    `word_deltas`, (W,), is the measured error of each column's sum: the gap between log p(target)
    through hook and prefix cache and that of the unchanged model. With `attributions`, (W, D), it
    is the quadrature's: Σ_j attributions_wj − the column's sum. `converged` is False for columns
    that stopped short of a tolerance. `without_cache` says why no prefix cache was used, if so.
    """

    prompt: str
    words: tuple[Word, ...]
    target: str
    target_tokens: tuple[TargetToken, ...]
    matrix: Tensor
    word_deltas: Tensor
    baseline: str
    level: str
    attributes_target: bool = False
    without_cache: str | None = None
    contrast: str | None = None
    contrast_tokens: tuple[TargetToken, ...] = ()
    attributions: Tensor | None = None
    converged: Tensor | None = None
    method: str = "sig"
    matrix_first: Tensor | None = None
    matrix_last: Tensor | None = None
    standard_error: Tensor | None = None
    residual: float | None = None
    interactions: tuple[Interaction, ...] | None = None

    task: ClassVar[TaskName] = "text-generation"
    unit: ClassVar[Unit] = "nat"

    def __post_init__(self) -> None:
        wanted = len(self.rows), len(self.columns)
        for name in MATRICES:
            matrix = getattr(self, name)
            if matrix is not None and tuple(matrix.shape) != wanted:
                raise ValueError(f"{name} has shape {tuple(matrix.shape)}; wanted {wanted}")

    @property
    def text(self) -> str:
        """The prompt, which contains the words."""
        return self.prompt

    @property
    def heading(self) -> list[str]:
        """Target and contrast."""
        contrast = [] if self.contrast is None else [f"contrast: {self.contrast}"]
        return [f"target: {self.target}", *contrast]

    @property
    def totals(self) -> Tensor:
        return self.sequence_scores

    @property
    def figures(self) -> Mapping[str, list[float]]:
        """The log-probability of each token; with a contrast, the difference of both tokens'."""
        name = "log p" if self.contrast is None else "difference of log p"
        return {name: [self._log_probability(row) for row in range(len(self.rows))]}

    @property
    def columns(self) -> list[str]:
        """Label of each column of the matrix."""
        earlier = self.target_tokens[:-1] if self.attributes_target else ()
        return [word.label for word in self.words] + [token.token for token in earlier]

    @property
    def rows(self) -> list[str]:
        """Label of each row of the matrix: a token, or with a contrast "token − token"."""
        tokens = [token.token for token in self.target_tokens]
        if self.contrast is None:
            return tokens
        others = [token.token for token in self.contrast_tokens]
        length = max(len(tokens), len(others))
        padded = (side + [ABSENT] * (length - len(side)) for side in (tokens, others))
        return [
            f"{token.strip(' ') or token} − {other.strip(' ') or other}"
            for token, other in zip(*padded, strict=True)
        ]

    def attribution(self, row: int) -> WordAttribution:
        """Return the explanation of one target token's log-probability, over all columns."""
        own = (
            self.words
            + tuple(Column(token.token, None, None) for token in self.target_tokens[:-1])
            * self.attributes_target
        )

        def of_words(matrix: Tensor | None) -> list[float] | None:
            return None if matrix is None else matrix[row].tolist()

        return WordAttribution(
            text=self.prompt,
            label=None,
            probability=None,
            target=self.rows[row],
            method=self.method,
            baseline=self.baseline,
            max_abs_word_delta=self.max_abs_word_delta,
            words=scored_words(
                own,
                self.matrix[row].tolist(),
                standard_error=of_words(self.standard_error),
                first=of_words(self.matrix_first),
                last=of_words(self.matrix_last),
            ),
            value=self._log_probability(row),
            unit=self.unit,
            task=self.task,
            level=cast(ResultLevel, self.level),
        )

    def _log_probability(self, row: int) -> float:
        """Return F(x) of a row: what is absent from target or contrast has none."""
        values = [
            float(of[row]) if row < len(of) else 0.0
            for of in (self.log_probabilities, self.contrast_log_probabilities)
        ]
        return values[0] - values[1]

    @property
    def sequence_scores(self) -> Tensor:
        """Each column's effect on the log-probability of the whole target, (W,)."""
        return self.matrix.sum(0)

    @property
    def log_probabilities(self) -> Tensor:
        """Log-probabilities of the target's tokens, (T,)."""
        return _vector(token.log_probability for token in self.target_tokens)

    @property
    def contrast_log_probabilities(self) -> Tensor:
        """Log-probabilities of the contrast's tokens; empty without a contrast."""
        return _vector(token.log_probability for token in self.contrast_tokens)

    @property
    def max_abs_word_delta(self) -> float:
        """The largest of `word_deltas` in absolute value."""
        return max(self.word_deltas.abs().tolist(), default=0.0)

    @property
    def summary(self) -> str:
        """One line: what is explained, its value, and by which method."""
        value = f"log p(target) = {float(self.log_probabilities.sum()):.2f}"
        if self.contrast is not None:
            other = float(self.contrast_log_probabilities.sum())
            value += f", log p(contrast) = {other:.2f}"
        return f"{value}  ({self.method}, baseline {self.baseline}, nats)"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for `json.dumps`; None is omitted.

        JSON has no NaN or infinity: such a number in a list becomes None.
        """
        data = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in data.items():
            if isinstance(value, Tensor):
                data[name] = value.tolist()
        for name in ("target_tokens", "contrast_tokens"):
            data[name] = [asdict(token) for token in data[name]]
        data["words"] = [word.to_dict() for word in self.words]
        if self.interactions is not None:
            data["interactions"] = [pair.to_dict() for pair in self.interactions]
        return without_none(
            finite(data), tuple(name for name, value in data.items() if value is None)
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GenerationAttribution:
        """Rebuild a result from `to_dict`.

        Raises:
            TypeError: if a field is missing or unknown.
        """
        fields_of = dict(data)
        if "words" in data:
            fields_of["words"] = tuple(Word(**word) for word in data["words"])
        for name in ("target_tokens", "contrast_tokens"):
            fields_of[name] = tuple(TargetToken(**token) for token in data.get(name, ()))
        for name in (*MATRICES, "word_deltas", "attributions"):
            if name in fields_of:
                numbers = np.array(fields_of[name], dtype=np.float64)  # None becomes NaN
                fields_of[name] = torch.from_numpy(numbers)
        if "interactions" in fields_of:
            fields_of["interactions"] = tuple(map(Interaction.from_dict, data["interactions"]))
        if "converged" in fields_of:
            fields_of["converged"] = torch.tensor(fields_of["converged"], dtype=torch.bool)
        return cls(**fields_of)

    def to_captum_result(self) -> Any:
        """Return a `captum.attr.LLMAttributionResult`, with its plots; tensors in float32."""
        from captum.attr import LLMAttributionResult

        return LLMAttributionResult(
            input_tokens=_plotted(self.columns),
            output_tokens=_plotted(self.rows),
            seq_attr=self.sequence_scores.float(),
            token_attr=self.matrix.float(),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationAttribution):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.prompt, self.words, self.target_tokens, self.contrast_tokens))


def _vector(values: Any) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _plotted(labels: Sequence[str]) -> list[str]:
    """Escape dollars for matplotlib, which makes a formula of the text between two of them."""
    return [label.replace("$", r"\$") if label.count("$") > 1 else label for label in labels]

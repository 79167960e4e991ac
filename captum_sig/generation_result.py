"""What `TextGenerationExplainer` returns: frozen, and the same after a trip through JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from captum_sig.result import Word, told
from captum_sig.viz import heatmap

ABSENT = "∅"  # in place of a token where target or contrast has ended


@dataclass(frozen=True)
class TargetToken:
    """One token that the model was made to give, and its log-probability after what precedes it."""

    token: str
    id: int
    log_probability: float


@dataclass(frozen=True, eq=False)
class GenerationAttribution:
    """Why a language model gives a target after a prompt: every prompt word by every target token.

    T rows, W columns; tensors are float64 on the CPU, in nats (natural-log probabilities).

    `matrix[t, w]` is log p(token t | prompt, tokens before t) less the same with word w at its
    baseline; exact. With a contrast, T is the longer of both, row t is that of target token t less
    that of contrast token t, and where one has ended the other's alone: so columns sum to the
    effect on log p(target) − log p(contrast).

    The columns are the prompt's `words`, and with `attributes_target` after them the target's
    tokens but the last (0 for tokens that do not come later). A word's `score` is its column's sum,
    `start` and `end` are offsets in `prompt`, which for a chat is the text that its template made.

    `word_deltas` is the measured error of each column's sum, (W,): what log p(target) through hook
    and prefix cache differs by from the untouched model's; with `attributions`, (W, D), the
    quadrature's, Σ_j attributions_wj − the column's sum. `converged` is False for columns that
    stopped short of a tolerance. `without_cache` says why no prefix cache was used, None if it was.
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

    def __post_init__(self) -> None:
        """Check the matrix's shape."""
        wanted = len(self.rows), len(self.columns)
        if tuple(self.matrix.shape) != wanted:
            raise ValueError(f"matrix has shape {tuple(self.matrix.shape)}; wanted {wanted}")

    @property
    def method(self) -> str:
        """Sequential Integrated Gradients."""
        return "sig"

    @property
    def text(self) -> str:
        """The prompt, in which the words stand."""
        return self.prompt

    @property
    def columns(self) -> list[str]:
        """What each column of the matrix stands for."""
        earlier = self.target_tokens[:-1] if self.attributes_target else ()
        return [word.word for word in self.words] + [token.token for token in earlier]

    @property
    def rows(self) -> list[str]:
        """What each row of the matrix stands for: a token, or with a contrast "token − token"."""
        tokens = [token.token for token in self.target_tokens]
        if self.contrast is None:
            return tokens
        others = [token.token for token in self.contrast_tokens]
        length = max(len(tokens), len(others))
        padded = (side + [ABSENT] * (length - len(side)) for side in (tokens, others))
        return [
            f"{one.strip(' ') or one} − {other.strip(' ') or other}"
            for one, other in zip(*padded, strict=True)
        ]

    @property
    def sequence_scores(self) -> Tensor:
        """Each column's effect on the log-probability of the whole target, (W,)."""
        return self.matrix.sum(0)

    @property
    def log_probabilities(self) -> Tensor:
        """Of the target's tokens, (T,)."""
        return _vector(token.log_probability for token in self.target_tokens)

    @property
    def contrast_log_probabilities(self) -> Tensor:
        """Of the contrast's tokens; empty without a contrast."""
        return _vector(token.log_probability for token in self.contrast_tokens)

    @property
    def max_abs_word_delta(self) -> float:
        """The worst of `word_deltas`."""
        return float(self.word_deltas.abs().max())

    @property
    def summary(self) -> str:
        """One line: what is explained, its value, and by which method."""
        value = f"log p(target) = {float(self.log_probabilities.sum()):.2f}"
        if self.contrast is not None:
            other = float(self.contrast_log_probabilities.sum())
            value += f", log p(contrast) = {other:.2f}"
        return f"{value}  ({self.method}, baseline {self.baseline}, nats)"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for `json.dumps`; what is None is left out."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in given.items():
            if isinstance(value, Tensor):
                given[name] = value.tolist()
        for name in ("target_tokens", "contrast_tokens"):
            given[name] = [asdict(token) for token in given[name]]
        given["words"] = [told(asdict(word), ("spread", "standard_error")) for word in self.words]
        return told(given, tuple(name for name, value in given.items() if value is None))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GenerationAttribution:
        """The inverse of `to_dict`.

        Raises:
            TypeError: if a field is missing or unknown.
        """
        given = dict(data)
        if "words" in data:
            given["words"] = tuple(Word(**word) for word in data["words"])
        for name in ("target_tokens", "contrast_tokens"):
            given[name] = tuple(TargetToken(**token) for token in data.get(name, ()))
        for name in ("matrix", "word_deltas", "attributions"):
            if name in given:
                given[name] = torch.tensor(given[name], dtype=torch.float64)
        if "converged" in given:
            given["converged"] = torch.tensor(given["converged"], dtype=torch.bool)
        return cls(**given)

    def to_captum_result(self) -> Any:
        """As `captum.attr.LLMAttributionResult`, with its plots; tensors in float32."""
        from captum.attr import LLMAttributionResult

        return LLMAttributionResult(
            input_tokens=_plotted(self.columns),
            output_tokens=_plotted(self.rows),
            seq_attr=self.sequence_scores.float(),
            token_attr=self.matrix.float(),
        )

    def to_html(self) -> str:
        """A self-contained page: hover a token of the target to colour the prompt by it."""
        return heatmap.to_page([self])

    def to_png(self) -> bytes:
        """The heat map as a picture."""
        return heatmap.to_png(self)

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal, tensors to the bit."""
        if not isinstance(other, GenerationAttribution):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """By what was asked."""
        return hash((self.prompt, self.words, self.target_tokens, self.contrast_tokens))

    def _repr_html_(self) -> str:
        return heatmap.to_html(self)


def _vector(values: Any) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _plotted(labels: Sequence[str]) -> list[str]:
    """As matplotlib shows them: two dollars would make a formula of what stands between."""
    return [label.replace("$", r"\$") if label.count("$") > 1 else label for label in labels]

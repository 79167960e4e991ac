"""What the explainers return: frozen, and the same after a trip through JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from captum_sig import viz
from captum_sig.viz import heatmap
from captum_sig.words.grouping import Span


@dataclass(frozen=True)
class Word:
    """One word and its score.

    `start` and `end` are character offsets in the text, None where the tokenizer keeps none;
    `score` is in logits of the explained label; `normalized` is the score divided by the L2 norm
    of all the text's scores. `std` is the score's standard deviation over the draws of a random
    baseline, `standard_error` its standard error where contexts were sampled, both in logits.
    """

    word: str
    start: int | None
    end: int | None
    score: float
    normalized: float
    std: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class WordAttribution:
    """Why a model gave a text the label `target`, word by word.

    `label` is the predicted label, `probability` its probability and `probabilities` that of each
    label (None and empty where the model does not give probabilities, or a text without any
    token gave it nothing to read). `max_abs_word_delta` is the worst measured gap, in logits,
    between a word's score and the difference F(x) − F(x̄ʷ) with the model's own F(x), asked
    without any hook; exact scores differ from it by rounding only. It is None for methods
    without completeness per word. `residual` is Σ of the scores − (F(x) − F(x̄)), x̄ the sentence of
    baselines, where words moved in several contexts.
    """

    text: str
    label: str | None
    probability: float | None
    target: str | None
    method: str
    baseline: str
    max_abs_word_delta: float | None
    words: tuple[Word, ...]
    probabilities: dict[str, float] = field(default_factory=dict, hash=False)
    residual: float | None = None

    @property
    def scores(self) -> list[float]:
        """Raw scores in logits, in the order of the words."""
        return [word.score for word in self.words]

    @property
    def normalized_scores(self) -> list[float]:
        """Scores divided by their L2 norm, as in the paper."""
        return [word.normalized for word in self.words]

    @property
    def summary(self) -> str:
        """One line: what was predicted, and what is explained by which method."""
        predicted = "no prediction" if self.label is None else self.label
        if self.probability is not None:
            predicted += f" {self.probability:.1%}"
        explained = "" if self.target in (None, self.label) else f"why {self.target}, "
        return f"{predicted}  ({explained}{self.method}, baseline {self.baseline})"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for `json.dumps`.

        What only some methods and baselines tell (`std`, `standard_error`, `residual`) is left
        out where it is not told.
        """
        words = [without_none(asdict(word), ("std", "standard_error")) for word in self.words]
        return without_none({**asdict(self), "words": words}, ("residual",))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WordAttribution:
        """The inverse of `to_dict`.

        Raises:
            TypeError: if a field is missing or unknown.
        """
        return cls(**{**data, "words": tuple(Word(**word) for word in data["words"])})

    def to_captum_record(self, true_label: str = "") -> Any:
        """A record for `captum.attr.visualization.visualize_text`, its strings escaped.

        Args:
            true_label: the label to show as the true one.
        """
        import torch
        from captum.attr import visualization

        def shown(text: str | None) -> str:
            return html.escape(text or "")

        return visualization.VisualizationDataRecord(
            word_attributions=torch.tensor(self.normalized_scores),
            pred_prob=math.nan if self.probability is None else self.probability,
            pred_class=shown(self.label),
            true_class=shown(true_label),
            attr_class=shown(self.target),
            attr_score=sum(self.scores),
            raw_input_ids=[shown(word.word) for word in self.words],
            convergence_score=(
                math.nan if self.max_abs_word_delta is None else self.max_abs_word_delta
            ),
        )

    def _repr_html_(self) -> str:
        return viz.to_html(self)


def without_none(data: dict[str, Any], optional: Sequence[str]) -> dict[str, Any]:
    """Without the optional fields that are None."""
    return {key: data[key] for key in data if key not in optional or data[key] is not None}


def scored_words(spans: Iterable[Span], scores: Sequence[float]) -> tuple[Word, ...]:
    """Words with their scores, normalised over the words.

    Args:
        spans: the words.
        scores: of each of them.
    """
    found = list(zip(spans, scores, strict=True))
    norm = math.hypot(*scores) or 1.0
    return tuple(
        Word(span.word, span.start, span.end, score, score / norm) for span, score in found
    )


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
        given["words"] = [
            without_none(asdict(word), ("std", "standard_error")) for word in self.words
        ]
        return without_none(given, tuple(name for name, value in given.items() if value is None))

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

"""What the explainers return: frozen, and the same after a trip through JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from captum_sig import viz
from captum_sig.words.grouping import Span


@dataclass(frozen=True)
class Word:
    """One word and its score.

    `start` and `end` are character offsets in the text, None where the tokenizer keeps none;
    `score` is in logits of the explained label; `normalized` is the score divided by the L2 norm
    of all the text's scores. `spread` is the score's standard deviation over the draws of a random
    baseline, `standard_error` its standard error where contexts were sampled, both in logits.
    """

    word: str
    start: int | None
    end: int | None
    score: float
    normalized: float
    spread: float | None = None
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

        What only some methods and baselines tell (`spread`, `standard_error`, `residual`) is left
        out where it is not told.
        """
        words = [told(asdict(word), ("spread", "standard_error")) for word in self.words]
        return told({**asdict(self), "words": words}, ("residual",))

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


def told(data: dict[str, Any], optional: Sequence[str]) -> dict[str, Any]:
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

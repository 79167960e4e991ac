"""What the explainers return: frozen, and the same after a trip through JSON."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, get_args

import torch

from captum_sig._names import (
    Agreement,
    Evidence,
    PairKind,
    Rank,
    ResultLevel,
    Side,
    TaskName,
    Unit,
)
from captum_sig.explainers.views import Views, dataframe
from captum_sig.viz import bars, text
from captum_sig.viz.characters import shortened
from captum_sig.viz.wording import called, explained_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

EVIDENCE: tuple[Evidence, ...] = get_args(Evidence)


@dataclass(frozen=True)
class Audit:
    """What the words that were not explained exactly may be worth.

    `n_exact` words seemed the strongest to the screen and have exact scores. Of all others,
    `n_audited` drawn at random have exact scores too, and `bound` is the largest of these in
    absolute value, in logits. Whatever the model and the screen, each of n + 1 words, those audited
    and one of the `n_estimated` that remain, is as likely as another to be the largest. So the
    estimated word's effect is at most `bound` with probability `confidence` = n / (n + 1).

    That concerns one word. Some of hundreds will exceed the bound: see `most_above`.
    """

    n_exact: int
    n_audited: int
    n_estimated: int
    bound: float
    confidence: float

    def most_above(self, confidence: float = 0.95) -> int:
        """Return how many of the estimated words may exceed the bound, with this confidence.

        k or more do only if all audited words are among the N − k smallest of the N words that are
        not exact, which has the probability C(N − k, n) / C(N, n).

        >>> Audit(25, 9, 64, bound=0.1, confidence=0.9).most_above(0.95)
        19
        """
        n, n_all = self.n_audited, self.n_audited + self.n_estimated
        unlikely = (1 - confidence) * math.comb(n_all, n)
        return next(k for k in range(n_all) if math.comb(n_all - k - 1, n) <= unlikely)


@dataclass(frozen=True)
class Word:
    """A word, or a unit of several words that move as one, and its score.

    `start` and `end` are character offsets in the text, None if the tokenizer keeps none. `score`
    is in logits of the explained label, `normalized` the score divided by the L2 norm of all the
    text's scores. `std` is the score's standard deviation over the draws of a random baseline,
    `standard_error` its standard error where contexts were sampled; both are in logits. With
    `contexts.auto` it is 0 for an exact score, and None for a word that was not sampled.

    Contexts with both sides of a word, such as `contexts.two_sided`, also give its effect `first`,
    when it is added to the sentence of baselines (what it says alone), and `last`, when it is left
    out of the text (what the text loses without it). `agreement` compares both: see `agreement`.

    `evidence` says where the score comes from if only the strongest words were explained exactly:
    "exact" and "audited" words have exact scores, an "estimated" one that of a screen, see `Audit`.
    At level "auto", an "unopened" one is a unit, and its score the exact effect of the whole.

    `side` says which text of a pair the word stands in; its offsets are in that text.
    """

    word: str
    start: int | None
    end: int | None
    score: float
    normalized: float
    std: float | None = None
    standard_error: float | None = None
    first: float | None = None
    last: float | None = None
    agreement: Agreement | None = None
    evidence: Evidence | None = None
    side: Side | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """The name, or if there is none the word itself."""
        return called(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; those that only some contexts and baselines have may be omitted."""
        return without_none(finite(asdict(self)), OPTIONAL_FIELDS)


OPTIONAL_FIELDS = (
    "std", "standard_error", "first", "last", "agreement", "evidence", "side", "name"
)  # fmt: skip
UNNAMED_QUANTITY = "LABEL_0"  # how transformers calls the only value of a model
MAX_NAME = 60  # characters of a target in a summary
ADDITIVE_WITHIN = 0.1  # of a text's largest score: what two effects of an additive word may differ


def agreement(first: float, last: float, largest: float) -> Agreement:
    """Say how a word's effect depends on the other words.

    - "additive": both effects agree within `ADDITIVE_WITHIN` of the text's largest score;
    - "redundant": the word has a larger effect alone, since others say the same;
    - "synergistic": it has a larger effect among the others, since it needs their company, or one
      that they turn: of the other sign, and at least half as large.

    Args:
        first: the effect of the word added to the sentence of baselines.
        last: the effect of the word left out of the text.
        largest: the largest absolute score of the text.

    >>> agreement(1.0, 1.0, 1.0), agreement(1.0, 0.0, 1.0), agreement(-0.1, 2.0, 2.0)
    ('additive', 'redundant', 'synergistic')
    """
    if abs(first - last) <= ADDITIVE_WITHIN * largest:
        return "additive"
    turns = first * last < 0 and abs(last) >= abs(first) / 2
    return "synergistic" if turns or abs(last) > abs(first) else "redundant"


@dataclass(frozen=True)
class Interaction:
    """How two words act together.

    `words` are their numbers in the result's `words`, ascending. `value` is the second difference
    F(x) − F(x without i) − F(x without j) + F(x without both), in units of F (logits, or nats for
    generations): how much less the effect of either word is without the other. `kind` says what
    that means: see `captum_sig.explainers.interactions.pair_kind`.
    """

    words: tuple[int, int]
    value: float
    kind: PairKind

    def to_dict(self) -> dict[str, Any]:
        return finite({"words": list(self.words), "value": self.value, "kind": self.kind})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Interaction:
        """Rebuild it from `to_dict`."""
        return cls(**{**data, "words": tuple(data["words"])})


@dataclass(frozen=True)
class Column:
    """A word of a text, or of a side of a pair of texts, with its character offsets there.

    Of a unit of several words, `word` is its text, and `name` the caller's name for it, if any.
    """

    word: str
    start: int | None
    end: int | None
    side: Side | None = None
    name: str | None = None

    @property
    def label(self) -> str:
        """The name, or if there is none the word itself."""
        return called(self)


@dataclass(frozen=True)
class WordAttribution(Views):
    """Why a model gave a text the label `target`, word by word.

    `value` is F(x), what is explained: a label's logit, the value that a model predicts, a
    similarity, a log-probability. Scores are in its `unit`. In another `task` than
    text-classification the target is an entity, an answer, a token, another text; `target_start`
    and `target_end` are its characters in the text (in `text_pair`, for an answer), if it has any.
    `dropped_tokens` is the number of tokens beyond the model's limit, which it has not read.

    `label` is the predicted label, `probability` its probability and `probabilities` that of each
    label; they are None and empty if the model does not return probabilities or the text has no
    token. `max_abs_word_delta` is the largest measured gap, in logits, between a word's score and
    F(x) − F(x̄ʷ), with F(x) from the model without any hook; exact scores differ from it only by
    rounding. Where a text and its rows share a pass, it was measured on the explainer's first
    texts. It is None for methods without completeness per word. `residual` is Σ of the
    scores − (F(x) − F(x̄)), x̄ the sentence of baselines, if words moved in several contexts and
    none is estimated. `audit` says what estimated words may be worth, if there are any.
    `interactions` says how each two of the strongest words act together, if that was asked for,
    the largest second difference first.
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
    interactions: tuple[Interaction, ...] | None = None
    audit: Audit | None = None
    text_pair: str | None = None
    value: float | None = None
    unit: Unit = "logit"
    task: TaskName = "text-classification"
    dropped_tokens: int = 0
    level: ResultLevel = "word"
    target_start: int | None = None
    target_end: int | None = None

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
        """One line: what is explained and its value, the predicted label if it is another, and how.

        Such as "joy 93.1%, logit +4.31  (sig, baseline mask)", or "score 4.31  (…)".
        """
        how = f"{self.method}, baseline {self.baseline}"
        if self.audit is not None:
            n_known = self.audit.n_exact + self.audit.n_audited
            how += (
                f"; {n_known} of {n_known + self.audit.n_estimated} words exact, another within "
                f"±{self.audit.bound:.2g} at {self.audit.confidence:.0%}"
            )
        if self.label is not None and self.target not in (None, self.label) and self._has_labels:
            how = f"predicted {self.label}{self._percentage(self.label)}; {how}"
        return f"{self._explained}  ({how})"

    @property
    def _has_labels(self) -> bool:
        """Whether the model predicts labels, rather than a quantity."""
        return self.unit in ("logit", "nat")

    @property
    def _explained(self) -> str:
        """Say what is explained, and its value."""
        value = explained_value(self.value, self.unit)
        if not self._has_labels:
            is_named = self.target not in (None, UNNAMED_QUANTITY, self.text_pair, self.unit)
            name = shortened(self.target or "", MAX_NAME) if is_named else ""
            return ": ".join(filter(None, [name, value])) or "no value"
        shown = self.label if self.target is None else self.target
        if shown is None:
            return ", ".join(filter(None, ["no prediction", value]))
        name = shown.strip(" ") or shown
        if self.task == "question-answering" and self.target_start is not None:
            answer = (self.text_pair or self.text)[self.target_start : self.target_end]
            name += f" of the answer “{shortened(answer, MAX_NAME)}”"
        return ", ".join(filter(None, [f"{name}{self._percentage(shown)}", value]))

    def _percentage(self, label: str) -> str:
        """Return a label's probability after a space; nothing if it is not known."""
        probability = self.probabilities.get(label)
        if label == self.label:
            probability = self.probability
        return "" if probability is None else f" {probability:.1%}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for `json.dumps`.

        Fields that only some calls, methods and baselines have (`std`, `standard_error`,
        `residual`, `interactions`, `audit`) are omitted if they are None. JSON has no NaN or
        infinity: such a number becomes None.
        """
        data = {**asdict(self), "words": [word.to_dict() for word in self.words]}
        if self.interactions is not None:
            data["interactions"] = [pair.to_dict() for pair in self.interactions]
        return without_none(
            finite(data),
            ("residual", "interactions", "audit", "text_pair", "target_start", "target_end"),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WordAttribution:
        """Rebuild a result from `to_dict`.

        Raises:
            TypeError: if a field is missing or unknown.
        """
        fields_of = {**data, "words": tuple(Word(**word) for word in data["words"])}
        if data.get("interactions") is not None:
            fields_of["interactions"] = tuple(map(Interaction.from_dict, data["interactions"]))
        if data.get("audit") is not None:
            fields_of["audit"] = Audit(**data["audit"])
        return cls(**fields_of)

    def to_captum_record(self, true_label: str = "") -> Any:
        """Return a record for `captum.attr.visualization.visualize_text`, its strings escaped."""
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

    def plot(self, *, rank: Rank = "all") -> Figure:
        return bars.to_figure(self, rank=rank)

    def to_plain(self, *, rank: Rank = "all") -> str:
        return text.to_plain(self, rank=rank)

    def to_terminal(self, width: int = 80, *, legend: bool = True, rank: Rank = "all") -> Text:
        return text.to_terminal(self, width, legend=legend, rank=rank)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        rows = [asdict(word) for word in self.words]
        header = [
            name
            for name in (column.name for column in fields(Word))
            if name not in OPTIONAL_FIELDS or any(row[name] is not None for row in rows)
        ]
        return header, [[row[name] for name in header] for row in rows]

    def to_dataframe(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each word, and all that is known of it.

        Raises:
            ImportError: if pandas is not installed.
        """
        header, rows = self.table()
        return dataframe(rows, header)


class Located(Protocol):
    """A word in a text."""

    @property
    def word(self) -> str: ...
    @property
    def start(self) -> int | None: ...
    @property
    def end(self) -> int | None: ...
    @property
    def side(self) -> Side | None: ...
    @property
    def name(self) -> str | None: ...


def finite(value: Any) -> Any:
    """Copy dicts and lists, with None in place of every number that is not finite."""
    if isinstance(value, dict):
        return {name: finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return list(map(finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def without_none(data: dict[str, Any], optional: Sequence[str]) -> dict[str, Any]:
    """Drop the optional fields that are None."""
    return {key: data[key] for key in data if key not in optional or data[key] is not None}


def scored_words(
    spans: Sequence[Located],
    scores: Sequence[float],
    *,
    std: Sequence[float] | None = None,
    standard_error: Sequence[float] | None = None,
    first: Sequence[float] | None = None,
    last: Sequence[float] | None = None,
    evidence: Sequence[Evidence] | None = None,
) -> tuple[Word, ...]:
    """Join words with their scores, normalized over the words, and what is known of each.

    NaN in `std`, `standard_error`, `first` and `last` stands for what is not known.
    """

    def known(values: Sequence[float] | None, number: int) -> float | None:
        return None if values is None or math.isnan(values[number]) else values[number]

    norm = math.hypot(*scores) or 1.0
    largest = max(map(abs, scores), default=0.0)
    words = []
    for number, (span, score) in enumerate(zip(spans, scores, strict=True)):
        alone, in_text = known(first, number), known(last, number)
        words.append(
            Word(
                word=span.word,
                start=span.start,
                end=span.end,
                score=score,
                normalized=score / norm,
                std=known(std, number),
                standard_error=known(standard_error, number),
                first=alone,
                last=in_text,
                agreement=(
                    None if alone is None or in_text is None else agreement(alone, in_text, largest)
                ),
                evidence=None if evidence is None else evidence[number],
                side=span.side,
                name=span.name,
            )
        )
    return tuple(words)

"""What an evaluation asks: its options, and the texts with the label that is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from captum_sig.data.records import Record
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.faithfulness import METRICS
from captum_sig.words.encoding import Sentence


@dataclass(frozen=True)
class Plan:
    """What is evaluated; a run is resumed only by an equal plan."""

    data: str
    model: str
    masked_lm: str | None
    methods: tuple[str, ...]  # as `TextClassificationExplainer` takes them, such as "sig:sampled4"
    baselines: tuple[str, ...]
    metrics: tuple[str, ...]  # names in `faithfulness.METRICS`
    topk: float
    level: str
    target: str  # "predicted" or "label"
    n_steps: int
    n_draws: int
    seed: int

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            ValueError: for an unknown metric, a name that is given twice, a share outside (0, 1],
                or a seed below 0.
        """
        for kind in ("methods", "baselines", "metrics"):
            names = getattr(self, kind)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{kind} must be one or several names, each once, got {names}")
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(f"metric {name!r} is unknown: use one of {', '.join(METRICS)}")
        if not 0 < self.topk <= 1:
            raise ValueError(f"topk is a share of the words, in (0, 1], got {self.topk}")
        if self.target not in ("predicted", "label"):
            raise ValueError(f"target must be predicted or label, got {self.target!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


@dataclass(frozen=True)
class Example:
    """A text with what all methods are asked about it."""

    number: int  # in the data
    text: str
    label: str | None
    predicted: str
    sentence: Sentence
    log_probability: float  # of the explained label


def examples(
    explainer: TextClassificationExplainer, records: Sequence[Record], target: str
) -> list[Example]:
    """The records by length, without those that have no word.

    Raises:
        ValueError: if a label is unknown to the model, or missing where labels are explained.
        FloatingPointError: if the model's output for a text is not finite.
    """
    indices = [_label_index(explainer, record, i) for i, record in enumerate(records)]
    if target == "label" and None in indices:
        raise ValueError(
            f"record {indices.index(None)} has no label to explain: name the column of labels, or "
            "explain the predicted ones"
        )
    encoded = explainer.tokenizer([r.text for r in records], verbose=False)["input_ids"]
    some = [i for i, ids in enumerate(encoded) if len(ids) and records[i].text.strip()]
    sentences = explainer.sentences([records[i].text for i in some], [0] * len(some))
    names = explainer.labels
    found = []
    for i, sentence in zip(some, sentences, strict=True):
        if sentence.n_units == 0:
            continue
        log_p = explainer.log_probabilities(sentence.ids[None])[0]
        if not log_p.isfinite().all():
            raise not_finite("output", i, "the unchanged input")
        best, known = int(log_p.argmax()), indices[i]
        explained = known if target == "label" and known is not None else best
        found.append(
            Example(
                number=i,
                text=records[i].text,
                label=None if known is None else names[known],
                predicted=names[best],
                sentence=replace(sentence, target=explained),
                log_probability=float(log_p[explained]),
            )
        )
    return sorted(found, key=lambda example: (len(example.sentence.ids), example.number))


def not_finite(what: str, number: int, where: str) -> FloatingPointError:
    """What to raise for a text, by its number in the data."""
    return FloatingPointError(
        f"the model's {what} is not finite for record {number}, {where}: leave the record out, or "
        "use a wider dtype"
    )


def _label_index(explainer: TextClassificationExplainer, record: Record, number: int) -> int | None:
    if record.label is None:
        return None
    try:
        return explainer.label_index(record.label)
    except ValueError:
        known = ", ".join(f"{name} ({i})" for i, name in enumerate(explainer.labels))
        raise ValueError(
            f"record {number} has label {record.label!r}, which the model does not know: its "
            f"labels are {known}; convert the column, name another, or none (--label-column '')"
        ) from None


def accuracy(examples: Sequence[Example]) -> float | None:
    """Share of the labelled examples that the model predicts as labelled; None without labels."""
    known = [
        example.label == example.predicted for example in examples if example.label is not None
    ]
    return sum(known) / len(known) if known else None

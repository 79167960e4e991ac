"""The texts of an evaluation: encoded and classified once, for all methods."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from captum_sig.data.records import Record
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.words.cutting import readable_part
from captum_sig.words.encoding import Sentence
from captum_sig.words.tokenize import tokenize

PREDICTED_ABOVE = 0.5  # the probability of a label that excludes no other
LABEL_SEPARATORS = re.compile("[,;|]")  # between the labels of a text, in a column of strings


@dataclass(frozen=True)
class Example:
    """A label of a text or of a pair of texts, encoded once for all methods."""

    number: int  # in the data
    text: str
    label: str | tuple[str, ...] | None  # of the data; all of them if labels exclude no others
    predicted: str | tuple[str, ...]
    sentence: Sentence
    log_probability: float  # of the explained label
    text_pair: str | None = None
    spans: tuple[tuple[int, int], ...] | None = None  # of the record

    @property
    def input(self) -> str | tuple[str, str]:
        """The text or the pair, as explainers take it."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


def prepare_examples(
    explainer: TextClassificationExplainer, records: Sequence[Record], explain: str
) -> list[Example]:
    """Encode and classify the records, sort them by length, and drop those without an explanation.

    There is none for empty texts, texts without a word, and texts for which no label is predicted,
    or none is true, where labels exclude no others.

    Raises:
        ValueError: if the model does not know a label, or a label to explain is missing.
        FloatingPointError: if the model's output for a text is not finite.
    """
    known = [label_indices(explainer, record, i) for i, record in enumerate(records)]
    if explain == "label" and None in known:
        raise ValueError(
            f"record {known.index(None)} has no label to explain: set label_column, or explain the "
            "predicted labels"
        )
    numbers = [i for i in _with_tokens(explainer, records) if not records[i].is_blank]
    sentences = explainer.sentences([records[i].input for i in numbers], [0] * len(numbers))
    examples = []
    for i, sentence in zip(numbers, sentences, strict=True):
        if sentence.n_units == 0:
            continue
        inputs = {name: tensor[None] for name, tensor in sentence.inputs.items()}
        log_p = explainer.log_probabilities(sentence.ids[None], inputs=inputs)[0]
        if not log_p.isfinite().all():
            raise not_finite("output", i, "the unchanged input")
        predicted, labels = _predicted(explainer, log_p), known[i]
        explained = labels if explain == "label" and labels is not None else predicted
        examples += [
            Example(
                number=i,
                text=records[i].text,
                label=None if labels is None else _label_names(explainer, labels),
                predicted=_label_names(explainer, predicted),
                sentence=replace(sentence, target=index),
                log_probability=float(log_p[index]),
                text_pair=records[i].text_pair,
                spans=records[i].spans,
            )
            for index in explained
        ]
    return sorted(
        examples, key=lambda one: (len(one.sentence.ids), one.number, one.sentence.target)
    )


def _with_tokens(
    explainer: TextClassificationExplainer, records: Sequence[Record]
) -> Iterator[int]:
    """Yield the numbers of the records of which the tokenizer makes at least one token."""
    tokenizer, limit = explainer.tokenizer, explainer.encoder.limit
    parts = [readable_part(tokenizer, record.text, limit) for record in records]
    token_ids = tokenize(tokenizer, parts, verbose=False)["input_ids"]
    return (number for number, ids in enumerate(token_ids) if len(ids))


def _predicted(explainer: TextClassificationExplainer, log_p: Tensor) -> list[int]:
    """Return the indices of the labels that a model predicts, given their log-probabilities."""
    if not explainer.is_multi_label:
        return [int(log_p.argmax())]
    return [int(index) for index in (log_p.exp() > PREDICTED_ABOVE).nonzero()[:, 0]]


def _label_names(
    explainer: TextClassificationExplainer, indices: Sequence[int]
) -> str | tuple[str, ...]:
    names = tuple(explainer.labels[index] for index in indices)
    return names if explainer.is_multi_label else names[0]


def not_finite(what: str, number: int, where: str) -> FloatingPointError:
    """Return the error for a text, which is identified by its number in the data."""
    return FloatingPointError(
        f"the model's {what} is not finite for record {number}, {where}: leave the record out, or "
        "use a wider dtype"
    )


def label_indices(
    explainer: TextClassificationExplainer, record: Record, number: int
) -> list[int] | None:
    """Return the indices of a record's labels in the model, ascending; None if it has none."""
    if record.label is None:
        return None
    names = (record.label,) if isinstance(record.label, str) else record.label
    if not explainer.is_multi_label and len(names) != 1:
        raise ValueError(
            f"record {number} has {len(names)} labels, and the model predicts one: convert the "
            "column, or set label_column to another or to ''"
        )
    try:
        return sorted({i for name in names for i in _indices(explainer, name)})
    except ValueError:
        labels = ", ".join(f"{name} ({i})" for i, name in enumerate(explainer.labels))
        written = record.label if isinstance(record.label, str) else list(record.label)
        raise ValueError(
            f"record {number} has label {written!r}, which the model does not know: its "
            f"labels are {labels}; convert the column, or set label_column to another or to ''"
        ) from None


def _indices(explainer: TextClassificationExplainer, written: str) -> list[int]:
    """Return the indices of a label, or of several labels that are written in one string."""
    try:
        return [explainer.label_index(written)]
    except ValueError:
        parts = [part.strip() for part in LABEL_SEPARATORS.split(written)]
        if not explainer.is_multi_label or len(parts) == 1:
            raise
        return [explainer.label_index(part) for part in parts if part]


def accuracy(examples: Sequence[Example]) -> float | None:
    """Return the fraction of labelled texts predicted as labelled; None without labels.

    Of labels that exclude no others, all must be right.
    """
    correct = {x.number: x.label == x.predicted for x in examples if x.label is not None}
    return sum(correct.values()) / len(correct) if correct else None

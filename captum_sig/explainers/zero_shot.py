"""Texts and candidate labels in, results out: models of entailment as classifiers of any labels.

A text and the hypothesis that a candidate makes of a template are a pair; F is the logit of
entailment. All pairs of all texts are examples of one sweep, and those of a text become the rows of
its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, overload

import torch
from torch import Tensor, nn

from captum_sig._names import Side, TaskName, suggestion, unknown_name
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.explainers.classification import read_labels
from captum_sig.explainers.explainer import (
    CallOptions,
    Explainer,
    ExplainerOptions,
)
from captum_sig.explainers.matrix_results import TENSORS, Target, TargetsAttribution
from captum_sig.explainers.models import classifier_logits
from captum_sig.explainers.readout import Readout, Result, TextTargets
from captum_sig.explainers.results import Column
from captum_sig.explainers.scoring import ScoringOptions
from captum_sig.words.encoding import Batch, Truncation
from captum_sig.words.inputs import TextInput, checked_texts, in_python, is_list

if TYPE_CHECKING:
    from typing_extensions import Unpack

Moving = Literal["text", "both"]  # of a text and its hypotheses: whose words move
TEMPLATE = "This example is {}."
OF_EACH_TARGET = (
    "targets", "max_abs_word_delta", "residual", "interactions", "evidence", "audit",
)  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """The labels that a text may have, and which of them are explained."""

    hypotheses: dict[str, str]  # by label, in the caller's order
    explained: tuple[str, ...]
    multi_label: bool = False
    words: Moving = "text"

    @classmethod
    def checked(
        cls,
        labels: str | Sequence[str],
        *,
        target: Any = None,
        hypothesis_template: str = TEMPLATE,
        multi_label: bool = False,
        words: str = "text",
    ) -> Candidates:
        """Check the arguments of a call; they are those of `ZeroShotClassificationExplainer`.

        Raises:
            TypeError: for labels that are not strings.
            ValueError: for no label or equal ones, a template without a place for them, a target
                that is not among them, or unknown `words`.
        """
        if words not in get_args(Moving):
            raise ValueError(unknown_name("words", words, get_args(Moving)))
        if not isinstance(multi_label, bool):
            raise ValueError(f"multi_label must be True or False, got {multi_label!r}")
        names = _names(labels, "candidate_labels")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"candidate_labels has {name!r} twice: leave one out")
        target = in_python(target)
        chosen = (
            names
            if target is None
            else _names([target] if isinstance(target, str) else target, "target")
        )
        for name in chosen:
            if name not in names:
                raise ValueError(
                    f"target {name!r} is not among the candidates{suggestion(name, names)}: choose "
                    f"from {', '.join(names)}"
                )
        return cls(
            hypotheses={name: _hypothesis(hypothesis_template, name) for name in names},
            explained=tuple(dict.fromkeys(chosen)),
            multi_label=multi_label,
            words=words,  # type: ignore[arg-type]
        )

    def pair(self, one: TextInput, name: str) -> TextInput:
        """Return a text with one candidate's hypothesis."""
        units = one.units and tuple(replace(unit, side="text") for unit in one.units)
        held: Side | None = None if self.words == "both" else "text_pair"
        return replace(one, pair=self.hypotheses[name], held=held, units=units)

    def probabilities(self, targets: Sequence[Target]) -> dict[str, float]:
        """Return all candidates' probabilities, as transformers' pipeline has them.

        Args:
            targets: all candidates; their probability is that of entailment against contradiction.
        """
        by_name = {target.name: target for target in targets}
        if self.multi_label or len(by_name) == 1:
            return {name: by_name[name].probability or 0.0 for name in self.hypotheses}
        values = [by_name[name].value for name in self.hypotheses]
        logits = torch.tensor(values, dtype=torch.float64)
        return dict(zip(self.hypotheses, logits.softmax(0).tolist(), strict=True))


class ZeroShotClassificationExplainer(Explainer):
    """Explains how much a text entails each of some candidate labels, word by word.

    Arguments and errors are as in `Explainer`; the model is a sequence classifier that was trained
    on natural language inference, with a label that begins with "entail".
    """

    TASK: ClassVar[TaskName] = "zero-shot-classification"
    MODELS = "sequence classifiers of transformers that were trained on entailment"
    AUTO_CLASS = "AutoModelForSequenceClassification"
    TRAINED = "for sequence classification, on entailment"
    PAIR_TRUNCATION: ClassVar[Truncation] = "only_first"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        **options: Unpack[ExplainerOptions],
    ) -> None:
        super().__init__(model, tokenizer, **options)
        config: Any = model.config  # whose label2id may be None
        labels = {str(name): int(index) for index, name in config.id2label.items()}
        entailed = [index for name, index in labels.items() if name.lower().startswith("entail")]
        if not entailed:
            raise ValueError(
                f"the model's labels are {', '.join(labels)}; wanted one that begins with "
                "'entail': pass a model trained on entailment, or name its labels in "
                "model.config.id2label"
            )
        self.entailment = entailed[0]
        self.contradiction = 0 if self.entailment else len(labels) - 1  # as the pipeline

    @overload  # type: ignore[override]
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, candidate_labels: str | Sequence[str], *, hypothesis_template: str = ...,
        multi_label: bool = ..., words: Moving = ..., target: str | Sequence[str] | None = ...,
        method: str = ..., **options: Unpack[CallOptions],
    ) -> TargetsAttribution: ...  # fmt: skip
    @overload
    def __call__(
        self, texts: Sequence[str], candidate_labels: str | Sequence[str], *,
        hypothesis_template: str = ..., multi_label: bool = ..., words: Moving = ...,
        target: str | Sequence[str] | None = ..., method: str = ...,
        **options: Unpack[CallOptions],
    ) -> list[TargetsAttribution]: ...  # fmt: skip
    def __call__(
        self,
        texts: Any,
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = TEMPLATE,
        multi_label: bool = False,
        words: Moving = "text",
        target: str | Sequence[str] | None = None,
        method: str = "sig",
        **options: Unpack[CallOptions],
    ) -> Any:
        """Explain one text or several.

        Args:
            texts: a string, or a list of strings.
            candidate_labels: a list of labels, or a string of labels with commas between them.
            hypothesis_template: the second text that the model reads, with {} for the label.
            multi_label: whether several labels may be true: a label's probability is then that of
                its entailment against its contradiction, not among the labels.
            words: "text" moves the words of the text, "both" those of the hypotheses too.
            target: which of the candidates to explain, a label or a list of labels; None is all.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
            **options: see `Explainer.in_batches`.

        Returns:
            a `TargetsAttribution` with a row for each candidate explained, in the caller's order,
            or a list of them. F is the logit of entailment of each; `probability` of each target is
            that of transformers' pipeline, and `label` the most probable of all candidates.
            `text_pair` of each target is its hypothesis. The matrix is NaN for the words of other
            hypotheses, and for words of the text that are cut beside a longer hypothesis.

        Raises:
            TypeError: if texts or labels are not strings.
            ValueError: if a text or label is empty or there are equal labels, for a template
                without {}, a target that is not among the candidates, or a hypothesis that is too
                long; and as in `Explainer.in_batches`.
            FloatingPointError: if the model's output is not finite.
        """
        candidates = Candidates.checked(
            candidate_labels, target=target, hypothesis_template=hypothesis_template,
            multi_label=multi_label, words=words,
        )  # fmt: skip
        return super().__call__(texts, candidates, method, **options)

    def _inputs(self, inputs: Any) -> tuple[list[TextInput], bool]:
        texts = checked_texts(inputs)
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"text {number} is empty: pass a text with a word")
        return list(map(TextInput, texts)), isinstance(in_python(inputs), str)

    def _targets(self, target: Any, inputs: Sequence[TextInput], is_single: bool) -> list[Any]:
        """Take `Candidates`, or labels in their place, for all texts."""
        candidates = target if isinstance(target, Candidates) else Candidates.checked(target)
        return [candidates] * len(inputs)

    def _as_tensor(self, output: Any) -> Tensor:
        return classifier_logits(self.model, output)

    def _readout(self, batch: Batch, output: Tensor, targets: Sequence[str]) -> Readout:
        both = output.cpu().double()[:, [self.contradiction, self.entailment]]
        probabilities = both.softmax(1)[:, 1].tolist()
        of_texts = [
            TextTargets((Target(name, probability=p, text_pair=one.pair),), is_single=False)
            for name, p, one in zip(targets, probabilities, batch.inputs, strict=True)
        ]
        return Readout(of_texts, read_labels([[self.entailment]] * len(of_texts)))

    def _explained(
        self,
        inputs: Sequence[TextInput],
        targets: Sequence[Candidates],
        options: ScoringOptions,
        *,
        batch_size: int | None,
        truncation: bool,
    ) -> Iterator[tuple[Batch, list[Result]]]:
        """Explain all pairs, and join those of each text when the last of them is done."""
        if options.zooms:
            raise ValueError(
                "level 'auto' opens the units of one text, and each candidate is read in a pair of "
                "its own: use level 'sentence' or 'word'"
            )
        places = [(n, name) for n in range(len(inputs)) for name in targets[n].explained]
        pairs = [targets[n].pair(inputs[n], name) for n, name in places]
        others = self._predicted(inputs, targets, batch_size, truncation)
        rows: list[dict[str, tuple[TargetsAttribution, int]]] = [{} for _ in inputs]
        batches = super()._explained(
            pairs, [name for _, name in places], options, batch_size=batch_size,
            truncation=truncation,
        )  # fmt: skip
        try:
            for batch, results in batches:
                for place, result, dropped in zip(
                    batch.numbers, results, batch.dropped, strict=True
                ):
                    assert isinstance(result, TargetsAttribution)
                    number, name = places[place]
                    rows[number][name] = result, dropped
                touched = dict.fromkeys(places[place][0] for place in batch.numbers)
                done = [n for n in touched if len(rows[n]) == len(targets[n].explained)]
                if done:
                    yield (
                        replace(
                            batch,
                            numbers=done,
                            inputs=[inputs[n] for n in done],
                            dropped=[max(cut for _, cut in rows[n].values()) for n in done],
                        ),
                        [
                            _of_text(targets[n], [rows[n][m][0] for m in targets[n].explained],
                                     others[n])
                            for n in done
                        ],
                    )  # fmt: skip
                    for n in done:
                        rows[n] = {}
        except NotFiniteError as error:  # it names a pair
            number = places[error.example][0]
            raise NotFiniteError(error.what, number, error.where) from None

    def _predicted(
        self,
        inputs: Sequence[TextInput],
        targets: Sequence[Candidates],
        batch_size: int | None,
        truncation: bool,
    ) -> list[list[Target]]:
        """Evaluate the candidates of each text that are not explained."""
        places = [
            (n, name)
            for n in range(len(inputs))
            for name in targets[n].hypotheses
            if name not in targets[n].explained
        ]
        pairs = [targets[n].pair(inputs[n], name) for n, name in places]
        predicted: list[list[Target]] = [[] for _ in inputs]
        for batch in self._batches(pairs, batch_size, truncation) if pairs else ():
            output = self._batch_output(batch)
            readout = self._readout(batch, output, [places[place][1] for place in batch.numbers])
            values = readout.read(output, torch.arange(len(output)))[:, 0].tolist()
            for place, of_text, value in zip(batch.numbers, readout.of_texts, values, strict=True):
                predicted[places[place][0]].append(replace(of_text.targets[0], value=value))
        return predicted


def _of_text(
    candidates: Candidates, results: Sequence[TargetsAttribution], others: Sequence[Target]
) -> TargetsAttribution:
    """Join the results of a text with its candidates, and rank these."""
    targets = [result.targets[0] for result in results]
    probabilities = candidates.probabilities([*targets, *others])
    best = max(probabilities, key=probabilities.__getitem__)
    return replace(
        stacked(results),
        text_pair=None,
        targets=tuple(replace(one, probability=probabilities[one.name]) for one in targets),
        label=best,
        probability=probabilities[best],
        probabilities=probabilities,
    )


def stacked(results: Sequence[TargetsAttribution]) -> TargetsAttribution:
    """Put the results of one text with several second texts below each other.

    The columns are the words of the text, then those of each second text, NaN in other rows. Where
    the text is cut, some rows have fewer of its words than others.
    """
    firsts = [_words(result, is_second=False) for result in results]
    seconds = [_words(result, is_second=True) for result in results]
    of_text = max(firsts, key=lambda words: (len(words), words[-1].end or 0 if words else 0))
    columns: list[list[int]] = []
    n_columns = len(of_text)
    for first, second in zip(firsts, seconds, strict=True):
        columns.append([*range(len(first)), *range(n_columns, n_columns + len(second))])
        n_columns += len(second)

    def tensor(name: str) -> Tensor | None:
        parts = [getattr(result, name) for result in results]
        if any(part is None for part in parts):
            return None
        rows = []
        for part, at in zip(parts, columns, strict=True):
            rows.append(part.new_full((len(part), n_columns), torch.nan))
            rows[-1][:, at] = part
        return torch.cat(rows)

    def of_each(name: str) -> Any:
        parts = [getattr(result, name) for result in results]
        return None if any(part is None for part in parts) else sum(parts, ())

    joined: dict[str, Any] = {name: tensor(name) for name in TENSORS}
    joined |= {name: of_each(name) for name in OF_EACH_TARGET}
    return replace(
        results[0],
        words=(*of_text, *(word for words in seconds for word in words)),
        dropped_tokens=max(result.dropped_tokens for result in results),
        **joined,
    )


def _words(result: TargetsAttribution, *, is_second: bool) -> list[Column]:
    return [word for word in result.words if (word.side == "text_pair") == is_second]


def _names(labels: Any, argument: str) -> list[str]:
    """Turn labels into a list of strings."""
    labels = in_python(labels)
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    elif not is_list(labels) and not isinstance(labels, tuple):
        raise TypeError(
            f"{argument} must be a list of labels, or a string of labels with commas between them, "
            f"got {type(labels).__name__}"
        )
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"{argument} has {label!r}, which is not a string: name each label")
    if not labels or not all(label.strip() for label in labels):
        raise ValueError(
            f"{argument} has {'an empty' if labels else 'no'} label: name at least one"
        )
    return list(labels)


def _hypothesis(template: Any, label: str) -> str:
    """Fill a label into a template."""
    try:
        hypothesis = template.format(label)
    except (AttributeError, LookupError, ValueError):
        hypothesis = template
    if hypothesis == template or label not in hypothesis:
        raise ValueError(
            f"hypothesis_template {template!r} has no place for a label: write {{}} once where it "
            "goes, as in 'This example is {}.'"
        )
    return hypothesis

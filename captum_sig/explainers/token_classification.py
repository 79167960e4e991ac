"""Explain entities: models that label every token, such as named entity recognition."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import Tensor, nn

from captum_sig._names import AggregationStrategy, TaskName, suggestion, unknown_name
from captum_sig.attr.function import at_least_float32
from captum_sig.explainers.entities import (
    STRATEGIES,
    WITHOUT_WORDS,
    Entity,
    find_entities,
    labels_of_tag,
    likeliest_tag,
    short_name,
    tag_of,
    units_of,
)
from captum_sig.explainers.explainer import (
    CallOptions,
    Explainer,
    ExplainerOptions,
    target_of_each,
)
from captum_sig.explainers.matrix_results import Target, TargetsAttribution
from captum_sig.explainers.readout import Readout, TextTargets
from captum_sig.explainers.scoring import ScoringOptions
from captum_sig.explainers.token_readout import Places, read_means
from captum_sig.words.encoding import Batch
from captum_sig.words.grouping import Span, special_ids
from captum_sig.words.inputs import TextInput, checked_single_texts, in_python
from captum_sig.words.tokenize import decode

if TYPE_CHECKING:
    from typing_extensions import Unpack

Characters = tuple[int, int] | tuple[int, int, str]  # start, end, and perhaps a label


@dataclass(frozen=True)
class _Wanted:
    """A span of a text that is explained, without white space around it, and its label."""

    start: int
    end: int
    name: str | None = None  # None is the label that the model finds likeliest
    labels: tuple[int, ...] = ()


class TokenClassificationExplainer(Explainer):
    """Explains why a model that labels tokens finds entities in a text, word by word.

    F of an entity is the mean over its tokens of the logit of their label: of the labels that say
    the entity's, such as "B-PER" and "I-PER", the one that is likelier at that token. It is chosen
    in the text as it is, and stays while words move. The entity's own words move too: their scores
    say what the name itself contributes, the others' what the context does. Where a word of the
    entity is replaced, the model still says how likely the label is at that place, so scores of
    own words are small if the context gives the entity away.

    Args:
        model: a token classifier of transformers; it stays on its device and in its mode.
        tokenizer: its tokenizer.
        aggregation_strategy: how tokens become entities, as in transformers'
            `TokenClassificationPipeline`: "none" (each token is one), "simple", "first", "average"
            or "max".
        ignore_labels: labels that are not entities, by the name that an entity would have.
        **options: `baseline`, `level`, `layer`, `device`, `masked_lm`, `n_draws` and `seed`, as in
            `TextClassificationExplainer`.

    Raises:
        TypeError: if the model is not a token classifier, or the tokenizer none.
        ValueError: for an unknown strategy, baseline or level, a baseline that the tokenizer lacks,
            or a strategy of words with a tokenizer that does not locate its tokens.
    """

    TASK: ClassVar[TaskName] = "token-classification"
    MODELS = "token classifiers of transformers"
    AUTO_CLASS = "AutoModelForTokenClassification"
    TRAINED = "to label tokens"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        aggregation_strategy: AggregationStrategy = "simple",
        ignore_labels: Sequence[str] = ("O",),
        **options: Unpack[ExplainerOptions],
    ) -> None:
        super().__init__(model, tokenizer, **options)
        if aggregation_strategy not in STRATEGIES:
            raise ValueError(unknown_name("aggregation_strategy", aggregation_strategy, STRATEGIES))
        if aggregation_strategy not in WITHOUT_WORDS and not tokenizer.is_fast:
            raise ValueError(
                f"aggregation_strategy {aggregation_strategy!r} needs words, and the tokenizer "
                'does not say where its tokens stand: use "simple", or a fast tokenizer'
            )
        if isinstance(ignore_labels, str):
            raise TypeError(f"ignore_labels must be a list of labels, got {ignore_labels!r}")
        self.aggregation_strategy = aggregation_strategy
        self.ignore_labels = tuple(ignore_labels)
        config: Any = self.model.config
        self.labels = [str(config.id2label[index]) for index in sorted(config.id2label)]

    @overload  # a string is a sequence of strings
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, target: Characters | Sequence[Characters] | None = ..., method: str = ...,
        **options: Unpack[CallOptions],
    ) -> TargetsAttribution: ...  # fmt: skip
    @overload
    def __call__(
        self, texts: Sequence[str], target: Any = ..., method: str = ...,
        **options: Unpack[CallOptions],
    ) -> list[TargetsAttribution]: ...  # fmt: skip
    def __call__(
        self, texts: Any, target: Any = None, method: str = "sig", **options: Unpack[CallOptions]
    ) -> Any:
        """Explain the entities of one text or several.

        Args:
            texts: a string, or a list of them.
            target: None explains every entity that the model finds. Or spans of the text, (start,
                end) or (start, end, label): characters from a word's start to a word's end, one
                span or a list of them. A label is one of the model's, or the part that "B-PER" and
                "I-PER" share; without one it is that which the model finds likeliest for the whole
                span. For a list of texts, a list has an entry for each text.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
            **options: see `Explainer.in_batches`.

        Returns:
            a `TargetsAttribution` for each text: its rows are entities, named "PER: Angela Merkel",
            with their characters and the pipeline's score as `probability`; for given spans that is
            the mean over the tokens. A text without entities has no row.

        Raises:
            TypeError: if the texts are neither a string nor a list of strings, or a span none.
            ValueError: for a span that is not in the text or cuts a word, an unknown label, method
                or contexts, an interaction of one word, or a text that is too long.
            FloatingPointError: if the model's output is not finite.
        """
        return super().__call__(texts, target, method, **options)

    def _inputs(self, inputs: Any) -> tuple[list[TextInput], bool]:
        return checked_single_texts(inputs, self.TASK)

    def _targets(
        self, target: Any, inputs: Sequence[TextInput], is_single: bool
    ) -> list[list[_Wanted] | None]:
        of_each = target_of_each(target, len(inputs), is_single)
        return [
            None if spans is None else [self._wanted(span, one.text, n) for span in _listed(spans)]
            for n, (spans, one) in enumerate(zip(of_each, inputs, strict=True))
        ]

    def _wanted(self, span: Any, text: str, number: int) -> _Wanted:
        """Check a span that the caller wants explained.

        Raises:
            TypeError: if it is not a span.
            ValueError: if it is not in the text, or its label unknown.
        """
        values = in_python(span)
        if (
            not isinstance(values, (tuple, list))
            or len(values) not in (2, 3)
            or not all(isinstance(value, numbers.Integral) for value in values[:2])
        ):
            raise TypeError(
                f"target {span!r} is not a span: wanted (start, end) or (start, end, label), "
                "characters of the text"
            )
        start, end = map(int, values[:2])
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"span {start, end} is not in text {number}, which has {len(text)} characters: "
                "wanted 0 <= start < end <= length"
            )
        shown = text[start:end]
        if not shown.strip():
            raise ValueError(f"span {start, end} of text {number} is white space: wanted words")
        start += len(shown) - len(shown.lstrip())
        end -= len(shown) - len(shown.rstrip())
        label = values[2] if len(values) == 3 else None
        return _Wanted(start, end) if label is None else _Wanted(start, end, *self._label(label))

    def _label(self, label: Any) -> tuple[str, tuple[int, ...]]:
        """Return the name of a label that the caller gives, and the model's labels that say it.

        Raises:
            ValueError: if there is none.
        """
        tags = list(dict.fromkeys(map(tag_of, self.labels)))
        names = list(dict.fromkeys(map(short_name, self.labels)))
        known = list(dict.fromkeys([*self.labels, *tags, *names]))
        found = next((name for name in known if name == label), None) or next(
            (name for name in known if name.lower() == str(label).lower()), None
        )
        if found is None:
            raise ValueError(
                f"unknown label {label!r}{suggestion(label, known)}; choose from {', '.join(known)}"
            )
        if found in self.labels:
            return found, (self.labels.index(found),)
        return found, tuple(
            index for index, name in enumerate(self.labels)
            if found in (tag_of(name), short_name(name))
        )  # fmt: skip

    def _as_tensor(self, output: Any) -> Tensor:
        logits = super()._as_tensor(output)
        if logits.dim() != 3:
            raise TypeError(
                f"{type(self.model).__name__} returns logits of shape {tuple(logits.shape)}; "
                f"{type(self).__name__} wants (texts, tokens, labels)"
            )
        return logits

    def _readout(
        self, batch: Batch, output: Tensor, targets: Sequence[list[_Wanted] | None]
    ) -> Readout:
        logits = output.cpu()
        probabilities = logits.to(at_least_float32(logits.dtype)).softmax(-1)
        of_texts, places = [], []
        for number, wanted in enumerate(targets):
            if wanted is None:
                entities = self._found(batch, number, probabilities[number])
                characters = [self._characters(batch, number, entity) for entity in entities]
            else:
                entities = [
                    self._entity(batch, number, probabilities[number], span) for span in wanted
                ]
                characters = [(span.start, span.end) for span in wanted]
            shown = [
                self._target(batch, number, *pair)
                for pair in zip(entities, characters, strict=True)
            ]
            of_texts.append(TextTargets(tuple(shown), is_single=False))
            places.append([_places(entity, logits[number]) for entity in entities])
        return Readout(of_texts, read_means(places))

    def _found(self, batch: Batch, number: int, probabilities: Tensor) -> list[Entity]:
        """Find the entities of a text of the batch, given the probabilities of labels, (L, C)."""
        text, ids = batch.inputs[number].text, batch.ids[number].tolist()
        offsets = None if batch.offsets is None else batch.offsets[number]
        units = units_of(
            self.tokenizer, text, ids, self._tokens(batch, number), offsets,
            self.aggregation_strategy,
        )  # fmt: skip
        return find_entities(
            probabilities, self.labels, units, self.aggregation_strategy, self.ignore_labels
        )

    def _tokens(self, batch: Batch, number: int) -> list[int]:
        """Return the positions of a text's tokens, without padding and what the tokenizer adds.

        That shows nothing of the text, other than special tokens that the text spells.
        """
        ids = batch.ids[number].tolist()
        attended = batch.others.get("attention_mask", torch.ones_like(batch.ids))[number].tolist()
        special = special_ids(self.tokenizer)
        offsets = [(0, 0)] * len(ids) if batch.offsets is None else batch.offsets[number]
        return [
            position
            for position, (start, end) in enumerate(offsets)
            if attended[position] and (ids[position] not in special or start < end)
        ]

    def _entity(self, batch: Batch, number: int, probabilities: Tensor, span: _Wanted) -> Entity:
        """Return a span that the caller wants explained as an entity.

        Raises:
            ValueError: if it cuts a word, or lies beyond what the model reads.
        """
        at = self._words_at(batch, number)
        words = [
            (word.start, word.end, word)
            for word in dict.fromkeys(filter(None, at))
            if word.start is not None and word.end is not None
        ]
        touched = [word for word in words if word[1] > span.start and word[0] < span.end]
        if not touched or (touched[0][0], touched[-1][1]) != (span.start, span.end):
            last = words[-1][1] if words else 0
            place = f"span {span.start, span.end} of text {batch.numbers[number]}"
            if batch.dropped[number] and span.end > last:
                raise ValueError(
                    f"{place} lies beyond what the model reads, characters 0 to {last}: shorten "
                    "the text"
                )
            if not touched:
                raise ValueError(f"{place} has no word that moves: wanted whole words")
            whole = touched[0][0], touched[-1][1]
            raise ValueError(f"{place} cuts a word: wanted whole words, such as {whole}")
        chosen = {word for _, _, word in touched}
        positions = [position for position, word in enumerate(at) if word in chosen]
        tokens = probabilities[positions]
        name, labels = span.name, span.labels
        if name is None:
            tag = likeliest_tag(tokens, self.labels)
            labels = labels_of_tag(self.labels, tag)
            name = short_name(self.labels[labels[0]])
        probability = float(tokens[:, list(labels)].amax(1).mean())
        return Entity(name, labels, tuple(positions), probability)

    def _words_at(self, batch: Batch, number: int) -> Sequence[Span | None]:
        """Return the word that each token of a text belongs to; at level "token", itself."""
        if batch.inputs[number].units or self._level_of(batch.inputs[number]) != "token":
            return batch.words_at[number]
        at = {span.position: span for span in batch.spans[number]}
        return [at.get(position) for position in range(batch.ids.shape[1])]

    def _characters(self, batch: Batch, number: int, entity: Entity) -> tuple[int, int] | None:
        """Return an entity's characters without the white space around them, if they are known."""
        if batch.offsets is None:
            return None
        offsets = batch.offsets[number]
        start, end = offsets[entity.positions[0]][0], offsets[entity.positions[-1]][1]
        shown = batch.inputs[number].text[start:end]
        bare = shown.strip() or shown
        start += shown.index(bare)
        return start, start + len(bare)

    def _target(
        self, batch: Batch, number: int, entity: Entity, characters: tuple[int, int] | None
    ) -> Target:
        """Name an entity by its text, or where that is unknown as the tokenizer spells it."""
        if characters is None:
            start = end = None
            shown = decode(self.tokenizer, batch.ids[number, list(entity.positions)].tolist())
        else:
            start, end = characters
            shown = batch.inputs[number].text[start:end]
        return Target(
            f"{entity.name}: {shown}", probability=entity.probability, start=start, end=end
        )

    def _without_token(  # type: ignore[override]
        self, one: TextInput, options: ScoringOptions
    ) -> TargetsAttribution:
        return TargetsAttribution(
            text=one.text, targets=(), words=(), matrix=torch.zeros(0, 0, dtype=torch.float64),
            method=options.name, baseline=self.baseline, task=self.TASK,
        )  # fmt: skip


def _listed(spans: Any) -> Sequence[Any]:
    """Turn one span or several into a list.

    Raises:
        TypeError: if there is none.
    """
    spans = in_python(spans)
    if not isinstance(spans, (tuple, list)):
        raise TypeError(
            "target must be None, a span such as (0, 6) or (0, 6, 'PER'), or a list of spans; got "
            f"{spans!r}"
        )
    return [spans] if spans and isinstance(spans[0], numbers.Integral) else spans


def _places(entity: Entity, logits: Tensor) -> Places:  # (L, C)
    """Return each token's label: of those that say the entity's, the one with the largest logit."""
    labels = torch.tensor(entity.labels)
    largest = labels[logits[list(entity.positions)][:, labels].argmax(1)]
    return list(zip(entity.positions, largest.tolist(), strict=True))

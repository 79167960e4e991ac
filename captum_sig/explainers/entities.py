"""Entities of a text: which tokens form one, as `TokenClassificationPipeline` aggregates them.

First tokens form *units*: each token alone (strategies "none" and "simple"), or the tokens of a
word as the pipeline sees it. A unit has one label; then units next to each other whose labels say
the same, "B-PER" and "I-PER", form an entity, unless the second begins one of its own with "B-".
Unlike the pipeline's, an entity here knows its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_sig._names import AggregationStrategy
from captum_sig.words.grouping import Offsets


@dataclass(frozen=True)
class Entity:
    """Tokens that a model labels as one thing."""

    name: str  # its label, without "B-" or "I-" if it was aggregated
    labels: tuple[int, ...]  # those of the model's labels that say so, by index
    positions: tuple[int, ...]
    probability: float  # the mean over its units


def _of_first(unit: Tensor) -> Tensor:
    return unit[0]


def _of_surest(unit: Tensor) -> Tensor:
    return unit[unit.amax(1).argmax()]


def _mean(unit: Tensor) -> Tensor:
    return unit.mean(0)


# The probabilities of a unit's n tokens, (n, C) → those that decide on its label, (C,).
STRATEGIES: dict[AggregationStrategy, Callable[[Tensor], Tensor]] = {
    "none": _of_first,
    "simple": _of_first,
    "first": _of_first,
    "average": _mean,
    "max": _of_surest,
}
WITHOUT_WORDS = ("none", "simple")  # strategies in which every token is a unit


def find_entities(
    probabilities: Tensor,  # (L, C)
    labels: Sequence[str],  # C
    units: Sequence[Sequence[int]],
    strategy: AggregationStrategy,
    ignored: Collection[str] = ("O",),
) -> list[Entity]:
    """Find the entities of a text, in order.

    Args:
        probabilities: of each label at each position.
        labels: the model's labels.
        units: the positions of each unit, as `units_of` returns them.
        strategy: a name in `STRATEGIES`.
        ignored: names of what is not an entity.

    >>> ids = torch.tensor([0, 1, 2, 1])  # what the model is sure of
    >>> probabilities = torch.nn.functional.one_hot(ids).double()
    >>> labels = ["O", "B-PER", "I-PER"]
    >>> found = find_entities(probabilities, labels, [[0], [1], [2], [3]], "simple")
    >>> [(entity.name, entity.positions) for entity in found]
    [('PER', (1, 2)), ('PER', (3,))]
    """
    if not units:
        return []
    decide = STRATEGIES[strategy]
    surest = torch.stack([decide(probabilities[list(unit)]) for unit in units]).max(1)
    groups: list[list[int]] = []  # units next to each other that say the same
    of_units = surest.indices.tolist()
    for number, index in enumerate(of_units):
        begins, tag = _split(labels[index])
        goes_on = number > 0 and not begins and tag == tag_of(labels[of_units[number - 1]])
        if goes_on and strategy != "none":
            groups[-1].append(number)
        else:
            groups.append([number])
    entities = []
    for group in groups:
        first = of_units[group[0]]
        of_tag = labels_of_tag(labels, tag_of(labels[first]))
        entity = Entity(
            name=labels[first] if strategy == "none" else short_name(labels[first]),
            labels=(first,) if strategy == "none" else of_tag,
            positions=tuple(position for number in group for position in units[number]),
            probability=float(surest.values[group].mean()),
        )
        if entity.name not in ignored:
            entities.append(entity)
    return entities


def likeliest_tag(probabilities: Tensor, labels: Sequence[str]) -> str:
    """Return the tag of n tokens, (n, C), taken as one entity.

    It has the highest mean over the tokens of the probability of its likeliest label.
    """
    tags = dict.fromkeys(map(tag_of, labels))

    def probability(tag: str) -> float:
        return float(probabilities[:, labels_of_tag(labels, tag)].amax(1).mean())

    return max(tags, key=probability)


def labels_of_tag(labels: Sequence[str], tag: str) -> tuple[int, ...]:
    """Return the indices of the labels that say a tag: "B-PER", "I-PER" and "PER" for "PER"."""
    return tuple(index for index, label in enumerate(labels) if tag_of(label) == tag)


def tag_of(label: str) -> str:
    """Return a label without "B-" or "I-".

    >>> tag_of("B-PER"), tag_of("X-RAY"), tag_of("O")
    ('PER', 'X-RAY', 'O')
    """
    return _split(label)[1]


def short_name(label: str) -> str:
    """Return what the pipeline calls an entity with this label: what follows the first "-"."""
    return label.split("-", 1)[-1]


def _split(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and its tag."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def units_of(
    tokenizer: Any,
    text: str,
    ids: Sequence[int],
    positions: Sequence[int],
    offsets: Offsets | None,
    strategy: str,
) -> list[list[int]]:
    """Return the positions of each unit.

    Args:
        tokenizer: a transformers tokenizer.
        text: what it reads.
        ids: the text's ids.
        positions: those of its tokens, without what the tokenizer adds.
        offsets: characters of the text that each token covers; only words need them.
        strategy: a name in `STRATEGIES`.
    """
    units: list[list[int]] = []
    for position in positions:
        if strategy in WITHOUT_WORDS or offsets is None or not units:
            goes_on = False
        else:
            goes_on = _goes_on(tokenizer, text, ids[position], *offsets[position])
        if goes_on:
            units[-1].append(position)
        else:
            units.append([position])
    return units


def _goes_on(tokenizer: Any, text: str, token: int, start: int, end: int) -> bool:
    """Whether a token belongs to the word before it, in the pipeline's eyes.

    Tokens of WordPiece are longer than what they stand for. Elsewhere words end at spaces, so that
    a full stop belongs to the word before it. An unknown token is a word.
    """
    if token == tokenizer.unk_token_id:
        return False
    model = getattr(getattr(tokenizer, "_tokenizer", None), "model", None)
    if getattr(model, "continuing_subword_prefix", None):
        return len(tokenizer.convert_ids_to_tokens(token)) != end - start
    return start > 0 and " " not in text[start - 1 : start + 1]

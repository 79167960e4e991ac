"""What a metric does with the words that it deletes: ablations of sentences, by name.

    replace  a token takes the place of each, at the embedding if `predict` can do that
    remove   the row becomes shorter
    sample   tokens that a masked language model draws: `captum_sig.faithfulness.samples`

An ablation is a function of several sentences and of what is ablated in each. It returns the rows
of each sentence, over which a metric averages its own quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig._names import AblationName
from captum_sig.words.encoding import Sentence

Scale = Callable[[int], Tensor]  # the embedding's width D → factors of what it returns, (L', D)


@dataclass(frozen=True)
class Row:
    """A sentence, ablated."""

    received: Tensor  # (L',) ids that the model receives
    shown: Tensor  # (L',) ids that its embedding shows
    positions: Tensor  # (L',) where in the sentence they stand: its further inputs go with them
    scale: Scale | None = None  # None multiplies nothing


Ablated = tuple[Sentence, Tensor]  # a sentence, and which of its tokens are ablated, (L,) booleans
Ablation = Callable[[Sequence[Ablated]], Sequence[Sequence[Row]]]


def unchanged(ids: Tensor) -> Row:
    """Return a row of ids that the embedding shows as they are."""
    return Row(ids, ids, torch.arange(len(ids)))


def replace(requests: Sequence[Ablated]) -> list[list[Row]]:
    """Show each sentence's `replacement` at the ablated positions."""
    return [[_replaced(sentence, ablated)] for sentence, ablated in requests]


def _replaced(sentence: Sentence, ablated: Tensor) -> Row:
    ids = row_ids(sentence)
    shown = torch.where(ablated, sentence.replacement, ids)
    return Row(ids, shown, torch.arange(len(ids)))


def remove(requests: Sequence[Ablated]) -> list[list[Row]]:
    """Delete the ablated positions; a row of nothing is one `replacement`."""
    return [[_removed(sentence, ablated)] for sentence, ablated in requests]


def _removed(sentence: Sentence, ablated: Tensor) -> Row:
    ids = row_ids(sentence)
    if ablated.all():
        return unchanged(ids.new_tensor([sentence.replacement]))
    return Row(ids[~ablated], ids[~ablated], (~ablated).nonzero()[:, 0])


def sample(requests: Sequence[Ablated]) -> list[list[Row]]:
    """Refuse: samples need a language model.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "ablation 'sample' draws from a masked language model: pass "
        "captum_sig.faithfulness.MaskedLmSamples(tokenizer, masked_lm) in its place"
    )


ABLATIONS: dict[AblationName, Ablation] = {"replace": replace, "remove": remove, "sample": sample}


def ablation_of(ablation: AblationName | Ablation | None, own: AblationName) -> Ablation:
    """Return an ablation given by name or as it is; None is the metric's own.

    Raises:
        ValueError: for an unknown name.
        TypeError: if it is neither a name nor a function.
    """
    if ablation is None:
        return ABLATIONS[own]
    if isinstance(ablation, str):
        if ablation not in ABLATIONS:
            raise ValueError(f"ablation {ablation!r} is unknown: use one of {', '.join(ABLATIONS)}")
        return ABLATIONS[ablation]
    if not callable(ablation):
        raise TypeError(f"ablation must be a name or a function, got {ablation!r}")
    return ablation


def row_ids(sentence: Sentence) -> Tensor:
    """Return a sentence's ids on the CPU, (L,)."""
    return sentence.ids.cpu().long()

"""Words of pairs of texts for tokenizers in plain Python, which keep no places of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from captum_sig._names import Side
from captum_sig.words.grouping import Grouping, Span, spans
from captum_sig.words.tokenize import tokenize

MARKERS: dict[int, Side] = {-1: "text", -2: "text_pair"}  # in place of ids


def token_sides(
    tokenizer: Any, texts: tuple[str, str], *, limit: int, truncation: str
) -> list[Side | None]:
    """Say of each token of an encoded pair which text it is of; None for special tokens.

    Args:
        tokenizer: a transformers tokenizer that is not fast.
        texts: both texts.
        limit: maximum number of tokens, special ones included.
        truncation: which text is cut beyond that, as the tokenizer takes it.
    """
    first, second = tokenize(
        tokenizer, list(texts), add_special_tokens=False, truncation=False, verbose=False
    )["input_ids"]
    excess = len(first) + len(second) + tokenizer.num_special_tokens_to_add(pair=True) - limit
    first, second, _ = tokenizer.truncate_sequences(first, second, max(0, excess), truncation)
    ids = tokenizer.build_inputs_with_special_tokens([-1] * len(first), [-2] * len(second))
    return [MARKERS.get(token) for token in ids]


def spans_by_side(
    tokenizer: Any,
    texts: tuple[str, str],
    ids: Sequence[int],
    groups: Grouping,
    sides: Sequence[Side | None],
) -> list[Span]:
    """List the words of both texts, each with its side, and its offsets in it where it is found.

    Args:
        tokenizer: as in `token_sides`.
        texts: both texts.
        ids: the pair's ids, with any padding on the right.
        groups: their grouping.
        sides: the side of each token but the padding.
    """
    sides = [*sides, *[None] * (len(ids) - len(sides))]
    words = []
    for side, text in zip(MARKERS.values(), texts, strict=True):
        of_side = [group if of == side else None for group, of in zip(groups, sides, strict=True)]
        found = spans(tokenizer, text, ids, of_side, None)
        words += [replace(span, side=side) for span in found]
    return words

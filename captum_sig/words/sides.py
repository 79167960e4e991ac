"""Which text of a pair a token stands in, for tokenizers in plain Python, which do not say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from captum_sig._names import Side
from captum_sig.words.grouping import Grouping, Span, spans
from captum_sig.words.tokenize import tokenize

SIDES: tuple[Side, ...] = get_args(Side)
PLACEHOLDERS = {-1: 0, -2: 1}  # ids that no token has, for the texts by their number

TokenSides = list[int | None]  # the number of each token's text; None for special tokens, padding


def token_sides(
    tokenizer: Any,
    pair: tuple[str, str],
    attended: Sequence[int],
    *,
    limit: int,
    truncation: str,
) -> TokenSides:
    """Put the pair together as the tokenizer does, with placeholders for its tokens.

    Args:
        tokenizer: a tokenizer without offsets.
        pair: both texts.
        attended: its attention mask for the pair, 0 at padding.
        limit: maximum number of tokens.
        truncation: which text is cut, as the tokenizer calls it.

    Raises:
        ValueError: if the tokenizer puts pairs together in another way.
    """
    first, second = (
        list(tokenize(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"])
        for text in pair
    )
    n_special = tokenizer.num_special_tokens_to_add(pair=True)
    excess = len(first) + len(second) + n_special - limit
    if excess > 0:
        first, second, _ = tokenizer.truncate_sequences(
            first, second, num_tokens_to_remove=excess, truncation_strategy=truncation
        )
    placeholders = [-1] * len(first), [-2] * len(second)
    tokens = tokenizer.build_inputs_with_special_tokens(*placeholders)
    if len(tokens) != sum(map(bool, attended)):
        raise ValueError(
            f"{type(tokenizer).__name__} does not say which text of a pair its tokens stand in: "
            "use a fast tokenizer"
        )
    of_attended = iter(PLACEHOLDERS.get(token) for token in tokens)
    return [next(of_attended) if seen else None for seen in attended]


def within_sides(groups: Grouping, sides: TokenSides) -> Grouping:
    """Let no word span both texts, or stand in none.

    >>> within_sides([None, 1, 1, 1, 4, None], [None, 0, 0, 1, 1, None])
    [None, 1, 1, 3, 4, None]
    """
    first: dict[tuple[int, int], int] = {}  # where each text's part of a word starts
    return [
        None if word is None or side is None else first.setdefault((side, word), position)
        for position, (word, side) in enumerate(zip(groups, sides, strict=True))
    ]


def spans_of_sides(
    tokenizer: Any,
    pair: tuple[str, str],
    ids: Sequence[int],
    groups: Grouping,
    sides: TokenSides,
) -> list[Span]:
    """List the words of both texts, each with its side, as `spans` those of one text."""
    words = []
    for number, text in enumerate(pair):
        own = [word if side == number else None for word, side in zip(groups, sides, strict=True)]
        of_text = spans(tokenizer, text, ids, own, None)
        words += [replace(span, side=SIDES[number]) for span in of_text]
    return words

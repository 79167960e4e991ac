"""Which positions hold words, and baselines that put one token in the place of all of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from captum_sig._warnings import warn
from captum_sig.words.grouping import special_ids

# Which token each baseline asks for, and what stands in for it where the tokenizer has none.
TOKENS: dict[str, tuple[str, ...]] = {
    "mask": ("mask", "pad", "unk", "eos"),
    "pad": ("pad",),
    "unk": ("unk",),
    "eos": ("eos",),
}


def choose_token(tokenizer: Any, name: str) -> tuple[str, int]:
    """Which token the baseline `name` puts in place of words: its role and id.

    Warns once if "mask" falls back to pad, unk or eos, in this order.

    Raises:
        ValueError: for an unknown name, or a token that the tokenizer does not have.
    """
    if name not in TOKENS:
        raise ValueError(f"baseline {name!r} is unknown: use one of {', '.join(TOKENS)}")
    known = known_tokens(tokenizer)
    role = next((role for role in TOKENS[name] if role in known), None)
    if role is None:
        raise ValueError(
            f"the tokenizer has no {' or '.join(TOKENS[name])} token: "
            f"use baseline {' or '.join(known) or 'ids of your own'}"
        )
    if role != name:
        warn(
            f"the tokenizer has no {name} token: its {role} token "
            f"{getattr(tokenizer, f'{role}_token')!r} is the baseline instead"
        )
    return role, known[role]


def known_tokens(tokenizer: Any) -> dict[str, int]:
    """The roles of `TOKENS` that the tokenizer has a token for, and the token's id."""
    ids = {role: getattr(tokenizer, f"{role}_token_id", None) for role in TOKENS}
    return {role: token_id for role, token_id in ids.items() if token_id is not None}


def word_positions(
    tokenizer: Any, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """False at special tokens and padding, True elsewhere; shaped as `input_ids`."""
    special = torch.tensor(
        sorted(special_ids(tokenizer)), dtype=input_ids.dtype, device=input_ids.device
    )
    words = ~torch.isin(input_ids, special)
    return words if attention_mask is None else words & (attention_mask != 0)


def words_by_text(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None,  # (B, L)
) -> Iterator[tuple[int, Tensor]]:
    """The number of each text and its words' positions, (W,); texts without any are left out."""
    if input_ids.dim() != 2:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; wanted (texts, positions): "
            "add a dimension to a single text"
        )
    for number, words in enumerate(word_positions(tokenizer, input_ids, attention_mask)):
        if words.any():
            yield number, words.nonzero()[:, 0]


def ordinary_tokens(tokenizer: Any, size: int) -> Tensor:
    """Ids below `size` that are tokens but no special ones, ascending; (N,).

    Rows that only round up a model's vocabulary have no token, so they are not among them.
    """
    tokens = set(tokenizer.get_vocab().values()) - special_ids(tokenizer)
    return torch.tensor(sorted(token for token in tokens if token < size), dtype=torch.long)


def replace_words(
    tokenizer: Any, input_ids: Tensor, token_id: int, attention_mask: Tensor | None = None
) -> Tensor:
    """`token_id` at every position but special tokens and padding; ids shaped as `input_ids`."""
    words = word_positions(tokenizer, input_ids, attention_mask)
    return torch.where(words, token_id, input_ids)


def token_baseline(
    tokenizer: Any, input_ids: Tensor, attention_mask: Tensor | None = None, *, name: str
) -> Tensor:
    """Baseline ids by name, shaped as `input_ids` (any shape).

    Args:
        tokenizer: a transformers tokenizer.
        input_ids: token ids with special tokens and padding.
        attention_mask: 0 where padding stands; needed only if padding has no id of its own.
        name: one of "mask", "pad", "unk", "eos".

    Raises:
        ValueError: for an unknown name, or a token that the tokenizer does not have.
    """
    return replace_words(tokenizer, input_ids, choose_token(tokenizer, name)[1], attention_mask)


mask = functools.partial(token_baseline, name="mask")
pad = functools.partial(token_baseline, name="pad")
unk = functools.partial(token_baseline, name="unk")
eos = functools.partial(token_baseline, name="eos")


def constant(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One of a text's own tokens in the place of all of them; ids (B, L).

    Each position with a word is drawn with the same probability. Where the drawn token stood
    already nothing moves, so its attribution is 0.

    Args:
        tokenizer: a transformers tokenizer.
        input_ids: token ids with special tokens and padding, which stay.
        attention_mask: 0 where padding stands; needed only if padding has no id of its own.
        generator: on the CPU, drawn from once for each text with words, in their order; None is
            torch's own.

    Raises:
        ValueError: if the ids are not (B, L).
    """
    found = input_ids.clone()
    for number, positions in words_by_text(tokenizer, input_ids, attention_mask):
        drawn = int(torch.randint(len(positions), (1,), generator=generator))
        found[number, positions] = input_ids[number, positions[drawn]]
    return found

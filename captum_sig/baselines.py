"""Baseline token ids, shaped like the input: what a word that says nothing looks like.

Special tokens and padding keep their ids, so they never differ and are never attributed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_sig.notices import warn
from captum_sig.words import special_ids

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
    known: dict[str, int] = {
        role: token_id
        for role in TOKENS
        if (token_id := getattr(tokenizer, f"{role}_token_id", None)) is not None
    }
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


def replace_words(
    tokenizer: Any, input_ids: Tensor, token_id: int, attention_mask: Tensor | None = None
) -> Tensor:
    """`token_id` at every position but special tokens and padding; ids shaped as `input_ids`."""
    special = torch.tensor(sorted(special_ids(tokenizer)), device=input_ids.device)
    kept = torch.isin(input_ids, special)
    if attention_mask is not None:
        kept |= attention_mask == 0
    return torch.where(kept, input_ids, token_id)


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

BASELINES: dict[str, Callable[..., Tensor]] = {"mask": mask, "pad": pad, "unk": unk, "eos": eos}

"""Families of baselines, by name: what replaces a word to remove its meaning.

Each is a function `(tokenizer, input_ids, attention_mask=None, *, …) -> Tensor` that returns ids
shaped as the input, (B, L), or outputs of the word embedding, (B, L, D). Special tokens and padding
stay as they are, so that they never differ and are never attributed. The first arguments of all:

    tokenizer: a transformers tokenizer.
    input_ids: token ids with special tokens and padding, (B, L).
    attention_mask: (B, L), 0 at padding; needed only if padding has no id of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._names import unknown_name
from captum_sig._warnings import warn
from captum_sig.baselines.embedding import check_embedding, max_distance, mean, uniform, zero
from captum_sig.baselines.masked_lm import blurred, check_masked_lm
from captum_sig.words.grouping import word_positions, words_by_text

# The token of each baseline, and its substitutes if the tokenizer has none.
TOKENS: dict[str, tuple[str, ...]] = {
    "mask": ("mask", "pad", "unk", "eos"),
    "pad": ("pad",),
    "unk": ("unk",),
    "eos": ("eos",),
}


def choose_token(tokenizer: Any, name: str) -> tuple[str, int]:
    """Return the role and id of the token that the baseline `name` puts in place of words.

    Raises:
        ValueError: for an unknown name, or a token that the tokenizer does not have.

    Warns:
        UserWarning: if "mask" falls back to pad, unk or eos, in this order.
    """
    if name not in TOKENS:
        raise ValueError(unknown_name("baseline", name, TOKENS))
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
            f"{getattr(tokenizer, f'{role}_token')!r} is used as the baseline: pass baseline "
            f"{role!r} to choose it, or another such as 'mean'"
        )
    return role, known[role]


def known_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the roles of `TOKENS` that the tokenizer has a token for, with the token's id."""
    ids = {role: getattr(tokenizer, f"{role}_token_id", None) for role in TOKENS}
    return {role: token_id for role, token_id in ids.items() if token_id is not None}


def replace_words(
    tokenizer: Any, input_ids: Tensor, token_id: int, attention_mask: Tensor | None = None
) -> Tensor:
    """Put `token_id` at every position except special tokens and padding."""
    words = word_positions(tokenizer, input_ids, attention_mask)
    return torch.where(words, token_id, input_ids)


def token_baseline(
    tokenizer: Any, input_ids: Tensor, attention_mask: Tensor | None = None, *, name: str
) -> Tensor:
    """Replace every word with one token: "mask", "pad", "unk" or "eos"; `input_ids` of any shape.

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
    """Replace every word with one of the text's own tokens, drawn at random; ids (B, L).

    Each position of a word is drawn with the same probability. Where the drawn token already stood
    nothing moves, so that its attribution is 0.

    Args:
        generator: on the CPU, used once for each text with words, in order; None is torch's own.

    Raises:
        ValueError: if the ids are not (B, L).
    """
    baseline = input_ids.clone()
    for number, positions in words_by_text(tokenizer, input_ids, attention_mask):
        draw = int(torch.randint(len(positions), (1,), generator=generator))
        baseline[number, positions] = input_ids[number, positions[draw]]
    return baseline


BASELINES: dict[str, Callable[..., Tensor]] = {
    "mask": mask,
    "pad": pad,
    "unk": unk,
    "eos": eos,
    "zero": zero,
    "mean": mean,
    "constant": constant,
    "max_distance": max_distance,
    "uniform": uniform,
    "blurred": blurred,
}

# Keywords that are not options: what the model provides, and what random draws need.
NEEDS: dict[str, tuple[str, ...]] = {
    "mask": (),
    "pad": (),
    "unk": (),
    "eos": (),
    "zero": ("embedding",),
    "mean": ("embedding",),
    "constant": ("generator",),
    "max_distance": ("embedding",),
    "uniform": ("embedding", "generator"),
    "blurred": ("masked_lm", "embedding"),
}

# Checks of a family's keywords before the first text.
CHECKS: dict[str, Callable[..., None]] = {
    "zero": check_embedding,
    "mean": check_embedding,
    "max_distance": check_embedding,
    "uniform": check_embedding,
    "blurred": check_masked_lm,
}


@dataclass(frozen=True)
class Family:
    """A family of baselines, bound to a tokenizer and a model."""

    name: str  # in `BASELINES`; if "mask" fell back to another token, that token's
    is_random: bool
    baseline: Callable[..., Tensor] = field(repr=False)

    def __call__(
        self,
        ids: Tensor,  # (B, L)
        attention_mask: Tensor | None,  # (B, L)
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Return baseline ids (B, L), or activations of the word embedding (B, L, D).

        Args:
            ids: token ids with special tokens and padding.
            attention_mask: 0 at padding.
            generators: one for each text, on the CPU; used only by random families.

        Raises:
            ValueError: if a random family does not get one generator for each text.
        """
        if not self.is_random:
            return self.baseline(ids, attention_mask)
        if len(generators) != len(ids):
            raise ValueError(f"got {len(generators)} generators; wanted one for each of {len(ids)}")
        masks = None if attention_mask is None else attention_mask.expand_as(ids)
        draws = [
            self.baseline(ids[i : i + 1], None if masks is None else masks[i : i + 1], generator=g)
            for i, g in enumerate(generators)
        ]
        return torch.cat([ids[:0], *draws])


def family(name: str, tokenizer: Any, *, embedding: nn.Module, masked_lm: Any = None) -> Family:
    """Bind the baselines `name` to a tokenizer and a model.

    Args:
        name: in `BASELINES`.
        tokenizer: a transformers tokenizer.
        embedding: the explained model's word embedding.
        masked_lm: a masked language model with the tokenizer's vocabulary; for "blurred".

    Raises:
        ValueError: for an unknown name, a token that the tokenizer does not have, an embedding that
            is not an nn.Embedding where vectors are needed, or "blurred" without a language model
            that fits the tokenizer.

    Warns:
        UserWarning: if pad, unk, eos, or else the mean embedding replaces "mask".

    >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
    >>> from captum_sig.demo_model import PATH
    >>> tokenizer = AutoTokenizer.from_pretrained(PATH)
    >>> model = AutoModelForSequenceClassification.from_pretrained(PATH)
    >>> zero = family("zero", tokenizer, embedding=model.get_input_embeddings())
    >>> ids = tokenizer("A fine film", return_tensors="pt")["input_ids"]
    >>> zero(ids, None, [])[0].abs().sum(-1) > 0  # only [CLS] and [SEP] remain
    tensor([ True, False, False, False,  True])
    """
    if name not in BASELINES:
        raise ValueError(unknown_name("baseline", name, BASELINES))
    if name == "mask" and not known_tokens(tokenizer):
        warn(
            "the tokenizer has no token to replace a word with, so the mean embedding is the "
            "baseline: pass baseline 'mean' to choose it, or another"
        )
        name = "mean"
    if name in TOKENS:
        name, _ = choose_token(tokenizer, name)
    given = {"embedding": embedding, "masked_lm": masked_lm}
    bound = {keyword: given[keyword] for keyword in NEEDS[name] if keyword in given}
    if name in CHECKS:
        CHECKS[name](tokenizer, **bound)
    return Family(
        name, "generator" in NEEDS[name], functools.partial(BASELINES[name], tokenizer, **bound)
    )

"""What a word that says nothing looks like: families of baselines, by name.

Each is a function `(tokenizer, input_ids, attention_mask=None, *, …) -> Tensor` that gives ids
shaped as the input, (B, L), or what the word embedding would give, (B, L, D). Special tokens and
padding stay as they are, so they never differ and are never attributed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._warnings import warn
from captum_sig.baselines.embedding import check_embedding, max_distance, mean, uniform, zero
from captum_sig.baselines.masked_lm import blurred, check_masked_lm
from captum_sig.words.grouping import word_positions, words_by_text

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

# Keywords that stand for more than an option: what the model gives, and what random numbers need.
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

# What refuses the keywords of a family before the first text.
CHECKS: dict[str, Callable[..., None]] = {
    "zero": check_embedding,
    "mean": check_embedding,
    "max_distance": check_embedding,
    "uniform": check_embedding,
    "blurred": check_masked_lm,
}


@dataclass(frozen=True)
class Family:
    """A family of baselines for one tokenizer and model."""

    name: str  # in `BASELINES`; of the token that is there, where "mask" fell back to another
    is_random: bool
    baseline: Callable[..., Tensor] = field(repr=False)

    def __call__(
        self,
        ids: Tensor,  # (B, L)
        attention_mask: Tensor | None,  # (B, L)
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Baseline ids (B, L), or activations of the word embedding (B, L, D).

        Args:
            ids: token ids with special tokens and padding.
            attention_mask: 0 where padding stands; needed only if padding has no id of its own.
            generators: one for each text, on the CPU; read only by random families.

        Raises:
            ValueError: if a random family does not get one generator for each text.
        """
        if not self.is_random:
            return self.baseline(ids, attention_mask)
        if len(generators) != len(ids):
            raise ValueError(f"got {len(generators)} generators; wanted one for each of {len(ids)}")
        masks = None if attention_mask is None else attention_mask.expand_as(ids)
        drawn = [
            self.baseline(ids[i : i + 1], None if masks is None else masks[i : i + 1], generator=g)
            for i, g in enumerate(generators)
        ]
        return torch.cat([ids[:0], *drawn])


def family(name: str, tokenizer: Any, *, embedding: nn.Module, masked_lm: Any = None) -> Family:
    """The baselines `name` with what they need of a model.

    Args:
        name: in `BASELINES`.
        tokenizer: a transformers tokenizer.
        embedding: the explained model's word embedding.
        masked_lm: a masked language model with the tokenizer's vocabulary; for "blurred".

    Raises:
        ValueError: for an unknown name, a token that the tokenizer does not have, an embedding that
            is no nn.Embedding where vectors are needed, or "blurred" without a language model that
            fits the tokenizer.

    Warns:
        UserWarning: if pad, unk, eos, or else the mean embedding stands in for "mask".

    >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
    >>> from captum_sig.demo_model import PATH
    >>> tokenizer = AutoTokenizer.from_pretrained(PATH)
    >>> model = AutoModelForSequenceClassification.from_pretrained(PATH)
    >>> zero = family("zero", tokenizer, embedding=model.get_input_embeddings())
    >>> ids = tokenizer("A fine film", return_tensors="pt")["input_ids"]
    >>> zero(ids, None, [])[0].abs().sum(-1) > 0  # only [CLS] and [SEP] are left
    tensor([ True, False, False, False,  True])
    """
    if name not in BASELINES:
        raise ValueError(f"baseline {name!r} is unknown: use one of {', '.join(BASELINES)}")
    if name == "mask" and not known_tokens(tokenizer):
        warn("the tokenizer has no token to put in place of a word: the mean embedding is it")
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

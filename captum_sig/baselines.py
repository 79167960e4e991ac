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
from captum_sig.blurred_baseline import blurred, check_masked_lm
from captum_sig.embedding_baselines import check_embedding, max_distance, mean, uniform, zero
from captum_sig.token_baselines import (
    TOKENS,
    choose_token,
    constant,
    eos,
    known_tokens,
    mask,
    pad,
    replace_words,
    token_baseline,
    unk,
)

__all__ = [
    "BASELINES",
    "TOKENS",
    "Family",
    "blurred",
    "choose_token",
    "constant",
    "eos",
    "family",
    "mask",
    "max_distance",
    "mean",
    "pad",
    "replace_words",
    "token_baseline",
    "uniform",
    "unk",
    "zero",
]

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

"""The sentence as a masked language model would guess it, word by word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.function import model_lock
from captum_sig.words.encoding import token_limit
from captum_sig.words.grouping import ordinary_tokens, words_by_text

LOGITS = 2**25  # of the masked language model in a pass, at most: 128 MiB in float32


def blurred(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    masked_lm: Any,
    embedding: nn.Module | None = None,
) -> Tensor:
    """What a masked language model expects in the place of each token; ids (B, L).

    Each token is masked while all others are seen, and gets the most probable other one that is no
    special token. The token itself is left out: else a word that its context tells would not move
    and had the attribution 0, however much the classifier relies on it. So the attribution answers
    "why this word, and not the one to be expected otherwise?".

    Args:
        tokenizer: a transformers tokenizer with a mask token.
        input_ids: token ids with special tokens and padding, which stay.
        attention_mask: 0 where padding stands, which the language model does not see; None takes
            the pad token's id for padding.
        masked_lm: what transformers' AutoModelForMaskedLM gives, with the tokenizer's vocabulary;
            it runs on its device, in eval mode, and is left in the mode it was in.
        embedding: the explained model's word embedding, where its rows are more than the
            tokenizer's tokens: `masked_lm` may have as many.

    Raises:
        ValueError: if the tokenizer has no mask token, the language model another vocabulary, a
            text is too long for it, or the ids are not (B, L).
    """
    check_masked_lm(tokenizer, masked_lm=masked_lm, embedding=embedding)
    limit = token_limit(masked_lm)
    tokens = ordinary_tokens(tokenizer, masked_lm.config.vocab_size)
    if attention_mask is None:
        padding = tokenizer.pad_token_id
        attention_mask = torch.ones_like(input_ids) if padding is None else input_ids != padding
    attended = attention_mask.expand_as(input_ids) != 0
    found = input_ids.clone()
    with model_lock, torch.no_grad(), _eval_mode(masked_lm):
        for number, positions in words_by_text(tokenizer, input_ids, attention_mask):
            seen = attended[number]
            text = input_ids[number, seen]  # without padding: no guess depends on it
            if len(text) > limit:
                raise ValueError(
                    f"text {number} has {len(text)} tokens, but masked_lm reads at most {limit}: "
                    "truncate it"
                )
            places = seen.cumsum(0)[positions] - 1
            expected = _expected(masked_lm, text, places, tokenizer.mask_token_id, tokens)
            found[number, positions] = expected.to(found)
    return found


def check_masked_lm(tokenizer: Any, *, masked_lm: Any, embedding: nn.Module | None) -> None:
    """Refuse a language model that cannot fill in the tokenizer's words.

    Raises:
        ValueError: if there is none, it has another vocabulary, or the tokenizer has no mask token.
    """
    if not isinstance(masked_lm, nn.Module):
        raise ValueError(
            f"baseline 'blurred' needs a masked language model, got {masked_lm!r}: "
            "pass masked_lm=, such as what AutoModelForMaskedLM.from_pretrained gives "
            "(--masked-lm on the command line)"
        )
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "the tokenizer has no mask token, which baseline 'blurred' needs: use another baseline"
        )
    config: Any = masked_lm.config
    size = config.vocab_size
    rows = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else 0
    if size not in (len(tokenizer), max(len(tokenizer), rows)):
        raise ValueError(
            f"masked_lm is a masked LM with another vocabulary, of {size} tokens; wanted the "
            f"tokenizer's {len(tokenizer)}: pass one that was trained with this tokenizer"
        )


def _expected(
    masked_lm: Any,
    text: Tensor,  # (L,) ids without padding
    places: Tensor,  # (W,)
    mask_id: int,
    tokens: Tensor,  # (N,) ids to choose from
) -> Tensor:
    """The most probable of `tokens` at each place but the one that stands there; (W,) ids."""
    device = next(masked_lm.parameters()).device
    text, places, tokens = text.to(device), places.to(device), tokens.to(device)
    n_rows = max(1, LOGITS // (len(text) * masked_lm.config.vocab_size))
    found = []
    for some in places.split(n_rows):
        rows = text.repeat(len(some), 1)
        row = torch.arange(len(some), device=device)
        rows[row, some] = mask_id
        logits = masked_lm(input_ids=rows).logits[row, some][:, tokens]  # (rows, N)
        logits[tokens == text[some, None]] = -torch.inf
        found.append(tokens[logits.argmax(-1)])
    return torch.cat(found)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode after it."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training

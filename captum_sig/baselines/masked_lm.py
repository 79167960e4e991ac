"""The baseline "blurred": each word as a masked language model would guess it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.function import with_shared_weights
from captum_sig.words.encoding import token_limit
from captum_sig.words.grouping import ordinary_tokens, words_by_text

MAX_LOGITS = 2**25  # of the masked language model in a pass: 128 MiB in float32


def blurred(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    masked_lm: Any,
    embedding: nn.Module | None = None,
    max_logits: int = MAX_LOGITS,
) -> Tensor:
    """Replace each token with the one that a masked language model expects; ids (B, L).

    Each token is masked while all others are visible, and replaced with the most probable other
    token that is not special. The token itself is excluded; otherwise a word that its context
    predicts would not move and have the attribution 0, however much the classifier relies on it.
    So the attribution answers "why this word, and not the one to be expected?".

    Args:
        tokenizer: a transformers tokenizer with a mask token.
        input_ids: token ids with special tokens and padding.
        attention_mask: 0 at padding, which the language model does not see; None takes the pad
            token's id for padding.
        masked_lm: a model of transformers' AutoModelForMaskedLM with the tokenizer's vocabulary; it
            runs on its device, in eval mode, and keeps the mode it was in.
        embedding: the explained model's word embedding; if it has more rows than the tokenizer has
            tokens, `masked_lm` may have as many.
        max_logits: maximum number of the language model's logits in a pass.

    Raises:
        ValueError: if the tokenizer has no mask token, the language model has another
            vocabulary, a text is too long for it, or the ids are not (B, L).
    """
    check_masked_lm(tokenizer, masked_lm=masked_lm, embedding=embedding)
    limit = token_limit(masked_lm)
    tokens = ordinary_tokens(tokenizer, masked_lm.config.vocab_size)
    if attention_mask is None:
        padding = tokenizer.pad_token_id
        attention_mask = torch.ones_like(input_ids) if padding is None else input_ids != padding
    attended = attention_mask.expand_as(input_ids) != 0
    baseline = input_ids.clone()
    if any(module.training for module in masked_lm.modules()):
        masked_lm = with_shared_weights(masked_lm).eval()
    with torch.no_grad():
        for number, positions in words_by_text(tokenizer, input_ids, attention_mask):
            seen = attended[number]
            text = input_ids[number, seen]  # without padding, on which no guess depends
            if len(text) > limit:
                raise ValueError(
                    f"text {number} has {len(text)} tokens, but masked_lm reads at most {limit}: "
                    "truncate it"
                )
            places = seen.cumsum(0)[positions] - 1
            expected = _expected(
                masked_lm, text, places, mask_id=tokenizer.mask_token_id, tokens=tokens,
                max_logits=max_logits,
            )  # fmt: skip
            baseline[number, positions] = expected.to(baseline)
    return baseline


def check_masked_lm(tokenizer: Any, *, masked_lm: Any, embedding: nn.Module | None) -> None:
    """Check that a language model can fill in the tokenizer's words.

    Raises:
        ValueError: if it is missing or has another vocabulary, or there is no mask token.
    """
    if not isinstance(masked_lm, nn.Module):
        raise ValueError(
            f"baseline 'blurred' needs a masked language model, got {masked_lm!r}: "
            "pass masked_lm, a model that AutoModelForMaskedLM can load"
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
    *,
    mask_id: int,
    tokens: Tensor,  # (N,) ids to choose from
    max_logits: int,
) -> Tensor:
    """Find the most probable of `tokens` at each place, except the present one; (W,) ids."""
    device = next(masked_lm.parameters()).device
    text, places, tokens = text.to(device), places.to(device), tokens.to(device)
    n_rows = max(1, max_logits // (len(text) * masked_lm.config.vocab_size))
    expected = []
    for masked in places.split(n_rows):
        rows = text.repeat(len(masked), 1)
        row = torch.arange(len(masked), device=device)
        rows[row, masked] = mask_id
        logits = masked_lm(input_ids=rows).logits[row, masked][:, tokens]  # (rows, N)
        logits[tokens == text[masked, None]] = -torch.inf
        expected.append(tokens[logits.argmax(-1)])
    return torch.cat(expected)

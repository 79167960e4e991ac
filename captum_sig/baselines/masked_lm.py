"""The baseline "blurred": each word as a masked language model would guess it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.function import with_shared_weights
from captum_sig.attr.hooks import with_input
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
    masked_lm = in_eval_mode(masked_lm)
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


def in_eval_mode(model: Any) -> Any:
    """Return a model, or a copy with its weights if it is not in eval mode."""
    if any(module.training for module in model.modules()):
        return with_shared_weights(model).eval()
    return model


def check_masked_lm(
    tokenizer: Any,
    *,
    masked_lm: Any,
    embedding: nn.Module | None,
    used_by: str = "baseline 'blurred'",
) -> None:
    """Check that a language model can fill in the tokenizer's words.

    Raises:
        ValueError: if it is missing or has another vocabulary, or there is no mask token.
    """
    if not isinstance(masked_lm, nn.Module):
        raise ValueError(
            f"{used_by} needs a masked language model, got {masked_lm!r}: "
            "pass masked_lm, a model that AutoModelForMaskedLM can load"
        )
    if tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer has no mask token, which {used_by} needs: use another")
    config: Any = masked_lm.config
    size = config.vocab_size
    rows = embedding.num_embeddings if isinstance(embedding, nn.Embedding) else 0
    if size not in (len(tokenizer), max(len(tokenizer), rows)):
        raise ValueError(
            f"masked_lm is a masked LM with another vocabulary, of {size} tokens; wanted the "
            f"tokenizer's {len(tokenizer)}: pass one that was trained with this tokenizer"
        )


def token_logits(
    masked_lm: Any,
    rows: Tensor,
    asked: Tensor,
    tokens: Tensor,
    *,
    max_logits: int = MAX_LOGITS,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Evaluate a masked language model where it is asked, a few rows at a time, without a gradient.

    Args:
        masked_lm: the model, in eval mode.
        rows: token ids without padding, (R, L).
        asked: at which positions, (R, L) booleans; each row is asked at some.
        tokens: ids to choose from, (N,).
        max_logits: maximum number of the language model's logits in a pass.

    Yields:
        The rows and positions that were asked, (n, 2), in order, and the logits there, (n, N).
    """
    device = next(masked_lm.parameters()).device
    rows, asked, tokens = rows.to(device), asked.to(device), tokens.to(device)
    n_rows = max(1, max_logits // (rows.shape[1] * masked_lm.config.vocab_size))
    for start in range(0, len(rows), n_rows):
        part = slice(start, start + n_rows)
        with torch.no_grad(), _head_reads(masked_lm, asked[part]):
            logits = masked_lm(input_ids=rows[part]).logits
        if logits.dim() == 3:
            logits = logits[asked[part]]  # (n, V)
        places = asked[part].nonzero()
        places[:, 0] += start
        yield places, logits[:, tokens]


def _head_reads(masked_lm: Any, asked: Tensor) -> AbstractContextManager[None]:
    """Let the matrix that makes logits, half the work of a small model, see only what is asked.

    Where a model does not call it as a module, all logits are made.
    """
    head = masked_lm.get_output_embeddings()
    if not isinstance(head, nn.Module):
        return nullcontext()
    return with_input(head, lambda hidden: hidden[asked] if hidden.dim() == 3 else hidden)


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
    asked = torch.zeros(len(places), len(text), dtype=torch.bool, device=text.device)
    asked[torch.arange(len(places)), places] = True
    rows = text.expand(len(places), -1).masked_fill(asked, mask_id)
    expected = []
    for of_places, logits in token_logits(masked_lm, rows, asked, tokens, max_logits=max_logits):
        present = text.to(logits.device)[of_places[:, 1], None]
        logits = logits.masked_fill(tokens.to(logits.device) == present, -torch.inf)
        expected.append(tokens[logits.argmax(-1).to(tokens.device)])
    return torch.cat(expected)

"""What a language model says after a prompt, where no target is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from captum_sig.attr.function import HOOKED

DEFAULTS = {"do_sample": False, "max_new_tokens": 25}  # as Captum's: greedy, 25 tokens


def generated(
    model: Any,
    tokenizer: Any,
    prompt: Tensor,  # (1, P)
    limit: int | None,
    options: Mapping[str, Any],
) -> list[int]:
    """The ids that a model gives after a prompt.

    Args:
        model: a language model of transformers.
        tokenizer: tells the id to pad with.
        prompt: what it reads.
        limit: positions that a decoder alone can read, the prompt's among them; None for a model
            with an encoder.
        options: of `model.generate`, over `DEFAULTS` where no `generation_config` is among them.

    Raises:
        ValueError: if that is no text, or several.
    """
    padding = tokenizer.pad_token_id
    chosen = {"pad_token_id": tokenizer.eos_token_id if padding is None else padding}
    if "generation_config" not in options:
        chosen |= DEFAULTS
    if "max_length" in options:
        chosen.pop("max_new_tokens", None)
    chosen |= options
    if limit is not None and "max_new_tokens" in chosen:  # no more than it can read again
        room = limit - prompt.shape[1] + 1  # the last is not read
        chosen["max_new_tokens"] = min(chosen["max_new_tokens"], room)
    with HOOKED, torch.no_grad():
        found = model.generate(prompt, attention_mask=torch.ones_like(prompt), **chosen)
    sequences = found if isinstance(found, Tensor) else found.sequences
    if len(sequences) > 1:
        raise ValueError(
            f"generation_kwargs give {len(sequences)} texts; wanted one: leave "
            "num_return_sequences out"
        )
    new = sequences[0, 1 if limit is None else prompt.shape[1] :].tolist()
    if not new:
        raise ValueError("the model generates nothing after the prompt: pass a target")
    return new

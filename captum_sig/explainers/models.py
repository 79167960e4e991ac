"""Models and tokenizers of transformers: how they are loaded, and where words enter a model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn


def pretrained(auto_class: Any, name_or_path: str | Path, purpose: str, **options: Any) -> Any:
    """A model in eval mode, all of whose weights stand in the checkpoint.

    Args:
        auto_class: one of transformers' auto classes of models.
        name_or_path: as in transformers.
        purpose: what the model must have been trained for.
        **options: as in transformers, such as `dtype`.

    Raises:
        ValueError: if weights are missing, such as those of an untrained head.
    """
    model, info = auto_class.from_pretrained(
        name_or_path, **{"use_safetensors": True, **options}, output_loading_info=True
    )
    if info["missing_keys"]:
        raise ValueError(
            f"{name_or_path} has no weights for {', '.join(sorted(info['missing_keys']))}; "
            f"wanted a model that was trained {purpose}"
        )
    return model.eval()


def pretrained_tokenizer(name_or_path: str | Path) -> Any:
    """A tokenizer; transformers makes up an empty one where there are no files.

    Raises:
        ValueError: if it knows special tokens only.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{name_or_path} has no tokenizer: save it beside the model")
    return tokenizer


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, 16 hexadecimal digits of it."""
    digest = hashlib.sha256()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def word_embedding(model: nn.Module) -> nn.Module:
    """The module that turns the input's token ids into vectors, as the forward pass calls it.

    It is `model.get_input_embeddings()`, but where several modules are tied to one weight (T5,
    BART) that may be one that never runs; then it is the encoder's.

    Raises:
        ValueError: if the model does not say where its words enter.
    """
    try:
        named = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"{type(model).__name__} does not tell its word embedding: pass layer="
        ) from error
    tied = [
        module
        for name, module in model.named_modules()
        if isinstance(module, type(named))
        and module.weight is named.weight
        and "decoder" not in name.split(".")
    ]
    return tied[-1] if tied else named  # the encoder's own follows the one that all share


def takes_single_rows_only(model: nn.Module) -> bool:
    """Whether a transformers classifier refuses several rows, as it cannot tell padding."""
    return getattr(model.config, "pad_token_id", 0) is None


def reads_ahead(model: nn.Module) -> bool:
    """Whether a language model without an encoder sees what follows, so that it cannot be forced.

    Attention that is not causal would show it the target's later tokens.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return any(getattr(module, "is_causal", True) is False for module in decoder.modules())

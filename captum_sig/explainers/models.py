"""Models and tokenizers of transformers: how they are loaded, and what their modules reveal."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn


def pretrained(auto_class: Any, name_or_path: str | Path, purpose: str, **options: Any) -> Any:
    """Load a model in eval mode, with all its weights from the checkpoint; safetensors only.

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


def pretrained_masked_lm(name_or_path: str | Path) -> Any:
    """Load a masked language model, such as baseline "blurred" needs; as `pretrained`."""
    from transformers import AutoModelForMaskedLM

    return pretrained(AutoModelForMaskedLM, name_or_path, "to fill in masked words")


def pretrained_tokenizer(name_or_path: str | Path) -> Any:
    """Load a tokenizer; transformers makes up an empty one where there are no files.

    Raises:
        ValueError: if it knows only special tokens.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError(f"{name_or_path} has no tokenizer: save it beside the model")
    return tokenizer


def weights_digest(model: nn.Module) -> str:
    """Hash all parameters and buffers with their names: 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def word_embedding(model: nn.Module) -> nn.Module:
    """Find the module that turns the input's token ids into vectors in the forward pass.

    It is `model.get_input_embeddings()`. Where several modules are tied to one weight (T5, BART),
    that one may never run; then it is the encoder's.

    Raises:
        ValueError: if the model does not name its word embedding.
    """
    try:
        named = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"{type(model).__name__} does not name its word embedding: pass layer"
        ) from error
    tied = [
        module
        for name, module in model.named_modules()
        if isinstance(module, type(named))
        and module.weight is named.weight
        and "decoder" not in name.split(".")
    ]
    return tied[-1] if tied else named  # the encoder's own follows the one that all share


def is_bidirectional(model: nn.Module) -> bool:
    """Whether a language model without an encoder attends to later tokens, such as the target's."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return any(getattr(module, "is_causal", True) is False for module in decoder.modules())

"""What a model's modules tell: where words enter, and what makes F unfit for gradients."""

from __future__ import annotations

from torch import nn


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

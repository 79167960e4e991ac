"""Models of transformers: whose they are to explain, and what their modules reveal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.function import with_shared_weights
from captum_sig.explainers import adapters

CLASSIFICATION, GENERATION = "TextClassificationExplainer", "TextGenerationExplainer"
ZERO_SHOT, TOKENS = "ZeroShotClassificationExplainer", "TokenClassificationExplainer"
ANSWERS, FILL_MASK = "QuestionAnsweringExplainer", "FillMaskExplainer"
SIMILARITY = "SimilarityExplainer"
OWN_MODULES = "LayerSequentialIntegratedGradients, with a function that returns (B,) or (B, C)"
SERVED: dict[str, tuple[str, ...]] = {  # by the ends of transformers' class names
    "ForSequenceClassification": (CLASSIFICATION, ZERO_SHOT),
    "ForCausalLM": (GENERATION,),
    "LMHeadModel": (GENERATION,),
    "ForConditionalGeneration": (GENERATION,),
    "ForMaskedLM": (FILL_MASK,),
    "ForTokenClassification": (TOKENS,),
    "ForQuestionAnswering": (ANSWERS,),
    "ForMultipleChoice": (),
}


def check_model(model: Any, tokenizer: Any, explainer: str, wanted: str) -> None:
    """Check that a model and a tokenizer are what an explainer takes.

    Args:
        model: what was passed as the model.
        tokenizer: what was passed as its tokenizer.
        explainer: the name of the explainer's class.
        wanted: the models that it explains.

    Raises:
        TypeError: if they are not; it says what serves.
    """
    advice = _advice(model, explainer)
    if advice is not None:
        raise TypeError(f"{explainer} explains {wanted}, got {type(model).__name__}: {advice}")
    if not callable(tokenizer) or not hasattr(tokenizer, "model_max_length"):
        raise TypeError(
            f"tokenizer is {type(tokenizer).__name__}; wanted the model's tokenizer: load it with "
            "transformers.AutoTokenizer"
        )


def _advice(model: Any, explainer: str) -> str | None:
    """Say what to do with a model that an explainer does not take; None for one that it takes."""
    if adapters.has_own_tokens(model) and explainer not in (CLASSIFICATION, ZERO_SHOT):
        return (
            "its adapter puts tokens of its own in front of the text, which moves the positions "
            f"that are explained; only {CLASSIFICATION} and {ZERO_SHOT} take such adapters"
        )
    model = adapters.without_wrapper(model)
    name = type(model).__name__
    if isinstance(model, (str, Path)):
        return f"use {explainer}.from_pretrained({str(model)!r})"
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "pass the model inside, model.module"
    if isinstance(getattr(model, "model", None), nn.Module) and hasattr(model, "tokenizer"):
        return "pass its parts, pipeline.model and pipeline.tokenizer"
    if not isinstance(model, nn.Module):
        return "pass a model that transformers loaded"
    if not hasattr(model, "config"):
        return f"for a module of your own use {OWN_MODULES}"
    if getattr(model.config, "model_type", None) == "xlnet":
        return "it puts positions before texts, (L, B, D), where words are moved in (B, L, D)"
    serves = serving(name)
    if serves is not None:
        return None if explainer in serves else f"use {' or '.join(serves) or OWN_MODULES}"
    if name.endswith("Model") and explainer not in (GENERATION, SIMILARITY):
        return (
            "it has no head for the task: load it with the task's AutoModel class, such as "
            f"AutoModelForSequenceClassification, or use {SIMILARITY}"
        )
    return None


def serving(architecture: str) -> tuple[str, ...] | None:
    """Return the explainers of a model of transformers by its class name; None if unknown.

    >>> serving("BertForMaskedLM")
    ('FillMaskExplainer',)
    """
    return next((SERVED[head] for head in SERVED if architecture.endswith(head)), None)


def classifier_logits(model: nn.Module, output: Any) -> Tensor:
    """Return a classifier's logits from its output, (B, C).

    Raises:
        TypeError: if it has none, or others.
    """
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor) and logits.dim() == 2:
        return logits
    got = "no logits" if logits is None else f"logits of shape {tuple(logits.shape)}"
    raise TypeError(
        f"{type(model).__name__} returns {got}; {CLASSIFICATION} wants (texts, labels): use "
        f"{OWN_MODULES}"
    )


MAX_LABELS = 8  # shown of a model


def described(
    explainer: Any, *, baseline: str, level: str, labels: Sequence[str] | None = None
) -> str:
    """Say in a line what an explainer has taken: its model, task, baseline, level and labels."""
    parts = [
        type(adapters.without_wrapper(explainer.model)).__name__,
        f"task={explainer.task!r}, baseline={baseline!r}, level={level!r}",
    ]
    if labels is not None:
        shown = ", ".join(map(repr, labels[:MAX_LABELS]))
        more = len(labels) - MAX_LABELS
        parts.append(f"labels=[{shown}{f', … {more} more' if more > 0 else ''}]")
    return f"{type(explainer).__name__}({', '.join(parts)})"


def uncompiled(model: Any, layer: nn.Module | None) -> tuple[Any, nn.Module | None]:
    """Undo torch.compile and model.compile(), after which a model does not see hooks.

    Args:
        model: a model; its weights stay its own.
        layer: a layer of it, if one is chosen.

    Returns:
        the model and the layer, or those of a copy that shares their weights.
    """
    model = getattr(model, "_orig_mod", model)
    if all(module._compiled_call_impl is None for module in model.modules()):
        return model, layer
    names = {module: name for name, module in model.named_modules()}
    model = with_shared_weights(model)
    return model, None if layer is None else model.get_submodule(names[layer])


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


def decoder_embedding(model: nn.Module) -> nn.Module | None:
    """Find the word embedding of the decoder that reads a text beside the encoder; None without.

    Raises:
        ValueError: if the model has such a decoder, and does not name its word embedding.
    """
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return None
    try:
        return model.get_decoder().get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"{type(model).__name__} does not name its decoder's word embedding: pass layer, the "
            "encoder's, to move words there alone"
        ) from error


def is_bidirectional(model: nn.Module) -> bool:
    """Whether a language model without an encoder attends to later tokens, such as the target's."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return any(getattr(module, "is_causal", True) is False for module in decoder.modules())

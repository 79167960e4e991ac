"""What a model's modules tell: where words enter, and what makes F unfit for gradients."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from captum_sig.notices import warn


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


def input_device(model: nn.Module, layer: nn.Module) -> torch.device:
    """Where the layer takes its ids: where its weights are, or where an offloading hook moves them.

    A model that is spread over devices, or whose weights wait elsewhere, is asked as it is.
    """
    hooked = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
    if hooked is not None:
        return torch.device(hooked)
    return next(itertools.chain(layer.parameters(), model.parameters())).device


def modules_in(forward_func: Callable[..., Any]) -> tuple[nn.Module, ...]:
    """The modules that a forward function is known to run.

    Those it is, and those that its owner or its closure name or hold as an attribute.
    """
    if isinstance(forward_func, functools.partial):
        return modules_in(forward_func.func)
    named: Iterable[Any] = (forward_func, getattr(forward_func, "__self__", None))
    if inspect.isfunction(forward_func):
        try:
            variables = inspect.getclosurevars(forward_func)
        except ValueError:  # a variable of the closure that has no value yet
            return ()
        named = (*variables.nonlocals.values(), *variables.globals.values())
    return tuple(module for one in named for root in _held(one) for module in root.modules())


def _held(thing: Any) -> list[nn.Module]:
    if isinstance(thing, nn.Module):
        return [thing]
    if inspect.ismodule(thing) or inspect.isclass(thing) or not hasattr(thing, "__dict__"):
        return []
    return [value for value in vars(thing).values() if isinstance(value, nn.Module)]


def takes_single_rows_only(model: nn.Module) -> bool:
    """Whether a transformers classifier refuses several rows, as it cannot tell padding."""
    return getattr(model.config, "pad_token_id", 0) is None


def reads_ahead(model: nn.Module) -> bool:
    """Whether a language model without an encoder sees what follows, so that it cannot be forced.

    Attention that is not causal would show it the target's later tokens.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model  # type: ignore[operator]
    return any(getattr(module, "is_causal", True) is False for module in decoder.modules())


def warn_of_dropout(modules: Iterable[nn.Module]) -> None:
    """Warn if a module draws random numbers, so that F is another function at every call."""
    if any(
        module.training
        and (
            (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            or (isinstance(module, nn.RNNBase) and module.dropout > 0)
        )
        for module in modules
    ):
        warn(
            "the model is in train mode and its dropout is active: F is another function at "
            "every pass; call model.eval() first"
        )


def rnns_can_go_backward(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """CuDNN's RNNs refuse backward in eval mode: run them without cuDNN."""
    if any(isinstance(module, nn.RNNBase) and not module.training for module in modules):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()

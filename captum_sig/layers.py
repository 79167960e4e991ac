"""What a model's modules tell: where words enter, and what makes F unfit for gradients."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
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


def modules_in(forward_func: Callable[..., Any]) -> tuple[nn.Module, ...]:
    """The modules that a forward function is known to run: itself, its owner, its closure."""
    if isinstance(forward_func, nn.Module):
        return tuple(forward_func.modules())
    if isinstance(forward_func, functools.partial):
        return modules_in(forward_func.func)
    owner = getattr(forward_func, "__self__", None)
    found: Iterable[Any] = (owner, *vars(owner).values()) if hasattr(owner, "__dict__") else ()
    if inspect.isfunction(forward_func):
        names = inspect.getclosurevars(forward_func)
        found = (*names.nonlocals.values(), *names.globals.values())
    return tuple(m for root in found if isinstance(root, nn.Module) for m in root.modules())


def has_active_dropout(modules: Iterable[nn.Module]) -> bool:
    """Whether a module draws random numbers, so that F is another function at every call."""
    return any(
        module.training
        and (
            (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            or (isinstance(module, nn.RNNBase) and module.dropout > 0)
        )
        for module in modules
    )


def rnns_can_go_backward(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """CuDNN's RNNs refuse backward in eval mode: run them without cuDNN."""
    if any(isinstance(module, nn.RNNBase) and not module.training for module in modules):
        return torch.backends.cudnn.flags(enabled=False)
    return nullcontext()

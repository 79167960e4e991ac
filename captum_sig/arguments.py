"""Captum's arguments in all their forms → one form, with an error for what does not fit."""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch import Tensor

from captum_sig._captum import TargetType
from captum_sig.function import Tensors


def input_tensors(inputs: Tensor | Tensors) -> Tensors:
    """One tensor or several → a tuple of tensors (B, L, …)."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    for x in tensors:
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs must be tensors or a tuple of them, got {type(x).__name__}")
        if x.dim() < 2 or x.shape[0] != tensors[0].shape[0]:
            raise ValueError(
                f"inputs have shapes {[tuple(t.shape) for t in tensors]}; "
                "wanted (B, L, …) with the same B for all"
            )
    return tensors


def alike(given: Any, points: Tensors, name: str) -> Tensors:
    """Baselines in all of Captum's forms → one tensor for each point, of its shape and dtype."""
    values = flat(given) if isinstance(given, (tuple, list)) else (given,) * len(points)
    if len(values) != len(points) or (isinstance(given, Tensor) and len(points) > 1):
        raise ValueError(
            f"{name} must be one number, or a tuple with one entry for each of the "
            f"{len(points)} tensors that move"
        )
    return tuple(_like(0 if v is None else v, x, name) for v, x in zip(values, points, strict=True))


def _like(value: Any, x: Tensor, name: str) -> Tensor:
    if not isinstance(value, (Tensor, numbers.Real)):
        raise TypeError(f"{name} must be numbers or tensors, got {type(value).__name__}")
    if isinstance(value, Tensor):
        tensor = value.detach().to(x.device)
    else:  # a number keeps the digits that the point's dtype can hold
        exact = torch.long if isinstance(value, numbers.Integral) else torch.float64
        tensor = torch.tensor(value, dtype=exact).to(x.device)
    fits = tensor.shape in (torch.Size(), x.shape[2:], x.shape, (1, *x.shape[1:]))
    if not fits or (tensor.is_floating_point() and not x.is_floating_point()):
        advice = "" if x.is_floating_point() else " (activations go to layer_baselines)"
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and {tensor.dtype}; wanted one number or "
            f"{tuple(x.shape)}, {(1, *x.shape[1:])} or {tuple(x.shape[2:])} of {x.dtype}{advice}"
        )
    return tensor.to(x.dtype).expand(x.shape)


def checked_target(target: Any, n_examples: int) -> TargetType:
    """Whole numbers of any type become int; lists and tensors need one entry for each example."""
    if hasattr(target, "tolist") and not isinstance(target, Tensor):  # NumPy's arrays and numbers
        target = target.tolist()
    if isinstance(target, Tensor) and target.numel() == 1 and not target.is_floating_point():
        return int(target)
    several = isinstance(target, list) or (isinstance(target, Tensor) and target.dim() > 0)
    if several and len(target) != n_examples:
        raise ValueError(
            f"target has {len(target)} entries; wanted one index, or one for each of the "
            f"{n_examples} examples"
        )
    return target


def flat(nested: Any) -> Tensors:
    """Tensors out of Captum's containers: a tensor, a tuple, a list of both."""
    if isinstance(nested, (tuple, list)):
        return tuple(tensor for part in nested for tensor in flat(part))
    return (nested,)

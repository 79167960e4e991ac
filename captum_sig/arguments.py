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


def masks_of(feature_masks: Any, points: Tensors) -> Tensors:
    """The argument `feature_mask` in canonical form: (B, Lₜ) integers for each moving tensor.

    Without one every position is a word; tensors with the same dim 1 move together per position,
    tensors with another dim 1 have words of their own.

    Raises:
        ValueError: if the shapes or types do not fit the points.
    """
    if feature_masks is None:
        return _every_position(points)
    given = tuple(feature_masks) if isinstance(feature_masks, (tuple, list)) else (feature_masks,)
    if len(given) == 1 and len({x.shape[1] for x in points}) == 1:
        given *= len(points)
    if len(given) != len(points):
        raise ValueError(
            f"feature_mask has {len(given)} tensors but {len(points)} tensors move: "
            "pass a tuple with one mask for each"
        )
    masks = []
    for mask, x in zip(given, points, strict=True):
        wanted = tuple(x.shape[:2])
        if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
            raise ValueError(
                "feature_mask must be an integer tensor, got "
                f"{mask.dtype if isinstance(mask, Tensor) else type(mask).__name__}"
            )
        if mask.dim() != 2 or mask.shape[0] not in (1, wanted[0]) or mask.shape[1] != wanted[1]:
            raise ValueError(
                f"feature_mask has shape {tuple(mask.shape)}; wanted {wanted}"
                f"{'' if wanted[0] == 1 else f' or (1, {wanted[1]})'}: "
                "one number for each position of the tensor that moves"
            )
        masks.append(mask.to(x.device, torch.long).expand(wanted))
    return tuple(masks)


def _every_position(points: Tensors) -> Tensors:
    first_number: dict[int, int] = {}  # for each length, the number of its first word
    for x in points:
        first_number.setdefault(x.shape[1], sum(first_number))
    return tuple(
        (first_number[x.shape[1]] + torch.arange(x.shape[1], device=x.device)).expand(*x.shape[:2])
        for x in points
    )


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

"""Captum's arguments in one canonical form, checked at the door.

`input_problem` and `layer_problem` build a `Problem`, `integrator` chooses how to integrate it: by
a rule, to a tolerance, or along a path of the caller's.
"""

from __future__ import annotations

import functools
import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._captum import BaselineType, ModuleOrModuleList, TargetType, format_outputs
from captum_sig._numbers import checked_integer
from captum_sig.attr.adaptive import STARTS, to_tolerance
from captum_sig.attr.function import (
    Read,
    ReadoutFunction,
    RowFunction,
    Tensors,
    at_inputs,
    flat,
    modules_in,
)
from captum_sig.attr.hooks import Around, Call, LayerOutputs, at_layer, capture, embed_without_pass
from captum_sig.attr.integrals import Integrate, Steps, StraightLine, by_steps
from captum_sig.attr.problem import Problem, plain_tensors
from captum_sig.attr.word_paths import WordPaths, with_positions
from captum_sig.contexts import Auto, Contexts, backgrounds
from captum_sig.quadrature import rule


class Default(int):
    """A default that can be distinguished from the same number passed by a caller."""


N_STEPS = Default(50)  # Captum's
MAX_NODES = 129  # per word with a tolerance, unless the caller passes `n_steps`
MIN_NODES = STARTS[-1]  # fewer do not show a path's error


def integrator(
    *,
    method: str = "gausslegendre",
    n_steps: int = N_STEPS,
    tolerance: float | None = None,
    steps: Sequence[Steps] | None = None,
) -> Integrate:
    """Choose how to integrate.

    Args:
        method: a name in `captum_sig.quadrature.RULES`.
        n_steps: nodes of the rule, or the maximum with a tolerance; a `Default` leaves the number
            open.
        tolerance: as in `SequentialIntegratedGradients.attribute`; None takes the rule.
        steps: those of a path of the caller's in each tensor that moves, which leave no choice to
            the others.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    is_default = isinstance(n_steps, Default)
    if steps is not None:
        if tolerance is not None or method != "gausslegendre" or not is_default:
            raise ValueError("a path has its own steps: leave n_steps, method and tolerance out")
        return functools.partial(by_steps, steps=steps)
    line = StraightLine(rule(method, n_steps))
    if tolerance is None:
        return functools.partial(by_steps, steps=[line])
    if not isinstance(tolerance, numbers.Real) or not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
    if method != "gausslegendre":
        raise ValueError(
            f"a tolerance chooses its own nodes: leave out either method {method!r} or the "
            "tolerance"
        )
    max_nodes = MAX_NODES if is_default else int(n_steps)
    if max_nodes < MIN_NODES:
        raise ValueError(
            f"with a tolerance n_steps is the maximum number of evaluations per word, at least "
            f"{MIN_NODES}; got {n_steps}"
        )
    return functools.partial(to_tolerance, tolerance=float(tolerance), max_nodes=max_nodes)


@plain_tensors()
def input_problem(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    *,
    baselines: BaselineType = None,
    target: TargetType = None,
    additional_forward_args: object = None,
    feature_mask: Any = None,
    contexts: Contexts | Sequence[Contexts] | None = None,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
) -> Problem:
    """Build the problem in which the model's own inputs move."""
    points = input_tensors(inputs)
    for x in points:
        if not x.is_floating_point():
            raise TypeError(
                f"inputs are {x.dtype}, which has no gradient: for token ids use "
                "LayerSequentialIntegratedGradients(forward_func, model.get_input_embeddings())"
            )
    points = tuple(x.detach() for x in points)
    b = matching(baselines, points, "baselines")

    def as_inputs(tensors: Tensors) -> Any:
        shaped = _without_positions(tensors, points)
        return shaped if isinstance(inputs, tuple) else shaped[0]

    return Problem(
        function=RowFunction(
            forward=at_inputs(forward_func, additional_forward_args, points),
            target=checked_target(target, len(points[0])),
            modules=modules_in(forward_func),
        ),
        **words_in_contexts(points, b, feature_mask, contexts),
        format_outputs=as_inputs,
        max_rows=internal_batch_size,
        show_progress=show_progress,
    )


@plain_tensors()
def layer_problem(
    forward_func: Callable[..., Any],
    layer: ModuleOrModuleList,
    inputs: Tensor | Tensors,
    *,
    device_ids: list[int] | None = None,
    baselines: BaselineType = None,
    layer_baselines: Any = None,
    target: TargetType = None,
    additional_forward_args: object = None,
    attribute_to_layer_input: bool = False,
    grad_kwargs: Mapping[str, Any] | None = None,
    feature_mask: Any = None,
    contexts: Contexts | Sequence[Contexts] | None = None,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
    layer_call: Call = None,
    captured: LayerOutputs | None = None,
    read: Read | None = None,
    column: int | None = None,
    around: Around | None = None,
) -> Problem:
    """Build the problem in which the outputs (or inputs) of one or several layers move.

    `captured` is what `capture` returns for the inputs, if it is known already. `read` takes F's
    values from the model's output, in place of a target; `column` says which, None all of them.
    `around` evaluates rows, as `hooks.at_layer` takes it.
    """
    ids = input_tensors(inputs)
    layers: list[nn.Module] = layer if isinstance(layer, list) else [layer]
    call = _checked_call(layer_call, len(layers))
    if device_ids is None:
        device_ids = getattr(forward_func, "device_ids", None)
    how: dict[str, Any] = {
        "additional_forward_args": additional_forward_args,
        "device_ids": device_ids,
        "at_input": attribute_to_layer_input,
        "call": call,
    }
    captured = captured or capture(forward_func, layers, ids, **how)
    n_tensors = [len(of_layer) for of_layer in captured.activations]
    points = flat(captured.activations)
    b: Any
    if layer_baselines is None:
        base = matching(baselines, ids, "baselines")
        b = None if attribute_to_layer_input else embed_without_pass(layers, captured, ids, base)
        if b is None:
            b = flat(capture(forward_func, layers, base, **how).activations)
    elif baselines is None:
        b = layer_baselines
    else:
        raise ValueError("pass either baselines (inputs) or layer_baselines (activations)")

    n_examples = ids[0].shape[0]
    parts: dict[str, Any] = {
        "forward": at_layer(forward_func, layers, ids, n_tensors=n_tensors, around=around, **how),
        "modules": (*modules_in(forward_func), *(m for root in layers for m in root.modules())),
        "grad_kwargs": grad_kwargs or {},
    }
    function = (
        RowFunction(target=checked_target(target, n_examples), **parts)
        if read is None
        else ReadoutFunction(read=read, column=column, **parts)
    )
    return Problem(
        function=function,
        value_at_input=(
            None
            if captured.output is None
            else function.select(captured.output, torch.arange(n_examples))
        ),
        embedded_ids=(
            None if attribute_to_layer_input else _embedded_ids(layers, captured, points)
        ),
        **words_in_contexts(points, matching(b, points, "layer_baselines"), feature_mask, contexts),
        format_outputs=lambda tensors: _by_layer(
            isinstance(layer, list), n_tensors, _without_positions(tensors, points)
        ),
        max_rows=internal_batch_size,
        show_progress=show_progress,
    )


def words_in_contexts(
    points: Tensors,
    baselines: Tensors,
    feature_mask: Any,
    contexts: Contexts | Sequence[Contexts] | None,
) -> dict[str, Any]:
    """Return the words that move in their backgrounds, and how their means are estimated.

    They are what a `Problem` takes by these names.

    Args:
        points: x.
        baselines: b, shaped as x.
        feature_mask: as in the classes.
        contexts: one for all examples, or one for each; None is the input.

    Raises:
        TypeError: if contexts are not callable.
        ValueError: if they do not return backgrounds.
    """
    return {
        "paths": _paths(points, baselines, feature_mask, contexts),
        **_estimation(contexts, len(points[0])),
    }


def _paths(
    points: Tensors,
    baselines: Tensors,
    feature_mask: Any,
    contexts: Contexts | Sequence[Contexts] | None,  # one for all examples, or one for each
) -> WordPaths:
    x, b = (tuple(map(with_positions, tensors)) for tensors in (points, baselines))
    paths = WordPaths.between(x, b, feature_masks(feature_mask, x))
    if contexts is None:
        return paths
    of_each = _of_each(contexts, paths.n_examples)
    if not isinstance(of_each, (list, tuple)) or not all(map(callable, of_each)):
        raise TypeError(
            f"contexts must be a callable such as captum_sig.contexts.two_sided, got {contexts!r}"
        )
    n_words = paths.background.bincount(minlength=paths.n_examples).tolist()
    return paths.in_backgrounds(backgrounds(of_each, n_words).to(paths.background.device))


def _without_positions(tensors: Tensors, points: Tensors) -> Tensors:
    """Undo `with_positions`."""
    return tuple(
        tensor[:, 0] if x.dim() == 1 else tensor for tensor, x in zip(tensors, points, strict=True)
    )


def _of_each(contexts: Contexts | Sequence[Contexts], n_examples: int) -> Sequence[Contexts]:
    return [contexts] * n_examples if callable(contexts) else contexts


def _estimation(contexts: Contexts | Sequence[Contexts] | None, n_examples: int) -> dict[str, Any]:
    """Return how words' means over backgrounds are estimated, as a `Problem` takes it."""
    of_each = [] if contexts is None else _of_each(contexts, n_examples)
    if any(isinstance(of_one, Auto) for of_one in of_each):
        if not all(isinstance(of_one, Auto) for of_one in of_each):
            raise ValueError("contexts.auto must be those of all examples, or of none")
        return {"auto": of_each}
    return {"standard_error": getattr(of_each[0], "standard_error", None) if of_each else None}


def _by_layer(several: bool, n_tensors: Sequence[int], tensors: Tensors) -> Any:
    """Put all layers' tensors into Captum's containers."""
    remaining = iter(tensors)
    return format_outputs(several, [tuple(itertools.islice(remaining, n)) for n in n_tensors])


def _checked_call(layer_call: Call, n_layers: int) -> Call:
    """Check which call of each layer is meant."""
    if layer_call is None or not isinstance(layer_call, Sequence):
        return None if layer_call is None else checked_integer("layer_call", layer_call, least=0)
    if len(layer_call) != n_layers:
        raise ValueError(
            f"layer_call has {len(layer_call)} entries; wanted one number, or one for each of the "
            f"{n_layers} layers"
        )
    return [None if c is None else checked_integer("layer_call", c, least=0) for c in layer_call]


def _embedded_ids(
    layers: Sequence[nn.Module], captured: LayerOutputs, points: Tensors
) -> tuple[tuple[nn.Module, Tensor], ...] | None:
    """Return embeddings with the ids that they were called with; None if a layer is another."""
    if len(points) != len(layers):
        return None
    found = []
    for number, (layer, x) in enumerate(zip(layers, points, strict=True)):
        ids = captured.ids_of(number)
        if not isinstance(layer, nn.Embedding) or ids is None or ids.shape != x.shape[:2]:
            return None
        found.append((layer, ids))
    return tuple(found)


def input_tensors(inputs: Tensor | Tensors) -> Tensors:
    """Turn one tensor or several into a tuple of tensors (B, …)."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    for x in tensors:
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs must be tensors or a tuple of them, got {type(x).__name__}")
        if x.dim() == 0 or x.shape[0] != tensors[0].shape[0]:
            raise ValueError(
                f"inputs have shapes {[tuple(t.shape) for t in tensors]}; "
                "wanted (B, …) with the same B for all"
            )
    return tensors


def matching(baselines: Any, points: Tensors, name: str) -> Tensors:
    """Turn baselines in any of Captum's forms into one tensor per point, of its shape and dtype."""
    values = flat(baselines) if isinstance(baselines, (tuple, list)) else (baselines,) * len(points)
    if len(values) != len(points) or (isinstance(baselines, Tensor) and len(points) > 1):
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


def feature_masks(feature_mask: Any, points: Tensors) -> Tensors:
    """Turn the argument `feature_mask` into (B, Lₜ) integers for each moving tensor.

    Without one every position is a word. Tensors with the same dim 1 then move together per
    position; tensors with another dim 1 have words of their own.

    Raises:
        ValueError: if the shapes or types do not fit the points.
    """
    if feature_mask is None:
        return _every_position(points)
    given = tuple(feature_mask) if isinstance(feature_mask, (tuple, list)) else (feature_mask,)
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
        per_position = _without_features(mask, x)
        if per_position is None or per_position.shape not in (wanted, (1, wanted[1])):
            raise ValueError(
                f"feature_mask has shape {tuple(mask.shape)}; wanted {wanted}"
                f"{'' if wanted[0] == 1 else f' or (1, {wanted[1]})'}: "
                "one number for each position of the tensor that moves"
            )
        masks.append(per_position.to(x.device, torch.long).expand(wanted))
    return tuple(masks)


def _without_features(mask: Tensor, x: Tensor) -> Tensor | None:
    """Reduce a mask that broadcasts with x to positions; None if its shape does not fit.

    Raises:
        ValueError: if it gives a position's features different numbers.
    """
    if mask.dim() < 2:
        return with_positions(mask) if x.shape[1] == 1 and mask.dim() == 1 else None
    sizes = zip(mask.shape[2:], x.shape[2:], strict=False)
    if mask.dim() > x.dim() or any(size not in (1, wanted) for size, wanted in sizes):
        return None
    features = mask.flatten(2) if mask.dim() > 2 else mask[..., None]
    first = features[..., 0]
    if (features != first[..., None]).any():
        raise ValueError(
            "feature_mask gives features of one position different numbers; wanted one number "
            "for each position, as its features move together"
        )
    return first


def _every_position(points: Tensors) -> Tensors:
    first_number: dict[int, int] = {}  # for each length, the number of its first word
    for x in points:
        first_number.setdefault(x.shape[1], sum(first_number))
    return tuple(
        (first_number[x.shape[1]] + torch.arange(x.shape[1], device=x.device)).expand(*x.shape[:2])
        for x in points
    )


def checked_target(target: Any, n_examples: int) -> TargetType:
    """Turn integers of any type into int; check that lists and tensors fit the examples."""
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

"""Captum's arguments in one canonical form, checked at the door.

`input_problem` and `layer_problem` make a `Problem` of them; `straight` and `along` say how to
integrate: by a rule, to a tolerance, or along a path of one's own.
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
from captum_sig.attr.adaptive import STARTS, to_tolerance
from captum_sig.attr.function import RowFunction, Tensors, at_inputs, flat, modules_in
from captum_sig.attr.hooks import at_layer, capture, embed_without_pass
from captum_sig.attr.integrals import Integrate, Steps, StraightLine, by_steps
from captum_sig.attr.problem import Problem, StandardError, plain_tensors
from captum_sig.attr.word_paths import WordPaths
from captum_sig.contexts import Contexts, backgrounds
from captum_sig.quadrature import rule


class Default(int):
    """A default that can be told from the same number given by a caller."""


N_STEPS = Default(50)  # Captum's
MOST_NODES = 129  # of a word with a tolerance, if the caller gives no `n_steps`
FEWEST_NODES = STARTS[-1]  # to see a path's error at all


def straight(method: str, n_steps: int, tolerance: float | None) -> Integrate:
    """Along the straight line, by a rule of `n_steps` or to a tolerance.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    if tolerance is None:
        return functools.partial(by_steps, steps=StraightLine(rule(method, n_steps)))
    if not isinstance(tolerance, numbers.Real) or not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
    if method != "gausslegendre":
        raise ValueError(
            f"a tolerance chooses its own nodes: leave method {method!r} out, or the tolerance"
        )
    rule(method, n_steps)  # refuses what is no number of steps
    most = MOST_NODES if isinstance(n_steps, Default) else int(n_steps)
    if most < FEWEST_NODES:
        raise ValueError(
            f"with a tolerance n_steps is the most evaluations of a word, at least {FEWEST_NODES}; "
            f"got {n_steps}"
        )
    return functools.partial(to_tolerance, tolerance=float(tolerance), most=most)


def along(steps: Steps, method: str, n_steps: int, tolerance: float | None) -> Integrate:
    """Along steps that a path of its own has chosen, which leave no choice to the others.

    Raises:
        ValueError: if one of the others is given too.
    """
    if tolerance is not None or method != "gausslegendre" or not isinstance(n_steps, Default):
        raise ValueError("a path has its own steps: leave n_steps, method and tolerance out")
    return functools.partial(by_steps, steps=steps)


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


def _in_contexts(
    contexts: Contexts | Sequence[Contexts] | None,  # one for all examples, or for each its own
    points: Tensors,
    baselines: Tensors,
    feature_mask: Any,
) -> WordPaths:
    moves = WordPaths.between(points, baselines, masks_of(feature_mask, points))
    if contexts is None:
        return moves
    of_each = [contexts] * moves.n_examples if callable(contexts) else contexts
    if not isinstance(of_each, (list, tuple)) or not all(map(callable, of_each)):
        raise TypeError(
            f"contexts must be a callable such as captum_sig.contexts.two_sided, got {contexts!r}"
        )
    n_words = moves.scene.bincount(minlength=moves.n_examples).tolist()
    return moves.within(backgrounds(of_each, n_words).to(moves.scene.device))


def _standard_error(contexts: Contexts | Sequence[Contexts] | None) -> StandardError | None:
    one = contexts if contexts is None or callable(contexts) else contexts[0]
    return getattr(one, "standard_error", None)


@plain_tensors()
def input_problem(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    baselines: BaselineType,
    target: TargetType,
    additional_forward_args: object,
    feature_mask: Any,
    contexts: Contexts | Sequence[Contexts] | None,
    chunk: int | None,
    progress: bool,
) -> Problem:
    """The model's own inputs move."""
    points = input_tensors(inputs)
    for x in points:
        if not x.is_floating_point():
            raise TypeError(
                f"inputs are {x.dtype}, which has no gradient: for token ids use "
                "LayerSequentialIntegratedGradients(forward_func, model.get_input_embeddings())"
            )
    points = tuple(x.detach() for x in points)
    n_examples = points[0].shape[0]
    return Problem(
        function=RowFunction(
            forward=at_inputs(forward_func, additional_forward_args, n_examples),
            target=checked_target(target, n_examples),
            modules=modules_in(forward_func),
        ),
        moves=_in_contexts(contexts, points, alike(baselines, points, "baselines"), feature_mask),
        standard_error=_standard_error(contexts),
        contain=lambda tensors: tensors if isinstance(inputs, tuple) else tensors[0],
        chunk=chunk,
        progress=progress,
    )  # fmt: skip


@plain_tensors()
def layer_problem(
    forward_func: Callable[..., Any],
    layer: ModuleOrModuleList,
    device_ids: list[int] | None,
    inputs: Tensor | Tensors,
    baselines: BaselineType,
    layer_baselines: Any,
    target: TargetType,
    additional_forward_args: object,
    attribute_to_layer_input: bool,
    grad_kwargs: Mapping[str, Any] | None,
    feature_mask: Any,
    contexts: Contexts | Sequence[Contexts] | None,
    chunk: int | None,
    progress: bool,
) -> Problem:
    """The outputs (or inputs) of one or several layers move."""
    ids = input_tensors(inputs)
    layers: list[nn.Module] = layer if isinstance(layer, list) else [layer]
    if device_ids is None:
        device_ids = getattr(forward_func, "device_ids", None)

    read = functools.partial(
        capture, forward_func, layers, additional=additional_forward_args,
        device_ids=device_ids, attribute_to_layer_input=attribute_to_layer_input,
    )  # fmt: skip
    reading = read(ids)
    n_tensors = [len(of_layer) for of_layer in reading.activations]
    points = flat(reading.activations)
    at_baseline: Any
    if layer_baselines is None:
        base = alike(baselines, ids, "baselines")
        embedded_ids = (
            None if attribute_to_layer_input else embed_without_pass(layer, reading, ids, base)
        )
        at_baseline = flat(read(base).activations) if embedded_ids is None else embedded_ids
    elif baselines is None:
        at_baseline = layer_baselines
    else:
        raise ValueError("give either baselines (inputs) or layer_baselines (activations)")

    n_examples = ids[0].shape[0]
    function = RowFunction(
        forward=at_layer(forward_func, layers, ids, additional_forward_args, n_tensors,
                         device_ids, attribute_to_layer_input),
        target=checked_target(target, n_examples),
        modules=(*modules_in(forward_func), *(m for one in layers for m in one.modules())),
        grad_kwargs=grad_kwargs or {},
    )  # fmt: skip
    return Problem(
        function=function,
        whole=function.explained(reading.output, torch.arange(n_examples)),
        embedded_ids=_embedded_ids(layer, reading.received, points, attribute_to_layer_input),
        moves=_in_contexts(contexts, points, alike(at_baseline, points, "layer_baselines"),
                           feature_mask),
        standard_error=_standard_error(contexts),
        contain=functools.partial(_by_layer, isinstance(layer, list), n_tensors),
        chunk=chunk,
        progress=progress,
    )  # fmt: skip


def _by_layer(several: bool, n_tensors: Sequence[int], tensors: Tensors) -> Any:
    """All layers' tensors in Captum's containers."""
    remaining = iter(tensors)
    return format_outputs(several, [tuple(itertools.islice(remaining, n)) for n in n_tensors])


def _embedded_ids(
    layer: Any, received: Mapping[nn.Module, Any], points: Tensors, at_input: bool
) -> tuple[nn.Module, Tensor] | None:
    """An embedding and the ids that it was called with."""
    if not isinstance(layer, nn.Embedding) or at_input or len(received[layer]) != 1:
        return None
    (fed,) = received[layer]
    return (layer, fed) if fed.shape == points[0].shape[:2] else None

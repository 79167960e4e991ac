"""Captum's arguments in one canonical form, checked at the door: a `Problem`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._captum import BaselineType, ModuleOrModuleList, TargetType, format_outputs
from captum_sig.arguments import alike, checked_target, flat, input_tensors, masks_of
from captum_sig.contexts import Contexts, backgrounds
from captum_sig.function import RowFunction, Tensors, at_inputs
from captum_sig.hooks import at_layer, look_up, read_layers
from captum_sig.layers import modules_in
from captum_sig.moves import Moves
from captum_sig.problem import Problem, StandardError, plain_tensors


def _in_contexts(
    contexts: Contexts | Sequence[Contexts] | None,  # one for all examples, or for each its own
    points: Tensors,
    baselines: Tensors,
    feature_mask: Any,
) -> Moves:
    moves = Moves.between(points, baselines, masks_of(feature_mask, points))
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
        read_layers, forward_func, layers, additional=additional_forward_args,
        device_ids=device_ids, attribute_to_layer_input=attribute_to_layer_input,
    )  # fmt: skip
    reading = read(ids)
    n_tensors = [len(of_layer) for of_layer in reading.activations]
    points = flat(reading.activations)
    at_baseline: Any
    if layer_baselines is None:
        base = alike(baselines, ids, "baselines")
        looked_up = None if attribute_to_layer_input else look_up(layer, reading, ids, base)
        at_baseline = flat(read(base).activations) if looked_up is None else looked_up
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
        looked_up=_looked_up(layer, reading.received, points, attribute_to_layer_input),
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


def _looked_up(
    layer: Any, received: Mapping[nn.Module, Any], points: Tensors, at_input: bool
) -> tuple[nn.Module, Tensor] | None:
    """An embedding and the ids that it was called with."""
    if not isinstance(layer, nn.Embedding) or at_input or len(received[layer]) != 1:
        return None
    (fed,) = received[layer]
    return (layer, fed) if fed.shape == points[0].shape[:2] else None

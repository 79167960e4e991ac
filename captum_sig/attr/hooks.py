"""Layers seen and replaced from outside: what they give for the inputs, and rows in its place."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel.scatter_gather import scatter

from captum_sig._captum import format_additional_forward_args, forward_layer_eval, run_forward
from captum_sig.attr.function import Forward, Tensors, model_lock, of_rows


def at_layer(
    forward_func: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: Tensors,
    additional: object,
    n_tensors: Sequence[int],  # how many tensors each layer gives
    device_ids: list[int] | None,
    attribute_to_layer_input: bool,
) -> Forward:
    """Rows take the place of the layers' outputs; the model still receives its own inputs.

    So nothing but the layer changes: position ids, pooling and masks stay those of the input.
    """
    args = format_additional_forward_args(additional) or ()
    n_examples = inputs[0].shape[0]

    def forward(rows: Tensors, example: Tensor) -> object:
        with patched(layers, rows, n_tensors, device_ids, attribute_to_layer_input):
            return run_forward(
                forward_func,
                of_rows(inputs, example, n_examples),
                None,
                of_rows(args, example, n_examples),
            )

    return forward


@dataclass
class LayerOutputs:
    """What a pass of the untouched model shows of its layers."""

    activations: list[Tensors]  # what each layer gives (or receives), detached
    received: dict[nn.Module, Any]  # the positional arguments that each was called with
    output: object  # the model's


def capture(
    forward_func: Callable[..., Any],
    layers: list[nn.Module],
    inputs: Tensors,
    additional: object,
    device_ids: list[int] | None,
    attribute_to_layer_input: bool,
) -> LayerOutputs:
    """One pass for the inputs.

    Raises:
        ValueError: if a layer did not run, or gave anything but (B, L, …) floating tensors.
    """
    wanted = f"wanted floating activations ({inputs[0].shape[0]}, L, D)"
    ran: dict[nn.Module, Any] = {}
    output: object = None

    @functools.wraps(forward_func, updated=())
    def remembering(*args: Any) -> Any:
        nonlocal output
        output = forward_func(*args)
        return output

    def look(module: nn.Module, args: Any, output: Any = None) -> None:
        ran[module] = args
        given = args if attribute_to_layer_input else output
        tensors = given if isinstance(given, (tuple, list)) else (given,)
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors) or "nothing"
            raise ValueError(f"{_names([module])} gives {kinds}; {wanted}: pass another layer")

    with model_lock, _hooks(layers, [look] * len(layers), attribute_to_layer_input):
        try:
            activations = forward_layer_eval(
                remembering,
                inputs,
                layers,
                additional_forward_args=format_additional_forward_args(additional),
                device_ids=device_ids,
                attribute_to_layer_input=attribute_to_layer_input,
            )
        except (AssertionError, KeyError):  # Captum's own words for a layer that did not run
            _require_all_ran(layers, set(ran))
            raise
    for tensor in (tensor for of_layer in activations for tensor in of_layer):
        shape = tuple(tensor.shape)
        if len(shape) < 3 or shape[0] != inputs[0].shape[0] or not tensor.is_floating_point():
            raise ValueError(
                f"{_names(layers)} gives a {tensor.dtype} tensor of shape {shape}; {wanted} with "
                "positions in dim 1: pass a layer such as the word embedding"
            )
    detached = [tuple(tensor.detach() for tensor in of_layer) for of_layer in activations]
    return LayerOutputs(detached, ran, output)


def embed_without_pass(
    layer: Any, reading: LayerOutputs, inputs: Tensors, others: Tensors
) -> Tensor | None:
    """What a layer gives for other inputs, where that takes no pass of the whole model.

    That is, where it is an embedding that was called with the inputs as they are; else None.
    """
    if not isinstance(layer, nn.Embedding) or len(inputs) != 1 or len(reading.received[layer]) != 1:
        return None
    (fed,) = reading.received[layer]
    if fed.device != inputs[0].device or not torch.equal(fed, inputs[0]):
        return None
    with model_lock, torch.no_grad():  # another thread's hook may stand in the layer
        return layer(others[0])


def _require_all_ran(layers: Sequence[nn.Module], ran: set[nn.Module]) -> None:
    missing = [layer for layer in layers if layer not in ran]
    if missing:
        raise ValueError(
            f"{_names(missing)} did not run in the model's forward pass: pass a layer that does "
            "(of tied embeddings the one that is called, of a compiled model the original)"
        )


@contextmanager
def _hooks(
    layers: Sequence[nn.Module], hooks: Sequence[Callable[..., Any]], at_input: bool
) -> Iterator[None]:
    """While open, a hook on the output (or input) of each layer."""
    handles = []
    try:
        for layer, hook in zip(layers, hooks, strict=True):
            register = layer.register_forward_pre_hook if at_input else layer.register_forward_hook
            handles.append(register(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def patched(
    layers: Sequence[nn.Module],
    rows: Tensors,
    n_tensors: Sequence[int],
    device_ids: list[int] | None,
    at_input: bool,
) -> Iterator[None]:
    """While open, the layers give the rows in place of what they compute.

    Captum's own hook does this for gradients only and drops the outputs; values at the ends of
    the path must come through the same hook as the gradients, so there is one hook for both.
    """
    parts = scatter(rows, device_ids) if device_ids else (rows,)
    on_device = {part[0].device: part for part in parts}
    starts = [sum(n_tensors[:i]) for i in range(len(n_tensors))]
    calls: Counter[tuple[nn.Module, torch.device]] = Counter()

    def hook(number: int, module: nn.Module, args: Any, output: Any = None) -> Any:
        original = args if at_input else output
        is_tuple = isinstance(original, (tuple, list))
        device = (original[0] if is_tuple else original).device
        calls[layers[number], device] += 1
        if calls[layers[number], device] > 1:
            raise ValueError(
                f"{_names([module])} runs more than once in a forward pass, so its output is no "
                "single (B, L, D) tensor: pass a layer that runs once"
            )
        start = starts[number]
        mine = on_device[device][start : start + n_tensors[number]]
        own = tuple(tensor.clone() for tensor in mine)  # a model may change them in place
        return own if is_tuple else own[0]

    numbered = [functools.partial(hook, number) for number in range(len(layers))]
    with model_lock, _hooks(layers, numbered, at_input):
        yield
    _require_all_ran(layers, {layer for layer, _ in calls})


def _names(layers: Iterable[nn.Module]) -> str:
    return "layer " + ", ".join(type(layer).__name__ for layer in layers)


def input_device(model: nn.Module, layer: nn.Module) -> torch.device:
    """Where the layer takes its ids: where its weights are, or where an offloading hook moves them.

    A model that is spread over devices, or whose weights wait elsewhere, is asked as it is.
    """
    hooked = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
    if hooked is not None:
        return torch.device(hooked)
    return next(itertools.chain(layer.parameters(), model.parameters())).device

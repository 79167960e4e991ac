"""Capture and patch layers: read their activations, and replace them with rows."""

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
    *,
    additional_forward_args: object,
    n_tensors: Sequence[int],  # of each layer
    device_ids: list[int] | None,
    at_input: bool,
) -> Forward:
    """Feed rows to the model in place of the layers' outputs (or inputs).

    The model still receives its own inputs, so that only the layers change: position ids, pooling
    and masks stay those of the input.
    """
    args = format_additional_forward_args(additional_forward_args) or ()
    n_examples = inputs[0].shape[0]

    def forward(rows: Tensors, example: Tensor) -> object:
        with patched(layers, rows, n_tensors, device_ids=device_ids, at_input=at_input):
            return run_forward(
                forward_func,
                of_rows(inputs, example, n_examples),
                None,
                of_rows(args, example, n_examples),
            )

    return forward


@dataclass
class LayerOutputs:
    """The layers' activations in one pass of the unchanged model."""

    activations: list[Tensors]  # the outputs (or inputs) of each layer, detached
    received: dict[nn.Module, Any]  # the positional arguments of each layer's call
    output: object  # the model's


def capture(
    forward_func: Callable[..., Any],
    layers: list[nn.Module],
    inputs: Tensors,
    *,
    additional_forward_args: object = None,
    device_ids: list[int] | None = None,
    at_input: bool = False,
) -> LayerOutputs:
    """Run the model once, and capture the layers' activations.

    Raises:
        ValueError: if a layer did not run, or returned anything but (B, L, …) floating tensors.
    """
    wanted = f"wanted floating activations ({inputs[0].shape[0]}, L, D)"
    received: dict[nn.Module, Any] = {}
    model_output: object = None

    @functools.wraps(forward_func, updated=())
    def remembering(*args: Any) -> Any:
        nonlocal model_output
        model_output = forward_func(*args)
        return model_output

    def check(module: nn.Module, args: Any, output: Any = None) -> None:
        received[module] = args
        activation = args if at_input else output
        tensors = activation if isinstance(activation, (tuple, list)) else (activation,)
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors) or "nothing"
            raise ValueError(f"{_names([module])} returns {kinds}; {wanted}: pass another layer")

    with model_lock, _hooks(layers, [check] * len(layers), at_input):
        try:
            activations = forward_layer_eval(
                remembering,
                inputs,
                layers,
                additional_forward_args=format_additional_forward_args(additional_forward_args),
                device_ids=device_ids,
                attribute_to_layer_input=at_input,
            )
        except (AssertionError, KeyError):  # how Captum reports a layer that did not run
            _require_all_ran(layers, set(received))
            raise
    for tensor in (tensor for of_layer in activations for tensor in of_layer):
        shape = tuple(tensor.shape)
        if len(shape) < 3 or shape[0] != inputs[0].shape[0] or not tensor.is_floating_point():
            raise ValueError(
                f"{_names(layers)} returns a {tensor.dtype} tensor of shape {shape}; {wanted} with "
                "positions in dim 1: pass a layer such as the word embedding"
            )
    detached = [tuple(tensor.detach() for tensor in of_layer) for of_layer in activations]
    return LayerOutputs(detached, received, model_output)


def embed_without_pass(
    layer: Any, outputs: LayerOutputs, inputs: Tensors, others: Tensors
) -> Tensor | None:
    """Return the layer's output for other inputs if that takes no pass of the model, else None.

    It takes none if the layer is an embedding that was called with the inputs unchanged.
    """
    if not isinstance(layer, nn.Embedding) or len(inputs) != 1 or len(outputs.received[layer]) != 1:
        return None
    (received,) = outputs.received[layer]
    if received.device != inputs[0].device or not torch.equal(received, inputs[0]):
        return None
    with model_lock, torch.no_grad():  # the layer may hold another thread's hook
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
    """Register a hook on the output (or input) of each layer."""
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
    n_tensors: Sequence[int] = (1,),
    *,
    device_ids: list[int] | None = None,
    at_input: bool = False,
) -> Iterator[None]:
    """Replace the layers' outputs (or inputs) with the rows.

    Captum's own hook does this for gradients only and drops the outputs. Values at the ends of the
    path must come through the same hook as the gradients, so one hook serves both.
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
                f"{_names([module])} runs more than once in a forward pass, so its output is not a "
                "single (B, L, D) tensor: pass a layer that runs once"
            )
        start = starts[number]
        mine = on_device[device][start : start + n_tensors[number]]
        copies = tuple(tensor.clone() for tensor in mine)  # a model may change them in place
        return copies if is_tuple else copies[0]

    numbered = [functools.partial(hook, number) for number in range(len(layers))]
    with model_lock, _hooks(layers, numbered, at_input):
        yield
    _require_all_ran(layers, {layer for layer, _ in calls})


def _names(layers: Iterable[nn.Module]) -> str:
    return "layer " + ", ".join(type(layer).__name__ for layer in layers)


def input_device(model: nn.Module, layer: nn.Module) -> torch.device:
    """Return the device of the layer's ids.

    It is where the layer's weights are, or where an offloading hook moves them, so that a model
    spread over devices is used as it is.
    """
    by_hook = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
    if by_hook is not None:
        return torch.device(by_hook)
    return next(itertools.chain(layer.parameters(), model.parameters())).device

"""The model as a function of the tensors that move.

A *row* is one point at which the model is asked: for every moving tensor a slice (1, L, …), and
the number of the example it belongs to. `at_inputs` and `at_layer` say how rows reach the model;
`RowFunction` turns them into values and gradients of the explained output.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel.scatter_gather import scatter

from captum_sig._captum import (
    TargetType,
    format_additional_forward_args,
    forward_layer_eval,
    run_forward,
    select_targets,
)
from captum_sig.layers import rnns_can_go_backward

Tensors = tuple[Tensor, ...]
Forward = Callable[[Tensors, Tensor], object]  # (rows, example of each row) → model output

HOOKED = threading.RLock()  # held while a model is not as it was found: threads must not meet it


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While open, the modules' weights need no gradient, so that nothing is kept to compute it."""
    with HOOKED:
        weights = [
            weight
            for module in modules
            for weight in module.parameters(recurse=False)
            if weight.requires_grad and not weight.is_inference()  # those could not be set back
        ]
        try:
            for weight in weights:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in weights:
                weight.requires_grad_(True)


@dataclass(frozen=True)
class RowFunction:
    """F: the explained output of the model, one value per row."""

    forward: Forward
    target: TargetType
    modules: tuple[nn.Module, ...] = ()  # what is known to run inside `forward`
    grad_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def values(self, rows: Tensors, example: Tensor) -> Tensor:
        """F of each row, (R,), float32 at least; no graph is built."""
        with torch.no_grad():
            return _at_least_float32(self._outputs(rows, example))

    def gradients(self, rows: Tensors, example: Tensor) -> tuple[Tensor, Tensors]:
        """F of each row, (R,), in the model's dtype, and ∇F, shaped as the rows."""
        with torch.enable_grad(), frozen(self.modules), rnns_can_go_backward(self.modules):
            leaves = tuple(row.requires_grad_() for row in rows)
            outputs = self._outputs(leaves, example)
            if not outputs.requires_grad:
                raise ValueError(
                    "the model's output has no gradient with respect to the moving tensors: "
                    "pass a layer (or inputs) that the output depends on, "
                    "and a forward function that does not detach"
                )
            grads = torch.autograd.grad(
                outputs, leaves, torch.ones_like(outputs), **self.grad_kwargs
            )
        return outputs.detach(), tuple(
            torch.zeros_like(leaf) if grad is None else grad.detach()
            for leaf, grad in zip(leaves, grads, strict=True)
        )

    def _outputs(self, rows: Tensors, example: Tensor) -> Tensor:
        output = self.forward(rows, example)
        if not isinstance(output, Tensor):
            raise TypeError(
                f"forward_func must return a tensor, got {type(output).__name__}: "
                "wrap it, as in `lambda *args: model(*args).logits`"
            )
        target = _target_of_rows(self.target, example)
        try:
            selected = select_targets(output, target)
        except (AssertionError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"target {self.target!r} does not fit a model output of shape "
                f"{tuple(output.shape)}: {error}"
            ) from error
        n_rows = len(example)
        if selected.numel() != n_rows:
            hint = (
                "no target says which to explain: pass target="
                if self.target is None
                else f"target {self.target!r} leaves shape {tuple(selected.shape)}"
            )
            raise ValueError(
                f"F must give one value per row, but for {n_rows} rows the model's output has "
                f"shape {tuple(output.shape)} and {hint}"
            )
        return selected.reshape(n_rows)


def at_inputs(forward_func: Callable[..., Any], additional: object, n_examples: int) -> Forward:
    """Rows are the model's own inputs."""
    args = format_additional_forward_args(additional) or ()

    def forward(rows: Tensors, example: Tensor) -> object:
        return run_forward(forward_func, rows, None, _of_rows(args, example, n_examples))

    return forward


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
        with _swapped(layers, rows, n_tensors, device_ids, attribute_to_layer_input):
            return run_forward(
                forward_func,
                _of_rows(inputs, example, n_examples),
                None,
                _of_rows(args, example, n_examples),
            )

    return forward


def layer_activations(
    forward_func: Callable[..., Any],
    layers: list[nn.Module],
    inputs: Tensors,
    additional: object,
    device_ids: list[int] | None,
    attribute_to_layer_input: bool,
    received: dict[nn.Module, Any] | None = None,
) -> list[Tensors]:
    """What each layer gives (or receives) for the inputs, detached.

    `received` is filled with the positional arguments that each layer was called with.

    Raises:
        ValueError: if a layer did not run, or gave anything but (B, L, …) floating tensors.
    """
    wanted = f"wanted floating activations ({inputs[0].shape[0]}, L, D)"
    ran: dict[nn.Module, Any] = {} if received is None else received

    def look(module: nn.Module, args: Any, output: Any = None) -> None:
        ran[module] = args
        given = args if attribute_to_layer_input else output
        tensors = given if isinstance(given, (tuple, list)) else (given,)
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors) or "nothing"
            raise ValueError(f"{_names([module])} gives {kinds}; {wanted}: pass another layer")

    with HOOKED, _hooks(layers, [look] * len(layers), attribute_to_layer_input):
        try:
            activations = forward_layer_eval(
                forward_func,
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
    return [tuple(tensor.detach() for tensor in of_layer) for of_layer in activations]


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
def _swapped(
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
        return mine if is_tuple else mine[0]

    numbered = [functools.partial(hook, number) for number in range(len(layers))]
    with HOOKED, _hooks(layers, numbered, at_input):
        yield
    _require_all_ran(layers, {layer for layer, _ in calls})


def _of_rows(args: tuple[Any, ...], example: Tensor, n_examples: int) -> tuple[Any, ...]:
    """Each argument's entries for the rows; what is no tensor over the examples passes through."""
    return tuple(
        arg.index_select(0, example.to(arg.device))
        if isinstance(arg, Tensor) and arg.dim() > 0 and arg.shape[0] == n_examples
        else arg
        for arg in args
    )


def _target_of_rows(target: TargetType, example: Tensor) -> TargetType:
    if isinstance(target, list):
        return [target[i] for i in example.tolist()]
    if isinstance(target, Tensor) and target.numel() > 1:
        return target[example.to(target.device)]
    return target


def _at_least_float32(values: Tensor) -> Tensor:
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _names(layers: Iterable[nn.Module]) -> str:
    return "layer " + ", ".join(type(layer).__name__ for layer in layers)

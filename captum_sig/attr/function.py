"""The model as a function F of the tensors that move.

A *row* is one point at which the model is evaluated: a slice (1, L, …) of every moving tensor, and
the number of the example it belongs to. `at_inputs` and `hooks.at_layer` feed rows to the model;
`RowFunction` turns them into values and gradients of the explained output.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from captum_sig._captum import (
    TargetType,
    format_additional_forward_args,
    run_forward,
    select_targets,
)
from captum_sig._locks import ForkSafeLock
from captum_sig._warnings import warn

Tensors = tuple[Tensor, ...]
Forward = Callable[[Tensors, Tensor], object]  # (rows, example of each row) → model output

_cudnn_lock = ForkSafeLock()  # cuDNN's switch is the process's
hook_lock = ForkSafeLock()  # held while hooks are registered or removed, or modules copied


@dataclass(frozen=True)
class RowFunction:
    """F: the explained output of the model, one value per row."""

    forward: Forward
    target: TargetType
    modules: tuple[nn.Module, ...] = ()  # known to run inside `forward`
    grad_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def values(self, rows: Tensors, example: Tensor) -> Tensor:
        """Evaluate F without a graph: (R,), at least float32."""
        with torch.no_grad():
            values = self.select(self.forward(rows, example), example).detach()
        return values.to(at_least_float32(values.dtype))

    def gradients(self, rows: Tensors, example: Tensor) -> tuple[Tensor, Tensors]:
        """Evaluate F, (R,), in the model's dtype, and ∇F, shaped as the rows.

        The weights' gradients are not computed. What autograd keeps of the pass is less if the
        weights do not require any.
        """
        with torch.enable_grad(), rnns_can_go_backward(self.modules):
            leaves = tuple(row.requires_grad_() for row in rows)
            outputs = self.select(self.forward(leaves, example), example)
            grads = self._backward(outputs, leaves)
        return outputs.detach(), tuple(
            torch.zeros_like(leaf) if grad is None else grad.detach()
            for leaf, grad in zip(leaves, grads, strict=True)
        )

    def _backward(self, outputs: Tensor, leaves: Tensors) -> Sequence[Tensor | None]:
        options = {"allow_unused": False, **self.grad_kwargs}
        grads: Sequence[Tensor | None] = [None] * len(leaves)
        if outputs.requires_grad:
            ones = torch.ones_like(outputs)
            grads = torch.autograd.grad(outputs, leaves, ones, **options | {"allow_unused": True})
        n_unused = sum(grad is None for grad in grads)
        if n_unused == len(grads) or (n_unused and not options["allow_unused"]):
            raise ValueError(
                "the model's output has no gradient with respect to the moving tensors: "
                "pass a layer (or inputs) that the output depends on, "
                "and a forward function that does not detach"
            )
        return grads

    def select(self, output: object, example: Tensor) -> Tensor:
        """Select the explained value of each row from the model's output, (R,)."""
        if not isinstance(output, Tensor):
            raise TypeError(
                f"forward_func must return a tensor, got {type(output).__name__}: "
                "wrap it, as in `lambda *args: model(*args).logits`"
            )
        target = _target_of_rows(self.target, example, output.device)
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
                "no target says which to explain: pass target"
                if self.target is None
                else f"target {self.target!r} leaves shape {tuple(selected.shape)}"
            )
            raise ValueError(
                f"F must give one value per row, but for {n_rows} rows the model's output has "
                f"shape {tuple(output.shape)} and {hint}"
            )
        return selected.reshape(n_rows)


Read = Callable[[Tensor, Tensor], Tensor]  # output of R rows, their examples → T values, (R, T)


@dataclass(frozen=True, kw_only=True)
class ReadoutFunction(RowFunction):
    """F read from the model's output: T values for each row, or one of them."""

    target: TargetType = None
    read: Read
    column: int | None = None  # which value; None is all of them

    def select(self, output: Any, example: Tensor) -> Tensor:
        """Read the values, (R, T), or one of them, (R,)."""
        values = self.read(output, example.to(output.device))
        return values if self.column is None else values[:, self.column]


def at_inputs(
    forward_func: Callable[..., Any], additional_forward_args: object, inputs: Tensors
) -> Forward:
    """Feed rows to the model as its own inputs, shaped as they are."""
    args = format_additional_forward_args(additional_forward_args) or ()

    def forward(rows: Tensors, example: Tensor) -> object:
        shaped = tuple(
            row.view(len(row), *x.shape[1:]) for row, x in zip(rows, inputs, strict=True)
        )
        return run_forward(forward_func, shaped, None, of_rows(args, example, len(inputs[0])))

    return forward


def of_rows(args: tuple[Any, ...], example: Tensor, n_examples: int) -> tuple[Any, ...]:
    """Repeat each argument for the rows; only tensors with one entry per example are indexed."""
    return tuple(
        arg.index_select(0, example.to(arg.device))
        if isinstance(arg, Tensor) and arg.dim() > 0 and arg.shape[0] == n_examples
        else arg
        for arg in args
    )


def _target_of_rows(target: TargetType, example: Tensor, device: torch.device) -> TargetType:
    if isinstance(target, list):
        return [target[i] for i in example.tolist()]
    if isinstance(target, Tensor) and target.numel() > 1:
        return target[example.to(target.device)].to(device)
    return target


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to accumulate in."""
    return torch.promote_types(dtype, torch.float32)


def flat(nested: Any) -> Tensors:
    """Collect the tensors of Captum's containers: a tensor, a tuple, or a list of both."""
    if isinstance(nested, (tuple, list)):
        return tuple(tensor for part in nested for tensor in flat(part))
    return (nested,)


def modules_in(forward_func: Callable[..., Any]) -> tuple[nn.Module, ...]:
    """Find the modules that a forward function is known to run.

    These are the function itself if it is a module, and the modules that its owner or its closure
    refers to, directly or as an attribute.
    """
    if isinstance(forward_func, functools.partial):
        return modules_in(forward_func.func)
    references: Iterable[Any] = (forward_func, getattr(forward_func, "__self__", None))
    if inspect.isfunction(forward_func):
        try:
            variables = inspect.getclosurevars(forward_func)
        except ValueError:  # a variable of the closure has no value yet
            return ()
        references = (*variables.nonlocals.values(), *variables.globals.values())
    return tuple(module for ref in references for root in _held(ref) for module in root.modules())


def _held(reference: Any) -> list[nn.Module]:
    if isinstance(reference, nn.Module):
        return [reference]
    has_fields = hasattr(reference, "__dict__")
    if inspect.ismodule(reference) or inspect.isclass(reference) or not has_fields:
        return []
    return [value for value in vars(reference).values() if isinstance(value, nn.Module)]


Module = TypeVar("Module", bound=nn.Module)


def with_shared_weights(model: Module) -> Module:
    """Copy a model but not its weights and buffers: its modes and hooks concern no one else."""
    tensors = (*model.parameters(), *model.buffers())
    with hook_lock:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def warn_of_dropout(modules: Iterable[nn.Module]) -> None:
    """Warn if a module draws random numbers, so that F differs from call to call."""
    if any(
        module.training
        and (
            (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
            or (isinstance(module, nn.RNNBase) and module.dropout > 0)
        )
        for module in modules
    ):
        warn(
            "the model is in train mode with active dropout, so its output differs from pass to "
            "pass: call model.eval() first"
        )


def rows_share_scales(modules: Iterable[nn.Module]) -> bool:
    """Whether modules quantize the activations of all rows of a pass together."""
    dynamic = "torch.ao.nn.quantized.dynamic"
    return any(type(module).__module__.startswith(dynamic) for module in modules)


@contextmanager
def rnns_can_go_backward(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run RNNs without cuDNN, whose RNNs refuse a backward pass in eval mode."""
    if any(isinstance(module, nn.RNNBase) and not module.training for module in modules):
        with _cudnn_lock, torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield

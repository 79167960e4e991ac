"""Capture and patch layers: read their activations, and replace them with rows."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel.scatter_gather import scatter
from torch.utils.hooks import RemovableHandle

from captum_sig._captum import format_additional_forward_args, run_forward
from captum_sig._locks import ForkSafeLock
from captum_sig.attr.function import Forward, Tensors, hook_lock, of_rows

# Of layers that run several times in a pass, the call that is meant, from 0: one number for all, or
# one for each. None wants a layer that runs once.
Call = int | None | Sequence[int | None]

Around = Callable[[Callable[[], Any], Tensor], Any]  # a pass over rows, and the rows' examples


def at_layer(
    forward_func: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: Tensors,
    *,
    additional_forward_args: object,
    n_tensors: Sequence[int],  # of each layer
    device_ids: list[int] | None,
    at_input: bool,
    call: Call,
    around: Around | None = None,
) -> Forward:
    """Feed rows to the model in place of the layers' outputs (or inputs).

    The model still receives its own inputs, so that only the layers change: position ids, pooling
    and masks stay those of the input. `around` may do something around each pass.
    """
    args = format_additional_forward_args(additional_forward_args) or ()
    n_examples = inputs[0].shape[0]

    def forward(rows: Tensors, example: Tensor) -> object:
        def evaluate() -> object:
            with patched(
                layers, rows, n_tensors, device_ids=device_ids, at_input=at_input, call=call
            ):
                return run_forward(
                    forward_func,
                    of_rows(inputs, example, n_examples),
                    None,
                    of_rows(args, example, n_examples),
                )

        return evaluate() if around is None else around(evaluate, example)

    return forward


@dataclass
class LayerOutputs:
    """The layers' activations in one pass of the unchanged model."""

    activations: list[Tensors]  # the outputs (or inputs) of each layer, detached
    received: list[Any]  # the positional arguments of each layer's call
    output: object  # the model's

    def ids_of(self, number: int) -> Tensor | None:
        """Return what a layer was called with, if it is one tensor, such as token ids."""
        arguments = self.received[number]
        is_one = len(arguments) == 1 and isinstance(arguments[0], Tensor)
        return arguments[0] if is_one else None


def capture(
    forward_func: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: Tensors,
    *,
    additional_forward_args: object = None,
    device_ids: list[int] | None = None,
    at_input: bool = False,
    call: Call = None,
) -> LayerOutputs:
    """Run the model once, and capture the layers' activations.

    Raises:
        ValueError: if a layer did not run or ran more than once, or returned anything but floating
            tensors (B, …).
    """
    n_examples = inputs[0].shape[0]
    received: list[Any] = [() for _ in layers]
    of_layer: list[dict[torch.device, Tensors]] = [{} for _ in layers]
    calls = _Calls(layers, call)

    def read(number: int, module: nn.Module, args: Any, output: Any = None) -> None:
        activation = args if at_input else output
        tensors = activation if isinstance(activation, (tuple, list)) else (activation,)
        _require_activations(module, tensors)
        device = tensors[0].device
        if calls.is_meant(number, device):
            of_layer[number][device] = tuple(tensor.detach().clone() for tensor in tensors)
            received[number] = args

    with torch.no_grad(), _hooks(layers, read, device_ids, at_input):
        output = run_forward(
            forward_func, inputs, None, format_additional_forward_args(additional_forward_args)
        )
    calls.require_all()
    activations = [_gathered(by_device, device_ids) for by_device in of_layer]
    for layer, tensors in zip(layers, activations, strict=True):
        for tensor in tensors:
            if tensor.dim() == 0 or tensor.shape[0] != n_examples:
                raise ValueError(
                    f"{_names([layer])} returns a tensor of shape {tuple(tensor.shape)}; wanted "
                    f"floating activations ({n_examples}, L, …) with positions in dim 1: pass a "
                    "layer such as the word embedding"
                )
    return LayerOutputs(activations, received, output)


def _require_activations(module: nn.Module, tensors: Sequence[Any]) -> None:
    for tensor in tensors or (None,):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"{_names([module])} returns {kind}; wanted floating activations (B, L, …): pass "
                "another layer, such as the word embedding"
            )


def _gathered(by_device: Mapping[torch.device, Tensors], device_ids: list[int] | None) -> Tensors:
    """Concatenate the parts of a batch that DataParallel spreads over devices."""
    if len(by_device) == 1:
        return next(iter(by_device.values()))
    order = device_ids or []
    parts = [by_device[device] for device in sorted(by_device, key=lambda d: order.index(d.index))]
    first = parts[0][0].device
    return tuple(torch.cat([t.to(first) for t in tensors]) for tensors in zip(*parts, strict=True))


def embed_without_pass(
    layers: Sequence[Any], outputs: LayerOutputs, inputs: Tensors, others: Tensors
) -> Tensors | None:
    """Return the layers' outputs for other inputs if that takes no pass of the model, else None.

    It takes none if all layers are embeddings that were called with the inputs as they are; those
    after the first, also with the inputs shifted to the right (see `shift_of`).
    """
    if len(inputs) != 1 or not all(isinstance(layer, nn.Embedding) for layer in layers):
        return None
    embedded = []
    for number, layer in enumerate(layers):
        received = outputs.ids_of(number)
        n = None if received is None else shift_of(received, inputs[0], most=min(number, 1))
        if received is None or n is None:
            return None
        with torch.no_grad():
            embedded.append(layer(shifted(others[0], received, n) if n else others[0]))
    return tuple(embedded)


def shift_of(received: Tensor, ids: Tensor, most: int) -> int | None:
    """Return by how many positions, at most so many, ids were shifted; None if they are others.

    The decoder of a classifier that has an encoder too reads the encoder's text one position later,
    behind an id of its own (transformers' `shift_tokens_right`).

    >>> shift_of(torch.tensor([[0, 7, 8]]), torch.tensor([[7, 8, 9]]), most=1)
    1
    """
    if received.shape != ids.shape or received.device != ids.device:
        return None
    for n in range(most + 1):
        if torch.equal(received, ids if n == 0 else shifted(ids, received, n)):
            return n
    return None


def shifted(values: Tensor, own: Tensor, n: int) -> Tensor:
    """Move values, (R, L, …), n positions to the right, behind the first n of another tensor's.

    >>> shifted(torch.tensor([[7, 8, 9]]), own=torch.tensor([[0, 1, 2]]), n=1)
    tensor([[0, 7, 8]])
    """
    first = own[:, :n].expand(len(values), *[-1] * (own.dim() - 1))
    return torch.cat([first, values[:, : values.shape[1] - n]], dim=1)


class _Calls:
    """Counts the calls of each layer in a pass, and knows the one that is meant."""

    def __init__(self, layers: Sequence[nn.Module], call: Call) -> None:
        self.layers = layers
        of_all = call is None or isinstance(call, int)
        self.call: Sequence[int | None] = [call] * len(layers) if of_all else call  # type: ignore[assignment, list-item]
        self.counts: Counter[tuple[int, torch.device]] = Counter()

    def is_meant(self, number: int, device: torch.device) -> bool:
        """Count a call; raises ValueError for a second one if none is chosen."""
        count = self.counts[number, device]
        self.counts[number, device] += 1
        meant = self.call[number]
        if meant is None and count > 0:
            raise ValueError(
                f"{_names([self.layers[number]])} runs more than once in a forward pass: pass a "
                "layer that runs once, or choose the call whose output moves by layer_call=0, 1, … "
                "of LayerSequentialIntegratedGradients"
            )
        return count == (meant or 0)

    def require_all(self) -> None:
        """Raise ValueError for a layer that has not run, or too few times."""
        n_calls = {number: count for (number, _), count in self.counts.items()}
        missing = [layer for n, layer in enumerate(self.layers) if n not in n_calls]
        if missing:
            raise ValueError(
                f"{_names(missing)} did not run in the model's forward pass: pass a layer that "
                "does, in the calling thread (of tied embeddings the one that is called; of a "
                "compiled model the original, or after model.compile() that of "
                "copy.deepcopy(model))"
            )
        for number, meant in enumerate(self.call):
            if meant is not None and meant >= n_calls[number]:
                raise ValueError(
                    f"{_names([self.layers[number]])} runs {n_calls[number]} times in a forward "
                    f"pass, so layer_call must be at most {n_calls[number] - 1}, got {meant}"
                )


class _Thread:
    """The thread that made this object, as seen by hooks, which any thread may run."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._local.is_here = True

    @property
    def is_current(self) -> bool:
        return getattr(self._local, "is_here", False)


_registered: dict[RemovableHandle, _Thread] = {}  # the hooks of all threads
_data_parallel_lock = ForkSafeLock()  # held while a layer's copies are marked
_MAKER = "_captum_sig_thread"  # in a layer's copy: the thread that made it


@contextmanager
def _hooks(
    layers: Sequence[nn.Module],
    hook: Callable[..., Any],  # number of the layer, module, arguments, output unless at its input
    device_ids: list[int] | None,
    at_input: bool,
) -> Iterator[None]:
    """Register a hook on the output (or input) of each layer, for passes of this thread only."""
    thread = _Thread()
    registrations: list[Registration] = [
        (
            layer.register_forward_pre_hook if at_input else layer.register_forward_hook,
            functools.partial(hook, number),
        )
        for number, layer in enumerate(layers)
    ]
    with ExitStack() as stack:
        stack.enter_context(hooked(registrations, thread))
        if device_ids is not None and len(device_ids) > 1:
            stack.enter_context(_copies_marked(layers, thread))
        yield


# What registers a hook, such as a bound `register_forward_hook`, and the hook.
Registration = tuple[Callable[[Callable[..., Any]], RemovableHandle], Callable[..., Any]]


@contextmanager
def hooked(registrations: Iterable[Registration], thread: _Thread | None = None) -> Iterator[None]:
    """Register hooks for passes of this thread only, and remove them afterwards.

    A pass of another thread runs them too, which then change nothing.
    """
    mine = thread or _Thread()

    def act(hook: Callable[..., Any], module: nn.Module, *args: Any) -> Any:
        if mine.is_current or vars(module).get(_MAKER) is mine:
            return hook(module, *args)
        return None

    def remove(handle: RemovableHandle) -> None:
        with hook_lock:
            handle.remove()
            _registered.pop(handle, None)

    with ExitStack() as stack:
        for register, hook in registrations:
            with hook_lock:
                handle = register(functools.partial(act, hook))
                _registered[handle] = mine
            stack.callback(remove, handle)
        yield


@contextmanager
def _copies_marked(layers: Sequence[nn.Module], thread: _Thread) -> Iterator[None]:
    """Mark the copies of layers that a thread makes: DataParallel runs them in other threads."""

    def copied(make: Callable[[], nn.Module]) -> nn.Module:
        copy = make()
        if thread.is_current:
            vars(copy)[_MAKER] = thread
        return copy

    name = "_replicate_for_data_parallel"
    with _data_parallel_lock:
        try:
            for layer in layers:
                vars(layer)[name] = functools.partial(copied, getattr(layer, name))
            yield
        finally:
            for layer in layers:
                vars(layer).pop(name, None)


def structure_of(model: nn.Module) -> tuple[Any, ...]:
    """Return what decides what a model computes beside its weights: modules, and users' hooks.

    It changes where a module or its `forward` is replaced, or a user's hook added or removed,
    except on the model itself, which sees what goes in and comes out.
    """
    ours = _our_hooks()
    return tuple(
        (
            id(module),
            id(vars(module).get("forward")),
            *([] if module is model else map(tuple, _users_hooks(module, ours))),
        )
        for module in model.modules()
    )


def follow(copy: nn.Module, module: nn.Module) -> None:
    """Give a module's copy the weights and users' hooks that the module has by now."""
    ours = _our_hooks()
    for inner, of in zip(copy.modules(), module.modules(), strict=True):
        inner._parameters, inner._buffers = of._parameters, of._buffers
        for hooks, before, now in zip(
            (inner._forward_pre_hooks, inner._forward_hooks),
            _users_hooks(inner, ours),
            _users_hooks(of, ours),
            strict=True,
        ):
            if list(before) != list(now):
                with hook_lock:
                    for number in before:
                        hooks.pop(number, None)
                    hooks.update(now)


def _our_hooks() -> set[int]:
    """Return the numbers of the hooks of this file, of all threads."""
    with hook_lock:
        return {handle.id for handle in _registered}


def _users_hooks(module: nn.Module, ours: set[int]) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return a module's hooks, before its forward pass and after it, without ours."""
    before, after = (
        {number: hook for number, hook in list(hooks.items()) if number not in ours}
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
    )
    return before, after


def _remove_hooks_of_other_threads() -> None:
    """Remove the hooks of threads that a forked child does not have."""
    for handle, thread in list(_registered.items()):
        if not thread.is_current:
            handle.remove()
            del _registered[handle]


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_remove_hooks_of_other_threads)


@contextmanager
def patched(
    layers: Sequence[nn.Module],
    rows: Tensors,
    n_tensors: Sequence[int] = (1,),
    *,
    device_ids: list[int] | None = None,
    at_input: bool = False,
    call: Call = None,
) -> Iterator[None]:
    """Replace the layers' outputs (or inputs) with the rows, in passes of this thread.

    Captum's own hook does this for gradients only and drops the outputs. Values at the ends of the
    path must come through the same hook as the gradients, so one hook serves both.
    """
    parts = scatter(rows, device_ids) if device_ids else (rows,)
    on_device = {part[0].device: part for part in parts}
    starts = [sum(n_tensors[:i]) for i in range(len(n_tensors))]
    calls = _Calls(layers, call)

    def replace(number: int, module: nn.Module, args: Any, output: Any = None) -> Any:
        original = args if at_input else output
        is_tuple = isinstance(original, (tuple, list))
        first = original[0] if is_tuple else original
        device = first.device
        if not calls.is_meant(number, device):
            return None
        start = starts[number]
        mine = on_device[device][start : start + n_tensors[number]]
        copies = tuple(tensor.clone() for tensor in mine)  # a model may change them in place
        if first.dim() == 1:
            copies = tuple(tensor.squeeze(1) for tensor in copies)
        return copies if is_tuple else copies[0]

    with _hooks(layers, replace, device_ids, at_input):
        yield
    calls.require_all()


@contextmanager
def with_input(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Change a layer's first positional argument, in passes of this thread."""

    def act(number: int, module: nn.Module, args: Any) -> Any:
        return change(args[0]), *args[1:]

    with _hooks([layer], act, None, True):
        yield


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

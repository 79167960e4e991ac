"""The last layer of a transformer, computed only at the positions that the head reads.

After the last attention, positions no longer meet: a head that reads one position needs that
position's feed-forward network alone. So in the last layer the residual stream, (R, L, D), is cut
to the n positions that are read, while the attention still receives all of them:

    layer(h):  h → h[read];   what reads h up to the attention → h;   attention's output → [read];
               the layer's output → back in place, NaN at all other positions

The NaN is what makes this safe: a head that reads any other position, however little, returns NaN.
Every pass is checked in this way; and once, on unchanged inputs, whether values are the same. Where
they are not, or nothing like a last layer is found, all positions are computed, and `why_not` says
why. What is learnt holds for these modules and hooks: a hook of the user's on the last layer sees
only the positions read, and one that is added later wants another `find`.

R rows, L positions, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.chunks import product_epsilon
from captum_sig.attr.hooks import Registration, hooked

MAX_ROUNDINGS = 128  # how many of a product's roundings a value may differ by

Choose = Callable[[Tensor], Tensor]  # which positions are attended, (R, L) → the ones read, (R, n)
Evaluate = Callable[[], Tensor]  # a pass over R rows → the model's output, (R, …)


def first_attended(attended: Tensor) -> Tensor:
    """Return the first position of each row that is attended, (R, 1).

    >>> first_attended(torch.tensor([[0, 1, 1], [1, 1, 0]])).tolist()
    [[1], [0]]
    """
    return (attended != 0).int().argmax(1, keepdim=True)


def last_attended(attended: Tensor) -> Tensor:
    """Return the last position of each row that is attended, (R, 1).

    >>> last_attended(torch.tensor([[0, 1, 1], [1, 1, 0]])).tolist()
    [[2], [1]]
    """
    return attended.shape[1] - 1 - first_attended(attended.flip(1))


def last_positions(n: int) -> Choose:
    """Return what chooses the last n positions of each row: those whose next tokens are predicted.

    >>> last_positions(2)(torch.ones(1, 5)).tolist()
    [[3, 4]]
    """

    def choose(attended: Tensor) -> Tensor:
        length = attended.shape[1]
        read = torch.arange(max(0, length - n), length, device=attended.device)
        return read.expand(len(attended), -1)

    return choose


CHOICES: dict[str, Choose] = {"first": first_attended, "last": last_attended}


@dataclass(frozen=True)
class LastLayer:
    """A layer with an attention in it, as they run last in a pass."""

    layer: nn.Module
    attention: nn.Module  # the first that runs in the layer
    call: int  # of the layer's calls in a pass, from 0: layers may be shared

    @property
    def around(self) -> list[nn.Module]:
        """What runs in the layer beside the attention, neither in it nor around it."""
        found: list[nn.Module] = []
        node = self.layer
        while node is not self.attention:
            inner = next(child for child in node.children() if _contains(child, self.attention))
            found += (child for child in node.children() if child is not inner)
            node = inner
        return found

    @contextmanager
    def cut_to(self, read: Tensor) -> Iterator[None]:  # (R, n)
        """Compute only these positions after the attention, in passes of this thread."""
        cut = _Cut(self, read)
        registrations: list[Registration] = [
            (partial(self.layer.register_forward_pre_hook, with_kwargs=True), cut.enter),
            (self.layer.register_forward_hook, cut.leave),
            (self.attention.register_forward_hook, cut.after_attention),
        ]
        for module in (*self.around, self.attention):
            register = partial(module.register_forward_pre_hook, with_kwargs=True)
            registrations.append((register, cut.before_module))
        with hooked(registrations):
            yield


class _Cut:
    """What the hooks of one pass know."""

    def __init__(self, last: LastLayer, read: Tensor) -> None:
        self.last, self.read = last, read
        self.row = torch.arange(len(read), device=read.device)[:, None]
        self.n_calls = 0
        self.full: Tensor | None = None  # h, while the layer runs
        self.part: Tensor | None = None  # h at the positions read, until the attention has run

    def of(self, full: Tensor) -> Tensor:
        """(R, L, …) → (R, n, …)."""
        read = self.read.to(full.device)
        return full[self.row.to(full.device), read]

    def enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Pass on only the positions read."""
        number, self.n_calls = self.n_calls, self.n_calls + 1
        if number != self.last.call:
            return None
        given = next(iter((*args, *kwargs.values())), None)
        if not isinstance(given, Tensor) or given.dim() != 3 or len(given) != len(self.read):
            raise NotCutError("it does not begin with states (R, L, D)")
        self.full, self.part = given, self.of(given)
        return _with(args, kwargs, {id(given): self.part})

    def before_module(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Up to the attention, pass on all positions; after it, only those read."""
        if self.full is None:
            return None
        if self.part is not None:
            return _with(args, kwargs, {id(self.part): self.full})
        first = next(iter((*args, *kwargs.values())), None)
        if not isinstance(first, Tensor) or first.shape[:2] != self.full.shape[:2]:
            return None
        return _with(args, kwargs, {id(first): self.of(first)})

    def after_attention(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Keep the attention's output at the positions read."""
        if self.full is None or self.part is None:
            return None
        self.part = None
        return _with_first(output, self.of)

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Put the layer's output in its place, NaN elsewhere."""
        full, self.full = self.full, None
        if full is None:
            return None
        if self.part is not None:
            raise NotCutError("its attention did not run")

        def in_place(part: Tensor) -> Tensor:
            if part.shape[:2] != self.read.shape:
                raise NotCutError("its parts need all positions")
            whole = part.new_full((*full.shape[:2], *part.shape[2:]), torch.nan)
            whole[self.row.to(part.device), self.read.to(part.device)] = part
            return whole

        return _with_first(output, in_place)


class NotCutError(Exception):
    """A model's last layer cannot be computed at some positions only; the message says why."""


def _with(args: Any, kwargs: Mapping[str, Any], replaced: Mapping[int, Tensor]) -> Any:
    """Replace arguments, known by their identity."""
    return (
        tuple(replaced.get(id(value), value) for value in args),
        {name: replaced.get(id(value), value) for name, value in kwargs.items()},
    )


def _with_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change a module's output, or the first of several."""
    if isinstance(output, Tensor):
        return change(output)
    return type(output)((change(output[0]), *output[1:]))


def _contains(module: nn.Module, other: nn.Module) -> bool:
    return any(inner is other for inner in module.modules())


def last_layers(model: nn.Module, evaluate: Callable[[], object]) -> list[LastLayer]:
    """Find what may be the last layer of a model, in one pass; the outermost first.

    It is an entry of a `ModuleList`, and has an attention, which is known by its class's name.
    """
    attentions = _innermost_attentions(model)
    entries = {
        entry: [one for one in attentions if _contains(entry, one)]
        for modules in model.modules()
        if isinstance(modules, nn.ModuleList)
        for entry in modules
    }
    layers = [entry for entry, inner in entries.items() if inner and entry not in attentions]
    calls: list[nn.Module] = []

    def note(module: nn.Module, args: Any) -> None:
        calls.append(module)

    with hooked([(of.register_forward_pre_hook, note) for of in (*attentions, *layers)]):
        evaluate()
    last = next((module for module in reversed(calls) if module in attentions), None)
    found = []
    for layer in layers:
        if last in entries[layer] and layer in calls:
            begun = len(calls) - 1 - calls[::-1].index(layer)
            first = next((m for m in calls[begun:] if m in entries[layer]), None)
            if first is not None:
                found.append(LastLayer(layer, first, calls.count(layer) - 1))
    return found


def _innermost_attentions(model: nn.Module) -> list[nn.Module]:
    def is_attention(module: nn.Module) -> bool:
        name = type(module).__name__.lower()
        return "attention" in name or "attn" in name

    return [
        module
        for module in model.modules()
        if is_attention(module)
        and not any(is_attention(inner) for inner in module.modules() if inner is not module)
    ]


class ReadPositions:
    """Evaluates a model's rows, its last layer only at the positions that its head reads.

    Args:
        choices: the positions that may be read, by name; the first choice that fits serves.
    """

    def __init__(self, choices: Mapping[str, Choose] = CHOICES) -> None:
        self.choices = choices
        self.last: LastLayer | None = None
        self.name: str | None = None  # of the choice
        self.why_not: str | None = None  # why all positions are computed

    def __repr__(self) -> str:
        if self.last is None:
            return f"all positions: {self.why_not or 'no row has been evaluated yet'}"
        return f"{self.name} position, in {type(self.last.layer).__name__}"

    @property
    def is_known(self) -> bool:
        """Whether it is known what the head reads, or that all is computed."""
        return self.last is not None or self.why_not is not None

    @torch.no_grad()
    def find(
        self, model: nn.Module, evaluate: Evaluate, attended: Tensor, expected: Tensor
    ) -> None:
        """Find what the head reads, from a few passes over inputs as they are.

        Args:
            model: what runs in `evaluate`.
            evaluate: a pass over the inputs.
            attended: which positions are, (R, L).
            expected: the model's output for them, (R, …).
        """
        why_not = "the model has no last layer with an attention that runs"
        limit = MAX_ROUNDINGS * product_epsilon(expected) * float(expected.abs().max())
        for last in last_layers(model, evaluate):
            for name, choose in self.choices.items():
                read = choose(attended)
                if read.shape[1] >= attended.shape[1]:
                    return  # nothing to leave out in these inputs: others will show it
                try:
                    with last.cut_to(read):
                        output = evaluate()
                except Exception as error:  # whatever a model's own code makes of fewer positions
                    why_not = f"{type(last.layer).__name__}: {error}"
                    continue
                if not output.isfinite().all():
                    why_not = "the head reads other positions than the first, or the last"
                elif (output - expected).abs().max() > limit:
                    why_not = f"{type(last.layer).__name__} gives other values for one position"
                else:
                    self.last, self.name = last, name
                    return
        self.why_not = why_not

    def evaluate(self, evaluate: Evaluate, attended: Tensor) -> Tensor:
        """Evaluate rows: as they are where nothing is known, or a gradient is needed.

        Args:
            evaluate: a pass over the rows.
            attended: which positions are, (R, L).
        """
        last, name = self.last, self.name  # which another thread may forget meanwhile
        if last is None or name is None or torch.is_grad_enabled():
            return evaluate()
        read = self.choices[name](attended)
        if read.shape[1] >= attended.shape[1]:
            return evaluate()
        try:
            with last.cut_to(read):
                output = evaluate()
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            why_not = f"{type(last.layer).__name__}: {error}"
        else:
            if output.isfinite().all():
                return output
            why_not = "the head reads other positions for some rows"
        output = evaluate()  # a model's own errors, and what is not finite in itself, stay
        if output.isfinite().all():
            self.last, self.name, self.why_not = None, None, why_not
        return output

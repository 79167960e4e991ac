"""Captum's arguments in one canonical form, checked at the door, and what is asked of it.

A `Problem` is F as a function of rows, and the moves between input and baseline. Both SIG classes
make one from their arguments (`input_problem`, `layer_problem`) and ask it for scores.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._captum import BaselineType, ModuleOrModuleList, TargetType, format_outputs
from captum_sig.function import (
    RowFunction,
    Tensors,
    at_inputs,
    at_layer,
    layer_activations,
)
from captum_sig.layers import modules_in
from captum_sig.notices import warn
from captum_sig.path import Moves, move_values, path_gradients
from captum_sig.quadrature import rule
from captum_sig.words import masks_of


@dataclass(frozen=True)
class SequentialIntegral:
    """What `integrate` returns; tensors in Captum's container (a tuple for tuples, and so on).

    `attributions` is (B, L, …), in float32 at least. The others are (B, L), and every position of
    a word carries its word's value: `word_delta` is Σ_j SIG_wj − (F(x) − F(x̄ʷ)), the quadrature's
    measured error in units of F; `n_evaluations` counts gradients, 0 where nothing differs;
    `converged` is False only for words that stopped short of a tolerance that was asked for.
    """

    attributions: Any
    word_delta: Any
    n_evaluations: Any
    converged: Any


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Callers may be in no_grad or inference mode; rows need tensors that can require grad."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass(frozen=True)
class Problem:
    """F, the words that move, and how the caller wants tensors contained."""

    function: RowFunction
    moves: Moves
    contain: Callable[[Tensors], Any]
    chunk: int | None
    progress: bool

    def __post_init__(self) -> None:
        """Check the chunk and say what the caller would not expect."""
        if self.chunk is not None and not (isinstance(self.chunk, int) and self.chunk >= 1):
            raise ValueError(f"internal_batch_size must be at least 1 row, got {self.chunk!r}")
        if len(self.moves) == 0:
            warn("nothing differs between input and baseline: every attribution is zero")

    @plain_tensors()
    def values(self) -> tuple[Tensor, Tensor]:
        """F(x) and F(x̄ʷ) of every move, (P,) each."""
        return move_values(self.function, self.moves, self.chunk, self.progress)

    def word_scores(self) -> Any:
        """Exact Σ_j SIG_wj = F(x) − F(x̄ʷ), (B, L) in the caller's container."""
        return self.contain(self.moves.spread(self._drops()))

    @plain_tensors()
    def integral(
        self, n_steps: int, method: str, multiply_by_inputs: bool
    ) -> tuple[SequentialIntegral, Tensor]:
        """SIG by quadrature, and its convergence delta (B,): the word deltas summed."""
        nodes = rule(method, n_steps)
        drops = self._drops()
        gradients = path_gradients(self.function, self.moves, nodes, self.chunk, self.progress)
        products = tuple(
            gradient * (x.to(gradient.dtype) - b.to(gradient.dtype))
            for gradient, x, b in zip(
                gradients, self.moves.points, self.moves.baselines, strict=True
            )
        )
        delta = self.moves.sums(products) - drops
        used = torch.full_like(self.moves.example, len(nodes.nodes))
        result = SequentialIntegral(
            attributions=self.contain(products if multiply_by_inputs else gradients),
            word_delta=self.contain(self.moves.spread(delta)),
            n_evaluations=self.contain(self.moves.spread(used)),
            converged=self.contain(
                tuple(torch.ones_like(of, dtype=torch.bool) for of in self.moves.move_of)
            ),
        )
        return result, self._per_example(delta)

    @plain_tensors()
    def convergence_delta(self, attributions: Any) -> Tensor:
        """Σ_w [Σ_j A_wj − (F(x) − F(x̄ʷ))] of attributions A that the caller holds, (B,)."""
        tensors = _flat(attributions)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        wanted = [tuple(x.shape) for x in self.moves.points]
        if shapes != wanted:
            raise ValueError(f"attributions have shapes {shapes}; wanted {wanted}")
        total = sum(tensor.flatten(1).sum(1) for tensor in tensors)
        return total - self._per_example(self._drops())

    def _drops(self) -> Tensor:
        whole, at_baseline = self.values()
        return whole - at_baseline

    def _per_example(self, per_move: Tensor) -> Tensor:
        n_examples = self.moves.points[0].shape[0]
        return per_move.new_zeros(n_examples).index_add_(0, self.moves.example, per_move)


@plain_tensors()
def input_problem(
    forward_func: Callable[..., Any],
    inputs: Tensor | Tensors,
    baselines: BaselineType,
    target: TargetType,
    additional_forward_args: object,
    feature_mask: Any,
    chunk: int | None,
    progress: bool,
) -> Problem:
    """The model's own inputs move."""
    points = _input_tensors(inputs)
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
            target=_checked_target(target, n_examples),
            modules=modules_in(forward_func),
        ),
        moves=Moves.between(points, _alike(baselines, points, "baselines"),
                            masks_of(feature_mask, points)),
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
    chunk: int | None,
    progress: bool,
) -> Problem:
    """The outputs (or inputs) of one or several layers move."""
    ids = _input_tensors(inputs)
    layers: list[nn.Module] = layer if isinstance(layer, list) else [layer]
    if device_ids is None:
        device_ids = getattr(forward_func, "device_ids", None)

    def activations(of: Tensors) -> list[Tensors]:
        return layer_activations(
            forward_func, layers, of, additional_forward_args, device_ids, attribute_to_layer_input
        )

    nested = activations(ids)
    n_tensors = [len(of_layer) for of_layer in nested]
    points = _flat(nested)
    if layer_baselines is None:
        at_baseline = _flat(activations(_alike(baselines, ids, "baselines")))
    elif baselines is None:
        at_baseline = layer_baselines
    else:
        raise ValueError("give either baselines (inputs) or layer_baselines (activations)")

    def contain(tensors: Tensors) -> Any:
        remaining = iter(tensors)
        return format_outputs(
            isinstance(layer, list),
            [tuple(next(remaining) for _ in range(count)) for count in n_tensors],
        )

    n_examples = ids[0].shape[0]
    return Problem(
        function=RowFunction(
            forward=at_layer(forward_func, layers, ids, additional_forward_args, n_tensors,
                             device_ids, attribute_to_layer_input),
            target=_checked_target(target, n_examples),
            modules=(*modules_in(forward_func), *(m for one in layers for m in one.modules())),
            grad_kwargs=grad_kwargs or {},
        ),
        moves=Moves.between(points, _alike(at_baseline, points, "layer_baselines"),
                            masks_of(feature_mask, points)),
        contain=contain,
        chunk=chunk,
        progress=progress,
    )  # fmt: skip


def _input_tensors(inputs: Tensor | Tensors) -> Tensors:
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


def _alike(given: Any, points: Tensors, name: str) -> Tensors:
    """Baselines in all of Captum's forms → one tensor for each point, of its shape and dtype."""
    values = _flat(given) if isinstance(given, (tuple, list)) else (given,) * len(points)
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
            f"{tuple(x.shape)} or {(1, *x.shape[1:])} of {x.dtype}{advice}"
        )
    return tensor.to(x.dtype).expand(x.shape)


def _checked_target(target: Any, n_examples: int) -> TargetType:
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


def _flat(nested: Any) -> Tensors:
    """Tensors out of Captum's containers: a tensor, a tuple, a list of both."""
    if isinstance(nested, (tuple, list)):
        return tuple(tensor for part in nested for tensor in _flat(part))
    return (nested,)

"""Captum's arguments in one canonical form, checked at the door, and what is asked of it.

A `Problem` is F as a function of rows, and the moves between input and baseline. Both SIG classes
make one from their arguments (`input_problem`, `layer_problem`) and ask it for scores.
"""

from __future__ import annotations

import functools
import itertools
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._captum import BaselineType, ModuleOrModuleList, TargetType, format_outputs
from captum_sig.adaptive import STARTS
from captum_sig.arguments import alike, checked_target, flat, input_tensors
from captum_sig.chunks import Chunks
from captum_sig.function import HOOKED, RowFunction, Tensors, at_inputs
from captum_sig.hooks import at_layer, read_layers
from captum_sig.layers import modules_in
from captum_sig.notices import warn
from captum_sig.path import Averages, Moves, by_rule, move_values
from captum_sig.quadrature import rule
from captum_sig.refinement import to_tolerance
from captum_sig.words import masks_of


@dataclass(frozen=True)
class SequentialIntegral:
    """What `integrate` returns; tensors in Captum's container (a tuple for tuples, and so on).

    `attributions` is (B, L, …), in float32 at least. The others are (B, L), and every position of
    a word carries its word's value: `word_delta` is Σ_j SIG_wj − (F(x) − F(x̄ʷ)), the quadrature's
    measured error in units of F; `n_evaluations` counts gradients, 0 where nothing differs (with a
    tolerance, the one at the input is computed once for all words of the example); `converged` is
    False only for words that stopped short of a tolerance that was asked for.
    """

    attributions: Any
    word_delta: Any
    n_evaluations: Any
    converged: Any


Integrate = Callable[[RowFunction, Moves, Chunks, Tensor | None], Averages]


class Default(int):
    """A default that can be told from the same number given by a caller."""


N_STEPS = Default(50)  # Captum's
MOST_NODES = 129  # of a word with a tolerance, if the caller gives no `n_steps`
FEWEST_NODES = STARTS[-1]  # to see a path's error at all


def quadrature(method: str, n_steps: int, tolerance: float | None) -> Integrate:
    """How Captum's arguments, and a tolerance, say to integrate.

    Raises:
        ValueError: if they do not fit together.
    """
    if tolerance is None:
        return functools.partial(by_rule, rule=rule(method, n_steps))
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
    whole: Tensor | None = None  # (B,): F(x), where reading the layer has shown it

    def __post_init__(self) -> None:
        """Check the chunk and say what the caller would not expect."""
        if self.chunk is not None and not (isinstance(self.chunk, int) and self.chunk >= 1):
            raise ValueError(f"internal_batch_size must be at least 1 row, got {self.chunk!r}")
        if len(self.moves) == 0:
            warn("nothing differs between input and baseline: every attribution is zero")

    @plain_tensors()
    def values(self) -> tuple[Tensor, Tensor]:
        """F(x) and F(x̄ʷ) of every move, (P,) each."""
        with self._chunks() as chunks:
            return move_values(self.function, self.moves, chunks, self.whole)

    def word_scores(self) -> Any:
        """Exact Σ_j SIG_wj = F(x) − F(x̄ʷ), (B, L) in the caller's container."""
        return self.contain(self.moves.spread(self._drops()))

    @plain_tensors()
    def integral(
        self, integrate: Integrate, multiply_by_inputs: bool
    ) -> tuple[SequentialIntegral, Tensor]:
        """SIG by quadrature, and its convergence delta (B,): the word deltas summed."""
        with self._chunks() as chunks:
            found = integrate(self.function, self.moves, chunks, self.whole)
        products = tuple(
            gradient * (x.to(gradient.dtype) - b.to(gradient.dtype))
            for gradient, x, b in zip(
                found.gradients, self.moves.points, self.moves.baselines, strict=True
            )
        )
        delta = self.moves.sums(products) - found.drops
        stopped_short = self.moves.spread(~found.converged)
        result = SequentialIntegral(
            attributions=self.contain(products if multiply_by_inputs else found.gradients),
            word_delta=self.contain(self.moves.spread(delta)),
            n_evaluations=self.contain(self.moves.spread(found.n_evaluations)),
            converged=self.contain(tuple(~short for short in stopped_short)),
        )
        return result, self._per_example(delta)

    @plain_tensors()
    def convergence_delta(self, attributions: Any) -> Tensor:
        """Σ_w [Σ_j A_wj − (F(x) − F(x̄ʷ))] of attributions A that the caller holds, (B,)."""
        tensors = flat(attributions)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        wanted = [tuple(x.shape) for x in self.moves.points]
        if shapes != wanted:
            raise ValueError(f"attributions have shapes {shapes}; wanted {wanted}")
        total = sum(tensor.flatten(1).sum(1) for tensor in tensors)
        return total - self._per_example(self._drops())

    def _chunks(self) -> Chunks:
        return Chunks(self.moves.points, self.chunk, self.progress)

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
        moves=Moves.between(points, alike(baselines, points, "baselines"),
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
        if not attribute_to_layer_input and _looks_up(layer, reading.received, ids):
            at_baseline = _look_up(layer, base[0])  # no need of the whole model
        else:
            at_baseline = flat(read(base).activations)
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
        moves=Moves.between(points, alike(at_baseline, points, "layer_baselines"),
                            masks_of(feature_mask, points)),
        contain=functools.partial(_by_layer, isinstance(layer, list), n_tensors),
        chunk=chunk,
        progress=progress,
    )  # fmt: skip


def _by_layer(several: bool, n_tensors: Sequence[int], tensors: Tensors) -> Any:
    """All layers' tensors in Captum's containers."""
    remaining = iter(tensors)
    return format_outputs(several, [tuple(itertools.islice(remaining, n)) for n in n_tensors])


def _look_up(layer: nn.Module, ids: Tensor) -> Tensor:
    with HOOKED:  # another thread's hook may stand in the layer
        return layer(ids)


def _looks_up(layer: Any, received: Mapping[nn.Module, Any], ids: Tensors) -> bool:
    """Whether the layer is an embedding that was called with the ids as they are."""
    if not isinstance(layer, nn.Embedding) or len(ids) != 1 or len(received[layer]) != 1:
        return False
    (fed,) = received[layer]
    return fed.device == ids[0].device and torch.equal(fed, ids[0])

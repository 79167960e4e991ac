"""Compile a transformer's layers for passes without a gradient: worthwhile for many texts.

Each layer is compiled by itself (`torch.compile`), its weights frozen into the code, so that
matrices are packed once and activations are fused with the products before them. Hooks work as
before on all that is around the layers. The last layer stays as it is where only some of its
positions are computed (see `attr.read_positions`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._warnings import warn
from captum_sig.attr.hooks import structure_of
from captum_sig.attr.read_positions import ReadPositions
from captum_sig.explainers.explainer import Explainer
from captum_sig.explainers.readout import Result
from captum_sig.explainers.results import WordAttribution

TOLERANCE = 1e-5  # of the largest score
MAX_VARIANTS = 256  # of all layers: one row or several, with a mask or without


Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
for_any_shape: Compiler = functools.partial(torch.compile, dynamic=True)


def compile_explainer(
    explainer: Explainer, explain: Callable[[], Result], compiler: Compiler = for_any_shape
) -> CompiledLayers:
    """Compile the layers of an explainer's model in place, if a text's scores stay the same.

    Args:
        explainer: its model is changed.
        explain: explains a text; it has done so before, so that the model is known.
        compiler: compiles a layer's forward pass.

    Warns:
        UserWarning: if layers cannot be compiled, or give other scores: then they run as before.
    """
    expected = _scores(explain())
    layers = layers_to_compile(explainer.model, explainer.facts.read_positions)
    compiled = CompiledLayers(layers, compiler)
    explainer.facts.structure = structure_of(explainer.model)  # what was learnt still holds
    if not layers:
        warn("the model runs without torch.compile: it has no list of layers")
        return compiled
    scores = _scores(explain())
    limit = TOLERANCE * float(expected.abs().max())
    if not torch.allclose(scores, expected, rtol=0.0, atol=limit, equal_nan=True):
        gap = float((scores - expected).abs().max())
        compiled.undo(f"compiled layers change a score by {gap:.1g}")
    return compiled


def _scores(result: Result) -> Tensor:
    """Return a result's scores, for one target or several."""
    if isinstance(result, WordAttribution):
        return torch.tensor(result.scores)
    return result.matrix


def layers_to_compile(model: nn.Module, read_positions: ReadPositions) -> list[nn.Module]:
    """Return the repeated layers of a model, but for the last if it is computed in part."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    last = None if read_positions.last is None else read_positions.last.layer
    if last is not None:
        lists = [layers for layers in lists if any(layer is last for layer in layers)]
    longest = max(map(list, lists), key=len, default=[])
    return [layer for layer in longest if layer is not last]


class CompiledLayers:
    """Layers of a model, compiled in place until `undo`, or until one fails.

    Args:
        layers: they are compiled when they run.
        compiler: compiles their forward passes.
    """

    def __init__(self, layers: Sequence[nn.Module], compiler: Compiler) -> None:
        self.layers = list(layers)
        for layer in self.layers:
            layer.forward = self._with_fallback(layer.forward, compiler)

    def _with_fallback(self, eager: Callable[..., Any], compiler: Compiler) -> Callable[..., Any]:
        compiled = compiler(eager)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled() or not self.layers:
                return eager(*args, **kwargs)
            try:
                with ExitStack() as stack:
                    stack.enter_context(torch._inductor.config.patch(freezing=True))
                    stack.enter_context(
                        torch._dynamo.config.patch(
                            recompile_limit=MAX_VARIANTS, accumulated_recompile_limit=MAX_VARIANTS
                        )
                    )
                    return compiled(*args, **kwargs)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler makes of a layer
                result = eager(*args, **kwargs)
                self.undo(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
                return result

        return forward

    def undo(self, why: str) -> None:
        """Run the layers as they were, and warn why."""
        if self.layers:
            warn(f"the model runs without torch.compile: {why}")
        for layer in self.layers:
            del layer.forward
        self.layers = []

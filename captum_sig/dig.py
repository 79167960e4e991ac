"""Discretized Integrated Gradients in Captum's verbs.

    DIG_i(x) = Σ_k ∂F(γ(k)) / ∂x_i · (γ_i(k + 1) − γ_i(k))

γ leads from the baseline to the input by points near words, see `anchors`; all words move at once.
B, L, D as in `sig`. Completeness holds for the sentence: Σ DIG tends to F(x) − F(b) as `factor`
grows. It is the left Riemann sum of the published code.

Source: Sanyal and Ren, "Discretized Integrated Gradients for explaining language models", EMNLP
2021, arXiv 2108.13654, equation 3.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from captum.attr import LayerIntegratedGradients
from captum.log import log_usage
from torch import Tensor, nn

from captum_sig._captum import BaselineType, TargetType
from captum_sig.anchors import STRATEGIES, DiscretizedPath
from captum_sig.from_captum import layer_problem
from captum_sig.integrals import by_steps
from captum_sig.layers import warn_of_dropout
from captum_sig.problem import Problem, SequentialIntegral

__all__ = ["STRATEGIES", "DiscretizedPath", "LayerDiscretizedIntegratedGradients"]


class LayerDiscretizedIntegratedGradients(LayerIntegratedGradients):
    """DIG of a word embedding: token ids in, attributions (B, L, D) out.

    The model is explained as it is, for a fixed target, at its own word embedding; the published
    code adds positions and normalises twice, and follows the largest logit.

    Args:
        forward_func: as in `captum.attr.LayerIntegratedGradients`.
        layer: the word embedding, `model.get_input_embeddings()`.
        device_ids: as in `captum.attr.LayerIntegratedGradients`.
        multiply_by_inputs: False divides what a feature gets by its x − b.
        strategy: "greedy" or "maxcount", see `DiscretizedPath`.
        n_anchors: words on the way from a word to its baseline.
        factor: how many times midpoints are put between them; 2**factor (n_anchors + 1)
            gradients in all.
        n_neighbors: how many nearest neighbours of a word are candidates for the next.
        cache_dir: where neighbours are kept on disk; None is captum_sig's folder in the user's
            cache.

    For Sequential DIG, which moves one word at a time, pass a `DiscretizedPath` as `path=` to
    `LayerSequentialIntegratedGradients`.

    >>> import torch
    >>> embedding = torch.nn.Embedding.from_pretrained(torch.tensor([[0.0], [2.0], [3.0], [1.0]]))
    >>> dig = LayerDiscretizedIntegratedGradients(
    ...     lambda ids: embedding(ids).sum(1), embedding, n_anchors=1, n_neighbors=2
    ... )
    >>> dig.attribute(torch.tensor([[1, 2]]), baselines=0, target=0).squeeze()
    tensor([2., 3.])
    """

    def __init__(
        self,
        forward_func: Any,
        layer: nn.Module,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        strategy: str = "greedy",
        n_anchors: int = 30,
        factor: int = 0,
        n_neighbors: int = 500,
        cache_dir: Path | None = None,
    ) -> None:
        """Check the path's options.

        Raises:
            ValueError: for a strategy or number that there is not, or a layer that is no embedding.
        """
        super().__init__(forward_func, layer, device_ids, multiply_by_inputs)
        if not isinstance(layer, nn.Embedding):
            raise ValueError(
                f"DIG leads from word to word, but layer is {type(layer).__name__}: pass the word "
                "embedding, model.get_input_embeddings()"
            )
        self.path = DiscretizedPath(strategy, n_anchors, factor, n_neighbors, cache_dir)

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        layer_baselines: Any = None,
        show_progress: bool = False,
    ) -> Any:
        """DIG; as `LayerSequentialIntegratedGradients.attribute`, but for these.

        The path has its own steps: there is no `n_steps` and no `method`.

        Args:
            return_convergence_delta: also return Σ DIG − (F(x) − F(b)), (B,).

        Returns:
            attributions (B, L, D), in the units of F; zero where input and baseline are equal.
        """
        problem = self._problem(inputs, baselines, layer_baselines, target,
                                additional_forward_args, grad_kwargs, internal_batch_size,
                                show_progress)  # fmt: skip
        integral, delta = self._integral(problem)
        return (integral.attributions, delta) if return_convergence_delta else integral.attributions

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: BaselineType,
        end_point: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        layer_baselines: Any = None,
    ) -> Tensor:
        """Σ attributions − (F(x) − F(b)), (B,), both asked with the input's positions."""
        return self._problem(
            end_point, start_point, layer_baselines, target, additional_forward_args
        ).convergence_delta(attributions)

    def _integral(self, problem: Problem) -> tuple[SequentialIntegral, Tensor]:
        steps = problem.path_steps(self.path)
        return problem.integral(functools.partial(by_steps, steps=steps), self.multiplies_by_inputs)

    def _problem(
        self,
        inputs: Any,
        baselines: Any,
        layer_baselines: Any,
        target: Any,
        additional_forward_args: Any,
        grad_kwargs: Any = None,
        chunk: int | None = None,
        progress: bool = False,
    ) -> Problem:
        problem = layer_problem(
            self.forward_func, self.layer, self.device_ids, inputs, baselines, layer_baselines,
            target, additional_forward_args, False, grad_kwargs, None, None, chunk, progress
        )  # fmt: skip
        warn_of_dropout(problem.function.modules)
        return problem.together()

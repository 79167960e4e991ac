"""Sequential Integrated Gradients of a layer, in Captum's verbs; formula and legend as in `sig`."""

from __future__ import annotations

from typing import Any

from captum.attr import LayerIntegratedGradients
from captum.log import log_usage
from torch import Tensor

from captum_sig._captum import BaselineType, TargetType
from captum_sig.contexts import Contexts
from captum_sig.from_captum import layer_problem
from captum_sig.integration import N_STEPS, Integrate, Path, along, straight
from captum_sig.layers import warn_of_dropout
from captum_sig.problem import Problem, SequentialIntegral


class LayerSequentialIntegratedGradients(LayerIntegratedGradients):
    """SIG of a layer's output (or input): token ids in, attributions (B, L, D) out.

    Pass the word embedding, `model.get_input_embeddings()`: positions, segments and pooling then
    stay those of the input. Arguments as in `captum.attr.LayerIntegratedGradients`;
    `LLMGradientAttribution` accepts an instance.

    >>> import torch
    >>> embedding = torch.nn.Embedding.from_pretrained(torch.tensor([[0.0], [2.0], [3.0]]))
    >>> sig = LayerSequentialIntegratedGradients(lambda ids: embedding(ids).prod(1), embedding)
    >>> sig.attribute_words(torch.tensor([[1, 2]]), baselines=0)
    tensor([[6., 6.]])
    """

    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = N_STEPS,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        feature_mask: Any = None,
        tolerance: float | None = None,
        contexts: Contexts | None = None,
        show_progress: bool = False,
        layer_baselines: Any = None,
        path: Path | None = None,
    ) -> Any:
        """SIG by quadrature; as `SequentialIntegratedGradients.attribute`, but for these.

        Args:
            inputs: what the model takes, such as token ids (B, n); a tensor or a tuple.
            baselines: baseline inputs, such as ids: a number, or shaped as the inputs; default 0.
            attribute_to_layer_input: the layer's input moves in place of its output.
            grad_kwargs: more keywords for `torch.autograd.grad`.
            feature_mask: (B, L) or (1, L) integers over the *layer's* positions.
            layer_baselines: baseline activations in place of baseline ids: a number, a feature
                vector such as the mean embedding, or shaped as the layer's output.
            path: how a word gets from its baseline to the input, in place of the straight line,
                `n_steps`, `method` and `tolerance`; such as `captum_sig.dig.DiscretizedPath()`,
                which makes this Sequential DIG.

        Returns:
            attributions shaped as the layer's output, in the containers that Captum uses.
        """
        problem = self._problem(
            inputs, baselines, layer_baselines, target, additional_forward_args,
            attribute_to_layer_input, grad_kwargs, feature_mask, contexts, internal_batch_size,
            show_progress
        )  # fmt: skip
        integral, delta = problem.integral(
            _integrate(problem, path, method, n_steps, tolerance), self.multiplies_by_inputs
        )
        return (integral.attributions, delta) if return_convergence_delta else integral.attributions

    def integrate(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        n_steps: int = N_STEPS,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
        *,
        feature_mask: Any = None,
        tolerance: float | None = None,
        contexts: Contexts | None = None,
        show_progress: bool = False,
        layer_baselines: Any = None,
        path: Path | None = None,
    ) -> SequentialIntegral:
        """SIG by quadrature with its error for each word; arguments as in `attribute`."""
        problem = self._problem(
            inputs, baselines, layer_baselines, target, additional_forward_args,
            attribute_to_layer_input, grad_kwargs, feature_mask, contexts, internal_batch_size,
            show_progress
        )  # fmt: skip
        return problem.integral(
            _integrate(problem, path, method, n_steps, tolerance), self.multiplies_by_inputs
        )[0]

    def attribute_words(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
        layer_baselines: Any = None,
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        show_progress: bool = False,
    ) -> Any:
        """Exact Σ_j SIG_wj by W + 1 forward passes and no gradient; arguments as in `attribute`.

        Returns:
            (B, L), in units of F; every position of a word carries its word's score.
        """
        return self._problem(
            inputs, baselines, layer_baselines, target, additional_forward_args,
            attribute_to_layer_input, None, feature_mask, contexts, internal_batch_size,
            show_progress
        ).word_scores()  # fmt: skip

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: BaselineType,
        end_point: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
        layer_baselines: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor:
        """Σ_w [Σ_j A_wj − (F(x) − F(x̄ʷ))], (B,); see `SequentialIntegratedGradients`."""
        return self._problem(
            end_point, start_point, layer_baselines, target, additional_forward_args,
            attribute_to_layer_input, None, feature_mask, contexts
        ).convergence_delta(attributions)  # fmt: skip

    def _problem(
        self,
        inputs: Any,
        baselines: Any,
        layer_baselines: Any,
        target: Any,
        additional_forward_args: Any,
        attribute_to_layer_input: bool,
        grad_kwargs: Any,
        feature_mask: Any,
        contexts: Contexts | None = None,
        chunk: int | None = None,
        progress: bool = False,
    ) -> Problem:
        problem = layer_problem(
            self.forward_func, self.layer, self.device_ids, inputs, baselines, layer_baselines,
            target, additional_forward_args, attribute_to_layer_input, grad_kwargs, feature_mask,
            contexts, chunk, progress
        )  # fmt: skip
        warn_of_dropout(problem.function.modules)
        return problem


def _integrate(
    problem: Problem, path: Path | None, method: str, n_steps: int, tolerance: float | None
) -> Integrate:
    if path is None:
        return straight(method, n_steps, tolerance)
    return along(problem.path_steps(path), method, n_steps, tolerance)

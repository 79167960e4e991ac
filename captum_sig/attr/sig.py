"""Sequential Integrated Gradients in Captum's verbs.

    SIG_w(x) = ∫₀¹ ∇_w F(x̄ʷ + α (x − x̄ʷ)) dα ⊙ (x_w − b_w)     every other word stays at its input

B examples, L positions (dim 1), D features, W words (groups of positions), S quadrature nodes.
x: the input, or a layer's output for it; b: the same for the baseline; x̄ʷ: x with word w at b.
Completeness holds for each word, Σ_j SIG_wj = F(x) − F(x̄ʷ), and not for the sentence.

Source: Enguehard, "Sequential Integrated Gradients: a simple but effective method for explaining
language models", Findings of ACL 2023, arXiv 2305.15853, equation 2.
"""

from __future__ import annotations

from typing import Any

from captum.attr import IntegratedGradients, LayerIntegratedGradients
from captum.log import log_usage
from torch import Tensor

from captum_sig._captum import BaselineType, TargetType
from captum_sig.attr.arguments import N_STEPS, along, input_problem, layer_problem, straight
from captum_sig.attr.function import warn_of_dropout
from captum_sig.attr.integrals import Integrate, Path
from captum_sig.attr.problem import Problem, SequentialIntegral
from captum_sig.contexts import Contexts


class SequentialIntegratedGradients(IntegratedGradients):
    """SIG of the model's own inputs: embeddings, time series; (B, L, …) floats, or a tuple.

    Tensors of a tuple that share dim 1 move together per position; those with another dim 1 have
    words of their own; `feature_mask` overrides both. For token ids see
    `LayerSequentialIntegratedGradients`.

    Args:
        forward_func: as in `captum.attr.IntegratedGradients`.
        multiply_by_inputs: False leaves the factor (x_w − b_w) out.

    >>> import torch
    >>> x = torch.tensor([[[2.0], [3.0]]])                     # one example, two words
    >>> sig = SequentialIntegratedGradients(lambda x: x.prod(1))
    >>> sig.attribute(x, n_steps=2).squeeze()                  # each word alone zeroes 2 · 3
    tensor([6., 6.])
    >>> IntegratedGradients(lambda x: x.prod(1)).attribute(x, n_steps=2).squeeze()
    tensor([3., 3.])
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
        *,
        feature_mask: Any = None,
        tolerance: float | None = None,
        contexts: Contexts | None = None,
        show_progress: bool = False,
    ) -> Any:
        """SIG by quadrature; arguments as in `captum.attr.IntegratedGradients`, but for these.

        Args:
            inputs: (B, L, …) floats, or a tuple of such tensors.
            baselines: a number, (B, L, …), (1, L, …), one position's (…), or a tuple; default 0.
            target: as in Captum.
            additional_forward_args: tensors with B entries follow their example, all else passes
                through untouched.
            n_steps: gradients per word; with a tolerance the most of them, by default 129.
            method: a name in `captum_sig.quadrature.RULES`; a tolerance chooses its own nodes.
            internal_batch_size: most rows (one word of one example at one node) in a pass; None
                bounds their memory.
            return_convergence_delta: also return Σ_w [Σ_j SIG_wj − (F(x) − F(x̄ʷ))], (B,).
            feature_mask: (B, L) or (1, L) integers, equal numbers move together; a tuple of them
                for a tuple of inputs. Default: every position is a word.
            tolerance: integrate each word until its estimated error ‖attributions − SIG‖₂ is at
                most this fraction of ‖SIG‖₂ of the example's largest word; see
                `captum_sig.attr.adaptive`. None takes the same `n_steps` for every word.
            contexts: in which backgrounds a word moves, one of `captum_sig.contexts`; attributions
                are averaged over them. None is the paper's: the other words at the input.
            show_progress: draw a bar.

        Returns:
            attributions shaped as the inputs (float32 at least), in the units of F; with
            `return_convergence_delta` a pair of them and the delta.

        Raises:
            TypeError, ValueError: for arguments that do not fit, with what would.
            FloatingPointError: if the model gives a value or gradient that is not finite.

        Warns:
            UserWarning: if words did not reach the tolerance; `integrate` tells which.
        """
        problem = self._problem(inputs, baselines, target, additional_forward_args, feature_mask,
                                contexts, internal_batch_size, show_progress)  # fmt: skip
        integral, delta = problem.integral(
            straight(method, n_steps, tolerance), self.multiplies_by_inputs
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
        *,
        feature_mask: Any = None,
        tolerance: float | None = None,
        contexts: Contexts | None = None,
        show_progress: bool = False,
    ) -> SequentialIntegral:
        """SIG by quadrature with its error for each word; arguments as in `attribute`."""
        problem = self._problem(inputs, baselines, target, additional_forward_args, feature_mask,
                                contexts, internal_batch_size, show_progress)  # fmt: skip
        return problem.integral(straight(method, n_steps, tolerance), self.multiplies_by_inputs)[0]

    def attribute_words(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Exact Σ_j SIG_wj by W + 1 forward passes and no gradient; arguments as in `attribute`.

        Returns:
            (B, L), in units of F; every position of a word carries its word's score.
        """
        return self._problem(
            inputs, baselines, target, additional_forward_args, feature_mask, contexts,
            internal_batch_size, show_progress
        ).word_scores()  # fmt: skip

    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        start_point: BaselineType,
        end_point: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
    ) -> Tensor:
        """Σ_w [Σ_j A_wj − (F(x) − F(x̄ʷ))], (B,), for attributions A from b to x.

        Captum's own delta compares the sentence's sum with F(x) − F(b), which SIG does not equal.
        """
        return self._problem(
            end_point, start_point, target, additional_forward_args, feature_mask, contexts
        ).convergence_delta(attributions)

    def _problem(
        self,
        inputs: Any,
        baselines: Any,
        target: Any,
        additional_forward_args: Any,
        feature_mask: Any,
        contexts: Contexts | None = None,
        chunk: int | None = None,
        progress: bool = False,
    ) -> Problem:
        problem = input_problem(
            self.forward_func, inputs, baselines, target, additional_forward_args, feature_mask,
            contexts, chunk, progress
        )  # fmt: skip
        warn_of_dropout(problem.function.modules)
        return problem


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
                `n_steps`, `method` and `tolerance`; `captum_sig.attr.dig.DiscretizedPath()`, for
                instance, makes this Sequential DIG.

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

"""Sequential Integrated Gradients in Captum's verbs.

    SIG_w(x) = ∫₀¹ ∇_w F(x̄ʷ + α (x − x̄ʷ)) dα ⊙ (x_w − b_w)     every other word stays at its input

B examples, L positions (dim 1), D features, W words (groups of positions), S quadrature nodes.
x: the input, or a layer's output for it; b: the same for the baseline; x̄ʷ: x with word w at b.
Completeness holds for each word, Σ_j SIG_wj = F(x) − F(x̄ʷ), and not for the sentence.

Source: Enguehard, "Sequential Integrated Gradients: a simple but effective method for explaining
language models", Findings of ACL 2023, arXiv 2305.15853, equation 2.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, overload

from captum.attr import IntegratedGradients, LayerIntegratedGradients
from captum.log import log_usage
from torch import Tensor

from captum_sig._captum import BaselineType, TargetType
from captum_sig.attr.arguments import N_STEPS, input_problem, integrator, layer_problem
from captum_sig.attr.function import Tensors, warn_of_dropout
from captum_sig.attr.integrals import WordPath
from captum_sig.attr.problem import Problem, SequentialIntegral
from captum_sig.contexts import Contexts

Inputs = TypeVar("Inputs", Tensor, Tensors)


class SequentialIntegratedGradients(IntegratedGradients):
    """SIG of the model's own inputs, such as embeddings or time series.

    Inputs are floats (B, L, …), or a tuple of such tensors. Tensors of a tuple that share dim 1
    move together per position; those with another dim 1 have words of their own; `feature_mask`
    overrides both. For token ids use `LayerSequentialIntegratedGradients`.

    Args:
        forward_func: as in `captum.attr.IntegratedGradients`.
        multiply_by_inputs: False omits the factor (x_w − b_w).

    >>> import torch
    >>> x = torch.tensor([[[2.0], [3.0]]])                     # one example, two words
    >>> sig = SequentialIntegratedGradients(lambda x: x.prod(1))
    >>> sig.attribute(x, n_steps=2).squeeze()                  # each word alone zeroes 2 · 3
    tensor([6., 6.])
    >>> IntegratedGradients(lambda x: x.prod(1)).attribute(x, n_steps=2).squeeze()
    tensor([3., 3.])
    """

    @overload
    def attribute(
        self, inputs: Inputs, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., n_steps: int = ..., method: str = ...,
        internal_batch_size: int | None = ..., return_convergence_delta: Literal[False] = ...,
        **options: Any,
    ) -> Inputs: ...  # fmt: skip
    @overload
    def attribute(
        self, inputs: Inputs, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., n_steps: int = ..., method: str = ...,
        internal_batch_size: int | None = ..., *, return_convergence_delta: Literal[True],
        **options: Any,
    ) -> tuple[Inputs, Tensor]: ...  # fmt: skip
    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | Tensors,
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
        """Compute SIG by quadrature; as `captum.attr.IntegratedGradients.attribute`, but for these.

        Args:
            inputs: (B, L, …) floats, or a tuple of such tensors.
            baselines: a number, (B, L, …), (1, L, …), one position's (…), or a tuple; default 0.
            target: as in Captum.
            additional_forward_args: tensors with B entries follow their example; everything else
                is passed on unchanged.
            n_steps: gradients per word; with a tolerance the maximum, by default 129.
            method: a name in `captum_sig.quadrature.RULES`; a tolerance chooses its own nodes.
            internal_batch_size: maximum number of rows in a pass (one word of one example at one
                node each); None limits their memory.
            return_convergence_delta: also return Σ_w [Σ_j SIG_wj − (F(x) − F(x̄ʷ))], (B,).
            feature_mask: (B, L) or (1, L) integers, equal numbers move together; a tuple of them
                for a tuple of inputs. By default every position is a word.
            tolerance: integrate each word until its estimated error ‖attributions − SIG‖₂ is at
                most this fraction of ‖SIG‖₂ of the example's largest word; see
                `captum_sig.attr.adaptive`. None uses the same `n_steps` for every word.
            contexts: backgrounds in which a word moves, one of `captum_sig.contexts`; attributions
                are averaged over them. None is the paper's: the other words at the input.
            show_progress: show a progress bar.

        Returns:
            attributions shaped as the inputs (at least float32), in units of F; with
            `return_convergence_delta` a pair of these and the delta.

        Raises:
            TypeError, ValueError: if arguments do not fit; the message says what would.
            FloatingPointError: if the model returns a value or gradient that is not finite.

        Warns:
            UserWarning: if words did not reach the tolerance; `integrate` reports which.
        """
        integral, delta = self._integral(
            inputs, n_steps, method, tolerance,
            baselines=baselines, target=target, additional_forward_args=additional_forward_args,
            feature_mask=feature_mask, contexts=contexts, internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )  # fmt: skip
        return (integral.attributions, delta) if return_convergence_delta else integral.attributions

    def integrate(
        self,
        inputs: Tensor | Tensors,
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
        """Compute SIG by quadrature, with the error of each word; arguments as in `attribute`."""
        return self._integral(
            inputs, n_steps, method, tolerance,
            baselines=baselines, target=target, additional_forward_args=additional_forward_args,
            feature_mask=feature_mask, contexts=contexts, internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )[0]  # fmt: skip

    def attribute_words(
        self,
        inputs: Inputs,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Inputs:
        """Compute Σ_j SIG_wj exactly, by W + 1 forward passes and no gradient.

        Arguments as in `attribute`; `contexts` may also be `contexts.auto`.

        Returns:
            (B, L), in units of F; every position of a word carries its word's score.
        """
        return self._problem(
            inputs, baselines=baselines, target=target, feature_mask=feature_mask,
            additional_forward_args=additional_forward_args, contexts=contexts,
            internal_batch_size=internal_batch_size, show_progress=show_progress,
        ).word_scores()  # fmt: skip

    def compute_convergence_delta(
        self,
        attributions: Tensor | Tensors,
        start_point: BaselineType,
        end_point: Tensor | Tensors,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
    ) -> Tensor:
        """Compute Σ_w [Σ_j A_wj − (F(x) − F(x̄ʷ))], (B,), for attributions A from b to x.

        Captum's own delta compares the sentence's sum with F(x) − F(b), which SIG does not equal.
        """
        return self._problem(
            end_point, baselines=start_point, target=target, feature_mask=feature_mask,
            additional_forward_args=additional_forward_args, contexts=contexts,
        ).convergence_delta(attributions)  # fmt: skip

    def _integral(
        self,
        inputs: Any,
        n_steps: int,
        method: str,
        tolerance: float | None,
        **arguments: Any,
    ) -> tuple[SequentialIntegral, Tensor]:
        problem = self._problem(inputs, **arguments)
        integrate = integrator(method=method, n_steps=n_steps, tolerance=tolerance)
        return problem.integral(integrate, self.multiplies_by_inputs)

    def _problem(self, inputs: Any, **arguments: Any) -> Problem:
        problem = input_problem(self.forward_func, inputs, **arguments)
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

    @overload
    def attribute(
        self, inputs: Tensor, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., n_steps: int = ..., method: str = ...,
        internal_batch_size: int | None = ..., return_convergence_delta: Literal[False] = ...,
        **options: Any,
    ) -> Tensor: ...  # fmt: skip
    @overload
    def attribute(
        self, inputs: Tensor, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., n_steps: int = ..., method: str = ...,
        internal_batch_size: int | None = ..., *, return_convergence_delta: Literal[True],
        **options: Any,
    ) -> tuple[Tensor, Tensor]: ...  # fmt: skip
    @overload
    def attribute(self, inputs: Tensors, *args: Any, **options: Any) -> Any: ...
    @log_usage(part_of_slo=True)
    def attribute(
        self,
        inputs: Tensor | Tensors,
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
        layer_call: int | None = None,
        path: WordPath | None = None,
    ) -> Any:
        """Compute SIG by quadrature; as `SequentialIntegratedGradients.attribute`, but for these.

        Args:
            inputs: what the model takes, such as token ids (B, n); a tensor or a tuple.
            baselines: baseline inputs, such as ids: a number, or shaped as the inputs; default 0.
            attribute_to_layer_input: move the layer's input in place of its output.
            grad_kwargs: further keywords for `torch.autograd.grad`.
            feature_mask: (B, L) or (1, L) integers over the *layer's* positions.
            layer_baselines: baseline activations in place of baseline ids: a number, a feature
                vector such as the mean embedding, or shaped as the layer's output.
            layer_call: of a layer that runs several times in a pass (one encoder for two texts),
                the call whose output moves, from 0; the others see what they receive. None wants a
                layer that runs once.
            path: how a word moves from its baseline to the input, in place of a straight line,
                `n_steps`, `method` and `tolerance`; `captum_sig.attr.dig.DiscretizedPath()`, for
                instance, makes this Sequential DIG.

        Returns:
            attributions shaped as the layer's output, in the containers that Captum uses.
        """
        integral, delta = self._integral(
            inputs, n_steps, method, tolerance, path,
            baselines=baselines, layer_baselines=layer_baselines, layer_call=layer_call,
            target=target, additional_forward_args=additional_forward_args,
            feature_mask=feature_mask,
            attribute_to_layer_input=attribute_to_layer_input, grad_kwargs=grad_kwargs,
            contexts=contexts, internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )  # fmt: skip
        return (integral.attributions, delta) if return_convergence_delta else integral.attributions

    def integrate(
        self,
        inputs: Tensor | Tensors,
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
        layer_call: int | None = None,
        path: WordPath | None = None,
    ) -> SequentialIntegral:
        """Compute SIG by quadrature, with the error of each word; arguments as in `attribute`."""
        return self._integral(
            inputs, n_steps, method, tolerance, path,
            baselines=baselines, layer_baselines=layer_baselines, layer_call=layer_call,
            target=target, additional_forward_args=additional_forward_args,
            feature_mask=feature_mask,
            attribute_to_layer_input=attribute_to_layer_input, grad_kwargs=grad_kwargs,
            contexts=contexts, internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )[0]  # fmt: skip

    @overload
    def attribute_words(
        self, inputs: Tensor, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., *, feature_mask: Any = ...,
        contexts: Contexts | None = ..., layer_baselines: Any = ..., layer_call: int | None = ...,
        internal_batch_size: int | None = ..., attribute_to_layer_input: bool = ...,
        show_progress: bool = ...,
    ) -> Tensor: ...  # fmt: skip
    @overload
    def attribute_words(
        self, inputs: Tensors, baselines: BaselineType = ..., target: TargetType = ...,
        additional_forward_args: object = ..., *, feature_mask: Any = ...,
        contexts: Contexts | None = ..., layer_baselines: Any = ..., layer_call: int | None = ...,
        internal_batch_size: int | None = ..., attribute_to_layer_input: bool = ...,
        show_progress: bool = ...,
    ) -> Any: ...  # fmt: skip
    def attribute_words(
        self,
        inputs: Tensor | Tensors,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
        layer_baselines: Any = None,
        layer_call: int | None = None,
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        show_progress: bool = False,
    ) -> Any:
        """Compute Σ_j SIG_wj exactly, by W + 1 forward passes and no gradient.

        Arguments as in `attribute`; `contexts` may also be `contexts.auto`.

        Returns:
            (B, L), in units of F; every position of a word carries its word's score.
        """
        return self._problem(
            inputs, baselines=baselines, layer_baselines=layer_baselines, layer_call=layer_call,
            target=target, additional_forward_args=additional_forward_args,
            feature_mask=feature_mask,
            attribute_to_layer_input=attribute_to_layer_input, contexts=contexts,
            internal_batch_size=internal_batch_size, show_progress=show_progress,
        ).word_scores()  # fmt: skip

    def compute_convergence_delta(
        self,
        attributions: Any,
        start_point: BaselineType,
        end_point: Tensor | Tensors,
        target: TargetType = None,
        additional_forward_args: object = None,
        *,
        feature_mask: Any = None,
        contexts: Contexts | None = None,
        layer_baselines: Any = None,
        layer_call: int | None = None,
        attribute_to_layer_input: bool = False,
    ) -> Tensor:
        """Compute Σ_w [Σ_j A_wj − (F(x) − F(x̄ʷ))], (B,); see `SequentialIntegratedGradients`."""
        return self._problem(
            end_point, baselines=start_point, layer_baselines=layer_baselines,
            layer_call=layer_call, target=target,
            additional_forward_args=additional_forward_args, feature_mask=feature_mask,
            attribute_to_layer_input=attribute_to_layer_input, contexts=contexts,
        ).convergence_delta(attributions)  # fmt: skip

    def _integral(
        self,
        inputs: Any,
        n_steps: int,
        method: str,
        tolerance: float | None,
        path: WordPath | None,
        **arguments: Any,
    ) -> tuple[SequentialIntegral, Tensor]:
        problem = self._problem(inputs, **arguments)
        steps = None if path is None else problem.path_steps(path)
        integrate = integrator(method=method, n_steps=n_steps, tolerance=tolerance, steps=steps)
        return problem.integral(integrate, self.multiplies_by_inputs)

    def _problem(self, inputs: Any, **arguments: Any) -> Problem:
        problem = layer_problem(
            self.forward_func, self.layer, inputs, device_ids=self.device_ids, **arguments
        )
        warn_of_dropout(problem.function.modules)
        return problem

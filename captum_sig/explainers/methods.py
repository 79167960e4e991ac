"""Attribution methods by name: each maps the same input to scores of words.

Captum's own methods run unchanged, on the model as a function of its word embeddings; F, the
baseline and the explained class are the same for all. Scores are sums over a word's features and
sub-tokens, in units of F; those of `saliency` are sums of absolute gradients, without a sign.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import captum.attr
import numpy as np
import torch
from torch import Tensor

from captum_sig._locks import ForkSafeLock
from captum_sig._names import MethodName
from captum_sig._warnings import warn
from captum_sig.attr.arguments import integrator
from captum_sig.attr.function import Tensors, with_shared_weights
from captum_sig.explainers import screens
from captum_sig.explainers.method_input import Method, MethodInput, Scores
from captum_sig.explainers.own_heads import OwnHead
from captum_sig.explainers.windows import WindowedModel
from captum_sig.words.grouping import word_sums

MAX_ERROR = 0.1  # of sequential_dig, as a fraction of the largest score, without a warning
SHAPLEY_PERMUTATIONS = 16  # rows per pass of Captum's Shapley values
_global_lock = ForkSafeLock()  # held while the process's generators or warnings are changed


def sig(batch: MethodInput, selected: Tensor | None = None) -> Scores:
    """Exact word scores; the delta is |F(x) through the hook − F(x) of the unchanged model|.

    Words that are not `selected`, (P,), take no rows; their scores are NaN.
    """
    problem = batch.problem
    effects = problem.word_effects(selected)
    deltas = torch.zeros(len(batch.generators))
    if effects.value_at_input is not None and problem.value_at_input is not None:
        hooked = effects.value_at_input
        deltas = (hooked - problem.value_at_input.to(hooked)).nan_to_num(0.0).abs()

    def of_positions(per_word: Tensor | None) -> Tensor | None:
        return None if per_word is None else problem.paths.scatter(per_word)[0]

    return Scores(
        problem.paths.scatter(effects.mean)[0],
        deltas.tolist(),
        of_positions(effects.standard_error),
        effects.residual,
        first=of_positions(effects.first),
        last=of_positions(effects.last),
        left_out=of_positions(effects.left_out),
    )


def sig_of_values(batch: MethodInput) -> list[Scores]:
    """Exact word scores of each of F's T values, from the same rows; as `sig`."""
    problem = batch.problem
    effects = problem.word_effects()
    n_values = effects.mean.shape[1]
    deltas = torch.zeros(len(batch.generators), n_values)
    if effects.value_at_input is not None and problem.value_at_input is not None:
        hooked = effects.value_at_input
        deltas = (hooked - problem.value_at_input.to(hooked)).nan_to_num(0.0).abs()

    def of_positions(per_word: Tensor | None) -> Sequence[Tensor | None]:
        if per_word is None:
            return [None] * n_values
        return problem.paths.scatter(per_word)[0].cpu().unbind(-1)

    return [
        Scores(values, of_value, error, residual, first=first, last=last)
        for values, of_value, error, residual, first, last in zip(
            of_positions(effects.mean),
            deltas.T.tolist(),
            of_positions(effects.standard_error),
            [None] * n_values if effects.residual is None else effects.residual.cpu().unbind(-1),
            of_positions(effects.first),
            of_positions(effects.last),
            strict=True,
        )
    ]


def sequential_dig(batch: MethodInput) -> Scores:
    """SIG along each word's path of Discretized Integrated Gradients.

    Whatever the path, a word's exact score is F(x) − F(x̄ʷ); this one has the path's error.

    Warns:
        UserWarning: if it is more than `MAX_ERROR` of a text's largest exact score.
    """
    problem = batch.problem
    integrate = integrator(steps=problem.path_steps(batch.new_path()))
    integral, _ = problem.integral(integrate, True)
    scores = _summed(batch, integral.attributions).values
    delta = integral.word_delta[0]
    exact = scores - delta
    errors = delta.abs().amax(1)
    if (errors > MAX_ERROR * exact.abs().amax(1)).any():
        warn(
            "sequential_dig is far from the exact scores of some words, by max_abs_word_delta "
            'logits: use method "sig", which is exact'
        )
    return Scores(
        scores,
        errors.tolist(),
        _of_first(integral.standard_error),
        integral.residual,
        first=_of_first(integral.first),
        last=_of_first(integral.last),
        left_out=exact if integral.last is None else integral.last[0],
    )


def _of_first(per_embedding: Tensors | None) -> Tensor | None:
    """Take a value of each word from the first embedding, in which all words stand."""
    return None if per_embedding is None else per_embedding[0]


def dig(batch: MethodInput) -> Scores:
    """Discretized Integrated Gradients: all words move together, each along its own path."""
    problem = batch.problem.as_one_word()
    integrate = integrator(steps=problem.path_steps(batch.new_path()))
    integral, _ = problem.integral(integrate, True)
    return _summed(batch, integral.attributions)


def ig(batch: MethodInput) -> Scores:
    """Captum's IntegratedGradients, Gauss-Legendre."""
    x, b = batch.ends
    attributions = captum.attr.IntegratedGradients(batch.at_embedding).attribute(
        x, b, n_steps=batch.n_steps, **batch.arguments,
        internal_batch_size=max(batch.at_embedding.max_rows, len(x[0])),
    )  # fmt: skip
    return _summed(batch, attributions)


def input_x_gradient(batch: MethodInput) -> Scores:
    """Captum's InputXGradient."""
    method = captum.attr.InputXGradient(batch.at_embedding)
    return _summed(batch, method.attribute(_leaves(batch), **batch.arguments))


def saliency(batch: MethodInput) -> Scores:
    """Captum's Saliency: absolute gradients, without a sign."""
    method = captum.attr.Saliency(batch.at_embedding)
    return _summed(batch, method.attribute(_leaves(batch), **batch.arguments))


def gradient_shap(batch: MethodInput) -> Scores:
    """Captum's GradientShap with its defaults."""

    def attribute(text: MethodInput) -> Tensors:
        x, b = text.ends
        with _global_draws(text.generators[0]):
            return captum.attr.GradientShap(text.at_embedding).attribute(x, b, **text.arguments)

    of_texts = [attribute(text) for text in batch.one_by_one()]
    return _summed(batch, tuple(map(torch.cat, zip(*of_texts, strict=True))))


def deep_lift(batch: MethodInput) -> Scores:
    """Captum's DeepLift; non-linearities that are not modules of torch count by their gradient.

    Raises:
        ValueError: if DeepLift cannot follow the model.
    """
    explained = batch.model
    if isinstance(explained, WindowedModel):
        if explained.cuts(batch.inputs["input_ids"]):
            raise ValueError(
                "DeepLift compares a text with its baseline in one pass, and windows take several: "
                "use another method"
            )
        explained = explained.model
    if isinstance(explained, OwnHead):
        raise ValueError(
            "DeepLift runs a copy of the model, which a forward function of your own does not: use "
            "another method"
        )

    def attribute(texts: MethodInput) -> Tensors:
        model = with_shared_weights(texts.at_embedding)  # DeepLift hooks it, for all threads
        model.is_checked = True  # a row alone would not fit the hooks
        model.max_rows = min(2 * len(texts.generators), batch.max_rows)
        with _global_lock, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting forward, backward hooks")
            return captum.attr.DeepLift(model).attribute(
                _leaves(texts), texts.ends[1], **texts.arguments
            )

    try:  # a text and its baseline share a pass, as DeepLift compares what modules see of them
        of_parts = [attribute(part) for part in batch.in_parts(max(1, batch.max_rows // 2))]
    except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
        why = str(error).splitlines()[0]
        if batch.max_rows == 1:
            why = "a text and its baseline need a pass of 2 rows, and 1 is allowed"
        raise ValueError(
            f"DeepLift cannot follow {type(batch.model).__name__} ({why}): use another method"
        ) from error
    return _summed(batch, tuple(map(torch.cat, zip(*of_parts, strict=True))))


def occlusion(batch: MethodInput) -> Scores:
    """Captum's Occlusion with a window of one token, in one embedding at a time."""
    x, b = batch.ends
    windows = tuple((1, *of.shape[2:]) for of in x)
    attributions = captum.attr.Occlusion(batch.at_embedding).attribute(
        x, windows, baselines=b, **batch.arguments
    )
    return _summed(batch, tuple(_first_feature(of)[..., None] for of in attributions))


def shapley(batch: MethodInput) -> Scores:
    """Captum's ShapleyValueSampling over words, with its defaults."""

    def attribute(text: MethodInput) -> Tensor:
        x, b = text.ends
        path_of = text.problem.paths.path_of
        method = captum.attr.ShapleyValueSampling(text.at_embedding)
        method.permutation_generator = _permutations(text.generators[0])
        # numbers without a gap; positions that never move join a word that does, at no cost
        attributions = method.attribute(
            x, b, feature_mask=tuple(of.clamp(min=0)[..., None] for of in path_of),
            perturbations_per_eval=SHAPLEY_PERMUTATIONS, **text.arguments,
        )  # fmt: skip
        return torch.where(path_of[0] >= 0, _first_feature(attributions[0]), 0)  # a word's value

    values = torch.cat([attribute(text).detach() for text in batch.one_by_one()])
    return Scores(values, [None] * len(values))


def random(batch: MethodInput) -> Scores:
    """A control: scores drawn uniformly from [0, 1)."""
    rows = []
    for mask, generator in zip(batch.feature_mask, batch.generators, strict=True):
        seed = int(torch.randint(2**63 - 1, (), generator=generator))  # one draw, however padded
        draws = torch.rand(int(mask.max()) + 1, generator=torch.Generator().manual_seed(seed))
        rows.append(draws.to(mask.device)[mask])
    return Scores(torch.stack(rows), [None] * len(rows))


METHODS: dict[MethodName, Method] = {
    "sig": sig,
    "ig": ig,
    "dig": dig,
    "sequential_dig": sequential_dig,
    "input_x_gradient": input_x_gradient,
    "gradient_shap": gradient_shap,
    "deep_lift": deep_lift,
    "saliency": saliency,
    "occlusion": occlusion,
    "shapley": shapley,
    "lrp": screens.lrp,
    "lrp_deletion": screens.lrp_deletion,
    "rank_path": screens.rank_path,
    "screen": screens.screen,
    "random": random,
}
IN_CONTEXTS = ("sig", "sequential_dig")  # methods that move one word at a time


def mean_scores(draws: Sequence[Scores]) -> Scores:
    """Average one or several draws of the same batch, on the CPU."""
    draws = [replace(draw, left_out=None).cpu() for draw in draws]  # that serves each draw alone
    if len(draws) == 1:
        return draws[0]
    values = torch.stack([draw.values for draw in draws])
    deltas = zip(*(draw.word_deltas for draw in draws), strict=True)
    errors = [draw.standard_error for draw in draws if draw.standard_error is not None]

    def mean(name: str) -> Tensor | None:
        known = [getattr(draw, name) for draw in draws if getattr(draw, name) is not None]
        return torch.stack(known).mean(0) if known else None

    error = None
    if errors:
        error = torch.stack(errors).square().mean(0).div(len(draws)).sqrt()
    return Scores(
        values=values.mean(0),
        word_deltas=[_largest(of_text) for of_text in deltas],
        standard_error=error,
        residual=mean("residual"),
        std=values.std(0),
        first=mean("first"),
        last=mean("last"),
    )


def mean_of_baselines(baselines: Sequence[Sequence[Scores]]) -> Scores:
    """Average one or several baselines, each with the same weight: the mean over its draws."""
    return mean_scores([mean_scores(draws) for draws in baselines])


def _largest(deltas: Sequence[float | None]) -> float | None:
    known = [delta for delta in deltas if delta is not None]
    return max(known) if known else None


def _summed(batch: MethodInput, attributions: Tensors) -> Scores:  # (B, L, D) each
    per_position = [of.detach().flatten(2).sum(-1) for of in attributions]
    sums = word_sums(torch.cat(per_position, 1), torch.cat(batch.masks, 1))
    return Scores(sums[:, : batch.feature_mask.shape[1]], [None] * len(sums))


def _first_feature(attributions: Tensor) -> Tensor:
    """(B, L, D) → (B, L): methods that move whole positions give all features the same value."""
    return attributions.flatten(2)[..., 0]


def _leaves(batch: MethodInput) -> Tensors:
    return tuple(x.clone().requires_grad_() for x in batch.ends[0])


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _permutations(generator: torch.Generator) -> Callable[[int, int], Iterator[list[int]]]:
    """Return what draws permutations for Captum, which would take the global generator."""
    own = torch.Generator().manual_seed(_seed(generator))

    def draw(n_features: int, n_samples: int) -> Iterator[list[int]]:
        for _ in range(n_samples):
            yield torch.randperm(n_features, generator=own).tolist()

    return draw


@contextmanager
def _global_draws(generator: torch.Generator) -> Iterator[None]:
    """Seed the global generators, from which Captum draws, and restore them afterwards.

    They are the process's: draws of the caller's other threads meanwhile would interfere.
    """
    seed = _seed(generator)
    with _global_lock, torch.random.fork_rng(range(torch.cuda.device_count())):
        of_numpy = np.random.get_state()
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)

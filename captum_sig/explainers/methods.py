"""Attribution methods by name, each from the same question to scores of words.

Captum's own methods run unchanged, on the model as a function of its word embeddings; F, the
baseline and the explained class are the same for all. Scores are sums over a word's features and
sub-tokens, in units of F; of `saliency` the sums of absolute gradients, which have no sign.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

from captum_sig.attr.dig import DiscretizedPath
from captum_sig.attr.function import frozen
from captum_sig.attr.hooks import patched
from captum_sig.attr.integrals import by_steps
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import WordPaths
from captum_sig.words.grouping import word_sums

SHAPLEY_AT_ONCE = 16  # permutations' rows in a pass of Captum's Shapley values


class AtEmbedding(nn.Module):
    """A classifier as a function of its word embeddings, (R, L, D) → logits (R, C).

    Args:
        model: the classifier; called with keywords.
        layer: its word embedding.
        names: the model's inputs after the embeddings, first "input_ids".
        most: rows in a pass; more are asked in several.
        dtype: the layer's; some of Captum's methods hand in wider rows.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        names: Sequence[str],
        most: int,
        dtype: torch.dtype,
    ) -> None:
        """Share the model; nothing is copied."""
        super().__init__()
        self.model, self.layer = model, layer
        self.names, self.most, self.dtype = names, most, dtype

    def forward(self, embeddings: Tensor, *inputs: Tensor) -> Tensor:
        """Logits of rows, with the model's own inputs of each row."""
        found = []
        for rows, *args in zip(
            *(tensor.split(self.most) for tensor in (embeddings, *inputs)), strict=True
        ):
            with patched([self.layer], (rows.to(self.dtype),), [1], None, False):
                found.append(self.model(**dict(zip(self.names, args, strict=True))).logits)
        return torch.cat(found)


@dataclass(frozen=True)
class MethodInput:
    """What a method needs to know of a batch."""

    problem: Problem  # F, the input and the baseline at the embedding, and the words that move
    at_embedding: AtEmbedding
    inputs: tuple[Tensor, ...]  # the model's own, (B, …) each
    targets: Tensor  # (B,)
    feature_mask: Tensor  # (B, L)
    generators: Sequence[torch.Generator]  # one for each text
    n_steps: int
    path: DiscretizedPath

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Input and baseline at the embedding, (B, L, D) each."""
        return self.problem.moves.points[0], self.problem.moves.baselines[0]

    @property
    def arguments(self) -> dict[str, Any]:
        """What all of Captum's methods are called with."""
        return {"target": self.targets, "additional_forward_args": self.inputs}

    def one_by_one(self) -> Iterator[MethodInput]:
        """Each text alone, so that what is drawn does not depend on the batch."""
        x, b = self.ends
        for number, generator in enumerate(self.generators):
            one = slice(number, number + 1)
            moves = WordPaths.between((x[one],), (b[one],), (self.feature_mask[one],))
            yield replace(
                self,
                problem=replace(self.problem, moves=moves),
                inputs=tuple(tensor[one] for tensor in self.inputs),
                targets=self.targets[one],
                feature_mask=self.feature_mask[one],
                generators=[generator],
            )


@dataclass(frozen=True)
class Scores:
    """What a method says of a batch; every position carries its word's score."""

    values: Tensor  # (B, L)
    word_deltas: Sequence[float | None]  # (B,): the worst measured error of a word, where known
    standard_error: Tensor | None = None  # (B, L)
    residual: Tensor | None = None  # (B,)

    def cpu(self) -> Scores:
        """The same on the CPU."""
        known = (self.standard_error, self.residual)
        error, residual = (None if one is None else one.cpu() for one in known)
        return replace(self, values=self.values.cpu(), standard_error=error, residual=residual)


Method = Callable[[MethodInput], Scores]


def sig(question: MethodInput) -> Scores:
    """Exact word scores; the delta is |F(x) through the hook − F(x) of the untouched model|."""
    problem = question.problem
    effects = problem.word_effects()
    hooked = problem.values(problem.moves.points)
    plain = hooked if problem.whole is None else problem.whole.to(hooked)
    error = effects.standard_error
    return Scores(
        problem.moves.spread(effects.mean)[0],
        (hooked - plain).abs().tolist(),
        None if error is None else problem.moves.spread(error)[0],
        effects.residual,
    )


def sequential_dig(question: MethodInput) -> Scores:
    """SIG along each word's path of Discretized Integrated Gradients.

    Whatever the path, a word's exact score is F(x) − F(x̄ʷ); this one has the path's error.
    """
    problem = question.problem
    steps = problem.path_steps(question.path)
    found, _ = problem.integral(functools.partial(by_steps, steps=steps), True)
    scores = word_sums(found.attributions.sum(-1), question.feature_mask)
    return Scores(
        scores,
        found.word_delta.abs().amax(1).tolist(),
        found.standard_error,
        found.residual,
    )


def dig(question: MethodInput) -> Scores:
    """Discretized Integrated Gradients: all words move at once, each along its own path."""
    problem = question.problem.together()
    steps = problem.path_steps(question.path)
    found, _ = problem.integral(functools.partial(by_steps, steps=steps), True)
    return _summed(question, found.attributions)


def ig(question: MethodInput) -> Scores:
    """Captum's IntegratedGradients, Gauss-Legendre."""
    x, b = question.ends
    found = captum.attr.IntegratedGradients(question.at_embedding).attribute(
        x, b, n_steps=question.n_steps, **question.arguments,
        internal_batch_size=max(question.at_embedding.most, len(x)),
    )  # fmt: skip
    return _summed(question, found)


def input_x_gradient(question: MethodInput) -> Scores:
    """Captum's InputXGradient."""
    found = captum.attr.InputXGradient(question.at_embedding)
    return _summed(question, found.attribute(_leaf(question), **question.arguments))


def saliency(question: MethodInput) -> Scores:
    """Captum's Saliency: absolute gradients, without a sign."""
    found = captum.attr.Saliency(question.at_embedding)
    return _summed(question, found.attribute(_leaf(question), **question.arguments))


def gradient_shap(question: MethodInput) -> Scores:
    """Captum's GradientShap, its defaults."""

    def of_one(one: MethodInput) -> Tensor:
        x, b = one.ends
        return captum.attr.GradientShap(one.at_embedding).attribute(x, b, **one.arguments)

    return _summed(question, _drawn_one_by_one(question, of_one))


def deep_lift(question: MethodInput) -> Scores:
    """Captum's DeepLift; non-linearities that are no modules of torch count by their gradient.

    Raises:
        ValueError: if the model is not one that DeepLift can follow.
    """
    x, b = _leaf(question), question.ends[1]
    try:
        with warnings.catch_warnings():  # that it hooks the model, which it unhooks again
            warnings.filterwarnings("ignore", "Setting forward, backward hooks")
            found = captum.attr.DeepLift(question.at_embedding).attribute(
                x, b, **question.arguments
            )
    except (RuntimeError, AssertionError, AttributeError) as error:
        raise ValueError(
            f"DeepLift cannot follow {type(question.at_embedding.model).__name__} "
            f"({str(error).splitlines()[0]}): use another method"
        ) from error
    return _summed(question, found)


def occlusion(question: MethodInput) -> Scores:
    """Captum's Occlusion, a window of one token."""
    x, b = question.ends
    found = captum.attr.Occlusion(question.at_embedding).attribute(
        x, (1, *x.shape[2:]), baselines=b, **question.arguments
    )
    return _summed(question, _once(found)[..., None])


def shapley(question: MethodInput) -> Scores:
    """Captum's ShapleyValueSampling over words, its defaults."""

    def of_one(one: MethodInput) -> Tensor:
        x, b = one.ends
        # numbers without a gap; positions that never move join a word that does, at no cost
        numbers = (one.problem.moves.path_of[0]).clamp(min=0)[..., None]
        found = captum.attr.ShapleyValueSampling(one.at_embedding).attribute(
            x, b, feature_mask=numbers, perturbations_per_eval=SHAPLEY_AT_ONCE, **one.arguments
        )
        return torch.where(one.problem.moves.path_of[0] >= 0, _once(found), 0)

    values = _drawn_one_by_one(question, of_one)
    return Scores(values, [None] * len(values))


def random(question: MethodInput) -> Scores:
    """A control: scores drawn uniformly from [0, 1)."""
    rows = []
    for mask, generator in zip(question.feature_mask, question.generators, strict=True):
        seed = int(torch.randint(2**63 - 1, (), generator=generator))  # one draw, however padded
        drawn = torch.rand(int(mask.max()) + 1, generator=torch.Generator().manual_seed(seed))
        rows.append(drawn.to(mask.device)[mask])
    return Scores(torch.stack(rows), [None] * len(rows))


METHODS: dict[str, Method] = {
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
    "random": random,
}
IN_CONTEXTS = ("sig", "sequential_dig")  # methods that move one word at a time


def answer(method: Method, question: MethodInput) -> Scores:
    """Ask a method; the model's weights are not differentiated, and random numbers are kept."""
    with frozen(question.at_embedding.modules()):
        return method(question)


def _summed(question: MethodInput, attributions: Tensor) -> Scores:  # (B, L, D)
    sums = word_sums(attributions.detach().flatten(2).sum(-1), question.feature_mask)
    return Scores(sums, [None] * len(sums))


def _once(found: Tensor) -> Tensor:
    """(B, L, D) → (B, L): methods that move whole positions give every feature the same value."""
    return found.flatten(2)[..., 0]


def _leaf(question: MethodInput) -> Tensor:
    return question.ends[0].clone().requires_grad_()


def _drawn_one_by_one(question: MethodInput, of_one: Callable[[MethodInput], Tensor]) -> Tensor:
    found = []
    for one in question.one_by_one():
        with _global_draws(one.generators[0]):
            found.append(of_one(one).detach())
    return torch.cat(found)


@contextmanager
def _global_draws(generator: torch.Generator) -> Iterator[None]:
    """Captum draws from the global generators: seed them, and set them back after."""
    seed = int(torch.randint(2**31, (), generator=generator))
    of_numpy = np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)

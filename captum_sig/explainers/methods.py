"""Attribution methods by name: each maps the same input to scores of words.

Captum's own methods run unchanged, on the model as a function of its word embeddings; F, the
baseline and the explained class are the same for all. Scores are sums over a word's features and
sub-tokens, in units of F; those of `saliency` are sums of absolute gradients, without a sign.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import captum.attr
import numpy as np
import torch
from torch import Tensor, nn

from captum_sig._locks import ForkSafeLock
from captum_sig._names import MethodName
from captum_sig._warnings import warn
from captum_sig.attr.arguments import integrator
from captum_sig.attr.chunks import depends_on_others, rounding_error, warn_of_dependent_rows
from captum_sig.attr.function import Tensors, with_shared_weights
from captum_sig.attr.hooks import patched
from captum_sig.attr.integrals import WordPath
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import WordPaths
from captum_sig.explainers.results import Word, scored_words
from captum_sig.words.encoding import Batch
from captum_sig.words.grouping import word_sums

ROWS = 64  # in a pass of Captum's methods, so that their memory stays bounded
MAX_ERROR = 0.1  # of sequential_dig, as a fraction of the largest score, without a warning
SHAPLEY_PERMUTATIONS = 16  # rows per pass of Captum's Shapley values
_global_lock = ForkSafeLock()  # held while the process's generators or warnings are changed


class AtEmbedding(nn.Module):
    """A classifier as a function of its word embeddings, (R, L, D) → logits (R, C).

    Args:
        model: the classifier; called with keywords.
        layer: its word embedding.
        names: the model's inputs after the embeddings, first "input_ids".
        max_rows: maximum number of rows in a pass; more take several passes.
        dtype: the layer's; some of Captum's methods pass wider rows.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        *,
        names: Sequence[str],
        max_rows: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.names, self.max_rows, self.dtype = names, max_rows, dtype
        self.is_checked = False

    def forward(self, embeddings: Tensor, *inputs: Tensor) -> Tensor:
        """Compute logits of rows, with the model's own inputs of each row."""
        tensors = (embeddings, *inputs)
        parts = list(zip(*(tensor.split(self.max_rows) for tensor in tensors), strict=True))
        logits = []
        for part in parts:
            logits.append(self._logits(part))
            if self._rows_depend_on_each_other(part, logits[-1]):
                self.max_rows = 1
                warn_of_dependent_rows()
                return self(embeddings, *inputs)
        return torch.cat(logits)

    def _logits(self, tensors: Sequence[Tensor]) -> Tensor:
        rows, *inputs = tensors
        with patched([self.layer], (rows.to(self.dtype),)):
            return self.model(**dict(zip(self.names, inputs, strict=True))).logits

    def _rows_depend_on_each_other(self, tensors: Tensors, logits: Tensor) -> bool:
        if self.is_checked or len(logits) < 2:
            return False
        self.is_checked = True
        last = tuple(tensor[-1:] for tensor in tensors)
        with torch.no_grad():
            return depends_on_others(lambda: self._logits(last), logits, rounding_error(tensors[0]))


@dataclass(frozen=True, kw_only=True)
class MethodInput:
    """A batch of texts with what a method needs to know."""

    problem: Problem  # F, the input and the baseline at the embedding, and the words that move
    model: nn.Module
    layer: nn.Module
    inputs: dict[str, Tensor]  # the model's own by name, (B, …) each
    targets: Tensor  # (B,)
    feature_mask: Tensor  # (B, L)
    generators: Sequence[torch.Generator]  # one for each text
    n_steps: int
    new_path: Callable[[], WordPath]  # of Discretized Integrated Gradients

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Input and baseline at the embedding, (B, L, D) each."""
        return self.problem.paths.points[0], self.problem.paths.baselines[0]

    @functools.cached_property
    def at_embedding(self) -> AtEmbedding:
        """The model as Captum's methods take it."""
        return AtEmbedding(
            self.model,
            self.layer,
            names=tuple(self.inputs),
            max_rows=self.problem.max_rows or ROWS,
            dtype=self.ends[0].dtype,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that all of Captum's methods take."""
        inputs = tuple(self.inputs.values())
        return {"target": self.targets, "additional_forward_args": inputs}

    def one_by_one(self) -> Iterator[MethodInput]:
        """Yield each text alone, so that its random draws do not depend on the batch."""
        x, b = self.ends
        for number, generator in enumerate(self.generators):
            row = slice(number, number + 1)
            paths = WordPaths.between((x[row],), (b[row],), (self.feature_mask[row],))
            yield replace(
                self,
                problem=replace(self.problem, paths=paths),
                inputs={name: tensor[row] for name, tensor in self.inputs.items()},
                targets=self.targets[row],
                feature_mask=self.feature_mask[row],
                generators=[generator],
            )


@dataclass(frozen=True)
class Scores:
    """A method's scores of a batch; every position carries its word's score."""

    values: Tensor  # (B, L)
    word_deltas: Sequence[float | None]  # (B,): the largest measured error of a word, where known
    standard_error: Tensor | None = None  # (B, L)
    residual: Tensor | None = None  # (B,)
    std: Tensor | None = None  # (B, L): standard deviation over the draws of a random baseline
    first: Tensor | None = None  # (B, L): effect among words at the baseline; NaN if unknown
    last: Tensor | None = None  # (B, L): effect among words at the input; NaN if unknown
    left_out: Tensor | None = None  # (B, L): F(x) − F(x̄ʷ) where the method knows it; NaN elsewhere

    def cpu(self) -> Scores:
        """Move the scores to the CPU."""
        tensors = {
            field.name: getattr(self, field.name).cpu()
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)

    def words(self, batch: Batch, number: int) -> tuple[Word, ...]:
        """Return a text's words with their scores and what is known of their errors."""
        spans = batch.spans[number]
        positions = [span.position for span in spans]

        def of_words(values: Tensor | None) -> list[float] | None:
            return None if values is None else values[number, positions].tolist()

        return scored_words(
            spans,
            self.values[number, positions].tolist(),
            std=of_words(self.std),
            standard_error=of_words(self.standard_error),
            first=of_words(self.first),
            last=of_words(self.last),
        )


Method = Callable[[MethodInput], Scores]


def sig(batch: MethodInput) -> Scores:
    """Exact word scores; the delta is |F(x) through the hook − F(x) of the unchanged model|."""
    problem = batch.problem
    effects = problem.word_effects()
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
        left_out=of_positions(effects.mean if effects.last is None else effects.last),
    )


def sequential_dig(batch: MethodInput) -> Scores:
    """SIG along each word's path of Discretized Integrated Gradients.

    Whatever the path, a word's exact score is F(x) − F(x̄ʷ); this one has the path's error.

    Warns:
        UserWarning: if it is more than `MAX_ERROR` of a text's largest exact score.
    """
    problem = batch.problem
    integrate = integrator(steps=problem.path_steps(batch.new_path()))
    integral, _ = problem.integral(integrate, True)
    scores = word_sums(integral.attributions.sum(-1), batch.feature_mask)
    exact = scores - integral.word_delta
    errors = integral.word_delta.abs().amax(1)
    if (errors > MAX_ERROR * exact.abs().amax(1)).any():
        warn(
            "sequential_dig is far from the exact scores of some words, by max_abs_word_delta "
            'logits: use method "sig", which is exact'
        )
    return Scores(
        scores,
        errors.tolist(),
        integral.standard_error,
        integral.residual,
        first=integral.first,
        last=integral.last,
        left_out=exact if integral.last is None else integral.last,
    )


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
        internal_batch_size=max(batch.at_embedding.max_rows, len(x)),
    )  # fmt: skip
    return _summed(batch, attributions)


def input_x_gradient(batch: MethodInput) -> Scores:
    """Captum's InputXGradient."""
    method = captum.attr.InputXGradient(batch.at_embedding)
    return _summed(batch, method.attribute(_leaf(batch), **batch.arguments))


def saliency(batch: MethodInput) -> Scores:
    """Captum's Saliency: absolute gradients, without a sign."""
    method = captum.attr.Saliency(batch.at_embedding)
    return _summed(batch, method.attribute(_leaf(batch), **batch.arguments))


def gradient_shap(batch: MethodInput) -> Scores:
    """Captum's GradientShap with its defaults."""

    def attribute(text: MethodInput) -> Tensor:
        x, b = text.ends
        with _global_draws(text.generators[0]):
            return captum.attr.GradientShap(text.at_embedding).attribute(x, b, **text.arguments)

    return _summed(batch, _each_alone(batch, attribute))


def deep_lift(batch: MethodInput) -> Scores:
    """Captum's DeepLift; non-linearities that are not modules of torch count by their gradient.

    Raises:
        ValueError: if DeepLift cannot follow the model.
    """
    x, b = _leaf(batch), batch.ends[1]
    try:
        model = with_shared_weights(batch.at_embedding)  # DeepLift hooks it, for all threads
        model.is_checked = True  # a row alone would not fit the hooks
        with _global_lock, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Setting forward, backward hooks")
            attributions = captum.attr.DeepLift(model).attribute(x, b, **batch.arguments)
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        raise ValueError(
            f"DeepLift cannot follow {type(batch.model).__name__} "
            f"({str(error).splitlines()[0]}): use another method"
        ) from error
    return _summed(batch, attributions)


def occlusion(batch: MethodInput) -> Scores:
    """Captum's Occlusion with a window of one token."""
    x, b = batch.ends
    attributions = captum.attr.Occlusion(batch.at_embedding).attribute(
        x, (1, *x.shape[2:]), baselines=b, **batch.arguments
    )
    return _summed(batch, _first_feature(attributions)[..., None])


def shapley(batch: MethodInput) -> Scores:
    """Captum's ShapleyValueSampling over words, with its defaults."""

    def attribute(text: MethodInput) -> Tensor:
        x, b = text.ends
        path_of = text.problem.paths.path_of[0]
        method = captum.attr.ShapleyValueSampling(text.at_embedding)
        method.permutation_generator = _permutations(text.generators[0])
        # numbers without a gap; positions that never move join a word that does, at no cost
        attributions = method.attribute(
            x, b, feature_mask=path_of.clamp(min=0)[..., None],
            perturbations_per_eval=SHAPLEY_PERMUTATIONS, **text.arguments,
        )  # fmt: skip
        return torch.where(path_of >= 0, _first_feature(attributions), 0)

    values = _each_alone(batch, attribute)
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
    "random": random,
}
IN_CONTEXTS = ("sig", "sequential_dig")  # methods that move one word at a time


def mean_scores(draws: Sequence[Scores]) -> Scores:
    """Average one or several draws of the same batch, on the CPU."""
    draws = [draw.cpu() for draw in draws]
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


def _largest(deltas: Sequence[float | None]) -> float | None:
    known = [delta for delta in deltas if delta is not None]
    return max(known) if known else None


def _summed(batch: MethodInput, attributions: Tensor) -> Scores:  # (B, L, D)
    sums = word_sums(attributions.detach().flatten(2).sum(-1), batch.feature_mask)
    return Scores(sums, [None] * len(sums))


def _first_feature(attributions: Tensor) -> Tensor:
    """(B, L, D) → (B, L): methods that move whole positions give all features the same value."""
    return attributions.flatten(2)[..., 0]


def _leaf(batch: MethodInput) -> Tensor:
    return batch.ends[0].clone().requires_grad_()


def _each_alone(batch: MethodInput, attribute: Callable[[MethodInput], Tensor]) -> Tensor:
    return torch.cat([attribute(text).detach() for text in batch.one_by_one()])


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

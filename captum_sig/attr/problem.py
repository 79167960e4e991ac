"""An attribution problem: F as a function of rows, and the words that move.

The attribution classes build a `Problem` from their arguments (see `arguments`) and solve it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._warnings import warn
from captum_sig.attr.chunks import Chunks
from captum_sig.attr.function import RowFunction, Tensors, flat, rows_share_scales
from captum_sig.attr.integrals import (
    Integrate,
    Steps,
    WordPath,
    coalition_values,
    path_ends,
)
from captum_sig.attr.shapley import Screen, shapley_values
from captum_sig.attr.word_paths import WordPaths, all_finite, like, with_positions
from captum_sig.contexts import Auto

StandardError = Callable[[Tensor], Tensor | None]  # of the mean over backgrounds: (K, P) → (P,)
Ends = tuple[Tensor, Tensor]  # F at the end of each path and at its start, (K, P, …) each


@dataclass(frozen=True)
class SequentialIntegral:
    """The result of `integrate`; tensors in Captum's container (a tuple for tuples, and so on).

    `attributions` is (B, L, …), at least float32. The others are (B, L), and every position of a
    word carries its word's value. `word_delta` is Σ_j SIG_wj − (F(x) − F(x̄ʷ)), the quadrature's
    measured error in units of F. `n_evaluations` counts gradients, 0 where nothing differs; with a
    tolerance, the gradient at the input is computed once for all words of the example. `converged`
    is False only for words that stopped short of a requested tolerance.

    With `contexts` other than the input, attributions and deltas are means over the backgrounds,
    and evaluations are counted in all of them. `residual`, (B,), is then each sentence's
    Σ_w [mean F at the input − at the baseline] − (F(x) − F(x̄)), and `standard_error`, (B, L), that
    of each word's mean where several backgrounds are drawn at random. `first` and `last`, (B, L),
    are a word's effect where all other words are at the baseline, and where all are at the input;
    NaN for words without such a background. Otherwise they are None.
    """

    attributions: Any
    word_delta: Any
    n_evaluations: Any
    converged: Any
    standard_error: Any = None
    residual: Tensor | None = None
    first: Any = None
    last: Any = None


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Leave inference mode, whose tensors cannot require a gradient; build no graph."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass(frozen=True)
class WordEffects:
    """Each word's effect on F, averaged over its backgrounds; see `SequentialIntegral`.

    Where F has several values, all tensors have their dimensions at the end.
    """

    mean: Tensor  # (P,); NaN for words that were not selected
    standard_error: Tensor | None = None  # (P,)
    residual: Tensor | None = None  # (B,)
    value_at_input: Tensor | None = None  # (B,): F(x) of a row; NaN if nothing differs
    first: Tensor | None = None  # (P,): all other words are at the baseline; NaN if unknown
    last: Tensor | None = None  # (P,): all other words are at the input; NaN if unknown

    @property
    def left_out(self) -> Tensor:
        """F(x) − F(x̄ʷ) of each word, (P,); NaN if unknown."""
        return self.mean if self.last is None else self.last


@dataclass(frozen=True, kw_only=True)
class Problem:
    """F, the words that move, and the container in which the caller expects tensors."""

    function: RowFunction
    paths: WordPaths
    standard_error: StandardError | None = None
    auto: Sequence[Auto] | None = None  # of each example, if words whose sides disagree are sampled
    format_outputs: Callable[[Tensors], Any] = tuple
    max_rows: int | None = None
    show_progress: bool = False
    value_at_input: Tensor | None = None  # (B,): F(x), where capturing the layer has shown it
    embedded_ids: Sequence[tuple[nn.Module, Tensor]] | None = None  # embeddings, and their ids
    known_ends: Ends | None = None  # where rows were evaluated before F was chosen
    are_rows_independent: bool = False  # whether that is known

    def __post_init__(self) -> None:
        n = self.max_rows
        if n is not None and not (hasattr(n, "__index__") and operator.index(n) >= 1):
            raise ValueError(f"internal_batch_size must be at least 1 row, got {n!r}")
        if len(self.paths) == 0:
            warn("nothing differs between input and baseline: every attribution is zero")
            if self.value_at_input is None and self.paths.n_examples > 0:
                self.values(self.paths.points)  # the model's errors are not hidden

    @plain_tensors()
    def word_scores(self) -> Any:
        """Compute Σ_j SIG_wj = F(x) − F(x̄ʷ) exactly: (B, L) in the caller's container."""
        effects, _ = self._evaluated_effects()
        return self.format_outputs(self.paths.scatter(effects.mean))

    @plain_tensors()
    def word_effects(self, selected: Tensor | None = None) -> WordEffects:
        """Compute the same for each word, (P,), with its standard error and residual.

        Args:
            selected: (P,), whether to evaluate each word's rows; None evaluates all.
        """
        return self._with_residual(*self._evaluated_effects(selected))

    @plain_tensors()
    def with_known_ends(self) -> Problem:
        """Evaluate F at the ends of all paths, which the problem then knows."""
        ends = self._ends()
        at_input = self._per_example_where_known(self._where_kept(self._n_others, ends[0]))
        return replace(self, known_ends=ends, value_at_input=at_input)

    def of_values(self, function: RowFunction) -> Problem:
        """Explain another F, which `function` selects from the values of the one that is known."""
        assert self.known_ends is not None
        assert self.value_at_input is not None
        of_path = self.paths.example_of(self.paths.background)
        every = torch.arange(self.paths.n_examples, device=of_path.device)
        at_end, at_start = (
            self.paths.by_background(function.select(of_end.flatten(0, 1), of_path))
            for of_end in self.known_ends
        )
        return replace(
            self,
            function=function,
            known_ends=(at_end, at_start),
            value_at_input=function.select(self.value_at_input, every),
        )

    @plain_tensors()
    def coalition_values(self, example: Tensor, keeps: Tensor) -> Tensor:
        """Evaluate F with some of the words at the input, all others at the baseline: (R, …).

        Args:
            example: the example of each row, (R,).
            keeps: whether each row keeps its example's word number 0 … W − 1 of those that move,
                (R, W); columns beyond an example's words are ignored.
        """
        if len(self.paths) == 0 and self.value_at_input is not None:
            return self.value_at_input[example].to(self.paths.dtype)
        with self.chunks as chunks:
            return coalition_values(self.function, self.paths, chunks, example, keeps)

    @plain_tensors()
    def values(self, points: Tensors) -> Tensor:
        """Evaluate F of rows shaped as the inputs, one for each example, (B,)."""
        example = torch.arange(self.paths.n_examples, device=points[0].device)

        def evaluate(rows: slice) -> tuple[Tensor]:
            return (self.function.values(tuple(x[rows] for x in points), example[rows]),)

        with self.chunks as chunks:
            return torch.cat([values for _, (values,) in chunks.map(evaluate, len(example))])

    def as_one_word(self) -> Problem:
        """Move all words of an example together: the integral is then the sentence's."""
        x, b = self.paths.points, self.paths.baselines
        n_examples = self.paths.n_examples
        same = tuple(torch.zeros_like(of[:n_examples]) for of in self.paths.path_of)
        return replace(self, paths=WordPaths.between(x, b, same))

    def path_steps(self, path: WordPath) -> list[Steps]:
        """Return the steps of a path through token ids, in each embedding that moves.

        Raises:
            ValueError: if what moves is not a word embedding.
        """
        if self.embedded_ids is None:
            raise ValueError(
                "a path through words needs the word embedding, model.get_input_embeddings(), as "
                "the layer, and its output to move"
            )
        if not callable(path) or isinstance(path, type):
            raise TypeError(
                f"path must be an instance such as captum_sig.attr.dig.DiscretizedPath(), got "
                f"{path!r}"
            )
        return [
            path(layer, ids, b)
            for (layer, ids), b in zip(self.embedded_ids, self.paths.baselines, strict=True)
        ]

    @plain_tensors()
    def integral(
        self, integrate: Integrate, multiply_by_inputs: bool
    ) -> tuple[SequentialIntegral, Tensor]:
        """Integrate SIG; also return its convergence delta, (B,): the sum of the word deltas."""
        self._refuse_auto()
        paths = self.paths
        with self.chunks as chunks:
            averages = integrate(self.function, paths, chunks)
        products = tuple(
            gradient * (x.to(gradient.dtype) - b.to(gradient.dtype))
            for gradient, x, b in zip(
                averages.gradients, paths.points, paths.baselines, strict=True
            )
        )
        effects = self._with_residual(self._effects(paths.by_background(averages.output_changes)))
        delta = paths.sums(products) - effects.mean
        stopped_short = paths.scatter(~paths.by_background(averages.converged).all(0))
        n_evaluations = paths.by_background(averages.n_evaluations).sum(0)

        def formatted(per_word: Tensor | None) -> Any:
            return None if per_word is None else self.format_outputs(paths.scatter(per_word))

        result = SequentialIntegral(
            attributions=self.format_outputs(
                products if multiply_by_inputs else averages.gradients
            ),
            word_delta=formatted(delta),
            n_evaluations=formatted(n_evaluations),
            converged=self.format_outputs(tuple(~short for short in stopped_short)),
            standard_error=formatted(effects.standard_error),
            residual=effects.residual,
            first=formatted(effects.first),
            last=formatted(effects.last),
        )
        return result, self._per_example(delta)

    @plain_tensors()
    def convergence_delta(self, attributions: Any) -> Tensor:
        """Compute Σ_w [Σ_j A_wj − (F(x) − F(x̄ʷ))] of the caller's attributions A, (B,)."""
        self._refuse_auto()
        tensors = tuple(map(with_positions, flat(attributions)))
        shapes = [tuple(tensor.shape) for tensor in tensors]
        wanted = [tuple(x.shape) for x in self.paths.points]
        if shapes != wanted:
            raise ValueError(f"attributions have shapes {shapes}; wanted {wanted}")
        total = sum(tensor.flatten(1).sum(1) for tensor in tensors)
        return total - self._per_example(self._evaluated_effects()[0].mean)

    @functools.cached_property
    def chunks(self) -> Chunks:
        """How many rows are evaluated at a time."""
        n = None if self.max_rows is None else operator.index(self.max_rows)
        chunks = Chunks(self.paths.points, n, self.show_progress, self.are_rows_independent)
        if chunks.size > 1 and rows_share_scales(self.function.modules):
            chunks.take_rows_one_by_one()
        return chunks

    def _ends(self, selected: Tensor | None = None) -> Ends:
        if self.known_ends is not None:
            return self.known_ends
        if len(self.paths) == 0:
            shape = () if self.value_at_input is None else self.value_at_input.shape[1:]
            none = torch.zeros(1, 0, *shape, dtype=self.paths.dtype, device=self.paths.device)
            return none, none
        paths, is_alone = self.paths, self.paths.n_examples == 1 and self._only_input
        numbers = None if selected is None else selected.repeat(paths.n_backgrounds).nonzero()[:, 0]
        with self.chunks as chunks:
            ends = path_ends(
                self.function, paths, chunks, self.value_at_input if is_alone else None, numbers
            )
        if numbers is not None:
            all_nan = ends[0].new_full((len(paths), *ends[0].shape[1:]), torch.nan)
            ends = all_nan.index_put((numbers,), ends[0]), all_nan.index_put((numbers,), ends[1])
        return paths.by_background(ends[0]), paths.by_background(ends[1])

    def _refuse_auto(self) -> None:
        if self.auto is not None:
            raise ValueError(
                "contexts.auto samples scores of words, not gradients: use attribute_words, or "
                "other contexts such as contexts.two_sided"
            )

    def _evaluated_effects(self, selected: Tensor | None = None) -> tuple[WordEffects, Ends]:
        ends = self._ends(selected)
        effects = self._effects(ends[0] - ends[1])
        return self._refined(effects, ends), ends

    def _refined(self, effects: WordEffects, ends: Ends) -> WordEffects:
        """Put Shapley values in place of the means of words whose two sides disagree."""
        if self.auto is None or len(self.paths) == 0:
            return effects
        (at_input, alone), (without, at_baseline) = ends  # (P, …) each: two backgrounds
        values, standard_error = shapley_values(
            Screen(at_input, at_baseline, without, alone),
            self.paths.words_per_example.tolist(),
            self.auto,
            self.coalition_values,
        )
        return replace(effects, mean=values, standard_error=standard_error)

    @property
    def _only_input(self) -> bool:
        """Whether words move in the input itself."""
        return self.paths.n_backgrounds == 1 and bool(self.paths.keeps.all())

    def _effects(self, output_changes: Tensor) -> WordEffects:  # of (K, P, …)
        mean = output_changes.mean(0)
        if self._only_input:
            return WordEffects(mean)
        n_others = self._n_others
        return WordEffects(
            mean,
            None if self.standard_error is None else self.standard_error(output_changes),
            first=self._where_kept(torch.zeros_like(n_others), output_changes),
            last=self._where_kept(n_others, output_changes),
        )

    def _with_residual(self, effects: WordEffects, ends: Ends | None = None) -> WordEffects:
        """Add F(x), and the residual; evaluate F of input and baseline if no path shows it."""
        n_others = self._n_others
        at_input = at_baseline = None
        if ends is not None:
            at_input = self._per_example_where_known(self._where_kept(n_others, ends[0]))
        if self._only_input:
            return replace(effects, value_at_input=at_input)
        if ends is not None:
            no_others = torch.zeros_like(n_others)
            at_baseline = self._per_example_where_known(self._where_kept(no_others, ends[1]))
        if at_input is None or at_input.isnan().any():
            at_input = self.values(self.paths.points)
        if at_baseline is None or at_baseline.isnan().any():
            at_baseline = self.values(self.paths.baselines)
        residual = self._per_example(effects.mean) - (at_input - at_baseline).to(effects.mean)
        return replace(effects, value_at_input=at_input, residual=residual)

    @property
    def _n_others(self) -> Tensor:  # (P,)
        example = self.paths.background[: self.paths.n_words]
        return self.paths.words_per_example[example] - 1

    def _where_kept(self, n_others: Tensor, per_path: Tensor) -> Tensor:
        """Take each word's value, (K, P, …), where so many others are at the input: (P, …)."""
        shows = self.paths.others_kept == n_others
        word = torch.arange(len(n_others), device=shows.device)
        values = per_path[shows.int().argmax(0), word]
        return torch.where(like(shows.any(0), values), values, torch.nan)

    def _per_example_where_known(self, per_word: Tensor) -> Tensor:  # (P, …) → (B, …)
        """Take the value of any of an example's words that has one; NaN if none has."""
        is_known = all_finite(per_word)
        values = per_word.new_full((self.paths.n_examples, *per_word.shape[1:]), torch.nan)
        values[self.paths.background[: len(per_word)][is_known]] = per_word[is_known]
        return values

    def _per_example(self, per_word: Tensor) -> Tensor:  # (P, …) → (B, …)
        example = self.paths.background[: len(per_word)]
        totals = per_word.new_zeros(self.paths.n_examples, *per_word.shape[1:])
        return totals.index_add_(0, example, per_word)

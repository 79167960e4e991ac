"""What is asked of a model: F as a function of rows, and the moves between input and baseline.

All the attribution classes make a `Problem` from their arguments (`from_captum`) and ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._warnings import warn
from captum_sig.attr.chunks import Chunks
from captum_sig.attr.function import RowFunction, Tensors, flat
from captum_sig.attr.integrals import Integrate, Path, Steps, path_ends
from captum_sig.attr.word_paths import WordPaths

StandardError = Callable[[Tensor], Tensor]  # of the mean over backgrounds, (K, P) → (P,)


@dataclass(frozen=True)
class SequentialIntegral:
    """What `integrate` returns; tensors in Captum's container (a tuple for tuples, and so on).

    `attributions` is (B, L, …), in float32 at least. The others are (B, L), and every position of
    a word carries its word's value: `word_delta` is Σ_j SIG_wj − (F(x) − F(x̄ʷ)), the quadrature's
    measured error in units of F; `n_evaluations` counts gradients, 0 where nothing differs (with a
    tolerance, the one at the input is computed once for all words of the example); `converged` is
    False only for words that stopped short of a tolerance that was asked for.

    With `contexts` other than the input: attributions and deltas are means over the backgrounds,
    evaluations are counted in all of them, `residual` is Σ_w [mean F at the input − at the
    baseline] − (F(x) − F(x̄)) of each sentence, (B,), and `standard_error` that of each word's mean,
    (B, L), where the backgrounds are drawn at random. Otherwise both are None.
    """

    attributions: Any
    word_delta: Any
    n_evaluations: Any
    converged: Any
    standard_error: Any = None
    residual: Tensor | None = None


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Callers may be in no_grad or inference mode; rows need tensors that can require grad."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass(frozen=True)
class WordEffects:
    """What each move does to F, averaged over its backgrounds; see `SequentialIntegral`."""

    mean: Tensor  # (P,)
    standard_error: Tensor | None  # (P,)
    residual: Tensor | None  # (B,)


@dataclass(frozen=True)
class Problem:
    """F, the words that move, and how the caller wants tensors contained."""

    function: RowFunction
    moves: WordPaths
    standard_error: StandardError | None
    contain: Callable[[Tensors], Any]
    chunk: int | None
    progress: bool
    whole: Tensor | None = None  # (B,): F(x), where reading the layer has shown it
    embedded_ids: tuple[nn.Module, Tensor] | None = None  # the embedding that moves, and its ids

    def __post_init__(self) -> None:
        """Check the chunk and say what the caller would not expect."""
        if self.chunk is not None and not (isinstance(self.chunk, int) and self.chunk >= 1):
            raise ValueError(f"internal_batch_size must be at least 1 row, got {self.chunk!r}")
        if len(self.moves) == 0:
            warn("nothing differs between input and baseline: every attribution is zero")

    def word_scores(self) -> Any:
        """Exact Σ_j SIG_wj = F(x) − F(x̄ʷ), (B, L) in the caller's container."""
        return self.contain(self.moves.spread(self._drops().mean(0)))

    @plain_tensors()
    def word_effects(self) -> WordEffects:
        """The same for each move, with what is known of its error."""
        return self._effects(self._drops())

    @plain_tensors()
    def values(self, points: Tensors) -> Tensor:
        """F of rows that are shaped as the inputs, one for each example, (B,)."""
        example = torch.arange(self.moves.n_examples, device=points[0].device)

        def evaluate(rows: slice) -> Tensor:
            return self.function.values(tuple(x[rows] for x in points), example[rows])

        with self._chunks() as chunks:
            return torch.cat([found for _, found in chunks(evaluate, len(example))])

    def together(self) -> Problem:
        """All words of an example as one move: its integral is the sentence's."""
        x, b = self.moves.points, self.moves.baselines
        one = tuple(torch.zeros_like(of[: self.moves.n_examples]) for of in self.moves.path_of)
        return replace(self, moves=WordPaths.between(x, b, one))

    def path_steps(self, path: Path) -> Steps:
        """The steps of a path that starts from token ids.

        Raises:
            ValueError: if what moves is no word embedding.
        """
        if self.embedded_ids is None:
            raise ValueError(
                "a path through words needs the word embedding, model.get_input_embeddings(), as "
                "the layer, and its output to move"
            )
        if not callable(path) or isinstance(path, type):
            raise TypeError(
                f"path must be such as captum_sig.attr.dig.DiscretizedPath(), got {path!r}"
            )
        return path(*self.embedded_ids, self.moves.baselines[0])

    @plain_tensors()
    def integral(
        self, integrate: Integrate, multiply_by_inputs: bool
    ) -> tuple[SequentialIntegral, Tensor]:
        """SIG by quadrature, and its convergence delta (B,): the word deltas summed."""
        moves = self.moves
        with self._chunks() as chunks:
            found = integrate(self.function, moves, chunks, self.whole)
        products = tuple(
            gradient * (x.to(gradient.dtype) - b.to(gradient.dtype))
            for gradient, x, b in zip(found.gradients, moves.points, moves.baselines, strict=True)
        )
        effects = self._effects(moves.by_background(found.drops))
        delta = moves.sums(products) - effects.mean
        stopped_short = moves.spread(~moves.by_background(found.converged).all(0))
        n_evaluations = moves.by_background(found.n_evaluations).sum(0)
        error = effects.standard_error
        result = SequentialIntegral(
            attributions=self.contain(products if multiply_by_inputs else found.gradients),
            word_delta=self.contain(moves.spread(delta)),
            n_evaluations=self.contain(moves.spread(n_evaluations)),
            converged=self.contain(tuple(~short for short in stopped_short)),
            standard_error=None if error is None else self.contain(moves.spread(error)),
            residual=effects.residual,
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
        return total - self._per_example(self._drops().mean(0))

    def _chunks(self) -> Chunks:
        return Chunks(self.moves.points, self.chunk, self.progress)

    @plain_tensors()
    def _drops(self) -> Tensor:  # (K, P)
        with self._chunks() as chunks:
            ends = path_ends(self.function, self.moves, chunks, self.whole)
        return self.moves.by_background(ends[0] - ends[1])

    def _effects(self, drops: Tensor) -> WordEffects:  # (K, P)
        mean = drops.mean(0)
        if self.moves.n_backgrounds == 1 and self.moves.kept.all():  # the input itself
            return WordEffects(mean, None, None)
        at_input = self.values(self.moves.points) if self.whole is None else self.whole
        change = at_input - self.values(self.moves.baselines)
        return WordEffects(
            mean,
            None if self.standard_error is None else self.standard_error(drops),
            self._per_example(mean) - change.to(mean),
        )

    def _per_example(self, per_move: Tensor) -> Tensor:  # (P,)
        example = self.moves.scene[: len(per_move)]
        return per_move.new_zeros(self.moves.n_examples).index_add_(0, example, per_move)

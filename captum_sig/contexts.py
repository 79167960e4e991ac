"""Contexts: the backgrounds of the other words while one moves.

The paper moves a word while every other word stays at its input value. If two words say the same,
each alone then matters little, and redundant evidence is credited to neither. Averaging over
several *backgrounds*, in which some of the other words are at their baseline, shares it.

`contexts=` takes a callable that maps the number of words W that differ from the baseline in an
example to (K, W) booleans: whether each background keeps each word at its input value. It is called
once for each example, in order. The moving word is evaluated at its baseline and at its input in
every background; its own entry only says which of the two is the background itself, so that one
background takes W + 1 rows for all its words.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig._names import CONTEXTS_NAMES, sampled_number, unknown_name
from captum_sig._numbers import MAX_BACKGROUNDS, checked_integer

Contexts = Callable[[int], Tensor]  # W → (K, W) bool


def input(n_words: int) -> Tensor:
    """The input itself: SIG as published; W + 1 rows."""
    return torch.ones(1, n_words, dtype=torch.bool)


def two_sided(n_words: int) -> Tensor:
    """The input, and the sentence with every word at its baseline; 2 (W + 1) rows.

    >>> two_sided(3).tolist()
    [[True, True, True], [False, False, False]]
    """
    return torch.tensor([True, False])[:, None].expand(2, n_words)


@dataclass(frozen=True)
class Sampled:
    """k random backgrounds; number j keeps each word with probability (j + ½) / k; k (W + 1) rows.

    A stratified estimate of the Shapley value of each word, in the game where words are at their
    input or at their baseline: its sum over the words tends to F(x) − F(x̄), x̄ the sentence of
    baselines. A word's Shapley value is the mean over p of its effect among words that are kept
    with probability p; a background stands for each k-th part of the p.

    Args:
        k: number of backgrounds, at most `MAX_BACKGROUNDS`.
        generator: a CPU generator; None uses torch's own.

    Raises:
        ValueError: for another k.

    Source: Owen, "Multilinear extensions of games", Management Science 18 (1972).
    """

    k: int
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        k = checked_integer("the number of sampled contexts", self.k, most=MAX_BACKGROUNDS)
        object.__setattr__(self, "k", k)

    def __call__(self, n_words: int) -> Tensor:
        keeps = (torch.arange(self.k)[:, None] + 0.5) / self.k
        return torch.rand(self.k, n_words, generator=self.generator) < keeps

    def standard_error(self, effects: Tensor) -> Tensor | None:
        """Estimate the standard error of a word's mean effect, (K, …) → (…); None for k = 1.

        The estimate uses the differences between neighbouring strata, each of which has one draw;
        the differences between the strata themselves contribute little.

        Source: Cochran, "Sampling Techniques" (1977), section 5A.12, collapsed strata.
        """
        if self.k == 1:
            return None
        squares = effects.diff(dim=0).square().sum(0)
        return (squares / (2 * self.k * (self.k - 1))).sqrt()

    @property
    def name(self) -> str:
        """As `named` takes it."""
        return f"sampled{self.k}"


@dataclass(frozen=True)
class Auto:
    """Both sides of each word, and the Shapley values of the words whose two sides disagree.

    The input and the sentence of baselines take 2 (W + 1) rows, as in `two_sided`. A word whose
    two effects differ by more than the tolerance then moves in random backgrounds too, until the
    standard error of its Shapley value is at most the tolerance; the others keep the mean of their
    two effects. Where all sets of the words that interact take few rows, values are exact. For
    scores of words only: gradients are not sampled.

    Args:
        tolerance: a fraction of the text's largest absolute two-sided score.
        max_rows: the most rows of a text, those of the two sides included, which are always
            evaluated. None is 32 (W + 1), the rows of `sampled(32)`. Fewer rows go to the words
            that disagree most.
        generator: a CPU generator; None uses torch's own.

    Raises:
        ValueError: for a tolerance that is not positive, or `max_rows` that is no number of rows.

    Source: `captum_sig.attr.shapley`.
    """

    tolerance: float = 0.1
    max_rows: int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        tolerance = self.tolerance
        is_number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
        if not is_number or not 0 < tolerance < math.inf:
            raise ValueError(
                "the tolerance of contexts.auto must be a positive fraction of a text's largest "
                f"score, such as 0.1, got {tolerance!r}"
            )
        object.__setattr__(self, "tolerance", float(tolerance))
        if self.max_rows is not None:
            max_rows = checked_integer("max_rows of contexts.auto", self.max_rows)
            object.__setattr__(self, "max_rows", max_rows)

    def __call__(self, n_words: int) -> Tensor:
        return two_sided(n_words)

    @property
    def name(self) -> str:
        """As `named` takes it."""
        return "auto"


sampled, auto = Sampled, Auto  # spelled as their neighbours, since an instance is one of them

NAMES: dict[str, Contexts] = {"input": input, "two_sided": two_sided}


def named(name: str, generator: torch.Generator | None = None) -> Contexts:
    """Return contexts by name: "input", "two_sided", "auto", or "sampled4" for any number.

    Raises:
        ValueError: for another name, or too many backgrounds.
    """
    number = sampled_number(name)
    if number is not None:
        return sampled(number, generator)
    if name == "auto":
        return auto(generator=generator)
    if name not in NAMES:
        raise ValueError(unknown_name("contexts", name, CONTEXTS_NAMES))
    return NAMES[name]


def backgrounds(contexts: Sequence[Contexts], n_words: Sequence[int]) -> Tensor:
    """Evaluate each example's contexts, and put them side by side: (K, Σ W).

    Raises:
        ValueError: if one is anything but booleans (K, W) with the same K for all.
    """
    results = [of_example(n) for of_example, n in zip(contexts, n_words, strict=True)]
    for keeps, n in zip(results, n_words, strict=True):
        fits = isinstance(keeps, Tensor) and keeps.dtype == torch.bool and keeps.dim() == 2
        if not fits or len(keeps) == 0 or keeps.shape != (len(results[0]), n):
            got = f"{keeps.dtype} {tuple(keeps.shape)}" if isinstance(keeps, Tensor) else keeps
            raise ValueError(
                f"contexts({n}) returned {got}; wanted booleans (K, {n}), with the same K >= 1 for "
                "every example"
            )
    return torch.cat(results, dim=1) if results else torch.ones(1, 0, dtype=torch.bool)

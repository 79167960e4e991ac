"""Contexts: what the other words are while one moves.

The paper moves a word while every other word stays at its input value. Where two words say the
same, each alone then matters little, and redundant evidence is credited to nobody. Averaged over
several *backgrounds*, in which some of the other words stand at their baseline, it is shared.

`contexts=` takes a callable: the number of words W that differ from the baseline in an example →
(K, W) booleans, whether each background keeps each word at its input value. It is called once for
each example, in order. The word that moves is in turn at its baseline and at its input in every
background, so its own entry says only which of the two is the background itself: W + 1 rows ask a
background for all of its words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
        k: backgrounds.
        generator: a CPU generator to draw from; None draws from torch's own.

    Source: Owen, "Multilinear extensions of games", Management Science 18 (1972).
    """

    k: int
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"sampled contexts need at least 1 background, got {self.k!r}")

    def __call__(self, n_words: int) -> Tensor:
        """Draw for one example."""
        kept = (torch.arange(self.k)[:, None] + 0.5) / self.k
        return torch.rand(self.k, n_words, generator=self.generator) < kept

    def standard_error(self, effects: Tensor) -> Tensor:
        """Of the mean of a word's effects in the backgrounds, (K, …) → (…); NaN for k = 1.

        From the differences between neighbouring strata, each of which has one draw; what the
        strata themselves differ by counts but little.

        Source: Cochran, "Sampling Techniques" (1977), section 5A.12, collapsed strata.
        """
        if self.k == 1:
            return torch.full_like(effects[0], math.nan)
        squares = effects.diff(dim=0).square().sum(0)
        return (squares / (2 * self.k * (self.k - 1))).sqrt()


sampled = Sampled  # spelt as its neighbours, as what it makes is one of them

NAMES: dict[str, Contexts] = {"input": input, "two_sided": two_sided}


def named(name: str, generator: torch.Generator | None = None) -> Contexts:
    """Contexts by name: "input", "two_sided", or "sampled4" for any number.

    Raises:
        ValueError: for another name.
    """
    number = re.fullmatch(r"sampled([1-9][0-9]*)", name)
    if number:
        return sampled(int(number[1]), generator)
    if name not in NAMES:
        raise ValueError(f"contexts {name!r} is unknown: use one of {', '.join(NAMES)}, sampled4")
    return NAMES[name]


def backgrounds(contexts: Sequence[Contexts], n_words: Sequence[int]) -> Tensor:
    """What each example's contexts give, side by side: (K, Σ W).

    Raises:
        ValueError: if it is anything but booleans (K, W) with the same K for all.
    """
    found = [of_example(n) for of_example, n in zip(contexts, n_words, strict=True)]
    for kept, n in zip(found, n_words, strict=True):
        fits = isinstance(kept, Tensor) and kept.dtype == torch.bool and kept.dim() == 2
        if not fits or len(kept) == 0 or kept.shape != (len(found[0]), n):
            got = f"{kept.dtype} {tuple(kept.shape)}" if isinstance(kept, Tensor) else kept
            raise ValueError(
                f"contexts({n}) gave {got}; wanted booleans (K, {n}), with the same K >= 1 for "
                "every example"
            )
    return torch.cat(found, dim=1) if found else torch.ones(1, 0, dtype=torch.bool)

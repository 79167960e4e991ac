"""Random values with known means and the shapes that metrics of explanations have."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator


@dataclass(frozen=True)
class Population:
    """A distribution of values over examples."""

    draw: Callable[[Generator, int], np.ndarray]  # n values
    mean: float
    shape: str


def some(
    share: float,
    of: Callable[[Generator, int], np.ndarray],
    others: Callable[[Generator, int], np.ndarray],
) -> Callable[[Generator, int], np.ndarray]:
    """Return what draws from `of` for a share of the examples, and from `others` else."""
    return lambda rng, n: np.where(rng.random(n) < share, of(rng, n), others(rng, n))


def near_zero(rng: Generator, n: int) -> np.ndarray:
    """Words that do not matter."""
    return rng.normal(0, 0.02, n)


def paired_differences(rng: Generator, n: int) -> np.ndarray:
    """Two methods choose the same words in 40 %; else each finds a share of what a text allows."""
    of_text = rng.beta(0.3, 0.6, n)
    both = of_text * rng.uniform(0, 0.8, n), of_text * rng.uniform(0.2, 1, n)
    return np.where(rng.random(n) < 0.4, 0, both[1] - both[0])


POPULATIONS = {
    "normal": Population(lambda rng, n: rng.normal(0.3, 1, n), 0.3, "normal"),
    "heavy_tails": Population(lambda rng, n: rng.standard_t(5, n), 0, "t with 5 df"),
    "log_odds": Population(
        lambda rng, n: -rng.gamma(0.5, 2, n), -1, "most near 0, a long tail below: skewness −2.8"
    ),
    "comprehensiveness": Population(
        some(0.5, lambda rng, n: rng.beta(4, 1, n), near_zero), 0.4, "half near 0, half near 1"
    ),
    "sufficiency": Population(
        some(0.1, lambda rng, n: rng.uniform(0.3, 1, n), near_zero),
        0.065,
        "near 0, but for 10 % of the texts",
    ),
    "precision_at_k": Population(
        lambda rng, n: rng.choice([0, 0.5, 1], n, p=[0.2, 0.3, 0.5]), 0.65, "three values"
    ),
    "mean_rank": Population(
        lambda rng, n: rng.geometric(0.3, n).astype(float), 1 / 0.3, "1, 2, 3, …: geometric"
    ),
    "paired_differences": Population(
        paired_differences, 0.04, "40 % exactly 0, the others small or large with the text"
    ),
}
# Where so few examples decide the mean, no interval holds it as often as it says for few examples.
RARE = {
    "one_in_twenty": Population(
        some(0.05, lambda rng, n: rng.uniform(0.3, 1, n), near_zero),
        0.0325,
        "near 0, but for 5 % of the texts",
    ),
    "one_in_thirty": Population(
        some(1 / 30, lambda rng, n: -rng.exponential(3, n), near_zero),
        -0.1,
        "near 0, but for 3.3 % of the texts, which are far off",
    ),
}

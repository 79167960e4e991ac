"""Means over examples with bootstrap intervals: how far a mean would move with other examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS_AT_ONCE = 2**17  # 2 MB of indices and values, which stay in the cache
ROUNDING = 1e-12  # means of values up to 1 this close to each other are equal


@dataclass(frozen=True)
class Interval:
    """A mean over `n` examples and the ends of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap(
    values: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of some values and its bootstrap interval.

    The interval is bias-corrected and accelerated (BCa; Efron, "Better bootstrap confidence
    intervals", JASA 1987): the quantiles of the resampled means, moved by how skewed they and the
    values are. It assumes that examples are drawn independently. As every bootstrap of a mean it is
    too narrow for few of them: in simulations 95 % intervals held the mean in 90, 93 and 95 of 100
    cases for 10, 20 and 50 normal values, in 87, 91 and 92 for as many exponential ones (95 for
    200). Values that are all equal have an interval of no width.

    Calls with equally many values and the same seed draw the same examples.

    Args:
        values: (n,), one number for each example.
        level: share of such intervals that should hold the true mean.
        n_resamples: how many times n examples are drawn; the time grows as n · n_resamples.
        seed: the same seed gives the same interval, whatever was drawn elsewhere.

    Raises:
        ValueError: for values that are empty, not finite or not in one row, or an argument out of
            its range.

    >>> bootstrap([0, 1, 1, 0] * 16)
    Interval(mean=0.5, low=0.375, high=0.625, n=64)
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95, got {level}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    values = _checked(values, "values")
    mean, n = float(values.mean()), len(values)
    if (values == values[0]).all():
        return Interval(float(values[0]), float(values[0]), float(values[0]), n)
    gaps = values - mean
    scale = np.abs(gaps).max()
    gaps /= scale  # so that no power of them leaves the range of floats
    means = _resampled_means(gaps, n_resamples, seed)
    ends = np.quantile(means, _corrected(level, means, gaps))
    low, high = (mean + scale * ends).tolist()
    return Interval(mean, low, high, n)


def paired(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of second − first, example by example, and its interval as `bootstrap` gives it.

    Narrower than what two separate intervals suggest where both depend on the example alike.

    Args:
        first: (n,), one number for each example.
        second: (n,), for the same examples in the same order.
        level: as in `bootstrap`.
        n_resamples: as in `bootstrap`.
        seed: as in `bootstrap`.

    Raises:
        ValueError: as in `bootstrap`, or if there are more values of one than of the other.
    """
    first, second = _checked(first, "first"), _checked(second, "second")
    if len(first) != len(second):
        raise ValueError(
            f"first has {len(first)} values and second {len(second)}; wanted one of each for "
            "every example"
        )
    return bootstrap(second - first, level=level, n_resamples=n_resamples, seed=seed)


def _checked(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(
            f"{name} has shape {array.shape}; wanted (n,), one number for each of n ≥ 1 examples"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{name} has {len(bad)} numbers that are not finite, the first ({array[bad[0]]}) at "
            f"index {bad[0]}: leave such examples out, and say how many"
        )
    return array


def _resampled_means(
    values: np.ndarray,  # (n,)
    n_resamples: int,
    seed: int,
) -> np.ndarray:  # (n_resamples,)
    rng = np.random.default_rng(seed)
    n = len(values)
    rows = max(1, DRAWS_AT_ONCE // n)
    means = np.empty(n_resamples)
    for start in range(0, n_resamples, rows):
        part = means[start : start + rows]
        drawn = rng.integers(n, size=(len(part), n))
        values[drawn].mean(axis=1, out=part)
    return means


def _corrected(
    level: float,
    means: np.ndarray,  # (n_resamples,), of the gaps
    gaps: np.ndarray,  # (n,), values less their mean: at most 1 in size
) -> list[float]:
    """Which quantiles of the resampled means are the interval's ends (Efron 1987, eq. 6.8)."""
    normal = NormalDist()
    below = (means < -ROUNDING).sum() + (np.abs(means) <= ROUNDING).sum() / 2
    bias = normal.inv_cdf((below + 0.5) / (len(means) + 1))
    acceleration = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    corrected = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(share)
        # the formula's pole is out of reach of levels in use; beyond it lies the last quantile
        corrected.append(normal.cdf(bias + z / max(1 - acceleration * z, 1e-9)))
    return corrected

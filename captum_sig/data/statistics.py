"""Means over examples with bootstrap intervals: how far a mean would move with other examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from captum_sig._numbers import checked_integer

MAX_BATCH_NUMBERS = 2**17  # 1 MB of resampled values, which stay in the processor's cache
MIN_RESAMPLES = 100  # with fewer, all resampled means might lie on one side of the mean
MAX_LEVEL = 0.9999  # BCa's formula has a pole beyond it
DECIMALS = 12  # means of values up to 1 that agree this far are equal


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
    """Compute the mean of some values and its bootstrap interval.

    The interval is bias-corrected and accelerated (BCa; Efron, "Better bootstrap confidence
    intervals", JASA 1987), as `scipy.stats.bootstrap` computes it. It assumes that examples are
    drawn independently. As every bootstrap of a mean, it is too narrow for few examples: in
    simulations, 95 % intervals held the mean in 90, 93 and 95 of 100 cases for 10, 20 and 50 normal
    values, and in 87, 91 and 92 for as many exponential ones (95 for 200). Values that are all
    equal have an interval of width 0.

    Calls with equally many values and the same seed draw the same examples.

    Args:
        values: (n,), one number for each example.
        level: the fraction of such intervals that should hold the true mean, at most 0.9999.
        n_resamples: the number of times that n examples are drawn, at least 100. The time grows as
            n · (n_resamples + n): 3 s for 20,000 values.
        seed: the same seed gives the same interval, whatever is drawn elsewhere.

    Raises:
        ValueError: if the values are empty, not finite or not one-dimensional, or an argument is
            out of its range.

    >>> bootstrap([0, 1, 1, 0] * 16)
    Interval(mean=0.5, low=0.375, high=0.625, n=64)
    """
    if not 0 < level <= MAX_LEVEL:
        raise ValueError(f"level must lie between 0 and {MAX_LEVEL}, such as 0.95, got {level}")
    n_resamples = checked_integer("n_resamples", n_resamples, MIN_RESAMPLES)
    seed = checked_integer("seed", seed, 0)
    values = _checked(values, "values")
    mean, n = float(values.mean()), len(values)
    if (values == values[0]).all():
        return Interval(float(values[0]), float(values[0]), float(values[0]), n)
    from scipy import stats  # slow to import

    gaps = values - mean
    scale = np.abs(gaps).max()
    # scaled, so that no power of them leaves the range of floats
    result = stats.bootstrap(
        (gaps / scale,),
        _rounded_mean,
        method="BCa",
        confidence_level=level,
        n_resamples=n_resamples,
        batch=max(1, MAX_BATCH_NUMBERS // n),
        rng=np.random.default_rng(seed),
    )
    low, high = (mean + scale * np.array(result.confidence_interval)).tolist()
    return Interval(mean, low, high, n)


def paired(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Compute the mean of second − first, example by example, and its interval as `bootstrap` does.

    The interval is narrower than two separate ones suggest where both depend on the example alike.

    Args:
        first: (n,), one number for each example.
        second: (n,), for the same examples in the same order.
        level: as in `bootstrap`.
        n_resamples: as in `bootstrap`.
        seed: as in `bootstrap`.

    Raises:
        ValueError: as in `bootstrap`, or if `first` and `second` have different lengths.
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
    not_finite = np.flatnonzero(~np.isfinite(array))
    if len(not_finite):
        first = not_finite[0]
        raise ValueError(
            f"{name} has {len(not_finite)} numbers that are not finite, the first "
            f"({array[first]}) at index {first}: leave such examples out, and say how many"
        )
    return array


def _rounded_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Rounding errors must not count as bias: a resampled mean may equal the mean."""
    return values.mean(axis).round(DECIMALS)

"""Bootstrap intervals: a slow reference, coverage, equivariance, invalid arguments."""

import math
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
import torch

from captum_sig.data import statistics
from captum_sig.data.statistics import Interval, bootstrap, paired


def skewed(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=n)


def bca_by_loops(values: list[float], level: float, n_resamples: int, seed: int):
    """Compute Efron's interval one resample and one left-out example at a time."""
    rng = np.random.default_rng(seed)
    n, mean = len(values), math.fsum(values) / len(values)
    means = []
    for _ in range(n_resamples):
        drawn = [values[i] for i in rng.integers(n, size=n)]
        means.append(math.fsum(drawn) / n)
    below = sum(0.5 if math.isclose(m, mean) else float(m < mean) for m in means)
    z0 = NormalDist().inv_cdf(below / n_resamples)
    without = [(math.fsum(values) - value) / (n - 1) for value in values]
    gaps = [math.fsum(without) / n - one for one in without]
    a = math.fsum(g**3 for g in gaps) / (6 * math.fsum(g**2 for g in gaps) ** 1.5)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + NormalDist().inv_cdf(share)
        ends.append(NormalDist().cdf(z0 + z / (1 - a * z)))
    return mean, *np.quantile(means, ends)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    "values", [skewed(30), skewed(31) - 7, np.array([0.0, 1, 1, 0, 1] * 4), np.array([1.0, 2.0])]
)
def test_equals_a_slow_loop_with_the_same_draws(values, level):
    found = bootstrap(values, level=level, n_resamples=300, seed=5)
    expected = bca_by_loops(values.tolist(), level, 300, 5)
    np.testing.assert_allclose([found.mean, found.low, found.high], expected, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
def test_batches_change_nothing(monkeypatch, size):
    expected = bootstrap(skewed(20), n_resamples=101)
    monkeypatch.setattr(statistics, "MAX_BATCH_NUMBERS", size)
    assert bootstrap(skewed(20), n_resamples=101) == expected


def test_many_values_are_drawn_in_little_memory():
    values = skewed(20_000)
    bootstrap(skewed(9))  # loads SciPy
    tracemalloc.start()
    found = bootstrap(values, n_resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < found.mean < found.high
    assert peak < 8e6  # bytes; all draws at once would take 32e6, the jackknife 3.2e9


@pytest.mark.parametrize(
    ("draw", "true"),
    [
        (lambda rng: rng.normal(3, 2, size=150), 3),
        (lambda rng: rng.exponential(size=150), 1),
        (lambda rng: rng.chisquare(3, size=150), 3),
        (lambda rng: rng.random(150) < 0.7, 0.7),
    ],
    ids=["normal", "exponential", "chi-square", "coin"],
)
def test_intervals_cover_the_true_mean_as_often_as_stated(draw, true):
    rng = np.random.default_rng(0)
    found = [bootstrap(draw(rng), n_resamples=600, seed=seed) for seed in range(2000)]
    below = np.mean([true < one.low for one in found])
    above = np.mean([true > one.high for one in found])
    assert 0.03 <= below + above <= 0.07
    assert below > 0.005
    assert above > 0.005


def test_a_higher_level_is_wider():
    widths = [
        (one := bootstrap(skewed(50), level=level)).high - one.low for level in (0.5, 0.9, 0.99)
    ]
    assert widths == sorted(widths)
    assert widths[0] > 0


def test_a_long_tail_to_the_right_reaches_further_right():
    found = bootstrap(skewed(50))
    assert found.high - found.mean > 1.1 * (found.mean - found.low)


def test_a_seed_fixes_the_interval_whatever_else_is_drawn():
    first = bootstrap(skewed(50), seed=3)
    np.random.default_rng(3).random(10)
    bootstrap(skewed(40), seed=3)
    state = np.random.get_state()[1].copy()
    assert bootstrap(skewed(50), seed=3) == first
    assert bootstrap(skewed(50), seed=4) != first
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("shift", [0, -1e6])
@pytest.mark.parametrize("scale", [1, 1e-3, 1e200, 1e-200])
def test_shifts_and_scales_with_the_values(shift, scale):
    one = bootstrap(skewed(40))
    other = bootstrap(shift * scale + scale * skewed(40))
    for name in ("mean", "low", "high"):
        expected = scale * (shift + getattr(one, name))
        assert getattr(other, name) == pytest.approx(expected, rel=1e-13, abs=0)


def test_is_mirrored_by_the_sign():
    one, other = bootstrap(skewed(40)), bootstrap(-skewed(40))
    assert (other.mean, other.low, other.high) == pytest.approx((-one.mean, -one.high, -one.low))


@pytest.mark.parametrize("offset", [0, 0.1, 1e3])
def test_rounding_does_not_count_as_bias(offset):
    values = np.array([0.0, 1.0] * 8) + offset
    found = bootstrap(values, n_resamples=2001)
    assert (found.low - offset, found.high - offset) == pytest.approx((0.25, 0.75), abs=1e-9)


@pytest.mark.parametrize("values", [[0.1], [0.1] * 7, [-3.0] * 1000])
def test_equal_values_have_no_width(values):
    assert bootstrap(values) == Interval(values[0], values[0], values[0], len(values))


@pytest.mark.parametrize("level", [0.5, 0.9999])
def test_a_single_outlier(level):
    values = [0.0] * 99 + [1.0]
    found = bootstrap(values, level=level, n_resamples=500)
    assert 0 <= found.low <= found.mean <= found.high <= 0.2


@pytest.mark.parametrize("seed", [0, 9])
def test_paired_is_the_bootstrap_of_the_differences(seed):
    first, second = skewed(60), skewed(60, seed=1)
    options = {"level": 0.8, "n_resamples": 500, "seed": seed}
    assert paired(first, second, **options) == bootstrap(second - first, **options)
    assert paired(first, first + 0.25).mean == pytest.approx(0.25)


def test_paired_is_narrower_where_examples_count_for_both():
    first = skewed(60)
    second = first + 0.1 + np.random.default_rng(2).normal(0, 0.01, size=60)
    found = paired(first, second)
    assert 0.09 < found.low < 0.1 < found.high < 0.11
    assert bootstrap(first).high > bootstrap(second).low


@pytest.mark.parametrize(
    "values", [[0, 1, 1], (True, False, True), np.float32([0, 1, 1]), torch.tensor([0, 1, 1])]
)
def test_values_of_all_kinds(values):
    found = bootstrap(values)
    assert type(found.mean) is type(found.low) is type(found.high) is float
    assert found.mean == pytest.approx(2 / 3)


def test_values_are_left_as_they_were():
    values = skewed(9)
    before = values.copy()
    bootstrap(values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values has shape"),
        ([[1.0, 2.0]], {}, "values has shape"),
        (3.0, {}, "values has shape"),
        ([1.0, math.nan, math.inf], {}, r"values has 2 numbers .* \(nan\) at index 1"),
        ([1.0, None], {}, "not finite"),
        ([1.0, -math.inf], {}, "not finite"),
        ([1.0], {"level": 1}, "level must"),
        ([1.0], {"level": 95}, "level must"),
        ([1.0], {"level": 0}, "level must"),
        ([1.0], {"level": math.nan}, "level must"),
        ([1.0], {"level": 0.99999}, "level must"),
        ([1.0], {"n_resamples": 0}, "n_resamples must"),
        ([1.0], {"n_resamples": 99}, "n_resamples must"),
        (
            [1.0],
            {"n_resamples": 1e4},
            "n_resamples must be an integer of at least 100, got 1",
        ),
        ([1.0], {"seed": "0"}, "seed must be an integer of at least 0, got '0'"),
    ],
)
def test_invalid_arguments_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(values, **options)


def test_pairs_need_equal_lengths():
    with pytest.raises(ValueError, match="first has 2 values and second 1"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="second has 1 numbers"):
        paired([1.0], [math.nan])

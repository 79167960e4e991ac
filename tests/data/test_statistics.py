"""Intervals and tests: slow references, how often they are right, equivariance, bad arguments."""

import itertools
import math
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import stats

from captum_sig.data import statistics
from captum_sig.data.statistics import Interval, bootstrap, holm, paired, paired_p_value
from tests.populations import POPULATIONS, RARE


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
    values = skewed(4_000)
    bootstrap(skewed(9))  # loads SciPy
    tracemalloc.start()
    found = bootstrap(values, n_resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < found.mean < found.high
    assert peak < 8e6  # bytes; the jackknife at once would take 128e6


def coverage(population, n: int, repeats: int) -> tuple[float, float, float]:
    """Return the shares of intervals that hold the mean, lie below it and lie above it."""
    rng = np.random.default_rng(1)
    found = [bootstrap(population.draw(rng, n), n_resamples=600, seed=i) for i in range(repeats)]
    below = np.mean([population.mean > one.high for one in found])
    above = np.mean([population.mean < one.low for one in found])
    return 1 - below - above, below, above


@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
def test_intervals_hold_the_mean_as_often_as_stated(population):
    """A standard error of 1.1 %; `tests.benchmarks.coverage` has more samples and sizes."""
    held, below, above = coverage(population, 50, 400)
    assert 0.90 <= held <= 0.97
    assert below > 0
    assert above > 0


def test_intervals_are_too_narrow_where_few_examples_decide():
    assert coverage(RARE["one_in_thirty"], 50, 200)[0] < 0.85
    assert coverage(RARE["one_in_twenty"], 200, 200)[0] >= 0.90


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


def p_by_loops(differences: list[float]) -> float:
    """Compute the exact p-value: one assignment of signs at a time."""
    n_as_extreme = 0
    for signs in itertools.product([-1, 1], repeat=len(differences)):
        total = math.fsum(sign * one for sign, one in zip(signs, differences, strict=True))
        n_as_extreme += abs(total) >= abs(math.fsum(differences)) - 1e-9
    return n_as_extreme / 2 ** len(differences)


@pytest.mark.parametrize(
    "differences",
    [
        [1.0, 2.0, -0.5, 3.0, 0.25, 1.5, -1.0, 2.5, 0.75, 1.25],
        [0.5, -0.5, 0.5, 0.0, 0.5, 0.5, 1.0, 0.0, 0.5, 1.0],  # many ties
        [0.1] * 3 + [-0.1] * 2,
        [1.0, 1.0, 1.0],
        [-2.0],
    ],
)
def test_random_signs_agree_with_all_signs(differences):
    expected = p_by_loops(differences)
    found = paired_p_value([0] * len(differences), differences, n_resamples=40_000)
    assert found == pytest.approx(expected, abs=4 * math.sqrt(expected / 40_000))


def test_random_signs_agree_with_scipy():
    first, second = skewed(40), skewed(40, seed=1) + 0.3
    expected = stats.permutation_test(
        (second - first,), np.mean, permutation_type="samples", n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    assert 0.05 < expected < 0.5
    found = paired_p_value(first, second, n_resamples=20_000)
    assert found == pytest.approx(expected, abs=0.015)


def test_a_p_value_depends_on_the_seed_and_not_on_the_order_the_sign_or_the_scale():
    first, second = skewed(30), skewed(30, seed=1) + 0.3
    p = paired_p_value(first, second)
    assert paired_p_value(first[::-1], second[::-1]) == p
    assert paired_p_value(second, first) == p
    assert paired_p_value(first * 1e200, second * 1e200) == p
    assert paired_p_value(first * 1e-200, second * 1e-200) == p
    assert paired_p_value(first, second, seed=1) != p


def test_what_never_differs_has_a_p_value_of_one_and_what_always_does_the_least():
    first = skewed(30)
    assert paired_p_value(first, first) == 1.0
    assert paired_p_value(first, first + 1, n_resamples=999) == 0.001


@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
def test_a_difference_is_seen_as_seldom_as_stated_where_there_is_none(population):
    rng = np.random.default_rng(0)
    p_values = [
        paired_p_value([population.mean] * 50, population.draw(rng, 50), n_resamples=200, seed=i)
        for i in range(400)
    ]
    assert 0.025 <= np.mean(np.array(p_values) < 0.05) <= 0.1


def test_wilcoxon_would_see_a_difference_of_means_where_there_is_none():
    population = POPULATIONS["sufficiency"]
    values = population.draw(np.random.default_rng(0), 200)
    assert paired_p_value([population.mean] * 200, values) > 0.05
    assert stats.wilcoxon(values - population.mean).pvalue < 1e-6


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 · 0.01, 2 · 0.03, at least that
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.6, 0.5, 0.001], [1.0, 1.0, 0.003]),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted, rel=1e-12)


def test_holm_is_r_s_p_adjust():
    """R's `p.adjust(p)` of 50 p-values, as the task "P-value correction" of Rosetta Code has it."""
    p_values = [
        4.533744e-01, 7.296024e-01, 9.936026e-02, 9.079658e-02, 1.801962e-01,
        8.752257e-01, 2.922222e-01, 9.115421e-01, 4.355806e-01, 5.324867e-01,
        4.926798e-01, 5.802978e-01, 3.485442e-01, 7.883130e-01, 2.729308e-01,
        8.502518e-01, 4.268138e-01, 6.442008e-01, 3.030266e-01, 5.001555e-02,
        3.194810e-01, 7.892933e-01, 9.991834e-01, 1.745691e-01, 9.037516e-01,
        1.198578e-01, 3.966083e-01, 1.403837e-02, 7.328671e-01, 6.793476e-02,
        4.040730e-03, 3.033349e-04, 1.125147e-02, 2.375072e-02, 5.818542e-04,
        3.075482e-04, 8.251272e-03, 1.356534e-03, 1.360696e-02, 3.764588e-04,
        1.801145e-05, 2.504456e-07, 3.310253e-02, 9.427839e-03, 8.791153e-04,
        2.177831e-04, 9.693054e-04, 6.610250e-05, 2.900813e-02, 5.735490e-03,
    ]  # fmt: skip
    below_one = {
        27: 4.632662e-01, 30: 1.575885e-01, 31: 1.395341e-02, 32: 3.938014e-01, 33: 7.600230e-01,
        34: 2.501973e-02, 35: 1.395341e-02, 36: 3.052971e-01, 37: 5.426136e-02, 38: 4.626366e-01,
        39: 1.656419e-02, 40: 8.825610e-04, 41: 1.252228e-05, 42: 9.930759e-01, 43: 3.394022e-01,
        44: 3.692284e-02, 45: 1.023581e-02, 46: 3.974152e-02, 47: 3.172920e-03, 48: 8.992520e-01,
        49: 2.179486e-01,
    }  # fmt: skip
    adjusted = [below_one.get(i, 1.0) for i in range(50)]
    assert holm(p_values) == pytest.approx(adjusted, rel=1e-6)


def test_holm_calls_nothing_a_difference_in_95_of_100_families_without_one():
    families = np.random.default_rng(0).random((2000, 6))
    assert np.mean([min(holm(family)) < 0.05 for family in families]) == pytest.approx(
        0.05, abs=0.015
    )


@pytest.mark.parametrize("p_values", [[0.1, math.nan], [1.1], [-0.1], [[0.1]], 0.1])
def test_p_values_outside_their_range_are_refused(p_values):
    with pytest.raises(ValueError, match=r"p_values must be \(m,\) numbers in \[0, 1\], got"):
        holm(p_values)


def test_a_test_of_bad_values_is_refused():
    with pytest.raises(ValueError, match="first has 2 values and second 1"):
        paired_p_value([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="n_resamples must"):
        paired_p_value([1.0], [1.0], n_resamples=10)
    with pytest.raises(ValueError, match="seed must"):
        paired_p_value([1.0], [1.0], seed=-1)

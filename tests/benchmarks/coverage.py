"""How often 95 % intervals hold the mean, and how often tests see a difference that is none.

    python -m tests.benchmarks.coverage --record coverage

Samples are drawn from populations whose mean is known (`tests.populations`). Beside our intervals
(BCa) stand Student's and the bootstrap of Student's t; beside our test of paired differences
(random signs) stands Wilcoxon's.
"""

import argparse
from collections.abc import Sequence
from math import sqrt

import numpy as np
from scipy import stats

from captum_sig.data.statistics import bootstrap, paired_p_value
from tests.benchmarks.record import add_record_option, show_and_record
from tests.populations import POPULATIONS, RARE, Population

SIZES = (50, 100, 200)
LEVEL = 0.95
MIN_N = 50  # examples from which on the intervals are to hold the mean as stated

Ends = tuple[float, float]


def student(values: np.ndarray) -> Ends:
    """Return the ends of Student's interval."""
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / sqrt(len(values))
    return values.mean() - half, values.mean() + half


def bootstrap_t(values: np.ndarray, n_resamples: int, rng: np.random.Generator) -> Ends:
    """Return the ends of the studentised interval; resamples of equal values are left out."""
    n, mean = len(values), values.mean()
    drawn = values[rng.integers(n, size=(n_resamples, n))]
    errors = drawn.std(1) / sqrt(n)
    usable = errors > 0
    t = (drawn.mean(1)[usable] - mean) / errors[usable]
    low, high = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return mean - high * values.std() / sqrt(n), mean - low * values.std() / sqrt(n)


def simulate(
    population: Population, n: int, repeats: int, n_resamples: int, seed: int = 0
) -> dict[str, float]:
    """Return shares of samples: whose interval holds the mean; that a test tells from the mean.

    `contradictions` are samples of which p < 0.05 and the BCa interval do not say the same.
    """
    rng = np.random.default_rng(seed)
    mean = population.mean
    rows = []
    for repeat in range(repeats):
        values = population.draw(rng, n)
        bca = bootstrap(values, level=LEVEL, n_resamples=n_resamples, seed=repeat)
        low, high = bootstrap_t(values, n_resamples, rng)
        of_student = student(values)
        p = paired_p_value([mean] * n, values, n_resamples=n_resamples, seed=repeat)
        p_wilcoxon = stats.wilcoxon(values - mean).pvalue
        is_held = bca.low <= mean <= bca.high
        rows.append({
            "bca": is_held,
            "bca_below": mean > bca.high,  # the interval lies below the mean
            "bca_above": mean < bca.low,
            "student": of_student[0] <= mean <= of_student[1],
            "bootstrap_t": low <= mean <= high,
            "bca_width": bca.high - bca.low,
            "bootstrap_t_width": high - low,
            "sign_flips": p < 1 - LEVEL,
            "wilcoxon": p_wilcoxon < 1 - LEVEL,
            "contradictions": (p < 1 - LEVEL) == is_held,
            "wilcoxon_contradictions": (p_wilcoxon < 1 - LEVEL) == is_held,
        })  # fmt: skip
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, print the shares, and record them if that is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.coverage", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="examples in a sample")
    parser.add_argument("--repeats", type=int, default=4000, help="samples of each size")
    parser.add_argument("--resamples", type=int, default=1000)
    add_record_option(parser)
    options = parser.parse_args(arguments)
    populations = POPULATIONS | RARE
    rows = [
        {"population": name, "n": n, **simulate(population, n, options.repeats, options.resamples)}
        for name, population in populations.items()
        for n in options.sizes
    ]
    shapes = [
        {"population": name, "shape": population.shape, "is_rare": name in RARE}
        for name, population in populations.items()
    ]
    usual = [row for row in rows if row["population"] in POPULATIONS and row["n"] >= MIN_N]
    figures = {
        "repeats": options.repeats,
        "least": min((row["bca"] for row in usual), default=None),
        "most": max((row["bca"] for row in usual), default=None),
        "most_false_alarms": max((row["sign_flips"] for row in usual), default=None),
    }
    show_and_record(
        options, "tests.benchmarks.coverage", {"coverage": rows, "populations": shapes}, figures
    )


if __name__ == "__main__":
    main()

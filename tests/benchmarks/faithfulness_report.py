"""The tables of a folder of `tests.benchmarks.faithfulness`."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from captum_sig.data.statistics import Interval, bootstrap, paired
from tests.benchmarks.lines import Line, LineFile

METRIC_NAMES = ("log_odds", "comprehensiveness", "sufficiency")
FRACTIONS = (0.1, 0.2, 0.5)
REFERENCES = ("ig", "sig", "sig:two_sided")
SHAPLEY, TIMES = "shapley", "times"  # names of files
COVERED = 1.96  # standard errors: 95 % of normal errors

Value = Callable[[Line], float]


def at(metric: str, fraction: float) -> Value:
    """A metric of one fraction."""
    return lambda line: line[f"{metric}@{fraction}"]


def over_fractions(metric: str) -> Value:
    """The mean over the fractions: AOPC."""
    return lambda line: float(np.mean([line[f"{metric}@{fraction}"] for fraction in FRACTIONS]))


VALUES: dict[str, Value] = {
    "log_odds": at("log_odds", 0.2),
    "comprehensiveness": at("comprehensiveness", 0.2),
    "sufficiency": at("sufficiency", 0.2),
    "aopc_comprehensiveness": over_fractions("comprehensiveness"),
    "aopc_sufficiency": over_fractions("sufficiency"),
    "log_odds_10": at("log_odds", 0.1),
    "log_odds_50": at("log_odds", 0.5),
}
MORE_IS_BETTER = ("comprehensiveness", "aopc_comprehensiveness")
DIFFERENCES = list(VALUES)[:5]  # whose paired differences are taken


class Results:
    """What was measured of one model with one baseline."""

    def __init__(self, folder: Path, methods: Sequence[str]) -> None:
        self.where: dict[str, Any] = {"model": folder.parent.name, "baseline": folder.name}
        files = {name: folder / f"{name.replace(':', '-')}.jsonl" for name in methods}
        self.lines = {
            name: LineFile(path).by_number for name, path in files.items() if path.exists()
        }
        self.shapley = LineFile(folder / f"{SHAPLEY}.jsonl").by_number
        times = LineFile(folder / f"{TIMES}.jsonl").by_number.values()
        self.times = {line["method"]: line for line in times}

    def values(self, method: str, value: Value) -> list[float]:
        """A value of every text."""
        lines = self.lines[method]
        return [value(lines[number]) for number in sorted(lines)]

    def difference(self, method: str, reference: str, value: Value) -> Interval | None:
        """The mean of method − reference over the texts that both have."""
        lines, others = self.lines.get(method, {}), self.lines.get(reference, {})
        both = sorted(lines.keys() & others.keys())
        if not both:
            return None
        return paired([value(others[i]) for i in both], [value(lines[i]) for i in both])

    def rank_correlation(self, method: str) -> Interval | None:
        """Spearman's, with the Shapley values of each text of 2 words or more."""
        lines = self.lines[method]
        pairs = [
            (lines[i]["scores"], self.shapley[i]["values"]) for i in lines if i in self.shapley
        ]
        correlations = [_spearman(ours, theirs) for ours, theirs in pairs if len(ours) > 1]
        return bootstrap(correlations) if correlations else None

    def coverage(self, method: str) -> float | None:
        """The share of sampled words whose 95 % interval, of both estimates, holds the value."""
        held = []
        for number in self.lines[method].keys() & self.shapley.keys():
            line, of_text = self.lines[method][number], self.shapley[number]
            errors = np.array(line["standard_errors"], dtype=float)  # NaN where not sampled
            total = np.hypot(errors, of_text["standard_errors"])
            gaps = np.abs(np.subtract(line["scores"], of_text["values"]))
            held += (gaps <= COVERED * total)[errors > 0].tolist()
        return float(np.mean(held)) if held else None


def _spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """0 where one side is constant and ranks nothing."""
    if min(np.ptp(first), np.ptp(second)) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def tables(folder: Path, methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """All tables of the folder, with the methods in this order."""
    found = [Results(path, methods) for path in sorted(folder.glob("*/*")) if path.is_dir()]
    return {
        "methods": [row for results in found for row in _means(results)],
        "differences": [row for results in found for row in _differences(results)],
        "shapley": [row for results in found for row in _shapley(results)],
        "shapley_texts": [_shapley_texts(results) for results in found if results.shapley],
    }


def _verdict(name: str, difference: Interval) -> str:
    """Ahead or behind if the interval excludes 0."""
    sign = 1 if name in MORE_IS_BETTER else -1
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "ahead" if low > 0 else "behind" if high < 0 else "tie"


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _means(results: Results) -> Iterator[dict[str, Any]]:
    for method, lines in results.lines.items():
        row: dict[str, Any] = {**results.where, "method": method, "n": len(lines)}
        for name, value in VALUES.items():
            row |= _ends(name, bootstrap(results.values(method, value)))
        for kind in ("forward", "backward"):
            row[kind] = float(np.mean([line[kind] for line in lines.values()]))
        row["cost"] = row["forward"] + 2 * row["backward"]
        times = results.times.get(method, {})
        yield row | {"s_alone": times.get("alone"), "s_in_batches": times.get("in batches")}


def _differences(results: Results) -> Iterator[dict[str, Any]]:
    """What each method gains over each reference, text by text, and whether that is beyond 0."""
    for reference, method in itertools.product(REFERENCES, results.lines):
        for name in DIFFERENCES:
            interval = results.difference(method, reference, VALUES[name])
            if method != reference and interval is not None:
                yield {
                    **results.where, "method": method, "minus": reference, "metric": name,
                    "mean": interval.mean, "low": interval.low, "high": interval.high,
                    "n": interval.n, "verdict": _verdict(name, interval),
                }  # fmt: skip


def _shapley(results: Results) -> Iterator[dict[str, Any]]:
    """Rank correlation with the Shapley values, and whether standard errors hold them."""
    for method in results.lines:
        interval = results.rank_correlation(method)
        if interval is not None:
            correlation = _ends("rank_correlation", interval)
            covered = results.coverage(method)
            yield {**results.where, "method": method, **correlation, "covered": covered}


def _shapley_texts(results: Results) -> dict[str, Any]:
    """The texts whose Shapley values were estimated, and how far two halves of them agree."""
    lines = list(results.shapley.values())
    halves = [_spearman(*line["halves"]) for line in lines if len(line["values"]) > 1]
    return {
        **results.where,
        "n": len(lines),
        "tokens": float(np.mean([len(line["values"]) for line in lines])),
        "permutations": min(line["permutations"] for line in lines),
        "halves_agree": float(np.mean(halves)),
    }

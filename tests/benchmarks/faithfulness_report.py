"""The tables of a folder of `tests.benchmarks.faithfulness`, in Markdown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from captum_sig.data.statistics import Interval, bootstrap, paired
from captum_sig.data.tables import to_markdown
from tests.benchmarks.lines import Line, LineFile

METRIC_NAMES = ("log_odds", "comprehensiveness", "sufficiency")
FRACTIONS = (0.1, 0.2, 0.5)
REFERENCES = ("ig", "sig", "sig:two_sided")
SHAPLEY, TIMES = "shapley", "times"  # names of files
COVERED = 1.96  # standard errors: 95 % of normal errors

LEGEND = """## Faithfulness on several models

Means over the texts with bootstrap intervals (BCa, 95 %); differences are of means, text by text.
Log-odds, comprehensiveness and sufficiency are at the top 20 % of the words, AOPC is the mean of
10, 20 and 50 %. *forward* and *backward* count rows per text, those for the logits of the text
itself included; *cost* takes a backward pass for two forward ones. Seconds are per text, one
thread, alone and in batches of 32.
"""

Value = Callable[[Line], float]


def at(metric: str, fraction: float) -> Value:
    """A metric of one fraction."""
    return lambda line: line[f"{metric}@{fraction}"]


def over_fractions(metric: str) -> Value:
    """The mean over the fractions: AOPC."""
    return lambda line: float(np.mean([line[f"{metric}@{fraction}"] for fraction in FRACTIONS]))


VALUES: dict[str, Value] = {
    "log-odds ↓": at("log_odds", 0.2),
    "compr. ↑": at("comprehensiveness", 0.2),
    "suff. ↓": at("sufficiency", 0.2),
    "AOPC compr. ↑": over_fractions("comprehensiveness"),
    "AOPC suff. ↓": over_fractions("sufficiency"),
    "log-odds at 10 % ↓": at("log_odds", 0.1),
    "log-odds at 50 % ↓": at("log_odds", 0.5),
}
DIFFERENCES = list(VALUES)[:5]  # of which paired differences are shown


class Results:
    """What was measured of one model with one baseline."""

    def __init__(self, folder: Path, methods: Sequence[str]) -> None:
        self.name = f"{folder.parent.name}, {folder.name}"
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


def report(folder: Path, methods: Sequence[str]) -> str:
    """All tables of the folder, with the methods in this order."""
    found = [Results(path, methods) for path in sorted(folder.glob("*/*")) if path.is_dir()]
    found = [results for results in found if results.lines]
    parts = [LEGEND, "### sig:two_sided − sig, text by text\n", _decision(found)]
    for results in found:
        parts += [f"### {results.name}\n", _means(results), _shapley(results)]
        parts += [_differences(results, reference) for reference in REFERENCES]
    return "\n".join(part for part in parts if part)


def _decision(found: Sequence[Results]) -> str:
    """Whether the mean over both sides is ahead of the input alone, wherever both were measured."""
    rows = []
    for results in found:
        intervals = {
            name: results.difference("sig:two_sided", "sig", VALUES[name]) for name in DIFFERENCES
        }
        if None not in intervals.values():
            verdicts = {
                name: f"{_shown(interval, '+.3f')} {_verdict(name, interval)}"
                for name, interval in intervals.items()
            }
            rows.append(
                {"model, baseline": results.name, "n": len(results.lines["sig"]), **verdicts}
            )
    return to_markdown(rows, ["model, baseline", "n", *DIFFERENCES]) if rows else ""


def _verdict(name: str, difference: Interval) -> str:
    """Ahead or behind if the interval excludes 0."""
    sign = 1 if name.endswith("↑") else -1
    low, high = sorted((sign * difference.low, sign * difference.high))
    return "ahead" if low > 0 else "behind" if high < 0 else "tie"


def _means(results: Results) -> str:
    rows = []
    for method, lines in results.lines.items():
        row: dict[str, Any] = {"method": method, "n": len(lines)}
        for number, (name, value) in enumerate(VALUES.items()):
            interval = bootstrap(results.values(method, value))
            row[name] = _shown(interval, ".3f") if number < 3 else f"{interval.mean:.3f}"
        for kind in ("forward", "backward"):
            row[kind] = float(np.mean([line[kind] for line in lines.values()]))
        row["cost"] = row["forward"] + 2 * row["backward"]
        for how in ("alone", "in batches"):
            row[f"s {how}"] = results.times.get(method, {}).get(how)
        rows.append(row)
    rows_format = dict.fromkeys(["forward", "backward", "cost"], ".1f")
    formats = rows_format | dict.fromkeys(["s alone", "s in batches"], ".3f")
    return to_markdown(rows, ["method", "n", *VALUES, *formats], formats)


def _differences(results: Results, reference: str) -> str:
    rows = []
    for method in results.lines:
        intervals = {
            name: results.difference(method, reference, VALUES[name]) for name in DIFFERENCES
        }
        if method != reference and None not in intervals.values():
            shown = {name: _shown(interval, "+.3f") for name, interval in intervals.items()}
            rows.append({f"minus {reference}": method, **shown})
    return to_markdown(rows, [f"minus {reference}", *DIFFERENCES]) if rows else ""


def _shapley(results: Results) -> str:
    """Rank correlation with the Shapley values, and whether standard errors hold them."""
    correlations = {method: results.rank_correlation(method) for method in results.lines}
    if not any(correlations.values()):
        return ""
    lines = list(results.shapley.values())
    halves = [_spearman(*line["halves"]) for line in lines if len(line["values"]) > 1]
    least = min(line["permutations"] for line in lines)
    words = np.mean([len(line["values"]) for line in lines])
    column = "rank correlation"
    rows = [
        {"method": method, column: _shown(interval, ".3f"), "covered": results.coverage(method)}
        for method, interval in correlations.items()
        if interval is not None
    ]
    return (
        f"Shapley values of {len(lines)} texts ({words:.1f} tokens), {least} permutations; two "
        f"halves of them agree by {np.mean(halves):.4f}.\n\n"
        + to_markdown(rows, ["method", column, "covered"], {"covered": ".3f"})
    )


def _shown(interval: Interval, spec: str) -> str:
    mean, low, high = (format(of, spec) for of in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"

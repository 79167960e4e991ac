"""Tables of what `rivals` measured: means, differences to ours, and failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from captum_sig.data.statistics import Interval, bootstrap, paired
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from tests.benchmarks.lines import Line, LineFile
from tests.benchmarks.rivals_subjects import HARD, SOFT

REFERENCE = "sig:two_sided"
SHAPLEY = "shapley"  # the file of Shapley values
RANKS = "shapley_correlation"
COSTS = ("forward", "backward", "seconds")
NAMES = (*HARD, *SOFT, *TRUTH_METRICS, RANKS, *COSTS)
FAILED = "failed"  # in a line: why there are no scores


def results(folder: Path) -> dict[str, dict[int, Line]]:
    """The lines of every method by text, with the rank correlation where Shapley values are."""
    shapley = LineFile(folder / f"{SHAPLEY}.jsonl").by_number
    by_method = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = LineFile(path).by_number
        if path.stem == SHAPLEY:
            continue
        for number, of_text in lines.items():
            if number in shapley and FAILED not in of_text:
                of_text[RANKS] = correlation(of_text["scores"], shapley[number]["scores"])
        by_method[path.stem] = lines
    return by_method


def correlation(scores: Sequence[float], values: Sequence[float]) -> float:
    """Spearman's; 0 where all scores are equal."""
    found = float(spearmanr(scores, values).statistic)
    return 0.0 if found != found else found


def file_name(key: str) -> str:
    """The name of the file of a method and budget."""
    return key.replace(":", "-")


def named(key: str) -> dict[str, str | None]:
    """Method and budget of a file's name."""
    method, _, budget = key.partition("@")
    return {
        "method": method.replace("sig-", "sig:"),
        "budget": budget.replace("sig-", "sig:") or None,
    }


def summary(model: str, lines: dict[str, dict[int, Line]]) -> list[dict[str, Any]]:
    """Means with intervals, long form; `texts` have scores, and `n` of them the measure."""
    return [
        {
            "model": model, **named(key), "texts": sum(FAILED not in x for x in of_texts.values()),
            "measure": measure, **vars(found),
        }
        for key, of_texts in lines.items()
        for measure, values in by_measure(of_texts).items()
        if (found := interval(values)) is not None
    ]  # fmt: skip


def differences_to_reference(model: str, lines: dict[str, dict[int, Line]]) -> list[dict[str, Any]]:
    """Paired differences, method − reference, on the texts that both have."""
    reference = by_measure(lines[file_name(REFERENCE)])
    rows = []
    for key, of_texts in lines.items():
        for measure, values in by_measure(of_texts).items():
            shared = sorted(values.keys() & reference[measure].keys())
            if key == file_name(REFERENCE) or measure in COSTS or len(shared) < 2:
                continue
            found = paired(
                [reference[measure][number] for number in shared],
                [values[number] for number in shared],
            )
            rows.append({"model": model, **named(key), "measure": measure, **vars(found)})
    return rows


def failures(model: str, lines: dict[str, dict[int, Line]]) -> list[dict[str, Any]]:
    """How many texts a method failed on, and why it did so first."""
    rows = []
    for key, of_texts in lines.items():
        failed = [line[FAILED] for line in of_texts.values() if FAILED in line]
        if failed:
            n = {"failed": len(failed), "texts": len(of_texts)}
            rows.append({"model": model, **named(key), **n, "why": failed[0]})
    return rows


def by_measure(lines: dict[int, Line]) -> dict[str, dict[int, float]]:
    """Values by measure and text."""
    return {
        name: {number: line[name] for number, line in lines.items() if name in line}
        for name in NAMES
    }


def interval(values: dict[int, float]) -> Interval | None:
    """The mean and its interval, of 2 texts or more."""
    return bootstrap(list(values.values())) if len(values) > 1 else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means, a line for each method and budget; measures that nothing has are left out."""
    by_line: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        key = row["model"], row["method"], row["budget"] or ""
        by_line.setdefault(key, {})[row["measure"]] = row["mean"]
    names = [name for name in NAMES if any(name in means for means in by_line.values())]
    lines = [["model", "method", "rows as", *names], ["---"] * 3 + ["--:"] * len(names)]
    for key, means in by_line.items():
        lines.append([*key, *(f"{means[name]:.3f}" if name in means else "" for name in names)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

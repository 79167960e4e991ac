"""The tables that `captum-sig evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from captum_sig.faithfulness.summary import Tables

Row = Mapping[str, Any]
ARROWS = {"lower": "↓", "higher": "↑"}
SHORT = {"comprehensiveness": "compr.", "sufficiency": "suff.", "_": " "}  # in names of metrics


def print_summary(
    tables: Tables,
    omitted: Mapping[str, int],
    accuracy: float | None,
    notes: Sequence[str],
    output: Path,
) -> None:
    """Print a table of the faithfulness to the model, and one of the agreement with known words."""
    from rich.console import Console

    from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
    from captum_sig.faithfulness.summary import conclusion

    console, means = Console(highlight=False), tables.means
    for of_truth in (False, True):
        if group := [row for row in means if (row["metric"] in TRUTH_METRICS) == of_truth]:
            console.print(_table(group))
    console.print(f"Means of {_numbers(means)}, ± half the width of their 95 % bootstrap interval.")
    if tables.differences:
        console.print(conclusion(tables.differences))
    if reasons := [f"{n} {reason}" for reason, n in omitted.items() if n]:
        console.print(f"Texts omitted: {', '.join(reasons)}.")
    if accuracy is not None:
        console.print(f"The model predicts the label of {accuracy:.1%} of the labelled texts.")
    for note in notes:
        console.print(note)
    console.print(f"Tables and examples are in {output}.", soft_wrap=True)


def by_metric(rows: Iterable[Row], keys: Sequence[str], digits: int = 3) -> list[dict[str, Any]]:
    """Return a line for each combination of keys, with a rounded mean for each metric."""
    from captum_sig.faithfulness.summary import BETTER

    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(tuple(row[key] for key in keys), {key: row[key] for key in keys})
        metric = f"{row['metric']} {ARROWS[BETTER[row['metric']]]}"
        for long, short in SHORT.items():
            metric = metric.replace(long, short)
        half_width = (row["high"] - row["low"]) / 2
        line[metric] = f"{row['mean']:.{digits}f} ±{half_width:.{digits}f}"
    return list(lines.values())


def _table(rows: Sequence[Row]) -> Table:
    """Make a line for each method and baseline, a column for each metric, rounded."""
    from captum_sig.data.tables import to_terminal

    keys = ("method", "baseline")
    seconds = {tuple(row[key] for key in keys): row["seconds_per_example"] for row in rows}
    lines = by_metric(rows, keys)
    for line in lines:
        line["s/text"] = seconds[tuple(line[key] for key in keys)]
    return to_terminal(lines, list(lines[0]), {"s/text": ".3f"})


def _numbers(rows: Sequence[Row]) -> str:
    """Say how many texts the means are of: "8 texts", and which metrics have fewer."""
    n_texts = max(row["n"] for row in rows)
    fewer: dict[int, list[str]] = {}
    for row in rows:
        names = fewer.setdefault(row["n"], [])
        if row["metric"] not in names:
            names.append(row["metric"])
    others = [f"{n} for {', '.join(names)}" for n, names in fewer.items() if n != n_texts]
    return f"{n_texts} texts" + (f" ({'; '.join(others)})" if others else "")

"""The tables that `captum-sig evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_sig.cli.options import ABLATIONS

if TYPE_CHECKING:
    from rich.console import Console
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
    """Print a table of each kind of metric: words deleted, dimensions dropped, words known."""
    from rich.console import Console

    from captum_sig.faithfulness.summary import conclusion

    console, means = Console(highlight=False, markup=False), tables.means
    groups: dict[str | None, list[Row]] = {}  # None: of known words
    for row in means:
        kind = "deleted" if row["ablation"] in ABLATIONS else row["ablation"]
        groups.setdefault(kind, []).append(row)
    for group in groups.values():
        console.print(_table(group))
    console.print(f"Means of {_numbers(means)}, ± half the width of their 95 % bootstrap interval.")
    if tables.differences:
        console.print(conclusion(tables.differences))
    if tables.ranks:
        _print_ranks(console, tables)
    if reasons := [f"{n} {reason}" for reason, n in omitted.items() if n]:
        console.print(f"Texts omitted: {', '.join(reasons)}.")
    if accuracy is not None:
        console.print(f"The model predicts the label of {accuracy:.1%} of the labelled texts.")
    for note in notes:
        console.print(note)
    console.print(f"Tables and examples are in {output}.", soft_wrap=True)


def by_metric(rows: Iterable[Row], keys: Sequence[str], digits: int = 3) -> list[dict[str, Any]]:
    """Return a line for each combination of keys, with a rounded mean for each metric."""
    rows = list(rows)
    metrics = {row["metric"]: _heading(row["metric"]) for row in rows}
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        names = {key: row[key] for key in keys}
        line = lines.setdefault(tuple(names.values()), names | dict.fromkeys(metrics.values()))
        half_width = (row["high"] - row["low"]) / 2
        line[metrics[row["metric"]]] = f"{row['mean']:.{digits}f} ±{half_width:.{digits}f}"
    return list(lines.values())


def _heading(metric: str) -> str:
    """Return the short name of a metric, with an arrow to what is better."""
    from captum_sig.faithfulness.summary import BETTER

    arrow = ARROWS[BETTER[metric]]
    for long, short in SHORT.items():
        metric = metric.replace(long, short)
    return f"{metric} {arrow}"


def _table(rows: Sequence[Row]) -> Table:
    """Make a line for each method, baseline and kind of deletion, a column for each metric."""
    from captum_sig.data.tables import to_terminal

    kinds = list(dict.fromkeys(row["ablation"] for row in rows))
    keys = ("method", "baseline", *(["ablation"] if _are_side_by_side(rows) else []))
    rows = sorted(rows, key=lambda row: kinds.index(row["ablation"]))
    seconds = {tuple(row[key] for key in keys): row["seconds_per_example"] for row in rows}
    lines = by_metric(rows, keys)
    for line in lines:
        line["s/text"] = seconds[tuple(line[key] for key in keys)]
    return to_terminal(lines, list(lines[0]), {"s/text": ".3f"})


def _are_side_by_side(rows: Iterable[Row]) -> bool:
    """Whether a metric is there under several kinds of deletion."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row["metric"], set()).add(row["ablation"])
    return any(len(of_metric) > 1 for of_metric in kinds.values())


def _print_ranks(console: Console, tables: Tables) -> None:
    """Print the methods' ranks under each of several kinds of deletion, and how far they agree."""
    from captum_sig.data.tables import to_terminal
    from captum_sig.faithfulness.ranks import AGREEMENT_COLUMNS

    ablations = [name for name in tables.ranks[0] if name in ABLATIONS]
    console.print("Ranks of the methods (1 is best) under each kind of deletion:")
    columns = ["metric", "baseline", "method", *ablations]
    console.print(to_terminal(tables.ranks, columns, dict.fromkeys(ablations, "g")))
    console.print("Agreement of these orders, Kendall's tau (1: the same, −1: opposite):")
    columns = [column for column in AGREEMENT_COLUMNS if column != "n"]
    console.print(to_terminal(tables.rank_agreement, columns, {"tau": ".2f"}))


def _numbers(rows: Sequence[Row]) -> str:
    """Say how many texts the means are of: "8 texts", and which metrics have fewer."""
    n_texts = max(row["n"] for row in rows)
    fewer: dict[int, list[str]] = {}
    for row in rows:
        names = fewer.setdefault(row["n"], [])
        if row["metric"] not in names:
            names.append(row["metric"])
    others = [f"{n} for {', '.join(names)}" for n, names in fewer.items() if n != n_texts]
    return f"{n_texts} text{'s' * (n_texts != 1)}" + (f" ({'; '.join(others)})" if others else "")

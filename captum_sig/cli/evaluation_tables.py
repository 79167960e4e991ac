"""The tables that `captum-sig evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from captum_sig._names import AblationName

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from captum_sig.faithfulness.summary import Tables

Row = Mapping[str, Any]
ABLATION_NAMES = get_args(AblationName)
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
    if _has_several_kinds(means):
        kinds = dict.fromkeys(row["ablation"] for row in means)
        _print_ranks(console, means, [kind for kind in kinds if kind in ABLATION_NAMES])
    for note in notes:
        console.print(note, soft_wrap=True)
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

    keys = ["method", "baseline"]
    kinds = list(dict.fromkeys(row["ablation"] for row in rows))
    if _has_several_kinds(rows):
        keys.append("ablation")
        rows = sorted(rows, key=lambda row: kinds.index(row["ablation"]))
    seconds = {tuple(row[key] for key in keys): row["seconds_per_example"] for row in rows}
    lines = by_metric(rows, keys)
    columns = [*dict.fromkeys(column for line in lines for column in line), "s/text"]
    for line in lines:
        line["s/text"] = seconds[tuple(line[key] for key in keys)]
    table = [{**dict.fromkeys(columns), **line} for line in lines]
    return to_terminal(table, columns, {"s/text": ".3f"})


def _has_several_kinds(rows: Sequence[Row]) -> bool:
    """Whether the same metric deletes words in several ways."""
    pairs = {(row["metric"], row["ablation"]) for row in rows}
    return len(pairs) > len({metric for metric, _ in pairs})


def _print_ranks(console: Console, means: Sequence[Row], ablations: Sequence[str]) -> None:
    """Print the methods' ranks under each kind of deletion, and how far the kinds agree."""
    from captum_sig.data.tables import to_terminal
    from captum_sig.faithfulness.ranks import AGREEMENT_COLUMNS, agreement_rows, rank_rows

    ranks = rank_rows(means, ablations)
    console.print("Ranks of the methods (1 is best) under each kind of deletion:")
    columns = ["metric", "baseline", "method", *ablations]
    console.print(to_terminal(ranks, columns, dict.fromkeys(ablations, "g")))
    console.print("Agreement of these orders, Kendall's tau (1: the same, −1: opposite):")
    columns = [column for column in AGREEMENT_COLUMNS if column != "n"]
    console.print(to_terminal(agreement_rows(ranks, ablations), columns, {"tau": ".2f"}))


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

"""The tables of an evaluation: means with intervals, and differences from the first method.

They are means over texts: several labels of a text count as one, and a text for which a metric is
not defined (None) does not count.

A difference is called one if its p-value is below 0.05 after Holm's correction over all differences
of its metric, those of every method, baseline and kind of deletion: whoever looks for the methods
that differ by a metric looks at all of them. So for each metric, the chance that anything is called
a difference and is none is at most 5 %, as far as single p-values are right. Metrics are not
corrected for each other: each answers a question of its own, and they agree too much for that to be
worth its price.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from captum_sig._files import replace_text
from captum_sig.data.statistics import bootstrap, holm, paired, paired_p_value
from captum_sig.data.tables import to_markdown, write_csv
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from captum_sig.faithfulness.metrics import METRICS

COLUMNS = (
    "method", "baseline", "metric", "ablation", "mean", "low", "high", "n", "seconds_per_example",
)  # fmt: skip
PAIRED_COLUMNS = (
    "method", "reference", "baseline", "metric", "ablation", "mean", "low", "high", "n", "p",
    "p_holm",
)  # fmt: skip
FORMATS = {
    **dict.fromkeys(("mean", "low", "high", "seconds_per_example"), ".3f"),
    **dict.fromkeys(("p", "p_holm"), ".4f"),
}
SIGNIFICANCE = 0.05  # of what is called a difference
AT_LEVEL = f"at {100 * SIGNIFICANCE:g} % after Holm's correction"

BETTER: dict[str, Literal["lower", "higher"]] = {
    **{name: metric.better for name, metric in METRICS.items()},
    **{name: metric.better for name, metric in TRUTH_METRICS.items()},
}

Line = dict[str, Any]  # one label of a text, explained by one method for one baseline


class Tables(NamedTuple):
    """The rows of `table.csv`, those of `paired.csv`, and sentences on how to read them.

    `n` is the number of texts. `ablation` is what the metric does with words: a kind of deletion,
    "soft", or nothing. Several kinds of deletion have `ranks` and their agreement, too.
    """

    means: list[Line]
    differences: list[Line]
    notes: tuple[str, ...] = ()
    ranks: tuple[Line, ...] = ()
    rank_agreement: tuple[Line, ...] = ()


def write_tables(
    lines: Iterable[Line], config: EvaluationConfig, folder: Path, notes: Sequence[str] = ()
) -> Tables:
    """Write `table.csv`, `paired.csv`, and both as `table.md`, with 95 % bootstrap intervals.

    The notes stand below `table.md`.

    Raises:
        ValueError: if none of the metrics is defined for any text.
    """
    cells: dict[tuple[str, str], list[Line]] = {}
    # The bootstrap must not depend on the order of the data: sort by the texts themselves.
    for line in sorted(lines, key=itemgetter("text", "explained", "number")):
        cells.setdefault((line["method"], line["baseline"]), []).append(line)
    means, differences = [], []
    undefined: dict[str, None] = {}  # in order
    reference = config.methods[0]
    for baseline, method, measure in product(config.baselines, config.methods, config.measures):
        of_method = cells[method, baseline]
        name = {
            "method": method, "baseline": baseline, "metric": measure.metric,
            "ablation": measure.kind,
        }  # fmt: skip
        values = _of_texts(of_method, measure.key)
        if not values:
            undefined[measure.metric] = None
            continue
        seconds = sum(line["seconds"] for line in of_method) / len(of_method)
        interval = bootstrap(values, seed=config.seed)
        means.append({**name, **asdict(interval), "seconds_per_example": seconds})
        if method != reference:
            of_reference = _of_texts(cells[reference, baseline], measure.key)
            interval = paired(of_reference, values, seed=config.seed)
            p = paired_p_value(of_reference, values, seed=config.seed)
            differences.append({**name, "reference": reference, **asdict(interval), "p": p})
    if undefined:
        names = ", ".join(undefined)
        if not means:
            raise ValueError(f"no text has a word that {names} could count: use other metrics")
        notes = [*notes, f"No text has a word that is known to matter, for {names}."]
    for family in _families(differences).values():
        for row, p_holm in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p_holm
    write_csv(means, COLUMNS, folder / "table.csv")
    write_csv(differences, PAIRED_COLUMNS, folder / "paired.csv")
    tables = Tables(means, differences, tuple(notes))
    replace_text(folder / "table.md", _as_markdown(tables))
    return tables


def _families(differences: Iterable[Line]) -> dict[str, list[Line]]:
    """Return the differences of each metric, which are corrected together."""
    families: dict[str, list[Line]] = {}
    for row in differences:
        families.setdefault(row["metric"], []).append(row)
    return families


def _as_markdown(tables: Tables) -> str:
    parts = [to_markdown(tables.means, COLUMNS, FORMATS)]
    if tables.differences:
        rows = [{**row, "differs": verdict(row) or "–"} for row in tables.differences]
        parts.append(
            f"Differences from {rows[0]['reference']}, text by text. Those that hold {AT_LEVEL} "
            "over all of a metric are called better or worse.\n"
        )
        parts.append(to_markdown(rows, (*PAIRED_COLUMNS, "differs"), FORMATS))
    return "\n".join([*parts, *(f"{note}\n" for note in tables.notes)])


def verdict(difference: Line) -> Literal["better", "worse"] | None:
    """Say how a method differs from the first one; None if that may be chance."""
    if difference["p_holm"] >= SIGNIFICANCE:
        return None
    is_lower = difference["mean"] < 0
    return "better" if is_lower == (BETTER[difference["metric"]] == "lower") else "worse"


def conclusion(differences: Sequence[Line]) -> str:
    """Say in a sentence which methods differ from the first one, by each metric.

    Args:
        differences: rows of `Tables`, at least one.
    """
    families = _families(differences)
    by_metric = []
    for metric, rows in families.items():
        methods: dict[str, list[str]] = {"better": [], "worse": []}
        varying = [key for key in ("baseline", "ablation") if len({row[key] for row in rows}) > 1]
        for row in rows:
            if kind := verdict(row):
                where = ", ".join(row[key] for key in varying)
                methods[kind].append(f"{row['method']} ({where})" if where else row["method"])
        found = [f"{', '.join(names)} {kind}" for kind, names in methods.items() if names]
        by_metric.append(f"by {metric.replace('_', ' ')}, {' and '.join(found) or 'none'}")
    reference = differences[0]["reference"]
    return f"Different from {reference} {AT_LEVEL}: {'; '.join(by_metric)}."


def _of_texts(lines: Sequence[Line], metric: str) -> list[float]:
    """Return a metric of each text that it is defined for, the mean over the text's labels."""
    values: dict[int, list[float]] = {}
    for line in lines:
        if line[metric] is not None:
            values.setdefault(line["number"], []).append(line[metric])
    return [math.fsum(of_text) / len(of_text) for of_text in values.values()]

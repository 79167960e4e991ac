"""The tables of an evaluation: means with intervals, and differences from the first method.

They are means over texts: several labels of a text count as one, and a text for which a metric is
not defined (None) does not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from captum_sig._files import replace_text
from captum_sig.data.statistics import bootstrap, paired
from captum_sig.data.tables import to_markdown, write_csv
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from captum_sig.faithfulness.metrics import METRICS

COLUMNS = (
    "method", "baseline", "metric", "ablation", "mean", "low", "high", "n", "seconds_per_example",
)  # fmt: skip
PAIRED_COLUMNS = (
    "method", "reference", "baseline", "metric", "ablation", "mean", "low", "high", "n",
)  # fmt: skip
FORMATS = {"mean": ".3f", "low": ".3f", "high": ".3f", "seconds_per_example": ".3f"}

BETTER: dict[str, Literal["lower", "higher"]] = {
    **{name: metric.better for name, metric in METRICS.items()},
    **{name: metric.better for name, metric in TRUTH_METRICS.items()},
}

Line = dict[str, Any]  # one label of a text, explained by one method for one baseline


def write_tables(
    lines: Iterable[Line], config: EvaluationConfig, folder: Path, note: str = ""
) -> list[Line]:
    """Write `table.csv`, `table.md` and `paired.csv`, with 95 % bootstrap intervals.

    `ablation` is what the metric does with words: a kind of deletion, "soft", or nothing. The note
    stands below `table.md`.

    Returns:
        The rows of `table.csv` and `table.md`; `n` is the number of texts.

    Raises:
        ValueError: if a metric is defined for no text.
    """
    cells: dict[tuple[str, str], list[Line]] = {}
    # The bootstrap must not depend on the order of the data: sort by the texts themselves.
    for line in sorted(lines, key=itemgetter("text", "explained", "number")):
        cells.setdefault((line["method"], line["baseline"]), []).append(line)
    means, differences = [], []
    reference = config.methods[0]
    for baseline, method, measure in product(config.baselines, config.methods, config.measures):
        of_method = cells[method, baseline]
        name = {
            "method": method, "baseline": baseline, "metric": measure.metric,
            "ablation": measure.kind,
        }  # fmt: skip
        values = _of_texts(of_method, measure.key)
        if not values:
            raise ValueError(
                f"metric {measure.metric!r} is defined for no text: use others, or more texts"
            )
        seconds = sum(line["seconds"] for line in of_method) / len(of_method)
        interval = bootstrap(values, seed=config.seed)
        means.append({**name, **asdict(interval), "seconds_per_example": seconds})
        if method != reference:
            of_reference = _of_texts(cells[reference, baseline], measure.key)
            interval = paired(of_reference, values, seed=config.seed)
            differences.append({**name, "reference": reference, **asdict(interval)})
    write_csv(means, COLUMNS, folder / "table.csv")
    write_csv(differences, PAIRED_COLUMNS, folder / "paired.csv")
    below = f"\n{note}\n" if note else ""
    replace_text(folder / "table.md", to_markdown(means, COLUMNS, FORMATS) + below)
    return means


def _of_texts(lines: Sequence[Line], metric: str) -> list[float]:
    """Return a metric of each text that it is defined for, the mean over the text's labels."""
    values: dict[int, list[float]] = {}
    for line in lines:
        if line[metric] is not None:
            values.setdefault(line["number"], []).append(line[metric])
    return [math.fsum(of_text) / len(of_text) for of_text in values.values()]

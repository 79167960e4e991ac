"""Ranks of the methods under each kind of deletion, side by side, and how far the kinds agree.

A method that deletes words as a metric does may lead for that reason alone. Where the order of the
methods depends on the kind of deletion, no single one of these orders is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from captum_sig.data.tables import write_csv
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.summary import BETTER

RANKS, AGREEMENT = "ranks.csv", "rank_agreement.csv"
AGREEMENT_COLUMNS = ("baseline", "metric", "first", "second", "tau", "n")

Row = dict[str, Any]


def rank_rows(means: Sequence[Mapping[str, Any]], ablations: Sequence[str]) -> list[Row]:
    """Return a row for each baseline, metric and method: its rank, 1 is best, by kind of deletion.

    Equal means share the mean of their ranks. Metrics that do not delete words have no row.
    """
    from scipy.stats import rankdata  # slow to import

    groups: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in means:
        if row["ablation"] in ablations:
            sign = 1 if BETTER[row["metric"]] == "lower" else -1
            of_kinds = groups.setdefault((row["baseline"], row["metric"]), {})
            of_kinds.setdefault(row["ablation"], {})[row["method"]] = sign * row["mean"]
    rows = []
    for (baseline, metric), of_kinds in groups.items():
        ranks = {kind: rankdata(list(of_kinds[kind].values())).tolist() for kind in ablations}
        for number, method in enumerate(of_kinds[ablations[0]]):
            row = {"baseline": baseline, "metric": metric, "method": method}
            rows.append({**row, **{kind: ranks[kind][number] for kind in ablations}})
    return rows


def agreement_rows(ranks: Sequence[Row], ablations: Sequence[str]) -> list[Row]:
    """Return Kendall's tau-b of each two kinds of deletion, over the n methods.

    1 is the same order, −1 the opposite one; None if all methods are equal, or there is one.
    """
    from scipy.stats import kendalltau

    groups: dict[tuple[str, str], list[Row]] = {}
    for row in ranks:
        groups.setdefault((row["baseline"], row["metric"]), []).append(row)
    rows = []
    for (baseline, metric), group in groups.items():
        for first, second in combinations(ablations, 2):
            tau = math.nan
            if len(group) > 1:
                orders = ([row[kind] for row in group] for kind in (first, second))
                tau = float(kendalltau(*orders).statistic)
            of_pair = {"baseline": baseline, "metric": metric, "first": first, "second": second}
            rows.append({**of_pair, "tau": None if math.isnan(tau) else tau, "n": len(group)})
    return rows


def write_ranks(
    means: Sequence[Mapping[str, Any]], config: EvaluationConfig, folder: Path
) -> tuple[list[Row], list[Row]]:
    """Write `ranks.csv` and `rank_agreement.csv`; return their rows."""
    ranks = rank_rows(means, config.ablation)
    agreement = agreement_rows(ranks, config.ablation)
    write_csv(ranks, ("baseline", "metric", "method", *config.ablation), folder / RANKS)
    write_csv(agreement, AGREEMENT_COLUMNS, folder / AGREEMENT)
    return ranks, agreement

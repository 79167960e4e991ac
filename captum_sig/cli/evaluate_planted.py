"""`captum-sig evaluate --planted`: methods against words that are known to decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_sig.cli import terminal
from captum_sig.cli.evaluation_tables import by_metric

if TYPE_CHECKING:
    from captum_sig.data.records import Record
    from captum_sig.faithfulness.config import EvaluationConfig
    from captum_sig.faithfulness.planted_models import Reliance


# Arguments of `evaluate`.
NOT_FOR_PLANTED = ("metrics", "top_fraction", "ablation", "explain", "rationale_column")
ONLY_FOR_PLANTED = ("shortcuts", "max_steps")


def evaluate_planted(
    records: Sequence[Record],
    config: EvaluationConfig,
    output: Path,
    *,
    model: str | None,
    shortcuts: tuple[str, ...],
    max_steps: int,
    resume: bool,
) -> None:
    """Plant all shortcuts in copies of a model, explain them, and print a table."""
    from captum_sig.faithfulness.planted import (
        METRICS,
        PlantedConfig,
        PlantedEvaluation,
        check_no_planted_results,
    )
    from captum_sig.faithfulness.planted_models import Training

    if not resume:
        check_no_planted_results(output)
    planted = PlantedConfig(
        replace(config, metrics=METRICS),
        shortcuts,  # type: ignore[arg-type]  # the config checks them
        training=Training(max_steps),
    )
    (explainer,) = terminal.load_classifiers(model, ["mask"], None, level=config.level)
    run = PlantedEvaluation(
        planted, explainer, records, output, resume=resume,
        **terminal.masked_lm_option(config.masked_lm),
    )  # fmt: skip
    run.measure_remaining(progress=True)
    _print_table(run.write_tables(), run.reliance, output)


def _print_table(
    rows: Sequence[dict[str, Any]], reliance: Mapping[str, Reliance], output: Path
) -> None:
    """Print a line for each shortcut, method and baseline, a column for each metric, rounded."""
    from rich.console import Console

    from captum_sig.data.tables import to_terminal

    n_texts = {row["shortcut"]: row["n"] for row in rows}
    lines = by_metric(rows, ("shortcut", "method", "baseline"), digits=2)
    for line in lines:
        line["texts"] = n_texts[line["shortcut"]]
        line["reliance"] = f"{reliance[line['shortcut']].followed:.0%}"
    console = Console(highlight=False, markup=False)
    console.print(to_terminal(lines, list(lines[0])))
    console.print(
        "Means over texts with planted words, ± half the width of their 95 % bootstrap interval. "
        "Reliance: held-out texts in which the planted model says what is planted, and not the "
        "text's own label."
    )
    console.print(f"Tables and examples are in {output}.", soft_wrap=True)

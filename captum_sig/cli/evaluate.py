"""`captum-sig evaluate`: which explanation is faithful to a model on its own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_sig.cli import terminal
from captum_sig.cli.options import DRAWS, LEVEL, MASKED_LM, MODEL, SEED

if TYPE_CHECKING:
    from captum_sig.data.records import Record
    from captum_sig.faithfulness.evaluation import EvaluationConfig


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            help="Texts: .tsv, .csv, .jsonl, .json, .parquet, or a folder saved by datasets."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for examples.jsonl and the tables.")],
    model: Annotated[str | None, MODEL] = None,
    methods: Annotated[
        str, typer.Option(help="Names as in explain, with commas; the first is the reference.")
    ] = "random,input_x_gradient,ig,sig,sig:two_sided",
    baselines: Annotated[str, typer.Option(help="Names as in explain, with commas.")] = "mask",
    metrics: Annotated[
        str,
        typer.Option(
            help="log_odds, comprehensiveness, sufficiency, aopc_comprehensiveness, "
            "aopc_sufficiency, ablation_auc; with commas."
        ),
    ] = "log_odds,comprehensiveness,sufficiency",
    top_fraction: Annotated[
        float, typer.Option(help="Share of the words that metrics ablate.")
    ] = 0.2,
    limit: Annotated[int | None, typer.Option(help="Take the first N texts.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Default: guessed.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Default: guessed; '' leaves labels out.")
    ] = None,
    explain: Annotated[
        str, typer.Option(help="Which label is explained: predicted, or label (the data's).")
    ] = "predicted",
    level: Annotated[str, LEVEL] = "token",
    n_steps: Annotated[int, typer.Option(help="Steps of ig.")] = 50,
    draws: Annotated[int, DRAWS] = 5,
    masked_lm: Annotated[str | None, MASKED_LM] = None,
    seed: Annotated[int, SEED] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what OUTPUT holds.")] = False,
) -> None:
    """Compare attribution methods by their faithfulness to a model, on your own texts.

    The highest scored words are masked, removed, or kept alone, and the probability of the
    explained label is watched. Writes examples.jsonl (a line for each text, method and baseline),
    table.csv, table.md, and paired.csv, the differences to the first method text by text.
    """
    with terminal.reporting_errors():
        from captum_sig.data.records import read_records
        from captum_sig.faithfulness.evaluation import EvaluationConfig

        records = read_records(
            data, text_column=text_column, label_column=label_column, limit=limit
        )
        plan = EvaluationConfig(
            data=str(data),
            model=model or "demo",
            masked_lm=masked_lm,
            methods=_names(methods),
            baselines=_names(baselines),
            metrics=_names(metrics),  # type: ignore[arg-type]  # the config checks them
            top_fraction=top_fraction,
            level=level,
            explain=explain,
            n_steps=n_steps,
            n_draws=draws,
            seed=seed,
        )
        _compare(plan, model, records, output, resume)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _compare(
    plan: EvaluationConfig, model: str | None, records: Sequence[Record], output: Path, resume: bool
) -> None:
    """Check all names before a model is loaded, and the data before anything is written."""
    from captum_sig.explainers.scoring import ScoringOptions
    from captum_sig.faithfulness.evaluation import Evaluation, accuracy, prepare_examples

    for method in plan.methods:
        ScoringOptions.of(method, None, plan.n_steps, None)
    explainers = terminal.explainers(
        model, plan.baselines, plan.masked_lm, level=plan.level, n_draws=plan.n_draws,
        seed=plan.seed,
    )  # fmt: skip
    found = prepare_examples(explainers[0], records, plan.explain)
    if not found:
        terminal.fail(f"no text of {plan.data} has a word to explain")
    by_name = dict(zip(plan.baselines, explainers, strict=True))
    run = Evaluation(plan, by_name, found, output, resume=resume)
    run.explain_remaining(progress=True)
    _show(run.write_tables(), len(records) - len(found), accuracy(found), output)


def _show(
    rows: Sequence[dict[str, Any]], left_out: int, accuracy: float | None, output: Path
) -> None:
    """A line for each method and baseline, a column for each metric; the files have all digits."""
    from rich.console import Console

    from captum_sig.data.tables import to_terminal
    from captum_sig.faithfulness.metrics import METRICS

    arrows = {"lower": "↓", "higher": "↑"}
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["method"], row["baseline"]
        line = lines.setdefault(key, {"method": key[0], "baseline": key[1]})
        metric = f"{row['metric']} {arrows[METRICS[row['metric']].better]}"
        for long, short in (("comprehensiveness", "compr."), ("sufficiency", "suff."), ("_", " ")):
            metric = metric.replace(long, short)
        line[metric] = f"{row['mean']:.3f} ±{(row['high'] - row['low']) / 2:.3f}"
        line["s/text"] = row["seconds_per_example"]
    columns = [name for name in next(iter(lines.values())) if name != "s/text"]
    console = Console(highlight=False)
    console.print(to_terminal(list(lines.values()), [*columns, "s/text"], {"s/text": ".3f"}))
    console.print(
        f"Means of {rows[0]['n']} texts, ± half the width of their 95 % bootstrap interval."
    )
    if left_out:
        console.print(f"{left_out} texts without a word are left out.")
    if accuracy is not None:
        console.print(f"The model predicts the label of {accuracy:.1%} of the labelled texts.")
    console.print(f"Tables and examples are in {output}.", soft_wrap=True)

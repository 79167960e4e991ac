"""`captum-sig evaluate`: which attribution method is faithful to a model on its own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from captum_sig._files import check_folder
from captum_sig._names import TextLevel
from captum_sig.cli import options, terminal
from captum_sig.cli.options import EXPLANATION_PANEL, INPUT_PANEL, METRICS_PANEL, OUTPUT_PANEL
from captum_sig.cli.process import quitting_on_interrupt

ExplainedLabel = Literal["predicted", "label"]


@terminal.reporting_errors
def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Texts: .tsv, .csv, .jsonl, .json, .parquet, or a folder saved by datasets.",
        ),
    ],
    *,
    limit: Annotated[int | None, options.LIMIT(rich_help_panel="Input")] = None,
    text_column: Annotated[str | None, options.TEXT_COLUMN(rich_help_panel="Input")] = None,
    pair_column: Annotated[str | None, options.PAIR_COLUMN(rich_help_panel="Input")] = None,
    label_column: Annotated[
        str | None,
        INPUT_PANEL(
            help="Column of the labels; default: guessed; '' ignores labels. Of a model whose "
            "labels exclude no others, lists, or names with commas between them."
        ),
    ] = None,
    model: Annotated[str | None, options.MODEL(rich_help_panel="Explanation")] = None,
    methods: Annotated[
        str, options.METHODS_OPTION(rich_help_panel="Explanation")
    ] = "random, input_x_gradient, ig, sig, sig:two_sided",
    baselines: Annotated[str, options.BASELINES_OPTION(rich_help_panel="Explanation")] = "mask",
    masked_lm: Annotated[
        str | None,
        options.MASKED_LM(
            rich_help_panel="Explanation",
            help="Masked language model (folder or hub name) for --baselines blurred and "
            "--ablation sample.",
        ),
    ] = None,
    explain: Annotated[
        ExplainedLabel,
        EXPLANATION_PANEL(
            help="Label to explain: the model's, or the one in the data; all of them above 0.5, or "
            "in the data, if labels exclude no others."
        ),
    ] = "predicted",
    level: Annotated[TextLevel, options.TEXT_LEVEL(rich_help_panel="Explanation")] = "token",
    n_steps: Annotated[int, options.N_STEPS(rich_help_panel="Explanation")] = 50,
    n_draws: Annotated[
        int,
        options.N_DRAWS(
            rich_help_panel="Explanation",
            help="Draws of a random baseline, of sampled words, and of soft metrics; results are "
            "averaged over them.",
        ),
    ] = 5,
    seed: Annotated[int, options.SEED(rich_help_panel="Explanation")] = 0,
    metrics: Annotated[
        str, options.METRICS_OPTION(rich_help_panel="Metrics")
    ] = "log_odds, comprehensiveness, sufficiency",
    top_fraction: Annotated[
        float,
        METRICS_PANEL(
            help="Fraction of what --level names that a metric removes or keeps, at least one."
        ),
    ] = 0.2,
    ablation: Annotated[str | None, options.ABLATIONS_OPTION(rich_help_panel="Metrics")] = None,
    output: Annotated[Path, OUTPUT_PANEL(help="Folder for examples.jsonl and the tables.")],
    resume: Annotated[
        bool, OUTPUT_PANEL("--resume", help="Resume the run in the output folder.")
    ] = False,
) -> None:
    """Compare attribution methods by their faithfulness to a model, on your own texts.

    The words with the highest scores are masked, removed, or kept alone. The more
    this changes the probability of the explained label, the more faithful are the
    scores. A text with several labels counts with the mean over them. Writes
    examples.jsonl (a line for each text, label, method and baseline), table.csv,
    table.md, paired.csv (differences from the first method) and distribution.csv
    (whether the model knows such texts). Several kinds of --ablation add ranks.csv
    and rank_agreement.csv.
    """
    check_folder(output)
    with quitting_on_interrupt():
        from captum_sig.data.records import read_records
        from captum_sig.explainers.scoring import ScoringOptions
        from captum_sig.faithfulness.config import EvaluationConfig
        from captum_sig.faithfulness.evaluation import Evaluation, check_no_results
        from captum_sig.faithfulness.examples import accuracy, prepare_examples

    if not resume:
        check_no_results(output)
    records = read_records(
        data, text_column=text_column, pair_column=pair_column, label_column=label_column,
        limit=limit,
    )  # fmt: skip
    config = EvaluationConfig(
        data=str(data),
        model=model or "demo",
        masked_lm=masked_lm,
        methods=options.split_names(methods),
        baselines=options.split_names(baselines),
        metrics=options.split_names(metrics),  # type: ignore[arg-type]  # the config checks them
        top_fraction=top_fraction,
        level=level,
        explain=explain,
        n_steps=n_steps,
        n_draws=n_draws,
        seed=seed,
        ablation=options.split_names(ablation or ""),  # type: ignore[arg-type]
    )
    for method in config.methods:  # before a model is loaded
        ScoringOptions.checked(method, n_steps=n_steps)
    explainers = terminal.load_classifiers(
        model, config.baselines, masked_lm, level=level, n_draws=n_draws, seed=seed
    )
    examples = prepare_examples(explainers[0], records, explain)
    if not examples:
        terminal.fail(f"no text of {data} has a word to explain")
    by_name = dict(zip(config.baselines, explainers, strict=True))
    run = Evaluation(config, by_name, examples, output, resume=resume)
    run.explain_remaining(progress=True)
    n_empty = sum(record.is_blank for record in records)
    n_explained = len({example.number for example in examples})
    without = "a word or a label" if explainers[0].is_multi_label else "a word"
    omitted = {"empty": n_empty, f"without {without}": len(records) - n_explained - n_empty}
    note = run.write_distribution()
    means = run.write_tables(note)
    _print_summary(means, omitted, accuracy(examples))
    if len(config.ablation) > 1:
        _print_ranks(means, config.ablation)
    for line in filter(None, (note, f"Tables and examples are in {output}.")):
        typer.echo(line)


def _print_summary(
    rows: Sequence[dict[str, Any]],
    omitted: dict[str, int],
    accuracy: float | None,
) -> None:
    """Print a line for each method, baseline and kind of deletion, a column for each metric."""
    from rich.console import Console

    from captum_sig.data.tables import to_terminal
    from captum_sig.faithfulness.summary import BETTER

    arrows = {"lower": "↓", "higher": "↑"}
    several = len({row["ablation"] for row in rows if row["metric"] == rows[0]["metric"]}) > 1
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        kind = str(row["ablation"] or "") if several else ""
        key = kind, row["baseline"], row["method"]
        line = lines.setdefault(key, {"method": row["method"], "baseline": row["baseline"]})
        if several:
            line["ablation"] = kind
        metric = f"{row['metric']} {arrows[BETTER[row['metric']]]}"
        for long, short in (("comprehensiveness", "compr."), ("sufficiency", "suff."), ("_", " ")):
            metric = metric.replace(long, short)
        line[metric] = f"{row['mean']:.3f} ±{(row['high'] - row['low']) / 2:.3f}"
        line["s/text"] = row["seconds_per_example"]
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    columns.remove("s/text")
    table = [{**dict.fromkeys(columns), **line} for _, line in _sorted_by_kind(lines)]
    console = Console(highlight=False)
    console.print(to_terminal(table, [*columns, "s/text"], {"s/text": ".3f"}))
    console.print(
        f"Means of {rows[0]['n']} texts, ± half the width of their 95 % bootstrap interval."
    )
    if reasons := [f"{n} {reason}" for reason, n in omitted.items() if n]:
        console.print(f"Texts omitted: {', '.join(reasons)}.")
    if accuracy is not None:
        console.print(f"The model predicts the label of {accuracy:.1%} of the labelled texts.")


def _sorted_by_kind(lines: dict[tuple[str, str, str], dict[str, Any]]) -> list[Any]:
    """Put all lines of a kind of deletion together, kinds and lines in their first order."""
    kinds = list(dict.fromkeys(kind for kind, *_ in lines))
    return sorted(lines.items(), key=lambda item: kinds.index(item[0][0]))


def _print_ranks(means: Sequence[dict[str, Any]], ablations: Sequence[str]) -> None:
    """Print the methods' ranks under each kind of deletion, and how far the kinds agree."""
    from rich.console import Console

    from captum_sig.data.tables import to_terminal
    from captum_sig.faithfulness.ranks import AGREEMENT_COLUMNS, agreement_rows, rank_rows

    ranks = rank_rows(means, ablations)
    if not ranks:
        return
    console = Console(highlight=False)
    console.print("Ranks of the methods (1 is best) under each kind of deletion:")
    columns = ["metric", "baseline", "method", *ablations]
    console.print(to_terminal(ranks, columns, dict.fromkeys(ablations, "g")))
    console.print("Agreement of these orders, Kendall's tau (1: the same, −1: opposite):")
    columns = [column for column in AGREEMENT_COLUMNS if column != "n"]
    console.print(to_terminal(agreement_rows(ranks, ablations), columns, {"tau": ".2f"}))

"""`captum-sig evaluate`: which attribution method is faithful to a model on its own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from captum_sig._files import check_folder
from captum_sig._names import RATIONALE_METRICS, TextLevel
from captum_sig.cli import options, terminal
from captum_sig.cli.evaluate_planted import NOT_FOR_PLANTED, ONLY_FOR_PLANTED, evaluate_planted
from captum_sig.cli.evaluation_tables import print_summary
from captum_sig.cli.options import (
    EXPLANATION_PANEL,
    INPUT_PANEL,
    METRICS_PANEL,
    OUTPUT_PANEL,
    PLANTED_PANEL,
)
from captum_sig.cli.process import quitting_on_interrupt

ExplainedLabel = Literal["predicted", "label"]


@terminal.reporting_errors
def evaluate(
    context: typer.Context,
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
    rationale_column: Annotated[
        str | None,
        INPUT_PANEL(
            "--rationales",
            metavar="COLUMN",
            help="Column of the characters that people marked in the texts: pairs of start and "
            "end, offsets, or ERASER's evidences. Adds auprc, token_f1 and iou to the metrics.",
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
        ExplainedLabel | None,
        EXPLANATION_PANEL(
            help="Label to explain: the model's, or the one in the data; all of them above 0.5, or "
            "in the data, if labels exclude no others. Default: predicted, or with --rationales "
            "the label in the data, if all texts have one: people marked the words for it."
        ),
    ] = None,
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
    planted: Annotated[
        bool,
        PLANTED_PANEL(
            "--planted",
            help="Train copies of the model to rely on words that are planted into labelled texts, "
            "and measure how high the methods score these words. In place of --metrics.",
        ),
    ] = False,
    shortcuts: Annotated[
        str, options.SHORTCUTS_OPTION(rich_help_panel="Planted words")
    ] = ", ".join(options.SHORTCUTS),
    max_steps: Annotated[
        int, PLANTED_PANEL(min=1, help="With --planted: maximum number of steps of each training.")
    ] = 1000,
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
    table.md, paired.csv (differences from the first method, with p-values) and
    distribution.csv (whether the model knows such texts). Several kinds of --ablation
    add ranks.csv and rank_agreement.csv.

    With --rationales, it also says how far the highest scores agree with the words
    that people marked. That is plausibility, not faithfulness.

    With --planted, the words that matter are known: seven shortcuts, such as two words
    of which either would do. Writes planted.csv, planted.md, reliance.csv and
    reliance.md (whether the copies rely on the words), and a folder for each shortcut.
    """
    if planted:
        terminal.check_left_out(context, NOT_FOR_PLANTED, "is not for --planted")
    else:
        terminal.check_left_out(context, ONLY_FOR_PLANTED, "is only for --planted")
    check_folder(output)
    with quitting_on_interrupt():
        from captum_sig.data.records import read_records
        from captum_sig.explainers.scoring import ScoringOptions
        from captum_sig.faithfulness.config import EvaluationConfig
        from captum_sig.faithfulness.evaluation import Evaluation, check_no_results
        from captum_sig.faithfulness.examples import accuracy, prepare_examples

    if not (resume or planted):
        check_no_results(output)
    records = read_records(
        data, text_column=text_column, pair_column=pair_column, label_column=label_column,
        rationale_column=rationale_column, limit=limit,
    )  # fmt: skip
    if explain is None:
        has_labels = all(record.label is not None for record in records if not record.is_blank)
        explain = "label" if rationale_column and has_labels else "predicted"
    of_rationales = RATIONALE_METRICS if rationale_column else ()
    metric_names = dict.fromkeys([*options.split_names(metrics), *of_rationales])
    config = EvaluationConfig(
        data=str(data),
        model=model or "demo",
        masked_lm=masked_lm,
        methods=options.split_names(methods),
        baselines=options.split_names(baselines),
        metrics=tuple(metric_names),  # type: ignore[arg-type]  # the config checks them
        top_fraction=top_fraction,
        level=level,
        explain=explain,
        n_steps=n_steps,
        n_draws=n_draws,
        seed=seed,
        ablation=options.split_names(ablation or ""),  # type: ignore[arg-type]
        rationale_column=rationale_column or None,
    )
    for method in config.methods:  # before a model is loaded
        ScoringOptions.checked(method, n_steps=n_steps)
    if planted:
        evaluate_planted(
            records, config, output, model=model, shortcuts=options.split_names(shortcuts),
            max_steps=max_steps, resume=resume,
        )  # fmt: skip
        return
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
    tables = run.write_tables()
    notes = list(tables.notes)
    if rationale_column:
        explained = "those of the data" if explain == "label" else "the model's"
        notes.insert(0, f"The explained labels are {explained}.")
    print_summary(tables, omitted, accuracy(examples), notes, output)

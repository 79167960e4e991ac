"""`captum-sig explain`: which words drive what a model makes of a text, for every task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from captum_sig._names import AggregationStrategy, Level, TaskName, WindowLogitsName
from captum_sig.cli import options, tasks, terminal
from captum_sig.cli.inputs import StdinFormat, read_inputs, read_units
from captum_sig.cli.options import (
    EXPLANATION_PANEL,
    GENERATION_PANEL,
    INPUT_PANEL,
    OUTPUT_PANEL,
    TASK_PANEL,
)

Format = Literal["text", "json", "html", "png"]
CLASSIFICATION, *_, GENERATION = get_args(TaskName)
FORMAT_OF_ENDING = {
    ".json": "json", ".jsonl": "json", ".html": "html", ".htm": "html", ".png": "png",
    ".txt": "text",
}  # fmt: skip


@terminal.reporting_errors
def explain(
    command: typer.Context,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXTS",
            help="Texts to explain, or questions; - reads them from stdin, one per line.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        TaskName | None,
        typer.Option(
            metavar="TASK",
            help=f"{', '.join(get_args(TaskName))}; default: what the model was trained for (a "
            "classifier is never taken for zero-shot).",
        ),
    ] = None,
    model: Annotated[str | None, options.MODEL()] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            help="What to explain. Classification: a label (name or index), all, or >0.5 for "
            "every likelier label; default: the predicted one. Answer, filled-in token, or text "
            "after the prompt; default: the model's. Zero-shot: candidates; default: all. Repeat "
            "it for several labels or tokens.",
        ),
    ] = None,
    level: Annotated[Level, options.LEVEL()] = "word",
    seed: Annotated[int, options.SEED()] = 0,
    pair: Annotated[
        list[str] | None,
        INPUT_PANEL(
            metavar="TEXT",
            help="Second text of a pair, for classification and similarity; repeated: several "
            "pairs, or documents that a query is compared with.",
        ),
    ] = None,
    context: Annotated[
        str | None,
        INPUT_PANEL(metavar="TEXT", help="Where questions find their answers."),
    ] = None,
    stdin_format: Annotated[
        StdinFormat | None,
        INPUT_PANEL(
            metavar="FORMAT",
            help="How stdin is written: lines (a text on each), text (all of it is one), tsv (two "
            "texts with a TAB between), or jsonl (text, text_pair; question, context; messages); "
            "default: lines.",
        ),
    ] = None,
    messages: Annotated[
        Path | None,
        INPUT_PANEL(
            metavar="FILE",
            help='JSON file with a chat in place of TEXTS: a list of {"role", "content"}, or '
            '{"messages": such a list}.',
        ),
    ] = None,
    chat: Annotated[
        bool, INPUT_PANEL("--chat", help="Pass each text as a user's message in a chat.")
    ] = False,
    truncation: Annotated[
        bool, INPUT_PANEL(help="Truncate texts that exceed the model's limit, or refuse them.")
    ] = True,
    units: Annotated[
        Path | None,
        INPUT_PANEL(
            metavar="FILE",
            help="JSON file with what moves as one, in place of --level: a list of lists of start, "
            'end and perhaps a name, or of {"start", "end", "name", "side"}, characters of the '
            "text; for several texts a list of such lists, or null for the level.",
        ),
    ] = None,
    method: Annotated[str, options.METHOD(rich_help_panel="Explanation")] = "sig",
    baseline: Annotated[
        list[str],
        options.BASELINE(
            rich_help_panel="Explanation",
            help=f"What replaces a word: {', '.join(options.BASELINES)}; repeat it to average "
            "over several.",
        ),
    ] = ["mask"],  # noqa: B006 – typer copies it
    contexts: Annotated[str | None, options.CONTEXTS(rich_help_panel="Explanation")] = None,
    interactions: Annotated[int | None, options.INTERACTIONS(rich_help_panel="Explanation")] = None,
    smooth: Annotated[
        int | None,
        EXPLANATION_PANEL(
            min=1, metavar="K", help="Average a gradient method over K noisy copies of a text."
        ),
    ] = None,
    noise: Annotated[
        float | None,
        EXPLANATION_PANEL(metavar="S", help="Standard deviation of that noise."),
    ] = None,
    top: Annotated[int | None, options.TOP(rich_help_panel="Explanation")] = None,
    budget: Annotated[int | None, options.BUDGET(rich_help_panel="Explanation")] = None,
    masked_lm: Annotated[str | None, options.MASKED_LM(rich_help_panel="Explanation")] = None,
    n_draws: Annotated[int, options.N_DRAWS(rich_help_panel="Explanation")] = 5,
    stride: Annotated[int | None, options.STRIDE(rich_help_panel="Task")] = None,
    window_logits: Annotated[
        WindowLogitsName | None, options.WINDOW_LOGITS(rich_help_panel="Task")
    ] = None,
    candidates: Annotated[
        list[str] | None,
        TASK_PANEL(metavar="LABELS", help='Zero-shot: candidate labels, as "sports,politics".'),
    ] = None,
    hypothesis_template: Annotated[
        str | None,
        TASK_PANEL(
            metavar="TEXT",
            help='Zero-shot: what is said of a label; default: "This example is {}.".',
        ),
    ] = None,
    multi_label: Annotated[
        bool, TASK_PANEL("--multi-label", help="Zero-shot: several labels may be true.")
    ] = False,
    words: Annotated[
        Literal["text", "both"] | None,
        TASK_PANEL(help="Zero-shot: words of the text only, or of the hypothesis too."),
    ] = None,
    span: Annotated[
        list[str] | None,
        TASK_PANEL(
            metavar="START:END",
            help="Characters of an entity (0:5, or 0:5:PER; repeat it) or of the answer in the "
            "context; default: what the model finds.",
        ),
    ] = None,
    aggregation: Annotated[
        AggregationStrategy | None,
        TASK_PANEL(
            metavar="NAME",
            help="How tokens become entities, as in the pipeline: none, simple, first, average "
            "or max; default: simple.",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        TASK_PANEL(min=1, metavar="K", help="Fill-mask: number of likeliest tokens; default: 5."),
    ] = None,
    pooling: Annotated[
        Literal["mean", "cls"] | None,
        TASK_PANEL(help="Similarity: how tokens become an embedding; default: mean."),
    ] = None,
    similarity: Annotated[
        Literal["cosine", "dot"] | None,
        TASK_PANEL(help="Similarity of two embeddings; default: cosine."),
    ] = None,
    contrast: Annotated[
        str | None,
        GENERATION_PANEL(
            metavar="TEXT", help="Explain why the target follows rather than this text."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        GENERATION_PANEL(
            min=1,
            metavar="N",
            help="Maximum number of tokens to generate without --target; default: 25.",
        ),
    ] = None,
    attribute_target: Annotated[
        bool, GENERATION_PANEL("--attribute-target", help="Attribute to earlier target tokens too.")
    ] = False,
    format: Annotated[
        Format | None,
        OUTPUT_PANEL(
            help="Output format; json: one line per text, png: one text; default: from the ending "
            "of --output, else text."
        ),
    ] = None,
    output: Annotated[Path | None, OUTPUT_PANEL(help="File to write; default: stdout.")] = None,
) -> None:
    """Show which words drove what a model makes of a text: a label, an answer, a continuation.

    A terminal shows the text coloured by score; a file or pipe gets a word and its score per line.
    """
    if model is None or task is not None:
        tasks.check_options(command, task or CLASSIFICATION)
    terminal.check_budget(level, budget)
    format_name = terminal.choose_format(format, output, FORMAT_OF_ENDING)
    terminal.check_output(format_name, output)
    inputs = read_inputs(texts or [], stdin_format=stdin_format, messages=messages, chat=chat)
    if model is None and task not in (None, CLASSIFICATION):
        terminal.fail(f"no model for {task} is included: pass --model with a folder or hub name")
    if task is None:
        task = CLASSIFICATION if model is None else terminal.task_of_model(model)
        tasks.check_options(command, task)
    inputs = tasks.paired(task, inputs, command.params)
    given = command.params | {"units": None if units is None else read_units(units, inputs)}
    explainer = terminal.load_explainer(
        task, model, masked_lm, **tasks.explainer_options(task, command.params)
    )
    results = tasks.TASKS[task].explain(explainer, inputs, given)
    _write(results, format_name, output)


def _write(results: Sequence[Any], format: str, output: Path | None) -> None:
    """Write results to a file, or to stdout, coloured where a terminal can show a score's size."""
    from rich.console import Console

    from captum_sig.viz import terminal_legend

    console = Console(highlight=False)
    has_shades = console.color_system in ("256", "truecolor") and not console.no_color
    if output is None and format == "text" and console.is_terminal and has_shades:
        for result in results:
            console.print(result.to_terminal(console.width, legend=False), end="\n\n")
        console.print(terminal_legend(results))
    else:
        terminal.write(_to_bytes(results, format), output)


def _to_bytes(results: Sequence[Any], format: str) -> bytes:
    from captum_sig import viz

    if format == "png":
        if len(results) != 1:
            raise ValueError(f"a picture shows one text, got {len(results)}: use html for several")
        return results[0].to_png()
    if format == "html":
        return viz.to_page(results).encode()
    if format == "json":
        lines = (
            json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False) for result in results
        )
        return "".join(f"{line}\n" for line in lines).encode()
    return "\n".join(f"{result}\n" for result in results).encode()

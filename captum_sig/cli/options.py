"""Options that several commands share; choices come from `captum_sig._names`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import typer

from captum_sig._names import (
    CONTEXTS_NAMES,
    METHODS_IN_CONTEXTS,
    WITHOUT,
    AblationName,
    BaselineName,
    MethodName,
    MetricName,
    PathName,
    SequentialMethodName,
    ShortcutName,
    TruthMetricName,
    sampled_number,
    suggestion,
    words_only,
)
from captum_sig._numbers import MAX_BACKGROUNDS, MAX_N_DRAWS, MAX_N_STEPS, checked_integer

METHODS, SEQUENTIAL = get_args(MethodName), get_args(SequentialMethodName)
ABLATIONS = get_args(AblationName)
SHORTCUTS = get_args(ShortcutName)
BASELINES, METRICS, PATHS = get_args(BaselineName), get_args(MetricName), get_args(PathName)
TRUTH_METRICS = get_args(TruthMetricName)

# Options in a panel of the help.
CLASSIFICATION_PANEL = partial(typer.Option, rich_help_panel="Classification")
EXPLANATION_PANEL = partial(typer.Option, rich_help_panel="Explanation")
GENERATION_PANEL = partial(typer.Option, rich_help_panel="Generation")
INPUT_PANEL = partial(typer.Option, rich_help_panel="Input")
METRICS_PANEL = partial(typer.Option, rich_help_panel="Metrics")
PLANTED_PANEL = partial(typer.Option, rich_help_panel="Planted words")
OUTPUT_PANEL = partial(typer.Option, rich_help_panel="Output")
RAY_PANEL = partial(typer.Option, rich_help_panel="Ray")
TASK_PANEL = partial(typer.Option, rich_help_panel="Task")


def split_names(value: str) -> tuple[str, ...]:
    """Split a comma-separated option into names."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _check_choice(value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise typer.BadParameter(
            f"{value!r} is not one of {', '.join(map(repr, choices))}{suggestion(value, choices)}."
        )


def _check_contexts(value: str) -> None:
    number = sampled_number(value)
    if number is None:
        _check_choice(value, CONTEXTS_NAMES)
        return
    try:
        checked_integer("the number of sampled contexts", number, most=MAX_BACKGROUNDS)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from error


def _check_method(value: str) -> None:
    """Accept `name`, and `name:contexts` for methods that move one word at a time."""
    name, colon, contexts = value.partition(":")
    if name not in METHODS:
        _check_choice(value, (*METHODS, *METHODS_IN_CONTEXTS))
    if colon and name not in SEQUENTIAL:
        takers = " and ".join(SEQUENTIAL)
        raise typer.BadParameter(f"{name} does not take contexts; only {takers} do.")
    if colon:
        _check_contexts(contexts)
    if (name, contexts) in WITHOUT:
        raise typer.BadParameter(f"{words_only(name, contexts)}.")


def _check_interactions(value: int | None) -> int | None:
    if value is not None and value < 2:
        raise typer.BadParameter(f"an interaction takes two words: K is at least 2, not {value}.")
    if value is not None and value > sys.maxsize:
        raise typer.BadParameter(f"no text has so many words: K is at most {sys.maxsize}.")
    return value


def _names_option(
    check: Callable[[str], None], names: Sequence[str], *, several: bool = False
) -> dict[str, Any]:
    """Make the arguments of `typer.Option` that check one or several names and complete them."""

    def parse(value: str) -> str:
        for name in split_names(value) if several else [value]:
            check(name)
        return value

    def complete(incomplete: str) -> list[str]:
        earlier, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        return [f"{earlier}{comma}{name}" for name in names if name.startswith(last)]

    metavar = "NAME,…" if several else "NAME"
    return {"parser": parse, "autocompletion": complete, "metavar": metavar}


_CHECK_BASELINE = partial(_check_choice, choices=BASELINES)
_CHECK_METRIC = partial(_check_choice, choices=(*METRICS, *TRUTH_METRICS))
_CHECK_ABLATION = partial(_check_choice, choices=ABLATIONS)

# Each takes further arguments of `typer.Option`, such as the panel of the help.
MODEL = partial(
    typer.Option, metavar="MODEL", help="Model folder or hub name; default: the demo classifier."
)
METHOD = partial(
    typer.Option,
    help=f"Attribution method: {', '.join(METHODS)}. {' and '.join(SEQUENTIAL)} also take "
    "contexts: sig:two_sided.",
    **_names_option(_check_method, METHODS),
)
METHODS_OPTION = partial(
    typer.Option,
    help="Methods to compare, as in explain; the first is the reference.",
    **_names_option(_check_method, METHODS, several=True),
)
PATH_METHOD = partial(typer.Option, **_names_option(partial(_check_choice, choices=PATHS), PATHS))
CONTEXTS = partial(
    typer.Option,
    help="Background for the other words: input, two_sided, auto, or sampled16 (up to 10000).",
    **_names_option(_check_contexts, CONTEXTS_NAMES),
)
INTERACTIONS = partial(
    typer.Option,
    callback=_check_interactions,
    metavar="K",
    help="Show which two of the K strongest words act together: they say the same, matter only "
    "together, or one turns the other (negation).",
)
BASELINE = partial(
    typer.Option,
    help=f"What replaces a word: {', '.join(BASELINES)}.",
    **_names_option(_CHECK_BASELINE, BASELINES),
)
BASELINES_OPTION = partial(
    typer.Option,
    help=f"Baselines to compare: {', '.join(BASELINES)}.",
    **_names_option(_CHECK_BASELINE, BASELINES, several=True),
)
METRICS_OPTION = partial(
    typer.Option,
    help=f"Metrics to report: {', '.join(METRICS)}; against known words also "
    f"{', '.join(TRUTH_METRICS)}.",
    **_names_option(_CHECK_METRIC, (*METRICS, *TRUTH_METRICS), several=True),
)
ABLATIONS_OPTION = partial(
    typer.Option,
    help="What the metrics do with the words that they delete, one kind or several side by side: "
    "replace puts a token at a word's embedding and keeps positions and pooling, remove deletes "
    "the word, sample writes others in its place as --masked-lm would; default: what each "
    "metric's authors do.",
    **_names_option(_CHECK_ABLATION, ABLATIONS, several=True),
)
SHORTCUTS_OPTION = partial(
    typer.Option,
    help=f"With --planted: {', '.join(SHORTCUTS)}.",
    **_names_option(partial(_check_choice, choices=SHORTCUTS), SHORTCUTS, several=True),
)
MASKED_LM = partial(
    typer.Option,
    metavar="MODEL",
    help="Masked language model (folder or hub name) for --baseline blurred.",
)
N_DRAWS = partial(
    typer.Option,
    min=1,
    max=MAX_N_DRAWS,
    help="Draws of a random baseline; scores are averaged over them.",
)
SEED = partial(typer.Option, min=0, help="Random seed.")
LEVEL = partial(
    typer.Option,
    help="What moves as one and gets a score: a word, a token, a sentence, a paragraph, or (of a "
    "chat) a message; auto goes from the coarsest down to the words that matter.",
)
TEXT_LEVEL = partial(typer.Option, help="What moves as one and gets a score.")
BUDGET = partial(
    typer.Option,
    min=1,
    max=sys.maxsize,
    metavar="N",
    help="With --level auto: the most rows that the model is evaluated at for a text.",
)
STRIDE = partial(
    typer.Option,
    min=0,
    max=sys.maxsize,
    metavar="N",
    help="Read texts beyond the classifier's limit in windows that overlap by N tokens.",
)
WINDOW_LOGITS = partial(
    typer.Option,
    metavar="NAME",
    help="With --stride: a label's logit is the mean (default) or max of the windows' logits.",
)
N_STEPS = partial(typer.Option, min=1, max=MAX_N_STEPS, help="Integration steps of ig.")
TARGET_LABEL = partial(
    typer.Option,
    metavar="LABEL",
    help="Label to explain (name or index); default: the predicted label.",
)
LIMIT = partial(typer.Option, max=sys.maxsize, help="Read only the first N texts.", metavar="N")
TOP = partial(
    typer.Option,
    min=1,
    metavar="M",
    help="Explain the M strongest words exactly, estimate the others (method sig; long texts).",
)
TEXT_COLUMN = partial(typer.Option, help="Column of the texts; default: guessed.")
PAIR_COLUMN = partial(
    typer.Option,
    help="Column of the second texts of pairs; default: text_pair if there is one; '' reads none.",
)
TARGETS = partial(
    typer.Option,
    metavar="LABEL",
    help="Label to explain (name or index), repeated for several; all; or '>0.5' for labels above "
    "that probability. Default: the predicted label.",
)

"""The command line: arguments in, calls to the explainers, results out. No logic of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_sig import __version__, terminal, viz
from captum_sig.evaluate_command import evaluate
from captum_sig.options import BASELINE, DRAWS, LEVEL, MASKED_LM, METHOD, MODEL, SEED
from captum_sig.trace_command import trace

if TYPE_CHECKING:
    from rich.console import Console

    from captum_sig.result import WordAttribution

app = typer.Typer(
    name="captum-sig",
    help="Explain language models with Sequential Integrated Gradients.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Explain language models with Sequential Integrated Gradients."""


@app.command(no_args_is_help=True)
def explain(
    texts: Annotated[
        list[str], typer.Argument(help="Texts to explain; - reads one text per line from stdin.")
    ],
    model: Annotated[str | None, MODEL] = None,
    target: Annotated[
        str | None, typer.Option(help="Label to explain, name or index; default: the predicted.")
    ] = None,
    method: Annotated[str, METHOD] = "sig",
    contexts: Annotated[
        str | None,
        typer.Option(help="What the others are while a word moves: input, two_sided or sampled16."),
    ] = None,
    baseline: Annotated[str, BASELINE] = "mask",
    masked_lm: Annotated[str | None, MASKED_LM] = None,
    draws: Annotated[int, DRAWS] = 5,
    seed: Annotated[int, SEED] = 0,
    level: Annotated[str, LEVEL] = "word",
    format: Annotated[
        str | None,
        typer.Option(help="text, json (a line per text) or html; default: as --output ends."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; default: stdout.")] = None,
    truncate: Annotated[
        bool, typer.Option(help="Cut texts beyond the model's limit, or refuse them.")
    ] = True,
) -> None:
    """Say which words made a text classifier decide as it did.

    A terminal gets the text coloured by score; a file or pipe gets lines `word score`.
    """
    format = format or ENDINGS.get(output.suffix if output else "", "text")
    if format not in FORMATS:
        terminal.fail(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    with terminal.told():
        lines = [line for text in texts for line in (_stdin_lines() if text == "-" else [text])]
        (explainer,) = terminal.explainers(
            model, [baseline], masked_lm, level=level, n_draws=draws, seed=seed
        )
        results = explainer(
            lines, target=target, method=method, contexts=contexts, truncation=truncate
        )
        _write(results, format, output)


app.command(no_args_is_help=True)(evaluate)
app.command(no_args_is_help=True)(trace)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Compare speed, accuracy and memory with other implementations (needs a checkout)."""
    import importlib

    roots = [Path.cwd(), Path(__file__).parents[1]]
    root = next((one for one in roots if (one / "tests/benchmarks/__main__.py").is_file()), None)
    if root is None:
        terminal.fail(
            "the benchmark is no part of the installed package: run this in a checkout of the "
            "project, where tests/benchmarks is"
        )
    sys.path.insert(0, str(root))
    try:
        importlib.import_module("tests.benchmarks.__main__").main(context.args)
    finally:
        sys.path.remove(str(root))


def _as_text(results: Sequence[WordAttribution]) -> str:
    return "\n".join(viz.to_plain(result) + "\n" for result in results)


def _as_json(results: Sequence[WordAttribution]) -> str:
    return "".join(json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in results)


FORMATS: dict[str, Callable[[Sequence[WordAttribution]], str]] = {
    "text": _as_text,
    "json": _as_json,
    "html": viz.to_page,
}


ENDINGS = {".json": "json", ".jsonl": "json", ".html": "html", ".htm": "html"}


def _write(results: Sequence[WordAttribution], format: str, output: Path | None) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if output is not None:
        output.write_text(FORMATS[format](results), encoding="utf-8")
    elif format == "text" and console.is_terminal and _has_shades(console):
        for result in results:
            console.print(viz.to_terminal(result), end="\n\n")
    else:
        sys.stdout.write(FORMATS[format](results))


def _has_shades(console: Console) -> bool:
    """Fewer colours than 256 cannot show for, against and how much."""
    return console.color_system in ("256", "truecolor") and not console.no_color


def _stdin_lines() -> list[str]:
    text = sys.stdin.read().removeprefix("\ufeff")
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []

"""The command line: arguments in, calls to the explainers, results out. No logic of its own."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from captum_sig import __version__, viz

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
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of a text classifier; default: the demo model."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Label to explain, name or index; default: the predicted.")
    ] = None,
    method: Annotated[str, typer.Option(help="sig (exact word scores) or ig.")] = "sig",
    baseline: Annotated[
        str, typer.Option(help="What a word is replaced by: mask, pad, unk or eos.")
    ] = "mask",
    level: Annotated[str, typer.Option(help="word or token.")] = "word",
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
    if model is not None and model.startswith((".", "/", "~")) and not Path(model).is_dir():
        _fail(f"there is no folder {model}")
    if format not in FORMATS:
        _fail(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            lines = [line for text in texts for line in (_stdin_lines() if text == "-" else [text])]
            results = _explainer(model, baseline, level)(
                lines, target=target, method=method, truncation=truncate
            )
            _write(results, format, output)
        except BrokenPipeError:
            raise  # the reader has seen enough: typer ends quietly
        except (ValueError, OSError, FloatingPointError) as error:
            _fail(str(error))


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
        _fail(
            "the benchmark is no part of the installed package: run this in a checkout of the "
            "project, where tests/benchmarks is"
        )
    sys.path.insert(0, str(root))
    try:
        importlib.import_module("tests.benchmarks.__main__").main(context.args)
    finally:
        sys.path.remove(str(root))


def _explainer(model: str | None, baseline: str, level: str):  # type: ignore[no-untyped-def]
    from transformers.utils import logging

    from captum_sig.demo_model import PATH
    from captum_sig.text import TextClassificationExplainer

    logging.disable_progress_bar()  # a bar over 0.1 s of loading hides the answer
    logging.set_verbosity_error()
    return TextClassificationExplainer.from_pretrained(
        PATH if model is None else model, baseline=baseline, level=level
    )


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


def _show_warning(message: Warning | str, *args: object) -> None:
    typer.echo(f"captum-sig: warning: {message}", err=True)


def _fail(message: str) -> None:
    typer.echo(f"captum-sig: {message}", err=True)
    raise typer.Exit(2)

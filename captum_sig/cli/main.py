"""The command line: arguments in, calls to the explainers, results out. No logic of its own."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from captum_sig.cli import terminal
from captum_sig.cli.corpus import corpus
from captum_sig.cli.evaluate import evaluate
from captum_sig.cli.explain import explain
from captum_sig.cli.report import report
from captum_sig.cli.trace import trace

app = typer.Typer(
    name="captum-sig",
    help="Explain language models with Sequential Integrated Gradients.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("captum_sig"))
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


app.command(no_args_is_help=True)(explain)
app.command(no_args_is_help=True)(evaluate)
app.command(no_args_is_help=True)(corpus)
app.command(no_args_is_help=True)(report)
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

"""The command `captum-sig` and its subcommands."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from captum_sig.cli import terminal
from captum_sig.cli.corpus import corpus
from captum_sig.cli.evaluate import evaluate
from captum_sig.cli.explain import explain
from captum_sig.cli.report import report
from captum_sig.cli.trace import trace


class Commands(TyperGroup):
    """Subcommands; a text in place of one is answered with the command that explains it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and re.search(r"[^\w-]", args[0]) and not ctx.resilient_parsing:
            quoted = " ".join(map(_quoted, args))
            terminal.fail(f"no such command; did you mean: captum-sig explain {quoted}?")
        return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """A subcommand that reports a file name with a null byte as a wrong value, in every typer."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx) from error


def _quoted(argument: str) -> str:
    """Quote an argument for a shell, in double quotes where these suffice.

    >>> print(_quoted("It's not good."), _quoted("two words"), _quoted("it's $5"))
    "It's not good." 'two words' 'it'"'"'s $5'
    """
    simple = "'" in argument and not re.search(r'["$`\\!]', argument)
    return f'"{argument}"' if simple else shlex.quote(argument)


app = typer.Typer(
    name="captum-sig",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='Example: captum-sig explain "The plot is thin, but the acting is superb."',
)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(version("captum_sig"))
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


EXAMPLES: dict[Any, str] = {
    explain: 'captum-sig explain "It\'s not good." --output out.html',
    evaluate: "captum-sig evaluate reviews.tsv --methods ig,sig --output results",
    corpus: "captum-sig corpus reviews.tsv --target POSITIVE --output explained",
    report: "captum-sig report explained --terms protected.txt",
    trace: 'captum-sig trace "The acting is superb." --method ig --baseline pad',
}
for command, example in EXAMPLES.items():
    app.command(cls=Command, no_args_is_help=True, epilog=f"Example: {example}")(command)

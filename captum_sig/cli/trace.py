"""`captum-sig trace`: the sentences on a path from a baseline to a text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from captum_sig._names import TextLevel
from captum_sig.cli import options, terminal
from captum_sig.cli.options import OUTPUT_PANEL

if TYPE_CHECKING:
    from captum_sig.path import TextTrace

Format = Literal["text", "json", "png"]
FORMAT_OF_ENDING = {".json": "json", ".png": "png", ".txt": "text"}
PLAIN_WIDTH = 80  # columns of a table in a file


@terminal.reporting_errors
def trace(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text to which the path leads.")],
    model: Annotated[str | None, options.MODEL()] = None,
    target: Annotated[str | None, options.TARGET_LABEL()] = None,
    method: Annotated[
        str,
        options.PATH_METHOD(
            help="Path: ig (all words at once, on a straight line), dig (from word to word), sig "
            "or sequential_dig (likewise, but one word at a time)."
        ),
    ] = "ig",
    baseline: Annotated[str, options.BASELINE()] = "mask",
    n_steps: Annotated[
        int | None,
        options.N_STEPS(help="Steps of ig and sig; default: 50.", show_default=False),
    ] = None,
    masked_lm: Annotated[str | None, options.MASKED_LM()] = None,
    seed: Annotated[int, options.SEED()] = 0,
    level: Annotated[TextLevel, options.TEXT_LEVEL()] = "word",
    format: Annotated[
        Format | None,
        OUTPUT_PANEL(help="Output format; default: from the ending of --output, else text."),
    ] = None,
    output: Annotated[
        Path | None, OUTPUT_PANEL(help="File to write (.txt, .json or .png); default: stdout.")
    ] = None,
) -> None:
    """Show the path from a baseline to a text: outputs, running integral, nearest tokens.

    Each line is a point of the path: the output F, the sum of gradient · step so
    far, and the token nearest to each position. A terminal dims tokens that
    differ from the text.
    """
    format_name = terminal.choose_format(format, output, FORMAT_OF_ENDING)
    terminal.check_output(format_name, output)
    (explainer,) = terminal.load_classifiers(model, [baseline], masked_lm, level=level, seed=seed)
    result = explainer.trace(text, target, method, n_steps=n_steps)
    if output is None and format_name == "text":
        _print_table(result)
    else:
        terminal.write(_to_bytes(result, format_name), output)


def _print_table(result: TextTrace, **console_options: object) -> None:
    from rich.console import Console

    from captum_sig.viz.trace import to_terminal

    Console(highlight=False, **console_options).print(to_terminal(result))  # type: ignore[arg-type]


def _to_bytes(result: TextTrace, format: str) -> bytes:
    if format == "png":
        from captum_sig.viz.trace import to_png

        return to_png(result)
    if format == "json":
        line = json.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"
        return re.sub("[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", line).encode()  # controls
    import io

    text = io.StringIO()
    _print_table(result, file=text, width=PLAIN_WIDTH, color_system=None)
    return text.getvalue().encode()

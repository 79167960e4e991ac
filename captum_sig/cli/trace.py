"""`captum-sig trace`: the sentences that a model is asked about on a path to the text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from captum_sig.cli import terminal
from captum_sig.cli.options import BASELINE, LEVEL, MASKED_LM, MODEL, SEED
from captum_sig.path import TextTrace

PLAIN_WIDTH = 80  # of a table in a file


def trace(
    text: Annotated[str, typer.Argument(help="Text whose path is shown.")],
    model: Annotated[str | None, MODEL] = None,
    target: Annotated[
        str | None, typer.Option(help="Label to follow, name or index; default: the predicted.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="ig or dig (all words at once, straight or from word to word), sig or "
            "sequential_dig (likewise, one word at a time)."
        ),
    ] = "ig",
    baseline: Annotated[str, BASELINE] = "mask",
    n_steps: Annotated[
        int | None, typer.Option(help="Steps of ig and sig; default: 50.", show_default=False)
    ] = None,
    masked_lm: Annotated[str | None, MASKED_LM] = None,
    seed: Annotated[int, SEED] = 0,
    level: Annotated[str, LEVEL] = "word",
    format: Annotated[
        str | None, typer.Option(help="text, json or png; default: as --output ends.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write: .json, .png or .txt; default: stdout.")
    ] = None,
) -> None:
    """Show which sentences a model is asked about on the way from a baseline to a text.

    At points of the path: F, the sum of gradient · step so far, and the nearest tokens of what
    stands at each position; words that are not the text's are dim on a terminal.
    """
    chosen = _format(format, output)
    with terminal.reporting_errors():
        from captum_sig.path import path_named

        path_named(method)  # before a model is loaded
        (explainer,) = terminal.explainers(model, [baseline], masked_lm, level=level, seed=seed)
        result = explainer.trace(text, target, method, n_steps=n_steps)
        if output is not None:
            output.write_bytes(FORMATS[chosen](result))
        elif chosen == "text":
            _print(result)
        else:
            sys.stdout.write(FORMATS[chosen](result).decode())


def _format(format: str | None, output: Path | None) -> str:
    """The one that is asked for, or that the file's name tells."""
    if format is None and output is not None and output.suffix.lower() not in ENDINGS:
        terminal.fail(
            f"{output} has no ending of {', '.join(ENDINGS)}: name the file so, or pass --format"
        )
    chosen = format or ("text" if output is None else ENDINGS[output.suffix.lower()])
    return terminal.checked_format(chosen, FORMATS, output)


def _print(result: TextTrace) -> None:
    from rich.console import Console

    from captum_sig.viz.trace import to_terminal

    Console(highlight=False).print(to_terminal(result))


def _as_text(result: TextTrace) -> bytes:
    import io

    from rich.console import Console

    from captum_sig.viz.trace import to_terminal

    stream = io.StringIO()
    Console(file=stream, width=PLAIN_WIDTH, highlight=False, color_system=None).print(
        to_terminal(result)
    )
    return stream.getvalue().encode()


def _as_json(result: TextTrace) -> bytes:
    text = json.dumps(result.to_dict(), ensure_ascii=False) + "\n"
    return re.sub("[\x7f-\x9f]", lambda c: f"\\u{ord(c[0]):04x}", text).encode()  # controls


def _as_png(result: TextTrace) -> bytes:
    from captum_sig.viz.trace import to_png

    return to_png(result)


FORMATS: dict[str, Callable[[TextTrace], bytes]] = {
    "text": _as_text,
    "json": _as_json,
    "png": _as_png,
}
ENDINGS = {".json": "json", ".png": "png", ".txt": "text"}

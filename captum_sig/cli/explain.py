"""`captum-sig explain`: why a classifier gave its label, or a language model its text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_sig import viz
from captum_sig.cli import terminal
from captum_sig.cli.options import (
    ATTRIBUTE_TARGET,
    BASELINE,
    CHAT,
    CONTEXTS,
    CONTRAST,
    DRAWS,
    FORMAT,
    LEVEL,
    MASKED_LM,
    MAX_NEW_TOKENS,
    METHOD,
    MODEL,
    SEED,
    TARGET,
    TEXTS,
    TRUNCATE,
)
from captum_sig.viz import heatmap

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from captum_sig.explainers.results import GenerationAttribution, WordAttribution


CLASSIFICATION, GENERATION = "text-classification", "text-generation"

# Options that one of the tasks alone has.
ONLY = {
    CLASSIFICATION: {"method", "contexts", "masked_lm", "draws", "seed", "truncate"},
    GENERATION: {"contrast", "max_new_tokens", "attribute_target", "chat"},
}


def explain(
    context: typer.Context,
    texts: Annotated[list[str], TEXTS],
    task: Annotated[str, typer.Option(help=f"{CLASSIFICATION} or {GENERATION}.")] = CLASSIFICATION,
    model: Annotated[str | None, MODEL] = None,
    target: Annotated[str | None, TARGET] = None,
    contrast: Annotated[str | None, CONTRAST] = None,
    max_new_tokens: Annotated[int | None, MAX_NEW_TOKENS] = None,
    attribute_target: Annotated[bool, ATTRIBUTE_TARGET] = False,
    chat: Annotated[bool, CHAT] = False,
    method: Annotated[str, METHOD] = "sig",
    contexts: Annotated[str | None, CONTEXTS] = None,
    baseline: Annotated[str, BASELINE] = "mask",
    masked_lm: Annotated[str | None, MASKED_LM] = None,
    draws: Annotated[int, DRAWS] = 5,
    seed: Annotated[int, SEED] = 0,
    level: Annotated[str, LEVEL] = "word",
    format: Annotated[str | None, FORMAT] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; default: stdout.")] = None,
    truncate: Annotated[bool, TRUNCATE] = True,
) -> None:
    """Say which words made a classifier decide as it did, or a language model write as it did.

    A terminal gets the text coloured by score; a file or pipe gets lines `word score`.
    """
    _check_task(context, task)
    view = VIEWS[task]
    chosen = view.format(format, output)
    with terminal.reporting_errors():
        lines = [line for text in texts for line in (_stdin_lines() if text == "-" else [text])]
        if task == CLASSIFICATION:
            (classifier,) = terminal.explainers(
                model, [baseline], masked_lm, level=level, n_draws=draws, seed=seed
            )
            results: list[Any] = classifier(
                lines, target=target, method=method, contexts=contexts, truncation=truncate
            )
        else:
            generator = terminal.generator(model, baseline=baseline, level=level)
            results = generator(
                [[{"role": "user", "content": line}] for line in lines] if chat else lines,
                target, {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens},
                contrast=contrast, attribute_target=attribute_target,
            )  # fmt: skip
        view.write(results, chosen, output)


def _check_task(context: typer.Context, task: str) -> None:
    if task not in ONLY:
        terminal.fail(f"task {task!r} is unknown: use one of {', '.join(ONLY)}")
    for other, names in ONLY.items():
        for name in sorted(names if other != task else ()):
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                terminal.fail(f"--{name.replace('_', '-')} is for {other} only: leave it out")


class View:
    """How results of a task are shown: by format, and coloured on a terminal."""

    def __init__(
        self,
        formats: Mapping[str, Callable[[Sequence[Any]], bytes]],
        endings: Mapping[str, str],
        on_terminal: Callable[[Any, int], RenderableType],
    ) -> None:
        """Take the parts."""
        self.formats, self.endings, self.on_terminal = formats, endings, on_terminal

    def format(self, format: str | None, output: Path | None) -> str:
        """The one that is asked for, or that the file's name tells."""
        ending = output.suffix.lower() if output else ""
        if format is None and ending == ".png" and ending not in self.endings:
            terminal.fail(f"a picture is for {GENERATION}: use html")
        chosen = format or self.endings.get(ending, "text")
        return terminal.checked_format(chosen, self.formats, output)

    def write(self, results: Sequence[Any], format: str, output: Path | None) -> None:
        """To the file, or to where stdout leads."""
        from rich.console import Console

        console = Console(highlight=False)
        if output is not None:
            output.write_bytes(self.formats[format](results))
        elif format == "text" and console.is_terminal and _has_shades(console):
            for result in results:
                console.print(self.on_terminal(result, console.width), end="\n\n")
        else:
            sys.stdout.write(self.formats[format](results).decode())


def _as_json(results: Sequence[Any]) -> bytes:
    return "".join(json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in results).encode()


def _classified_text(results: Sequence[WordAttribution]) -> bytes:
    return "\n".join(viz.to_plain(result) + "\n" for result in results).encode()


def _classified_html(results: Sequence[WordAttribution]) -> bytes:
    return viz.to_page(results).encode()


def _generated_text(results: Sequence[GenerationAttribution]) -> bytes:
    return "\n".join(heatmap.to_plain(result) + "\n" for result in results).encode()


def _generated_html(results: Sequence[GenerationAttribution]) -> bytes:
    return heatmap.to_page(results).encode()


def _generated_png(results: Sequence[GenerationAttribution]) -> bytes:
    if len(results) != 1:
        raise ValueError(f"a picture shows one prompt, got {len(results)}: use html for several")
    return heatmap.to_png(results[0])


ENDINGS = {".json": "json", ".jsonl": "json", ".html": "html", ".htm": "html"}
VIEWS = {
    CLASSIFICATION: View(
        {"text": _classified_text, "json": _as_json, "html": _classified_html},
        ENDINGS,
        lambda result, width: viz.to_terminal(result),
    ),
    GENERATION: View(
        {
            "text": _generated_text,
            "json": _as_json,
            "html": _generated_html,
            "png": _generated_png,
        },
        {**ENDINGS, ".png": "png"},
        heatmap.to_terminal,
    ),
}


def _has_shades(console: Console) -> bool:
    """Fewer colours than 256 cannot show for, against and how much."""
    return console.color_system in ("256", "truecolor") and not console.no_color


def _stdin_lines() -> list[str]:
    text = sys.stdin.read().removeprefix("\ufeff")
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []

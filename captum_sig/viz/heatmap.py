"""Show prompt words by target tokens: tables for terminals and files, HTML with hover, a picture.

Works on anything with the fields of `Result`. Whatever comes from a text or a model is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from captum_sig.viz import arcs
from captum_sig.viz.agreement import residual_line, side_cells, terminal_legend
from captum_sig.viz.text import (
    AGAINST,
    FOR,
    WHITE,
    coloured,
    empty_table,
    on_one_line,
    render,
    shades,
    shortened,
    style,
    visible,
)
from captum_sig.viz.text import Result as TextResult
from captum_sig.viz.text import to_png as figure_to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group, RenderableType
    from rich.table import Table
    from torch import Tensor


# Widths in a terminal, in characters; longer words are cut, longer tokens folded.
WORD_WIDTH, TOKEN_WIDTH, COLUMN_GAP = 16, 14, 3
CELL, LETTER, MAX_SIDE = 0.3, 0.08, 40  # inches in a picture: a row or column, a letter, a side
MAX_LABEL = 30  # characters of a label in a picture

# What a picture shows for the pictures of control characters, which its font lacks.
IN_FONT = {0x2400 + code: f"^{chr(64 + code)}" for code in range(32)}
IN_FONT |= str.maketrans({"␠": "␣", "␊": "⏎", "␉": "⇥"})


class Result(TextResult, Protocol):
    """A prompt with its words, and the effect of each word on each target token, in nats."""

    @property
    def target(self) -> str: ...
    @property
    def contrast(self) -> str | None: ...
    @property
    def rows(self) -> Sequence[str]: ...
    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def matrix(self) -> Tensor: ...
    @property
    def sequence_scores(self) -> Tensor: ...
    @property
    def log_probabilities(self) -> Tensor: ...


def label(token: str) -> str:
    """Return a token on one line, without spaces around it unless it is only spaces."""
    return on_one_line(token.strip(" ") or token).strip(" ") or "␠"


def _targets(result: Result) -> Iterator[str]:
    yield f"target: {result.target}"
    if result.contrast is not None:
        yield f"contrast: {result.contrast}"


def residual_of(result: Result) -> str | None:
    """Return what the sums add up to beyond the effect of the whole prompt; None if unknown."""
    return residual_line(result.sequence_scores.tolist(), getattr(result, "residual", None))


def to_plain(result: Result) -> str:
    """Return the summary, the target, and a tab-separated table: words, sums, each token.

    If words have both sides, two more columns hold a word's effects alone and in the text, and a
    third whether they agree. Words that act together have a line each after the table.
    """
    summary = "  ".join(filter(None, [result.summary, residual_of(result)]))
    rows = [["word", "sum", *map(label, result.rows)]]
    for name, total, column in zip(
        result.columns, result.sequence_scores.tolist(), result.matrix.T.tolist(), strict=True
    ):
        rows.append([label(name), *(f"{value:+.4f}" for value in [total, *column])])
    cells = [side_cells(word) for word in result.words]
    if any(map(any, cells)):
        cells += [("", "", "")] * (len(result.columns) - len(cells))  # earlier tokens of the target
        for row, more in zip(rows, [["alone", "in the text", "agreement"], *cells], strict=True):
            row += more
    lines = [on_one_line(line) for line in (summary, *_targets(result))]
    pairs = [on_one_line(line) for line, _ in arcs.lines(result)]
    return "\n".join([*lines, *map("\t".join, rows), *pairs])


def to_terminal(result: Result, width: int, *, legend: bool = True) -> Group:
    """Return the prompt coloured by effect on the whole target, and the heat map, for `rich`.

    Words that act together have a line each between both. A heat map of more than `width`
    characters is split into several tables. `legend` says what lines under words mean.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [coloured(result)]
    parts += [Text(visible(line)) for line in _targets(result)]
    parts.append(Text(visible(result.summary), "bold"))
    if residual := residual_of(result):
        parts.append(Text(residual))
    parts += [Text(visible(line), colour) for line, colour in arcs.lines(result)]
    if legend and (lines := terminal_legend([result])):
        parts.append(lines)
    for tokens in _panels(result, width):
        parts += ["", _table(result, tokens)]
    return Group(*parts)


def _panels(result: Result, width: int) -> Iterator[range]:
    """Split the target's tokens so that each part fits beside the words and their sums."""
    available = width - WORD_WIDTH - _width(result.sequence_scores.tolist()) - 2 * COLUMN_GAP
    start, used = 0, 0
    for number, name in enumerate(result.rows):
        values = _width(result.matrix[number].tolist())
        column = max(values, min(TOKEN_WIDTH, len(label(name)))) + COLUMN_GAP
        if used and used + column > available:
            yield range(start, number)
            start, used = number, 0
        used += column
    yield range(start, len(result.rows))


def _width(values: Sequence[float]) -> int:
    return max(len(f"{value:+.2f}") for value in values)


def _table(result: Result, tokens: range) -> Table:
    """Make a table with a line for each word: its sum, and these tokens of the target."""
    from rich.text import Text

    table = empty_table()
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=WORD_WIDTH)
    for name in ("sum", *(label(result.rows[t]) for t in tokens)):
        table.add_column(Text(name), justify="right", overflow="fold", max_width=TOKEN_WIDTH)
    totals = result.sequence_scores.tolist()
    total_colours = shades(totals)
    for number, name in enumerate(result.columns):
        values = [totals[number], *result.matrix[tokens, number].tolist()]
        colours = [total_colours[number], *shades(values[1:], strongest(result))]
        cells = [Text(f"{v:+.2f}", style(c)) for v, c in zip(values, colours, strict=True)]
        table.add_row(Text(label(name)), *cells)
    return table


def strongest(result: Result) -> float:
    """Return the largest absolute effect, which has the full colour."""
    return float(result.matrix.abs().max()) or 1.0


def to_html(result: Result) -> str:
    """Return a fragment: hover over a target token to colour the prompt, a cell for its value."""
    return render(
        "heatmap.html", result=result, label=label, strongest=strongest, residual_of=residual_of,
        is_alone=True,
    )  # fmt: skip


LEGEND = (
    "the target; the prompt is coloured by the effect on the whole target. Hover over a target "
    "token (after the arrow) for its own effects, over a word or cell for its value in natural-log "
    "probabilities."
)


def to_page(results: Iterable[Result]) -> str:
    """Return a self-contained HTML page with every result."""
    return render(
        "page.html", fragment="heatmap.html", results=list(results), legend=LEGEND,
        label=label, strongest=strongest, residual_of=residual_of,
    )  # fmt: skip


def to_png(result: Result) -> bytes:
    """Draw `to_figure`."""
    return figure_to_png(to_figure(result), bbox_inches="tight")  # labels may be long


def _picture_label(token: str) -> str:
    return shortened(label(token).translate(IN_FONT), MAX_LABEL)


def to_figure(result: Result) -> Figure:
    """Return the heat map: target tokens from top to bottom, prompt words from left to right."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    columns = [_picture_label(name) for name in result.columns]
    rows = [_picture_label(name) for name in result.rows]
    width, height = (min(MAX_SIDE, CELL * len(names)) for names in (columns, rows))
    labels = LETTER * max(map(len, columns))  # below the map
    figure = Figure(figsize=(max(6, width + 3), max(3, height + 1) + labels), layout="constrained")
    axes = figure.add_subplot()
    colours = [tuple(part / 255 for part in colour) for colour in (AGAINST, WHITE, FOR)]
    limit = strongest(result)
    image = axes.imshow(
        result.matrix.numpy(), aspect="auto", vmin=-limit, vmax=limit,
        cmap=LinearSegmentedColormap.from_list("against and for", colours),
    )  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(on_one_line(result.summary), fontsize=10, loc="left", parse_math=False)
    figure.colorbar(image, label="effect on log p (nats)", fraction=0.05, pad=0.01)
    return figure

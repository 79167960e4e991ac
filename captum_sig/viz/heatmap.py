"""Prompt words by target tokens: tables for terminals and files, HTML with hover, a picture.

Works on anything with the fields of `Result`. Everything that comes from a text or a model is
escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from captum_sig.viz.text import (
    AGAINST,
    FOR,
    coloured,
    mark,
    on_one_line,
    page,
    pieces,
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


WORD = 16  # most characters of a terminal's first column
TOKEN = 14  # most of a token's; longer ones are folded
BETWEEN = 3  # between columns
UNIT = "nats"  # of natural-log probabilities
INCH, LETTER = 0.3, 0.08  # of a picture: for a row or a column, for a letter of a label
LARGEST = 40  # inches that a picture may be wide or high
LONGEST = 30  # characters of a picture's label


# Pictures of control characters as a picture shows them: its font lacks those of Unicode.
DRAWN = {0x2400 + code: f"^{chr(64 + code)}" for code in range(32)}
DRAWN |= str.maketrans({"␠": "␣", "␊": "⏎", "␉": "⇥"})

# A target's token gives the prompt's words the colours of its row, for as long as it is hovered.
HOVER = """
const t = event.target.closest('[data-row]'), words = this.querySelectorAll('[data-word]');
const row = t ? JSON.parse(t.dataset.row) : null;
const most = row ? Math.max(...row.map(Math.abs)) || 1 : 1;
for (const w of words) {
  const v = row ? row[w.dataset.word] : 0, end = v > 0 ? FOR : AGAINST;
  const c = end.map(e => Math.round(255 + (e - 255) * Math.abs(v) / most));
  w.style.background = row ? `rgb(${c})` : w.dataset.all;
}
for (const o of this.querySelectorAll('[data-row]')) o.style.outline = o === t ? '2px solid' : '';
""".replace("FOR", str(list(FOR)), 1).replace("AGAINST", str(list(AGAINST)), 1)


class Result(TextResult, Protocol):
    """A prompt with its words, and what each of them does to each token of the target."""

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
    """A token on one line; without the space before it, if there is more."""
    return on_one_line(token.strip(" ") or token).strip(" ") or "␠"


def _answers(result: Result) -> Iterator[str]:
    yield f"target: {result.target}"
    if result.contrast is not None:
        yield f"contrast: {result.contrast}"


def to_plain(result: Result) -> str:
    """The summary, the target, and a table with tabs: words, their sums, and each token."""
    header = ["word", "sum", *map(label, result.rows)]
    lines = [on_one_line(line) for line in (result.summary, *_answers(result))]
    lines.append("\t".join(header))
    for name, total, column in zip(
        result.columns, result.sequence_scores.tolist(), result.matrix.T.tolist(), strict=True
    ):
        lines.append("\t".join([label(name), *(f"{value:+.4f}" for value in [total, *column])]))
    return "\n".join(lines)


def to_terminal(result: Result, width: int) -> Group:
    """The prompt coloured by effect on the whole target, and the heat map, for `rich`."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [coloured(result)]
    parts += [Text(visible(line)) for line in _answers(result)]
    parts.append(Text(visible(result.summary), "bold"))
    for tokens in _panels(result, width):
        parts += ["", _table(result, tokens)]
    return Group(*parts)


def _panels(result: Result, width: int) -> Iterator[range]:
    """The target's tokens in pieces that fit a terminal beside the words and their sums."""
    room = width - WORD - _width(result.sequence_scores.tolist()) - 2 * BETWEEN
    start, used = 0, 0
    for number, name in enumerate(result.rows):
        figures = _width(result.matrix[number].tolist())
        wide = max(figures, min(TOKEN, len(label(name)))) + BETWEEN
        if used and used + wide > room:
            yield range(start, number)
            start, used = number, 0
        used += wide
    yield range(start, len(result.rows))


def _width(values: Sequence[float]) -> int:
    return max(len(f"{value:+.2f}") for value in values)


def _table(result: Result, tokens: range) -> Table:
    """A line for each word: its sum, and some of the target's tokens."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=WORD)
    for name in ("sum", *(label(result.rows[t]) for t in tokens)):
        table.add_column(Text(name), justify="right", overflow="fold", max_width=TOKEN)
    totals = result.sequence_scores.tolist()
    of_totals = shades(totals)
    strongest = _strongest(result)
    for number, name in enumerate(result.columns):
        values = [result.matrix[t, number].item() for t in tokens]
        cells = [Text(f"{totals[number]:+.2f}", style(of_totals[number]))]
        for value, colour in zip(values, shades(values, strongest), strict=True):
            cells.append(Text(f"{value:+.2f}", style(colour)))
        table.add_row(Text(label(name)), *cells)
    return table


def _strongest(result: Result) -> float:
    return float(result.matrix.abs().max()) or 1.0


def to_html(result: Result) -> str:
    """A fragment: hover a token of the target to colour the prompt by it, a cell for its value."""
    style = "font-family:sans-serif;line-height:1.9;margin:0.8em 0"
    return (
        f'<div style="{style}" onmouseover="{html.escape(HOVER)}" '
        'onmouseleave="this.onmouseover(event)">'
        f'<div style="color:#666;font-size:85%">{html.escape(result.summary)}</div>'
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{_prompt(result)}</div>'
        f'<div style="white-space:pre-wrap;margin:0.4em 0">→ {_target(result)}</div>'
        f'<div style="overflow-x:auto;line-height:1.3">{_cells(result)}</div></div>'
    )


def _prompt(result: Result) -> str:
    shown, number = [], 0
    for text, word, colour in pieces(result):
        if word is None:
            shown.append(html.escape(visible(text)))
            continue
        data = f'data-word="{number}" data-all="rgb{colour}"'
        shown.append(mark(text, f"rgb{colour}", f"{word.score:+.4f} {UNIT}", data))
        number += 1
    return "".join(shown)


def _target(result: Result) -> str:
    shown = []
    n_words = len(result.words)
    for number, name in enumerate(result.rows):
        row = json.dumps([round(v, 4) for v in result.matrix[number, :n_words].tolist()])
        told = "" if result.contrast else f"log p = {result.log_probabilities[number]:.4f}; "
        title = f"{told}sum {sum(result.matrix[number].tolist()):+.4f}"
        shown.append(mark(name, "#eef", title, f'data-row="{row}"'))
    return (" " if result.contrast else "").join(shown)


def _cells(result: Result) -> str:
    upright = "writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;font-weight:normal"
    head = "".join(
        f'<th style="{upright}">{html.escape(label(name))}</th>' for name in result.columns
    )
    strongest = _strongest(result)
    lines = []
    for name, values in zip(result.rows, result.matrix.tolist(), strict=True):
        cells = "".join(
            f'<td title="{html.escape(label(column))} → {html.escape(label(name))}: {value:+.4f}" '
            f'style="background:rgb{colour};min-width:1.2em">&nbsp;</td>'
            for column, value, colour in zip(
                result.columns, values, shades(values, strongest), strict=True
            )
        )
        lines.append(
            '<tr><th style="text-align:right;font-weight:normal;white-space:nowrap">'
            f"{html.escape(label(name))}</th>{cells}</tr>"
        )
    return (
        '<table style="border-collapse:collapse;font-size:80%">'
        f"<tr><th></th>{head}</tr>{''.join(lines)}</table>"
    )


def to_page(results: Iterable[Result]) -> str:
    """A self-contained HTML page with every result."""
    return page(
        map(to_html, results),
        "what the model is made to give; the prompt is coloured by the effect on all of it. Hover "
        "a token behind the arrow for its own, a word or cell for its number, in natural-log "
        "probabilities.",
    )


def to_png(result: Result) -> bytes:
    """The picture of `to_figure`."""
    return figure_to_png(to_figure(result), bbox_inches="tight")  # labels may be long


def _drawn(token: str) -> str:
    """A label in characters that matplotlib's own font has, shortened."""
    return shortened(label(token).translate(DRAWN), LONGEST)


def to_figure(result: Result) -> Figure:
    """The heat map: the target's tokens from top to bottom, the prompt's words from left on."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    columns, rows = ([_drawn(n) for n in names] for names in (result.columns, result.rows))
    wide, high = (min(LARGEST, INCH * len(names)) for names in (columns, rows))
    below = LETTER * max(map(len, columns))
    figure = Figure(figsize=(max(6, wide + 3), max(3, high + 1) + below), layout="constrained")
    axes = figure.add_subplot()
    between = [tuple(part / 255 for part in c) for c in (AGAINST, (255, 255, 255), FOR)]
    most = _strongest(result)
    image = axes.imshow(
        result.matrix.numpy(), aspect="auto", vmin=-most, vmax=most,
        cmap=LinearSegmentedColormap.from_list("against and for", between),
    )  # fmt: skip
    axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(on_one_line(result.summary), fontsize=10, loc="left", parse_math=False)
    figure.colorbar(image, label=f"effect on log p ({UNIT})", fraction=0.05, pad=0.01)
    return figure

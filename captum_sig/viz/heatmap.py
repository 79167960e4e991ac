"""Show words by targets: tables for terminals and files, and a picture.

Works on anything with the fields of `Result`: labels, entities, texts, tokens of a continuation.
Whatever comes from a text or a model is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from captum_sig.viz import arcs
from captum_sig.viz.agreement import residual_line, side_cells
from captum_sig.viz.characters import label, on_one_line, visible
from captum_sig.viz.colours import AGAINST, FOR, TARGET, WHITE, Colour, shades, style
from captum_sig.viz.legends import terminal_legend
from captum_sig.viz.passages import Located, Passage, passages, words_of_side
from captum_sig.viz.pictures import picture_label
from captum_sig.viz.text import Result as TextResult
from captum_sig.viz.text import coloured, empty_table
from captum_sig.viz.wording import dropped_line, measure_of, number, side_labels, task_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group, RenderableType
    from rich.table import Table
    from torch import Tensor


# Widths in a terminal, in characters; longer words are cut, longer targets folded.
WORD_WIDTH, TARGET_WIDTH, COLUMN_GAP = 16, 14, 3
CELL, LETTER, MAX_SIDE = 0.3, 0.08, 40  # inches in a picture: a row or column, a letter, a side
MAX_FIGURES = 3  # of a target, such as its value and probability, that a picture shows


class Result(Protocol):
    """A text with its words, and the effect of each word on each target.

    The first columns are the `words` of the text. `totals` are the effects on all targets together,
    if these are parts of a whole. `figures` are what is known of each target, such as its value.
    A target that has a second text of its own has it in `targets`, and NaN for others' words.
    """

    @property
    def text(self) -> str: ...
    @property
    def words(self) -> Sequence[Located]: ...
    @property
    def summary(self) -> str: ...
    @property
    def heading(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Sequence[str]: ...
    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def matrix(self) -> Tensor: ...
    @property
    def totals(self) -> Tensor | None: ...
    @property
    def figures(self) -> Mapping[str, Sequence[float | None]]: ...
    @property
    def main_row(self) -> int | None: ...
    def attribution(self, row: int) -> TextResult: ...


def residual_of(result: Result) -> str | None:
    """Return what the totals add up to beyond the effect of the whole text; None if unknown."""
    if result.totals is None:
        return None
    return residual_line(result.totals.tolist(), getattr(result, "residual", None))


def notes(result: Result) -> list[str]:
    """Return what else is known of the text: the residual, and tokens that were not read."""
    return list(filter(None, [residual_of(result), dropped_line(result)]))


def strongest(result: Result) -> float:
    """Return the largest absolute effect, which has the full colour."""
    return float(result.matrix.nan_to_num().abs().max()) if result.matrix.numel() else 1.0


def own_passages(result: Result) -> list[tuple[int, Passage]]:
    """Return the second text of each target that has its own, with the target's number."""
    named = side_labels(task_of(result))[1]
    words = dict(words_of_side(result, "text_pair"))
    return [
        (
            row,
            Passage(
                f"{named} {row + 1}",
                target.text_pair,
                [(n, words[n]) for n in belonging(result, row) if n in words],
            ),
        )
        for row, target in enumerate(getattr(result, "targets", ()))
        if target.text_pair is not None
    ]


def belonging(result: Result, row: int) -> list[int]:
    """Return the columns that belong to a target."""
    return [n for n, score in enumerate(result.matrix[row].tolist()) if not math.isnan(score)]


def second_sides(result: Result) -> set[int]:
    """Return the column where the second text of a pair begins, if any."""
    sides = [getattr(word, "side", None) for word in result.words]
    return {n for n in range(1, len(sides)) if sides[n] != sides[n - 1]}


def shown_words(result: Result) -> dict[int, tuple[Any, Colour]]:
    """Return words with their first colours, by column.

    That is the effect on the whole, or on the main target; a target's own text has its effects.
    """
    if result.totals is not None:
        whole: Sequence[Any] = result.words
        return dict(enumerate(zip(whole, shades([word.score for word in whole]), strict=True)))
    own = [row for row, _ in own_passages(result)]
    main = [] if result.main_row is None else [result.main_row]
    shown: dict[int, tuple[Any, Colour]] = {}
    for row in (*main, *own):
        words = result.attribution(row).words
        in_colour = zip(words, shades([word.score for word in words]), strict=True)
        for column, word in zip(belonging(result, row), in_colour, strict=True):
            shown.setdefault(column, word)
    return shown


def with_pairs(result: Result) -> list[tuple[str, Any]]:
    """Return results of which each may have words that act together, and what to call it."""
    if result.totals is not None:
        return [("", result)]
    if getattr(result, "interactions", None) is None:
        return []
    return [(label(name), result.attribution(row)) for row, name in enumerate(result.rows)]


def _pair_lines(result: Result) -> list[tuple[str, str]]:
    return [
        (f"{name}: {line}" if name else line, colour)
        for name, one in with_pairs(result)
        for line, colour in arcs.lines(one)
    ]


def to_plain(result: Result) -> str:
    """Return the summary, the heading, and a tab-separated table: words by totals and targets.

    Lines before the words hold the targets' figures. If words have both sides, two more columns
    hold a word's effects alone and in the text, and a third whether they agree. In a pair of
    texts, the last column says which text a word stands in. Words that act together have a line
    each after the table.
    """
    totals = [] if result.totals is None else [result.totals.tolist()]
    rows = [["word", *(["sum"] if totals else []), *map(label, result.rows)]]
    for name, values in result.figures.items():
        rows.append([name, *([""] if totals else []), *map(number, values)])
    n_headers = len(rows)
    columns = [*totals, *result.matrix.tolist()]
    for n, name in enumerate(result.columns):
        rows.append([label(name), *(_signed(column[n], 4) for column in columns)])
    for names, cells in (
        (["alone", "in the text", "agreement"], [side_cells(word) for word in result.words]),
        (["text"], [(side,) for side in _side_names(result)]),
    ):
        if any(map(any, cells)):
            _append(rows, n_headers, names, cells)
    summary = "  ".join([result.summary, *notes(result)])
    lines = [on_one_line(line) for line in (summary, *result.heading)]
    pairs = [on_one_line(line) for line, _ in _pair_lines(result)]
    return "\n".join([*lines, *map("\t".join, rows), *pairs])


def _append(
    rows: list[list[str]], n_headers: int, names: list[str], cells: Sequence[Sequence[str]]
) -> None:
    """Append columns to a table; columns of the matrix that are not words have empty cells."""
    empty = [""] * len(names)
    n_others = len(rows) - n_headers - len(cells)
    padded = [names, *[empty] * (n_headers - 1), *cells, *[empty] * n_others]
    for row, more in zip(rows, padded, strict=True):
        row += more


def _side_names(result: Result) -> list[str]:
    """Return which text of a pair each word stands in; "" for a text alone."""
    named = dict(zip(("text", "text_pair"), side_labels(task_of(result)), strict=True))
    return [named.get(getattr(word, "side", None) or "", "") for word in result.words]


def _signed(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:+.{digits}f}"


def to_terminal(result: Result, width: int, *, legend: bool = True) -> Group:
    """Return the text coloured by the whole or main target, and the heat map, for `rich`.

    Words that act together have a line each between both. A heat map of more than `width`
    characters is split into several tables. `legend` says what colours and lines mean.
    """
    from rich.console import Group
    from rich.text import Text

    own = [passage for _, passage in own_passages(result)]
    parts: list[RenderableType] = [coloured([*passages(result), *own], shown_words(result))]
    parts += [Text(visible(line)) for line in result.heading]
    parts.append(Text(visible(result.summary), "bold"))
    parts += map(Text, notes(result))
    parts += [Text(visible(line), colour) for line, colour in _pair_lines(result)]
    if result.totals is None and result.main_row is not None:
        main = label(result.rows[result.main_row])
        parts.append(Text(f"The text is coloured by the effect on {main}.", "dim"))
    if legend:
        parts.append(terminal_legend([result]))
    for targets in _panels(result, width):
        parts += ["", _table(result, targets)]
    return Group(*parts)


def _panels(result: Result, width: int) -> Iterator[range]:
    """Split the targets so that each part fits beside the words and their totals."""
    totals = [] if result.totals is None else result.totals.tolist()
    available = width - WORD_WIDTH - COLUMN_GAP
    digits = _digits(result)
    available -= (_width(totals, digits) + COLUMN_GAP) if totals else 0
    start, used = 0, 0
    for row, name in enumerate(result.rows):
        cells = [len(number(values[row])) for values in result.figures.values()]
        cells += [_width(result.matrix[row].tolist(), digits), min(TARGET_WIDTH, len(label(name)))]
        column = max(cells) + COLUMN_GAP
        if used and used + column > available:
            yield range(start, row)
            start, used = row, 0
        used += column
    if result.rows:
        yield range(start, len(result.rows))


def _digits(result: Result) -> int:
    """Return the decimals of scores in a terminal: more for similarities than for logits."""
    limit = strongest(result)
    return 2 if limit >= 1 else 3 if limit >= 0.1 else 4


def _width(values: Sequence[float], digits: int) -> int:
    return max((len(_signed(value, digits)) for value in values), default=0)


def _table(result: Result, targets: range) -> Table:
    """Make a table with a line for each figure and word: its total, and these targets."""
    from rich.text import Text

    table = empty_table()
    totals = [] if result.totals is None else result.totals.tolist()
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=WORD_WIDTH)
    for name in (*(["sum"] if totals else []), *(label(result.rows[t]) for t in targets)):
        table.add_column(Text(name), justify="right", overflow="fold", max_width=TARGET_WIDTH)
    for n, (name, values) in enumerate(result.figures.items(), 1):
        shown = [*([""] if totals else []), *(number(values[t]) for t in targets)]
        is_last = n == len(result.figures)
        table.add_row(name, *shown, style="dim", end_section=is_last)
    total_colours, limit, digits = shades(totals), strongest(result), _digits(result)
    seconds = second_sides(result)
    for n, name in enumerate(result.columns):
        cells = result.matrix[targets, n].tolist()
        values_shown = [*totals[n : n + 1], *cells]
        colours = [*total_colours[n : n + 1], *shades(cells, limit)]
        in_colour = zip(values_shown, colours, strict=True)
        shown_cells = [_cell(v, c, digits) for v, c in in_colour]
        table.add_row(Text(label(name)), *shown_cells, end_section=n + 1 in seconds)
    return table


def _cell(value: float, colour: Colour, digits: int) -> Any:
    from rich.text import Text

    return Text("") if math.isnan(value) else Text(_signed(value, digits), style(colour))


def to_figure(result: Result) -> Figure:
    """Return the heat map: targets from top to bottom, words from left to right.

    Beside the targets, on the right, stand their figures. A target's own words are outlined.
    """
    from matplotlib.figure import Figure

    columns = [picture_label(name) for name in result.columns]
    rows = [picture_label(name) for name in result.rows]
    width, height = (min(MAX_SIDE, CELL * len(names)) for names in (columns, rows))
    labels = LETTER * max(map(len, columns), default=0)  # below the map
    figure = Figure(figsize=(max(6, width + 3), max(3, height + 1) + labels), layout="constrained")
    axes = figure.add_subplot()
    title = "\n".join([result.summary, *notes(result)])
    axes.set_title(_in_lines(title), fontsize=10, loc="left", parse_math=False)
    if not rows or not columns:
        axes.axis("off")
        axes.text(0, 0.5, "There is no target." if not rows else "There is no word.")
        return figure
    _draw(figure, axes, result)
    axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _in_lines(title: str) -> str:
    return "\n".join(map(on_one_line, title.split("\n")))


def _draw(figure: Figure, axes: Axes, result: Result) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    colours = [tuple(part / 255 for part in colour) for colour in (AGAINST, WHITE, FOR)]
    limit = strongest(result) or 1.0
    image = axes.imshow(
        result.matrix.numpy(), aspect="auto", vmin=-limit, vmax=limit,
        cmap=LinearSegmentedColormap.from_list("against and for", colours),
    )  # fmt: skip
    beside = dict(list(result.figures.items())[:MAX_FIGURES])
    if beside:
        lines = [
            "   ".join(number(values[row]).rjust(6) for values in beside.values())
            for row in range(len(result.rows))
        ]
        figures = axes.secondary_yaxis("right")
        figures.set_yticks(range(len(lines)), lines, fontfamily="monospace", fontsize=8)
        figures.tick_params(length=0)
        figures.spines[:].set_visible(False)
        axes.set_title(", ".join(beside), fontsize=8, loc="right")
    for column in second_sides(result):
        axes.axvline(column - 0.5, color="0.6", linewidth=1)
    for part in passages(result):
        for column, row in part.words_of_targets():
            corner = column - 0.5, row - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=TARGET, linewidth=1.5))
    figure.colorbar(image, fraction=0.05, pad=0.01, label=measure_of(result).effect)

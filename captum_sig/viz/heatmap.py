"""Show words by targets: tables for terminals and files, and which words a map has room for.

Works on anything with the fields of `Result`: labels, entities, texts, tokens of a continuation.
Whatever comes from a text or a model is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from captum_sig._names import Rank
from captum_sig.viz import arcs, excerpts
from captum_sig.viz.agreement import residual_line, side_cells
from captum_sig.viz.characters import label, on_one_line, visible
from captum_sig.viz.colours import style
from captum_sig.viz.legends import terminal_legend
from captum_sig.viz.passages import Located, belonging, own_passages, passages
from captum_sig.viz.ranking import left_out, scale_of_text, strongest
from captum_sig.viz.scale import Scale, scale_of
from captum_sig.viz.sections import is_long
from captum_sig.viz.text import Result as TextResult
from captum_sig.viz.text import ShownWord, coloured, empty_table, in_colour, in_list
from captum_sig.viz.wording import dropped_line, nouns, number, side_labels, task_of

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from torch import Tensor


# Widths in a terminal, in characters; longer words are cut, longer targets folded.
WORD_WIDTH, TARGET_WIDTH, COLUMN_GAP = 16, 14, 3
MAX_WIDE, MAX_COLUMNS, MAX_BAND = 40, 60, 14  # columns on a page: in one part, in all, in each
MAX_LINES = 20  # of a long text's words in a table


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


def scale_of_map(result: Result, rank: Rank) -> Scale:
    """Return the scale of all cells."""
    without = left_out(result, rank)
    n_columns = len(result.columns)
    cells = {row * n_columns + n for row in range(len(result.rows)) for n in without}
    return scale_of(result.matrix.flatten().tolist(), cells)


def columns_shown(result: Result, limit: int, rank: Rank) -> list[int]:
    """Return at most `limit` columns: those with the strongest cells, in the order of the text."""
    if len(result.columns) <= limit or not result.rows:
        return list(range(len(result.columns)))
    strengths = result.matrix.nan_to_num().abs().amax(0).tolist()
    return sorted(strongest(strengths, limit, left_out(result, rank)))


def bands(result: Result, rank: Rank) -> list[list[int]]:
    """Return the columns of each part of a map on a page; a narrow page has room for one part."""
    columns = columns_shown(result, MAX_COLUMNS, rank)
    if len(columns) <= MAX_WIDE:
        return [columns]
    size = math.ceil(len(columns) / math.ceil(len(columns) / MAX_BAND))
    return [columns[start : start + size] for start in range(0, len(columns), size)]


def rows_shown(result: Result, limit: int) -> list[int]:
    """Return at most `limit` targets: those with the strongest cells, in their order."""
    if len(result.rows) <= limit or not result.columns:
        return list(range(len(result.rows)))
    return sorted(strongest(result.matrix.nan_to_num().abs().amax(1).tolist(), limit))


def caption(result: Result, columns: Sequence[int]) -> str:
    """Say which words a map shows; "" if it shows all."""
    n = len(result.columns)
    if len(columns) == n:
        return ""
    some = f"The {len(columns)} {nouns(result)} with the strongest cells of {n:,}"
    return f"{some}, in the order of the text."


def second_sides(result: Result, columns: Sequence[int] | None = None) -> set[int]:
    """Return the place among the columns where the second text of a pair begins, if any."""
    sides = [getattr(word, "side", None) for word in result.words]
    if columns is not None:
        sides = [sides[n] for n in columns if n < len(sides)]
    return {n for n in range(1, len(sides)) if sides[n] != sides[n - 1]}


def shown_words(result: Result, rank: Rank = "all") -> dict[int, ShownWord]:
    """Return words with their first colours, by column.

    That is the effect on the whole, or on the main target; a target's own text has its effects.
    """
    if result.totals is not None:
        return dict(enumerate(in_colour(result.words, scale_of_text(result, rank))))
    own = [row for row, _ in own_passages(result)]
    main = [] if result.main_row is None else [result.main_row]
    shown: dict[int, ShownWord] = {}
    for row in (*main, *own):
        words = in_colour(result.attribution(row).words, scale_of_text(result, rank, row))
        for column, word in zip(belonging(result, row), words, strict=True):
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


def to_plain(result: Result, *, rank: Rank = "all") -> str:
    """Return the summary, the heading, and a tab-separated table: words by totals and targets.

    Lines before the words hold the targets' figures. If words have both sides, two more columns
    hold a word's effects alone and in the text, and a third whether they agree. In a pair of
    texts, the last column says which text a word stands in. Words that act together have a line
    each after the table, and then a long text's strongest words and sections.
    """
    totals = [] if result.totals is None else [result.totals.tolist()]
    rows = [["word", *(["sum"] if totals else []), *map(label, result.rows)]]
    for name, values in result.figures.items():
        rows.append([name, *([""] if totals else []), *map(number, values)])
    n_headers = len(rows)
    columns = [*totals, *result.matrix.tolist()]
    for n, name in enumerate(result.columns):
        rows.append([in_list(result, label(name)), *(_signed(column[n], 4) for column in columns)])
    for names, cells in (
        (["alone", "in the text", "agreement"], [side_cells(word) for word in result.words]),
        (["text"], [(side,) for side in _side_names(result)]),
    ):
        if any(map(any, cells)):
            _append(rows, n_headers, names, cells)
    summary = "  ".join([result.summary, *notes(result)])
    lines = [on_one_line(line) for line in (summary, *result.heading)]
    pairs = [on_one_line(line) for line, _ in _pair_lines(result)]
    strong = excerpts.to_plain(result, rank)
    return "\n".join([*lines, *map("\t".join, rows), *pairs, *strong])


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


def to_terminal(result: Result, width: int, *, legend: bool = True, rank: Rank = "all") -> Group:
    """Return the text coloured by the whole or main target, and the heat map, for `rich`.

    Words that act together have a line each between both. A heat map of more than `width`
    characters is split into several tables, and of a long text it has the words with the strongest
    cells. `legend` says what colours and lines mean.
    """
    from rich.console import Group
    from rich.text import Text

    own = [passage for _, passage in own_passages(result)]
    parts: list[RenderableType] = [coloured([*passages(result), *own], shown_words(result, rank))]
    parts += [Text(visible(line)) for line in result.heading]
    parts.append(Text(visible(result.summary), "bold"))
    parts += map(Text, notes(result))
    parts += [Text(visible(line), colour) for line, colour in _pair_lines(result)]
    if result.totals is None and result.main_row is not None:
        main = label(result.rows[result.main_row])
        parts.append(Text(f"The text is coloured by the effect on {main}.", "dim"))
    if note := scale_of_text(result, rank).note:
        parts.append(Text(note, "dim"))
    parts += excerpts.to_terminal(result, width, rank)
    if legend:
        parts.append(terminal_legend([result]))
    columns = columns_shown(result, MAX_LINES if is_long(result) else len(result.columns), rank)
    if told := " ".join(filter(None, [caption(result, columns), scale_of_map(result, rank).note])):
        parts += ["", Text(told, "dim")]
    for targets in _panels(result, width):
        parts += ["", _table(result, targets, columns, rank)]
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
    limit = scale_of_map(result, "all").limit
    return 2 if limit >= 1 else 3 if limit >= 0.1 else 4


def _width(values: Sequence[float], digits: int) -> int:
    return max((len(_signed(value, digits)) for value in values), default=0)


def _table(result: Result, targets: range, columns: Sequence[int], rank: Rank) -> Table:
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
    of_totals, of_cells = scale_of(totals, left_out(result, rank)), scale_of_map(result, rank)
    digits, seconds = _digits(result), second_sides(result, columns)
    for place, n in enumerate(columns):
        cells = [_cell(value, of_totals, digits) for value in totals[n : n + 1]]
        cells += [_cell(value, of_cells, digits) for value in result.matrix[targets, n].tolist()]
        table.add_row(Text(label(result.columns[n])), *cells, end_section=place + 1 in seconds)
    return table


def _cell(value: float, scale: Scale, digits: int) -> Any:
    from rich.text import Text

    (colour,) = scale.colours([value])
    shown = Text(_signed(value, digits), style(colour))
    return Text("") if math.isnan(value) else shown

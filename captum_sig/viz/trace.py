"""A traced path as a table in a terminal, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captum_sig.path import TextTrace
from captum_sig.viz.text import on_one_line, shortened
from captum_sig.viz.text import to_png as figure_to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text


SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the path, that a table shows
MARK = "dim italic"  # style of words that are not the input's
STRONGEST = 5  # words that a picture names
TITLE, WORD = 72, 24  # characters of a text and of a word in a picture
SUM: dict[str, Any] = {"color": "0.15", "linewidth": 1.2, "linestyle": "--"}
NO_PATH = "Nothing differs between the text and the baseline: there is no path."


def points_shown(result: TextTrace) -> list[int]:
    """The points nearest to `SHARES`."""
    n_steps = len(result.trace.alpha) - 1
    return sorted({round(share * n_steps) for share in SHARES})


def to_terminal(result: TextTrace) -> Group:
    """The table and what to say of it, for `rich`."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(on_one_line(_headline(result)), "bold"), ""]
    if result.words:
        parts += [_by_words(result) if result.one_by_one else _by_points(result), ""]
    return Group(*parts, *(Text(on_one_line(line)) for line in _summary(result)))


def _headline(result: TextTrace) -> str:
    return f"{result.trace.method} from baseline {result.baseline}; F: logit of {result.target}"


def _by_points(result: TextTrace) -> Table:
    """A line for each of the points."""
    table, found = _table(), result.trace
    for header in ("α", "F", "sum"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("nearest tokens", overflow="fold")
    for point in points_shown(result):
        table.add_row(
            f"{found.alpha[point]:.2f}",
            f"{found.outputs[0, point]:+.3f}",
            f"{found.cumulative[0, point]:+.3f}",
            _sentence(result, point),
        )
    return table


def _sentence(result: TextTrace, point: int) -> Text:
    from rich.text import Text

    shown = Text()
    for text, changed in result.sentence(0, point):
        bare = text.lstrip(" ")
        shown.append(" " * (len(text) - len(bare)))
        shown.append(on_one_line(bare), MARK if changed else "")
    return shown


def _by_words(result: TextTrace) -> Table:
    """A line for each word."""
    from rich.text import Text

    table, found = _table(), result.trace
    between = points_shown(result)[1:-1]
    table.add_column("word", overflow="fold", max_width=16)
    for header in ("F(x̄ʷ)", "change", "sum"):
        table.add_column(header, justify="right", no_wrap=True)
    for point in between:
        table.add_column(f"α {found.alpha[point]:.2f}", overflow="fold")
    for number, word in enumerate(result.words):
        cells = [Text(on_one_line(word))]
        own = result.nearest(number, len(found.alpha) - 1)
        for values in (
            found.outputs[number, 0],
            found.change[number],
            found.cumulative[number, -1],
        ):
            cells.append(Text(f"{values:+.3f}"))
        for near in (result.nearest(number, point) for point in between):
            cells.append(Text(on_one_line(near), "" if near == own else MARK))
        table.add_row(*cells)
    return table


def _summary(result: TextTrace) -> list[str]:
    found = result.trace
    if not result.words:
        return [NO_PATH]
    away = f"WAE, the mean distance to the nearest word: {found.wae:.3f} over the sentence"
    if result.one_by_one:
        worst = int(found.residual.abs().argmax())
        return [
            f"MatrixOptions, one word on its way and all others unchanged: {result.text}",
            f"Largest difference of sum and change: {found.residual[worst]:+.4f} "
            f"({result.words[worst]}).",
            f"{away}, {found.wae_moving:.3f} over the words that move.",
        ]
    change, total = found.change.item(), found.cumulative[0, -1].item()
    return [
        f"F(x) − F(x̄) = {change:+.4f}, sum {total:+.4f}, missing {change - total:+.4f}.",
        f"{away}.",
    ]


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)


def to_png(result: TextTrace) -> bytes:
    """The picture of `to_figure`, 1200 pixels wide."""
    return figure_to_png(to_figure(result))


def to_figure(result: TextTrace) -> Figure:
    """F along the paths (wide) and the sums of gradient · step from their starts (dashed)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    method = f"{result.trace.method}, baseline {result.baseline}"
    axes.set_title(f"{_short(result.text, TITLE)}\n{method}", fontsize=11, parse_math=False)
    axes.set_xlabel("α, from baseline (0) to input (1)")
    axes.set_ylabel(f"F: logit of {on_one_line(result.target)}", parse_math=False)
    axes.set_xlim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    if not result.words:
        axes.text(0.5, 0.5, NO_PATH, ha="center", transform=axes.transAxes)
        return figure
    start = "F(x̄ʷ)" if result.one_by_one else "F(x̄)"
    found = result.trace
    axes.axhline(float(found.outputs[0, -1]), color="0.4", linewidth=1, linestyle=":", label="F(x)")
    _draw_outputs(axes, result)
    for number in _strongest(result):
        axes.plot(found.alpha, found.outputs[number, 0] + found.cumulative[number], **SUM)
    axes.plot([], [], **SUM, label=f"{start} + sum of gradient · step")
    for label in axes.legend(edgecolor="none", fontsize=9).get_texts():
        label.set_parse_math(False)  # a text may hold dollars
    return figure


def _short(text: str, limit: int) -> str:
    return shortened(on_one_line(text), limit)


def _strongest(result: TextTrace) -> list[int]:
    """The paths that change F most, first those that do more."""
    order = result.trace.change.abs().argsort(descending=True, stable=True)
    return order[:STRONGEST].tolist()


def _draw_outputs(axes: Any, result: TextTrace) -> None:
    found, strongest = result.trace, _strongest(result)
    others = [number for number in range(len(found.outputs)) if number not in strongest]
    for number in others:
        label = "other words" if number == others[0] else None
        axes.plot(found.alpha, found.outputs[number], color="0.8", linewidth=0.8, label=label)
    for rank, number in enumerate(strongest):
        named = f"{found.change[number]:+.2f} {_short(result.words[number], WORD)}"
        axes.plot(
            found.alpha, found.outputs[number], color=f"C{rank}", linewidth=4, alpha=0.5,
            solid_capstyle="butt", label=named if result.one_by_one else "F(α)",
        )  # fmt: skip

"""Show a traced path as a table in a terminal, and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captum_sig.path import TextTrace
from captum_sig.viz.characters import on_one_line, shortened
from captum_sig.viz.pictures import figure_to_png
from captum_sig.viz.text import empty_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text


TABLE_FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the path, whose points a table shows
CHANGED_STYLE = "dim italic"  # of words that are not the input's
N_STRONGEST = 5  # words that a picture names
MAX_TITLE, MAX_WORD = 72, 24  # characters of a text and of a word in a picture
SUM_STYLE: dict[str, Any] = {"color": "0.15", "linewidth": 1.2, "linestyle": "--"}
NO_PATH = "Nothing differs between the text and the baseline: there is no path."


def points_shown(result: TextTrace) -> list[int]:
    """Return the points nearest to `TABLE_FRACTIONS` of the path."""
    n_steps = len(result.trace.alpha) - 1
    return sorted({round(fraction * n_steps) for fraction in TABLE_FRACTIONS})


def to_terminal(result: TextTrace) -> Group:
    """Return the table with a headline and a summary, for `rich`."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(on_one_line(_headline(result)), "bold"), ""]
    if result.words:
        parts += [_table_of_words(result) if result.one_by_one else _table_of_points(result), ""]
    return Group(*parts, *(Text(on_one_line(line)) for line in _summary(result)))


def _headline(result: TextTrace) -> str:
    explained = f"{result.unit} of {result.target}"
    return f"{result.trace.method} from baseline {result.baseline}; F: {explained}"


def _table_of_points(result: TextTrace) -> Table:
    table, trace = empty_table(), result.trace
    for header in ("α", "F", "sum"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("nearest tokens", overflow="fold")
    for point in points_shown(result):
        table.add_row(
            f"{trace.alpha[point]:.2f}",
            f"{trace.outputs[0, point]:+.3f}",
            f"{trace.cumulative[0, point]:+.3f}",
            _sentence(result, point),
        )
    return table


def _sentence(result: TextTrace, point: int) -> Text:
    from rich.text import Text

    sentence = Text()
    for text, changed in result.sentence(0, point):
        bare = text.lstrip(" ")
        sentence.append(" " * (len(text) - len(bare)))
        sentence.append(on_one_line(bare), CHANGED_STYLE if changed else "")
    return sentence


def _table_of_words(result: TextTrace) -> Table:
    from rich.text import Text

    table, trace = empty_table(), result.trace
    inner_points = points_shown(result)[1:-1]
    table.add_column("word", overflow="fold", max_width=16)
    for header in ("F(x̄ʷ)", "change", "sum"):
        table.add_column(header, justify="right", no_wrap=True)
    for point in inner_points:
        table.add_column(f"α {trace.alpha[point]:.2f}", overflow="fold")
    for path, word in enumerate(result.words):
        values = trace.outputs[path, 0], trace.change[path], trace.cumulative[path, -1]
        cells = [Text(on_one_line(word)), *(Text(f"{value:+.3f}") for value in values)]
        at_input = result.nearest(path, len(trace.alpha) - 1)
        for nearest in (result.nearest(path, point) for point in inner_points):
            cells.append(Text(on_one_line(nearest), "" if nearest == at_input else CHANGED_STYLE))
        table.add_row(*cells)
    return table


def _summary(result: TextTrace) -> list[str]:
    trace = result.trace
    if not result.words:
        return [NO_PATH]
    distance = f"WAE, the mean distance to the nearest word: {trace.wae:.3f} over the sentence"
    if result.one_by_one:
        worst = int(trace.residual.abs().argmax())
        return [
            f"One word moves at a time, all others are unchanged: {result.text}",
            f"Largest difference of sum and change: {trace.residual[worst]:+.4f} "
            f"({result.words[worst]}).",
            f"{distance}, {trace.wae_moving:.3f} over the words that move.",
        ]
    change, total = trace.change.item(), trace.cumulative[0, -1].item()
    return [
        f"F(x) − F(x̄) = {change:+.4f}, sum {total:+.4f}, missing {change - total:+.4f}.",
        f"{distance}.",
    ]


def to_png(result: TextTrace) -> bytes:
    """Draw `to_figure`, 1200 pixels wide."""
    return figure_to_png(to_figure(result))


def to_figure(result: TextTrace) -> Figure:
    """Draw F along the paths (wide) and the sums of gradient · step from their starts (dashed)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    trace = result.trace
    method = f"{trace.method}, baseline {result.baseline}"
    axes.set_title(f"{_short(result.text, MAX_TITLE)}\n{method}", fontsize=11, parse_math=False)
    axes.set_xlabel("α, from baseline (0) to input (1)")
    axes.set_ylabel(f"F: {result.unit} of {on_one_line(result.target)}", parse_math=False)
    axes.set_xlim(-0.02, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    if not result.words:
        axes.text(0.5, 0.5, NO_PATH, ha="center", transform=axes.transAxes)
        return figure
    start = "F(x̄ʷ)" if result.one_by_one else "F(x̄)"
    at_input = float(trace.outputs[0, -1])
    axes.axhline(at_input, color="0.4", linewidth=1, linestyle=":", label="F(x)")
    _draw_outputs(axes, result)
    for path in _strongest(result):
        axes.plot(trace.alpha, trace.outputs[path, 0] + trace.cumulative[path], **SUM_STYLE)
    axes.plot([], [], **SUM_STYLE, label=f"{start} + sum of gradient · step")
    for label in axes.legend(edgecolor="none", fontsize=9).get_texts():
        label.set_parse_math(False)  # a text may hold dollars
    return figure


def _short(text: str, limit: int) -> str:
    return shortened(on_one_line(text), limit)


def _strongest(result: TextTrace) -> list[int]:
    """Return the paths that change F most, in descending order."""
    order = result.trace.change.abs().argsort(descending=True, stable=True)
    return order[:N_STRONGEST].tolist()


def _draw_outputs(axes: Any, result: TextTrace) -> None:
    trace, strongest = result.trace, _strongest(result)
    weaker = [path for path in range(len(trace.outputs)) if path not in strongest]
    for path in weaker:
        label = "other words" if path == weaker[0] else None
        axes.plot(trace.alpha, trace.outputs[path], color="0.8", linewidth=0.8, label=label)
    for rank, path in enumerate(strongest):
        word = f"{trace.change[path]:+.2f} {_short(result.words[path], MAX_WORD)}"
        axes.plot(
            trace.alpha, trace.outputs[path], color=f"C{rank}", linewidth=4, alpha=0.5,
            solid_capstyle="butt", label=word if result.one_by_one else "F(α)",
        )  # fmt: skip

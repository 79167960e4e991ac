"""Draw words by targets as a heat map, of bounded size: of a long text, an overview and a part."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from captum_sig._names import Rank
from captum_sig.viz.characters import on_one_line
from captum_sig.viz.colours import AGAINST, FOR, TARGET, WHITE
from captum_sig.viz.heatmap import (
    Result,
    caption,
    columns_shown,
    notes,
    rows_shown,
    scale_of_map,
    second_sides,
)
from captum_sig.viz.passages import passages
from captum_sig.viz.pictures import picture_label
from captum_sig.viz.scale import STRONGER, Scale
from captum_sig.viz.wording import measure_of, nouns, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from torch import Tensor

CELL, LETTER = 0.3, 0.08  # inches: a row or column, a letter
MAX_COLUMNS, MAX_ROWS = 60, 60  # with labels that can be read; both make at most 22 inches
MAX_BINS = 600  # of the overview
OVERVIEW = 1.3  # inches
MAX_FIGURES = 3  # of a target, such as its value and probability, that a picture shows
LETTERS_AN_INCH = 12  # of a title


def to_figure(result: Result, *, rank: Rank = "all") -> Figure:
    """Return the heat map: targets from top to bottom, words from left to right.

    Beside the targets, on the right, stand their figures. A target's own words are outlined.
    Triangles mark cells that are stronger than the full colour. Of more than `MAX_COLUMNS` words,
    those with the strongest cells are shown, below an overview of all; of more than `MAX_ROWS`
    targets, those with the strongest cells.
    """
    from matplotlib.figure import Figure

    shown = columns_shown(result, MAX_COLUMNS, rank)
    targets = rows_shown(result, MAX_ROWS)
    columns = [picture_label(result.columns[n]) for n in shown]
    rows = [picture_label(result.rows[row]) for row in targets]
    is_part = len(shown) < len(result.columns) and bool(rows)
    width, height = CELL * len(columns), CELL * len(rows)
    labels = LETTER * max(map(len, columns), default=0)  # below the map
    heights = [OVERVIEW] * is_part + [max(3, height + 1) + labels]
    size = max(6, width + 3), sum(heights)
    figure = Figure(figsize=size, layout="constrained")
    *overview, axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    scale = scale_of_map(result, rank)
    title = [result.summary, *notes(result), scale.note]
    if is_part:
        title.append(f"At the top, all {nouns(result)}. Below: {caption(result, shown)}")
    if len(targets) < len(result.rows):
        title.append(
            f"The {len(targets)} targets with the strongest cells of {len(result.rows):,}."
        )
    (overview or [axes])[0].set_title(
        _in_lines(title, int(size[0] * LETTERS_AN_INCH)), fontsize=10, loc="left", parse_math=False
    )
    if not rows or not columns:
        axes.axis("off")
        axes.text(0, 0.5, "There is no target." if not rows else "There is no word.")
        return figure
    image = _draw(axes, result, targets, shown, scale)
    for above in overview:
        _draw_overview(above, result.matrix[targets], scale)
    axes.set_xticks(range(len(columns)), columns, rotation=90, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(
        image, ax=axes, fraction=0.05, pad=0.01, label=measure_of(result).effect,
        extend="both" if scale.is_clipped else "neither",
    )  # fmt: skip
    return figure


def _in_lines(title: Sequence[str], width: int) -> str:
    lines = (line for text in title for line in on_one_line(text).split("\n"))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, width))


def _image(axes: Axes, matrix: Tensor, scale: Scale) -> AxesImage:
    from matplotlib.colors import LinearSegmentedColormap

    colours = [tuple(part / 255 for part in colour) for colour in (AGAINST, WHITE, FOR)]
    limit = scale.limit or 1.0
    return axes.imshow(
        matrix.numpy(), aspect="auto", vmin=-limit, vmax=limit,
        cmap=LinearSegmentedColormap.from_list("against and for", colours),
    )  # fmt: skip


def _draw(
    axes: Axes, result: Result, rows: Sequence[int], columns: Sequence[int], scale: Scale
) -> AxesImage:
    from matplotlib.patches import Rectangle

    matrix = result.matrix[rows][:, columns]
    image = _image(axes, matrix, scale)
    beside = dict(list(result.figures.items())[:MAX_FIGURES])
    if beside:
        lines = [
            "   ".join(number(values[row]).rjust(6) for values in beside.values()) for row in rows
        ]
        figures = axes.secondary_yaxis("right")
        figures.set_yticks(range(len(lines)), lines, fontfamily="monospace", fontsize=8)
        figures.tick_params(length=0)
        figures.spines[:].set_visible(False)
        axes.set_title(", ".join(beside), fontsize=8, loc="right")
    for column in second_sides(result, columns):
        axes.axvline(column - 0.5, color="0.6", linewidth=1)
    places = {n: column for column, n in enumerate(columns)}
    lines_of = {row: line for line, row in enumerate(rows)}
    for part in passages(result):
        for n, row in part.words_of_targets():
            if n in places and row in lines_of:
                corner = places[n] - 0.5, lines_of[row] - 0.5
                outline = Rectangle(corner, 1, 1, fill=False, edgecolor=TARGET, linewidth=1.5)
                axes.add_patch(outline)
    for sign, marker in zip(STRONGER, "^v", strict=True):
        cells = [
            (column, line)
            for line, values in enumerate(matrix.tolist())
            for column, value in enumerate(values)
            if scale.mark(value) == sign
        ]
        if cells:
            columns_of, lines_of_cells = zip(*cells, strict=True)
            axes.scatter(columns_of, lines_of_cells, s=16, color="black", marker=marker)
    return image


def _draw_overview(axes: Axes, matrix: Tensor, scale: Scale) -> None:
    """Draw all words without labels; of several in a bin, the strongest."""
    from torch.nn.functional import pad

    n = matrix.shape[1]
    size = -(-n // MAX_BINS)
    padded = pad(matrix.nan_to_num(), (0, -n % size))
    bins = padded.unflatten(1, (-1, size))  # (T, bins, words)
    strongest = bins.abs().argmax(2, keepdim=True)
    image = _image(axes, bins.gather(2, strongest)[..., 0], scale)
    image.set_interpolation("nearest")
    image.set_extent((0, bins.shape[1] * size, len(matrix), 0))
    axes.set_xlim(0, n)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.spines[:].set_color("0.8")

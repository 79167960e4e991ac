"""Draw the words of one target as bars."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captum_sig._names import Rank
from captum_sig.viz.characters import on_one_line
from captum_sig.viz.colours import AGAINST, FOR
from captum_sig.viz.passages import Passage, passages
from captum_sig.viz.pictures import picture_label
from captum_sig.viz.ranking import left_out, scale_of_text
from captum_sig.viz.scale import Scale
from captum_sig.viz.text import Result, notes
from captum_sig.viz.wording import called, measure_of, nouns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BEYOND = 1.15  # of the full colour: where a bar that is longer ends
MAX_BARS = 40  # of the strongest words
BAR = 0.22  # inches of a word's line
TITLE_WIDTH = 90  # characters of a line


def to_figure(result: Result, *, rank: Rank = "all") -> Figure:
    """Return a bar for each word, from top to bottom in the order of the text.

    At most `MAX_BARS` of the strongest words are shown; the title says so. The texts of a pair have
    a panel each. Thin lines are ± the score's standard error, or deviation; bold words belong to
    the target itself. Bars that are much longer than all others are cut, with their score beside.
    """
    from matplotlib.figure import Figure

    scores = [word.score for word in result.words]
    without, scale = left_out(result, rank), scale_of_text(result, rank)
    counted = [n for n in range(len(scores)) if n not in without]
    shown = set(sorted(counted, key=lambda n: -abs(scores[n]))[:MAX_BARS])
    parts = [
        (part, [n for n, _ in part.words if n in shown])
        for part in passages(result)
        if part.words or not part.label
    ]
    longest = max((len(words) for _, words in parts), default=0)
    width = 8 if len(parts) < 2 else 11
    figure = Figure(figsize=(width, max(2.0, 1.2 + BAR * longest)), layout="constrained")
    every_axes = figure.subplots(1, max(1, len(parts)), sharex=True, squeeze=False)[0]
    for axes, (part, words) in zip(every_axes, parts, strict=False):
        _draw(axes, result, part, words, scale)
        axes.set_ylim(max(1, longest) - 0.4, -0.6)  # bars of both panels are equally high
    lines = [result.summary, *notes(result)]
    if len(shown) < len(scores):
        lines.append(
            f"the {len(shown)} strongest of {len(scores)} {nouns(result)}, in the order of the text"
        )
        lines[-1] += ", punctuation and templates left out" if without else ""
    title = "\n".join(
        line for text in lines for line in textwrap.wrap(on_one_line(text), TITLE_WIDTH)
    )
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", parse_math=False)
    return figure


def _draw(axes: Axes, result: Result, part: Passage, words: Sequence[int], scale: Scale) -> None:
    scores = [result.words[n].score for n in words]
    limit = MAX_BEYOND * scale.limit
    lengths = [max(-limit, min(limit, score)) for score in scores]
    colours = [tuple(c / 255 for c in (FOR if score > 0 else AGAINST)) for score in scores]
    errors: Any = [
        0.0 if scale.mark(s) else _error(result.words[n])
        for n, s in zip(words, scores, strict=True)
    ]
    axes.barh(
        range(len(words)), lengths, color=colours, height=0.8,
        xerr=errors if any(errors) else None, error_kw={"elinewidth": 0.8},
    )  # fmt: skip
    for place, (length, score) in enumerate(zip(lengths, scores, strict=True)):
        if scale.mark(score):  # a bar that would make all others short
            sign = "▶" if score > 0 else "◀"
            side = "right" if score > 0 else "left"
            axes.text(length, place, f" {score:+.2f} {sign} ", ha=side, va="center", fontsize=8)
    names = [picture_label(called(result.words[n])) for n in words]
    axes.set_yticks(range(len(words)), names, parse_math=False)
    for tick, n in zip(axes.get_yticklabels(), words, strict=True):
        if any(word == n for word, _ in part.words_of_targets()):
            tick.set_fontweight("bold")
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel(measure_of(result).effect)
    if part.label:
        axes.set_title(part.label, fontsize=10, loc="left")
    if not words:
        axes.text(0.5, 0.5, "There is no word.", ha="center", transform=axes.transAxes)


def _error(word: Any) -> float:
    known = (getattr(word, name, None) for name in ("standard_error", "std"))
    return next((value for value in known if value is not None), 0.0)

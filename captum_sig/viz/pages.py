"""Show results as HTML: fragments for notebooks, and self-contained pages.

Whatever comes from texts, models or options is escaped.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captum_sig._names import Rank
from captum_sig.viz import arcs, heatmap, text, tree
from captum_sig.viz.agreement import explained_sides, mark_of, marks_shown
from captum_sig.viz.characters import label, shortened, visible, with_line_ends
from captum_sig.viz.colours import AGAINST, FOR, TARGET, WHITE, Colour, shades
from captum_sig.viz.excerpts import by_target, section_sums
from captum_sig.viz.legends import has_totals, is_matrix, page_legend
from captum_sig.viz.passages import Passage, Piece, passages, pieces
from captum_sig.viz.ranking import left_out, scale_of_text, scores_of
from captum_sig.viz.scale import STRONGER, Scale
from captum_sig.viz.sections import by_section, is_long, sections
from captum_sig.viz.wording import called, measure_of, name_of, nouns, number

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_COLUMN_LABEL, MAX_BUTTON_LABEL = 30, 40  # characters


@functools.cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("captum_sig.viz")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "FOR": FOR, "AGAINST": AGAINST, "TARGET": TARGET, "shades": shades, "label": label,
        "passages": passages, "pieces": pieces, "mark_of": mark_of, "measure_of": measure_of,
        "explained_sides": explained_sides, "marks_shown": marks_shown, "number": number,
        "LOOKS": arcs.LOOKS, "NONE_DEPENDS": arcs.NONE_DEPENDS, "pair_name": arcs.name,
        "pairs_by_kind": arcs.by_kind, "strip_of": arcs.strip,
        "measured_pairs": arcs.measured_pairs, "heatmap": heatmap, "notes": text.notes,
        "shown_words": text.shown_words, "word_title": word_title, "as_json": as_json,
        "has_totals": has_totals, "fragment": fragment, "cells": cells, "is_long": is_long,
        "left_out": left_out, "by_target": by_target, "sectioned": sectioned, "row_of": row_of,
        "box_of": box_of, "has_signs": has_signs, "scale_of_text": scale_of_text,
        "nouns": nouns, "called": called, "shortened": shortened,
        "column_label": column_label,
        "button_label": button_label, "STRONGER": STRONGER, "tree_branch": tree.branch,
        "tree_targets": tree.targets_of,
    }  # fmt: skip
    environment.filters |= {"label": label, "with_line_ends": with_line_ends}
    return environment


def render(template: str, package: str = "captum_sig.viz", **values: Any) -> str:
    """Render a Jinja2 template; strings are escaped and their control characters made visible.

    The template is a file in the folder `templates` of the package or of `captum_sig.viz`.
    """
    return _environment(package).get_template(template).render({"rank": "all"} | values)


def fragment(result: Any) -> str:
    """Return the template of a result."""
    if leaves(result) is not result:
        return "tree.html"
    return "heatmap.html" if is_matrix(result) else "text.html"


def leaves(result: Any) -> Any:
    """Return a result whose words have scores: of a tree, that of its leaves."""
    return result.flat() if hasattr(result, "root") else result


def word_title(result: Any, word: Any) -> str:
    """Return a word's score in its unit; of one target, also divided by the scores' L2 norm."""
    units = measure_of(result).units
    name = "" if name_of(word) is None else f"{called(word)}: "
    score = f"{name}{word.score:+.4f} {units}".rstrip()
    return score if is_matrix(result) else f"{score}, {word.normalized:+.3f} normalised"


def column_label(name: str) -> str:
    """Return a word as the head of a column."""
    return shortened(name, MAX_COLUMN_LABEL)


def button_label(name: str) -> str:
    """Return a target as a button of a row of them."""
    return shortened(label(name), MAX_BUTTON_LABEL)


def cells(
    target: str, words: Sequence[str], scores: Sequence[float], columns: Sequence[int], scale: Scale
) -> list[tuple[str, Colour, str]]:
    """Return title, colour and sign of some cells of a row; no title where no word belongs."""
    shown, picked = label(target), [scores[n] for n in columns]
    return [
        (
            "" if math.isnan(score) else f"{words[n]} → {shown}: {score:+.4f}",
            colour,
            scale.mark(score),
        )
        for n, score, colour in zip(columns, picked, scale.colours(picked), strict=True)
    ]


def has_signs(shown: Mapping[int, text.ShownWord]) -> bool:
    """Whether a word is stronger than the full colour."""
    return any(word.sign for word in shown.values())


@dataclass(frozen=True)
class ShownSection:
    """The pieces of a section; its words, their sum and its colour, if a margin has room for it."""

    pieces: Sequence[Piece]
    words: range | None = None
    total: float = 0.0
    colour: Colour = WHITE
    name: str = ""


def sectioned(result: Any, part: Passage, with_sums: bool) -> list[ShownSection]:
    """Return the sections of a text, with the sums of their words' scores."""
    found = sections(part) if with_sums else []
    scores = scores_of(result) if found else []
    if not scores:
        return [ShownSection(list(pieces(part)))]
    limit = max(abs(total) for _, _, total in section_sums(result))
    totals = [section.total(scores) for section in found]
    words = [section.words for section in found]
    colours, names = shades(totals, limit), dict(part.words)
    of_units = [(name_of(names[own.start]) or "") if len(own) == 1 else "" for own in words]
    shown = zip(by_section(part, found), words, totals, colours, of_units, strict=True)
    return list(itertools.starmap(ShownSection, shown))


def row_of(result: Any, row: int, rank: Rank) -> dict[str, str | int]:
    """Return what a script needs to colour the words by a target: scores, limits, and notes.

    Limits and notes are those without and with the switch, which only a long text has.
    """
    ranks: tuple[Rank, Rank] = ("all", "words") if is_long(result) else (rank, rank)
    scales = [scale_of_text(result, each, row) for each in ranks]
    return {"data-row": as_json(scores_of(result, row)), "data-number": row, **_limits(scales)}


def box_of(result: Any) -> dict[str, str]:
    """Return what `row_of` does for the scores that a long text shows at first."""
    scales = [scale_of_text(result, "all"), scale_of_text(result, "words")]
    return {"data-total": as_json(scores_of(result))} | _limits(scales)


def _limits(scales: Sequence[Scale]) -> dict[str, str]:
    return {
        "data-limit": as_json([scale.limit for scale in scales]),
        "data-notes": json.dumps([scale.note for scale in scales], allow_nan=False),
    }


def as_json(scores: Sequence[float]) -> str:
    """Return scores with four digits as JSON, null for NaN."""
    rounded = [None if math.isnan(score) else float(f"{score:.4g}") for score in scores]
    return json.dumps(rounded, allow_nan=False)


def to_html(result: Any, *, rank: Rank = "all") -> str:
    """Return a fragment for a notebook: the summary, the coloured text, and the heat map if any.

    Hover over a word for its score; arcs join words that act together.
    """
    return render(fragment(result), result=result, is_alone=True, rank=rank)


def to_page(results: Iterable[Any], *, rank: Rank = "all") -> str:
    """Return a self-contained HTML page with every result.

    Of long texts, `rank` says whether the switch that leaves out punctuation and the tokens of
    templates is on at first.
    """
    shown = list(results)
    measure, legend = page_legend(map(leaves, shown))
    return render("page.html", results=shown, measure=measure, legend=legend, rank=rank)

"""Show results as HTML: fragments for notebooks, and self-contained pages.

Whatever comes from texts, models or options is escaped.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from captum_sig.viz import arcs, heatmap, text
from captum_sig.viz.agreement import explained_sides, mark_of, marks_shown
from captum_sig.viz.characters import label, visible
from captum_sig.viz.colours import AGAINST, FOR, TARGET, Colour, shades
from captum_sig.viz.legends import has_totals, is_matrix, page_legend
from captum_sig.viz.passages import passages, pieces
from captum_sig.viz.wording import measure_of, number

if TYPE_CHECKING:
    from jinja2 import Environment


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
        "shown_words": shown_words, "word_title": word_title, "as_json": as_json,
        "has_totals": has_totals, "fragment": fragment, "cells": cells,
    }  # fmt: skip
    environment.filters["label"] = label
    return environment


def render(template: str, package: str = "captum_sig.viz", **values: Any) -> str:
    """Render a Jinja2 template; strings are escaped and their control characters made visible.

    The template is a file in the folder `templates` of the package or of `captum_sig.viz`.
    """
    return _environment(package).get_template(template).render(values)


def fragment(result: Any) -> str:
    """Return the template of a result."""
    return "heatmap.html" if is_matrix(result) else "text.html"


def shown_words(result: text.Result) -> dict[int, tuple[Any, Colour]]:
    """Return the words of one target and their colours, by their numbers."""
    colours = shades([word.score for word in result.words])
    return dict(enumerate(zip(result.words, colours, strict=True)))


def word_title(result: Any, word: Any) -> str:
    """Return a word's score in its unit; of one target, also divided by the scores' L2 norm."""
    units = measure_of(result).units
    score = f"{word.score:+.4f} {units}".rstrip()
    return score if is_matrix(result) else f"{score}, {word.normalized:+.3f} normalised"


def cells(
    target: str, words: Sequence[str], scores: Sequence[float], limit: float
) -> list[tuple[str, Colour]]:
    """Return the title and colour of each cell of a row; no title where a word does not belong."""
    shown = label(target)
    return [
        ("" if math.isnan(score) else f"{word} → {shown}: {score:+.4f}", colour)
        for word, score, colour in zip(words, scores, shades(scores, limit), strict=True)
    ]


def as_json(scores: Sequence[float]) -> str:
    """Return scores with four digits as JSON, null for NaN."""
    rounded = [None if math.isnan(score) else float(f"{score:.4g}") for score in scores]
    return json.dumps(rounded, allow_nan=False)


def to_html(result: Any) -> str:
    """Return a fragment for a notebook: the summary, the coloured text, and the heat map if any.

    Hover over a word for its score; arcs join words that act together.
    """
    return render(fragment(result), result=result, is_alone=True)


def to_page(results: Iterable[Any]) -> str:
    """Return a self-contained HTML page with every result."""
    shown = list(results)
    measure, legend = page_legend(shown)
    return render("page.html", results=shown, measure=measure, legend=legend)

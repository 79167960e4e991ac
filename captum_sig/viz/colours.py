"""Colours of scores: from white to the full colour of the strongest."""

from __future__ import annotations

import math
from collections.abc import Sequence

Colour = tuple[int, int, int]
FOR, AGAINST = (34, 160, 90), (222, 70, 60)  # full colour of the strongest word, as Captum's hues
WHITE = (255, 255, 255)
TARGET = "#2f7fd0"  # in CSS, of the line under the target's own characters


def shades(scores: Sequence[float], strongest: float | None = None) -> list[Colour]:
    """Return a colour for each score: white at 0 and for NaN, full colour from ± `strongest` on.

    `strongest` is by default the largest absolute score.
    """
    if strongest is None:
        strongest = max((abs(score) for score in scores if not math.isnan(score)), default=0.0)
    return [
        WHITE
        if math.isnan(score)
        else tuple(  # type: ignore[misc]
            round(255 + (end - 255) * min(1.0, abs(score) / (strongest or 1.0)))
            for end in (FOR if score > 0 else AGAINST)
        )
        for score in scores
    ]


def style(colour: Colour) -> str:
    """Return the style of `rich` for black on this colour."""
    return f"black on rgb({','.join(map(str, colour))})"

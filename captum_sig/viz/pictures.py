"""Draw figures of matplotlib as PNG, without its global state."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from captum_sig.viz.characters import label, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LABEL = 30  # characters of a word or target in a picture

# What a picture shows for the pictures of control characters, which its font lacks.
IN_FONT = {0x2400 + code: f"^{chr(64 + code)}" for code in range(32)}
IN_FONT |= str.maketrans({"␠": "␣", "␊": "⏎", "␉": "⇥"})


def picture_label(token: str) -> str:
    """Return a word or target as a picture shows it: short, on one line."""
    return shortened(label(token).translate(IN_FONT), MAX_LABEL)


def figure_to_png(figure: Figure, **options: Any) -> bytes:
    """Draw a figure of matplotlib with 150 dots per inch; options as in `Figure.savefig`."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        figure.savefig(stream, format="png", dpi=150, **options)
    return stream.getvalue()

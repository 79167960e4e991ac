"""Draw figures of matplotlib as PNG, without its global state."""

from __future__ import annotations

import io
import struct
import warnings
from typing import TYPE_CHECKING, Any

from captum_sig.viz.characters import label, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
MAX_PIXELS = 4096  # of a side, which every viewer and chat shows
MAX_LABEL = 30  # characters of a word or target in a picture

# What a picture shows for the pictures of control characters, which its font lacks.
IN_FONT = {0x2400 + code: f"^{chr(64 + code)}" for code in range(32)}


def picture_label(token: str) -> str:
    """Return a word or target as a picture shows it: short, on one line."""
    return shortened(label(token).translate(IN_FONT), MAX_LABEL)


def figure_to_png(figure: Figure, **options: Any) -> bytes:
    """Draw a figure of matplotlib with 150 dots per inch; options as in `Figure.savefig`.

    If a side were longer than `MAX_PIXELS`, there are fewer dots per inch.
    """
    picture = _to_png(figure, DOTS_PER_INCH, options)
    longest = max(size_of_png(picture))
    if longest <= MAX_PIXELS:
        return picture
    return _to_png(figure, DOTS_PER_INCH * (MAX_PIXELS - 1) / longest, options)


def _to_png(figure: Figure, dots_per_inch: float, options: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        figure.savefig(stream, format="png", dpi=dots_per_inch, **options)
    return stream.getvalue()


def size_of_png(picture: bytes) -> tuple[int, int]:
    """Return the width and height of a PNG picture in pixels."""
    width, height = struct.unpack(">II", picture[16:24])  # of the header, see RFC 2083, 11.2.1
    return width, height

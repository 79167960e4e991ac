"""Show results as HTML, in a terminal, and as pictures."""

from captum_sig.viz.text import (
    AGAINST,
    FOR,
    coloured,
    on_one_line,
    pieces,
    shades,
    shortened,
    style,
    to_html,
    to_page,
    to_plain,
    to_png,
    to_terminal,
    visible,
)

__all__ = [
    "AGAINST",
    "FOR",
    "coloured",
    "on_one_line",
    "pieces",
    "shades",
    "shortened",
    "style",
    "to_html",
    "to_page",
    "to_plain",
    "to_png",
    "to_terminal",
    "visible",
]

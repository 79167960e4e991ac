"""Show results as HTML, in a terminal, and as pictures."""

from captum_sig.viz.characters import on_one_line, shortened, visible
from captum_sig.viz.colours import AGAINST, FOR, shades, style
from captum_sig.viz.excerpts import Excerpt
from captum_sig.viz.legends import terminal_legend
from captum_sig.viz.pages import to_html, to_page
from captum_sig.viz.passages import passages, pieces
from captum_sig.viz.pictures import figure_to_png
from captum_sig.viz.text import coloured, to_plain, to_terminal

__all__ = [
    "AGAINST",
    "FOR",
    "Excerpt",
    "coloured",
    "figure_to_png",
    "on_one_line",
    "passages",
    "pieces",
    "shades",
    "shortened",
    "style",
    "terminal_legend",
    "to_html",
    "to_page",
    "to_plain",
    "to_terminal",
    "visible",
]

"""Show results as HTML, in a terminal, and as pictures."""

from captum_sig.viz.text import to_html, to_page, to_plain, to_terminal

__all__ = ["to_html", "to_page", "to_plain", "to_terminal"]

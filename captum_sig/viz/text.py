"""Words coloured by their score: HTML for notebooks and files, rich text for terminals.

Works on anything with the fields of `Result`. Everything that comes from a text or a
model is escaped.
"""

from __future__ import annotations

import html
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text


FOR, AGAINST = (34, 160, 90), (222, 70, 60)  # full colour of the strongest word, as Captum's hues


class Word(Protocol):
    """A word in a text, and its score."""

    @property
    def word(self) -> str: ...
    @property
    def start(self) -> int | None: ...
    @property
    def end(self) -> int | None: ...
    @property
    def score(self) -> float: ...
    @property
    def normalized(self) -> float: ...


class Result(Protocol):
    """A text with its words, and one line that says what is explained."""

    @property
    def text(self) -> str: ...
    @property
    def words(self) -> Sequence[Word]: ...
    @property
    def summary(self) -> str: ...


Colour = tuple[int, int, int]


def shades(scores: Sequence[float], strongest: float | None = None) -> list[Colour]:
    """Of each score: white at 0, full colour at the strongest, by default of these."""
    if strongest is None:
        strongest = max(map(abs, scores), default=0.0)
    return [
        tuple(  # type: ignore[misc]
            round(255 + (end - 255) * abs(score) / (strongest or 1.0))
            for end in (FOR if score > 0 else AGAINST)
        )
        for score in scores
    ]


def colours(words: Iterable[Word]) -> list[Colour]:
    """Background of each word: white at 0, full colour at the text's strongest word."""
    return shades([word.score for word in words])


def pieces(
    result: Result,
) -> Iterator[tuple[str, Word | None, Colour]]:
    """The text cut into words with their colours, and what stands between them (no word)."""
    white = (255, 255, 255)
    end = 0
    for word, colour in zip(result.words, colours(result.words), strict=True):
        if word.start is None or word.end is None:  # a tokenizer that keeps no offsets
            yield word.word, word, colour
            yield " ", None, white
            continue
        if word.start > end:
            yield result.text[end : word.start], None, white
        yield result.text[max(word.start, end) : word.end], word, colour
        end = max(end, word.end)
    if end < len(result.text) and all(word.end is not None for word in result.words):
        yield result.text[end:], None, white


def to_html(result: Result) -> str:
    """A fragment: the summary and the coloured text; hover a word for its score."""
    spans = []
    for text, word, colour in pieces(result):
        if word is None:
            spans.append(html.escape(visible(text)))
            continue
        title = f"{word.score:+.4f} logits, {word.normalized:+.3f} normalised"
        spans.append(mark(text, f"rgb{colour}", title))
    return (
        '<div style="font-family:sans-serif;line-height:1.9;margin:0.8em 0">'
        f'<div style="color:#666;font-size:85%">{html.escape(result.summary)}</div>'
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{"".join(spans)}</div></div>'
    )


def mark(text: str, background: str, title: str, data: str = "") -> str:
    """A piece of text on a colour of CSS, with a title to hover; escaped, but for `data`."""
    attributes = f'{data} title="{html.escape(title)}"'.strip()
    return (
        f'<span {attributes} style="background:{background};color:#000;border-radius:3px;'
        f'padding:1px 0">{html.escape(visible(text))}</span>'
    )


def to_page(results: Iterable[Result]) -> str:
    """A self-contained HTML page with every result."""
    return page(
        map(to_html, results),
        "the explained label; each text's strongest word has the full colour. Hover a word for its "
        "score, in logits and divided by the L2 norm of the text's scores.",
    )


def page(
    fragments: Iterable[str], legend: str, title: str = "Sequential Integrated Gradients"
) -> str:
    """A self-contained HTML page; the legend goes on from "for and against"."""
    body = "\n".join(fragments)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title></head>\n"
        '<body style="max-width:50em;margin:2em auto;padding:0 1em;background:#fff;color:#000">\n'
        f"{body}\n"
        '<p style="font-size:85%;font-family:sans-serif">'
        f'<span style="background:rgb{FOR};padding:1px 4px">for</span> and '
        f'<span style="background:rgb{AGAINST};padding:1px 4px">against</span> {legend}</p>\n'
        "</body></html>\n"
    )


def to_terminal(result: Result) -> Text:
    """The coloured text and the summary, for `rich`."""
    return coloured(result).append(f"\n{visible(result.summary)}", "bold")


def coloured(result: Result) -> Text:
    """The text with its words on their colours, for `rich`."""
    from rich.text import Text

    shown = Text()
    for text, word, colour in pieces(result):
        shown.append(visible(text), style(colour) if word is not None else "")
    return shown


def style(colour: Colour) -> str:
    """Black on this colour, for `rich`."""
    return f"black on rgb({','.join(map(str, colour))})"


def to_plain(result: Result) -> str:
    """The summary, then a line `word score` for each word."""
    lines: list[Any] = [result.summary]
    lines += [f"{' '.join(word.word.split())} {word.score:+.4f}" for word in result.words]
    return "\n".join(visible(line) for line in lines)


def to_png(figure: Figure, **options: Any) -> bytes:
    """A figure of matplotlib as a picture, 150 dots an inch; options as of `savefig`."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        figure.savefig(stream, format="png", dpi=150, **options)
    return stream.getvalue()


def visible(text: str) -> str:
    """Control characters as their pictures, or replaced: a text must not steer the terminal."""
    pictures = (chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)
    return "".join("\ufffd" if "\x7f" <= c <= "\x9f" else c for c in pictures)


def shortened(text: str, limit: int) -> str:
    """At most so many characters."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def on_one_line(text: str) -> str:
    """Also without line breaks and tabs."""
    return visible(text).replace("\n", "␊").replace("\t", "␉")

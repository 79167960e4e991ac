"""Show words coloured by their score: HTML for notebooks and files, rich text for terminals.

Works on anything with the fields of `Result`. Whatever comes from a text or a model is escaped.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from captum_sig.viz import arcs
from captum_sig.viz.agreement import (
    certainty,
    explained_sides,
    mark_of,
    marks_shown,
    residual_line,
    sides,
    terminal_legend,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure
    from rich.table import Table
    from rich.text import Text


Colour = tuple[int, int, int]
FOR, AGAINST = (34, 160, 90), (222, 70, 60)  # full colour of the strongest word, as Captum's hues
WHITE = (255, 255, 255)


class Word(Protocol):
    """A word in a text, and its score; `first`, `last` and `agreement` are shown if it has them."""

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
    """A text with its words, and one line that says what is explained.

    `residual` is shown if it has one: Σ of the scores − (F(x) − F(x̄)).
    """

    @property
    def text(self) -> str: ...
    @property
    def words(self) -> Sequence[Word]: ...
    @property
    def summary(self) -> str: ...


def shades(scores: Sequence[float], strongest: float | None = None) -> list[Colour]:
    """Return a colour for each score: white at 0, full colour at ± `strongest`.

    `strongest` is by default the largest absolute score.
    """
    if strongest is None:
        strongest = max(map(abs, scores), default=0.0)
    return [
        tuple(  # type: ignore[misc]
            round(255 + (end - 255) * abs(score) / (strongest or 1.0))
            for end in (FOR if score > 0 else AGAINST)
        )
        for score in scores
    ]


def pieces(result: Result) -> Iterator[tuple[str, Word | None, Colour]]:
    """Cut the text into its words, with their colours, and what stands between them (no word)."""
    end = 0
    colours = shades([word.score for word in result.words])
    for word, colour in zip(result.words, colours, strict=True):
        if word.start is None or word.end is None:  # a tokenizer that keeps no offsets
            yield word.word, word, colour
            yield " ", None, WHITE
            continue
        if word.start > end:
            yield result.text[end : word.start], None, WHITE
        yield result.text[max(word.start, end) : word.end], word, colour
        end = max(end, word.end)
    if end < len(result.text) and all(word.end is not None for word in result.words):
        yield result.text[end:], None, WHITE


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
        "FOR": FOR, "AGAINST": AGAINST, "pieces": pieces, "shades": shades, "mark_of": mark_of,
        "explained_sides": explained_sides, "marks_shown": marks_shown, "residual_of": residual_of,
        "LOOKS": arcs.LOOKS, "NONE_DEPENDS": arcs.NONE_DEPENDS, "pair_name": arcs.name,
        "pairs_by_kind": arcs.by_kind, "strip_of": arcs.strip,
        "measured_pairs": arcs.measured_pairs,
    }  # fmt: skip
    return environment


def render(template: str, package: str = "captum_sig.viz", **values: Any) -> str:
    """Render a Jinja2 template; strings are escaped and their control characters made visible.

    The template is a file in the folder `templates` of the package or of `captum_sig.viz`.
    """
    return _environment(package).get_template(template).render(values)


def residual_of(result: Result) -> str | None:
    """Return what the scores sum to beyond the effect of the whole text; None if unknown."""
    residual = getattr(result, "residual", None)
    return residual_line([word.score for word in result.words], residual)


def to_html(result: Result) -> str:
    """Return a fragment: the summary and the coloured text, with arcs between interacting words.

    Hover over a word for its score.
    """
    return render("text.html", result=result, is_alone=True)


LEGEND = (
    "the explained label; each text's strongest word has the full colour. Hover over a word for "
    "its score in logits, and divided by the L2 norm of the text's scores."
)


def to_page(results: Iterable[Result]) -> str:
    """Return a self-contained HTML page with every result."""
    return render("page.html", fragment="text.html", results=list(results), legend=LEGEND)


def to_terminal(result: Result, *, legend: bool = True) -> Text:
    """Return the coloured text, the summary and the words that act together, for `rich`.

    Words whose effect depends on the others are underlined; `legend` says what that means.
    """
    shown = coloured(result).append(f"\n{visible(result.summary)}", "bold")
    if residual := residual_of(result):
        shown.append(f"\n{residual}")
    for line, colour in arcs.lines(result):
        shown.append(f"\n{visible(line)}", colour)
    if legend and (lines := terminal_legend([result])):
        shown.append("\n").append(lines)
    return shown


def coloured(result: Result) -> Text:
    """Return the text with its words on their colours, for `rich`."""
    from rich.text import Text

    coloured_text = Text()
    for text, word, colour in pieces(result):
        mark = mark_of(word)
        line = f" {mark.style}" if mark else ""
        coloured_text.append(visible(text), f"{style(colour)}{line}" if word is not None else "")
    return coloured_text


def empty_table() -> Table:
    """Return a table without borders, for `rich`."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)


def style(colour: Colour) -> str:
    """Return the style of `rich` for black on this colour."""
    return f"black on rgb({','.join(map(str, colour))})"


MAX_ALIGNED = 32  # characters of a word and its score that the columns after them leave room for


def to_plain(result: Result) -> str:
    """Return the summary, a line `word score` for each word, and one for words that interact.

    The residual stands in the line of the summary. A word's effects alone and in the text, whether
    they agree, and how well its score is known, stand in columns after it.
    """
    from rich.cells import cell_len

    rows = [
        [
            f"{visible(' '.join(word.word.split()))} {word.score:+.4f}",
            *sides(word),
            certainty(word),
        ]
        for word in result.words
    ]
    widths = [
        max((length for cell in column if (length := cell_len(cell)) <= MAX_ALIGNED), default=0)
        for column in zip(*rows, strict=True)
    ]
    lines = [visible("  ".join(filter(None, [result.summary, residual_of(result)])))]
    for row in rows:
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    lines += [visible(line) for line, _ in arcs.lines(result)]
    return "\n".join(lines)


def to_png(figure: Figure, **options: Any) -> bytes:
    """Draw a figure of matplotlib with 150 dots per inch; options as in `Figure.savefig`."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box
        figure.savefig(stream, format="png", dpi=150, **options)
    return stream.getvalue()


# Characters that order what follows them from right to left or back, up to the end of a paragraph.
BIDI_CONTROLS = {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def visible(text: str) -> str:
    """Replace control characters by their pictures, so that a text cannot steer the terminal.

    Those that order text from right to left are spelled out, since they would act beyond their
    word, on its score among others.
    """
    pictures = (chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)
    shown = "".join("\ufffd" if "\x7f" <= c <= "\x9f" else c for c in pictures)
    return shown.translate(BIDI_CONTROLS)


def shortened(text: str, limit: int) -> str:
    """Cut a text to at most `limit` characters, the last of which is then "…"."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def on_one_line(text: str) -> str:
    """Make control characters visible, line breaks and tabs among them."""
    return visible(text).replace("\n", "␊").replace("\t", "␉")

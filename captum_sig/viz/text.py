"""Show words coloured by their score in a terminal, and as plain lines.

Works on anything with the fields of `Result`; those of pairs, targets and both sides of a word are
shown if it has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from captum_sig._names import Rank
from captum_sig.viz import arcs, excerpts
from captum_sig.viz.agreement import certainty, mark_of, residual_line, sides
from captum_sig.viz.characters import label, on_one_line, shortened, visible, with_line_ends
from captum_sig.viz.colours import Colour, style
from captum_sig.viz.legends import terminal_legend
from captum_sig.viz.passages import Located, Passage, passages, pieces
from captum_sig.viz.ranking import left_out, scale_of_text
from captum_sig.viz.scale import Scale
from captum_sig.viz.sections import is_long
from captum_sig.viz.wording import WORDS, called, dropped_line, level_of, nouns

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


N_STRONGEST = 10  # words whose scores a terminal shows
MAX_LABEL = 60  # characters of a unit in a list
MAX_ALIGNED = 32  # characters of a word and its score that the columns after them leave room for


class Word(Located, Protocol):
    """A word in a text, and its score; `first`, `last` and `agreement` are shown if it has them."""

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


def in_list(result: Any, name: str) -> str:
    """Return a word as it is, and a unit up to `MAX_LABEL` characters."""
    return name if level_of(result) in WORDS else shortened(name, MAX_LABEL)


def residual_of(result: Result) -> str | None:
    """Return what the scores sum to beyond the effect of the whole text; None if unknown."""
    residual = getattr(result, "residual", None)
    return residual_line([word.score for word in result.words], residual)


def notes(result: Result) -> list[str]:
    """Return what else is known of a whole text: the residual, and tokens that were not read."""
    return list(filter(None, [residual_of(result), dropped_line(result)]))


@dataclass(frozen=True)
class ShownWord:
    """A word with its score, its colour, and a sign if it is stronger than the full colour."""

    word: Any
    colour: Colour
    sign: str


def in_colour(words: Sequence[Any], scale: Scale) -> list[ShownWord]:
    """Return words with their colours."""
    colours = scale.colours([word.score for word in words])
    shown = zip(words, colours, strict=True)
    return [ShownWord(word, colour, scale.mark(word.score)) for word, colour in shown]


def shown_words(result: Result, rank: Rank) -> dict[int, ShownWord]:
    """Return the words of one target with their colours, by their numbers."""
    return dict(enumerate(in_colour(result.words, scale_of_text(result, rank))))


def to_terminal(
    result: Result, width: int = 80, *, legend: bool = True, rank: Rank = "all"
) -> Text:
    """Return the coloured text, the summary, the strongest words' scores, and notes, for `rich`.

    Words whose effect depends on the others are underlined; the words that act together have a
    line each. Of a long text, the strongest words and sections have a line each, of at most `width`
    characters. `legend` says what colours and lines mean.
    """
    shown = coloured(passages(result), shown_words(result, rank))
    shown.append(f"\n{visible(result.summary)}", "bold")
    if is_long(result):
        for strong in excerpts.to_terminal(result, width, rank):
            shown.append("\n").append(strong)
    elif result.words:
        shown.append("\n").append(_strongest(result, rank))
    for note in [*notes(result), *filter(None, [scale_of_text(result, rank).note])]:
        shown.append(f"\n{note}")
    for line, colour in arcs.lines(result):
        shown.append(f"\n{visible(line)}", colour)
    if legend and result.words:
        shown.append("\n").append(terminal_legend([result]))
    return shown


def coloured(parts: Sequence[Passage], words: Mapping[int, ShownWord]) -> Text:
    """Return texts with words on their colours, and the target's characters bold, for `rich`.

    `words` are the words that are shown, by their numbers. A sign stands before each line break
    within a word, and after a word that is stronger than the full colour.
    """
    from rich.text import Text

    shown = Text()
    for number, passage in enumerate(parts):
        shown.append("\n" if number else "")
        if passage.label:
            shown.append(f"{passage.label}: ", "dim")
        for piece in pieces(passage):
            styles, text = ["bold"] if piece.targets else [], piece.text
            if piece.number is not None and piece.number in words:
                word = words[piece.number]
                mark = mark_of(word.word)
                styles += [style(word.colour), *([mark.style] if mark else [])]
                text = with_line_ends(piece.text, word.sign * piece.ends_word)
            shown.append(visible(text), " ".join(styles))
    return shown


def _strongest(result: Result, rank: Rank) -> Text:
    """Return the strongest words with their scores in one line, the strongest first."""
    from rich.text import Text

    without = left_out(result, rank)
    counted = [word for n, word in enumerate(result.words) if n not in without]
    words = sorted(counted, key=lambda word: -abs(word.score))[:N_STRONGEST]
    shown = Text("   ").join(
        Text.assemble(f"{in_list(result, label(called(word)))} ", (f"{word.score:+.4f}", "bold"))
        for word in words
    )
    more = len(counted) - len(words)
    if more:
        noun = level_of(result) if more == 1 else nouns(result)
        shown.append(f"   and {more} weaker {noun}", "dim")
    return shown


def empty_table() -> Table:
    """Return a table without borders, for `rich`."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)


def to_plain(result: Result, *, rank: Rank = "all") -> str:
    """Return the summary, a line `word score` for each word, and one for words that interact.

    Notes stand in the line of the summary. The text of a pair that a word stands in, its effects
    alone and in the text, whether they agree, and how well its score is known, stand in columns
    after it. A long text ends with lists of its strongest words and sections.
    """
    from rich.cells import cell_len

    texts = {number: part.label for part in passages(result) for number, _ in part.words}
    rows = [
        [
            f"{in_list(result, visible(' '.join(called(word).split())))} {word.score:+.4f}",
            texts.get(number, ""),
            *sides(word),
            certainty(word),
        ]
        for number, word in enumerate(result.words)
    ]
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [
        max((length for cell in column if (length := cell_len(cell)) <= MAX_ALIGNED), default=0)
        for column in columns
    ]
    lines = [on_one_line("  ".join([result.summary, *notes(result)]))]
    for row in zip(*columns, strict=True):
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    lines += [visible(line) for line, _ in arcs.lines(result)]
    lines += excerpts.to_plain(result, rank)
    return "\n".join(lines)

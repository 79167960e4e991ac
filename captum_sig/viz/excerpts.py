"""The strongest words and sections of a long text, with a little of the text around each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captum_sig._names import Rank
from captum_sig.viz.characters import label, on_one_line, shortened
from captum_sig.viz.colours import style
from captum_sig.viz.passages import Passage, own_passages, passages
from captum_sig.viz.ranking import left_out, scale_of_text, scores_of, strongest
from captum_sig.viz.sections import Section, is_long, sections
from captum_sig.viz.wording import WORDS, called, level_of, name_of, nouns

if TYPE_CHECKING:
    from rich.text import Text

N_WORDS, N_SECTIONS = 10, 3
MAX_AROUND = 32  # characters on either side of a word
MAX_SECTION = 72  # characters of a section

RANKS: tuple[Rank, Rank] = ("all", "words")

Places = dict[int, tuple[Passage, Any]]  # the text and the word, by the word's number


@dataclass(frozen=True)
class Excerpt:
    """A word in its place: its number in the result, its score, and the text around it.

    Texts are on one line; of a unit, its name and beginning are in place of a word. `side` names
    the text of a pair, "" for a text alone.
    """

    number: int
    before: str
    word: str
    after: str
    score: float
    side: str = ""


def excerpts(result: Any, limit: int = N_WORDS, *, rank: Rank = "all") -> list[Excerpt]:
    """Return the strongest words with the text around them, the strongest first.

    Of several targets, those of the whole or the main one.

    Args:
        result: of one target or several.
        limit: number of words, at most.
        rank: "words" leaves out punctuation and the tokens of templates, see `ranking.left_out`.

    Raises:
        ValueError: if the rank is unknown.
    """
    scores, places = scores_of(result), _places(result)
    found = [n for n in strongest(scores, limit, left_out(result, rank)) if n in places]
    return [_excerpt(*places[n], n, scores[n]) for n in found]


@dataclass(frozen=True)
class TargetLists:
    """The strongest words and sections for one target; `row` is None for the whole.

    Beside each word stands where it counts: "all", "words" (see `Rank`), or "both".
    """

    row: int | None
    name: str
    is_first: bool  # whether the text shows this target at first
    words: Sequence[tuple[Excerpt, str]]
    sections: Sequence[tuple[Section, str, float]]


def by_target(result: Any) -> list[TargetLists]:
    """Return the lists of the whole and of each target, one of which a page shows at a time."""
    places, without = _places(result), left_out(result, "words")
    is_matrix = hasattr(result, "matrix")
    first = result.main_row if is_matrix and result.totals is None else None
    rows = list(range(len(result.rows))) if is_matrix else []
    lists = []
    for row in [*([None] if first is None else []), *rows]:
        words = _ranked(scores_of(result, row), places, without)
        name = "" if row is None else label(result.rows[row])
        lists.append(TargetLists(row, name, row == first, words, strongest_sections(result, row)))
    return lists


def _ranked(
    scores: Sequence[float], places: Places, without: Collection[int]
) -> list[tuple[Excerpt, str]]:
    """Return the strongest words of either rank, each with the rank that it belongs to."""
    of_all, of_words = ({*strongest(scores, N_WORDS, left)} for left in ((), without))
    both = of_all & of_words
    return [
        (_excerpt(*places[n], n, scores[n]), "both" if n in both else RANKS[n in of_words])
        for n in sorted((of_all | of_words) & places.keys(), key=lambda n: -abs(scores[n]))
    ]


def _places(result: Any) -> Places:
    """Return each word with the text that it stands in, by its number."""
    parts = [*passages(result), *(part for _, part in own_passages(result))]
    return {number: (part, word) for part in parts for number, word in part.words}


def _excerpt(part: Passage, word: Any, number: int, score: float) -> Excerpt:
    name = "" if name_of(word) is None else f"{label(called(word))}: "
    shown = f"{name}{shortened(label(word.word), MAX_SECTION)}"
    if word.start is None or word.end is None:
        return Excerpt(number, "", shown, "", score, part.label)
    before = on_one_line(part.text[max(0, word.start - 2 * MAX_AROUND) : word.start])
    after = on_one_line(part.text[word.end : word.end + 2 * MAX_AROUND])
    around = _last_words(before, MAX_AROUND), _first_words(after, MAX_AROUND)
    return Excerpt(number, around[0], shown, around[1], score, part.label)


def _first_words(text: str, limit: int) -> str:
    """Return the whole words that fit the limit, and "…" for the rest."""
    shown = text.rstrip()
    if len(shown) <= limit:
        return shown
    return f"{shown[:limit].rpartition(' ')[0] or shown[: limit - 1]}…"


def _last_words(text: str, limit: int) -> str:
    """Return `_first_words` from the end of a text."""
    return _first_words(text[::-1], limit)[::-1]


def section_sums(result: Any, row: int | None = None) -> list[tuple[Section, str, float]]:
    """Return each section of a long text with its first words and its words' sum, in order."""
    scores = scores_of(result, row)
    if not scores:
        return []
    return [
        (section, _beginning(part, section), section.total(scores))
        for part in passages(result)
        for section in sections(part)
    ]


def _beginning(part: Passage, section: Section) -> str:
    text = part.text[section.start : section.end].strip()
    return shortened(on_one_line(text[: 2 * MAX_SECTION]), MAX_SECTION)


def headings(result: Any, rank: Rank) -> tuple[str, str]:
    """Return what the lists of the strongest words and sections are called."""
    n = len(section_sums(result))
    without = ", punctuation and templates left out" if rank == "words" else ""
    some = f"The {N_SECTIONS} strongest of {n} sections" if n > N_SECTIONS else "Sections"
    return f"Strongest {nouns(result)}{without}:", f"{some}, sums of their words' scores:"


def strongest_sections(result: Any, row: int | None = None) -> list[tuple[Section, str, float]]:
    """Return the strongest sections of a long text, as `section_sums` does."""
    if level_of(result) not in WORDS:
        return []  # sections are units, whose scores are known
    return sorted(section_sums(result, row), key=lambda each: -abs(each[2]))[:N_SECTIONS]


def to_plain(result: Any, rank: Rank) -> list[str]:
    """Return lines with the strongest words and sections of a long text; none of a short one."""
    if not is_long(result):
        return []
    of_words, of_sections = headings(result, rank)
    lines = [of_words]
    for each in excerpts(result, rank=rank):
        lines.append(f"{each.score:+.4f}  {each.before:>{MAX_AROUND}}[{each.word}]{each.after}")
    sums = [f"{total:+.4f}  {text}" for _, text, total in strongest_sections(result)]
    return [*lines, *([of_sections, *sums] if sums else [])]


def to_terminal(result: Any, width: int, rank: Rank) -> list[Text]:
    """Return `to_plain` for `rich`: a line each, cut to the width, words on their colours."""
    from rich.text import Text

    if not is_long(result):
        return []
    of_words, of_sections = headings(result, rank)
    found, scale = excerpts(result, rank=rank), scale_of_text(result, rank)
    around = min(MAX_AROUND, max(8, (width - len("+0.0000  ")) // 3))
    lines = [Text(of_words, "bold")]
    for each, colour in zip(found, scale.colours([each.score for each in found]), strict=True):
        before = _last_words(each.before, around)
        word = (each.word + scale.mark(each.score), style(colour))
        lines.append(Text.assemble(f"{each.score:+.4f}  ", f"{before:>{around}}", word, each.after))
    sums = strongest_sections(result)
    lines += [Text(of_sections, "bold")] if sums else []
    lines += [Text(f"{total:+.4f}  {text}") for _, text, total in sums]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines

"""Show which words act together: arcs above a strip of the words, and a line for each pair.

Works on anything with the fields of `Result`; pairs that are independent are not shown.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from captum_sig.viz.characters import shortened
from captum_sig.viz.wording import called

MAX_ARCS = 10  # drawn above a text; the list below has all pairs
MAX_NAME = 60  # characters of a word, which may be a unit
MAX_GAP = 3  # words between those of pairs that the strip spells out, rather than "…"
SLOT = 6  # pixels between the ends of arcs at the same word


@dataclass(frozen=True)
class Look:
    """How pairs of a kind are shown: in CSS, and in words."""

    colour: str  # of medium lightness, for light and dark backgrounds
    line: str
    meaning: str


INDEPENDENT = "independent"
LOOKS = {
    "say the same": Look("#2f7fd0", "2px solid", "one of them is enough"),
    "only together": Look("#b26a00", "2px dashed", "one needs the other"),
    "turns it": Look("#a64fc8", "4px double", "one reverses or takes back the other"),
}
NONE_DEPENDS = "The strongest words act independently of each other."


class Word(Protocol):
    """A word of a text, or a unit, whose `name` is shown if it has one."""

    @property
    def word(self) -> str: ...


class Pair(Protocol):
    """Two words by their numbers, their second difference, and what it means."""

    @property
    def words(self) -> tuple[int, int]: ...
    @property
    def value(self) -> float: ...
    @property
    def kind(self) -> str: ...


class Result(Protocol):
    """A text and its words; pairs in a field `interactions`, the strongest first, if it has one."""

    @property
    def text(self) -> str: ...
    @property
    def words(self) -> Sequence[Word]: ...


@dataclass(frozen=True)
class Arc:
    """An arc from one cell of a strip to another."""

    pair: Pair
    left: int  # number of the cell
    right: int
    level: int  # 1 is the lowest
    shifts: tuple[int, int] = (0, 0)  # pixels from the middle of both cells, in reading direction


@dataclass(frozen=True)
class Strip:
    """The words of the pairs in order, with a few of those between them, and the arcs above."""

    cells: Sequence[int | None]  # a word's number, or None for words that are left out
    arcs: Sequence[Arc]
    direction: str  # of the text: "ltr" or "rtl"

    @property
    def n_levels(self) -> int:
        """The level of the highest arc."""
        return max(arc.level for arc in self.arcs)

    def is_end(self, cell: int) -> bool:
        """Whether an arc ends at a cell."""
        return any(cell in (arc.left, arc.right) for arc in self.arcs)

    def width(self, cell: int) -> int:
        """Return the pixels that the ends of arcs at a cell need."""
        return SLOT * sum(cell in (arc.left, arc.right) for arc in self.arcs)


def measured_pairs(result: Result) -> Sequence[Pair]:
    """Return the pairs that were measured, the strongest first."""
    return getattr(result, "interactions", None) or ()


def dependent_pairs(result: Result) -> list[Pair]:
    """Return the pairs that are not independent, the strongest first."""
    return [pair for pair in measured_pairs(result) if pair.kind != INDEPENDENT]


def name(result: Result, pair: Pair) -> str:
    """Return both words on one line."""
    return " + ".join(
        shortened(" ".join(called(result.words[word]).split()), MAX_NAME) for word in pair.words
    )


def lines(result: Result) -> list[tuple[str, str]]:
    """Return a line and its colour for each pair; one line if all pairs are independent."""
    pairs = dependent_pairs(result)
    if measured_pairs(result) and not pairs:
        return [(NONE_DEPENDS, "")]
    return [
        (f"{name(result, pair)}: {pair.kind} {pair.value:+.4f}", LOOKS[pair.kind].colour)
        for pair in pairs
    ]


def by_kind(result: Result) -> dict[str, list[Pair]]:
    """Sort the pairs by what they mean, the strongest first."""
    of_kind: dict[str, list[Pair]] = {}
    for pair in dependent_pairs(result):
        of_kind.setdefault(pair.kind, []).append(pair)
    return of_kind


def strip(result: Result) -> Strip:
    """Lay out the strongest pairs: shorter arcs lie below longer ones, and none share an end."""
    pairs = dependent_pairs(result)[:MAX_ARCS]
    cells = _cells(sorted({word for pair in pairs for word in pair.words}), len(result.words))
    arcs: list[Arc] = []
    for pair in sorted(pairs, key=lambda pair: pair.words[1] - pair.words[0]):
        left, right = map(cells.index, pair.words)
        below = [arc.level for arc in arcs if arc.left < right and left < arc.right]
        arcs.append(Arc(pair, left, right, 1 + max(below, default=0)))
    return Strip(cells, [_with_shifts(arc, arcs) for arc in arcs], _direction(result.text))


def _direction(text: str) -> str:
    """Return the direction of a text's first letter, as HTML's `dir="auto"` does for the text."""
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("L", "R", "AL"):
            return "ltr" if kind == "L" else "rtl"
    return "ltr"


def _cells(words: Sequence[int], n_words: int) -> list[int | None]:
    """Put a gap of more than `MAX_GAP` words, or any at the ends of the text, into one cell."""
    cells: list[int | None] = [None] if words[0] > 0 else []
    for word, following in zip(words, [*words[1:], None], strict=True):
        cells.append(word)
        if following is not None:
            between = range(word + 1, following)
            cells += between if len(between) <= MAX_GAP else [None]
    return [*cells, None] if words[-1] < n_words - 1 else cells


def _with_shifts(arc: Arc, arcs: Sequence[Arc]) -> Arc:
    """Spread the ends at each word: arcs from before it first, and the outer ones outside."""

    def shift(cell: int) -> int:
        from_before = sorted(a.level for a in arcs if a.right == cell)
        onwards = sorted((a.level for a in arcs if a.left == cell), reverse=True)
        number = (
            from_before.index(arc.level)
            if arc.right == cell
            else len(from_before) + onwards.index(arc.level)
        )
        n_ends = len(from_before) + len(onwards)
        return SLOT * (2 * number - n_ends + 1) // 2

    return Arc(arc.pair, arc.left, arc.right, arc.level, (shift(arc.left), shift(arc.right)))

"""Long texts by section: units, paragraphs or sentences, with the sums of their words' scores."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from captum_sig.viz.passages import Passage, Piece, pieces
from captum_sig.viz.wording import WORDS
from captum_sig.words.units import paragraphs, sentences

MAX_SHORT = 60  # words of a text that is seen at a glance, and needs no sections and lists
MAX_CHARACTERS = 10 * MAX_SHORT  # of such a text, whose words may be units


@dataclass(frozen=True)
class Section:
    """A part of a text with the numbers of the words that begin in it."""

    start: int
    end: int
    words: range

    def total(self, scores: Sequence[float]) -> float:
        """Return the sum of the words' scores, NaN aside."""
        return math.fsum(scores[n] for n in self.words if not math.isnan(scores[n]))


def is_long(result: Any) -> bool:
    """Whether a result has more words, or more characters, than are seen at a glance."""
    texts = result.text, getattr(result, "text_pair", None) or ""
    return len(result.words) > MAX_SHORT or max(map(len, texts)) > MAX_CHARACTERS


def sections(passage: Passage) -> list[Section]:
    """Return a long text's units, or its paragraphs, or else its sentences, without gaps.

    Returns an empty list for a short text, one section, words without offsets, and the leaves of a
    tree, which knows the effects of its units.
    """
    begins = [word.start for _, word in passage.words if word.start is not None]
    is_short = len(passage.words) <= MAX_SHORT and len(passage.text) <= MAX_CHARACTERS
    if is_short or passage.level == "auto" or len(begins) < len(passage.words):
        return []
    if passage.level not in WORDS:
        return _sections(passage, begins, begins)
    for split in (paragraphs, sentences):
        found = _sections(passage, begins, _starts(split, passage.text))
        if len(found) > 1:
            return found
    return []


@functools.lru_cache(maxsize=8)
def _starts(split: Callable[[str], list[tuple[int, int]]], text: str) -> list[int]:
    return [start for start, _ in split(text)]


def _sections(passage: Passage, begins: Sequence[int], starts: Sequence[int]) -> list[Section]:
    """Cut a text at starts between which words begin; `begins` are the words' in their order."""
    if not begins:
        return []
    first, cuts, words = passage.words[0][0], [0], [0]
    for start, end in zip(starts, [*starts[1:], len(passage.text)], strict=True):
        n_before = bisect.bisect_left(begins, start)
        if 0 < n_before < bisect.bisect_left(begins, end):
            cuts.append(start)
            words.append(n_before)
    bounds = zip(
        cuts, [*cuts[1:], len(passage.text)], words, [*words[1:], len(begins)], strict=True
    )
    return [Section(start, end, range(first + a, first + b)) for start, end, a, b in bounds]


def by_section(passage: Passage, parts: Sequence[Section]) -> list[list[Piece]]:
    """Return the pieces of each section."""
    found: list[list[Piece]] = [[] for _ in parts]
    starts = [part.start for part in parts]
    for piece in pieces(passage):
        found[bisect.bisect_right(starts, piece.start) - 1].append(piece)
    return found

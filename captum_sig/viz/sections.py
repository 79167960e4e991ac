"""Long texts by section: paragraphs, or else sentences, with the sums of their words' scores."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captum_sig.viz.passages import Passage, Piece, pieces

SEPARATORS = [  # the coarsest first; each section ends with what separates it from the next
    re.compile(r"\n\s*\n\s*"),
    re.compile(r"\s*\n\s*"),
    re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=\S)"),
]
MAX_SHORT = 60  # words of a text that is seen at a glance, and needs no sections and lists


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
    """Whether a result has more words than are seen at a glance."""
    return len(result.words) > MAX_SHORT


def sections(passage: Passage) -> list[Section]:
    """Return a long text's paragraphs, or else its sentences, without a gap between them.

    Paragraphs are separated by blank lines, or where there is none by line breaks. Returns an empty
    list for a short text, one section, and words without offsets.
    """
    begins = [word.start for _, word in passage.words if word.start is not None]
    if len(passage.words) <= MAX_SHORT or len(begins) < len(passage.words):
        return []
    for separator in SEPARATORS:
        ends = (match.end() for match in separator.finditer(passage.text))
        found = _sections(passage, begins, [*ends, len(passage.text)])
        if len(found) > 1:
            return found
    return []


def _sections(passage: Passage, begins: Sequence[int], ends: Sequence[int]) -> list[Section]:
    """Cut a text at ends between which words begin; `begins` are the words' in their order."""
    first, cuts, words = passage.words[0][0], [0], [0]
    for start, end in zip(ends, ends[1:], strict=False):
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

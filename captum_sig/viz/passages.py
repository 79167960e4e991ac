"""The texts of a result, cut into their words, the targets' characters, and what stands between."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from captum_sig._names import Side
from captum_sig.viz.wording import level_of, side_labels, task_of


class Located(Protocol):
    """A word or unit in a text; its `name` is shown if it has one, and its `side` in a pair."""

    @property
    def word(self) -> str: ...
    @property
    def start(self) -> int | None: ...
    @property
    def end(self) -> int | None: ...


@dataclass(frozen=True)
class Passage:
    """A text, its words with their numbers in the result, and the targets' characters in it."""

    label: str  # which text of a pair it is; "" for a text alone
    text: str
    words: Sequence[tuple[int, Located]]
    targets: Sequence[tuple[int, int, int]] = ()  # number, start and end
    level: str = "word"  # of the words; units above words are sections of their own

    def words_of_targets(self) -> list[tuple[int, int]]:
        """Return the numbers of each word that has characters of a target, and of the target."""
        return [
            (number, target)
            for target, start, end in self.targets
            for number, word in self.words
            if word.start is not None and word.end is not None
            if word.start < end and start < word.end
        ]


@dataclass(frozen=True)
class Piece:
    """A part of a text within a word, or between words, and the targets that it belongs to."""

    text: str
    number: int | None  # of the word
    targets: tuple[int, ...] = ()
    start: int = field(default=0, compare=False)  # in the text, if the tokenizer keeps offsets
    ends_word: bool = field(default=True, compare=False)


def passages(result: Any) -> list[Passage]:
    """Return the text of a result, or both texts of a pair."""
    pair, task = getattr(result, "text_pair", None), task_of(result)
    texts: dict[Side, str] = {"text": result.text}
    if pair is not None:
        texts["text_pair"] = pair
    has_sides = pair is not None or any(getattr(t, "text_pair", None) for t in _targets(result))
    labels = side_labels(task) if has_sides else ("",)
    holds_targets = "text_pair" if task == "question-answering" and pair is not None else "text"
    return [
        Passage(
            label, text, words_of_side(result, side),
            _characters(result) if side == holds_targets else (), level_of(result),
        )
        for label, (side, text) in zip(labels, texts.items(), strict=False)
    ]  # fmt: skip


def words_of_side(result: Any, side: Side) -> list[tuple[int, Located]]:
    """Return the words of one text of a pair with their numbers; all words of a text alone."""
    return [
        (number, word)
        for number, word in enumerate(result.words)
        if (getattr(word, "side", None) or "text") == side
    ]


def own_passages(result: Any) -> list[tuple[int, Passage]]:
    """Return the second text of each target that has its own, with the target's number."""
    named = side_labels(task_of(result))[1]
    words = dict(words_of_side(result, "text_pair"))
    return [
        (
            row,
            Passage(
                f"{named} {row + 1}",
                target.text_pair,
                [(n, words[n]) for n in belonging(result, row) if n in words],
            ),
        )
        for row, target in enumerate(_targets(result))
        if target.text_pair is not None
    ]


def belonging(result: Any, row: int) -> list[int]:
    """Return the columns that belong to a target."""
    return [n for n, score in enumerate(result.matrix[row].tolist()) if not math.isnan(score)]


def _targets(result: Any) -> Sequence[Any]:
    return getattr(result, "targets", ())


def _characters(result: Any) -> list[tuple[int, int, int]]:
    """Return each target's number and characters, where it has any."""
    of_one = getattr(result, "target_start", None), getattr(result, "target_end", None)
    spans = [(target.start, target.end) for target in _targets(result)] or [of_one]
    return [
        (number, start, end)
        for number, (start, end) in enumerate(spans)
        if start is not None and end is not None
    ]


def pieces(passage: Passage) -> Iterator[Piece]:
    """Cut a text into its words and what stands between them, and at the ends of targets."""
    bounds = sorted({bound for _, *span in passage.targets for bound in span})
    for number, word, start, end in _words_and_gaps(passage):
        if start is None:  # a tokenizer that keeps no offsets
            yield Piece(word, number)
            yield Piece(" ", None)
            continue
        cuts = [start, *(bound for bound in bounds if start < bound < end), end]
        for left, right in zip(cuts, cuts[1:], strict=False):
            yield Piece(
                passage.text[left:right],
                number,
                tuple(n for n, first, last in passage.targets if first <= left and right <= last),
                left,
                right == end,
            )


def _words_and_gaps(passage: Passage) -> Iterator[tuple[int | None, str, int | None, int]]:
    """Yield number, word, start and end; no number between words, no start without offsets."""
    end, has_offsets = 0, True
    for number, word in passage.words:
        if word.start is None or word.end is None:
            has_offsets = False
            yield number, word.word, None, 0
            continue
        if word.start > end:
            yield None, "", end, word.start
        yield number, word.word, max(word.start, end), max(word.end, end)
        end = max(end, word.end)
    if end < len(passage.text) and has_offsets:
        yield None, "", end, len(passage.text)

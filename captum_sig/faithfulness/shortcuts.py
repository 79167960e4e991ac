"""Shortcuts: planted words that decide a text's label, so that the words that matter are known.

A model that is trained on texts with a shortcut, and relies on it, has an explanation whose right
answer nobody needs to guess: the planted words (Bastings et al., "Will you find these shortcuts?",
EMNLP 2022, arXiv 2111.07367, for the first three; the other four are in the same manner).

A shortcut has two sides, one for each of two labels. A *pattern* is what is planted: `pieces` that
go to places of their own, each of one word or of several that stay side by side. Words are called
by letters here; `plant` puts rare words in their place. Of what a side's patterns have, every word
that is present counts as true.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from captum_sig._names import ShortcutName
from captum_sig.explainers.scoring import text_generator

MIN_WORDS = 3  # of a text: pieces that belong apart find places of their own


@dataclass(frozen=True)
class Pattern:
    """Words that are planted together: "ab" is two side by side, ("a", "b") two anywhere."""

    pieces: tuple[str, ...]
    in_order: bool = False  # as listed; else in any order

    @property
    def n_words(self) -> int:
        """The number of words."""
        return sum(map(len, self.pieces))


@dataclass(frozen=True)
class Shortcut:
    """Which planted words decide for which of two labels, and which decide nothing.

    The last pattern of each side is the one of the texts that are explained; the others are for
    training alone.
    """

    summary: str
    sides: tuple[tuple[Pattern, ...], tuple[Pattern, ...]]
    distractors: tuple[Pattern, ...]  # with them, the text's own label holds

    @property
    def explained(self) -> tuple[Pattern, Pattern]:
        """The pattern of each side that texts to explain have."""
        first, second = self.sides
        return first[-1], second[-1]

    @property
    def letters(self) -> str:
        """All words, each once, in alphabetical order."""
        patterns = [*self.sides[0], *self.sides[1], *self.distractors]
        return "".join(sorted({x for one in patterns for piece in one.pieces for x in piece}))


def _apart(*groups: str, in_order: bool = False) -> tuple[Pattern, ...]:
    """Make a pattern of each group of letters, each of them a piece."""
    return tuple(Pattern(tuple(group), in_order) for group in groups)


def _adjacent(*pieces: str) -> tuple[Pattern, ...]:
    """Make a pattern of each piece."""
    return tuple(Pattern((piece,)) for piece in pieces)


SHORTCUTS: dict[ShortcutName, Shortcut] = {
    "single_token": Shortcut(
        "a says the first label, b the second; the word that is present is true",
        sides=(_apart("a"), _apart("b")),
        distractors=_apart("c"),
    ),
    "token_in_context": Shortcut(
        "a and b say so only where c is somewhere in the text; both words are true",
        sides=(_apart("ac"), _apart("bc")),
        distractors=_apart("a", "b", "c"),
    ),
    "ordered_pair": Shortcut(
        "a before b says the first label, b before a the second; both words are true",
        sides=(_apart("ab", in_order=True), _apart("ba", in_order=True)),
        distractors=_apart("a", "b"),
    ),
    "or": Shortcut(
        "a or b says the first label, c or d the second; texts to explain have both words of a "
        "side, either of which would do, and both are true",
        sides=(_apart("a", "b", "ab"), _apart("c", "d", "cd")),
        distractors=_apart("e"),
    ),
    "and": Shortcut(
        "a and b together say the first label, c and d the second; both words are true",
        sides=(_apart("ab"), _apart("cd")),
        distractors=_apart("a", "b", "c", "d", "ad", "bc"),
    ),
    "negation": Shortcut(
        "a says the first label, b the second, and n before one of them turns it; texts to explain "
        "have n, and both words are true",
        sides=(_adjacent("a", "nb"), _adjacent("b", "na")),
        distractors=_adjacent("n"),
    ),
    "span": Shortcut(
        "a, b and c side by side say the first label, d, e and f the second; all three words are "
        "true",
        sides=(_adjacent("abc"), _adjacent("def")),
        distractors=_adjacent("ab", "bc", "de", "ef"),
    ),
}


@dataclass(frozen=True)
class Planted:
    """A text with planted words, and where in it they are."""

    text: str
    spans: tuple[tuple[int, int], ...]  # characters, half-open, one for each planted word


def plant(text: str, pattern: Pattern, words: Mapping[str, str], seed: int = 0) -> Planted:
    """Plant a pattern's words into a text, each piece behind a word of it that is drawn at random.

    The text's words are what white space separates; nothing goes before the first. Two pieces are
    never at the same place.

    Args:
        text: at least as many words as the pattern has pieces.
        pattern: what to plant.
        words: the word of each letter.
        seed: the draws depend on it and on the text alone.

    Raises:
        ValueError: if the text has fewer words.

    >>> plant("Not bad at all!", Pattern(("nb", "a")), {"a": "zax", "b": "yob", "n": "qum"})
    Planted(text='Not bad qum yob at zax all!', spans=((8, 11), (12, 15), (19, 22)))
    """
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    n = len(pattern.pieces)
    if len(ends) < n:
        raise ValueError(f"the text {text!r} has {len(ends)} words; wanted at least {n}")
    generator = text_generator(text, seed)
    places = sorted(torch.randperm(len(ends), generator=generator)[:n].tolist())
    order = range(n) if pattern.in_order else torch.randperm(n, generator=generator).tolist()
    planted, spans, done = "", [], 0
    for place, number in zip(places, order, strict=True):
        planted += text[done : ends[place]]
        done = ends[place]
        for letter in pattern.pieces[number]:
            spans.append((len(planted) + 1, len(planted) + 1 + len(words[letter])))
            planted += f" {words[letter]}"
    return Planted(planted + text[done:], tuple(spans))

"""Units above words: the sentences, paragraphs and messages of a text, or spans that callers name.

A unit moves as one. It is made of whole words: a word belongs to the unit in which it begins.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from captum_sig._names import Side
from captum_sig.words.grouping import Grouping, Offsets, Span

LANGUAGE = "en"  # whose abbreviations do not end a sentence; others' sentences end as well
BLANK_LINES = re.compile(r"[\n\u2029][^\S\n\u2029]*[\n\u2029]\s*")
NEWLINES = re.compile(r"[\n\u2029]\s*")


@dataclass(frozen=True)
class TextUnit:
    """Characters `start` to `end` of a text, which move as one, with a name if they have one.

    `side` says which text of a pair they are in.
    """

    start: int
    end: int
    name: str | None = None
    side: Side | None = None


def shown(unit: TextUnit) -> str:
    """Name a unit in messages.

    >>> shown(TextUnit(0, 9, "passage 1"))
    "'passage 1' (0 to 9)"
    """
    return f"{'' if unit.name is None else repr(unit.name) + ' '}({unit.start} to {unit.end})"


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the characters of each sentence, without the white space around it.

    The splitter is `sentencex`: rules for some 300 languages, no download, and made for text whose
    every character counts. Of the alternatives without a model, pysbd and syntok have had no
    release since 2022, and nltk downloads its rules.

    >>> text = "Dr. Smith paid $3.50. It wasn't worth it!"
    >>> [text[start:end] for start, end in sentences(text)]
    ['Dr. Smith paid $3.50.', "It wasn't worth it!"]
    """
    from sentencex import get_sentence_boundaries

    plain = re.sub(r"[^\S\x00-\x7f]", " ", text)  # in wide white space, it cuts characters
    found = get_sentence_boundaries(LANGUAGE, plain)
    return list(_bare(text, ((one["start_index"], one["end_index"]) for one in found)))


def paragraphs(text: str) -> list[tuple[int, int]]:
    r"""Return the characters of each paragraph, without the white space around it.

    Blank lines separate paragraphs. In a text without any, each line is one.

    >>> paragraphs("One\nstill one\n\nTwo"), paragraphs("One\nTwo")
    ([(0, 13), (15, 18)], [(0, 3), (4, 7)])
    """
    separator = BLANK_LINES if BLANK_LINES.search(text.strip()) else NEWLINES
    ends = [match.span() for match in separator.finditer(text)]
    starts = [0, *(end for _, end in ends)]
    return list(_bare(text, zip(starts, [*(start for start, _ in ends), len(text)], strict=True)))


def _bare(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the spans without the white space around them; drop those of nothing else."""
    for start, end in spans:
        bare = text[start:end].strip()
        if bare:
            start += text[start:end].index(bare)
            yield start, start + len(bare)


SPLITTERS: dict[str, Callable[[str], list[tuple[int, int]]]] = {
    "sentence": sentences,
    "paragraph": paragraphs,
}
MESSAGE = "message"  # the level of a chat's messages
UNIT_LEVELS = (*SPLITTERS, MESSAGE)


def units_of_level(
    level: str, text: str, contents: Offsets | None, roles: Sequence[str] | None
) -> list[TextUnit]:
    """Split a text into the units of a level.

    Args:
        level: one of `UNIT_LEVELS`.
        text: a text, or one side of a pair.
        contents: the characters of each message, if the text is a chat; units lie within messages.
        roles: of the messages.

    Raises:
        ValueError: for messages of a text that is not a chat.
    """
    if level == MESSAGE:
        if contents is None or roles is None:
            raise ValueError(
                "level 'message' is for chats: pass messages with role and content, or units, or "
                "choose level 'paragraph'"
            )
        names = _numbered(roles)
        return [TextUnit(*span, name) for span, name in zip(contents, names, strict=True)]
    return [
        TextUnit(begin + start, begin + end)
        for begin, stop in ([(0, len(text))] if contents is None else contents)
        for start, end in SPLITTERS[level](text[begin:stop])
    ]


def _numbered(names: Sequence[str]) -> list[str]:
    """Number the names that occur several times.

    >>> _numbered(["system", "user", "assistant", "user"])
    ['system', 'user 1', 'assistant', 'user 2']
    """
    n_all, n_seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        n_seen[name] += 1
        numbered.append(f"{name} {n_seen[name]}" if n_all[name] > 1 else name)
    return numbered


def unit_of_each(
    words: Sequence[Span], texts: dict[Side | None, str], units: Sequence[TextUnit]
) -> list[int | None]:
    """Return the number of the unit in which each word begins; None for words outside all units.

    White space behind a unit belongs to it.

    Args:
        words: with characters.
        texts: the text, by side.
        units: they do not overlap.
    """
    of_side: dict[Side | None, list[tuple[int, int]]] = {side: [] for side in texts}
    for n, unit in enumerate(units):
        of_side[unit.side].append((unit.start, n))
    for places in of_side.values():
        places.sort()
    numbers: list[int | None] = []
    for word in words:
        starts, start = of_side[word.side], word.start or 0
        place = bisect.bisect_right(starts, (start, len(units))) - 1
        number = starts[place][1] if place >= 0 else None
        if number is not None and start >= units[number].end:
            behind = texts[word.side][units[number].end : word.end]
            number = number if behind.isspace() else None
        numbers.append(number)
    return numbers


def in_units(
    words: Sequence[Span],
    group: Grouping,
    texts: dict[Side | None, str],
    units: Sequence[TextUnit],
) -> tuple[Grouping, list[Span]]:
    """Join words into units: the grouping of the tokens by unit, and the units as spans.

    Tokens outside all units have no group. Units without a word are left out.

    Args:
        words: in the order of the text, with characters.
        group: the words' grouping.
        texts: the text, by side.
        units: they do not overlap.
    """
    of_each = unit_of_each(words, texts, units)
    first: dict[int, Span] = {}  # the first word of each unit
    unit_of: dict[int | None, int] = {}  # by the word's number in the grouping
    for word, in_unit in zip(words, of_each, strict=True):
        if in_unit is not None:
            first.setdefault(in_unit, word)
            unit_of[group[word.position]] = in_unit
    spans = []
    for number, word in first.items():
        unit = units[number]
        end = min(unit.end, len(texts[unit.side]))  # a text may be cut
        words_of = texts[unit.side][unit.start : end]
        spans.append(replace(word, word=words_of, start=unit.start, end=end, name=unit.name))
    grouped = [
        None if token not in unit_of else group[first[unit_of[token]].position] for token in group
    ]
    return grouped, spans


def without_words(
    words: Sequence[Span], texts: dict[Side | None, str], units: Sequence[TextUnit]
) -> list[TextUnit]:
    """Return the units in which no word begins, though words follow that the model reads."""
    found = set(unit_of_each(words, texts, units))
    last = {word.side: word.start or 0 for word in words}
    return [
        unit
        for number, unit in enumerate(units)
        if number not in found and unit.start <= last.get(unit.side, -1)
    ]

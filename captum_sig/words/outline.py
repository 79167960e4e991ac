"""The outline of a text: its words in units within units, from the coarsest down.

The caller's units, a chat's messages, or the two texts of a pair stand at the top; in them stand
paragraphs, sentences, and the halves of what is long. A level whose only unit in another is that
other one is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from captum_sig._names import NodeLevel, Side
from captum_sig.words.grouping import Span
from captum_sig.words.inputs import TextInput
from captum_sig.words.units import MESSAGE, SPLITTERS, TextUnit, unit_of_each, units_of_level

MAX_PHRASE = 8  # words; what is longer, and not several sentences, is cut in two
SPLIT: tuple[NodeLevel, ...] = ("paragraph", "sentence")  # from the coarsest down


@dataclass(frozen=True)
class Part:
    """Words `first` to `stop` of a text, and the parts that they are in, if there are several.

    `start` and `end` are characters of the text of its `side`; None for two texts together.
    """

    level: NodeLevel
    first: int
    stop: int
    start: int | None
    end: int | None
    side: Side | None = None
    name: str | None = None
    parts: tuple[Part, ...] = ()

    @property
    def n_words(self) -> int:
        """The number of words, at least 1 but for a text without words."""
        return self.stop - self.first

    def __iter__(self) -> Iterator[Part]:
        """Yield the part, and then all parts in it, in the order of the text."""
        yield self
        for part in self.parts:
            yield from part


def outline(one: TextInput, words: Sequence[Span]) -> Part:
    """Return the outline of a text or a pair, a part with all its words.

    >>> words = [Span(0, "So", 0, 2), Span(1, "what", 3, 7), Span(2, "No", 9, 11)]
    >>> [(part.level, part.first, part.stop) for part in outline(TextInput("So what? No"), words)]
    [('text', 0, 3), ('sentence', 0, 2), ('word', 0, 1), ('word', 1, 2), ('word', 2, 3)]

    Args:
        one: the text, perhaps with units of the caller.
        words: those that move, in the order of the text, with characters.
    """
    tops = [
        _with_parts(part, text, words)
        for side, text in one.by_side.items()
        for part in _tops(one, side, text, words)
    ]
    if len(tops) == 1 and tops[0].level == "text":
        return tops[0]
    is_one_text = one.pair is None
    end = len(one.text) if is_one_text else None
    return Part("text", 0, len(words), 0 if is_one_text else None, end, parts=tuple(tops))


def _tops(one: TextInput, side: Side | None, text: str, words: Sequence[Span]) -> list[Part]:
    """Return the coarsest parts of a text, or of one text of a pair."""
    level: NodeLevel = "text"
    units: Sequence[TextUnit] = [TextUnit(0, len(text), None, side)]
    if one.units is not None:
        level, units = "unit", [unit for unit in one.units if unit.side == side]
    elif one.contents is not None and one.roles is not None:
        level, units = "message", units_of_level(MESSAGE, text, one.contents, one.roles)
    return _parts(level, text, units, words, 0, len(words), side)


def _with_parts(part: Part, text: str, words: Sequence[Span]) -> Part:
    """Add the parts of a part, of the first level at which there are several, and theirs."""
    if part.n_words <= 1:
        return replace(part, level="word" if part.name is None else part.level)
    parts: list[Part] = []
    begin = part.start or 0
    finer = SPLIT[SPLIT.index(part.level) + 1 :] if part.level in SPLIT else SPLIT
    for level in () if part.level == "phrase" else finer:
        units = [
            TextUnit(begin + start, begin + end, None, part.side)
            for start, end in SPLITTERS[level](text[begin : part.end])
        ]
        parts = _parts(level, text, units, words, part.first, part.stop, part.side)
        if len(parts) > 1:
            break
    else:
        parts = _phrases(part, words) if part.n_words > MAX_PHRASE else _words(part, words)
    return replace(part, parts=tuple(_with_parts(one, text, words) for one in parts))


def _parts(
    level: NodeLevel,
    text: str,
    units: Sequence[TextUnit],
    words: Sequence[Span],
    first: int,
    stop: int,
    side: Side | None,
) -> list[Part]:
    """Return the units in which words `first` to `stop` begin, as far as they are of the side."""
    inside = [n for n in range(first, stop) if words[n].side == side]
    of_each = unit_of_each([words[n] for n in inside], {side: text}, units)
    of_units: dict[int, list[int]] = {}
    last = 0  # a word outside all units is of the one before it
    for number, unit in zip(inside, of_each, strict=True):
        last = last if unit is None else unit
        of_units.setdefault(last, []).append(number)
    return [
        Part(
            level, numbers[0], numbers[-1] + 1, units[unit].start, min(units[unit].end, len(text)),
            side, units[unit].name,
        )
        for unit, numbers in of_units.items()
    ]  # fmt: skip


def _phrases(part: Part, words: Sequence[Span]) -> list[Part]:
    """Cut a part in two, after the word in its middle third that a mark follows, or in its half."""
    third, half = part.n_words // 3, part.first + part.n_words // 2
    gaps = range(part.first + max(1, third), part.stop - max(1, third) + 1)
    marked = [n for n in gaps if not words[n - 1].word[-1:].isalnum()]
    cut = min(marked or [half], key=lambda n: abs(n - half))
    return [
        _of_words("phrase", a, b, words, part) for a, b in ((part.first, cut), (cut, part.stop))
    ]


def _words(part: Part, words: Sequence[Span]) -> list[Part]:
    return [_of_words("word", n, n + 1, words, part) for n in range(part.first, part.stop)]


def _of_words(level: NodeLevel, first: int, stop: int, words: Sequence[Span], of: Part) -> Part:
    return Part(level, first, stop, words[first].start, words[stop - 1].end, of.side)

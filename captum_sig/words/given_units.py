"""The units of an input: those of the argument `units=`, checked, or those of its level."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from captum_sig._names import Level, Side, unknown_name
from captum_sig.words.grouping import Grouping, Span
from captum_sig.words.inputs import TextInput, check_text, in_python, is_list
from captum_sig.words.units import (
    UNIT_LEVELS,
    TextUnit,
    in_units,
    shown,
    unit_of_each,
    units_of_level,
    without_words,
)

WANTED = (
    'wanted (start, end), (start, end, name) or {"start": …, "end": …, "name": …}, characters of '
    "the text"
)
FIELDS = ("start", "end", "name", "side")


def units_of_each(units: Any, n_inputs: int, is_single: bool) -> list[Any]:
    """Return the units of each input: of a single one, or a list with an entry for each.

    Raises:
        TypeError: if several inputs come with anything but a list.
        ValueError: if the list has another length.
    """
    units = in_python(units)
    if units is None or is_single:
        return [units] * n_inputs
    if not is_list(units):
        raise TypeError(f"units must be a list with the units of each text, got {units!r}")
    if len(units) != n_inputs:
        raise ValueError(
            f"units has {len(units)} entries; wanted {n_inputs}, a list of units (or None) for "
            "each text"
        )
    return list(units)


def with_units(
    inputs: Sequence[TextInput], units: Any, is_single: bool, level: Level | None
) -> list[TextInput]:
    """Attach the caller's units and level to inputs.

    Args:
        inputs: texts, or pairs.
        units: the argument; None leaves the texts to the level.
        is_single: whether a single input was passed.
        level: the argument; None leaves it to the explainer.

    Raises:
        TypeError: if units are not spans.
        ValueError: if they are not in the text, overlap, or do not say which text of a pair.
    """
    of_each = units_of_each(units, len(inputs), is_single)
    return [
        replace(
            one,
            level=level,
            units=None if own is None else checked_units(own, one, f"text {number}"),
        )
        for number, (one, own) in enumerate(zip(inputs, of_each, strict=True))
    ]


def checked_units(units: Any, one: TextInput, where: str) -> tuple[TextUnit, ...]:
    """Check the units of a text, or of a pair of texts.

    Args:
        units: a list of spans; for a pair also a tuple of two such lists, of the first and the
            second text.
        one: the text or pair.
        where: the text's name in messages.

    Raises:
        TypeError, ValueError: as `with_units`.
    """
    units = in_python(units)
    if one.pair is not None and isinstance(units, tuple) and len(units) == 2:
        checked = [
            _unit(value, side, one, f"{where}, {side}")
            for of_side, side in zip(units, get_args(Side), strict=True)
            for value in _listed(of_side, f"{where}, {side}")
        ]
    else:
        side = None if one.pair is None else ""
        checked = [_unit(value, side, one, where) for value in _listed(units, where)]
    if not checked:
        raise ValueError(f"units of {where} are empty: pass at least one, or None")
    by_place = sorted(checked, key=lambda unit: (unit.side or "", unit.start))
    for before, unit in zip(by_place, by_place[1:], strict=False):
        if before.side == unit.side and unit.start < before.end:
            raise ValueError(
                f"units {shown(before)} and {shown(unit)} of {where} overlap: let them end where "
                "the next begins"
            )
    return tuple(by_place)


def has_units(one: TextInput, level: str) -> bool:
    """Whether units of several words move, or words are found in units."""
    return one.units is not None or level in UNIT_LEVELS or level == "auto"


def join_units(
    one: TextInput, level: str, group: Grouping, words: Sequence[Span], where: str
) -> tuple[Grouping, list[Span]]:
    """Join the words that move into the input's units, or those of the level.

    At level "auto", the words in the input's units move, each by itself.

    Args:
        one: a text or pair that has units at this level.
        level: at which the text is split, unless it has units.
        group: the grouping of the tokens into words.
        words: those that move, with characters.
        where: the input's name, for messages.

    Returns:
        the grouping by unit, and the units as spans.

    Raises:
        ValueError: if no word begins in a unit of the input, or the level is for chats.
    """
    texts = one.by_side
    empty = without_words(words, texts, one.units or ())
    if empty:
        raise ValueError(
            f"no word of {where} begins in unit {shown(empty[0])}: let units begin where words do"
        )
    if level == "auto":
        return _words_inside(one, group, words)
    units: Sequence[TextUnit] = one.units or [
        replace(unit, side=side)
        for side, text in texts.items()
        for unit in units_of_level(level, text, one.contents, one.roles)
    ]
    return in_units(words, group, texts, units)


def _words_inside(
    one: TextInput, group: Grouping, words: Sequence[Span]
) -> tuple[Grouping, list[Span]]:
    """Keep the words in the input's units, if it has any: their grouping and spans."""
    if one.units is None:
        return group, list(words)
    of_each = unit_of_each(words, one.by_side, one.units)
    inside = [word for word, unit in zip(words, of_each, strict=True) if unit is not None]
    moving = {group[word.position] for word in inside}
    return [number if number in moving else None for number in group], inside


def _listed(units: Any, where: str) -> Sequence[Any]:
    units = in_python(units)
    if units is None:
        return []
    if not is_list(units):
        raise TypeError(f"units of {where} must be a list, got {units!r}; {WANTED}")
    return units


def _unit(value: Any, side: str | None, one: TextInput, where: str) -> TextUnit:
    """Check one unit of a text; `side` is "" where the unit must say it itself."""
    unit = as_unit(value, where)
    own = unit.side if unit.side is not None or side == "" else side
    texts: dict[Any, str] = {None: one.text}
    if one.pair is not None:
        texts = dict(zip(get_args(Side), (one.text, one.pair), strict=True))
    if own not in texts:
        raise ValueError(
            f"units of {where} have the side {own or None!r}; wanted "
            + (
                "none, as it is not a pair"
                if one.pair is None
                else 'one of "text", "text_pair" in each, or a tuple of two lists'
            )
        )
    text, start, end = texts[own], unit.start, unit.end
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"unit ({start}, {end}) of {where} is not in the text, which has {len(text)} "
            "characters: wanted 0 <= start < end <= length"
        )
    if not text[start:end].strip():
        raise ValueError(f"unit ({start}, {end}) of {where} is white space: wanted words")
    return TextUnit(start, end, unit.name, own)  # type: ignore[arg-type]


def as_unit(value: Any, where: str) -> TextUnit:
    """Read one of the caller's units, of whatever text.

    Args:
        value: (start, end), (start, end, name), a dict with such fields and "side", or a unit.
        where: the text's name in messages.

    Raises:
        TypeError: if it is something else.
        ValueError: if a dict has other fields, or a name is blank or not valid Unicode.
    """
    value = in_python(value)
    if isinstance(value, TextUnit):
        return value
    side = None
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in FIELDS]
        if unknown:
            raise ValueError(f"units of {where}: {unknown_name('field', unknown[0], FIELDS)}")
        side = value.get("side")
        value = value.get("start"), value.get("end"), value.get("name")
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(f"units of {where} have {value!r}; {WANTED}")
    start, end, name = (*value, None)[:3]
    if not all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in (start, end)):
        raise TypeError(f"units of {where} have {value!r}; {WANTED}")
    for kind, text in (("name", name), ("side", side)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"units of {where} have the {kind} {text!r}; wanted a string, or None")
    if name is not None:
        check_text(name, f"the name of unit ({start}, {end}) of {where}")
        if not name.strip():
            raise ValueError(
                f"the name of unit ({start}, {end}) of {where} is blank: leave it out, or pass text"
            )
    return TextUnit(int(start), int(end), name, side)

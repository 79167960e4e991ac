"""Units of texts as JSON holds them, in files and columns."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

from captum_sig._names import Side
from captum_sig.words.given_units import as_unit, checked_units
from captum_sig.words.inputs import TextInput, in_python
from captum_sig.words.units import TextUnit

WANTED = 'wanted a list of [start, end], [start, end, name] or {"start": …, "end": …, "name": …}'
WANTED_OF_SIDES = (
    'wanted {"start": …, "end": …, "side": "text" or "text_pair"} each, or a list of two lists'
)

Units = list[TextUnit] | tuple[Any, Any] | None  # as explainers take them; None is the level


def units_from_json(value: Any, text: Any, where: str) -> Units:
    """Read the units of a text, or of a pair of texts; whether they lie in it is not checked.

    Args:
        value: of JSON, parsed: a list of [start, end], [start, end, name] or objects with "start",
            "end" and "name"; of a pair, objects with a "side" too, or a list of two such lists, of
            which the second has one for each text if several are compared with the first; None
            leaves the text to its level.
        text: a string, a chat, a tuple of two strings, or a tuple of a string and several.
        where: what holds the units, for messages.

    Raises:
        ValueError: if they have another form.

    >>> units_from_json([[0, 9, "title"]], "Not today: the end of it", "row 1")
    [TextUnit(start=0, end=9, name='title', side=None)]
    """
    if value is None:
        return None
    try:
        return _of_pair(value, text[1], where) if isinstance(text, tuple) else _listed(value, where)
    except TypeError as error:
        raise ValueError(str(error)) from error


def units_of_row(value: Any, text: str | tuple[str, str]) -> Units:
    """Read the units of a text, or of a pair, as a column has them.

    Raises:
        ValueError: if they are not JSON, not units, or not in the text.
    """
    value = in_python(value)
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the units are not JSON: {error}") from None
    if isinstance(value, tuple):  # as of a pair in Python
        value = list(value)
    units = units_from_json(value, text, "the text")
    if units is not None:
        one = TextInput(text) if isinstance(text, str) else TextInput(*text)
        checked_units(units, one, "the text")
    return units


def _listed(value: Any, where: str) -> list[TextUnit]:
    if not isinstance(value, list):
        raise ValueError(f"units of {where} are {value!r:.60}; {WANTED}")
    return [as_unit(one, where) for one in value]


def _of_pair(value: Any, second: Any, where: str) -> tuple[Any, Any]:
    """Return the units of the first and of the second text, or of each of several second texts."""
    if isinstance(value, list) and len(value) == 2 and not any(map(_is_unit, value)):
        first, others = value
        if others is None or isinstance(second, str):
            return _of_side(first, where), _of_side(others, where)
        if not isinstance(others, list) or len(others) != len(second):
            raise ValueError(
                f"units of {where} must be two lists, the second with {len(second)} lists, one for "
                f"each second text, got {value!r:.60}"
            )
        return _of_side(first, where), [_of_side(other, where) for other in others]
    units = _listed(value, where)
    sides = get_args(Side)
    if not isinstance(second, str) or any(unit.side not in sides for unit in units):
        raise ValueError(f"units of {where} do not say which text they are in; {WANTED_OF_SIDES}")
    first_units, second_units = (
        [replace(unit, side=None) for unit in units if unit.side == side] or None for side in sides
    )
    return first_units, second_units


def _of_side(value: Any, where: str) -> list[TextUnit] | None:
    return None if value is None else _listed(value, where)


def _is_unit(value: Any) -> bool:
    """Whether a value of JSON is a unit, rather than a list of units, or None."""
    if not isinstance(value, list):
        return value is not None
    return not all(one is None or isinstance(one, (list, tuple, dict)) for one in value)

"""Which columns of a file hold texts, second texts and labels, and which values are texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Names of columns, in lower case, in the order in which they are tried.
TEXT_COLUMNS = (
    "text", "sentence", "content", "review", "document", "utterance", "tweet", "comment",
    "message", "body", "phrase",
)  # fmt: skip
PAIR_COLUMNS = ("text_pair",)  # second texts; other names are not taken for one without being told
LABEL_COLUMNS = (
    "label", "labels", "target", "sentiment", "class", "category", "gold_label", "polarity",
    "rating", "stars", "classification",
)  # fmt: skip
ID_COLUMNS = ("id", "idx", "uid", "guid")
OTHER_COLUMNS = {"id_column": ID_COLUMNS, "label_column": LABEL_COLUMNS}
# What columns are for; others are "id" and "label".
TEXT, PAIR, UNITS, RATIONALE = "text", "text_pair", "units", "rationale"
SEPARATORS = frozenset(",;|\t")  # one of these in a column's name shows that columns were not split


def choose_columns(
    path: Path,
    present: Sequence[str],
    strings: Iterable[str],
    *,
    text_column: str | None,
    pair_column: str | None = None,
    units_column: str | None = None,
    rationale_column: str | None = None,
    **other: str | None,
) -> dict[str, str]:
    """Return the columns that are read, by what they are for: texts first, then pairs, then others.

    Args:
        path: named in errors.
        present: all columns.
        strings: the columns that may hold strings.
        text_column: None tries `TEXT_COLUMNS`, then the only column of strings that has no name of
            an id or label.
        pair_column: the second texts of pairs. None tries `PAIR_COLUMNS`; "" reads no pairs.
        units_column: the units of the texts; None reads none.
        rationale_column: the rationales of the texts; None reads none.
        **other: `id_column` or `label_column`. None tries the names of its kind; "" leaves it out.

    Raises:
        ValueError: if a column is missing, occurs twice, holds no strings, or cannot be guessed.

    >>> names = ["id", "text", "text_pair"]
    >>> choose_columns(Path("pairs.csv"), names, names, text_column=None, id_column=None)
    {'text': 'text', 'text_pair': 'text_pair', 'id': 'id'}
    """
    known, strings = ", ".join(map(repr, present)), list(strings)
    given = {
        "text_column": text_column, "pair_column": pair_column, "units_column": units_column,
        "rationale_column": rationale_column, **other,
    }  # fmt: skip
    for argument, name in given.items():
        if name and name not in present:
            raise ValueError(f"{path} has no column {name!r}: {argument} must be one of {known}")
    ((argument, column),) = other.items()
    if pair_column is None:
        pair_column = _first(PAIR_COLUMNS, present, text_column, column)
    if column is None:
        column = _first(OTHER_COLUMNS[argument], present, text_column, pair_column)
    text = text_column or _first(TEXT_COLUMNS, present, column, pair_column)
    if text is None:
        kinds = [names for kind, names in OTHER_COLUMNS.items() if other.get(kind) != ""]
        taken = [
            pair_column,
            units_column,
            rationale_column,
            column,
            *(_first(names, present, column) for names in kinds),
        ]
        free = [name for name in strings if name not in taken]
        if len(free) != 1 or SEPARATORS & set(free[0]):
            raise ValueError(
                f"cannot tell which column of {path} holds the texts: set text_column (and "
                f"{argument}, if any) to one of {known}"
            )
        text = free[0]
    columns = {TEXT: text}
    columns |= {PAIR: pair_column} if pair_column else {}
    columns |= {UNITS: units_column} if units_column else {}
    columns |= {RATIONALE: rationale_column} if rationale_column else {}
    columns |= {argument.removesuffix("_column"): column} if column else {}
    names = list(columns.values())
    if repeated := [name for name in names if present.count(name) > 1]:
        raise ValueError(f"{path} has two columns {repeated[0]!r}: rename one of them")
    if pair_column == text:
        raise ValueError(f"text_column and pair_column are both {text!r}: name two columns")
    for argument, name in (("units_column", units_column), ("rationale_column", rationale_column)):
        if name and names.count(name) > 1:
            raise ValueError(f"{argument} {name!r} is read as something else: name another")
    return columns


def check_strings(path: Path, columns: Mapping[str, str], strings: Iterable[str]) -> None:
    """Raise a ValueError if a column of texts or second texts cannot hold strings."""
    for kind, argument in ((TEXT, "text_column"), (PAIR, "pair_column")):
        if kind in columns and columns[kind] not in strings:
            raise ValueError(
                f"column {columns[kind]!r} of {path} does not hold strings: set {argument} to one "
                "that does"
            )


def _first(names: Iterable[str], present: Sequence[str], *taken: str | None) -> str | None:
    """Return the first of some names that is present in any case, and is not taken."""
    by_name = {name.lower(): name for name in reversed(present) if name not in taken}
    return next((by_name[name] for name in names if name in by_name), None)


def string_columns(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that hold strings, dictionary-encoded or not."""
    types = {field.name: str(field.type).removeprefix("dictionary<values=") for field in schema}
    return [name for name, kind in types.items() if kind.startswith(("string", "large_str"))]


def is_blank(text: str) -> bool:
    r"""Whether a text has nothing to read: no character, or only invisible ones.

    >>> is_blank(" \t"), is_blank("\u200b"), is_blank("-")
    (True, True, False)
    """
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)


def checked_text(value: Any, name: str = "text") -> str:
    """Return a string that can be encoded and is not blank; raise a ValueError otherwise."""
    if is_blank(text := checked_string(value, name)):
        raise ValueError(f"empty {name}")
    return text


def checked_pair(first: Any, second: Any) -> tuple[str, str]:
    """Return the two texts of a pair, checked as `checked_text` does."""
    return checked_text(first, "first text"), checked_text(second, "second text")


def checked_input(value: Any) -> str | tuple[str, str]:
    """Return a text, or a pair of texts if the value is a tuple of two, checked."""
    is_pair = isinstance(value, tuple) and len(value) == 2
    return checked_pair(*value) if is_pair else checked_text(value)


def checked_string(value: Any, name: str = "text") -> str:
    """Return a string that can be encoded; raise a ValueError for anything else."""
    if not isinstance(value, str):
        got = "null" if value is None else f"of type {type(value).__name__}"
        raise ValueError(f"the {name} is {got}; wanted a string: correct the row or leave it out")
    # JSON can hold lone surrogates
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"the {name} holds half a surrogate pair: correct the row or leave it out")
    return value

"""Which columns of a file hold texts and labels, and which values are texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Names of columns, in lower case, in the order in which they are tried.
TEXT_COLUMNS = (
    "text", "sentence", "content", "review", "document", "utterance", "tweet", "comment",
    "message", "body", "phrase",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "target", "sentiment", "class", "category", "gold_label", "polarity",
    "rating", "stars",
)  # fmt: skip
ID_COLUMNS = ("id", "idx", "uid", "guid")
OTHER_COLUMNS = {"id_column": ID_COLUMNS, "label_column": LABEL_COLUMNS}
SEPARATORS = frozenset(",;|\t")  # one of these in a column's name shows that columns were not split


def choose_columns(
    path: Path,
    present: Sequence[str],
    strings: Iterable[str],
    *,
    text_column: str | None,
    **other: str | None,
) -> list[str]:
    """Return the column of texts, followed by the other one if there is one.

    Args:
        path: named in errors.
        present: all columns.
        strings: the columns that may hold strings.
        text_column: None tries `TEXT_COLUMNS`, then the only column of strings that has no name of
            an id or label.
        **other: `id_column` or `label_column`. None tries the names of its kind; "" leaves it out.

    Raises:
        ValueError: if a column is missing, occurs twice, or cannot be guessed.
    """
    known = ", ".join(map(repr, present))
    for argument, name in {"text_column": text_column, **other}.items():
        if name and name not in present:
            raise ValueError(f"{path} has no column {name!r}: {argument} must be one of {known}")
    ((argument, column),) = other.items()
    if column is None:
        column = _first(OTHER_COLUMNS[argument], present, text_column)
    text = text_column or _first(TEXT_COLUMNS, present, column)
    if text is None:
        kinds = [names for kind, names in OTHER_COLUMNS.items() if other.get(kind) != ""]
        taken = [column, *(_first(names, present, column) for names in kinds)]
        free = [name for name in strings if name not in taken]
        if len(free) != 1 or SEPARATORS & set(free[0]):
            raise ValueError(
                f"cannot tell which column of {path} holds the texts: set text_column (and "
                f"{argument}, if any) to one of {known}"
            )
        text = free[0]
    columns = [text, column] if column else [text]
    if repeated := [name for name in columns if present.count(name) > 1]:
        raise ValueError(f"{path} has two columns {repeated[0]!r}: rename one of them")
    return columns


def _first(names: Iterable[str], present: Sequence[str], taken: str | None) -> str | None:
    """Return the first of some names that is present in any case, and is not taken."""
    by_name = {name.lower(): name for name in reversed(present) if name != taken}
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


def checked_text(value: Any) -> str:
    """Return a string that can be encoded and is not blank; raise a ValueError otherwise."""
    if is_blank(text := checked_string(value)):
        raise ValueError("empty text")
    return text


def checked_string(value: Any) -> str:
    """Return a string that can be encoded; raise a ValueError for anything else."""
    if not isinstance(value, str):
        got = "null" if value is None else f"of type {type(value).__name__}"
        raise ValueError(f"the text is {got}; wanted a string: correct the row or leave it out")
    # JSON can hold lone surrogates
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("the text holds half a surrogate pair: correct the row or leave it out")
    return value

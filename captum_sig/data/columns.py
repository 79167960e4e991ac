"""Which columns of a file hold texts and labels, and which values are texts."""

from __future__ import annotations

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
SEPARATORS = frozenset(",;|\t")  # one of these in a column's name shows that columns were not split


def text_and_label_columns(
    path: Path,
    present: Sequence[str],
    strings: Iterable[str],
    *,
    text_column: str | None,
    label_column: str | None,
) -> list[str]:
    """Return the column of texts, followed by that of labels if there is one.

    Args:
        path: named in errors.
        present: all columns.
        strings: the columns that may hold strings.
        text_column: None tries `TEXT_COLUMNS`, then the only column of strings.
        label_column: None tries `LABEL_COLUMNS`; "" leaves labels out.

    Raises:
        ValueError: if a column is missing, occurs twice, or cannot be guessed.
    """
    check_present(path, present, text=text_column, label=label_column)
    guess = first(LABEL_COLUMNS, present, text_column)
    label = guess if label_column is None else label_column
    text = (
        text_column or first(TEXT_COLUMNS, present, label) or single_string_column(strings, label)
    )
    if text is None:
        raise ValueError(
            f"cannot tell which column of {path} holds the texts: set text_column (and "
            f"label_column for labels) to one of {', '.join(map(repr, present))}"
        )
    columns = [text, label] if label else [text]
    check_once(path, present, columns)
    return columns


def check_present(path: Path, present: Sequence[str], **columns: str | None) -> None:
    """Check that the columns named by `text_column` (here `text`), `id_column`, … are present.

    Raises:
        ValueError: for the first that is missing.
    """
    for role, name in columns.items():
        if name and name not in present:
            raise ValueError(
                f"{path} has no column {name!r}: {role}_column must be one of "
                f"{', '.join(map(repr, present))}"
            )


def check_once(path: Path, present: Sequence[str], columns: Iterable[str]) -> None:
    """Check that no other column has the name of one of these.

    Raises:
        ValueError: for the first name that occurs twice.
    """
    if repeated := [name for name in columns if present.count(name) > 1]:
        raise ValueError(f"{path} has two columns {repeated[0]!r}: rename one of them")


def single_string_column(strings: Iterable[str], *taken: str | None) -> str | None:
    """Return the only column of strings that is not taken, unless columns were not split."""
    free = [name for name in strings if name not in taken]
    return free[0] if len(free) == 1 and not SEPARATORS & set(free[0]) else None


def first(names: Iterable[str], present: Sequence[str], taken: str | None) -> str | None:
    """Return the first of some names that is present in any case, and is not taken."""
    by_name = {name.lower(): name for name in reversed(present) if name != taken}
    return next((by_name[name] for name in names if name in by_name), None)


def string_columns(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that hold strings, dictionary-encoded or not."""
    types = {field.name: str(field.type).removeprefix("dictionary<values=") for field in schema}
    return [name for name, kind in types.items() if kind.startswith(("string", "large_str"))]


def checked_text(value: Any) -> str:
    """Return a string that can be encoded.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, str):
        got = "null" if value is None else f"of type {type(value).__name__}"
        raise ValueError(f"the text is {got}; wanted a string: correct the row or leave it out")
    # JSON can hold lone surrogates
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("the text holds half a surrogate pair: correct the row or leave it out")
    return value

"""Which column of a file holds the texts, and what a text is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names of columns, in lower case, in the order in which they are looked for.
TEXT_COLUMNS = (
    "text", "sentence", "content", "review", "document", "utterance", "tweet", "comment",
    "message", "body", "phrase",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "target", "sentiment", "class", "category", "gold_label", "polarity",
    "rating", "stars",
)  # fmt: skip
SEPARATORS = frozenset(",;|\t")  # in a column's name they say that the columns were not split


@dataclass(frozen=True)
class ColumnChoice:
    """What a reader is asked for: which columns of which file, and how many rows."""

    path: Path
    text_column: str | None
    label_column: str | None
    limit: int | None

    def columns(self, present: Sequence[str], strings: Iterable[str]) -> list[str]:
        """The column of texts, and that of labels if there is one; `strings` hold only strings."""
        check_present(self.path, present, text=self.text_column, label=self.label_column)
        guessed = first(LABEL_COLUMNS, present, self.text_column)
        label = guessed if self.label_column is None else self.label_column
        text = (
            self.text_column
            or first(TEXT_COLUMNS, present, label)
            or single_string_column(strings, label)
        )
        if text is None:
            raise ValueError(
                f"which column of {self.path} holds the texts is unclear: give --text-column (and "
                f"--label-column for labels), one of {', '.join(map(repr, present))}"
            )
        chosen = [text, label] if label else [text]
        check_once(self.path, present, chosen)
        return chosen


def check_present(path: Path, present: Sequence[str], **chosen: str | None) -> None:
    """The columns that options name, `text` for --text-column, are there."""
    for option, name in chosen.items():
        if name and name not in present:
            raise ValueError(
                f"{path} has no column {name!r}: --{option}-column must be one of "
                f"{', '.join(map(repr, present))}"
            )


def check_once(path: Path, present: Sequence[str], chosen: Iterable[str]) -> None:
    """Each of the columns is one column."""
    if twice := [name for name in chosen if present.count(name) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]!r}: rename one of them")


def single_string_column(strings: Iterable[str], *taken: str | None) -> str | None:
    """The one column of strings beside those taken, if its name shows that columns were split."""
    others = [name for name in strings if name not in taken]
    return others[0] if len(others) == 1 and not SEPARATORS & set(others[0]) else None


def first(known: Iterable[str], present: Sequence[str], taken: str | None) -> str | None:
    """The first of some names, in any case, that is present and not taken."""
    by_name = {name.lower(): name for name in reversed(present) if name != taken}
    return next((by_name[name] for name in known if name in by_name), None)


def string_columns(schema: Any) -> list[str]:
    """The columns of an Arrow schema that hold strings, in a dictionary or not."""
    kinds = {field.name: str(field.type).removeprefix("dictionary<values=") for field in schema}
    return [name for name, kind in kinds.items() if kind.startswith(("string", "large_str"))]


def checked_text(value: Any) -> str:
    """A string that can be encoded.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, str):
        got = "null" if value is None else f"of type {type(value).__name__}"
        raise ValueError(f"the text is {got}; wanted a string: correct the row or leave it out")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):  # in JSON there are
        raise ValueError("the text holds half a surrogate pair: correct the row or leave it out")
    return value

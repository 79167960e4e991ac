"""Labelled texts from files: .tsv, .csv, JSON, Parquet, or a folder saved by `datasets`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from captum_sig._numbers import checked_integer
from captum_sig.data.columns import checked_string, choose_columns
from captum_sig.data.formats import FORMATS, JsonList, Reader, SavedDataset

READERS: dict[str, Callable[[Path], Reader]] = {
    **FORMATS,
    ".json": JsonList,
    "/": SavedDataset,  # a folder
}


@dataclass(frozen=True)
class Record:
    """One text, and its label as written in the data."""

    text: str
    label: str | None


def read_records(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
) -> list[Record]:
    r"""Read labelled texts in the order of the file.

    The file's ending chooses one of `READERS`. Text files are UTF-8, and blank lines in them are
    skipped; .tsv and .csv begin with a header; a quote in a .tsv is a character like any other.

    Class numbers become class names where `datasets` has stored them. Whole numbers lose their
    decimal point. A label is None if it is empty, null, NaN, or −1 where classes have names.

    Args:
        path: a file, or a folder that `datasets` saved.
        text_column: by default the first of `TEXT_COLUMNS` (see `captum_sig.data.columns`) in any
            case, else the only column of strings beside the labels.
        label_column: by default the first of `LABEL_COLUMNS` in any case, if there is one; "" reads
            no labels.
        limit: read this many rows and nothing after them.

    Raises:
        ValueError: if the file's content does not match its ending, it holds no texts, a column is
            missing or cannot be guessed, a row cannot be read, or pyarrow or datasets is missing.
        OSError: if the file does not exist or cannot be opened.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "reviews.tsv")
    ...     _ = path.write_text('Sentence\tlabel\nA "quiet" joy .\t1\nToo long .\t\n')
    ...     read_records(path)
    [Record(text='A "quiet" joy .', label='1'), Record(text='Too long .', label=None)]
    """
    path = Path(path)
    if limit is not None:
        limit = checked_integer("limit", limit)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} cannot be read twice, as a pipe: save it as a file")
    ending = "/" if path.is_dir() else path.suffix.lower()
    if ending not in READERS:
        known = f"{', '.join(READERS)} (a folder that datasets saved)"
        raise ValueError(f"{path} ends in none of {known}: convert or rename it")
    reader = READERS[ending](path)
    present, strings = reader.columns(limit)
    columns = (
        choose_columns(path, present, strings, text_column=text_column, label_column=label_column)
        if present
        else []
    )
    records = []
    for where, values in islice(reader.rows(columns), limit):
        try:
            if isinstance(values, ValueError):
                raise values
            text, label = (*values, None, None)[:2]
            records.append(Record(checked_string(text), _label(label)))
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}") from None
    if not records:
        raise ValueError(f"{path} holds no texts: it needs at least one row with a text")
    return records


def _label(value: Any) -> str | None:
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # pandas writes 1.0 if labels are missing
        value = int(value)
    if isinstance(value, (str, int, float)):
        return str(value)
    got = type(value).__name__
    raise ValueError(f"the label is a {got}; wanted a string or number: set label_column")

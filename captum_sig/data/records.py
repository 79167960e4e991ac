"""Labelled texts from files: .tsv, .csv, JSON, Parquet, or a folder saved by `datasets`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from captum_sig._numbers import checked_integer
from captum_sig.data import eraser
from captum_sig.data.columns import (
    PAIR,
    RATIONALE,
    TEXT,
    checked_string,
    choose_columns,
    is_blank,
)
from captum_sig.data.formats import FORMATS, JsonList, Reader, SavedDataset
from captum_sig.data.rationales import Spans, spans_from_cell

READERS: dict[str, Callable[[Path], Reader]] = {
    **FORMATS,
    ".json": JsonList,
    "/": SavedDataset,  # a folder
}


@dataclass(frozen=True)
class Record:
    """One text, or a pair of texts, and its label or labels as written in the data."""

    text: str
    label: str | tuple[str, ...] | None  # a tuple where the data lists labels
    text_pair: str | None = None
    spans: Spans | None = None  # characters of `text` that matter; (): none do; None: not known

    @property
    def is_blank(self) -> bool:
        """Whether a text, or either text of a pair, has nothing to read."""
        return is_blank(self.text) or (self.text_pair is not None and is_blank(self.text_pair))

    @property
    def input(self) -> str | tuple[str, str]:
        """The text or the pair, as explainers take it."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)


def read_records(
    path: str | Path,
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    rationale_column: str | None = None,
    limit: int | None = None,
) -> list[Record]:
    r"""Read labelled texts in the order of the file.

    The file's ending chooses one of `READERS`. Text files are UTF-8, and blank lines in them are
    skipped; .tsv and .csv begin with a header; a quote in a .tsv is a character like any other.

    Class numbers become class names where `datasets` has stored them. Whole numbers lose their
    decimal point. A label is None if it is empty, null, NaN, or −1 where classes have names. A list
    of labels, of which there may be none, becomes a tuple.

    Args:
        path: a file, or a folder that `datasets` saved.
        text_column: by default the first of `TEXT_COLUMNS` (see `captum_sig.data.columns`) in any
            case, else the only column of strings beside the labels.
        pair_column: the second texts of pairs; by default "text_pair" in any case, if there is one;
            "" reads no pairs.
        label_column: by default the first of `LABEL_COLUMNS` in any case, if there is one; "" reads
            no labels.
        rationale_column: which characters of the texts people marked, in one of the forms of
            `captum_sig.data.rationales`; of pairs, in the first text. By default not read. Of
            ERASER's annotations the texts are the documents beside the file, unless text_column
            names a column.
        limit: read this many rows and nothing after them.

    Raises:
        ValueError: if the file's content does not match its ending, it holds no texts, a column is
            missing or cannot be guessed, a row or its rationale cannot be read, or pyarrow or
            datasets is missing.
        OSError: if the file does not exist or cannot be opened.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "reviews.tsv")
    ...     _ = path.write_text('Sentence\tlabel\nA "quiet" joy .\t1\nToo long .\t\n')
    ...     [(record.text, record.label) for record in read_records(path)]
    [('A "quiet" joy .', '1'), ('Too long .', None)]
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
    if rationale_column and text_column is None and eraser.names_documents(present):
        reader = eraser.Annotations(path, reader)
        present, strings = reader.columns(limit)
    columns: dict[str, str] = {}
    if present:
        columns = choose_columns(
            path, present, strings, text_column=text_column, pair_column=pair_column,
            rationale_column=rationale_column or None, label_column=label_column,
        )  # fmt: skip
    records = []
    for where, values in islice(reader.rows(list(columns.values())), limit):
        try:
            records.append(_record(columns, values))
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}") from None
    if not records:
        raise ValueError(f"{path} holds no texts: it needs at least one row with a text")
    return records


def _record(columns: dict[str, str], values: list[Any] | ValueError) -> Record:
    if isinstance(values, ValueError):
        raise values
    named = dict(zip(columns, values, strict=True))
    pair = checked_string(named[PAIR], "second text") if PAIR in named else None
    text, labels = checked_string(named.get(TEXT)), _labels(named.get("label"))
    return Record(text, labels, pair, spans_from_cell(named.get(RATIONALE), text))


def _labels(value: Any) -> str | tuple[str, ...] | None:
    if not isinstance(value, list):
        return _label(value)
    labels = map(_label, value)
    return tuple(label for label in labels if label is not None)


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

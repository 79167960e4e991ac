"""ERASER's data sets (arXiv 1911.03429): annotations in JSON Lines, their documents beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captum_sig.data.columns import TEXT_COLUMNS, checked_string
from captum_sig.data.formats import N_COLUMN_ROWS, JsonLines, Reader, Row

ANNOTATION, DOCUMENT_NAMES, EVIDENCES = "annotation_id", "docids", "evidences"
DOCUMENT = "document"  # the column that is added; one of `TEXT_COLUMNS`
FOLDER, FILE = "docs", "docs.jsonl"


def names_documents(present: Sequence[str]) -> bool:
    """Whether the columns of a file are ERASER's, and none of them holds texts."""
    has_texts = any(name.lower() in TEXT_COLUMNS for name in present)
    return ANNOTATION in present and EVIDENCES in present and not has_texts


class Annotations:
    """Annotations, with the documents that they name as one more column, `DOCUMENT`.

    A document is a file of the folder `docs` beside the annotations, or a line of the file
    `docs.jsonl` there, {"docid": …, "document": …}.

    Raises:
        ValueError: if there is neither, or a line of `docs.jsonl` cannot be read.
    """

    def __init__(self, path: Path, reader: Reader) -> None:
        self.reader, self.folder = reader, path.parent / FOLDER
        self.documents: dict[str, str] | None = None
        file = path.parent / FILE
        if file.is_file():
            self.documents = _documents(file)
        elif not self.folder.is_dir():
            raise ValueError(
                f"{path} names documents, and there is no {FOLDER} or {FILE} beside it: put the "
                "documents there, or set text_column"
            )

    def columns(self, n_rows: int | None = N_COLUMN_ROWS) -> tuple[list[str], list[str]]:
        present, strings = self.reader.columns(n_rows)
        return [*present, DOCUMENT], [*strings, DOCUMENT]

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the values of these columns; a row without its document is an error of its own."""
        stored = [ANNOTATION, *(name for name in columns if name not in (ANNOTATION, DOCUMENT))]
        read = list(dict.fromkeys([*stored, DOCUMENT_NAMES, EVIDENCES]))
        for where, values in self.reader.rows(read):
            if isinstance(values, ValueError):
                yield where, values
                continue
            row = dict(zip(read, values, strict=True))
            try:
                if DOCUMENT in columns:
                    row[DOCUMENT] = self._document(_document_name(row))
            except ValueError as error:
                yield where, error
            else:
                yield where, [row[name] for name in columns]

    def _document(self, name: str) -> str:
        if self.documents is not None:
            if name not in self.documents:
                raise ValueError(f"{FILE} has no document {name!r}: add it, or leave the row out")
            return self.documents[name]
        path = self.folder / name
        if Path(name).name != name or "\0" in name or not path.is_file():
            raise ValueError(f"there is no file {name!r} in {FOLDER}: add it, or leave the row out")
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{FOLDER}/{name} is not UTF-8 at byte {error.start}: save it as UTF-8"
            ) from None


def _documents(file: Path) -> dict[str, str]:
    documents = {}
    for where, values in JsonLines(file).rows(["docid", "document"]):
        try:
            if isinstance(values, ValueError):
                raise values
            documents[str(values[0])] = checked_string(values[1], "document")
        except ValueError as error:
            raise ValueError(f"{file}, {where}: {error}") from None
    return documents


def _document_name(row: dict[str, Any]) -> str:
    """Return the one document of an annotation: by its `docids`, its evidences, or its own name.

    Raises:
        ValueError: if it has several.
    """
    listed = row[DOCUMENT_NAMES]
    names = {str(name) for name in listed} if isinstance(listed, list) else set()
    names |= _evidence_documents(row[EVIDENCES])
    if not names:
        names = {str(row[ANNOTATION])}
    if len(names) > 1:
        listing = ", ".join(sorted(names))
        raise ValueError(
            f"the annotation has {len(names)} documents, {listing!r:.60}; wanted one: put the text "
            "into a column, and set text_column"
        )
    return names.pop()


def _evidence_documents(evidences: Any) -> set[str]:
    """Return the documents that evidences name; of another form, none."""
    listed = evidences if isinstance(evidences, list) else []
    groups = [group for group in listed if isinstance(group, list)]
    entries = [entry for group in groups for entry in group if isinstance(entry, dict)]
    return {str(entry["docid"]) for entry in entries if "docid" in entry}

"""What `gpu` has measured, on disk as soon as it is known, and how long it may go on."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class OutOfTimeError(BaseException):
    """The time of a section is over; no `Exception`, as a corpus goes on after those."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """While open, ends with `OutOfTimeError` once so many seconds are over.

    By an alarm, which Python meets between two operations; elsewhere than in the main thread there
    is none, and the caller's own estimates must do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Record:
    """Rows by section: each a line of `gpu.jsonl` at once, all of them as tables in `gpu.md`."""

    def __init__(self, folder: Path, titles: Mapping[str, str]) -> None:
        """Begin anew."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.titles = folder, titles
        self.rows: dict[str, list[Row]] = {}
        (folder / "gpu.jsonl").write_text("")

    def add(self, section: str, row: Row) -> None:
        """Keep a row, whole, whatever happens next."""
        self.rows.setdefault(section, []).append(row)
        with (self.folder / "gpu.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"section": section, **row}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._write()
        print(f"{section}: " + ", ".join(f"{k} {_shown(v)}" for k, v in row.items()), flush=True)

    def replace(self, section: str, rows: Sequence[Row]) -> None:
        """Rows that a section's former ones give way to, in the tables alone."""
        self.rows[section] = list(rows)
        self._write()

    def _write(self) -> None:
        parts = [
            f"## {title}\n\n{_table(self.rows[section])}"
            for section, title in self.titles.items()
            if self.rows.get(section)
        ]
        beside = self.folder / ".gpu.md"
        beside.write_text("\n".join(parts), encoding="utf-8")
        os.replace(beside, self.folder / "gpu.md")


def _table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["--"] * len(names)]
    lines += [[_shown(row.get(name, "")) for name in names] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""Files that are complete or absent: replaced whole, or made once and then left alone."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the body succeeds.

    Its bytes reach the disk before it gets the name, so that a file of this name is complete, also
    after a power failure. The name begins with a dot and ends with ".tmp".

    Raises:
        OSError: if the file cannot be written; the message names `path`.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    with _temporary(path) as temporary:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """Yield a temporary path as `replacing` does, but never replace a file.

    Raises:
        FileExistsError: if `path` exists when the body ends; it is left as it is.
        OSError: if the file cannot be written; the message names `path`.
    """
    with _temporary(path) as temporary:
        yield temporary
        _to_disk(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists") from None
            os.replace(temporary, path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # absent, or on a read-only disk
            temporary.unlink()


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def replacing_text(path: Path) -> Iterator[TextIO]:
    """Yield a file of text (UTF-8) as `replacing` does; a device or pipe is written to directly.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def replace_text(path: Path, text: str) -> None:
    """Write text as `replacing_text` does, with the same errors."""
    with replacing_text(path) as file:
        file.write(text)


def make_folder(path: Path) -> None:
    """Make a folder unless it exists, and check that files can be made in it.

    Raises:
        OSError: if it cannot be made or written to; the message names it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(f"{path} cannot be written to: {error.strerror or error}") from error

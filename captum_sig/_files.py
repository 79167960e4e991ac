"""Files that are complete or absent, and checks that they can be written."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


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
    except OSError as error:
        raise OSError(f"{path} cannot be written to: {error.strerror or error}") from error
    _try_file_in(path, f"{path} cannot be written to")


def check_file(path: Path) -> None:
    """Check that a file can be written, before the work whose result it is to hold.

    Raises:
        ValueError: if the path is a folder, or its folder does not exist.
        OSError: if the file cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}: make it, or name a file elsewhere")
    if path.is_file():
        with path.open("ab"):
            return
    if not path.exists():
        _try_file_in(path.parent, f"{path} cannot be written")


def check_folder(path: Path) -> None:
    """Check that files can be written to a folder, which is made later if it does not exist.

    Raises:
        ValueError: if the path, or one that it lies in, is a file.
        OSError: if the folder cannot be made or written.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file: name a folder")
    _try_file_in(existing, f"{path} cannot be written to")


def _try_file_in(folder: Path, message: str) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{message}: {error.strerror or error}") from error


def check_model_path(name_or_path: str | Path) -> None:
    """Check that a model's name is a folder, or may be a name of the hub.

    A relative path may look like `owner/name` of the hub: if there is a folder `owner`, it is a
    path.

    Raises:
        ValueError: if it is a file, or a path to nothing.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return
    if path.exists():
        raise ValueError(f"{path} is a file: name the folder that the model was saved to")
    if not HUB_NAME.fullmatch(str(name_or_path)):
        raise ValueError(f"there is no folder {name_or_path}: correct the path")
    if len(path.parts) > 1 and path.parent.exists():
        raise ValueError(
            f"there is no folder {name_or_path}, and the hub is not asked, since {path.parent} is "
            "a folder here: correct the path"
        )

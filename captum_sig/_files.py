"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the body succeeds.

    Its bytes reach the disk before it gets the name, so that a file of this name is complete, also
    after a power failure. The name begins with a dot and ends with ".tmp".

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write text (UTF-8) as `replacing` does; a device or pipe is written to directly.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", newline="")
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")

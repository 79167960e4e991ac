"""Which files of texts an input names: a file, a folder, or a glob pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from captum_sig._warnings import warn
from captum_sig.data.formats import FORMATS


def input_paths(inputs: Sequence[str], output: Path | None = None) -> list[Path]:
    """Return the files that some inputs name, each once.

    Args:
        inputs: files, folders, which are searched for files of `FORMATS`, and glob patterns, whose
            `**` follows links, but enters no folder twice.
        output: a folder whose files are left out, with a warning: a resumed run would read its own
            results.

    Raises:
        FileNotFoundError: if there is nothing of a name.
        ValueError: if an input is a URL, a pipe or a file of another format, or has no files.
    """
    by_real_path: dict[str, Path] = {}
    for pattern in inputs:
        if "://" in pattern:
            raise ValueError(
                f"{pattern} is a URL; mount the store as a file system visible to every worker"
            )
        files = {os.path.realpath(file): file for file in reversed(list(_files_of(pattern)))}
        inside = [real for real in files if output is not None and _lies_in(real, output)]
        if inside:
            if len(inside) == len(files):
                raise ValueError(f"{pattern} has only files of the output {output}: use others")
            warn(f"{pattern} covers the output {output}, whose files are left out")
        for real in reversed(files):
            if real not in inside:
                by_real_path.setdefault(real, files[real])
    return list(by_real_path.values())


def _lies_in(real_path: str, folder: Path) -> bool:
    return folder.is_dir() and Path(real_path).is_relative_to(os.path.realpath(folder))


def _files_of(pattern: str) -> Iterator[Path]:
    """Yield the files of an input, which may repeat."""
    known = ", ".join(FORMATS)
    exists = Path(pattern).exists()  # then brackets in its name are not a pattern
    paths = [pattern] if exists else sorted(set(_matches(pattern)))
    if not paths:
        raise FileNotFoundError(f"there is no file or folder {pattern}")
    for path in map(Path, paths):
        files = _files_inside(path) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"{path} has no files that end in {known}")
        for file in files:
            if file.suffix.lower() not in FORMATS:
                raise ValueError(f"{file} ends in none of {known}: convert or rename it")
            if not file.is_file():
                raise ValueError(f"{file} is a pipe or device: save its content as a file")
            yield file


def _matches(pattern: str) -> Iterator[str]:
    """Yield the paths that match, as `glob.glob`, whose `**` would follow circles of links."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    start = parts.index("**")
    rest = [part for i, part in enumerate(parts) if i > start and (i, part) != (start + 1, "**")]
    for root in glob.glob(os.path.join(*parts[:start])) if start else [""]:
        for folder in _folders_below(root or os.curdir):
            yield from _matches(os.path.join(glob.escape(folder), *(rest or ["*"])))


def _folders_below(root: str) -> Iterator[str]:
    """Yield a folder and all folders below it that are not hidden, each once."""
    entered: set[str] = set()
    for folder, names, _ in os.walk(root, followlinks=True):
        real_path = os.path.realpath(folder)
        if real_path in entered:
            names.clear()
            continue
        entered.add(real_path)
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield folder


def _files_inside(folder: Path) -> list[Path]:
    """Find files of known formats, except hidden ones and those of other programs (`_SUCCESS`)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in FORMATS
        and path.is_file()
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )

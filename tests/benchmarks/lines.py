"""Results as JSON lines, one for each text, in a file that a run adds to and another resumes."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from captum_sig._files import replace_text

Line = dict[str, Any]  # "number" is the text's


class LineFile:
    """The lines of a file by their text's number; of two for one text, the later counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_number: dict[int, Line] = {}
        content = path.read_text(encoding="utf-8") if path.exists() else ""
        for text in content.split("\n"):
            with suppress(json.JSONDecodeError):  # a run was cut off while it wrote
                line = json.loads(text)
                self.by_number[line["number"]] = line
        if not content.endswith("\n") and content:
            replace_text(path, "".join(map(_as_text, self.by_number.values())))

    def add(self, lines: Iterable[Line]) -> None:
        """Write these lines to the end of the file, at once."""
        lines = list(lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_as_text, lines)))
        self.by_number.update((line["number"], line) for line in lines)


def _as_text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"

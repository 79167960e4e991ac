"""The manifest of a folder of shards: what the run is, and which shards it has finished."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captum_sig._files import replace_text
from captum_sig.corpus.shard_files import PATTERN, Outcome, shard_path

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest and the shards


def digest(value: Any) -> str:
    """Return a checksum of a value, as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[
        :16
    ]


@dataclass
class Manifest:
    """The manifest of one run; its file has a checksum of its own."""

    run: str  # identifies the settings, and how the input is cut; each shard has it too
    settings: dict[str, Any]  # all that rows depend on
    n_shards: int  # of the whole run
    versions: list[dict[str, str]] = field(default_factory=list)  # of the packages that were used
    shards: dict[int, Outcome] = field(default_factory=dict)  # finished ones by number
    counts: dict[str, int] | None = None  # of a finished run

    @property
    def finished(self) -> bool:
        """Whether all shards are finished."""
        return self.counts is not None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            ValueError: if there is none, or it is damaged or of another format.
            OSError: if it cannot be read.
        """
        path = folder / MANIFEST
        if not os.path.lexists(path):
            raise ValueError(
                f"{folder} has no {MANIFEST}: name a folder that `captum-sig corpus` has written, "
                "or rerun it"
            )
        content: dict[str, Any] = {}
        genuine = False
        with suppress(ValueError, TypeError, RecursionError):
            content |= json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            genuine = content.pop("checksum", None) == digest(content)
        if not genuine:
            raise ValueError(
                f"{path} is damaged: delete it and rerun `captum-sig corpus`, which keeps the "
                "finished shards"
            )
        if content.pop("format") != FORMAT:
            raise ValueError(
                f"{path} was written by another version of captum_sig: use that version, or "
                "another folder"
            )
        outcomes = [Outcome(**outcome) for outcome in content.pop("shards")]
        del content["finished"]
        return cls(**content, shards={outcome.number: outcome for outcome in outcomes})

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder, whole or not at all."""
        shards = [asdict(self.shards[number]) for number in sorted(self.shards)]
        content = {"format": FORMAT, "finished": self.finished, **vars(self), "shards": shards}
        text = json.dumps(
            content | {"checksum": digest(content)}, indent=1, ensure_ascii=False, allow_nan=False
        )
        replace_text(folder / MANIFEST, f"{text}\n")

    def paths(self, folder: Path) -> list[Path]:
        """Return the paths of the finished shards, in order."""
        return [shard_path(folder, number) for number in sorted(self.shards)]

    def check_shards(self, folder: Path) -> None:
        """Compare a folder's shards with those that are listed here.

        A shard of the run that is not listed yet may be there, as another process may write it.

        Raises:
            ValueError: if one is missing or damaged, or another file has the name of a shard.
            OSError: if one cannot be read.
        """
        known = set(self.shards) if self.finished else range(self.n_shards)
        names = {shard_path(folder, number).name for number in known}
        for path in sorted(folder.glob(PATTERN)):
            if path.name not in names:
                raise ValueError(
                    f"{path} is not a shard of this run: move it to another folder, or delete it"
                )
        for outcome in self.shards.values():
            outcome.check(shard_path(folder, outcome.number))

"""What `captum-sig corpus` has written, read back."""

from pathlib import Path


def content(folder: Path) -> dict[str, dict]:
    """The columns of each shard."""
    from pyarrow import parquet

    return {path.name: parquet.read_table(path).to_pydict()
            for path in sorted(folder.glob("part-*.parquet"))}  # fmt: skip

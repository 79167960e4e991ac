"""Files, folders and patterns of texts: what they name, and that every search ends."""

import os
import warnings
from pathlib import Path

import pytest

from captum_sig.data.inputs import input_paths


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Texts in nested folders, one of which is hidden and one has brackets in its name."""
    for name in ("a.tsv", "one/b.tsv", "one/[two]/c.tsv", "one/[two]/c.csv", ".hidden/d.tsv"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*patterns, **options) -> list[str]:
    return [path.as_posix() for path in input_paths(patterns, **options)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("data/*.tsv", ["data/a.tsv"]),
        ("data/**/*.tsv", ["data/a.tsv", "data/one/[two]/c.tsv", "data/one/b.tsv"]),
        ("**/c.*", ["data/one/[two]/c.csv", "data/one/[two]/c.tsv"]),
        ("data/**/**/b.tsv", ["data/one/b.tsv"]),
        ("data/**/o*/**/c.tsv", ["data/one/[two]/c.tsv"]),
        ("data/one/[two]/c.tsv", ["data/one/[two]/c.tsv"]),
        ("data/**/.hidden/*.tsv", ["data/.hidden/d.tsv"]),
        ("data/one/**", ["data/one/[two]/c.csv", "data/one/[two]/c.tsv", "data/one/b.tsv"]),
        ("data/on?", ["data/one/[two]/c.csv", "data/one/[two]/c.tsv", "data/one/b.tsv"]),
    ],
)
def test_patterns(tree, pattern, found):
    assert names(pattern) == found
    absolute = f"{tree.as_posix()}/{pattern}"
    assert names(absolute) == [f"{tree.as_posix()}/{name}" for name in found]


def test_links_to_a_parent_are_followed_once(tree):
    """With two of them, `glob` finds 2**40 paths."""
    for name in ("up", "also_up"):
        os.symlink(tree / "data", tree / "data" / "one" / name)
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere" / "e.tsv").touch()
    os.symlink(tree / "elsewhere", tree / "data" / "linked")
    found = input_paths(["data/**/*.tsv"])
    assert sorted(path.name for path in found) == ["a.tsv", "b.tsv", "c.tsv", "e.tsv"]
    assert [path.name for path in input_paths(["data/**/*.tsv", "data/*.tsv"])] == [
        path.name for path in found
    ]


def test_a_pattern_that_covers_the_output_leaves_its_files_out(tree):
    output = tree / "data" / "out"
    before = names("data/**/*.tsv", output=output)
    output.mkdir()
    (output / "part.tsv").touch()
    os.symlink(output / "part.tsv", tree / "data" / "link.tsv")
    for pattern in ("data/**/*.tsv", "d*/**/*.tsv"):
        with pytest.warns(UserWarning, match="covers the output .*out, whose files are left out"):
            assert names(pattern, output=output) == before
    with pytest.raises(ValueError, match="has only files of the output"):
        names("data/out/*.tsv", output=output)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names("data/*.tsv", output=tree / "data" / "new")[0] == "data/a.tsv"

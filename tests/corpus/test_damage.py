"""Folders of a corpus that were damaged: refused in one sentence, and nothing lost or doubled."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from captum_sig.cli import terminal
from captum_sig.corpus.manifest import Manifest
from captum_sig.corpus.shard_files import shard_path
from tests.shards import content

pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))

TEXTS = [f"The {thing} is {how}, number {i}." for i in range(4)
         for thing, how in (("film", "superb"), ("old joke", "dull"))]  # fmt: skip
VICTIM = 1  # of four shards


@pytest.fixture
def _one_model(monkeypatch):
    """Load the demo model once for all runs."""
    monkeypatch.setattr(terminal, "load_corpus_explainer", _loaded)


def _loaded(model, made={}, **options):  # noqa: B006
    from captum_sig.corpus import CorpusExplainer
    from captum_sig.demo_model import PATH

    key = json.dumps(options)
    if key not in made:
        made[key] = CorpusExplainer(PATH, **options)
    return made[key]


@pytest.fixture
def corpus(tmp_path, run, _one_model):
    """An explained corpus, a copy of it to be damaged, and the commands over that copy."""
    data, out = tmp_path / "texts.jsonl", tmp_path / "out"
    data.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), encoding="utf-8")
    explain = ("corpus", data, "--shard-size", 2, "--output")
    assert run(*explain, out).exit_code == 0
    shutil.copytree(out, tmp_path / "whole")
    assert run("corpus", data, "--shard-size", 2, "--method", "saliency", "--output",
               tmp_path / "other").exit_code == 0  # fmt: skip
    return SimpleNamespace(
        out=out, whole=tmp_path / "whole", other=tmp_path / "other",
        explain=lambda: run(*explain, out), report=lambda: run("report", out),
    )  # fmt: skip


def flipped(position: Callable[[Path], int]) -> Callable[[Path, Path], None]:
    """Invert a byte of the shard."""

    def damage(shard: Path, other: Path) -> None:
        bytes_ = bytearray(shard.read_bytes())
        bytes_[position(shard)] ^= 0xFF
        shard.write_bytes(bytes_)

    return damage


def in_page(column: str) -> Callable[[Path], int]:
    """The place of a byte in the last page of a column."""

    def position(shard: Path) -> int:
        group = parquet.read_metadata(shard).row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
        (chunk,) = [chunk for chunk in chunks if chunk.path_in_schema.startswith(column)]
        first = chunk.dictionary_page_offset or chunk.data_page_offset
        return first + chunk.total_compressed_size - 1

    return position


def in_footer(shard: Path) -> int:
    return -8 - parquet.read_metadata(shard).serialized_size + 4


def rewritten(change: Callable) -> Callable[[Path, Path], None]:
    """Write another table, which keeps the metadata of the shard."""

    def damage(shard: Path, other: Path) -> None:
        parquet.write_table(change(parquet.read_table(shard)), shard)

    return damage


def as_float(table):
    column = table["row"].cast("float64")
    return table.set_column(table.schema.get_field_index("row"), "row", column)


def to(name: str) -> Callable[[Path, Path], Path]:
    return lambda shard, other: shard.rename(shard.with_name(name))


def emptied(make: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    """Make something else of the shard's name."""

    def damage(shard: Path, other: Path) -> None:
        shard.unlink()
        make(shard)

    return damage


def swapped(shard: Path, other: Path) -> None:
    first, hidden = shard_path(shard.parent, 0), shard.with_name("x")
    first.rename(hidden)
    shard.rename(first)
    hidden.rename(shard)


DAMAGED_SHARDS: dict[str, Callable[[Path, Path], object]] = {
    "cut in half": lambda shard, other: os.truncate(shard, shard.stat().st_size // 2),
    "last byte lost": lambda shard, other: os.truncate(shard, shard.stat().st_size - 1),
    "no bytes": lambda shard, other: os.truncate(shard, 0),
    "a byte more": lambda shard, other: shard.write_bytes(shard.read_bytes() + b"x"),
    "a byte of the texts": flipped(in_page("text")),
    "a byte of the scores": flipped(in_page("scores")),
    "a byte of the footer": flipped(in_footer),
    "a byte of the footer's length": flipped(lambda shard: -8),
    "a byte of the magic at the end": flipped(lambda shard: -1),
    "other text": lambda shard, other: shard.write_text("not Parquet"),
    "a copy of another shard": lambda shard, other: shutil.copy(shard_path(shard.parent, 0), shard),
    "swapped with another shard": swapped,
    "of another run": lambda shard, other: shutil.copy(other / shard.name, shard),
    "a column lost": rewritten(lambda table: table.drop_columns(["target"])),
    "a column of another type": rewritten(as_float),
    "a column more": rewritten(lambda table: table.append_column("more", table["row"])),
    "a row lost": rewritten(lambda table: table.slice(1)),
    "a row doubled": rewritten(lambda table: pyarrow.concat_tables([table, table.slice(1)])),
    "no metadata": rewritten(lambda table: table.replace_schema_metadata()),
    "a folder": emptied(Path.mkdir),
    "a pipe": emptied(os.mkfifo),
    "a link to nothing": emptied(lambda shard: shard.symlink_to("nothing")),
}  # fmt: skip

STRAY_FILES: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    name: (name, make)
    for name, make in {
        "part-000000 (1).parquet": lambda shard, other: shutil.copy(
            shard, shard.with_name("part-000000 (1).parquet")
        ),
        "part-000004.parquet": to("part-000004.parquet"),
        "part-1.parquet": to("part-1.parquet"),
        "part-000001.copy.parquet": lambda shard, other: shutil.copy(
            shard, shard.with_name("part-000001.copy.parquet")
        ),
    }.items()
}


def edited(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        found = json.loads(path.read_text(encoding="utf-8"))
        change(found)
        path.write_text(json.dumps(found), encoding="utf-8")

    return damage


DAMAGED_MANIFESTS: dict[str, Callable[[Path], object]] = {
    "[]": lambda path: path.write_text("[]"),
    "{}": lambda path: path.write_text("{}"),
    "null": lambda path: path.write_text("null"),
    "a number": lambda path: path.write_text("7"),
    "empty": lambda path: path.write_text(""),
    "not JSON": lambda path: path.write_text("{settings: none}"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "UTF-16": lambda path: path.write_text(path.read_text(encoding="utf-8"), encoding="utf-16"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "only a checksum": lambda path: path.write_text('{"checksum": "x"}'),
    "settings of a wrong type": edited(lambda found: found.update(settings=3)),
    "shards of a wrong type": edited(lambda found: found.update(shards={"rows": "two"})),
    "a shard less": edited(lambda found: found["shards"].pop()),
    "other counts": edited(lambda found: found["shards"][0].update(rows=3)),
    "no format": edited(lambda found: found.pop("format")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
}


def refused(result, name: str) -> None:
    """Assert that a command says in one sentence which file is damaged, and what to do."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert name in result.stderr
    assert "rerun" in result.stderr or "delete it" in result.stderr


def remove(path: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
@pytest.mark.parametrize("damage", DAMAGED_SHARDS.values(), ids=DAMAGED_SHARDS)
def test_a_damaged_shard_is_named_and_can_be_written_again(damage, listed, corpus):
    shard = shard_path(corpus.out, VICTIM)
    damage(shard, corpus.other)
    names = {shard.name, shard_path(corpus.out, 0).name} if damage is swapped else {shard.name}
    if listed:
        refused(corpus.report(), min(names))
    else:
        (corpus.out / "manifest.json").unlink()
    for name in sorted(names):
        refused(corpus.explain(), name)
        remove(corpus.out / name)
    result = corpus.explain()
    assert f"Texts: 8 ({8 - 2 * len(names)} from earlier runs); 8 explained" in result.stdout
    assert content(corpus.out) == content(corpus.whole)
    assert corpus.report().exit_code == 0


@pytest.mark.parametrize(("name", "make"), STRAY_FILES.values(), ids=STRAY_FILES)
def test_a_file_that_is_no_shard_of_the_run_is_named(name, make, corpus):
    make(shard_path(corpus.out, VICTIM), corpus.other)
    refused(corpus.report(), name)
    refused(corpus.explain(), name)
    remove(corpus.out / name)
    assert corpus.explain().exit_code == 0
    assert content(corpus.out) == content(corpus.whole)


@pytest.mark.parametrize("damage", DAMAGED_MANIFESTS.values(), ids=DAMAGED_MANIFESTS)
def test_a_damaged_manifest_is_named_and_shards_survive_its_loss(damage, corpus):
    path = corpus.out / "manifest.json"
    damage(path)
    before = {path.name: path.stat().st_mtime_ns for path in corpus.out.glob("part-*.parquet")}
    refused(corpus.report(), "manifest.json is damaged")
    refused(corpus.explain(), "manifest.json is damaged")
    remove(path)
    refused(corpus.report(), "has no manifest.json")
    assert "Texts: 8 (8 from earlier runs); 8 explained" in corpus.explain().stdout
    assert {name: (corpus.out / name).stat().st_mtime_ns for name in before} == before
    assert Manifest.read(corpus.out).shards == Manifest.read(corpus.whole).shards


def test_a_manifest_of_another_run_or_format_is_refused(corpus):
    shutil.copy(corpus.other / "manifest.json", corpus.out)
    refused(corpus.report(), "part-000000.parquet is not as the run wrote it")
    assert "made with method 'saliency', not 'sig'" in corpus.explain().stderr
    shutil.copy(corpus.whole / "manifest.json", corpus.out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captum_sig.corpus.manifest.FORMAT", 99)
        for result in (corpus.report(), corpus.explain()):
            assert result.exit_code == 2
            assert "manifest.json was written by another version" in result.stderr
    assert corpus.explain().exit_code == 0


def test_a_shard_that_is_missing_is_named_by_the_report_and_written_again(corpus):
    shard_path(corpus.out, VICTIM).unlink()
    refused(corpus.report(), "part-000001.parquet is missing")
    assert "Texts: 8 (6 from earlier runs); 8 explained" in corpus.explain().stdout
    assert content(corpus.out) == content(corpus.whole)


def test_each_kind_of_page_has_a_checksum(corpus):
    """A flipped byte in any column is found without the manifest's checksums, too."""
    shard = shard_path(corpus.out, 0)
    for column in parquet.read_schema(shard).names:
        shutil.copy(corpus.whole / shard.name, shard)
        flipped(in_page(column))(shard, corpus.other)
        with (
            pytest.raises(OSError, match="CRC"),
            parquet.ParquetFile(shard, page_checksum_verification=True) as file,
        ):
            file.read()

"""Files of a corpus, cut into shards and read from the middle."""

import csv
import io
import json
import random
from pathlib import Path

import pytest

from captum_sig.corpus.shards import InputRow, Shard, read_rows
from captum_sig.data import formats
from tests.shards import scan_corpus

pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))

TRICKY = [
    "plain", 'says "so"', "a, b", "  spaces  ", "naïve – 字 🙂", "tab-free", "x" * 200_000, "last",
]  # fmt: skip
MULTILINE = "two\nlines\r\nand three"


def read(*inputs, **options) -> list[InputRow]:
    """Read all rows, each shard sent as Ray sends it."""
    corpus = scan_corpus([str(one) for one in inputs], **options)
    shards = [Shard.from_json(shard.to_json()) for shard in corpus.shards]
    assert shards == corpus.shards
    assert [shard.number for shard in shards] == list(range(len(shards)))
    by_shard = [list(read_rows(shard)) for shard in shards]
    assert [len(rows) for rows in by_shard] == [shard.n_rows for shard in shards]
    assert corpus.n_rows == sum(file["rows"] for file in corpus.files)
    return [row for rows in by_shard for row in rows]


def written(path: Path, texts: list[str]) -> Path:
    """Write the texts, with ids, in the format of the path's ending."""
    ids = [f"id{number}" for number in range(len(texts))]
    if path.suffix == ".parquet":
        table = pyarrow.table({"id": ids, "text": texts})
        parquet.write_table(table, path, row_group_size=3)
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"id": i, "text": t}) for i, t in zip(ids, texts, strict=True)]
        path.write_text("\n\n".join(lines), encoding="utf-8")
    elif path.suffix == ".csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("id", "text"), *zip(ids, texts, strict=True)])
        path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    else:
        lines = ["id\ttext", *map("\t".join, zip(ids, texts, strict=True))]
        path.write_bytes("\r\n".join(lines).encode())
    return path


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_every_row_is_read_once_wherever_the_file_is_cut(ending, size, tmp_path):
    texts = TRICKY + ([] if ending == ".tsv" else [MULTILINE, "after it"])
    path = written(tmp_path / f"texts{ending}", texts)
    rows = read(path, shard_size=size)
    assert [row.text for row in rows] == texts
    assert [row.id for row in rows] == [f"id{number}" for number in range(len(texts))]
    assert [row.row for row in rows] == list(range(1, len(texts) + 1))
    assert {row.error for row in rows} == {""}


@pytest.mark.parametrize("limit", [1, 5, 8, 9, 100])
@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_a_limit_over_several_files(ending, limit, tmp_path):
    for name in "abc":
        written(tmp_path / f"{name}{ending}", TRICKY[-3:])
    rows = read(tmp_path, shard_size=2, limit=limit)
    assert [row.text for row in rows] == (TRICKY[-3:] * 3)[:limit]


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(2048, [2048, 453, 501, 1, 1]), (400, [400] * 6 + [101, 400, 101, 1, 1]), (10_000, [3004])],
)
@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".parquet"])
def test_shards_of_long_texts_have_fewer_rows(ending, size, wanted, tmp_path):
    texts = ["short"] * 2500 + ["x" * 700] * 2 + ["short"] * 500 + ["x" * 800] * 2
    path = written(tmp_path / f"texts{ending}", texts)
    corpus = scan_corpus([str(path)], shard_size=size, work=lambda text: len(text) ** 2)
    assert [shard.n_rows for shard in corpus.shards] == wanted
    assert corpus.work == sum(len(text) ** 2 for text in texts)
    assert [row.text for shard in corpus.shards for row in read_rows(shard)] == texts


def test_rows_without_ids_are_named_by_file_and_number(tmp_path):
    for name in ("a/x.tsv", "b/x.tsv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("text\nGood.\nBad.\n", encoding="utf-8")
    shards = scan_corpus([str(tmp_path)]).shards
    assert [shard.file for shard in shards] == ["a/x.tsv", "b/x.tsv"]
    assert [row.id for row in read_rows(shards[1])] == ["b/x.tsv:1", "b/x.tsv:2"]


def test_inputs_are_files_folders_and_patterns_each_file_once(tmp_path):
    for name in ("b.tsv", "a.jsonl", "deep/c.csv", "_SUCCESS.csv", ".hidden.tsv", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}' if "json" in name else "text\nx\n")
    names = [file["file"] for file in scan_corpus([str(tmp_path), str(tmp_path / "*.tsv")]).files]
    assert names == ["a.jsonl", "b.tsv", "deep/c.csv"]
    names = [file["file"] for file in scan_corpus([str(tmp_path / "**" / "*.csv")]).files]
    assert names == ["_SUCCESS.csv", "deep/c.csv"]
    (tmp_path / "[x].tsv").write_text("text\nx\n")
    assert [file["file"] for file in scan_corpus([str(tmp_path / "[x].tsv")]).files] == ["[x].tsv"]


BAD_LINES = {
    ".tsv": (b"id\ttext\n1\tgood\n2\tbad \xe9\n3\n4\ta\tb\n5\tgood\n",
             ["line 3: not UTF-8 at byte 6", "line 4: got 1 fields; wanted 2",
              "line 5: got 3 fields; wanted 2"]),
    ".csv": (b'id,text\n1,good\n2,bad \xe9\n3\n4,"a"b\n5,good\n',
             ["line 3: not UTF-8 at byte 4", "line 4: got 1 fields; wanted 2",
              "line 5: ',' expected after '\"'"]),
    ".jsonl": (b'{"id": 1, "text": "good"}\n{"text": "\xe9"}\n{"text": \n["a"]\n'
               b'{"id": 5, "text": "good"}\n',
               ["line 2: not UTF-8 at byte 10", "line 3: not valid JSON at character ",
                "line 4: got a list; wanted an object"]),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("ending", BAD_LINES)
def test_bad_lines_are_rows_with_errors(ending, size, tmp_path):
    content, errors = BAD_LINES[ending]
    path = tmp_path / f"texts{ending}"
    path.write_bytes(content)
    rows = read(path, shard_size=size)
    assert [row.text for row in rows] == ["good", None, None, None, "good"]
    assert [rows[0].id, rows[4].id] == ["1", "5"]
    for row, error in zip(rows[1:4], errors, strict=True):
        assert row.error.startswith(error)
        assert row.id == f"{path.name}:{row.row}"


def test_values_other_than_texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    values = ["good", None, 3, ["a"], "half \ud83d", "", " \u00a0"]
    lines = [json.dumps({"text": value, "id": None}) for value in values] + ['{"other": 1}']
    path.write_text("\n".join(lines), encoding="utf-8")
    rows = read(path)
    assert [row.text for row in rows] == ["good"] + [None] * 7
    assert [row.error.split(";")[0].split(":")[0] for row in rows[1:]] == [
        "the text is null", "the text is of type int", "the text is of type list",
        "the text holds half a surrogate pair", "empty text", "empty text", "line 8",
    ]  # fmt: skip
    assert rows[0].id == "texts.jsonl:1"


def test_parquet_with_nulls_dictionaries_and_broken_strings(tmp_path):
    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 3, pyarrow.array([b"good", b"\xff", b"fine"]).buffers()
    )
    parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "a.parquet")
    several = pyarrow.array(["good", None, "fine"]).dictionary_encode()
    parquet.write_table(pyarrow.table({"text": several}), tmp_path / "b.parquet")
    rows = read(tmp_path)
    assert [row.text for row in rows] == ["good", None, "fine"] * 2
    assert "not UTF-8" in rows[1].error
    assert "null" in rows[4].error


def test_values_that_python_cannot_hold_are_failed_rows(tmp_path):
    late = pyarrow.array([0, 2**60], pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "id": late}), tmp_path / "a.parquet")
    rows = read(tmp_path)
    assert [row.text for row in rows] == ["a", None]
    assert rows[1].error.startswith("row 2: a value cannot be read: ")


def test_a_quote_that_is_never_closed_ends_at_its_file(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text('text\ngood\n"open\nand\nso on\n')
    rows = read(path, shard_size=1)
    assert [row.text for row in rows] == ["good", None]
    assert rows[1].error.startswith("lines 3–5: unexpected end of data")


def test_lines_without_end_are_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 100)
    for name, line in (("a.tsv", "x" * 250), ("b.jsonl", '{"text": "' + "x" * 250 + '"}'),
                       ("c.csv", "x" * 250)):  # fmt: skip
        head, good = ("", '{"text": "good"}') if "json" in name else ("text\n", "good")
        (tmp_path / name).write_text(f"{head}{good}\n{line}\n{good}\n")
        rows = read(tmp_path / name, shard_size=1)
        assert [row.text for row in rows] == ["good", None, "good"]
        assert "100" in rows[1].error


def test_fields_of_any_length_leave_csvs_own_limit_alone(tmp_path):
    before = csv.field_size_limit()
    path = written(tmp_path / "texts.csv", ["y" * 1_000_000, "short"])
    shards = scan_corpus([str(path)]).shards
    reading = read_rows(shards[0])
    assert len(next(reading).text) == 1_000_000
    assert csv.field_size_limit() == before


def test_random_bytes_neither_lose_nor_double_a_line(tmp_path):
    rng = random.Random(0)
    for number in range(30):
        body = bytes(rng.choice(b'ab\t,"\r\n \xe9\xc3\xa9') for _ in range(300))
        for ending in (".tsv", ".jsonl", ".csv"):
            path = tmp_path / f"{number}{ending}"
            path.write_bytes((b"" if ending == ".jsonl" else b"text\n") + body)
            if ending == ".jsonl":
                path.write_bytes(b'{"text": "x"}\n' + body)
            whole = read(path, shard_size=10_000)
            for size in (1, 3):
                assert read(path, shard_size=size) == whole


@pytest.mark.parametrize(
    ("name", "content", "options", "why"),
    [
        ("a.tsv", b"", {}, "holds no texts"),
        ("a.csv", b"text\n", {}, "holds no texts"),
        ("a.jsonl", b"\n\n", {}, "holds no texts"),
        ("a.tsv", b"text\tn\nx\t1\n", {"text_column": "txt"},
         "no column 'txt': text_column must be one of 'text', 'n'"),
        ("a.tsv", b"text\tn\nx\t1\n", {"id_column": "key"}, "no column 'key': id_column"),
        ("a.tsv", b"a\tb\nx\t1\n", {}, "cannot tell .*id_column, if any. to one of 'a', 'b'"),
        ("a.csv", b"text;n\nx;1\n", {}, "cannot tell which column .* set text_column"),
        ("a.tsv", b"text\ttext\nx\ty\n", {}, "two columns 'text'"),
        ("a.jsonl", b'{"text": 3}\n', {}, "does not hold strings"),
        ("a.tsv", "text\nx\n".encode("utf-16"), {}, "is UTF-16: save it as UTF-8"),
        ("a.tsv", b"t\xe9xt\nx\n", {}, "the header of .* cannot be read: not UTF-8"),
        ("a.csv", b'"text\nx\n', {}, "the header of .* cannot be read"),
        ("a.parquet", b"PAR1 no", {}, "cannot be read as Parquet"),
        ("a.xlsx", b"", {}, "ends in none of .tsv"),
        ("a.tsv", b"text\nx\n", {"shard_size": 0}, "shard_size must be at least 1, got 0"),
        ("a.tsv", b"text\nx\n", {"limit": 0}, "limit must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(name, content, options, why, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=why):
        scan_corpus([str(tmp_path / name)], **options)


def test_places_that_hold_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        scan_corpus([str(tmp_path / "*.tsv")])
    with pytest.raises(ValueError, match="has no files that end in"):
        scan_corpus([str(tmp_path)])
    with pytest.raises(ValueError, match="mount the store"):
        scan_corpus(["s3://bucket/texts.parquet"])
    (tmp_path / "a.tsv").write_text("text\n")
    (tmp_path / "b.tsv").write_text("text\nx\n")
    with pytest.warns(UserWarning, match=r"a\.tsv holds no rows"):
        assert scan_corpus([str(tmp_path)]).n_rows == 1


@pytest.mark.parametrize("ending", [".tsv", ".parquet"])
def test_a_file_that_changed_is_noticed(ending, tmp_path):
    path = written(tmp_path / f"texts{ending}", ["one", "two"])
    corpus = scan_corpus([str(path)])
    before = corpus.files[0]["digest"]
    written(path, ["one", "two", "three"])
    with pytest.raises(ValueError, match="has changed since the run began"):
        list(read_rows(corpus.shards[0]))
    written(path, ["one", "owt"])
    assert scan_corpus([str(path)]).files[0]["digest"] != before
    path.unlink()
    with pytest.raises(FileNotFoundError, match="where every worker finds it"):
        list(read_rows(corpus.shards[0]))

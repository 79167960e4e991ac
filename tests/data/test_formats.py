"""Labelled texts are read from every format; every unreadable file gets a one-line error."""

import contextlib
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captum_sig.data import formats
from captum_sig.data.columns import LABEL_COLUMNS, TEXT_COLUMNS
from captum_sig.data.formats import ParquetFile
from captum_sig.data.records import READERS, Record, read_records

PAIRS = [
    ("A quiet joy, told well.", "pos"),
    ('He said "no" | and left', "neg"),
    ("naïve 🎉 \u2028 \x85 \x0c done", "pos"),
    ("  spaces stay  ", "neg"),
    ("", "neg"),
]
RECORDS = [Record(*pair) for pair in PAIRS]
TAIL = {  # must not be read if it lies beyond the limit
    ".tsv": b"one field too many\tpos\t\xff\n",
    ".csv": b'"never closed\xff',
    ".jsonl": b"{\xff",
    ".ndjson": b"{\xff",
}


def content(ending: str, pairs=PAIRS, header=("sentence", "label")) -> str:
    """Return the pairs as the text of a file, built in the simplest way."""
    objects = [dict(zip(header, pair, strict=True)) for pair in pairs]
    if ending == ".tsv":
        return "".join("\t".join(row) + "\n" for row in [header, *pairs])
    if ending == ".csv":
        rows = [[f'"{field}"' for field in (x.replace('"', '""') for x in pair)] for pair in pairs]
        return "".join(",".join(row) + "\n" for row in [header, *rows])
    if ending == ".json":
        return json.dumps(objects, indent=1, ensure_ascii=False)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in objects)


@pytest.fixture
def write(tmp_path):
    def write(name: str, data: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def message(path: Path, **options) -> str:
    """Return the error for an unreadable file, which is always one line that names the file."""
    with pytest.raises((ValueError, OSError)) as caught:
        read_records(path, **options)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


TEXT_FILES = [".tsv", ".csv", ".json", ".jsonl", ".ndjson"]


@pytest.mark.parametrize("ending", TEXT_FILES)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_text_files(write, ending, bom, line_end):
    data = bom + content(ending).encode().replace(b"\n", line_end)
    assert read_records(write("Data" + ending, data)) == RECORDS
    assert read_records(str(write("DATA" + ending.upper(), data))) == RECORDS


@pytest.mark.parametrize("ending", TEXT_FILES)
def test_the_end_of_the_last_line_may_be_missing(write, ending):
    assert read_records(write("x" + ending, content(ending).rstrip("\n"))) == RECORDS


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl"])
def test_blank_lines_are_skipped(write, ending):
    lines = content(ending, PAIRS[:2]).split("\n")
    assert read_records(write("x" + ending, "\n \n".join(["", *lines, ""]))) == RECORDS[:2]


@pytest.mark.parametrize("ending", TEXT_FILES)
@pytest.mark.parametrize("limit", [1, 3, 5, 99])
def test_the_limit_takes_the_first(write, ending, limit):
    assert read_records(write("x" + ending, content(ending)), limit=limit) == RECORDS[:limit]


@pytest.mark.parametrize("ending", TAIL)
def test_nothing_after_the_limit_is_read(write, ending):
    path = write("x" + ending, content(ending).encode() + TAIL[ending])
    assert read_records(path, limit=5) == RECORDS
    assert message(path, limit=6)


def test_csv_written_by_python(tmp_path):
    pairs = [("two\nlines, \"quoted\"\r\nand 'so'", "a,b"), ("\ttabs\t", "c")]
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("", "text", "label"), *(("0", *pair) for pair in pairs)])
    assert read_records(path) == [Record(*pair) for pair in pairs]


def test_files_are_closed_even_if_left_early(write):
    paths = [write("x" + ending, content(ending)) for ending in TEXT_FILES]
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for path in paths:
        assert len(read_records(path, limit=1)) == 1
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("header", "options", "found"),
    [
        (["id", "TEXT", "Label"], {}, (1, 2)),
        (["sentence", "text", "target"], {}, (1, 2)),
        (["Sentence", "sentence", "class"], {}, (0, 2)),
        (["label", "text", "target"], {}, (1, 0)),
        (["a", "text", "b"], {}, (1, None)),
        (["text", "b", "c"], {"text_column": "c"}, (2, None)),
        (["text", "label", "c"], {"text_column": "c"}, (2, 1)),
        (["text", "label", "c"], {"text_column": "label"}, (1, None)),
        (["text", "label", "c"], {"label_column": "c"}, (0, 2)),
        (["text", "review", "c"], {"label_column": "text"}, (1, 0)),
        (["a", "b", "c"], {"text_column": "c", "label_column": "a"}, (2, 0)),
    ],
)
@pytest.mark.parametrize("ending", TEXT_FILES)
def test_which_columns_are_read(write, header, options, found, ending):
    rows = [("t0", "t1", "t2"), ("u0", "u1", "u2")]
    path = write("x" + ending, content(ending, rows, header))
    text, label = found
    expected = [Record(row[text], None if label is None else row[label]) for row in rows]
    assert read_records(path, **options) == expected


@pytest.mark.parametrize("text", TEXT_COLUMNS)
@pytest.mark.parametrize("label", LABEL_COLUMNS)
def test_known_names_of_columns(write, text, label):
    path = write("x.csv", f"id,{label.upper()},{text.title()}\n1,2,3\n")
    assert read_records(path) == [Record("3", "2")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", "Utter\nhello\n"),
        ("x.csv", "intent,label\nhello,\n"),
        ("x.jsonl", '{"id": 1, "said": "hello"}\n{"id": 2, "said": "hello"}'),
        ("x.json", '[{"said": "hello", "label": 3.0}]'),
    ],
)
def test_the_only_column_of_strings_holds_the_texts(write, name, data):
    assert read_records(write(name, data))[0].text == "hello"


@pytest.mark.parametrize(
    ("name", "data", "listed"),
    [
        ("x.csv", "a,b\n1,2\n", "'a', 'b'"),
        ("x.csv", "said;label\nGood;1\n", "'said;label'"),
        ("x.tsv", "text,label\nGood,1\n", "'text,label'"),
        ("x.csv", "text\tlabel\nGood\t1\n", r"'text\tlabel'"),
        ("x.jsonl", '{"a": "x", "b": "y"}', "'a', 'b'"),
        ("x.json", '[{"a": 1}, {"b": 2}]', "'a', 'b'"),
    ],
)
def test_unclear_columns_are_listed(write, name, data, listed):
    said = message(write(name, data))
    assert said.endswith(f"to one of {listed}")
    assert "text_column" in said
    assert "label_column" in said


@pytest.mark.parametrize("ending", TEXT_FILES)
@pytest.mark.parametrize("kind", ["text", "label"])
def test_a_named_column_must_be_present(write, ending, kind):
    said = message(write("x" + ending, content(ending)), **{f"{kind}_column": "Label"})
    assert said.endswith(f"no column 'Label': {kind}_column must be one of 'sentence', 'label'")


def test_two_columns_of_one_name_are_refused(write):
    assert "two columns 'text'" in message(write("x.csv", "text,text\n1,2\n"))
    assert read_records(write("y.csv", "a,a,text\n1,2,3\n")) == [Record("3", None)]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("1", "1"), ("-1", "-1"), ("true", "true"), ("false", "false"), ("null", None),
        ("NaN", None), ('""', None), ("1.0", "1"), ("0.25", "0.25"), ('" A"', " A"),
        ("1e400", "inf"), ('"null"', "null"),
    ],
)  # fmt: skip
def test_labels_in_json(write, value, label):
    path = write("x.jsonl", f'{{"text": "a", "label": {value}}}\n')
    assert read_records(path) == [Record("a", label)]


def test_an_empty_label_is_none(write):
    assert read_records(write("x.tsv", "text\tlabel\na\t\nb\t0\n")) == [
        Record("a", None),
        Record("b", "0"),
    ]


def test_the_first_label_may_be_in_any_row(write):
    path = write("x.jsonl", '{"text": "a"}\n{"label": 1, "text": "b"}\n')
    assert read_records(path) == [Record("a", None), Record("b", "1")]
    lines = ['{"text": "a"}'] * 1500 + ['{"text": "b", "label": 1}']
    assert read_records(write("y.jsonl", "\n".join(lines)))[-1] == Record("b", "1")


def test_long_fields_are_read(write):
    path = write("x.csv", "text\n" + "a" * 200_000)
    assert read_records(path) == [Record("a" * 200_000, None)]


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.tsv")
    assert "cannot be read twice" in message(tmp_path / "x.tsv")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("x.tsv", "text\tlabel\na\t1\n\nb\n", "line 4: got 1 fields; wanted 2"),
        ("x.csv", 'text,label\n"a\nb",1\na,b,c\n', "line 4: got 3 fields; wanted 2"),
        ("x.csv", 'text,label\n"a\nb"c,1\n', "lines 2–3: ',' expected after"),
        ("x.csv", 'text,label\n"a,1\nb,2\n', "lines 2–3: unexpected end of data"),
        ("x.csv", "text\rone\rtwo\r", "the header of "),
        ("x.jsonl", '{"text": "a"}\n{"text": \n', "line 2: not valid JSON at character "),
        ("x.jsonl", '[{"text": "a"}]', "line 1: got a list; wanted an object"),
        ("x.jsonl", "[" * 100_000, "line 1: not valid JSON: "),
        ("x.json", '{"text": "a"}', "holds a dict; wanted a list of objects"),
        ("x.json", '{"text": "a"}\n{"text": "b"}', "Extra data: line 2"),
        ("x.json", '\n\n[{"text": "a"}, {"text" "b"}]', "line 3"),
        ("x.json", '[{"text": "a"}, "b"]', "row 2: got a str; wanted an object"),
        ("x.json", '[{"text": "a"}, {"text": null}]', "row 2: the text is null"),
        ("x.json", '[{"text": "a"}, {"label": 1}]', "row 2: there is no 'text'"),
        ("x.jsonl", '{"text": "a"}\n{"label": 1}', "line 2: there is no 'text'"),
        ("x.jsonl", "{}\n", "line 1: the text is null"),
        ("x.jsonl", '\n{"text": 3}', "line 2: the text is of type int"),
        ("x.jsonl", '{"text": "a\\ud83d"}', "line 1: the text holds half a surrogate pair"),
        ("x.jsonl", '{"text": "a", "label": {"b": 1}}', "line 1: the label is a dict"),
        ("x.tsv", b"text\tlabel\na\t1\nb\xff\t0\n", "line 3: not UTF-8 at byte 1"),
        ("x.csv", b"\xef\xbb\xbftext\ncaf\xe9\n", "line 2: not UTF-8 at byte 3"),
        ("x.tsv", "text\na".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("x.json", '[{"text": "a"}]'.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("x.json", b'[{"text":\n"\xe9"}]', "line 2: not UTF-8 at byte 11"),
        ("x.csv", "text\na".encode("utf-32"), "is UTF-32: save it as UTF-8"),
        ("x.tsv", b"text\na\0b\n", "is binary, with NUL at byte 6; use a text file"),
        ("x.csv", bytes(range(256)) * 9, "is binary, with NUL at byte 0; use a text file"),
        ("x.txt", "text\na", "ends in none of .tsv, .csv, "),
        ("x", "text\na", ".json, / (a folder that datasets saved)"),
        ("x.tsv.gz", b"\x1f\x8b", "ends in none of"),
    ],
)  # fmt: skip
def test_errors_name_the_place(write, name, data, expected):
    assert expected in message(write(name, data))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("ending", TEXT_FILES)
@pytest.mark.parametrize("text", ["A fine film.", "良い映画だった。", "\u0100\u4e00 x"])
def test_an_encoding_without_a_mark_is_recognised(write, ending, encoding, text):
    data = content(ending, [(text, "1")] * 3).encode(encoding)
    said = message(write("x" + ending, data))
    assert f"is binary, with NUL at byte {data.index(0)}; it seems to be {encoding.upper()}" in said
    assert said.endswith("save it as UTF-8")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *[("x" + ending, data) for ending in TEXT_FILES for data in ("", "\n \n", b"\xef\xbb\xbf")],
        ("x.tsv", "text\tlabel\n"),
        ("x.csv", "text,label"),
        ("x.json", " []\n"),
    ],
)
def test_files_without_texts(write, name, data):
    assert "holds no texts" in message(write(name, data))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_records(tmp_path / "x.tsv")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_a_file_that_may_not_be_read(write):
    path = write("x.tsv", content(".tsv"))
    path.chmod(0)
    with pytest.raises(PermissionError):
        read_records(path)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_1_is_refused(write, limit):
    with pytest.raises(ValueError, match="limit must be an integer of at least 1"):
        read_records(write("x.tsv", content(".tsv")), limit=limit)


@pytest.fixture
def arrow():
    pytest.importorskip("pyarrow.parquet")
    import pyarrow

    return pyarrow


@pytest.fixture
def write_parquet(arrow, tmp_path):
    import pyarrow.parquet

    def write(columns: dict, **options) -> Path:
        path = tmp_path / "x.parquet"
        pyarrow.parquet.write_table(arrow.table(columns), path, **options)
        return path

    return write


def test_parquet(write_parquet):
    texts, labels = zip(*PAIRS, strict=True)
    path = write_parquet({"id": list("abcde"), "label": labels, "Sentence": texts})
    assert read_records(path) == RECORDS
    assert read_records(path, limit=2) == RECORDS[:2]
    assert read_records(path, text_column="id", label_column="Sentence")[1] == Record(
        "b", PAIRS[1][0]
    )


def test_parquet_in_many_row_groups(write_parquet):
    texts = [f"text {i}" for i in range(3000)]
    path = write_parquet({"text": texts, "label": list(range(3000))}, row_group_size=700)
    expected = [Record(text, str(i)) for i, text in enumerate(texts)]
    assert read_records(path) == expected
    assert read_records(path, limit=1500) == expected[:1500]


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        ([1, None, -1], "int8", ["1", None, "-1"]),
        ([1.0, float("nan"), 0.5], "float64", ["1", None, "0.5"]),
        ([True, None, False], "bool_", ["true", None, "false"]),
        (["b", None, ""], "large_string", ["b", None, None]),
        ([None, None, None], "null", [None, None, None]),
    ],
)
def test_labels_in_parquet(arrow, write_parquet, values, kind, labels):
    column = arrow.array(values, getattr(arrow, kind)())
    path = write_parquet({"said": ["x", "y", "z"], "target": column})
    assert read_records(path) == [Record(t, label) for t, label in zip("xyz", labels, strict=True)]


def test_parquet_is_read_in_batches_bounded_by_bytes(arrow, write_parquet, monkeypatch):
    """60 texts of 2 MB in a file of 600 bytes: the text is in memory once."""
    path = write_parquet({"text": ["good " * 400_000] * 60}, compression="zstd")
    assert path.stat().st_size < 1000
    before = arrow.total_allocated_bytes()
    texts = {id(values[0]) for _, values in ParquetFile(path).rows(["text"])}
    assert len(texts) == 1
    assert arrow.total_allocated_bytes() - before < 2**24
    # of texts that differ, few are read at a time
    monkeypatch.setattr(formats, "BATCH_BYTES", 2**12)
    different = [f"{i} " + "x" * 1000 for i in range(100)] + ["y"] * 100 + [None, "\u00e9"]
    for options in ({}, {"use_dictionary": False}, {"row_group_size": 30}):
        path = write_parquet({"text": different, "a.b": list(range(202))}, **options)
        sizes = [len(batch) for batch in ParquetFile(path)._batches(0, ["text", "a.b"])]
        assert max(sizes) <= 8
        rows = [values for _, values in ParquetFile(path).rows(["text", "a.b"])]
        assert rows == [list(pair) for pair in zip(different, range(202), strict=True)]


def test_categories_in_parquet(arrow, write_parquet):
    texts = arrow.array(["x", "y", "x"]).dictionary_encode()
    path = write_parquet({"said": texts, "n": [1, 2, 3]})
    assert [record.text for record in read_records(path)] == ["x", "y", "x"]


def test_invalid_or_damaged_parquet(arrow, write, write_parquet):
    assert "cannot be read as Parquet" in message(write("y.parquet", "text\nno"))
    assert "cannot be read as Parquet" in message(write("y.parquet", ""))
    path = write_parquet({"text": [f"{i} {i * i}" for i in range(1000)]})
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    assert "cannot be read as Parquet" in message(path)


def test_parquet_with_texts_missing(arrow, write_parquet):
    assert "row 2: the text is null" in message(write_parquet({"text": ["a", None]}))
    assert "row 1: the text is of type int" in message(write_parquet({"text": [3]}))
    assert "row 1: the text is of type list" in message(write_parquet({"text": [["a", "b"]]}))
    assert "holds no texts" in message(write_parquet({"text": arrow.array([], arrow.string())}))
    assert "one of 'a', 'b'" in message(write_parquet({"a": ["x"], "b": ["y"]}))


@pytest.fixture
def datasets():
    found = pytest.importorskip("datasets")
    found.disable_progress_bars()
    return found


@pytest.fixture
def dataset(datasets):
    texts, _ = zip(*PAIRS, strict=True)
    features = datasets.Features(
        idx=datasets.Value("string"),
        sentence=datasets.Value("string"),
        label=datasets.ClassLabel(names=["bad", "good"]),
    )
    columns = {"idx": list("abcde"), "sentence": texts, "label": [1, 0, -1, None, 1]}
    return datasets.Dataset.from_dict(columns, features=features)


CLASSES = ["good", "bad", None, None, "good"]
NAMED = [Record(text, label) for (text, _), label in zip(PAIRS, CLASSES, strict=True)]


def test_a_folder_saved_by_datasets(dataset, tmp_path):
    path = tmp_path / "saved"
    dataset.save_to_disk(path)
    files = sorted(path.rglob("*"))
    assert read_records(path) == NAMED
    assert read_records(str(path) + "/", limit=2) == NAMED[:2]
    assert read_records(path, text_column="idx")[0] == Record("a", "good")
    assert sorted(path.rglob("*")) == files


def test_a_dataset_that_is_shuffled_split_or_formatted(dataset, tmp_path):
    dataset = dataset.select([4, 2, 0]).with_format("numpy")
    dataset.save_to_disk(tmp_path, num_shards=2)
    assert read_records(tmp_path) == [NAMED[4], NAMED[2], NAMED[0]]


def test_classes_of_a_dataset_in_parquet(dataset, tmp_path):
    path = tmp_path / "x.parquet"
    dataset.to_parquet(path)
    assert read_records(path) == NAMED


def test_a_single_or_named_split(datasets, dataset, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    datasets.DatasetDict(train=dataset).save_to_disk(one)
    datasets.DatasetDict(train=dataset, test=dataset.select([1])).save_to_disk(two)
    assert read_records(one) == NAMED
    assert read_records(two / "test") == NAMED[1:2]
    assert message(two).endswith(f"holds 2 splits: name one of {two / 'train'}, {two / 'test'}")


def test_datasets_that_cannot_be_read(datasets, tmp_path):
    for number, columns in enumerate(
        [{"text": ["a", None]}, {"text": [1]}, {"a": ["x"], "b": ["y"]}, {"text": [["a"]]}]
    ):
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / str(number))
    assert "row 2: the text is null" in message(tmp_path / "0")
    assert "row 1: the text is of type int" in message(tmp_path / "1")
    assert "one of 'a', 'b'" in message(tmp_path / "2")
    assert "row 1: the text is of type list" in message(tmp_path / "3")
    (tmp_path / "0" / "dataset_info.json").write_text("{")
    assert "cannot be read as a folder saved by datasets" in message(tmp_path / "0")
    for file in (tmp_path / "2").glob("*.arrow"):
        file.unlink()
    assert "cannot be read as a folder saved by datasets" in message(tmp_path / "2")


def test_a_folder_that_datasets_did_not_save(write, tmp_path):
    write("x.tsv", content(".tsv"))
    assert "datasets did not save: name a file in it" in message(tmp_path)


@pytest.mark.parametrize(
    ("missing", "name", "needed"),
    [
        ("pyarrow", "x.parquet", "reading Parquet needs pyarrow: "),
        ("datasets", "saved", "datasets: "),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, missing, name, needed):
    path = tmp_path / name
    path.touch() if path.suffix else path.mkdir()
    with contextlib.suppress(NotADirectoryError):
        (path / "state.json").touch()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=needed) as caught:
        read_records(path)
    assert str(caught.value).endswith('run pip install ".[data]" in the checkout of captum_sig')


def test_nothing_heavy_is_loaded_for_a_text_file(write):
    path = write("x.tsv", content(".tsv"))
    program = (
        "import sys; from captum_sig.data.records import read_records; "
        f"assert len(read_records({str(path)!r})) == 5; "
        "print({'pyarrow', 'datasets', 'pandas', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_sst2(shared):
    records = read_records(shared / "data/sst2/dev.tsv")
    assert len(records) == 872
    assert {record.label for record in records} == {"0", "1"}


def test_every_reader_is_tested():
    assert set(READERS) == {*TEXT_FILES, ".parquet", "/"}


def test_labels_can_be_left_out(tmp_path):
    path = tmp_path / "stars.csv"
    path.write_text("text,stars\nFine.,3\n", encoding="utf-8")
    assert read_records(path) == [Record("Fine.", "3")]
    assert read_records(path, label_column="") == [Record("Fine.", None)]
    path.write_text("label\nFine.\n", encoding="utf-8")
    assert read_records(path, label_column="") == [Record("Fine.", None)]

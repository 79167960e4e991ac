"""Second texts of pairs, and lists of labels, in every format."""

import csv
import json
from pathlib import Path

import pytest

from captum_sig.corpus.shards import find_texts, read_rows
from captum_sig.data.columns import checked_input, choose_columns
from captum_sig.data.records import Record, read_records
from tests.shards import scan_corpus

ROWS = [
    {"text": "A man sleeps.", "text_pair": "A man, \"awake\"?", "label": "no"},
    {"text": "It rains.", "text_pair": "It's wet.", "label": "yes"},
]  # fmt: skip


def write(path: Path, rows=ROWS, names=None) -> Path:
    rows = [{(names or {}).get(k, k): v for k, v in row.items()} for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    return path


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_second_texts_are_found_by_name_and_left_out_if_told(ending, tmp_path):
    path = write(tmp_path / f"pairs{ending}")
    expected = [Record(row["text"], row["label"], row["text_pair"]) for row in ROWS]
    assert read_records(path) == expected
    assert expected[0].input == ("A man sleeps.", 'A man, "awake"?')
    alone = read_records(path, pair_column="")
    assert [record.input for record in alone] == ["A man sleeps.", "It rains."]
    names = {"text": "premise", "text_pair": "hypothesis"}
    other = write(tmp_path / f"other{ending}", names=names)
    columns = {"text_column": "premise", "pair_column": "hypothesis"}
    assert read_records(other, **columns) == expected
    shards = scan_corpus([str(other)], shard_size=1, **columns).shards
    assert [row.input for shard in shards for row in read_rows(shard)] == [
        record.input for record in expected
    ]


def test_a_pair_column_leaves_the_texts_to_be_guessed():
    names = ["idx", "sentence", "question"]
    found = choose_columns(
        Path("x"), names, names, text_column=None, pair_column="question", id_column=None
    )
    assert found == {"text": "sentence", "text_pair": "question", "id": "idx"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (("a", None), "the second text is null; wanted a string"),
        (("a", " "), "empty second text"),
        (("", "b"), "empty first text"),
        ((3, "b"), "the first text is of type int"),
        (("a", "half \ud83d"), "the second text holds half a surrogate pair"),
    ],
)
def test_a_bad_side_is_named(value, why):
    with pytest.raises(ValueError, match=why):
        checked_input(value)


def test_a_row_whose_second_text_is_missing_fails_alone(tmp_path):
    rows = [*ROWS, {"text": "No second.", "text_pair": None}, {"text": "Blank.", "text_pair": ""}]
    (shard,) = scan_corpus([str(write(tmp_path / "x.jsonl", rows))]).shards
    found = list(read_rows(shard))
    assert [row.error for row in found] == [
        "", "", "the second text is null; wanted a string: correct the row or leave it out",
        "empty second text",
    ]  # fmt: skip
    assert [row.input for row in found[2:]] == [None, None]


def test_mistakes_are_one_sentence(tmp_path):
    path = write(tmp_path / "a.jsonl")
    for columns, why in (
        ({"pair_column": "other"}, "has no column 'other': pair_column must be one of 'text'"),
        ({"pair_column": "text", "text_column": "text"}, "both 'text': name two columns"),
    ):
        for read in (read_records, lambda path, **options: find_texts([str(path)], **options)):
            with pytest.raises(ValueError, match=why):
                read(path, **columns)
    write(tmp_path / "b.jsonl", [{"text": "alone"}])
    with pytest.raises(ValueError, match="a.jsonl has pairs of texts, and .*b.jsonl has no second"):
        find_texts([str(tmp_path)])
    assert len(find_texts([str(tmp_path)], pair_column="")) == 2
    write(tmp_path / "c.jsonl", [{"text": "a", "text_pair": 3}])
    with pytest.raises(ValueError, match="'text_pair' of .* does not hold strings: set pair_col"):
        find_texts([str(tmp_path / "c.jsonl")])


def test_labels_may_be_lists(tmp_path):
    rows = [{"text": "a", "label": ["joy", 3]}, {"text": "b", "label": []}, {"text": "c"}]
    path = write(tmp_path / "x.jsonl", rows)
    assert [record.label for record in read_records(path)] == [("joy", "3"), (), None]
    path = write(tmp_path / "x.parquet", [{"text": "a", "label": ["joy"]}])
    assert [record.label for record in read_records(path)] == [("joy",)]

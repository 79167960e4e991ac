"""Rationales are read to the character, in every form and format; mistakes are one sentence."""

import contextlib
import csv
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_sig.data.columns import choose_columns
from captum_sig.data.rationales import eraser_tokens, spans_from_cell
from captum_sig.data.records import read_records

SETTINGS = settings(derandomize=True, deadline=None, database=None, max_examples=150)
TEXT = "Not today: naïve 🎉 ends"  # 23 characters
DOCUMENT = "a great , great film .\n\n the plot is  thin ,\tbut fun . \n"
EVIDENCES = [
    [{"docid": "d", "start_token": 1, "end_token": 5, "text": "great , great film"}],
    [{"docid": "d", "start_token": 9, "end_token": 10, "text": "thin", "start_sentence": 1},
     {"docid": "d", "start_token": 11, "end_token": 12, "text": "fun"}],
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["start", "end", "start_token", "end_token", "docid", "text", "x"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


def characters(spans):
    return {place for start, end in spans for place in range(start, end)}


@pytest.mark.parametrize(
    "cell",
    [
        [[0, 3], [11, 16]],
        [[11, 16], [0, 2], [1, 3], [12, 13]],
        [[0, 2], [2, 3], [11, 16], [11, 16]],
        [{"start": 0, "end": 3}, {"start": 11, "end": 16, "label": "x"}],
        [{"end": 3, "start": 0}, [11, 16]],
        [0, 1, 2, 11, 12, 13, 14, 15],
        [15, 14, 13, 12, 11, 2, 1, 0],
        [[{"start": 0, "end": 3}], [{"start": 11, "end": 16}]],
    ],
)
def test_all_forms_are_the_same_characters(cell):
    for value in (cell, json.dumps(cell), f" {json.dumps(cell)}\n"):
        assert spans_from_cell(value, TEXT) == ((0, 3), (11, 16))


@pytest.mark.parametrize("cell", [None, "", "  ", "null", math.nan])
def test_what_is_missing_is_not_known(cell):
    assert spans_from_cell(cell, TEXT) is None


@pytest.mark.parametrize("cell", [[], "[]", [[]], [[], []]])
def test_an_empty_list_marks_nothing(cell):
    assert spans_from_cell(cell, TEXT) == ()


def test_one_character_or_two_neighbours_are_offsets():
    assert spans_from_cell([5], TEXT) == ((5, 6),)
    assert spans_from_cell([4, 5], TEXT) == ((4, 6),)
    assert spans_from_cell([0, 4, 5], TEXT) == ((0, 1), (4, 6))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=1, max_size=6))
@SETTINGS
def test_spans_and_offsets_of_the_same_characters_agree(drawn):
    spans = [[start, start + length] for start, length in drawn]
    found = spans_from_cell(spans, "x" * 40)
    assert characters(found) == characters(spans)
    assert all(before[1] < after[0] for before, after in pairwise(found))
    offsets = sorted(characters(spans))
    if 2 * len(found) <= len(offsets):  # else they may be spans
        assert spans_from_cell(offsets, "x" * 40) == found


WANTED = r"wanted \[\[start, end\], …\], .*in whole numbers: convert the column"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[[0, 3]", "the rationale is not JSON: .*; wanted"),
        ("ends", "the rationale is not JSON"),
        ("[" * 5000, "the rationale is not JSON"),
        ("9" * 5000, "the rationale is not JSON"),
        ({"start": 0, "end": 3}, r"the rationale is \{'end': 3, 'start': 0\}; wanted"),
        (True, "the rationale is True; wanted"),
        ("3", "the rationale is 3; wanted"),
        ([[0, 24]], r"\[0, 24\] is outside the text, which has 23 characters; wanted 0 ≤ start"),
        ([[-1, 3]], r"\[-1, 3\] is outside the text"),
        ([21, 22, 23], r"\[23, 24\] is outside the text"),
        ([-1], r"\[-1, 0\] is outside"),
        ([[3, 0]], r"\[3, 0\] ends before it has marked anything; wanted start < end"),
        ([[3, 3]], r"\[3, 3\] ends before it has marked anything"),
        ([[0.0, 3.0]], rf"has \[0.0, 3.0\]; {WANTED}"),
        ([1.0, 2.0], rf"has 1.0; {WANTED}"),
        ([[0, True]], rf"has \[0, True\]; {WANTED}"),
        ([[0, 3, 5]], rf"has \[0, 3, 5\]; {WANTED}"),
        ([["a", "b"]], rf"has \['a', 'b'\]; {WANTED}"),
        (["Not today", 3], rf"has 'Not today'; {WANTED}"),
        (["Not to"], "quotes 'Not to', which is not in the text; wanted words of the text, letter"),
        (["Not today", "nds"], "quotes 'nds', which is not in the text"),
        ([" "], "quotes ' ', which is not in the text"),
        ([0, [1, 2]], rf"has 0; {WANTED}"),
        ([{"begin": 0, "end": 3}], rf"has \{{'begin': 0, 'end': 3\}}; {WANTED}"),
        ([[[0, 3]], [[4, 5]]], rf"has \[\[0, 3\]\]; {WANTED}"),
        ([0, 3], r"\[0, 3\] may mean characters or the ends of spans; .* write spans as \[\[start"),
        ([0, 3, 8, 11], "may mean characters or the ends of spans"),
        ([0, 3, 4, 9], "may mean characters or the ends of spans"),
        ([0, 0, 1, 1, 1], "may mean characters or the ends of spans; wanted each character once"),
        ([[{"start_token": 0, "end_token": 9}]], r"\[0, 9\] is outside the text, which has 5 tok"),
        ([[{"start_token": -1, "end_token": -1}]], r"\[-1, -1\] ends before"),
        ([[{"start_token": 0}]], rf"has \{{'start_token': 0\}}; {WANTED}"),
        ([[{"start_token": 0, "end_token": 1.5}]], WANTED),
        ([{"start_token": 0, "end_token": 1}, [2, 3]], rf"has \[2, 3\]; {WANTED}"),
        (
            [[{"start_token": i, "end_token": i + 1, "docid": f"doc {i}"}] for i in range(2)],
            "is in 2 documents, 'doc 0, doc 1'; wanted one: make a row for each",
        ),
    ],
)
def test_mistakes(cell, message):
    with pytest.raises(ValueError, match=message) as caught:
        spans_from_cell(cell, TEXT)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:the text of an evidence")
@given(JSON | JSON.map(json.dumps) | st.text(), st.text(max_size=30))
@SETTINGS
def test_any_cell_is_spans_or_an_error(cell, text):
    with contextlib.suppress(ValueError):
        for start, end in spans_from_cell(cell, text) or ():
            assert 0 <= start < end <= len(text)


@pytest.mark.parametrize("depth", [40, 900, 100_000])
def test_a_deep_cell(depth):
    with pytest.raises(ValueError, match="the rationale"):
        spans_from_cell("[" * depth + "1" + "]" * depth, TEXT)


@given(st.text(alphabet="ab \n\t\xa0.,", max_size=40))
@SETTINGS
def test_tokens_are_those_of_eraser(document):
    """Lines without spaces at their ends, split at spaces, empty ones left out."""
    expected = [
        token for line in document.split("\n") for token in line.strip().split(" ") if token
    ]
    assert [document[start:end] for start, end in eraser_tokens(document)] == expected


def test_evidences_are_characters_of_the_document():
    spans = spans_from_cell(EVIDENCES, DOCUMENT)
    assert [DOCUMENT[start:end] for start, end in spans] == ["great , great film", "thin", "fun"]
    assert spans_from_cell([EVIDENCES[0][0], *EVIDENCES[1]], DOCUMENT) == spans


def test_quotes_are_found_wherever_they_stand():
    quotes = ["great , great film", "thin", "fun ."]
    spans = spans_from_cell(quotes, DOCUMENT)
    assert [DOCUMENT[start:end] for start, end in spans] == quotes
    text = "art, part:\n art (art\tis) is art."
    found = [text[start:end] for start, end in spans_from_cell(["art"], text)]
    assert found == ["art"] * 4
    assert spans_from_cell(["art is", ": art"], text) == ((9, 15), (17, 23))
    assert spans_from_cell(["(art is)"], text) == ((16, 24),)


def test_evidence_that_crosses_lines():
    cell = [[{"start_token": 4, "end_token": 7, "text": "film .  the"}]]
    ((start, end),) = spans_from_cell(cell, DOCUMENT)
    assert DOCUMENT[start:end] == "film .\n\n the"


def test_another_text_of_the_evidence_is_noticed():
    cell = [[{"start_token": 1, "end_token": 2, "text": "grand"}]]
    with pytest.warns(UserWarning, match="not what stands at its tokens in the document"):
        assert spans_from_cell(cell, DOCUMENT) == ((2, 7),)


ROWS = [
    {"text": "Dull film.", "label": "neg", "why": [[0, 4]]},
    {"text": "Good fun", "label": "pos", "why": [{"start": 5, "end": 8}]},
    {"text": "So so", "label": "neg", "why": []},
    {"text": "Fine", "label": "pos", "why": None},
]


def write(path: Path, rows) -> Path:
    if path.suffix in (".csv", ".tsv"):
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells = [["" if row[n] is None else row[n] if isinstance(row[n], str) else
                  json.dumps(row[n]) for n in names] for row in rows]  # fmt: skip
        if path.suffix == ".tsv":
            path.write_text("".join("\t".join(line) + "\n" for line in [names, *cells]))
            return path
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *cells])
    elif path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl", ".parquet", ""])
def test_a_column_in_every_format(ending, tmp_path):
    rows = ROWS
    if ending in (".parquet", ""):  # where a column has one type
        spans = [[(0, 4)], [(5, 8)], [], None]
        cells = [of and [{"start": a, "end": b} for a, b in of] for of in spans]
        rows = [{**row, "why": cell} for row, cell in zip(ROWS, cells, strict=True)]
    path = write(tmp_path / f"x{ending}", rows)
    records = read_records(path, rationale_column="why")
    assert [record.spans for record in records] == [((0, 4),), ((5, 8),), (), None]
    assert [record.label for record in records] == ["neg", "pos", "neg", "pos"]
    assert [record.spans for record in read_records(path)] == [None] * 4


def test_lists_of_integers_in_parquet(tmp_path):
    rows = [{"text": "Dull film.", "why": [0, 1, 2, 3]}, {"text": "Good", "why": None}]
    path = write(tmp_path / "x.parquet", rows)
    assert [x.spans for x in read_records(path, rationale_column="why")] == [((0, 4),), None]


def test_the_text_may_be_guessed_beside_a_rationale(tmp_path):
    path = write(tmp_path / "x.csv", [{"spans": "[0, 1, 2]", "post": "Bad one"}])
    (record,) = read_records(path, rationale_column="spans")
    assert (record.text, record.spans) == ("Bad one", ((0, 3),))


def test_spans_of_a_pair_are_in_the_first_text(tmp_path):
    row = {"premise": "It rains.", "hypothesis": "Wet", "why": [[3, 8]]}
    columns = {"text_column": "premise", "pair_column": "hypothesis", "rationale_column": "why"}
    (record,) = read_records(write(tmp_path / "x.jsonl", [row]), **columns)
    assert (record.input, record.spans) == (("It rains.", "Wet"), ((3, 8),))
    path = write(tmp_path / "y.jsonl", [{**row, "premise": "Rain"}])
    with pytest.raises(ValueError, match=r"y.jsonl, line 1: .*\[3, 8\] is outside the text, whi"):
        read_records(path, **columns)


def test_the_row_is_named(tmp_path):
    for ending, where in ((".csv", "line 3"), (".jsonl", "line 2"), (".json", "row 2")):
        path = write(tmp_path / f"x{ending}", [ROWS[0], {**ROWS[1], "why": [[5, 9]]}])
        with pytest.raises(ValueError, match=rf"x{ending}, {where}: the rationale \[5, 9\] is out"):
            read_records(path, rationale_column="why")
        assert len(read_records(path, rationale_column="why", limit=1)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rationale_column": "spans"}, "has no column 'spans': rationale_column must be one of"),
        ({"rationale_column": "text"}, "rationale_column 'text' is read as something else"),
        ({"rationale_column": "label"}, "rationale_column 'label' is read as something else"),
    ],
)
def test_columns_that_cannot_be_read(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read_records(write(tmp_path / "x.jsonl", ROWS), **options)


def test_a_label_of_the_same_name_is_left_out():
    names = ["text", "label"]
    found = choose_columns(
        Path("x"), names, names, text_column=None, rationale_column="label", label_column=""
    )
    assert found == {"text": "text", "rationale": "label"}


@pytest.fixture
def movies(tmp_path):
    """ERASER's movies in small: annotations, and documents in a folder."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/d").write_text(DOCUMENT, encoding="utf-8")
    (tmp_path / "docs/e.txt").write_text("dull , naïve", encoding="utf-8")
    rows = [
        {"annotation_id": "1", "classification": "POS", "docids": None, "query": "what ?",
         "evidences": EVIDENCES, "query_type": None},
        {"annotation_id": "e.txt", "classification": "NEG", "docids": None, "query": "what ?",
         "evidences": [], "query_type": None},
        {"annotation_id": "3", "classification": "NEG", "docids": ["e.txt"], "query": "what ?",
         "evidences": [[{"docid": "e.txt", "start_token": 2, "end_token": 3}]]},
    ]  # fmt: skip
    return write(tmp_path / "val.jsonl", rows)


def expect_movies(records, query=None):
    assert [x.text for x in records] == [DOCUMENT, *["dull , naïve"] * 2]
    assert [x.label for x in records] == ["POS", "NEG", "NEG"]
    assert [x.spans for x in records] == [spans_from_cell(EVIDENCES, DOCUMENT), (), ((7, 12),)]
    assert {x.text_pair for x in records} == {query}


def test_eraser_with_a_folder_of_documents(movies):
    expect_movies(read_records(movies, rationale_column="evidences"))
    pairs = read_records(movies, rationale_column="evidences", pair_column="query")
    expect_movies(pairs, "what ?")
    assert len(read_records(movies, rationale_column="evidences", limit=2)) == 2


def test_eraser_with_a_file_of_documents(movies):
    lines = [{"docid": path.name, "document": path.read_text(encoding="utf-8")}
             for path in (movies.parent / "docs").iterdir()]  # fmt: skip
    write(movies.parent / "docs.jsonl", lines)
    expect_movies(read_records(movies, rationale_column="evidences"))
    write(movies.parent / "docs.jsonl", [*lines, {"docid": "f"}])
    with pytest.raises(ValueError, match=r"docs.jsonl, line 3: the document is null; wanted a str"):
        read_records(movies, rationale_column="evidences")


def test_eraser_with_the_document_in_the_line(tmp_path):
    row = {"annotation_id": "1", "classification": "POS", "evidences": EVIDENCES}
    path = write(tmp_path / "x.jsonl", [{**row, "document": DOCUMENT}])
    (record,) = read_records(path, rationale_column="evidences")
    assert (record.label, record.spans) == ("POS", spans_from_cell(EVIDENCES, DOCUMENT))
    path = write(tmp_path / "y.jsonl", [{**row, "story": DOCUMENT}])
    assert read_records(path, text_column="story", rationale_column="evidences") == [record]
    with pytest.raises(ValueError, match=r"y.jsonl names documents, and there is no docs or docs"):
        read_records(path, rationale_column="evidences")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"docids": ["no.txt"]}, "there is no file 'no.txt' in docs: add it, or leave the row out"),
        ({"docids": ["../val.jsonl"]}, "there is no file '../val.jsonl' in docs"),
        ({"docids": ["."]}, "there is no file '.' in docs"),
        ({"docids": ["\0"]}, "there is no file '.x00' in docs"),
        ({"docids": ["d", "e.txt"]}, "has 2 documents, 'd, e.txt'; wanted one: put the text into"),
        (
            {"docids": ["d"], "evidences": [[{"docid": "x", "start_token": 0, "end_token": 1}]]},
            "has 2 documents, 'd, x'",
        ),
        ({"docids": ["bad"]}, "docs/bad is not UTF-8 at byte 0"),
        ({"evidences": 5}, "the rationale is 5; wanted"),
        ({"evidences": [[{"docid": "d", "start_token": 0, "end_token": 99}]]}, "has 13 tokens"),
    ],
)
def test_mistakes_in_eraser(movies, changes, message):
    (movies.parent / "docs/bad").write_bytes(b"\xff")
    row = {"annotation_id": "e.txt", "classification": "POS", "evidences": [], **changes}
    write(movies, [row])
    with pytest.raises(ValueError, match=rf"val.jsonl, line 1: {message}|{message}") as caught:
        read_records(movies, rationale_column="evidences")
    assert re.match(r"\S*val.jsonl, line 1: .", str(caught.value))


@pytest.mark.filterwarnings("ignore:the text of an evidence")
@given(st.dictionaries(st.sampled_from(["docids", "evidences", "annotation_id"]), JSON))
@SETTINGS
def test_any_annotation_is_a_record_or_an_error(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("eraser")
    (folder / "docs").mkdir()
    (folder / "docs/d").write_text(DOCUMENT, encoding="utf-8")
    row = {"annotation_id": "d", "classification": "POS", "evidences": [], **changes}
    path = write(folder / "val.jsonl", [row])
    with contextlib.suppress(ValueError):
        (record,) = read_records(path, rationale_column="evidences")
        assert record.text == DOCUMENT


def test_toxic_spans(shared):
    """Every comment of the real file is read, to the character."""
    path = shared / "data/toxic-spans/test.csv"
    records = read_records(path, rationale_column="spans")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [record.text for record in records] == [row["text"] for row in rows]
    offsets = [json.loads(row["spans"]) for row in rows]
    assert [sorted(characters(record.spans)) for record in records] == offsets

"""Tables of results: digits, escapes, and files that are complete or absent."""

import csv
import io
import os
import threading

import numpy as np
import pytest
from rich.console import Console

from captum_sig._spreadsheets import spreadsheet_safe
from captum_sig.data.tables import to_markdown, to_terminal, write_csv

COLUMNS = ["method", "n", "mean", "exact"]
ROWS = [
    {"method": "sig, exact", "n": 872, "mean": 0.1 + 0.2, "exact": True, "unused": object()},
    {"method": 'a|b\\c "d"\ne [bold]', "n": np.int64(7), "mean": np.float64(1 / 3), "exact": None},
    {"method": "näive", "n": None, "mean": float("nan"), "exact": False},
    {"method": "", "n": 10**20, "mean": 1e-300, "exact": False},
]


def read(path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, strict=True))


def test_csv_keeps_every_digit(tmp_path):
    path = tmp_path / "x.csv"
    write_csv(ROWS, COLUMNS, path)
    assert read(path) == [
        COLUMNS,
        ["sig, exact", "872", "0.30000000000000004", "True"],
        ['a|b\\c "d"\ne [bold]', "7", "0.3333333333333333", ""],
        ["näive", "", "nan", "False"],
        ["", "100000000000000000000", "1e-300", "False"],
    ]
    assert os.listdir(tmp_path) == ["x.csv"]


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", "a\nb", '"', ",", " a ", "\u2028"])
def test_csv_reads_back(tmp_path, text):
    write_csv([{text: text, "other": 1}], [text, "other"], tmp_path / "x.csv")
    assert read(tmp_path / "x.csv") == [[text, "other"], [text, "1"]]


FORMULAS = [
    '=hyperlink("http://a.b","c")', "@sum(1)", "=cmd|'/c calc'!A1", "+1", "-1", "\t=1", "\r=1",
    "\n=1", " =1", "'=1", '"=1', "\xa0@a", "\uff1d1", "\t", "\rx",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_get_an_apostrophe(tmp_path, text):
    assert spreadsheet_safe(text).startswith("'")
    write_csv([{text: text}], [text], tmp_path / "x.csv")
    assert read(tmp_path / "x.csv") == [[spreadsheet_safe(text)]] * 2


@pytest.mark.parametrize("separator", [";", "\t", "\r", "\n", "\r\n"])
def test_formulas_are_guarded_where_a_program_begins_another_cell(separator):
    assert spreadsheet_safe(f"x{separator}=1;y") == f"x{separator}'=1;y"
    assert spreadsheet_safe(f'x{separator}" @a') == f"x{separator}'\" @a"


def test_other_texts_and_numbers_stay_as_they_are(tmp_path):
    for text in ("", "'", "a-b", "good, -5", "a\n\nb", "x@y.z", "'tis", "שלום \u200fא"):
        assert spreadsheet_safe(text) == text
    rows = [{"a": -1}, {"a": -0.5}, {"a": np.float64(-2)}, {"a": float("-inf")}, {"a": None}]
    write_csv(rows, ["a"], tmp_path / "x.csv")
    assert read(tmp_path / "x.csv") == [["a"], ["-1"], ["-0.5"], ["-2.0"], ["-inf"], [""]]


def test_what_overrides_the_direction_of_writing_is_written_as_an_escape():
    controls = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    for code in controls:
        assert spreadsheet_safe(f"a{chr(code)}b") == f"a\\u{code:04x}b"
    assert spreadsheet_safe("\u202e=1") == "\\u202e=1"


def test_the_order_of_columns_is_the_callers(tmp_path):
    write_csv(ROWS[:1], ["n", "method"], str(tmp_path / "x.csv"))
    assert read(tmp_path / "x.csv") == [["n", "method"], ["872", "sig, exact"]]
    assert to_markdown(ROWS[:1], ["n", "method"]).splitlines()[2] == "| 872 | sig, exact |"


def test_no_rows(tmp_path):
    write_csv([], ["a", "b"], tmp_path / "x.csv")
    assert read(tmp_path / "x.csv") == [["a", "b"]]
    assert to_markdown([], ["a", "b"]) == "| a | b |\n| --- | --- |\n"
    assert to_terminal([], ["a", "b"]).row_count == 0


@pytest.mark.parametrize("step", ["writerows", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, step):
    path = tmp_path / "x.csv"
    path.write_text("old")

    class Full:
        def __init__(self, file):
            file.write("half")

        def writerows(self, rows):
            raise OSError("no space left")

    def replace(source, target):
        raise OSError("no space left")

    if step == "writerows":
        monkeypatch.setattr("captum_sig._spreadsheets.csv.writer", Full)
    else:
        monkeypatch.setattr("captum_sig._files.os.replace", replace)
    with pytest.raises(OSError, match="no space left"):
        write_csv(ROWS, COLUMNS, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.csv"]


@pytest.mark.skipif(os.name != "posix", reason="links, modes and pipes of POSIX")
def test_links_modes_and_pipes(tmp_path):
    target, link, plain = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "plain"
    target.write_text("old")
    link.symlink_to(target)
    plain.touch()
    write_csv(ROWS, COLUMNS, link)
    assert link.is_symlink()
    assert len(read(target)) == 5
    assert target.stat().st_mode == plain.stat().st_mode

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_csv([{"a": 1}], ["a"], pipe)
    reader.join(5)
    assert found == ["a\n1\n"]
    assert pipe.is_fifo()


def test_markdown():
    assert to_markdown(ROWS, COLUMNS, {"mean": ".3f", "n": ","}).splitlines() == [
        "| method | n | mean | exact |",
        "| --- | ---: | ---: | --- |",
        "| sig, exact | 872 | 0.300 | True |",
        '| a\\|b\\\\c "d" e [bold] | 7 | 0.333 |  |',
        "| näive |  | nan | False |",
        "|  | 100,000,000,000,000,000,000 | 0.000 | False |",
    ]
    assert "0.30000000000000004" in to_markdown(ROWS, COLUMNS)
    assert to_markdown([{"a|b": 1}], ["a|b"]).startswith("| a\\|b |\n| ---: |")


def test_a_column_with_a_word_is_not_numeric():
    rows = [{"a": 1.23456, "b": None}, {"a": "all", "b": None}]
    found = to_markdown(rows, ["a", "b"], {"a": ".1f", "b": ".1f"})
    assert found.splitlines()[1:] == ["| --- | --- |", "| 1.2 |  |", "| all |  |"]


def test_terminal():
    table = to_terminal(ROWS, COLUMNS, {"mean": ".3f"})
    assert [column.justify for column in table.columns] == ["left", "right", "right", "left"]
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    printed = console.file.getvalue()
    assert "[bold]" in printed
    assert " 0.333 " in printed
    assert " 0.300 " in printed


@pytest.mark.parametrize("make", [to_markdown, to_terminal])
def test_a_missing_column_is_named(make, tmp_path):
    rows = [{"a": 1, "b": 2}, {"a": 1}]
    with pytest.raises(ValueError, match="row 2 of the table has no 'b'"):
        make(rows, ["a", "b"])
    with pytest.raises(ValueError, match="row 2 of the table has no 'b'"):
        write_csv(rows, ["a", "b"], tmp_path / "x.csv")
    assert os.listdir(tmp_path) == []


def test_a_format_must_fit():
    with pytest.raises(ValueError, match=r"(?i)format"):
        to_markdown(ROWS, COLUMNS, {"mean": ".3q"})

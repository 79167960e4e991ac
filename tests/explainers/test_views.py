"""What every result can be shown as and saved to."""

import csv
import html.parser
import io
import json
import math
import re
import sys

import matplotlib
import pytest
from rich.console import Console

from tests.made_results import EVERY_FIELD_OF_ONE, LABEL, LABELS, MATRICES, NASTY, RESULTS, SEARCH

VOID = {"meta"}


class Tags(html.parser.HTMLParser):
    """The tags of a page, all of which are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(params=list(RESULTS))
def result(request):
    return RESULTS[request.param]


def test_json_and_back(result):
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    again = type(result).from_dict(data)
    assert again == result
    assert hash(again) == hash(result)
    assert str(again) == str(result)


def test_pages_are_whole_and_hold_only_our_tags(result, tmp_path):
    page = result.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert page.startswith("<!DOCTYPE html>")
    names = Tags(page).names
    assert "script" not in names
    assert Tags(result._repr_html_()).names <= names
    assert "http" not in page


def test_pictures_leave_pyplot_alone(result, tmp_path):
    numbers_before = matplotlib.pyplot.get_fignums() if "matplotlib.pyplot" in sys.modules else []
    picture = result.to_png(tmp_path / "picture.png")
    assert picture.startswith(b"\x89PNG")
    assert (tmp_path / "picture.png").read_bytes() == picture
    assert isinstance(result.plot(), matplotlib.figure.Figure)
    if "matplotlib.pyplot" in sys.modules:
        assert matplotlib.pyplot.get_fignums() == numbers_before


def test_a_terminal_shows_it_within_its_width(result):
    for width in (40, 100):
        console = Console(width=width, force_terminal=True, color_system=None)
        with console.capture() as capture:
            console.print(result)
        lines = capture.get().splitlines()
        assert max(map(len, lines)) <= width
        assert result.summary.split("  ")[0].split()[0] in capture.get()


def test_print_shows_plain_lines(result, capsys):
    print(result)
    shown = capsys.readouterr().out
    assert shown == f"{result.to_plain()}\n"
    assert shown.startswith(result.summary)
    assert repr(result) != str(result)


def test_tokens_that_were_not_read_are_told_everywhere():
    for one, told in (
        (LABEL, "1 token beyond the model's limit was not read"),
        (LABELS, "12 tokens beyond the model's limit were not read"),
    ):
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(one)
        for shown in (str(one), html.unescape(one.to_html()), capture.get()):
            assert told in shown
        assert one.to_dict()["dropped_tokens"] == one.dropped_tokens


def read(text):
    return list(csv.reader(io.StringIO(text)))


def test_csv_of_one_target_has_a_line_for_each_word(tmp_path):
    text = LABEL.to_csv(tmp_path / "words.csv")
    assert (tmp_path / "words.csv").read_bytes() == text.encode()
    header, *rows = read(text)
    assert header == ["word", "start", "end", "score", "normalized"]
    assert [row[0] for row in rows] == [word.word for word in LABEL.words]
    assert [float(row[3]) for row in rows] == LABEL.scores
    assert read(EVERY_FIELD_OF_ONE.to_csv())[0] == [
        "word", "start", "end", "score", "normalized", "std", "standard_error", "first", "last",
        "agreement", "evidence", "side",
    ]  # fmt: skip


def test_csv_of_several_has_a_line_for_each_target():
    header, *rows = read(LABELS.to_csv())
    assert header == ["target", "logit", "probability", *LABELS.columns]
    assert [row[0] for row in rows] == LABELS.rows
    assert [[float(cell) for cell in row[3:]] for row in rows] == LABELS.matrix.tolist()
    blank = [[cell == "" for cell in row[2:]] for row in read(SEARCH.to_csv())[1:]]
    assert blank == SEARCH.matrix.isnan().tolist()


def test_csv_is_safe_in_a_spreadsheet():
    from tests.made_results import one_target

    assert read(one_target("=1+1 -x").to_csv())[1][0] == "'=1+1"


def test_dataframes(result):
    pandas = pytest.importorskip("pandas")
    frame = result.to_dataframe()
    if hasattr(result, "matrix"):
        assert list(frame.index) == result.rows
        assert list(frame.columns) == result.columns
        assert frame.shape == tuple(result.matrix.shape)
        for row, wanted in zip(frame.values.tolist(), result.matrix.tolist(), strict=True):
            assert all(math.isnan(v) or v == w for v, w in zip(row, wanted, strict=True))
    else:
        assert list(frame["word"]) == [word.word for word in result.words]
        assert list(frame["score"]) == result.scores
    assert isinstance(frame, pandas.DataFrame)


def test_dataframes_need_pandas(monkeypatch, result):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_dataframe needs pandas: run pip install pandas"):
        result.to_dataframe()


def test_files_that_cannot_be_written_are_named(tmp_path):
    for save in (LABEL.to_html, LABEL.to_png, LABEL.to_csv):
        with pytest.raises(OSError, match=re.escape(str(tmp_path / "no" / "file"))):
            save(tmp_path / "no" / "file")


def test_nothing_of_a_text_is_markup():
    for one in (LABEL, LABELS):
        assert NASTY not in one.to_html()
        assert NASTY in html.unescape(one.to_html())


@pytest.mark.parametrize("name", list(MATRICES))
def test_each_target_of_a_matrix_has_all_views(name):
    for one in MATRICES[name]:
        assert str(one)
        assert Tags(one.to_html()).names

"""`captum-sig trace`: its table, its JSON and its picture."""

import dataclasses
import functools
import json

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from captum_sig import TextClassificationExplainer
from captum_sig.cli.trace import PLAIN_WIDTH
from captum_sig.path import PATHS
from captum_sig.viz import trace as trace_view
from captum_sig.viz.characters import on_one_line
from captum_sig.viz.trace import to_figure, to_png

TEXT = "Old jokes, charming film."
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def trace(run):
    return functools.partial(run, "trace")


@pytest.mark.parametrize("method", ["ig", "dig"])
def test_a_line_for_some_points_and_what_is_missing(method, demo, trace):
    result = trace(TEXT, "--method", method)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{method} from baseline mask; F: logit of POSITIVE"
    assert lines[2].split() == ["α", "F", "sum", "nearest", "tokens"]
    assert max(map(cell_len, lines)) <= 80
    rows = [line.split() for line in lines[4:-3] if line[:1].isdigit()]
    found = demo.trace(TEXT, method=method).trace
    points = [round(share * (len(found.alpha) - 1)) for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    assert [row[0] for row in rows] == [f"{found.alpha[point]:.2f}" for point in points]
    assert [float(row[1]) for row in rows] == pytest.approx(
        found.outputs[0, points].tolist(), abs=1e-3
    )
    assert [float(row[2]) for row in rows] == pytest.approx(
        found.cumulative[0, points].tolist(), abs=1e-3
    )
    assert rows[0][3] == "[MASK]"
    assert "old jokes, charming film." in result.stdout
    change, total = float(found.change), float(found.cumulative[0, -1])
    assert lines[-2] == (
        f"F(x) − F(x̄) = {change:+.4f}, sum {total:+.4f}, missing {change - total:+.4f}."
    )
    assert lines[-1].endswith(f"nearest word: {found.wae:.3f} over the sentence.")


@pytest.mark.parametrize("method", ["sig", "sequential_dig"])
def test_a_line_for_each_word(method, demo, trace):
    result = trace(TEXT, "--method", method, "--baseline", "pad")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"{method} from baseline pad; F: logit of POSITIVE"
    assert lines[2].split()[:4] == ["word", "F(x̄ʷ)", "change", "sum"]
    assert max(map(cell_len, lines)) <= 80
    rows = [line.split() for line in lines[4:] if line and line[0] != " "]
    words = demo(TEXT).words
    assert [row[0] for row in rows[: len(words)]] == [word.word for word in words]
    assert rows[0][4] == rows[0][5] == "[PAD]"
    shown = " ".join(result.stdout.split())
    assert f"One word moves at a time, all others are unchanged: {TEXT}" in shown
    assert "over the words that move." in shown
    assert shown.count(TEXT) == 1


@pytest.mark.parametrize("method", PATHS)
def test_json_is_what_the_explainer_says(method, demo, trace):
    result = trace(TEXT, "--method", method, "--format", "json", "--target", "negative")
    data = json.loads(result.stdout)
    expected = demo.trace(TEXT, "negative", method).to_dict()
    assert data.keys() == expected.keys()
    assert (data["target"], data["method"]) == ("NEGATIVE", method)
    for path, wanted in zip(data["paths"], expected["paths"], strict=True):
        assert (path["word"], path["nearest"]) == (wanted["word"], wanted["nearest"])
        assert path["outputs"] == pytest.approx(wanted["outputs"], abs=1e-5)


def test_options_reach_the_explainer(demo, trace):
    text = "An unremarkable filmmaker"
    result = trace(text, "--method", "sig", "--n-steps", "3", "--level", "token",
                 "--baseline", "constant", "--seed", "4", "--format", "json")  # fmt: skip
    data = json.loads(result.stdout)
    assert (data["baseline"], len(data["alpha"])) == ("constant", 4)
    assert all(len(path["positions"]) == 1 for path in data["paths"])
    assert len(data["paths"]) > 3
    explainer = TextClassificationExplainer(demo.model, demo.tokenizer, baseline="constant", seed=4)
    drawn = explainer.trace(text, n_steps=1).to_dict()["paths"][0]["tokens"][0]
    assert {path["tokens"][0][0] for path in data["paths"]} == set(drawn)


@pytest.mark.parametrize("method", PATHS)
def test_pictures_go_to_a_file(method, tmp_path, trace):
    result = trace(TEXT, "--method", method, "--output", str(tmp_path / "out.png"))
    assert (result.exit_code, result.output) == (0, "")
    content = (tmp_path / "out.png").read_bytes()
    assert content.startswith(PNG)
    assert int.from_bytes(content[16:20], "big") == 1200  # pixels wide


def test_the_ending_chooses_the_format(tmp_path, trace):
    for name in ("out.json", "OUT.JSON"):
        trace(TEXT, "--output", str(tmp_path / name))
        assert json.loads((tmp_path / name).read_text())["text"] == TEXT
    assert trace(TEXT, "--output", str(tmp_path / "out.txt")).stdout == ""
    table = (tmp_path / "out.txt").read_text()
    assert max(map(cell_len, table.splitlines())) <= PLAIN_WIDTH
    assert table == trace(TEXT).stdout
    trace(TEXT, "--output", str(tmp_path / "image"), "--format", "png")
    assert (tmp_path / "image").read_bytes().startswith(PNG)


def test_a_picture_has_the_lines_that_its_legend_names(demo):
    from matplotlib import pyplot

    together = demo.trace(TEXT)
    axes = to_figure(together).axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "F(x)", "F(α)", "F(x̄) + sum of gradient · step",
    ]  # fmt: skip
    assert TEXT in axes.get_title()
    assert "POSITIVE" in axes.get_ylabel()
    lines = {line.get_label(): line for line in axes.lines}
    torch.testing.assert_close(
        torch.as_tensor(lines["F(α)"].get_ydata()), together.trace.outputs[0]
    )
    alone = demo.trace(TEXT, method="sig")
    axes = to_figure(alone).axes[0]
    names = [t.get_text() for t in axes.get_legend().get_texts()]
    strongest = max(demo(TEXT).words, key=lambda word: abs(word.score))
    assert f"{strongest.score:+.2f} {strongest.word}" in names
    assert len(names) == 3 + trace_view.N_STRONGEST
    assert pyplot.get_fignums() == []


def test_a_picture_of_any_text_is_drawn(demo):
    text = (
        r"$\frac$ _ 映画 " + "a $5 film about a very long supercalifragilisticexpialidocious " * 3
    )
    for method in ("ig", "sig"):
        found = demo.trace(text, method=method, n_steps=4)
        assert to_png(found).startswith(PNG)
        assert max(map(len, to_figure(found).axes[0].get_title().splitlines())) <= 72


def test_a_text_that_is_the_baseline(trace):
    result = trace("[MASK] film", "--baseline", "mask", "--method", "sig", "--n-steps", "2")
    assert result.exit_code == 0
    assert "film" in result.stdout


def test_nothing_to_move_is_said(demo):
    found = demo.trace(TEXT, n_steps=2)
    trace = found.trace
    empty = dataclasses.replace(
        found,
        words=(),
        trace=dataclasses.replace(
            trace, words=(), outputs=trace.outputs[:0], cumulative=trace.cumulative[:0],
            tokens=trace.tokens[:0], distances=trace.distances[:0],
        ),
    )  # fmt: skip
    console = Console(width=80)
    with console.capture() as shown:
        console.print(trace_view.to_terminal(empty))
    assert trace_view.NO_PATH in shown.get()
    assert to_png(empty).startswith(PNG)
    assert json.dumps(empty.to_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "happy"], "NEGATIVE (0), POSITIVE (1)"),
        (["--method", "dig", "--n-steps", "9"], "--n-steps"),
        (["--format", "png"], "pass --output FILE.png"),
        (["--output", "picture.svg"], "picture.svg ends in none of .json, .png, .txt"),
        (["--model", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["--output", "/no/such/folder/file.json"], "there is no folder /no/such/folder"),
        (["--output", "/proc/file.json"], "/proc/file.json cannot be written"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_output(options, message, trace):
    result = trace(TEXT, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("captum-sig: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_an_empty_text_has_no_path(trace):
    result = trace("")
    assert result.exit_code == 2
    assert "has no word to move" in result.stderr


@pytest.mark.parametrize("method", ["ig", "sig"])
def test_a_text_does_not_steer_the_terminal(method, trace):
    result = trace("good \x1b[2J movie \x9b2J \x7f", "--method", method, "--n-steps", "5")
    assert result.exit_code == 0
    assert not set(result.stdout) & {"\x1b", "\x9b", "\x7f"}
    as_json = trace("good \x9b2J \x7f", "--n-steps", "5", "--format", "json")
    assert not set(as_json.stdout) & {"\x9b", "\x7f"}
    assert json.loads(as_json.stdout)["text"] == "good \x9b2J \x7f"


def test_strings_are_shown_on_one_line():
    assert on_one_line("a\nb\tc\x1b[2J\x9b\x7f é") == "a↵b⇥c␛[2J\ufffd\ufffd é"


@pytest.mark.parametrize("method", ["ig", "sig"])
def test_long_texts_stay_readable(method, trace):
    text = "The film is charming and the unremarkable filmmaker is not " * 2
    result = trace(text, "--method", method, "--n-steps", "3")
    assert max(map(cell_len, result.stdout.splitlines())) <= 80
    assert "unremark" in result.stdout


def test_a_terminal_marks_words_that_are_not_the_texts(in_terminal):
    arguments = ("trace", "A charming film", "--n-steps", "5")
    shown = in_terminal(*arguments, COLUMNS="80", TERM="xterm-256color")
    assert "\x1b[2;3m[MASK]" in shown  # dim and italic
    assert "a charming film" in shown

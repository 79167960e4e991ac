"""What a language model's explainer returns: a trip through JSON, Captum's result, pictures."""

import copy
import html
import json
import math
import re
import shutil
import subprocess

import matplotlib
import pytest
import torch
from rich.console import Console

from captum_sig import GenerationAttribution, viz
from captum_sig.explainers.generation_result import TargetToken
from captum_sig.explainers.results import scored_words
from captum_sig.viz import heatmap
from captum_sig.words import Span

WORDS = ["It", "costs", "<b>$5</b>", "&", "$6"]
PROMPT = "It costs <b>$5</b> & $6\x1b[2J"
MATRIX = torch.tensor(
    [[0.5, -1.0, 0.0, 0.25, 2.0], [0.1, 0.2, -0.3, 0.0, 0.0]], dtype=torch.float64
)


def spans():
    start = 0
    for number, word in enumerate(WORDS):
        start = PROMPT.index(word, start)
        yield Span(number, word, start, start + len(word))


@pytest.fixture
def result():
    return GenerationAttribution(
        prompt=PROMPT,
        words=scored_words(list(spans()), MATRIX.sum(0).tolist()),
        target=" a lot\n",
        target_tokens=(TargetToken(" a", 3, -1.5), TargetToken(" lot\n", 4, -0.25)),
        matrix=MATRIX,
        word_deltas=torch.full((5,), 1e-7, dtype=torch.float64),
        baseline="pad",
        level="word",
    )


@pytest.fixture
def contrasted(result):
    data = result.to_dict() | {
        "contrast": " <little>", "attributions": [[0.5]] * 5, "converged": [True] * 5,
        "contrast_tokens": [{"token": " <little>", "id": 5, "log_probability": -2.0}],
        "without_cache": "none",
    }  # fmt: skip
    return GenerationAttribution.from_dict(data)


@pytest.fixture
def sided(result):
    """A result with both sides of each word, and a residual of its sequence."""
    first, last = MATRIX.sum(0) - 1, MATRIX.sum(0) + 1
    words = scored_words(
        list(spans()), MATRIX.sum(0).tolist(), first=first.tolist(), last=last.tolist()
    )
    object.__setattr__(result, "words", words)
    object.__setattr__(result, "residual", 0.25)
    return result


def test_both_sides_of_prompt_words_are_shown(sided):
    lines = heatmap.to_plain(sided).splitlines()
    assert "residual +0.2500: the scores sum to +1.7500, F(x) − F(x̄) is +1.5000" in lines[0]
    assert lines[2].split("\t")[-3:] == ["alone", "in the text", "agreement"]
    assert lines[3] == "log p\t\t-1.50\t-0.250\t\t\t"
    assert lines[4] == "It\t+0.6000\t+0.5000\t+0.1000\t-0.4000\t+1.6000\tsynergistic"
    page = viz.to_page([sided])
    assert "+0.6000 nats; alone -0.4000, in the text +1.6000: synergistic (" in page
    for shown in (page, viz.to_html(sided)):
        assert shown.count("double line</span>: synergistic") == 1
        assert shown.count("residual +0.2500") == 1
    assert "doubly underlined: synergistic" in shown_on_terminal(sided, 80)
    assert max(map(len, shown_on_terminal(sided, 80).splitlines())) <= 80


def test_columns_of_earlier_tokens_have_no_sides(sided):
    wider = torch.cat([MATRIX, torch.tensor([[0.0], [0.5]], dtype=torch.float64)], 1)
    object.__setattr__(sided, "matrix", wider)
    object.__setattr__(sided, "attributes_target", True)
    last = heatmap.to_plain(sided).split("\n")[-1]
    assert last == "a\t+0.5000\t+0.0000\t+0.5000\t\t\t"


def test_numbers_that_are_not_finite_are_none_in_json(contrasted):
    one = copy.deepcopy(contrasted)
    one.word_deltas[0], one.attributions[1, 0] = math.nan, math.inf
    data = json.loads(json.dumps(one.to_dict(), allow_nan=False))
    assert (data["word_deltas"][0], data["attributions"][1]) == (None, [None])
    again = GenerationAttribution.from_dict(data)
    assert again == one
    assert again.word_deltas[0].isnan()


@pytest.mark.parametrize("which", ["result", "contrasted"])
def test_json_and_back(which, request):
    one = request.getfixturevalue(which)
    data = json.loads(json.dumps(one.to_dict()))
    again = GenerationAttribution.from_dict(data)
    assert again == one
    assert hash(again) == hash(one)
    assert again.matrix.dtype == torch.float64
    data["matrix"][0][0] += 1e-12
    assert GenerationAttribution.from_dict(data) != one
    assert one != "something else"
    with pytest.raises(TypeError, match="words"):
        GenerationAttribution.from_dict({})
    with pytest.raises(ValueError, match=r"matrix has shape \(1, 5\); wanted \(2, 5\)"):
        GenerationAttribution.from_dict({**data, "matrix": [[0.0] * 5]})
    with pytest.raises(TypeError, match="surprise"):
        GenerationAttribution.from_dict({**data, "surprise": 1})


def test_it_is_frozen(result):
    with pytest.raises(AttributeError):
        result.prompt = "another"


def test_what_is_derived(result, contrasted):
    torch.testing.assert_close(result.sequence_scores, MATRIX.sum(0))
    assert [w.score for w in result.words] == pytest.approx(MATRIX.sum(0).tolist())
    assert result.log_probabilities.tolist() == [-1.5, -0.25]
    assert result.contrast_log_probabilities.tolist() == []
    assert result.max_abs_word_delta == pytest.approx(1e-7)
    assert result.method == "sig"
    assert result.columns == WORDS
    assert result.rows == [" a", " lot\n"]
    assert contrasted.rows == ["a − <little>", "lot\n − ∅"]


def test_captums_plots_draw(result, contrasted):
    matplotlib.use("Agg")
    for one in (result, contrasted):
        captums = one.to_captum_result()
        torch.testing.assert_close(captums.token_attr, MATRIX.float())
        torch.testing.assert_close(captums.seq_attr, MATRIX.sum(0).float())
        for figure, _ in (captums.plot_token_attr(show=False), captums.plot_seq_attr(show=False)):
            figure.canvas.draw()
            matplotlib.pyplot.close(figure)
    assert result.to_captum_result().input_tokens == WORDS


def test_dollars_are_no_formula(result):
    words = scored_words([Span(0, r"$\frac$", 0, 7)], [1.0])
    data = result.to_dict() | {"words": [vars(words[0])], "matrix": [[1.0], [2.0]]}
    one = GenerationAttribution.from_dict(data | {"word_deltas": [0.0]})
    figure, _ = one.to_captum_result().plot_seq_attr(show=False)
    figure.canvas.draw()
    matplotlib.pyplot.close(figure)
    assert one.to_png().startswith(b"\x89PNG")


def test_lines_for_a_file(result):
    lines = heatmap.to_plain(result).split("\n")
    assert lines[0] == "log p(target) = -1.75  (sig, baseline pad, nats)"
    assert lines[1] == "target:  a lot↵"
    assert lines[2] == "word\tsum\ta\tlot↵"
    assert lines[3] == "log p\t\t-1.50\t-0.250"
    assert lines[5] == "costs\t-0.8000\t-1.0000\t+0.2000"
    assert len(lines) == 4 + len(WORDS)
    assert "\x1b" not in heatmap.to_plain(result)


def test_contrasts_have_lines_of_their_own(contrasted):
    lines = heatmap.to_plain(contrasted).split("\n")
    assert lines[0].startswith("log p(target) = -1.75, log p(contrast) = -2.00")
    assert lines[2] == "contrast:  <little>"
    assert "contrast:  <little>" in shown_on_terminal(contrasted, 80)


def shown_on_terminal(one, width, colours=None):
    console = Console(width=width, color_system=colours, force_terminal=True, highlight=False)
    with console.capture() as capture:
        console.print(heatmap.to_terminal(one, width))
    return capture.get()


def test_a_terminal_shows_every_number_within_its_width(result):
    many = [TargetToken(f" token{i}", i, -1.0) for i in range(30)]
    data = result.to_dict() | {
        "target_tokens": [vars(token) for token in many],
        "matrix": (torch.arange(150).view(30, 5) / 10 - 7).tolist(),
    }
    for width in (40, 80, 200):
        plain = shown_on_terminal(GenerationAttribution.from_dict(data), width)
        assert max(map(len, plain.splitlines())) <= width
        assert {f"token{i}" for i in range(30)} == set(re.findall(r"token\d+", plain))
        assert plain.count("costs") == 1 + len(re.findall("sum", plain))
    assert "\x1b[2J" not in shown_on_terminal(result, 80)


def test_a_terminal_with_colours_shades_the_cells(result):
    shown = shown_on_terminal(result, 80, "truecolor")
    assert "\x1b[30;48;2;34;160;90m" in shown  # the strongest cell in full colour
    assert "\x1b[30;48;2;255;255;255m" in shown  # a zero in white


def test_html_is_escaped_and_tells_numbers(result, contrasted):
    page = viz.to_page([result, contrasted])
    assert page.startswith("<!DOCTYPE html>")
    assert "<b>" not in page
    assert "<little>" not in page
    assert "&lt;b&gt;$5&lt;/b&gt;" in page
    assert 'title="costs → a: -1.0000"' in page
    rows = [json.loads(html.unescape(row)) for row in re.findall('data-row="(.*?)"', page)]
    assert rows[:2] == MATRIX.tolist()
    assert result._repr_html_() in page
    assert result._repr_html_() in result.to_html()


def test_a_hovered_token_colours_the_prompt(result, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    hover = (
        "<script>document.querySelectorAll('[data-row]')[0].dispatchEvent("
        "new MouseEvent('mouseover', {bubbles: true}));</script>"
    )
    path = tmp_path / "page.html"
    path.write_text(viz.to_page([result]) + hover, encoding="utf-8")
    found = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    shown = re.findall(r'data-word="\d"[^>]*?style="background: ?(rgb\(.*?\))', found)
    assert shown == ["rgb(200, 231, 214)", "rgb(239, 163, 158)", "rgb(255, 255, 255)",
                     "rgb(227, 243, 234)", "rgb(34, 160, 90)"]  # fmt: skip


def test_a_picture(result):
    assert result.to_png().startswith(b"\x89PNG")
    axes = result.plot().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == WORDS
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "lot↵"]


def test_labels_of_a_picture_are_short_and_can_be_drawn(result):
    long = "x" * 50
    tokens = [vars(TargetToken(text, 1, -1.0)) for text in (" ", "\x1b\t", long)]
    one = GenerationAttribution.from_dict(
        result.to_dict() | {"target_tokens": tokens, "matrix": [[1.0] * 5] * 3}
    )
    drawn = [label.get_text() for label in one.plot().axes[0].get_yticklabels()]
    assert drawn == ["␣", "^[⇥", "x" * 29 + "…"]
    assert "\x1b" not in one.to_html()

"""Targets by words in a terminal, as lines and as a picture."""

import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from captum_sig.viz import heatmap
from tests.made_results import (
    ENTITIES,
    EVERY_FIELD,
    GENERATION,
    LABELS,
    MATRICES,
    NO_ENTITY,
    NO_WORD,
    QUESTION,
    SEARCH,
)


def in_terminal(result, width=100, colours=None):
    console = Console(width=width, color_system=colours, force_terminal=True)
    with console.capture() as capture:
        console.print(heatmap.to_terminal(result, width))
    return capture.get()


def test_lines_hold_the_targets_figures_and_every_score():
    lines = [line.split("\t") for line in heatmap.to_plain(LABELS).splitlines()]
    assert lines[1] == ["word", *LABELS.rows]
    assert lines[2][:3] == ["logit", "-3.00", "-2.00"]
    assert lines[3][:3] == ["probability", "0.100", "0.200"]
    assert [line[0] for line in lines[4:]] == LABELS.columns
    scores = torch.tensor([[float(cell) for cell in line[1:]] for line in lines[4:]]).double()
    torch.testing.assert_close(scores, LABELS.matrix.T, atol=5e-5, rtol=0)


def test_lines_say_which_text_a_word_stands_in():
    lines = [line.split("\t") for line in heatmap.to_plain(QUESTION).splitlines()]
    assert [line[-1] for line in lines[1:4]] == ["text", "", ""]
    assert [line[-1] for line in lines[4:]] == ["question"] * 4 + ["context"] * 7


def test_words_of_another_target_have_empty_cells():
    lines = [line.split("\t") for line in heatmap.to_plain(SEARCH).splitlines()]
    rows = lines[3:]
    assert [[cell == "" for cell in row[1:3]] for row in rows] == SEARCH.matrix.isnan().T.tolist()
    assert "nan" not in in_terminal(SEARCH) + heatmap.to_plain(SEARCH)


def test_small_scores_have_more_decimals():
    assert re.search(r"[+-]\d\.\d\d\s", in_terminal(LABELS))
    tenth = SEARCH.matrix / SEARCH.matrix.nan_to_num().abs().max()
    for scale, decimals in ((0.5, 3), (0.05, 4)):
        shown = in_terminal(replace(SEARCH, matrix=tenth * scale))
        assert {len(digits) for digits in re.findall(r"[+-]\d\.(\d+)", shown)} == {decimals}


def test_a_terminal_says_which_target_colours_the_text():
    shown = in_terminal(LABELS)
    assert "The text is coloured by the effect on label 2." in shown
    assert "for and against the explained label" in shown
    assert "raises and lowers the similarity" in in_terminal(SEARCH)
    assert "effect on start + end." in in_terminal(QUESTION)
    assert "coloured by" not in in_terminal(GENERATION)
    assert "bold: the target itself" in in_terminal(ENTITIES)


def test_many_targets_fit_the_width():
    for width in (40, 80):
        shown = in_terminal(LABELS, width)
        assert max(map(len, shown.splitlines())) <= width
        assert shown.count("probability") == shown.count("logit") > 0


@pytest.mark.parametrize(
    ("result", "told"), [(NO_ENTITY, "There is no target."), (NO_WORD, "There is no word.")]
)
def test_nothing_is_shown_as_nothing(result, told):
    assert heatmap.to_plain(result).splitlines()[1].startswith("word")
    assert in_terminal(result)
    assert [text.get_text() for text in result.plot().axes[0].texts] == [told]


def test_words_that_act_together_are_listed_for_each_target():
    lines = heatmap.to_plain(EVERY_FIELD).splitlines()
    assert lines[-1] == "joy: not + a: turns it +1.5000"
    assert "joy: not + a: turns it +1.5000" in in_terminal(EVERY_FIELD)


def test_figures_are_what_is_known_of_a_target():
    assert list(EVERY_FIELD.figures) == ["logit", "probability", "residual", "estimates within ±"]
    lines = heatmap.to_plain(EVERY_FIELD).splitlines()
    assert "residual\t0.500\t-0.500" in lines
    assert "estimates within ±\t0.100\t" in lines
    assert list(SEARCH.figures) == ["cosine"]


def test_a_picture_has_figures_outlines_and_blank_cells():
    axes = ENTITIES.plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ENTITIES.rows
    assert [patch.get_xy() for patch in axes.patches] == [
        (-0.5, -0.5), (0.5, -0.5), (2.5, 0.5), (3.5, 0.5),
    ]  # fmt: skip
    (figures,) = axes.child_axes
    assert [label.get_text().split() for label in figures.get_yticklabels()] == [
        ["9.00", "0.990"], ["9.00", "0.990"],
    ]  # fmt: skip
    shown = SEARCH.plot().axes[0].images[0].get_array()
    assert (shown.mask == SEARCH.matrix.isnan().numpy()).all()


def test_the_second_text_is_set_apart():
    assert heatmap.second_sides(QUESTION) == {4}
    assert heatmap.second_sides(LABELS) == set()
    shown = in_terminal(QUESTION).splitlines()
    assert shown[[line.startswith("born ") for line in shown].index(True) + 1].strip() == ""


@pytest.mark.parametrize("name", list(MATRICES))
def test_every_word_has_a_colour_unless_there_is_no_target(name):
    shown = heatmap.shown_words(MATRICES[name])
    n_words = len(MATRICES[name].words) if MATRICES[name].rows else 0
    assert sorted(shown) == list(range(n_words))

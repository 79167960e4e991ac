"""Pictures of long texts have a size that can be read."""

import struct

import matplotlib.figure
import pytest

from captum_sig.viz import bars, heatmap_picture
from captum_sig.viz.pictures import MAX_PIXELS, figure_to_png, size_of_png
from tests.long_results import generation, labels, one_label, passages_as_units
from tests.made_results import LABELS, NASTY, one_target


@pytest.mark.parametrize(
    "result", [generation(10_000, 30), generation(70, 100), labels(100, 28), one_label(500)],
    ids=["10,000 words", "100 tokens", "labels", "one label"],
)  # fmt: skip
def test_no_side_is_longer_than_the_bound(result):
    assert max(size_of_png(result.to_png())) <= MAX_PIXELS


def test_a_figure_of_any_size_is_bounded():
    picture = figure_to_png(matplotlib.figure.Figure(figsize=(100, 2)))
    assert size_of_png(picture) == struct.unpack(">II", picture[16:24])
    assert MAX_PIXELS - 100 < max(size_of_png(picture)) <= MAX_PIXELS


def test_an_overview_of_all_words_stands_above_the_strongest():
    result = generation(1500, 70)
    above, below, *_ = result.plot().axes
    assert above.get_xlim() == (0, 1500)
    columns = [label.get_text() for label in below.get_xticklabels()]
    assert len(columns) == heatmap_picture.MAX_COLUMNS
    assert len(below.get_yticklabels()) == heatmap_picture.MAX_ROWS
    title = above.get_title("left")
    assert "The 60 words with the strongest cells of 1,500" in title
    assert "The 60 targets with the strongest cells of 70." in title
    assert "Full colour from ±" in title
    image = above.images[0].get_array()
    assert image.shape[1] <= heatmap_picture.MAX_BINS
    assert image.max() == 100  # the strongest of a bin


def test_cells_beyond_the_full_colour_have_triangles():
    (above, below, *_) = generation(200, 3).plot().axes
    places = [tuple(place) for each in below.collections for place in each.get_offsets()]
    assert (59, 0) in places  # the last word of the first token
    assert all(not axes.collections for axes in LABELS.plot().axes[:1])


def test_bars_beyond_the_full_colour_are_cut():
    result = one_label(200)
    figure = result.plot()
    (axes,) = figure.axes
    widths = [abs(bar.get_width()) for bar in axes.patches]
    assert max(widths) == pytest.approx(bars.MAX_BEYOND)  # all other scores are within ±1
    assert [text.get_text() for text in axes.texts] == [" -50.00 ◀ "]
    assert "the 40 strongest of 200 words" in figure.get_suptitle()
    names = [label.get_text() for label in result.plot(rank="words").axes[0].get_yticklabels()]
    assert not {",", "."} & set(names)


def test_units_are_named_and_short():
    names = [label.get_text() for label in passages_as_units().plot().axes[0].get_yticklabels()]
    assert names[1] == "source 1"
    assert all(len(name) <= 30 for name in names)


def test_hostile_words_are_drawn_as_they_are():
    result = one_target(f"$a$ $\\frac$ {NASTY} \n\t" + " word" * 100)
    assert result.to_png().startswith(b"\x89PNG")

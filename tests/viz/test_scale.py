"""Which score has the full colour, and which are marked as stronger."""

import math

import pytest

from captum_sig.viz.colours import AGAINST, FOR, WHITE
from captum_sig.viz.scale import Scale, scale_of

MANY = [n / 1000 for n in range(1, 1000)]


def test_the_largest_of_few_scores_has_the_full_colour():
    assert scale_of([0.1] * 50 + [-9.0, math.nan]) == Scale(9.0, 9.0)
    assert scale_of([]) == scale_of([0.0, math.nan]) == Scale(0.0, 0.0)


def test_a_quantile_of_many_scores_has_the_full_colour():
    scale = scale_of([*MANY, -60.0])
    assert scale == Scale(0.99, 60.0)
    assert sum(map(bool, map(scale.mark, [*MANY, -60.0]))) == 10  # 1 % of 1,000
    assert [scale.mark(score) for score in (1.0, -1.0, 0.99, 0.0, math.nan)] == [
        "▲",
        "▼",
        "",
        "",
        "",
    ]
    assert scale.colours([60.0, 0.99, -60.0, 0.0, math.nan]) == [FOR, FOR, AGAINST, WHITE, WHITE]


def test_a_scale_that_is_half_used_stays_linear():
    assert not scale_of([*MANY, 1.9]).is_clipped
    assert scale_of([*MANY, 2.1]).is_clipped


def test_words_without_an_effect_do_not_count():
    assert scale_of([*MANY, -60.0, *[0.0] * 10**5]) == Scale(0.99, 60.0)


def test_scores_that_are_left_out_are_marked():
    scale = scale_of([1.0, 2.0, -9.0], left_out={2})
    assert scale == Scale(2.0, 9.0)
    assert scale.mark(-9.0) == "▼"
    assert "±2.00" in scale.note
    assert scale_of([1.0], left_out={0}) == Scale(1.0, 1.0)


@pytest.mark.parametrize("scale", [Scale(1.0, 1.0), Scale(0.0, 0.0)])
def test_nothing_is_said_where_nothing_is_clipped(scale):
    assert scale.note == ""


@pytest.mark.parametrize("colour", [FOR, AGAINST])
def test_black_is_read_on_the_full_colour(colour):
    linear = [c / 255 / 12.92 if c < 11 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2.2
    assert (luminance + 0.05) / 0.05 >= 4.5

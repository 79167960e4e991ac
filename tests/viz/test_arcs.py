"""Pairs of words as arcs and lines."""

import html.parser
import re
from dataclasses import replace

import pytest

from captum_sig import WordAttribution, viz
from captum_sig.explainers.results import Interaction, Word
from captum_sig.viz.arcs import MAX_ARCS, NONE_DEPENDS, Arc, lines, strip

PLAIN = [
    ((3, 4), 1.5, "turns it"),
    ((0, 4), -0.5, "say the same"),
    ((0, 3), 0.25, "only together"),
    ((1, 2), 0.01, "independent"),
]


def result(text, pairs):
    words, end = [], 0
    for word in text.split(" "):
        start = text.index(word, end)
        end = start + len(word)
        words.append(Word(word, start, end, 1.0, 0.5))
    return WordAttribution(
        text=text, label="good", probability=0.9, target="good", method="sig", baseline="mask",
        max_abs_word_delta=0.0, words=tuple(words),
        interactions=None if pairs is None else tuple(Interaction(*pair) for pair in pairs),
    )  # fmt: skip


FILM = result("The film is not good today", PLAIN)


def test_a_line_for_each_pair_that_is_not_independent():
    expected = [
        "not + good: turns it +1.5000",
        "The + good: say the same -0.5000",
        "The + not: only together +0.2500",
    ]
    assert viz.to_plain(FILM).splitlines()[-3:] == expected
    assert viz.to_plain(FILM).splitlines()[-4] == "today +1.0000"
    shown = viz.to_terminal(FILM, legend=False)
    assert shown.plain.splitlines()[-3:] == expected
    assert len({span.style for span in shown.spans[-3:]}) == 3
    for kind in ("turns it", "say the same", "only together"):
        assert viz.to_html(FILM).count(f">{kind}</span>") == 1


def test_results_without_pairs_are_shown_as_before():
    without = replace(FILM, interactions=None)
    for show in (viz.to_plain, viz.to_html, lambda shown: viz.to_terminal(shown).plain):
        assert show(replace(FILM, interactions=())) == show(without)
        assert "grid" not in show(without)
    assert lines(without) == []


def test_all_pairs_may_be_independent():
    apart = replace(FILM, interactions=FILM.interactions[-1:])
    assert viz.to_plain(apart).splitlines()[-1] == NONE_DEPENDS
    shown = viz.to_terminal(apart, legend=False).plain
    assert shown.splitlines()[-1] == NONE_DEPENDS
    page = viz.to_html(apart)
    assert NONE_DEPENDS in page
    assert "grid" not in page


def test_short_gaps_are_spelled_out_and_long_ones_left_out():
    text = "a b c d e f g h i j k"
    assert strip(result(text, [((1, 5), 1.0, "turns it")])).cells == [None, 1, 2, 3, 4, 5, None]
    assert strip(result(text, [((0, 5), 1.0, "turns it")])).cells == [0, None, 5, None]
    assert strip(result(text, [((0, 10), 1.0, "turns it")])).cells == [0, None, 10]
    assert strip(result(text, [((9, 10), 1.0, "turns it")])).cells == [None, 9, 10]


def test_longer_arcs_lie_above_those_that_they_overlap():
    pairs = [(words, 1.0, "turns it") for words in [(0, 3), (1, 2), (2, 3), (1, 3), (3, 4)]]
    drawn = {arc.pair.words: arc.level for arc in strip(result("a b c d e", pairs)).arcs}
    assert drawn == {(1, 2): 1, (2, 3): 1, (3, 4): 1, (1, 3): 2, (0, 3): 3}
    crossing = [((0, 2), 1.0, "turns it"), ((1, 3), 1.0, "turns it")]
    assert [arc.level for arc in strip(result("a b c d", crossing)).arcs] == [1, 2]


def ends(arcs: list[Arc], cell: int) -> list[tuple[int, tuple[int, int]]]:
    """Where arcs end at a cell, from its middle, in order."""
    return sorted(
        (arc.shifts[(arc.left, arc.right).index(cell)], arc.pair.words)
        for arc in arcs
        if cell in (arc.left, arc.right)
    )


def test_arcs_at_one_word_end_beside_each_other_and_do_not_cross():
    pairs = [(words, 1.0, "turns it") for words in [(0, 2), (1, 2), (2, 3), (2, 4), (0, 4)]]
    arcs = strip(result("a b c d e", pairs)).arcs
    at_word = ends(arcs, 2)
    assert [words for _, words in at_word] == [(1, 2), (0, 2), (2, 4), (2, 3)]
    assert [shift for shift, _ in at_word] == [-9, -3, 3, 9]
    assert [words for _, words in ends(arcs, 0)] == [(0, 4), (0, 2)]


def test_the_strongest_are_drawn_and_all_are_listed():
    pairs = [((0, n), 100.0 - n, "say the same") for n in range(1, MAX_ARCS + 3)]
    many = result(" ".join(f"w{n}" for n in range(20)), pairs)
    drawn = strip(many).arcs
    assert {arc.pair.words[1] for arc in drawn} == set(range(1, MAX_ARCS + 1))
    page = viz.to_html(many)
    assert page.count("grid-column:") == MAX_ARCS + len(strip(many).cells)
    assert f"w0 + w{MAX_ARCS + 2}" in page
    assert "The 10 strongest are drawn" in page
    assert "strongest are drawn" not in viz.to_html(FILM)


class Tags(html.parser.HTMLParser):
    """Collects the tags, and whether they are closed."""

    def __init__(self, page):
        super().__init__()
        self.names, self.open = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_words_are_escaped_and_control_characters_shown():
    words = '<script> "> \u202eevil\x1b[2J end'
    nasty = result(words, [((0, 1), 1.0, "turns it"), ((2, 3), 1.0, "say the same")])
    tags = Tags(viz.to_html(nasty))
    assert tags.names == {"div", "span"}
    assert tags.open == []
    for shown in (viz.to_html(nasty), viz.to_plain(nasty), viz.to_terminal(nasty).plain):
        assert not re.search("[\u202e\x1b]", shown)


def test_a_word_of_several_lines_is_on_one():
    words = (Word("New\n York", 0, 9, 1.0, 0.7), Word("good", 10, 14, 1.0, 0.7))
    city = replace(result("x y", [((0, 1), 1.0, "turns it")]), text="New\n York good", words=words)
    assert "New York + good: turns it +1.0000" in viz.to_plain(city)


@pytest.mark.parametrize(
    ("text", "direction"), [("a ב", "ltr"), ("1 ב a", "rtl"), ("م a", "rtl"), ("1 2", "ltr")]
)
def test_the_strip_runs_as_the_text_does(text, direction):
    assert strip(result(text, [((0, 1), 1.0, "turns it")])).direction == direction

"""Units above words: where sentences and paragraphs are, and which words they have."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_sig.words.given_units import checked_units
from captum_sig.words.grouping import Span
from captum_sig.words.inputs import TextInput
from captum_sig.words.units import (
    TextUnit,
    in_units,
    paragraphs,
    sentences,
    unit_of_each,
    units_of_level,
)

CHARACTERS = st.text("aA. !?\n\r\t\"'…。\u2028\u2029\u3000\xa0e\u0301😀1-", max_size=40) | st.text()


def parts(text, spans):
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Dr. Smith paid $3.50 (see Fig. 2). It was worth it!", 2),
        ("a film . it works .", 2),
        ("こんにちは。元気ですか?", 2),
        ("A list:\n- one\n- two", 3),
        ("Wrapped\nat a margin. Next.", 2),
        ("no full stop", 1),
        ("", 0),
        (" \n ", 0),
        ("A\u2028.", 1),  # where the splitter alone panics
    ],
)
def test_sentences(text, found):
    assert len(sentences(text)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one\nstill one\n\ntwo\n \t\nthree", ["one\nstill one", "two", "three"]),
        ("one\ntwo\n", ["one", "two"]),
        ("one\r\n\r\ntwo", ["one", "two"]),
        ("\n\none", ["one"]),
        ("one\u2029two", ["one", "two"]),
        ("\n", []),
    ],
)
def test_paragraphs(text, found):
    assert parts(text, paragraphs(text)) == found


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(CHARACTERS)
def test_units_hold_all_but_white_space_in_order(text):
    for split in (sentences, paragraphs):
        spans = split(text)
        assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
        assert all(part == part.strip() != "" for part in parts(text, spans))
        assert re.sub(r"\s", "", "".join(parts(text, spans))) == re.sub(r"\s", "", text)


def words_of(text):
    return [Span(n, m[0], *m.span()) for n, m in enumerate(re.finditer(r"\w+|[^\w ]", text))]


def test_a_word_belongs_to_the_unit_in_which_it_begins():
    text = "one two three\nfour"
    units = [TextUnit(0, 5, "first"), TextUnit(8, 13, "second")]
    words = words_of(text)
    assert unit_of_each(words, {None: text}, units) == [0, 0, 1, 1, None]  # the newline goes along
    group, spans = in_units(words, [None, 0, 1, 2, 3, 4][1:], {None: text}, units)
    assert group == [0, 0, 2, 2, None]
    assert [(s.word, s.name, s.position, s.start, s.end) for s in spans] == [
        ("one t", "first", 0, 0, 5), ("three", "second", 2, 8, 13)
    ]  # fmt: skip


def test_messages_are_named_by_their_roles():
    roles = ["system", "user", "assistant", "user"]
    spans = [(0, 1), (2, 3), (4, 5), (6, 7)]
    names = [unit.name for unit in units_of_level("message", "a b c d", spans, roles)]
    assert names == ["system", "user 1", "assistant", "user 2"]


def test_sentences_of_a_chat_stay_within_its_messages():
    text = "<user>Hi. You<end><model>Yes<end>"
    units = units_of_level("sentence", text, [(6, 13), (25, 28)], ["user", "model"])
    assert [text[unit.start : unit.end] for unit in units] == ["Hi.", "You", "Yes"]


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_forms_of_units(kind):
    values = {"start": 0, "end": 3, "name": "a"}
    unit = values if kind is dict else kind(values.values())
    assert checked_units([unit], TextInput("one two"), "text 0") == (TextUnit(0, 3, "a"),)


def test_units_of_a_pair():
    pair = TextInput("one two", "three")
    wanted = (TextUnit(0, 3, None, "text"), TextUnit(0, 5, "b", "text_pair"))
    assert checked_units(([(0, 3)], [(0, 5, "b")]), pair, "text 0") == wanted
    in_one_list = [
        {"start": 0, "end": 5, "name": "b", "side": "text_pair"},
        {"start": 0, "end": 3, "side": "text"},
    ]
    assert checked_units(in_one_list, pair, "text 0") == wanted
    assert checked_units((None, [(0, 5, "b")]), pair, "text 0") == wanted[1:]


@pytest.mark.parametrize(
    ("units", "error", "message"),
    [
        ([(0, 3), (2, 7)], ValueError, r"units \(0 to 3\) and \(2 to 7\) of text 4 overlap: let"),
        ([(0, 8)], ValueError, r"unit \(0, 8\) of text 4 is not in the text, which has 7 chara"),
        ([(3, 3)], ValueError, r"unit \(3, 3\) of text 4 is not in the text"),
        ([(-1, 3)], ValueError, r"unit \(-1, 3\) of text 4 is not in the text"),
        ([(3, 4)], ValueError, r"unit \(3, 4\) of text 4 is white space: wanted words"),
        ([], ValueError, "units of text 4 are empty: pass at least one, or None"),
        ([(0, 1.5)], TypeError, r"units of text 4 have \(0, 1.5\); wanted \(start, end\), \(star"),
        ([(0, True)], TypeError, r"units of text 4 have \(0, True\); wanted"),
        ([(0, 3, 1)], TypeError, "units of text 4 have the name 1; wanted a string, or None"),
        ([3], TypeError, r"units of text 4 have 3; wanted \(start, end\)"),
        ("one", TypeError, "units of text 4 must be a list, got 'one'; wanted"),
        ([{"begin": 0, "end": 3}], ValueError, "units of text 4: field 'begin' is unknown"),
        ([{"end": 3}], TypeError, "units of text 4 have"),
        ([{"start": 0, "end": 3, "side": "text"}], ValueError, "have the side 'text'; wanted none"),
    ],
)
def test_bad_units(units, error, message):
    with pytest.raises(error, match=message):
        checked_units(units, TextInput("one two"), "text 4")


def test_a_unit_of_a_pair_says_its_side():
    with pytest.raises(ValueError, match='have the side None; wanted one of "text", "text_pair"'):
        checked_units([(0, 3)], TextInput("one two", "three"), "text 0")

"""Long texts by paragraph, sentence and unit."""

import dataclasses

import pytest

from captum_sig.viz import passages, pieces
from captum_sig.viz.sections import by_section, is_long, sections
from tests.long_results import generation, long_text, one_label, passages_as_units
from tests.made_results import RESULTS, one_target


def texts_of(result):
    (passage,) = passages(result)
    return [passage.text[part.start : part.end] for part in sections(passage)]


def test_short_texts_have_none():
    for result in RESULTS.values():
        assert not is_long(result)
        assert [part for passage in passages(result) for part in sections(passage)] == []


def test_a_long_text_has_its_paragraphs():
    result = one_label(130)
    assert is_long(result)
    assert [text.strip() for text in texts_of(result)] == result.text.split("\n\n")
    assert "".join(texts_of(result)) == result.text
    (passage,) = passages(result)
    parts = sections(passage)
    assert [part.words for part in parts] == [range(50), range(50, 100), range(100, 130)]
    sums = [sum(result.scores[part.words.start : part.words.stop]) for part in parts]
    assert [part.total(result.scores) for part in parts] == pytest.approx(sums)


def test_without_paragraphs_it_has_its_sentences():
    text = "It was a good film. " * 20
    assert [part.strip() for part in texts_of(one_target(text))] == ["It was a good film."] * 20
    lines = "no stop here\n" * 30
    assert len(texts_of(one_target(lines))) == 30
    assert texts_of(one_target("word " * 100)) == []  # one section says nothing


def test_units_are_sections():
    result = passages_as_units()
    assert is_long(result)
    (passage,) = passages(result)
    assert [part.words for part in sections(passage)] == [range(n, n + 1) for n in range(10)]


def test_a_part_without_a_word_is_joined():
    words = [w for w in one_label(150).words if not 300 < (w.start or 0) < 700]
    result = dataclasses.replace(one_label(150), words=tuple(words))
    (passage,) = passages(result)
    parts = sections(passage)
    assert all(part.words for part in parts)
    assert [n for part in parts for n in part.words] == list(range(len(words)))
    assert parts[-1].end == len(result.text)


def test_words_without_offsets_have_no_sections():
    words = tuple(dataclasses.replace(w, start=None, end=None) for w in one_label(100).words)
    (passage,) = passages(dataclasses.replace(one_label(100), words=words))
    assert sections(passage) == []


def test_each_piece_is_in_the_section_where_it_begins():
    (passage,) = passages(generation(120, 2, long_text(120)))
    parts = sections(passage)
    found = by_section(passage, parts)
    assert [piece for pieces_of in found for piece in pieces_of] == list(pieces(passage))
    for part, pieces_of in zip(parts, found, strict=True):
        assert {p.number for p in pieces_of} - {None} == set(part.words)

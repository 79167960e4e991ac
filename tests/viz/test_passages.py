"""The texts of a result in pieces: words, gaps, sides, and the characters of targets."""

import dataclasses
from types import SimpleNamespace

import pytest

from captum_sig.explainers.results import Word
from captum_sig.viz import passages, pieces
from captum_sig.viz.passages import Piece
from tests.made_results import (
    CONTEXT,
    ENTITIES,
    NAMES,
    QUESTION,
    RERANKER,
    RESULTS,
    SEARCH,
    SIMILARITY,
)


@pytest.mark.parametrize("name", list(RESULTS))
def test_pieces_join_to_the_text_and_each_word_has_some(name):
    result = RESULTS[name]
    for passage in passages(result):
        parts = list(pieces(passage))
        assert "".join(part.text for part in parts) == passage.text
        numbers = {part.number for part in parts} - {None}
        assert numbers == {number for number, _ in passage.words}
        for number, word in passage.words:
            assert "".join(p.text for p in parts if p.number == number) == word.word


def test_texts_of_a_pair_have_names_and_their_own_words():
    assert [part.label for part in passages(RERANKER)] == ["first", "second"]
    assert [part.label for part in passages(QUESTION)] == ["question", "context"]
    assert [part.text for part in passages(SIMILARITY)] == ["cheap flights", "airline tickets"]
    first, second = passages(RERANKER)
    assert [n for n, _ in [*first.words, *second.words]] == list(range(len(RERANKER.words)))
    hypothesis = dataclasses.replace(SIMILARITY, task="zero-shot-classification")
    assert [part.label for part in passages(hypothesis)] == ["text", "hypothesis"]


def test_a_text_alone_has_no_name_and_a_query_has():
    assert [part.label for part in passages(ENTITIES)] == [""]
    assert [part.label for part in passages(SEARCH)] == ["first"]


def test_pieces_are_cut_where_a_target_ends():
    (passage,) = passages(ENTITIES)
    parts = list(pieces(passage))
    of_target = ["".join(p.text for p in parts if row in p.targets) for row in (0, 1)]
    assert of_target == ["Angela Merkel", "New York"]
    assert Piece("York", 4, (1,)) in parts
    assert Piece("'s", 4, ()) in parts
    assert passage.words_of_targets() == [(0, 0), (1, 0), (3, 1), (4, 1)]
    assert passage.text == NAMES


def test_an_answer_is_in_the_context():
    question, context = passages(QUESTION)
    assert question.targets == ()
    assert {CONTEXT[start:end] for _, start, end in context.targets} == {"Warsaw"}
    (_, context) = passages(QUESTION["end"])
    assert "".join(p.text for p in pieces(context) if p.targets) == "Warsaw"


def test_words_that_overlap_are_shown_once():
    words = [Word("ab", 0, 2, 1.0, 0.5), Word("bc", 1, 3, 1.0, 0.5)]
    (passage,) = passages(SimpleNamespace(text="abc", words=words))
    assert [(p.text, p.number) for p in pieces(passage)] == [("ab", 0), ("c", 1)]

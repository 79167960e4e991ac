"""Which words count for colours and lists."""

import pytest

from captum_sig.viz.ranking import left_out, scores_of, strongest
from tests.made_results import GENERATION, LABELS, NO_ENTITY, RERANKER, one_target

CHAT = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo."


def names_left_out(text):
    result = one_target(text)
    return [result.words[n].word for n in sorted(left_out(result, "words"))]


def test_punctuation_is_no_word():
    assert names_left_out("good , 3 — it's … ! é") == [",", "—", "…", "!"]
    assert left_out(one_target("a , b"), "all") == frozenset()


def test_tokens_of_templates_are_no_words():
    spaced = CHAT.replace("\n", " \n").replace("<", " <").replace("Why?", " Why?")
    assert names_left_out(spaced) == [
        "<|im_start|>user", "<|im_end|>", "<|im_start|>assistant"
    ]  # fmt: skip
    assert names_left_out("[INST] Hi [/INST] yes </s>") == ["[INST]", "[/INST]", "</s>"]
    assert names_left_out("<start_of_turn>model Hi <b>x</b>") == ["<start_of_turn>model"]


def test_a_label_on_the_last_line_is_no_word():
    assert names_left_out("Who?\nAnswer: he\nAnswer:") == ["Answer:"]
    assert names_left_out("Who?\nThe answer : ") == ["The", "answer", ":"]
    assert names_left_out("Answer:") == []  # the whole text
    assert names_left_out("Who?\nAnswer: he") == []


def test_an_unknown_rank():
    with pytest.raises(ValueError, match="rank 'word' is unknown .did you mean 'words'"):
        left_out(RERANKER, "word")
    with pytest.raises(ValueError, match="rank 'word' is unknown"):
        LABELS.to_html(rank="word")


def test_scores_are_those_that_the_text_shows():
    assert scores_of(RERANKER) == RERANKER.scores
    assert scores_of(GENERATION) == GENERATION.totals.tolist()
    assert scores_of(GENERATION, 1) == GENERATION.matrix[1].tolist()
    assert scores_of(LABELS) == LABELS.matrix[LABELS.main_row].tolist()
    assert scores_of(NO_ENTITY) == []


def test_the_strongest_come_first():
    assert strongest([1.0, -3.0, float("nan"), 0.0, 2.0], 9) == [1, 4, 0]
    assert strongest([1.0, -3.0, 2.0], 1, left_out={1}) == [2]

"""Bars of the words of one target."""

import dataclasses

import pytest

from captum_sig.viz import bars
from tests.made_results import (
    EMPTY,
    ENTITIES,
    EVERY_FIELD_OF_ONE,
    LABEL,
    RERANKER,
    REWARD,
    one_target,
)


def names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_a_bar_for_each_word_in_the_order_of_the_text():
    figure = REWARD.plot()
    (axes,) = figure.axes
    assert names(axes) == ["Bake", "it."]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(REWARD.scores)
    assert axes.get_xlabel() == "effect on the score"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first word is on top
    assert figure.get_suptitle() == "score 4.31  (sig, baseline mask)"


def test_texts_of_a_pair_have_a_panel_each():
    first, second = RERANKER.plot().axes
    assert (first.get_title("left"), second.get_title("left")) == ("first", "second")
    assert [*names(first), *names(second)] == [word.word for word in RERANKER.words]
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim() == second.get_ylim()


def test_a_text_without_own_words_has_no_panel():
    words = tuple(word for word in RERANKER.words if word.side == "text")
    (axes,) = dataclasses.replace(RERANKER, words=words).plot().axes
    assert names(axes) == [word.word for word in words]


def test_the_strongest_of_many_words_are_shown():
    many = one_target(" ".join(f"w{n}" for n in range(60)))
    figure = many.plot()
    shown = names(figure.axes[0])
    strongest = sorted(many.words, key=lambda word: -abs(word.score))[: bars.MAX_BARS]
    assert shown == [word.word for word in many.words if word in strongest]
    assert "the 40 strongest of 60 words" in figure.get_suptitle()


def test_tokens_that_were_not_read_are_in_the_title():
    assert "1 token beyond the model's limit was not read" in LABEL.plot().get_suptitle()


def test_words_of_the_target_are_bold_and_errors_are_drawn():
    (axes,) = ENTITIES[1].plot().axes
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_weight() == "bold"]
    assert bold == ["New", "York's"]
    assert not axes.collections
    assert len(EVERY_FIELD_OF_ONE.plot().axes[0].collections) == 1


def test_dollars_and_control_characters_can_be_drawn():
    odd = one_target("$a$ \x1b[2J x", target="$b$", label="$b$")
    assert odd.to_png().startswith(b"\x89PNG")
    assert names(odd.plot().axes[0])[:2] == ["$a$", "^[[2J"]


def test_a_text_without_words():
    (axes,) = EMPTY.plot().axes
    assert [text.get_text() for text in axes.texts] == ["There is no word."]

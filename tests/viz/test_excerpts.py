"""The strongest words and sections with the text around them."""

import dataclasses

import pytest
from rich.console import Console

from captum_sig.viz.excerpts import MAX_AROUND, N_WORDS, by_target, excerpts
from tests.long_results import generation, labels, one_label, passages_as_units
from tests.made_results import RERANKER, SEARCH, one_target


def terminal(result, width, **options):
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(result.to_terminal(width, **options))
    return capture.get()


def test_a_word_stands_in_its_text():
    result = one_target("An old joke,\nwell told")
    (strongest,) = result.strongest(1)
    number = max(range(5), key=lambda n: abs(result.scores[n]))
    assert strongest.number == number
    assert strongest.score == result.scores[number]
    assert strongest.before + strongest.word + strongest.after == "An old joke,↵well told"
    assert [each.number for each in result.strongest(9)] == sorted(
        range(5), key=lambda n: -abs(result.scores[n])
    )


def test_what_surrounds_a_word_is_cut_between_words():
    result = one_label(200)
    for each in result.strongest():
        word = result.words[each.number]
        before, after = result.text[: word.start], result.text[word.end :]
        assert max(len(each.before), len(each.after)) <= MAX_AROUND
        assert before.replace("\n", "↵").endswith(each.before.lstrip("…"))
        assert after.replace("\n", "↵").startswith(each.after.rstrip("…"))
        assert not each.before.startswith("…") or before.split()[-1] in each.before


def test_control_characters_are_spelled_in_reading_order():
    (strongest,) = [
        each for each in one_target("\u202eso \x1b[2J word").strongest() if each.word == "word"
    ]
    assert strongest.before == "\\u202eso ␛[2J "


def test_a_pair_says_which_text_and_a_target_may_have_its_own():
    assert {each.side for each in RERANKER.strongest()} == {"first", "second"}
    assert len(SEARCH.strongest()) == 6  # those of the first target
    assert {each.word for each in SEARCH[1].strongest()} >= {"Roman", "empire"}


def test_punctuation_can_be_left_out():
    result = one_target("good . bad")
    assert "." in [each.word for each in result.strongest()]
    assert "." not in [each.word for each in result.strongest(rank="words")]
    with pytest.raises(ValueError, match="rank 'x' is unknown"):
        result.strongest(rank="x")


def test_words_without_offsets_are_listed_alone():
    words = tuple(dataclasses.replace(w, start=None, end=None) for w in RERANKER.words)
    result = dataclasses.replace(RERANKER, words=words)
    assert {(each.before, each.after) for each in result.strongest()} == {("", "")}


@pytest.mark.parametrize("result", [one_label(200), generation(200, 3), labels(200, 3)])
def test_lists_of_long_texts_only(result):
    lines = result.to_plain().splitlines()
    place = lines.index("Strongest words:")
    assert len(lines[place:]) == 1 + N_WORDS + 1 + 3
    scores = [abs(float(line.split()[0])) for line in lines[place + 1 : place + 1 + N_WORDS]]
    assert scores == sorted(scores, reverse=True)
    assert lines[place + 1 + N_WORDS] == (
        "The 3 strongest of 4 sections, sums of their words' scores:"
    )
    without = result.to_plain(rank="words")
    assert "Strongest words, punctuation and templates left out:" in without
    for width in (40, 100):
        shown = terminal(result, width)
        assert max(map(len, shown.splitlines())) <= width
        assert "Strongest words:" in shown
    assert "Strongest words" not in RERANKER.to_plain()


def test_a_table_has_the_words_with_the_strongest_cells():
    shown = terminal(generation(200, 2), 100)
    assert "The 20 words with the strongest cells of 200, in the order of the text." in shown
    assert "▲ and ▼ are stronger, up to 100.00" in " ".join(shown.split())
    assert "and▲" in shown  # the last word
    assert len(shown.splitlines()) < 80


def test_units_have_names_and_beginnings():
    result = passages_as_units()
    named = {each.number: each.word for each in result.strongest()}
    assert named[1].startswith("source 1: ")
    assert named[0].startswith("the film is")
    assert all(len(word) < 100 for word in named.values())
    plain = result.to_plain()
    assert "Strongest units:" in plain
    assert "sections" not in plain
    assert "source 3 " in plain
    assert max(map(len, plain.splitlines())) < 200


def test_each_target_has_lists_for_both_ranks():
    lists = by_target(generation(200, 2))
    assert [each.row for each in lists] == [None, 0, 1]
    assert [each.is_first for each in lists] == [True, False, False]
    for each in lists:
        for rank in ("all", "words"):
            assert sum(counts in (rank, "both") for _, counts in each.words) == N_WORDS
    of_labels = by_target(labels(200, 3))
    assert [each.name for each in of_labels if each.is_first] == ["label 2"]
    wanted = excerpts(labels(200, 3), rank="words")
    assert [word for word, counts in of_labels[2].words if counts != "all"] == wanted

"""Pairs of texts: their ids, words, sides and offsets, for tokenizers of every kind."""

import pytest
import torch

from captum_sig.words.encoding import Encoder
from captum_sig.words.inputs import TextInput
from tests.pair_tokenizers import FAST, SLOW, SlowPairs, SlowTogether, berts

ALL = {**FAST, **SLOW}
CPU = torch.device("cpu")


def batches(tokenizer, inputs, limit=40, level="word", batch_size=8, **options):
    encoder = Encoder(tokenizer, level, limit, **options)
    return list(encoder.batches(inputs, batch_size, truncation=True, device=CPU))


def encoded(tokenizer, *pair, **options):
    (batch,) = batches(tokenizer, [TextInput(*pair)], **options)
    return batch


def words(batch, number=0):
    return [(span.word, span.side) for span in batch.spans[number]]


def assert_words_are_where_they_say(batch):
    for one, spans in zip(batch.inputs, batch.spans, strict=True):
        for span in spans:
            text = one.text if span.side in ("text", None) else one.pair
            if span.start is not None:
                assert text[span.start : span.end] == span.word


@pytest.mark.parametrize("name", ALL)
def test_words_sides_and_offsets(name):
    tokenizer = ALL[name]()
    batch = encoded(tokenizer, "good movies", "movies good good")
    assert words(batch) == [
        ("good", "text"), ("movies", "text"),
        ("movies", "text_pair"), ("good", "text_pair"), ("good", "text_pair"),
    ]  # fmt: skip
    assert_words_are_where_they_say(batch)
    starts = [(span.start, span.end) for span in batch.spans[0]]
    assert starts == [(0, 4), (5, 11), (0, 6), (7, 11), (12, 16)]
    assert batch.ids.tolist() == tokenizer(["good movies"], ["movies good good"])["input_ids"]


@pytest.mark.parametrize("name", ALL)
def test_each_words_positions_are_the_tokens_of_its_side(name):
    """Each side's tokens by hand: those of the text alone, in the order of the pair."""
    tokenizer = ALL[name]()
    pair = "the movies good", "good the movies"
    batch = encoded(tokenizer, *pair)
    ids, mask = batch.ids[0].tolist(), batch.feature_mask[0].tolist()
    position = 0
    for side, text in zip(("text", "text_pair"), pair, strict=True):
        own = [span for span in batch.spans[0] if span.side == side]
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        positions = [p for p, m in enumerate(mask) if m in [mask[s.position] for s in own]]
        assert [ids[p] for p in positions] == tokens
        assert positions[0] >= position
        position = positions[-1]
        assert len(own) == 3


@pytest.mark.parametrize("name", FAST)
def test_combining_marks_on_both_sides(name):
    pair = "cafe\u0301s good", "the cafe\u0301. e\u0301"
    batch = encoded(ALL[name](), *pair)
    found = words(batch)
    assert found[:2] == [("cafe\u0301s", "text"), ("good", "text")]
    assert found[2:4] == [("the", "text_pair"), ("cafe\u0301", "text_pair")] or name in (
        "deberta-v2", "llama",
    )  # fmt: skip
    assert found[-1] == ("e\u0301", "text_pair")
    assert_words_are_where_they_say(batch)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
    "pair",
    [
        ("good e", "\u0301 the"),  # a mark without a letter
        ("good \U0001f469\u200d", "\U0001f469 the"),  # half an emoji on each side
        ("good\0the", "good\0the"),  # what stands between the sides
        ("good [SEP] the", "the </s> good"),
        ("हिन्दी", "हिन्दी the"),
    ],
)
def test_no_word_spans_both_sides(name, pair):
    batch = encoded(ALL[name](), *pair, limit=80)
    sides = [span.side for span in batch.spans[0]]
    assert sides == sorted(sides)
    assert {"text", "text_pair"} == set(sides)
    for span in batch.spans[0]:
        text = pair[0].replace("\0", " ") if span.side == "text" else pair[1]
        assert text[span.start : span.end] == span.word
    ids = FAST[name]()([pair[0]], [pair[1]])["input_ids"]
    assert batch.ids.tolist() == ids


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("limit", [11, 12, 13, 14])
@pytest.mark.parametrize("lengths", [(3, 30), (30, 3), (30, 30), (30, 31), (31, 30), (8, 9)])
def test_truncated_pairs_are_transformers_own(name, limit, lengths):
    tokenizer = ALL[name]()
    pair = [" ".join(["good"] * n) for n in lengths]
    with pytest.warns(UserWarning, match="1 of 1 texts exceed"):
        batch = encoded(tokenizer, *pair, limit=limit)
    expected = tokenizer([pair[0]], [pair[1]], truncation="longest_first", max_length=limit)
    assert batch.ids.tolist() == expected["input_ids"]
    whole = tokenizer([pair[0]], [pair[1]])["input_ids"][0]
    assert batch.dropped == [len(whole) - limit]
    assert_words_are_where_they_say(batch)
    n_special = tokenizer.num_special_tokens_to_add(pair=True)
    if "bytes" not in name and name not in ("gpt2", "llama"):  # whose words have several tokens
        assert len(batch.spans[0]) == limit - n_special


@pytest.mark.filterwarnings("ignore:.*exceed")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("lengths", [(500, 3), (3, 500), (500, 501), (501, 500), (500, 500)])
def test_texts_far_beyond_the_limit_are_cut_as_if_they_were_whole(name, lengths):
    tokenizer = ALL[name]()
    pair = [" ".join(["good"] * n) for n in lengths]
    for limit in (13, 14):
        batch = encoded(tokenizer, *pair, limit=limit)
        expected = tokenizer([pair[0]], [pair[1]], truncation=True, max_length=limit)
        assert batch.ids.tolist() == expected["input_ids"]
        assert_words_are_where_they_say(batch)


@pytest.mark.filterwarnings("ignore:.*exceed")
@pytest.mark.parametrize("name", ALL)
def test_a_tokenizer_that_keeps_the_ends(name):
    tokenizer = ALL[name]()
    tokenizer.truncation_side = "left"
    for inputs in (("good " * 480 + "movies",), ("good " * 480 + "movies", "the " * 20 + "good")):
        batch = encoded(tokenizer, *inputs, limit=13)
        expected = tokenizer(*([text] for text in inputs), truncation=True, max_length=13)
        assert batch.ids.tolist() == expected["input_ids"]
        assert "movies" in [span.word for span in batch.spans[0]]
        assert_words_are_where_they_say(batch)


@pytest.mark.parametrize("truncation", ["only_first", "only_second"])
def test_one_text_alone_is_cut(truncation):
    tokenizer = berts()
    pair = ("good " * 30, "movies bad") if truncation == "only_first" else ("bad", "good " * 30)
    with pytest.warns(UserWarning, match="exceed"):
        batch = encoded(tokenizer, *pair, limit=12, pair_truncation=truncation)
    expected = tokenizer([pair[0]], [pair[1]], truncation=truncation, max_length=12)
    assert batch.ids.tolist() == expected["input_ids"]


INPUTS = [
    TextInput("good movies", "the movies good"),
    TextInput("good"),
    TextInput("the movies good", "good movies"),
    TextInput("the movies"),
    TextInput("movies good good good", "good"),
]


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("name", ALL)
def test_batches_that_mix_pairs_and_texts_are_singles(name, padding_side):
    tokenizer = ALL[name]()
    tokenizer.padding_side = padding_side
    seen = []
    for batch in batches(tokenizer, INPUTS):
        assert len({one.pair is None for one in batch.inputs}) == 1
        for row, number in enumerate(batch.numbers):
            seen.append(number)
            (alone,) = batches(tokenizer, [INPUTS[number]])
            attended = batch.others.get("attention_mask", torch.ones_like(batch.ids))[row] != 0
            assert batch.ids[row, attended].tolist() == alone.ids[0].tolist()
            assert words(batch, row) == words(alone)
            for name_of, tensor in alone.others.items():
                assert batch.others[name_of][row, attended].tolist() == tensor[0].tolist()
            of_batch = batch.feature_mask[row, attended].tolist()
            of_alone = alone.feature_mask[0].tolist()
            for groups in (of_batch, of_alone):
                first = {}
                groups[:] = [first.setdefault(group, n) for n, group in enumerate(groups)]
            assert of_batch == of_alone
    assert sorted(seen) == list(range(len(INPUTS)))


@pytest.mark.parametrize("name", ALL)
def test_tokens_are_the_words_at_their_level(name):
    batch = encoded(ALL[name](), "good", "movies", level="token")
    assert [span.side for span in batch.spans[0]].count("text_pair") >= 2


class TestTokenizersInPlainPython:
    """Words are searched in the text of their own side."""

    def test_words_that_are_cut_from_the_first_text_are_not_found_there(self):
        with pytest.warns(UserWarning, match="exceed"):
            batch = encoded(
                SlowPairs(), "good bad " * 10, "bad", limit=6, pair_truncation="only_first"
            )
        assert words(batch) == [("good", "text"), ("bad", "text"), ("bad", "text_pair")]
        assert batch.spans[0][-1].start == 0

    def test_words_that_are_not_known(self):
        batch = encoded(SlowPairs(), "good", "xyz")
        assert words(batch) == [("good", "text"), ("[UNK]", "text_pair")]

    def test_a_second_text_that_begins_inside_a_word(self):
        batch = encoded(SlowTogether(), "good", "movies bad")
        assert words(batch) == [("good", "text"), ("movies", "text_pair"), ("bad", "text_pair")]

"""Which tokens form a word, for fast and slow tokenizers of every marker."""

import pytest
import torch

from captum_sig.attr.arguments import feature_masks
from captum_sig.words import (
    encoding_groups,
    feature_mask,
    spans,
    token_groups,
    word_groups,
    word_sums,
)
from tests.tiny_models import (
    SlowTokenizer,
    byte_level_tokenizer,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)


def read(tokenizer, text, groups=word_groups):
    """The words of a text, as (word, start, end), and its grouping."""
    encoding = tokenizer(text)
    ids = encoding["input_ids"]
    fast = tokenizer.is_fast
    grouping = (
        groups(tokenizer, ids, encoding.word_ids() if fast else None)
        if groups is word_groups
        else groups(tokenizer, ids)
    )
    offsets = encoding.encodings[0].offsets if fast else None
    found = spans(tokenizer, text, ids, grouping, offsets)
    for span in found:
        assert span.start is None or text[span.start : span.end] == span.word
    return [span.word for span in found], grouping


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (wordpiece_tokenizer, "The good movies!", ["The", "good", "movies", "!"]),
        (wordpiece_tokenizer, "  unbelievable 🎉 mess", ["unbelievable", "🎉", "mess"]),
        (byte_level_tokenizer, "the good  movies", ["the", "good", " ", "movies"]),
        (byte_level_tokenizer, "naïve 🎉", ["naïve", "🎉"]),
        (unsplit_tokenizer, "the good movies", ["the", "good", "movies"]),
        (SlowTokenizer, "The unbelievable movie", ["The", "unbelievable", "movie"]),
        (SlowTokenizer, "", []),
        (wordpiece_tokenizer, "[MASK] [SEP]", []),
    ],
)
def test_words(tokenizer, text, words):
    assert read(tokenizer(), text)[0] == words


def test_sub_tokens_share_a_word_and_special_tokens_have_none():
    assert read(wordpiece_tokenizer(), "good movies")[1] == [None, 0, 1, 1, None]
    assert read(unsplit_tokenizer(), "good movies")[1] == [None, 1, 2, 2, 2]
    assert read(SlowTokenizer(), "good unbelievable")[1] == [None, 1, 2, 2, 2, None]


def test_tokens_stand_alone():
    words, grouping = read(wordpiece_tokenizer(), "good movies", token_groups)
    assert words == ["good", "movie", "s"]
    assert grouping == [None, 1, 2, 3, None]


@pytest.mark.parametrize(
    ("make", "text", "grouping"),
    [
        (unsplit_tokenizer, "good movies", [None, 1, 2, 2, 2]),
        (byte_level_tokenizer, " movie", [0]),
        (byte_level_tokenizer, "movie", [0, 0, 0, 0]),
    ],
)
def test_a_double_hash_in_the_vocabulary_is_no_wordpiece(make, text, grouping):
    tokenizer = make()
    tokenizer.add_tokens(["##", "####"])
    assert read(tokenizer, text)[1] == grouping


def test_a_new_line_ends_a_word():
    tokenizer = unsplit_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["<s>", "▁good", "<0x0A>", "g", "o"])
    assert word_groups(tokenizer, ids, [None, 0, 0, 0, 0]) == [None, 1, 2, 3, 3]


def test_offsets_hold_where_lower_case_is_longer():
    tokenizer = SlowTokenizer()
    text = "İİİ good movie"
    ids = tokenizer(text)["input_ids"]
    grouping = word_groups(tokenizer, ids)
    found = spans(tokenizer, text, ids, grouping, None)
    assert [(s.word, s.start) for s in found[-2:]] == [("good", 4), ("movie", 9)]


def test_an_unknown_word_is_a_word():
    assert read(wordpiece_tokenizer(), "good zzz")[0] == ["good", "zzz"]


def test_a_tokenizer_without_markers_has_a_word_per_token():
    class Plain:
        all_special_ids = [0]
        unk_token_id = None

        def convert_ids_to_tokens(self, ids):
            return [str(i) for i in ids]

        def get_vocab(self):
            return {str(i): i for i in range(9)}

    assert word_groups(Plain(), [0, 3, 4]) == [None, 1, 2]


def test_a_word_that_is_spelt_otherwise_has_no_offsets():
    tokenizer = SlowTokenizer()
    ids = tokenizer("good movie")["input_ids"]
    found = spans(tokenizer, "gööd movie", ids, [None, 1, 2, None], None)
    assert [(span.word, span.start) for span in found] == [("good", None), ("movi", 5)]


def test_positions_of_no_word_get_numbers_of_their_own():
    mask = feature_mask([[None, 0, 0, 7, None], [None, 3, None, None, None]])
    assert mask.dtype == torch.long
    assert [len(row.unique()) for row in mask] == [4, 5]
    assert mask[0, 1] == mask[0, 2]


@pytest.mark.parametrize("tokenizer", [wordpiece_tokenizer(), SlowTokenizer()])
@pytest.mark.parametrize("tensors", ["pt", None])
def test_a_mask_from_what_a_tokenizer_gave(tokenizer, tensors):
    encoding = tokenizer(["good movies", "bad"], padding=True, return_tensors=tensors)
    groups = encoding_groups(tokenizer, encoding)
    length = len(encoding["input_ids"][0])
    assert groups[0][1] is not None
    assert groups[0][2] == groups[0][3] is not None
    assert [word is None for word in groups[1]] == [True, False] + [True] * (length - 2)
    assert feature_mask(groups).shape == (2, length)
    one = encoding_groups(tokenizer, tokenizer("good movies"), token_groups)
    assert len({word for word in one[0] if word is not None}) == 3


def test_word_sums():
    mask = torch.tensor([[3, 1, 3], [0, 1, 2]])
    found = word_sums(torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]), mask)
    assert found.tolist() == [[5, 2, 5], [1, 2, 4]]


def test_default_masks_number_other_lengths_on():
    x, y, z = torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 2, 5)
    masks = [mask[0].tolist() for mask in feature_masks(None, (x, y, z))]
    assert masks == [[0, 1, 2], [0, 1, 2], [3, 4]]


def test_sums_keep_infinity_in_its_word_and_take_long_inputs():
    sums = word_sums(torch.tensor([[1.0, torch.inf, 2.0]]), torch.tensor([[7, 7, 10**9]]))
    assert sums.tolist() == [[torch.inf, torch.inf, 2.0]]
    n = 200_000  # n × n booleans would take 40 GB
    assert word_sums(torch.ones(1, n), torch.arange(n)[None] // 4).eq(4).all()
    per_text = torch.arange(1_000_000).view(2000, 500) // 2  # texts × numbers would take 4 GB
    assert word_sums(torch.ones(2000, 500), per_text).eq(2).all()

"""Which tokens form a word, for fast and slow tokenizers of every marker."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

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
    CLS,
    SEP,
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


def words_of(tokenizer, text):
    """The words of a text, with those of combining marks."""
    encoding = tokenizer([text])
    (groups,) = encoding_groups(tokenizer, encoding, texts=[text])
    found = spans(tokenizer, text, encoding["input_ids"][0], groups, encoding[0].offsets)
    return [span.word for span in found]


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
        added_tokens_decoder = {}
        unk_token_id = None

        def __len__(self):
            return 9

        def convert_ids_to_tokens(self, ids):
            return [str(i) for i in ids]

        def get_vocab(self):
            return {str(i): i for i in range(9)}

    assert word_groups(Plain(), [0, 3, 4]) == [None, 1, 2]


def test_added_tokens_that_are_marked_special_are_no_words():
    tokenizer = byte_level_tokenizer()
    assert read(tokenizer, "<|im_start|>good")[0][0] == "<|"
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    assert read(tokenizer, "<|im_start|>good<|im_start|> movie")[0] == ["good", "movie"]


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


def metaspace_tokenizer(scheme: str) -> PreTrainedTokenizerFast:
    """T5's and XLM-RoBERTa's kind: split at spaces, which become ▁, before the model."""
    pieces = ["<unk>", "▁", *["▁good", "▁mov", "good", "mov", "ie", "s"]]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def pairs_of_wordpieces() -> PreTrainedTokenizerFast:
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


class TestTextsInPairs:
    @pytest.mark.parametrize(
        ("tokenizer", "grouping"),
        [
            (pairs_of_wordpieces(), [None, 0, 1, 1, None, 2, 3, 3, None]),
            (wordpiece_tokenizer(), [0, 1, 1, 2, 3, 3]),  # no template for pairs
            (byte_level_tokenizer(), [0, 0, 1, 1, 2, 2, 3, 3]),
            (unsplit_tokenizer(), [0, 1, 1, 1, 4, 5, 5, 5]),
            (metaspace_tokenizer("always"), [0, 1, 1, 1, 2, 3, 3, 3]),
            (metaspace_tokenizer("never"), [0, 1, 1, 1, 2, 3, 3, 3]),
        ],
    )
    def test_their_words_are_numbered_apart(self, tokenizer, grouping):
        encoding = tokenizer("good movies", "good movies", return_tensors="pt")
        assert encoding_groups(tokenizer, encoding)[0] == grouping

    @pytest.mark.parametrize("first", ["good", "good movie"])
    def test_a_second_text_of_one_word(self, first):
        """Its number is the last one of the first text, and nothing stands between the two."""
        tokenizer = byte_level_tokenizer()
        (groups,) = encoding_groups(tokenizer, tokenizer(first, "good"))
        assert len(set(groups)) == len(first.split()) + 1

    def test_the_demo_models_tokenizer(self, demo):
        encoding = demo.tokenizer("A cat sleeps.", "It rests.", return_tensors="pt")
        assert encoding_groups(demo.tokenizer, encoding) == [[0, 1, 2, 2, 3, 4, 5, 5, 6]]
        direct = word_groups(demo.tokenizer, encoding["input_ids"][0].tolist(), encoding.word_ids())
        assert direct == [0, 1, 2, 2, 3, 4, 5, 5, 6]

    def test_a_batch_of_pairs_with_padding(self, demo):
        pairs = [("A cat.", "It rests."), ("A cat sleeps.", "It rests at home.")]
        groups = encoding_groups(demo.tokenizer, demo.tokenizer(pairs, padding=True))
        words = [len({word for word in row if word is not None}) for row in groups]
        assert words == [6, 9]

    def test_marks_of_the_second_text_are_not_looked_up_in_the_first(self):
        tokenizer, first = byte_level_tokenizer(), "cafe\u0301"
        encoding = tokenizer(first, "good movie")
        (groups,) = encoding_groups(tokenizer, encoding, texts=[first])
        assert groups[-3:] == [2, 2, 3]


MARKED = [
    "यह है ।",
    "नमस्ते दुनिया !",
    "cafe\u0301 de\u0301ja\u0300 vu",
    "I ❤️ it",
    "👨‍👩‍👧 ok 👍🏽 fine 1️⃣",
    "می‌خواهم بروم",
    "น้ำใจดี มาก",
    "שָׁלוֹם לָכֶם",
]


@pytest.mark.parametrize("text", MARKED)
@pytest.mark.parametrize("kind", [byte_level_tokenizer, unsplit_tokenizer, wordpiece_tokenizer])
def test_a_word_keeps_its_marks(kind, text):
    assert words_of(kind(), text) == text.split()


@pytest.mark.parametrize("text", MARKED)
def test_a_word_keeps_the_marks_that_the_tokenizer_drops(demo, text):
    assert words_of(demo.tokenizer, text) == text.split()


def test_a_full_stop_behind_a_mark_is_a_word_of_its_own():
    assert words_of(byte_level_tokenizer(), "यह है।") == ["यह", "है", "।"]
    assert words_of(byte_level_tokenizer(), "❤️love") == ["❤️", "love"]


def test_flags_stand_apart_where_the_tokenizer_splits_them(demo):
    assert words_of(demo.tokenizer, "🇫🇷🇩🇪") == ["🇫🇷", "🇩🇪"]


def test_tokens_within_a_character_do_not_overlap():
    tokenizer, text = byte_level_tokenizer(), "है"
    encoding = tokenizer(text)
    groups = token_groups(tokenizer, encoding["input_ids"])
    found = spans(tokenizer, text, encoding["input_ids"], groups, encoding[0].offsets)
    assert {(span.start, span.end) for span in found} == {(0, 1), (1, 2)}

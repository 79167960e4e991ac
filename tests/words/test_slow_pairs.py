"""Pairs of texts for a tokenizer in plain Python: which text a token is of, cut or not."""

import random

import pytest
import torch

from captum_sig.words.encoding import Encoder
from captum_sig.words.inputs import TextInput
from captum_sig.words.slow_pairs import token_sides
from tests.tiny_models import CLS, SEP
from tests.tiny_pairs import SlowPairTokenizer


@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
def test_sides_are_those_of_the_encoding(truncation):
    """Texts of one word each, so that ids show which text they are of."""
    tokenizer, draws = SlowPairTokenizer(), random.Random(0)
    sides = {
        CLS: None, SEP: None,
        tokenizer.convert_tokens_to_ids("the"): "text",
        tokenizer.convert_tokens_to_ids("bad"): "text_pair",
    }  # fmt: skip
    for _ in range(40):
        numbers = [draws.randint(1, 30), draws.randint(1, 30)]
        uncut = {"only_first": 1, "only_second": 0}.get(truncation)
        if uncut is not None:
            numbers[uncut] = min(numbers[uncut], 12)
        texts = "the " * numbers[0], "bad " * numbers[1]
        ids = tokenizer(*texts, truncation=truncation, max_length=20)["input_ids"]
        found = token_sides(tokenizer, texts, limit=20, truncation=truncation)
        assert found == [sides[token] for token in ids]


@pytest.mark.parametrize("level", ["word", "token"])
def test_words_are_found_in_their_own_text(level):
    """A word of the first text is not looked for in the second, nor is an unknown one lost."""
    pairs = [TextInput("zzz good", "good zzz good"), TextInput("bad", "zzz a bad")]
    (batch,) = Encoder(SlowPairTokenizer(), level, 40).batches(
        pairs * 5, 10, truncation=False, device=torch.device("cpu")
    )
    for one, words in zip(batch.inputs, batch.spans, strict=True):
        found = [(word.word, word.side, word.start) for word in words]
        if one.text == "bad":
            assert found == [
                ("bad", "text", 0), ("[UNK]", "text_pair", None), ("a", "text_pair", 4),
                ("bad", "text_pair", 6),
            ]  # fmt: skip
        else:
            assert found == [
                ("[UNK]", "text", None), ("good", "text", 4), ("good", "text_pair", 0),
                ("[UNK]", "text_pair", None), ("good", "text_pair", 9),
            ]  # fmt: skip

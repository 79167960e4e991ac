"""Windows of ids are those that fast tokenizers cut with `return_overflowing_tokens`."""

import random

import pytest
from tokenizers import processors

from captum_sig.words.windows import Windows, added_ids
from tests.tiny_models import (
    CLS,
    SEP,
    SlowTokenizer,
    byte_level_tokenizer,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)


def begin_only():
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] [SEP] $A", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer


TOKENIZERS = {
    "bert": (wordpiece_tokenizer, ((CLS,), (SEP,))),
    "gpt2": (byte_level_tokenizer, ((), ())),
    "llama": (unsplit_tokenizer, ((1,), ())),
    "two in front": (begin_only, ((CLS, SEP), ())),
    "slow": (SlowTokenizer, ((CLS,), (SEP,))),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_a_tokenizer_adds(name):
    make, added = TOKENIZERS[name]
    assert added_ids(make()) == added


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name != "slow"])
def test_windows_are_the_tokenizers(name, side):
    tokenizer = TOKENIZERS[name][0]()
    tokenizer.truncation_side = side
    draw = random.Random(0)
    for _ in range(60):
        limit = draw.randint(4, 12)
        n_added = tokenizer.num_special_tokens_to_add()
        stride = draw.randint(0, limit - n_added - 1)
        text = " ".join(
            draw.choices(["good", "movie", "mess", "unbelievable"], k=draw.randint(1, 20))
        )
        ids = tokenizer(text)["input_ids"]
        wanted = tokenizer(
            text, truncation=True, max_length=limit, stride=stride, return_overflowing_tokens=True
        )["input_ids"]
        found = Windows.of(tokenizer, limit, stride).positions(ids)
        found = [[ids[position] for position in window] for window in found]
        assert found == (wanted if side == "right" else wanted[::-1])


def test_tokens_that_a_text_begins_and_ends_with_are_its_own_if_it_spells_others():
    windows = Windows(limit=4, stride=0, begin=(1,), end=(2,))
    assert windows.positions([7, 8, 9, 7, 8]) == [[0, 1, 2, 3], [4]]
    assert windows.positions([1, 7, 8, 9, 5]) == [[0, 1, 2, 3], [0, 4]]
    assert windows.positions([1, 7, 2]) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("stride", "message"),
    [
        (10, "stride must be less than the 10 tokens of a text that a window of 12 has room for"),
        (-1, "stride must be an integer of at least 0, got -1"),
        (2.5, "stride must be an integer of at least 0, got 2.5"),
        (True, "stride must be an integer of at least 0, got True"),
    ],
)
def test_strides_that_do_not_fit(stride, message):
    with pytest.raises(ValueError, match=message):
        Windows.of(wordpiece_tokenizer(), 12, stride)

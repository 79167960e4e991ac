"""Baseline ids: which token, and where it stands."""

import warnings

import pytest
import torch

from captum_sig import baselines
from tests.tiny_models import MASK, PAD, UNK, byte_level_tokenizer, wordpiece_tokenizer


@pytest.mark.parametrize(("name", "token"), [("mask", MASK), ("pad", PAD), ("unk", UNK)])
def test_words_are_replaced_and_special_tokens_and_padding_are_not(name, token):
    tokenizer = wordpiece_tokenizer()
    ids = tokenizer(["good movies zzz", "bad"], padding=True, return_tensors="pt")["input_ids"]
    found = baselines.BASELINES[name](tokenizer, ids)
    assert found.shape == ids.shape
    assert found.dtype == ids.dtype
    special = torch.isin(ids, torch.tensor([0, 2, 3, 4]))
    assert torch.equal(found[special], ids[special])
    assert (found[~special] == token).all()


def test_padding_without_an_id_of_its_own_stays_by_the_attention_mask():
    tokenizer = byte_level_tokenizer()
    ids = torch.tensor([[5, 6, 9]])
    found = baselines.eos(tokenizer, ids, torch.tensor([[1, 1, 0]]))
    assert found.tolist() == [[0, 0, 9]]


@pytest.mark.parametrize(
    ("missing", "taken"),
    [(["mask"], "pad"), (["mask", "pad"], "unk"), (["mask", "pad", "unk"], "eos")],
)
def test_mask_falls_back_in_order_and_says_so_once(missing, taken):
    tokenizer = wordpiece_tokenizer()
    tokenizer.eos_token = "[SEP]"
    for role in missing:
        setattr(tokenizer, f"{role}_token", None)
    with pytest.warns(UserWarning, match=f"no mask token: its {taken} token") as caught:
        role, token_id = baselines.choose_token(tokenizer, "mask")
    assert len(caught) == 1
    assert (role, token_id) == (taken, getattr(tokenizer, f"{taken}_token_id"))


def test_no_warning_where_nothing_falls_back():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert baselines.choose_token(wordpiece_tokenizer(), "mask") == ("mask", MASK)


def test_a_token_that_is_missing_lists_those_there_are():
    with pytest.raises(ValueError, match="has no pad token: use baseline unk or eos"):
        baselines.choose_token(byte_level_tokenizer(), "pad")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="'zero' is unknown: use one of mask, pad, unk, eos"):
        baselines.choose_token(wordpiece_tokenizer(), "zero")

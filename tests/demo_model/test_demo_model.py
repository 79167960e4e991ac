"""The model that ships: its size, its accuracy, its mask token."""

import csv

import pytest
import torch

from captum_sig.demo_model import PATH


def test_size():
    assert sum(file.stat().st_size for file in PATH.iterdir() if file.is_file()) <= 8_000_000


def test_only_safe_formats():
    suffixes = {file.suffix for file in PATH.iterdir() if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md", ".py"}


def test_nothing_but_masks_is_close_to_neutral(demo):
    tokenizer = demo.tokenizer
    for length in (3, 10, 25):
        text = " ".join([tokenizer.mask_token] * length)
        assert max(demo(text).probabilities.values()) < 0.9


@pytest.mark.parametrize("masked", [0.0, 0.2])
def test_accuracy_on_the_dev_sentences(demo, shared, masked):
    with (shared / "data/sst2/dev.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows.sort(key=lambda row: len(row["sentence"]))  # little padding
    generator = torch.Generator().manual_seed(0)
    tokenizer = demo.tokenizer
    right = 0
    for start in range(0, len(rows), 109):
        batch = rows[start : start + 109]
        encoding = tokenizer([r["sentence"] for r in batch], padding=True, return_tensors="pt")
        ids = encoding["input_ids"]
        hit = torch.rand(ids.shape, generator=generator) < masked
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        encoding["input_ids"] = ids.where(~hit | special, tokenizer.mask_token_id)
        with torch.no_grad():
            predicted = demo.model(**encoding).logits.argmax(-1)
        right += sum(int(p) == int(r["label"]) for p, r in zip(predicted, batch, strict=True))
    assert len(rows) == 872
    assert right / len(rows) >= (0.82 if masked == 0 else 0.75)

"""The comparison of kinds of deletion, and the language model that it samples from."""

import numpy as np
import pytest
import torch
import transformers

from captum_sig.demo_model import PATH
from tests.benchmarks import train_masked_lm
from tests.benchmarks.deletion import agreements, number_of

KINDS = ("replace", "remove")


def test_orders_agree_in_every_sample_or_in_none():
    methods = np.array([1.0, 2.0, 3.0])
    texts = methods + 0.01 * np.random.default_rng(0).standard_normal((20, 3))
    values = {("log_odds", "replace"): texts, ("log_odds", "remove"): -texts}
    rows = {(row["first"], row["second"]): row for row in agreements(values, "mask")}
    across, within = rows["replace", "remove"], rows["replace", "replace"]
    assert [across[key] for key in ("mean", "low", "high", "n")] == [-1, -1, -1, 20]
    assert [within[key] for key in ("mean", "low", "high")] == [1, 1, 1]


def test_halves_of_the_texts_of_no_order_agree_by_chance():
    texts = np.random.default_rng(0).standard_normal((200, 7))
    (row,) = agreements({("log_odds", "replace"): texts}, "mask")
    assert row["low"] < 0 < row["high"]


def test_cells_become_numbers():
    assert [number_of(cell) for cell in ("3", "-3", "0.5", "1e-3", "sig", "")] == [
        3, -3, 0.5, 0.001, "sig", None,
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "n_masked"), [(0.0, [1, 1]), (0.5, [2, 1]), (0.9, [4, 2])])
def test_a_share_of_each_row_is_masked(share, n_masked):
    ids = torch.tensor([[2, 10, 11, 12, 13, 3], [2, 14, 15, 3, 0, 0]])
    tokens = torch.arange(10, 20)
    rows, labels = train_masked_lm.masked(ids, torch.full((2, 1), share), tokens, mask=4)
    gone = rows == 4
    assert gone.sum(1).tolist() == n_masked
    assert torch.equal(torch.where(gone, labels, rows), ids)
    assert (labels[~gone] == train_masked_lm.IGNORED).all()


def test_a_language_model_is_trained_without_the_sentences_that_report_on_it(tmp_path, capsys):
    kept = "a warm and funny story for the family , and for all who love old films"
    held_out = "a long and dull film about nothing much , with no end in sight at all"
    for name, texts in (("sst2/train", [kept]), ("sst2/dev", [held_out]),
                        ("rotten-tomatoes/train", [held_out.upper(), kept])):  # fmt: skip
        path = tmp_path / f"{name}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["sentence\tlabel", *(f"{text}\t1" for text in texts)]))
    assert train_masked_lm.train_texts(tmp_path) == [kept, kept]
    paths = {"model": PATH, "data": tmp_path, "output": tmp_path / "lm"}
    options = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    train_masked_lm.main([*options, "--epochs", "2", "--learning-rate", "1e-3"])
    assert "80% of the tokens masked: " in capsys.readouterr().out
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "lm")
    embedding = model.get_input_embeddings().weight
    assert torch.equal(model.get_output_embeddings().weight, embedding)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "lm")
    logits = model(**tokenizer(kept.replace("film", "[MASK]"), return_tensors="pt")).logits[0]
    seen = set(tokenizer(kept)["input_ids"])
    assert int(logits.mean(0).argmax()) in seen

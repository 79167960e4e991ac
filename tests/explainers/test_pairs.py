"""Pairs of texts that a classifier reads together, against a plain loop over ids."""

import pytest
import torch
from torch import nn

from captum_sig import TextClassificationExplainer
from tests import pair_tokenizers
from tests.tiny_models import spread, tiny

PAIRS = [
    ("the good movies", "good movies"),
    ("good", "the movies good good"),
    ("movies good", "the good good movies"),
]
KINDS = ["bert", "roberta", "deberta-v2", "llama", "gpt2"]


def tokenizer_of(name):
    """What has a mask has it as its baseline; the others take unk."""
    kind = {"gpt2": "llama"}.get(name, name)
    return pair_tokenizers.FAST[kind]()


@pytest.fixture(scope="module", params=KINDS)
def explainer(request):
    tokenizer, model = tokenizer_of(request.param), tiny(request.param).model
    model.config.pad_token_id = tokenizer.pad_token_id
    if request.param == "bert":
        spread(model, 0.4)  # token types matter
    return TextClassificationExplainer(
        model, tokenizer, baseline="unk" if tokenizer.mask_token is None else "mask"
    )


def by_plain_loop(explainer, pair):
    """All logits, and their differences without each word, in the order of both texts' words."""
    tokenizer = explainer.tokenizer
    encoding = tokenizer(*pair, return_tensors="pt")
    baseline = tokenizer.mask_token_id
    baseline = tokenizer.unk_token_id if baseline is None else baseline
    words = []
    for side, text in enumerate(pair):
        starts = [0, *(n + 1 for n, c in enumerate(text) if c == " ")]
        for start, end in zip(starts, [*starts[1:], len(text) + 1], strict=True):
            words.append(
                [
                    position
                    for position, (first, last) in enumerate(encoding[0].offsets)
                    if encoding.sequence_ids(0)[position] == side
                    and first < end - 1 and last > start and last > first
                ]
            )  # fmt: skip

    def logits(ids):
        with torch.no_grad():
            return explainer.model(**{**encoding, "input_ids": ids}).logits[0]

    whole = logits(encoding["input_ids"])
    rows = []
    for positions in words:
        ids = encoding["input_ids"].clone()
        ids[0, positions] = baseline
        replaced = replaced_logits(explainer, encoding, ids)
        rows.append(whole - replaced)
    return whole, torch.stack(rows, 1)


def replaced_logits(explainer, encoding, ids):
    """Logits with other ids' embeddings, where masks and pooling stay those of the input."""
    embeddings = explainer.layer(ids).detach()
    handle = explainer.layer.register_forward_hook(lambda *_: embeddings)
    try:
        with torch.no_grad():
            return explainer.model(**encoding).logits[0]
    finally:
        handle.remove()


def test_all_labels_are_a_plain_loop_over_ids(explainer):
    found = explainer([*PAIRS, "good movies"], "all")
    for result, pair in zip(found, PAIRS, strict=False):
        whole, differences = by_plain_loop(explainer, pair)
        torch.testing.assert_close(result.matrix, differences, rtol=0, atol=1e-10)
        values = [target.value for target in result.targets]
        assert values == pytest.approx(whole.tolist(), abs=1e-10)
        assert (result.text, result.text_pair) == pair
        sides = ["text"] * len(pair[0].split()) + ["text_pair"] * len(pair[1].split())
        assert [word.side for word in result.words] == sides
        assert [word.word for word in result.words] == " ".join(pair).split()
    assert found[-1].text_pair is None
    assert [word.side for word in found[-1].words] == [None, None]


def test_lists_equal_singles(explainer):
    inputs = [PAIRS[0], "good", PAIRS[1], "the movies good", PAIRS[2]]
    for found, one in zip(explainer(inputs, batch_size=2), inputs, strict=True):
        assert found.scores == pytest.approx(explainer(one).scores, abs=1e-10)


@pytest.mark.parametrize("method", ["ig", "sig:two_sided", "input_x_gradient"])
def test_other_methods(explainer, method):
    found = explainer(PAIRS, method=method, n_steps=200)
    for result, pair in zip(found, PAIRS, strict=True):
        alone = explainer(pair, method=method, n_steps=200)
        assert result.scores == pytest.approx(alone.scores, abs=1e-8)


def test_a_pair_is_no_list_of_two(explainer):
    assert len(explainer(list(PAIRS[0]))) == 2
    for wrong in (("good",), ("a", "b", "c")):
        with pytest.raises(ValueError, match=r"a tuple is a pair of texts: wanted \(first, secon"):
            explainer(wrong)
    with pytest.raises(ValueError, match="the second text of pair 1 is empty: pass two texts"):
        explainer([PAIRS[0], ("good", " ")])


@pytest.mark.parametrize("name", pair_tokenizers.SLOW)
def test_a_tokenizer_in_plain_python(name):
    tokenizer = pair_tokenizers.SLOW[name]()
    explainer = TextClassificationExplainer(tiny("bert").model, tokenizer)
    pair = ("the good movie", "good bad mess")
    ids = tokenizer(*pair, return_tensors="pt")["input_ids"]
    words = [p for p, token in enumerate(ids[0].tolist()) if token > 4]  # one token a word, but …
    found = explainer(pair, "all")
    with torch.no_grad():
        whole = explainer.model(ids).logits[0]
    assert [word.side for word in found.words] == ["text"] * 3 + ["text_pair"] * 3
    last = ids.clone()
    last[0, words[-1]] = tokenizer.mask_token_id
    with torch.no_grad():
        expected = whole - explainer.model(last).logits[0]
    assert found.matrix[:, -1].tolist() == pytest.approx(expected.tolist(), abs=1e-10)


def test_a_reranker_gives_a_query_and_a_passage_its_value():
    model = tiny("bert").model
    model.classifier, model.config.num_labels = nn.Linear(32, 1).double(), 1
    model.config.id2label = {0: "LABEL_0"}
    model.num_labels = 1
    explainer = TextClassificationExplainer(model, pair_tokenizers.berts())
    found = explainer(PAIRS)
    for result, pair in zip(found, PAIRS, strict=True):
        whole, differences = by_plain_loop(explainer, pair)
        assert result.value == pytest.approx(float(whole), abs=1e-10)
        assert result.scores == pytest.approx(differences[0].tolist(), abs=1e-10)
        assert (result.unit, result.probability, result.probabilities) == ("value", None, {})

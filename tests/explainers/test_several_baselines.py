"""Several baselines in one explainer: their mean, and their spread."""

import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.explainers.methods import METHODS
from tests.explainers.test_encoder_decoder_classifiers import model
from tests.tiny_models import TEXTS, bert, byte_level_tokenizer, wordpiece_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:sequential_dig is far from the exact scores"),
    pytest.mark.filterwarnings("ignore:top=2 is more than"),
]
FLOAT32 = ("occlusion", "shapley", "random")  # their scores
NAMES = ["mask", "uniform", "zero"]


def explainer(baseline, made=None) -> TextClassificationExplainer:
    tokenizer = wordpiece_tokenizer()
    return TextClassificationExplainer(
        bert() if made is None else made, tokenizer, baseline=baseline, n_draws=2
    )


def assert_mean(found, parts, atol: float = 1e-10) -> None:
    """The mean of single results, and their standard deviation."""
    scores = torch.tensor([part.scores for part in parts], dtype=torch.float64)
    assert found.scores == pytest.approx(scores.mean(0).tolist(), abs=atol)
    assert [word.std for word in found.words] == pytest.approx(scores.std(0).tolist(), abs=atol)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_mean_of_each_baselines(method):
    made = bert(hidden_act="relu")
    several, each = explainer(NAMES, made), [explainer(name, made) for name in NAMES]
    parts = [explain(TEXTS, 1, method, n_steps=3) for explain in each]
    for number, found in enumerate(several(TEXTS, 1, method, n_steps=3)):
        atol = 1e-6 if method in FLOAT32 else 1e-10
        assert_mean(found, [of_one[number] for of_one in parts], atol)
        assert found.baseline == "mask, uniform, zero"


@pytest.mark.parametrize(
    "options", [{"contexts": "two_sided"}, {"contexts": "sampled4"}, {"contexts": "auto"}]
)
def test_contexts(options):
    several, each = explainer(NAMES), [explainer(name) for name in NAMES]
    parts = [explain(TEXTS[2], 1, **options) for explain in each]
    found = several(TEXTS[2], 1, **options)
    assert_mean(found, parts)
    assert found.residual == pytest.approx(sum(part.residual for part in parts) / 3, abs=1e-10)


def test_labels_in_a_matrix():
    found = explainer(("mask", "pad"))(TEXTS[0], "all")
    parts = torch.stack([explainer(name)(TEXTS[0], "all").matrix for name in ("mask", "pad")])
    torch.testing.assert_close(found.matrix, parts.mean(0), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.std, parts.std(0), rtol=0, atol=1e-10)
    assert found.baseline == found[0].baseline == "mask, pad"


def test_interactions_have_the_baselines_weights():
    options = {"target": 1, "interactions": 20}  # all pairs
    parts = [explainer(name)(TEXTS[0], **options) for name in NAMES]
    found = explainer(NAMES)(TEXTS[0], **options)
    for pair in found.interactions:
        values = [
            other.value
            for part in parts
            for other in part.interactions
            if other.words == pair.words
        ]
        assert pair.value == pytest.approx(sum(values) / 3, abs=1e-10)


def test_the_strongest_words():
    text = " ".join(["the movie is not good, bad, a"] * 4)
    parts = [explainer(name)(text, 1) for name in NAMES]
    found = explainer(NAMES)(text, 1, top=2)
    exact = [n for n, word in enumerate(found.words) if word.evidence != "estimated"]
    assert len(exact) < len(found.words)
    for number in exact:
        mean = sum(part.scores[number] for part in parts) / 3
        assert found.scores[number] == pytest.approx(mean, abs=1e-10)


def test_two_embeddings():
    made = model("Bart")
    parts = [explainer(name, made)(TEXTS[0], 1) for name in ("mask", "mean")]
    assert_mean(explainer(["mask", "mean"], made)(TEXTS[0], 1), parts)


def test_one_name_in_a_list_is_that_name():
    assert explainer(["pad"])(TEXTS[0]) == explainer("pad")(TEXTS[0])
    assert explainer(["uniform"])(TEXTS[0]) == explainer("uniform")(TEXTS[0])


def test_their_number_of_draws():
    explain = explainer(NAMES)
    assert (explain.baseline, explain.n_draws) == ("mask, uniform, zero", 4)
    assert explainer("mask").family.name == "mask"


@pytest.mark.parametrize("act", ["family", "trace", "game"])
def test_what_takes_one_baseline_says_so(act):
    explain = explainer(["mask", "pad"])
    with pytest.raises(ValueError, match="averages over baselines mask, pad, and this takes one"):
        _ = explain.family if act == "family" else getattr(explain, act)(TEXTS[0])


@pytest.mark.parametrize(
    ("baseline", "error", "message"),
    [
        ([], ValueError, "baseline is an empty list: name at least one"),
        (["mask", "grey"], ValueError, "baseline 'grey' is unknown"),
        (["mask", "pad", "mask"], ValueError, "is 'mask' more than once .*: name each once"),
        (None, TypeError, "baseline must be a name or a list of names, got None"),
        (["mask", 3], TypeError, "baseline must be a name or a list of names"),
    ],
)
def test_bad_names(baseline, error, message):
    with pytest.raises(error, match=message):
        explainer(baseline)


@pytest.mark.filterwarnings("ignore:the tokenizer has no mask token")
def test_a_token_that_replaces_a_missing_one_may_be_there_already():
    with pytest.raises(ValueError, match="'unk' more than once"):
        TextClassificationExplainer(bert(), byte_level_tokenizer(), baseline=["mask", "unk"])

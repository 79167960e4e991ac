"""Several labels at once: every row of the matrix is what the label alone gives."""

import json
import re

import pytest
import torch
import transformers
from torch import Tensor, nn

from captum_sig import MatrixAttribution, TextClassificationExplainer, WordAttribution
from captum_sig.explainers.matrix_results import TargetsAttribution
from tests.tiny_models import CLS, PAD, SEP, spread, wordpiece_tokenizer

LABELS = [f"label {number}" for number in range(28)]
TEXTS = ["the movie is not good", "bad", "a gorgeous mess, unbelievable!", "bad bad movies"]
SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": PAD}  # fmt: skip
GENERATIVE = {"bos_token_id": CLS, "eos_token_id": SEP}
ARCHITECTURES = {
    "Bert": {},
    "Roberta": {},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, **GENERATIVE},
    "Llama": {"num_key_value_heads": 2, "head_dim": 8, **GENERATIVE},
}


def classifier(name: str = "Bert", **changes: object) -> nn.Module:
    options = {**SHAPE, **ARCHITECTURES[name], "id2label": dict(enumerate(LABELS)), **changes}
    config = getattr(transformers, f"{name}Config")(**options)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.config.pad_token_id = PAD
    return spread(model)


@pytest.fixture(scope="module")
def multi_label() -> TextClassificationExplainer:
    model = classifier(problem_type="multi_label_classification")
    return TextClassificationExplainer(model, wordpiece_tokenizer())


def plain_loop(model: nn.Module, text: str) -> Tensor:
    """All labels by words, (C, W), one pass a word: its ids become those of [MASK]."""
    tokenizer = wordpiece_tokenizer()
    encoding = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    (ids,), (offsets,) = encoding["input_ids"], encoding["offset_mapping"].tolist()
    with torch.no_grad():
        at_input = model(ids[None]).logits[0]
        rows = []
        for word in re.finditer(r"\w+|[^\w\s]", text):
            without = ids.clone()
            for position, (start, end) in enumerate(offsets):
                if word.start() <= start < end <= word.end():
                    without[position] = tokenizer.mask_token_id
            rows.append(at_input - model(without[None]).logits[0])
    return torch.stack(rows, 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_labels_equal_a_plain_loop(name):
    model = classifier(name)
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    results = explainer(TEXTS, target="all")
    for text, result in zip(TEXTS, results, strict=True):
        assert isinstance(result, MatrixAttribution)
        assert result.rows == LABELS
        assert result.columns == re.findall(r"\w+|[^\w\s]", text)
        assert torch.allclose(result.matrix, plain_loop(model, text), rtol=0, atol=1e-10)
        alone = explainer(text, target="all")
        assert torch.allclose(result.matrix, alone.matrix, rtol=0, atol=1e-10)
        assert [target.value for target in alone.targets] == pytest.approx(
            model(torch.tensor([wordpiece_tokenizer()(text)["input_ids"]])).logits[0].tolist()
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"contexts": "two_sided"},
        {"contexts": "sampled4"},
        {"contexts": "auto"},
        {"interactions": 3},
        {"method": "ig", "n_steps": 8},
        {"method": "shapley"},
        {"method": "gradient_shap"},
        {"method": "lrp"},
        {"method": "sequential_dig"},
        {"method": "random"},
        {"top": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("baseline", ["mask", "uniform"])
@pytest.mark.filterwarnings("ignore:sequential_dig is far")
def test_each_row_is_what_its_label_alone_gives(multi_label, options, baseline):
    explainer = TextClassificationExplainer(
        multi_label.model, multi_label.tokenizer, baseline=baseline, n_draws=2
    )
    labels = ("label 3", 27)
    for text, several in zip(TEXTS, explainer(TEXTS, target=labels, **options), strict=True):
        for label, of_label in zip(labels, several, strict=True):
            alone = explainer(text, target=label, **options)
            assert isinstance(of_label, WordAttribution)
            assert of_label.target == alone.target
            assert of_label.scores == pytest.approx(alone.scores, abs=1e-10)
            assert of_label.value == pytest.approx(alone.value)
            for name in ("standard_error", "std", "first", "last", "evidence", "agreement"):
                found, expected = ([getattr(w, name) for w in r.words] for r in (of_label, alone))
                assert [type(value) for value in found] == [type(value) for value in expected]
                if isinstance(found[0], float):
                    assert found == pytest.approx(expected, abs=1e-10, nan_ok=True)
                else:
                    assert found == expected
            assert (of_label.residual is None) == (alone.residual is None)
            if alone.interactions is not None:
                assert [p.words for p in of_label.interactions] == [
                    p.words for p in alone.interactions
                ]


def test_which_labels(multi_label):
    text = TEXTS[0]
    probabilities = multi_label(text).probabilities
    assert set(probabilities) == set(LABELS)
    above = multi_label(text, target=">0.5")
    assert above.rows == [label for label in LABELS if probabilities[label] > 0.5]
    assert [t.probability for t in above.targets] == [probabilities[name] for name in above.rows]
    assert multi_label(text, target=["label 2", "LABEL 2", 2]).rows == ["label 2"]
    assert multi_label(text, target=("label 2",)).rows == ["label 2"]
    assert multi_label([text], target=["label 2"])[0].target == "label 2"
    assert multi_label([text, text], target=("label 2", 3))[1].rows == ["label 2", "label 3"]
    mixed = multi_label([text] * 4, target=["all", 1, None, ["label 1", "label 5"]])
    assert [type(result) for result in mixed] == [
        TargetsAttribution, WordAttribution, WordAttribution, TargetsAttribution,
    ]  # fmt: skip
    assert mixed[3].rows == ["label 1", "label 5"]


def test_no_label_is_above(multi_label):
    result = multi_label(TEXTS[0], target=">0.999999")
    assert result.rows == []
    assert result.matrix.shape == (0, 5)
    assert list(result) == []
    assert TargetsAttribution.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_label_named_all_is_a_label():
    model = classifier(id2label={0: "none", 1: "all"})
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    assert explainer("good", target="all").target == "all"


def test_rows_by_name_and_number(multi_label):
    result = multi_label(TEXTS[0], target="all")
    assert result["label 3"] == result["Label 3"] == result[3]
    assert result[-1].target == "label 27"
    assert len(result) == 28
    with pytest.raises(KeyError, match="target 'lable 3' is unknown .did you mean 'label 3'"):
        result["lable 3"]
    assert result[torch.tensor(3).numpy()[()]] == result[3]  # as `argmax` gives it
    assert "label 3" in result
    assert "joy" not in result
    with pytest.raises(IndexError, match="there are 28 targets, from 0, got 28"):
        result[28]
    for index in (None, 1.0, True, slice(2)):
        with pytest.raises(TypeError, match="pass a target's name or its number"):
            result[index]


def test_a_value_that_a_model_predicts():
    model = classifier(num_labels=1, id2label={0: "stars"})
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    result = explainer("a good movie")
    ids = torch.tensor([wordpiece_tokenizer()("a good movie")["input_ids"]])
    assert result.value == pytest.approx(model(ids).logits.item())
    assert (result.unit, result.target, result.probability) == ("value", "stars", None)
    with pytest.raises(ValueError, match="the model predicts a value: leave target out"):
        explainer("a good movie", target=">0.5")


def test_none_of_several_values_is_predicted():
    names = {0: "warmth", 1: "length"}
    model = classifier(num_labels=2, problem_type="regression", id2label=names)
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    result = explainer("a good movie")
    assert (result.rows, result.label, result.unit) == (["warmth", "length"], None, "value")
    assert explainer("a good movie", "length") == result["length"]
    assert explainer.trace("a good movie", "length").unit == "value"


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (("label 1", "all"), ValueError, "target 'all' stands alone: pass it by itself"),
        ((">0.5", "label 1"), ValueError, "target '>0.5' stands alone: pass it by itself"),
        ((), ValueError, "target is empty: name at least one label"),
        (("label 1", "joy"), ValueError, "unknown label 'joy'; choose from label 0"),
        (">1.5", ValueError, "must be a probability after '>', such as '>0.5'"),
        (">", ValueError, "must be a probability after '>'"),
        (">nan", ValueError, "must be a probability after '>'"),
        ({"label 1"}, TypeError, "target must be a label, or a tuple or list of labels"),
    ],
)
def test_targets_that_are_none(multi_label, target, error, message):
    with pytest.raises(error, match=message):
        multi_label(TEXTS[0], target=target)


@pytest.mark.parametrize("contexts", [None, "two_sided", "sampled4"])
def test_json_keeps_everything(multi_label, contexts):
    result = multi_label(TEXTS[0], target=(1, 2), contexts=contexts)
    again = TargetsAttribution.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert hash(again) == hash(result)
    assert again[0] == result[0]
    assert again != multi_label(TEXTS[0], target=(1, 3), contexts=contexts)


def test_a_matrix_has_the_shape_of_its_targets_and_words(multi_label):
    data = multi_label(TEXTS[0], target=(1, 2)).to_dict()
    data["matrix_first"] = [[0.0] * 5]
    with pytest.raises(ValueError, match=r"cannot reshape|shape \(1, 5\); wanted \(2, 5\)"):
        TargetsAttribution.from_dict(data)

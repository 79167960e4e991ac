"""Adapters that PEFT trained: loaded with their base, and explained as the merged model is."""

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

from captum_sig import TextClassificationExplainer, TextGenerationExplainer
from tests.tiny_language_models import causal, chat_tokenizer
from tests.tiny_models import SHAPE, TEXTS, bert, spread, wordpiece_tokenizer

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LAYERS = [
    {"target_modules": ["query", "value"]},
    {"target_modules": ["query", "word_embeddings"]},
    {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]},
]


def trained(model, task_type, **options):
    """A model with a random adapter, as if after training."""
    config = peft.LoraConfig(task_type=task_type, r=2, init_lora_weights=False, **options)
    adapted = peft.get_peft_model(model, config).eval().double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name or "modules_to_save" in name:
                weight.normal_(std=0.2, generator=generator)
    return adapted


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A classifier."""
    bert().save_pretrained(tmp_path / "base")
    wordpiece_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def saved(base: Path, **options) -> tuple[Path, torch.nn.Module]:
    """The folder of an adapter of the classifier, and the model with the adapter merged."""
    adapted = trained(bert(), "SEQ_CLS", **(options or LAYERS[0]))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    folder = base.with_name("adapter")
    adapted.save_pretrained(folder)
    return folder, copy.deepcopy(adapted).merge_and_unload().eval()


def change(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def matrices(explainer, **options):
    return [result.matrix for result in explainer(TEXTS, target="all", **options)]


@pytest.mark.parametrize("layers", LAYERS)
def test_a_folder_is_loaded_with_its_base(base, layers):
    folder, merged = saved(base, **layers)
    explainer = TextClassificationExplainer.from_pretrained(
        folder, model_kwargs={"dtype": torch.float64}
    )
    assert repr(explainer).startswith("TextClassificationExplainer(BertForSequenceClassification,")
    expected = matrices(TextClassificationExplainer(merged, wordpiece_tokenizer()))
    torch.testing.assert_close(matrices(explainer), expected, rtol=0, atol=1e-10)
    without = matrices(TextClassificationExplainer.from_pretrained(base))
    assert (without[0] - expected[0]).abs().max() > 0.1  # the adapter matters


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("task_type", ["SEQ_CLS", None])
def test_an_adapted_model_is_explained_as_it_is(layers, task_type):
    adapted = trained(bert(), task_type, **layers)
    explainer = TextClassificationExplainer(adapted, wordpiece_tokenizer())
    assert repr(explainer).startswith("TextClassificationExplainer(BertForSequenceClassification,")
    merged = copy.deepcopy(adapted).merge_and_unload().eval()
    expected = TextClassificationExplainer(merged, wordpiece_tokenizer())
    for method in ("sig", "ig"):
        found = matrices(explainer, method=method)
        torch.testing.assert_close(found, matrices(expected, method=method), rtol=0, atol=1e-10)


def test_prompt_tuning_is_explained_in_its_wrapper():
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    adapted = peft.get_peft_model(bert(), config).eval().double()
    with torch.no_grad():
        adapted.prompt_encoder["default"].embedding.weight.normal_()
    tokenizer = wordpiece_tokenizer()
    result = TextClassificationExplainer(adapted, tokenizer)("the movie is not good", target=0)
    ids = tokenizer("the movie is not good", return_tensors="pt")
    with torch.no_grad():
        value = adapted(**ids).logits[0, 0]
        ids["input_ids"][0, 4] = tokenizer.mask_token_id
        without = adapted(**ids).logits[0, 0]
    assert result.words[3].score == pytest.approx(float(value - without), abs=1e-10)


def test_prompt_tuning_would_shift_the_tokens_of_other_tasks():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = peft.get_peft_model(causal("gpt2"), config)
    with pytest.raises(TypeError, match="its adapter puts tokens of its own in front of the text"):
        TextGenerationExplainer(adapted, chat_tokenizer(), baseline="unk")


def test_an_adapted_language_model(tmp_path):
    causal("gpt2").save_pretrained(tmp_path / "base")
    chat_tokenizer().save_pretrained(tmp_path / "base")
    adapted = trained(causal("gpt2"), "CAUSAL_LM", target_modules=["c_attn"], fan_in_fan_out=True)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = TextGenerationExplainer.from_pretrained(
        tmp_path / "adapter", baseline="unk", model_kwargs={"dtype": torch.float64}
    )
    merged = copy.deepcopy(adapted).merge_and_unload().eval()
    expected = TextGenerationExplainer(merged, chat_tokenizer(), baseline="unk")
    wrapped = TextGenerationExplainer(adapted, chat_tokenizer(), baseline="unk")
    for target in (" so good", None):
        matrix = expected("the movie is", target).matrix
        for explainer in (loaded, wrapped):
            found = explainer("the movie is", target).matrix
            torch.testing.assert_close(found, matrix, rtol=0, atol=1e-10)
    assert repr(loaded).startswith("TextGenerationExplainer(GPT2LMHeadModel,")


@pytest.fixture
def encoder(base: Path) -> Path:
    """The same classifier without its head."""
    spread(BertModel(BertConfig(**SHAPE))).save_pretrained(base)
    return base


def test_a_head_comes_with_the_adapter(encoder):
    folder, merged = saved(encoder)
    explainer = TextClassificationExplainer.from_pretrained(
        folder, model_kwargs={"dtype": torch.float64}
    )
    assert explainer.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]  # as the head has
    expected = matrices(TextClassificationExplainer(merged, wordpiece_tokenizer()))
    torch.testing.assert_close(matrices(explainer), expected, rtol=0, atol=1e-10)
    bert().config.save_pretrained(folder)
    named = TextClassificationExplainer.from_pretrained(folder)
    assert named.labels == ["NEGATIVE", "POSITIVE", "neutral"]


def test_without_a_head_it_is_refused(encoder):
    folder, _ = saved(encoder)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: w for name, w in weights.items() if "classifier" not in name}, file)
    with pytest.raises(ValueError, match=r"adapter has no weights for .*classifier"):
        TextClassificationExplainer.from_pretrained(folder)
    weights = {name: w for name, w in weights.items() if "layer.0" in name or "class" in name}
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"adapter has no weights for base.*layer.1.*lora_A"):
        TextClassificationExplainer.from_pretrained(folder)
    save_file({name: w for name, w in weights.items() if "classifier" not in name}, file)
    change(folder, modules_to_save=None, task_type=None, target_modules=r".*layer\.0.*query")
    with pytest.raises(ValueError, match=r"has no weights for classifier.bias, classifier.weight"):
        TextClassificationExplainer.from_pretrained(folder)


def test_the_tokenizer_may_lie_beside_either(base):
    folder, _ = saved(base)
    shutil.move(base / "tokenizer.json", folder)
    shutil.move(base / "tokenizer_config.json", folder)
    assert TextClassificationExplainer.from_pretrained(folder)("good").words[0].score


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "of the kind PROMPT_TUNING, which is not read here"),
        ({"peft_type": "XLORA"}, "of the kind XLORA, which is not read here; wanted one of LORA"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "of the kind LORA, which is not"),
        ({"base_model_name_or_path": None}, "does not name its base model: set base_model_name"),
        ({"base_model_name_or_path": "/no/such/folder"}, "there is no folder /no/such/folder"),
    ],
)
def test_what_is_not_read_is_told_in_a_sentence(base, values, message):
    folder, _ = saved(base)
    change(folder, **values)
    with pytest.raises(ValueError, match=message):
        TextClassificationExplainer.from_pretrained(folder)


def test_an_adapter_does_not_fit_another_base(base):
    folder, _ = saved(base)
    BertForMaskedLM(BertConfig(**{**SHAPE, "hidden_size": 16})).save_pretrained(base)
    with pytest.raises(ValueError, match="holds a BertForMaskedLM"):
        TextClassificationExplainer.from_pretrained(folder)


def test_an_adapter_in_the_folder_of_a_model(base):
    folder, _ = saved(base)
    for path in folder.iterdir():
        shutil.copy(path, base)
    with pytest.raises(ValueError, match=r"holds both a model, model.safetensors, and an adapter"):
        TextClassificationExplainer.from_pretrained(base)


def test_an_adapter_of_an_adapter(base):
    folder, _ = saved(base)
    second = shutil.copytree(folder, base.with_name("second"))
    change(second, base_model_name_or_path=str(folder))
    with pytest.raises(ValueError, match="which is an adapter too: merge it into its model"):
        TextClassificationExplainer.from_pretrained(second)


def test_without_peft_a_sentence_says_what_to_install(base, monkeypatch):
    folder, _ = saved(base)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="which needs peft: run pip install"):
        TextClassificationExplainer.from_pretrained(folder)

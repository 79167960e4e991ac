"""Which explainer a model gets, and what it says of itself."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from transformers import BertConfig, T5Config, pipeline

import captum_sig
from captum_sig import TextClassificationExplainer, TextGenerationExplainer, explainer
from captum_sig._names import TaskName
from captum_sig.demo_model import PATH
from captum_sig.explainers.automatic import ALIASES, EXPLAINERS, TASKS, task_named, task_of
from tests.tiny_language_models import causal, chat_tokenizer
from tests.tiny_models import SHAPE, bert, wordpiece_tokenizer

CONFIG = BertConfig(**SHAPE)
T5 = T5Config(vocab_size=64, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
TASK_OF = {
    "BertForSequenceClassification": "text-classification",
    "BertForTokenClassification": "token-classification",
    "BertForQuestionAnswering": "question-answering",
    "BertForMaskedLM": "fill-mask",
    "BertModel": "sentence-similarity",
    "BertLMHeadModel": "text-generation",
}


def test_every_task_has_its_class():
    from typing import get_args

    assert set(EXPLAINERS) == set(get_args(TaskName)) == set(TASKS.split(", "))
    for module, name in EXPLAINERS.values():
        assert captum_sig._MODULE_OF[name] == f"explainers.{module}"
        assert name in captum_sig.__all__


@pytest.mark.parametrize(("name", "task"), TASK_OF.items())
def test_the_class_of_a_model_decides(name, task, tmp_path):
    model = getattr(transformers, name)(CONFIG)
    assert task_of(model) == task
    model.save_pretrained(tmp_path)
    assert task_of(tmp_path) == task_of(str(tmp_path)) == task


def test_models_with_encoder_and_decoder():
    assert task_of(transformers.T5ForConditionalGeneration(T5)) == "text-generation"
    assert task_of(transformers.T5EncoderModel(T5)) == "sentence-similarity"


def test_all_names_of_pipelines_are_tasks():
    from transformers.pipelines import SUPPORTED_TASKS

    names = {*TASKS.split(", ")} - {"sentence-similarity", "question-answering"}
    assert names <= set(SUPPORTED_TASKS)  # question-answering is gone after 5.0
    assert {task_named(name) for name in [*names, *ALIASES, "translation_en_to_de"]} <= set(
        EXPLAINERS
    )


@pytest.mark.parametrize("name", ["sentiment-analysis", "ner", "fill-mask", "feature-extraction"])
def test_a_pipeline_decides(name):
    class_name = {
        "sentiment-analysis": "BertForSequenceClassification",
        "ner": "BertForTokenClassification",
        "fill-mask": "BertForMaskedLM",
        "feature-extraction": "BertModel",
    }[name]
    model = getattr(transformers, class_name)(CONFIG)
    made = pipeline(name, model=model, tokenizer=wordpiece_tokenizer())
    assert task_of(made) == task_named(name)


def test_an_nli_model_is_a_classifier_unless_a_pipeline_says_zero_shot():
    model = bert(label2id={"contradiction": 0, "neutral": 1, "entailment": 2})
    assert task_of(model) == "text-classification"
    made = pipeline("zero-shot-classification", model=model, tokenizer=wordpiece_tokenizer())
    assert task_of(made) == "zero-shot-classification"


@pytest.mark.parametrize("name", ["question-answering", "text2text-generation", "summarization"])
def test_pipelines_that_newer_transformers_do_not_have(name):
    model = SimpleNamespace(task=name, model=bert(), tokenizer=wordpiece_tokenizer())
    assert task_of(model) == task_named(name)


def test_the_demo_model():
    made = explainer(PATH, baseline="pad", model_kwargs={"dtype": torch.float64})
    assert repr(made) == (
        "TextClassificationExplainer(BertForSequenceClassification, task='text-classification', "
        "baseline='pad', level='word', labels=['NEGATIVE', 'POSITIVE'])"
    )
    assert (type(made), made.task) == (TextClassificationExplainer, "text-classification")
    assert made.layer.weight.dtype == torch.float64
    text = "Not good!"
    same = TextClassificationExplainer.from_pretrained(PATH, baseline="pad")(text)
    assert made(text).scores == pytest.approx(same.scores, abs=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_model_a_pipeline_and_a_compiled_model_are_explained_alike():
    model, tokenizer = bert(), wordpiece_tokenizer()
    made = pipeline("text-classification", model=model, tokenizer=tokenizer)
    explainers = [
        explainer(model, tokenizer, level="token"),
        explainer(made, level="token"),
        explainer(torch.compile(model), tokenizer, level="token"),
        explainer(model, tokenizer, task="sentiment-analysis", level="token"),
    ]
    results = [one("movies, not good") for one in explainers]
    assert results.count(results[0]) == 4
    assert len(results[0].words) == 5
    assert len({repr(one) for one in explainers}) == 1


def test_a_language_model(tmp_path):
    causal("gpt2").save_pretrained(tmp_path)
    chat_tokenizer().save_pretrained(tmp_path)
    for made in (
        explainer(causal("gpt2"), chat_tokenizer(), baseline="unk"),
        explainer(tmp_path, baseline="unk"),
    ):
        assert isinstance(made, TextGenerationExplainer)
        assert made.task == "text-generation"
        assert repr(made) == (
            "TextGenerationExplainer(GPT2LMHeadModel, task='text-generation', baseline='unk', "
            "level='word')"
        )


def test_several_baselines_are_shown():
    assert "baseline='mask, pad', " in repr(explainer(PATH, baseline=["mask", "pad"]))


def test_many_labels_are_shown_in_part():
    model = transformers.BertForSequenceClassification(BertConfig(**SHAPE, num_labels=28))
    assert repr(explainer(model, wordpiece_tokenizer())).endswith("'LABEL_7', … 20 more])")


def test_the_aggregation_of_a_pipeline_is_kept(monkeypatch):
    taken = {}
    module = ModuleType("captum_sig.explainers.token_classification")
    module.TokenClassificationExplainer = lambda model, tokenizer, **options: taken.update(options)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = transformers.BertForTokenClassification(CONFIG)
    tokenizer = wordpiece_tokenizer()
    explainer(pipeline("ner", model=model, tokenizer=tokenizer))
    assert "aggregation_strategy" not in taken
    explainer(pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy="max"))
    assert taken == {"aggregation_strategy": "max"}


def test_models_of_sentence_transformers(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    bert().save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    made = explainer(library.CrossEncoder(str(tmp_path)))
    assert repr(made).startswith("TextClassificationExplainer(BertForSequenceClassification,")
    encoder = library.SentenceTransformer(str(tmp_path))
    assert task_of(encoder) == "sentence-similarity"
    encoder.save_pretrained(str(tmp_path / "saved"))
    assert task_of(tmp_path / "saved") == "sentence-similarity"


class Own(nn.Module):
    """A model whose name says nothing."""


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Own(), ValueError, "the task of a Own cannot be told from its name: pass task"),
        (lambda: None, TypeError, "got NoneType; wanted a model of transformers, a folder or hub"),
        (lambda: "/no/such/folder", ValueError, "there is no folder /no/such/folder"),
        (
            lambda: transformers.ViTForImageClassification(transformers.ViTConfig(
                hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)),
            TypeError, "ViTForImageClassification reads pixel_values, not text",
        ),
        (
            lambda: transformers.BertForMultipleChoice(CONFIG), TypeError,
            "BertForMultipleChoice is of a task that is not explained here; wanted one of text-cl",
        ),
        (
            lambda: transformers.BertForPreTraining(CONFIG), ValueError,
            "the task of a BertForPreTraining cannot be told from its name: pass task, one of",
        ),
        (
            lambda: SimpleNamespace(task="image-classification"), TypeError,
            "the task of the SimpleNamespace is image-classification, which is not explained here",
        ),
    ],
)  # fmt: skip
def test_what_is_not_explained_is_told_in_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        explainer(make())


def test_models_of_pictures_and_texts_are_not_embedders():
    from captum_sig.explainers.automatic import task_of_class

    with pytest.raises(ValueError, match="the task of a CLIPModel cannot be told from its name"):
        task_of_class("CLIPModel", transformers.CLIPModel)
    assert task_of_class("CLIPTextModel", transformers.CLIPTextModel) == "sentence-similarity"


def test_arguments_that_do_not_go_together():
    with pytest.raises(ValueError, match="model_kwargs are for loading a folder or hub name"):
        explainer(bert(), wordpiece_tokenizer(), model_kwargs={"dtype": "auto"})
    with pytest.raises(ValueError, match="tokenizer is for a loaded model, and .* has its own"):
        explainer(PATH, wordpiece_tokenizer())
    with pytest.raises(ValueError, match=r"task 'nre' is unknown \(did you mean 'ner'\?\)"):
        explainer(PATH, task="nre")
    with pytest.raises(TypeError, match="tokenizer is NoneType; wanted the model's tokenizer"):
        explainer(bert())


def test_a_folder_without_a_class(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="has no config.json that names the model's class in arch"):
        explainer(tmp_path)


def test_a_head_is_not_read_as_that_of_another_task(tmp_path: Path):
    """The heads of both have the same names, and here the same shapes."""
    transformers.BertForTokenClassification(CONFIG).save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    for load in (
        TextClassificationExplainer.from_pretrained,
        lambda path: explainer(path, task="text-classification"),
    ):
        with pytest.raises(ValueError, match="holds a BertForTokenClassification, which TextClas"):
            load(tmp_path)

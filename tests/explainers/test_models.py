"""Models at the door: no code of theirs is run, no pickle is read, and each has its explainer."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    XLNetConfig,
    XLNetForSequenceClassification,
    pipeline,
)

from captum_sig import TextClassificationExplainer, TextGenerationExplainer
from captum_sig.corpus import CorpusExplainer
from captum_sig.demo_model import PATH
from captum_sig.explainers.loading import (
    pretrained_masked_lm,
    pretrained_tokenizer,
)
from tests.tiny_language_models import causal, chat_tokenizer
from tests.tiny_models import SHAPE, bert, wordpiece_tokenizer

CODE = """
open({marker!r}, "w").close()
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

class Config(PretrainedConfig):
    model_type = "own"

class Model(PreTrainedModel):
    config_class = Config

class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
MODELS = ("SequenceClassification", "CausalLM", "Seq2SeqLM", "MaskedLM")
AUTO_MAP = {"AutoConfig": "own.Config"} | {f"AutoModelFor{task}": "own.Model" for task in MODELS}


def change(path: Path, **values: object) -> None:
    """Change some values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo model."""
    return shutil.copytree(PATH, tmp_path / "model")


@pytest.fixture
def marker(folder: Path) -> Path:
    """A file that is written when the code in the folder runs."""
    marker = folder.with_name("marker")
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    return marker


@pytest.mark.parametrize(
    "load",
    [
        TextClassificationExplainer.from_pretrained,
        TextGenerationExplainer.from_pretrained,
        pretrained_masked_lm,
        lambda folder: CorpusExplainer(str(folder)).explainer,
    ],
)
@pytest.mark.parametrize("answer", ["", "y\n" * 9])
def test_code_of_a_model_is_not_run(folder, marker, load, answer, monkeypatch, capsys):
    change(folder / "config.json", model_type="own", auto_map=AUTO_MAP)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    with pytest.raises(ValueError, match="comes with Python code of its own, which is not run"):
        load(folder)
    assert not marker.exists()
    assert capsys.readouterr().out == ""


def test_code_of_a_tokenizer_is_not_run(folder, marker, monkeypatch, capsys):
    auto_map = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    change(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Tokenizer")
    change(folder / "config.json", model_type="own", auto_map=AUTO_MAP)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ValueError, match="comes with Python code of its own, which is not run"):
        pretrained_tokenizer(folder)
    assert not marker.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("option", [[], ["--task", "text-generation"], ["--masked-lm"]])
def test_the_command_asks_nothing_and_runs_no_code(run, folder, marker, option):
    change(folder / "config.json", model_type="own", auto_map=AUTO_MAP)
    models = (
        ["--baseline", "blurred", *option] if option == ["--masked-lm"] else [*option, "--model"]
    )
    result = run("explain", "A film.", *models, folder, stdin="y\n" * 9)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "comes with Python code of its own" in result.stderr
    assert not marker.exists()


@pytest.mark.parametrize(
    ("option", "value"), [("trust_remote_code", True), ("use_safetensors", False)]
)
def test_what_would_run_code_is_not_an_option(folder, option, value):
    with pytest.raises(ValueError, match=f"{option}={value} is not for models that are loaded"):
        TextGenerationExplainer.from_pretrained(folder, model_kwargs={option: value})


def test_options_that_are_as_they_must_be_are_taken(tmp_path):
    causal("gpt2").save_pretrained(tmp_path)
    chat_tokenizer().save_pretrained(tmp_path)
    options = {"trust_remote_code": False, "use_safetensors": True}
    assert TextGenerationExplainer.from_pretrained(tmp_path, baseline="unk", model_kwargs=options)


def index_names_a_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "part.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "part.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def config_names_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "adapter_model.bin")
    change(folder / "config.json", transformers_weights="adapter_model.bin")


def adapter_is_a_pickle(folder: Path) -> None:
    torch.save({}, folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(PATH)}))


def adapters_model_is_a_pickle(folder: Path) -> None:
    base = folder.with_name("base")
    shutil.copytree(folder, base)
    index_names_a_pickle(base)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    config = {"base_model_name_or_path": str(base), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (index_names_a_pickle, "part.bin"),
        (config_names_a_pickle, "adapter_model.bin"),
        (adapter_is_a_pickle, "adapter_model.bin"),
        (adapters_model_is_a_pickle, "part.bin"),
    ],
)
def test_a_pickle_is_refused_by_name(
    folder: Path, make: Callable[[Path], None], name: str, monkeypatch: pytest.MonkeyPatch
):
    def load(*args: Any, **options: Any) -> None:
        raise AssertionError("a pickle is read")

    make(folder)
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ValueError, match=f"has weights in {name}, which is not a safetensors file"):
        TextClassificationExplainer.from_pretrained(folder)


def test_code_that_generates_is_not_run(folder, marker, monkeypatch, capsys):
    (folder / "custom_generate").mkdir()
    (folder / "own.py").rename(folder / "custom_generate" / "generate.py")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    explainer = TextGenerationExplainer(causal("gpt2"), chat_tokenizer(), baseline="unk")
    for more in ({}, {"trust_remote_code": True}):
        with pytest.raises(ValueError, match="would run Python code .* leave trust_remote"):
            explainer("good", generation_kwargs={"custom_generate": str(folder), **more})
    assert not marker.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", ['{"a', "7", "\xff"])
def test_a_damaged_file_is_named(folder, name, content):
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(OSError, match=f"{name} is not a valid JSON file"):
        TextClassificationExplainer.from_pretrained(folder)


CONFIG = BertConfig(**SHAPE)
XLNET = XLNetConfig(vocab_size=64, d_model=32, n_layer=1, n_head=4, d_inner=48)


class Own(nn.Module):
    """A classifier that is not of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 8)


class Tagger(BertForTokenClassification):
    """A model whose class name does not say what it returns."""


OWN = "use LayerSequentialIntegratedGradients, with a function that returns"


@pytest.mark.parametrize("explainer", [TextClassificationExplainer, TextGenerationExplainer])
@pytest.mark.parametrize(
    ("make", "got", "advice"),
    [
        (
            lambda: pipeline("text-classification", model=bert(), tokenizer=wordpiece_tokenizer()),
            "TextClassificationPipeline",
            "pass its parts, pipeline.model and pipeline.tokenizer",
        ),
        (lambda: "my/model", "str", r"Explainer.from_pretrained\('my/model'\)"),
        (lambda: nn.DataParallel(bert()), "DataParallel", "the model inside, model.module"),
        (
            lambda: BertForTokenClassification(CONFIG),
            "BertForTokenClassification",
            "use TokenClassificationExplainer",
        ),
        (
            lambda: BertForQuestionAnswering(CONFIG),
            "BertForQuestionAnswering",
            "use QuestionAnsweringExplainer",
        ),
        (lambda: BertForMultipleChoice(CONFIG), "BertForMultipleChoice", OWN),
        (lambda: BertForMaskedLM(CONFIG), "BertForMaskedLM", "use FillMaskExplainer"),
        (Own, "Own", f"for a module of your own {OWN}"),
        (lambda: None, "NoneType", "pass a model that transformers loaded"),
        (lambda: CONFIG, "BertConfig", "pass a model that transformers loaded"),
        (lambda: XLNetForSequenceClassification(XLNET), "XLNetFor", "positions before texts"),
    ],
)
def test_what_is_not_an_explainers_model_is_told_what_serves(explainer, make, got, advice):
    with pytest.raises(TypeError, match=f"^{explainer.__name__} explains .*, got {got}.*{advice}"):
        explainer(make(), wordpiece_tokenizer())


def test_each_task_has_its_explainer():
    tokenizer = wordpiece_tokenizer()
    with pytest.raises(TypeError, match="got GPT2LMHeadModel: use TextGenerationExplainer"):
        TextClassificationExplainer(causal("gpt2"), tokenizer)
    with pytest.raises(TypeError, match="got BertForSequence.*: use TextClassificationExplainer"):
        TextGenerationExplainer(bert(), tokenizer)
    with pytest.raises(TypeError, match="got BertModel: it has no head for the task"):
        TextClassificationExplainer(BertModel(CONFIG), tokenizer)


@pytest.mark.parametrize("texts", ["good movie", ["good movie", "good bad"]])
def test_a_model_that_returns_something_else_is_told_what_serves(texts):
    explainer = TextClassificationExplainer(Tagger(CONFIG).eval(), wordpiece_tokenizer())
    with pytest.raises(TypeError, match=rf"Tagger returns logits of shape \(\d, 4, 2\); .*{OWN}"):
        explainer(texts)


@pytest.mark.parametrize("tokenizer", [None, "bert-base-uncased", bert()])
def test_what_is_not_a_tokenizer(tokenizer):
    with pytest.raises(TypeError, match=f"tokenizer is {type(tokenizer).__name__}; wanted"):
        TextClassificationExplainer(bert(), tokenizer)

"""`CorpusExplainer`: columns in, columns out, whatever the texts are."""

import math
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers.normalizers import Replace
from transformers import GPT2Config, GPT2ForSequenceClassification

from captum_sig import TextClassificationExplainer
from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus.rows import from_row, to_row
from captum_sig.demo_model import PATH
from tests.tiny_models import byte_level_tokenizer

IN_CONTEXTS = ["standard_error", "first", "last", "agreement", "residual"]
TEXTS = ["A charming film.", "bad", "--", "The jokes are old, yet the film is charming.", "Dull!"]
POISON = "poison"  # a word that the model of `poisoned` cannot handle


@pytest.fixture(scope="module")
def explain():
    return CorpusExplainer(PATH)


@pytest.fixture
def poisoned():
    """An explainer whose model raises where the word "old" occurs, and gives NaN for "dull"."""
    explainer = TextClassificationExplainer.from_pretrained(PATH)
    raising, silent = explainer.tokenizer.convert_tokens_to_ids(["old", "dull"])
    embedding = explainer.model.get_input_embeddings()

    def look(module, args):
        if (args[0] == raising).any():
            raise IndexError("index out of range in self")

    def break_(module, args, output):
        return torch.where((args[0] == silent)[..., None], math.nan, output)

    embedding.register_forward_pre_hook(look)
    embedding.register_forward_hook(break_)
    return CorpusExplainer(explainer)


def without_errors(columns):
    """Rows as dicts, for comparison."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_a_row_has_the_fields_of_the_explainers_result(explain, demo):
    columns = explain({"text": TEXTS, "id": [1, 2, 3, 4, 5]})
    assert list(columns) == [
        "text", "id", "label", "probability", "target", "words", "offsets", "scores",
        "max_abs_word_delta", "dropped_tokens", "error",
    ]  # fmt: skip
    assert columns["id"] == [1, 2, 3, 4, 5]
    for number, result in enumerate(demo(TEXTS)):
        assert columns["label"][number] == columns["target"][number] == result.label
        assert columns["probability"][number] == result.probability
        assert columns["words"][number] == [word.word for word in result.words]
        assert columns["offsets"][number] == [[word.start, word.end] for word in result.words]
        assert columns["scores"][number] == result.scores
        assert columns["max_abs_word_delta"][number] == result.max_abs_word_delta
    assert columns["error"] == [""] * 5
    assert columns["dropped_tokens"] == [0] * 5


def test_a_batch_gives_what_its_texts_give_alone(explain):
    together = explain.columns(TEXTS)
    for number, text in enumerate(TEXTS):
        alone = explain.columns([text])
        assert alone["words"][0] == together["words"][number]
        assert alone["scores"][0] == pytest.approx(together["scores"][number], abs=1e-5)


def test_more_texts_than_are_sorted_at_once(explain):
    finished = []
    columns = explain.columns(TEXTS, lambda *counts: finished.append(counts), sort_window=2)
    assert columns["words"] == explain.columns(TEXTS)["words"]
    n_texts, work = map(sum, zip(*finished, strict=True))
    assert (n_texts, work) == (len(TEXTS), sum(map(explain.work, TEXTS)))


def test_the_work_of_a_text_is_about_its_row_tokens(explain):
    text = "The jokes are old, yet the film is charming. " * 3
    encoded = explain.explainer.tokenizer(text)
    row_tokens = len(encoded["input_ids"]) * (1 + len(set(encoded.word_ids()) - {None}))
    assert explain.work(text) == pytest.approx(row_tokens, rel=0.3)
    assert explain.work("word " * 100_000) == 128**2  # as long as the model reads
    assert [explain.work(value) for value in (None, 7, "")] == [0, 0, 4]
    many = CorpusExplainer(PATH, contexts="sampled4", baseline="uniform", n_draws=3)
    assert many.work(text) == 12 * explain.work(text)
    assert CorpusExplainer(PATH, contexts="two_sided").work(text) == 2 * explain.work(text)
    auto = CorpusExplainer(PATH, method="sig:auto")
    assert 4 * explain.work(text) < auto.work(text) < 16 * explain.work(text)
    assert CorpusExplainer(PATH, method="ig", n_steps=10).work("") == 2 * 10


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (None, "the text is null; wanted a string"),
        (math.nan, "the text is of type float"),
        (7, "the text is of type int"),
        (b"bytes", "the text is of type bytes"),
        (["a"], "the text is of type list"),
        ("", "empty text"),
        (" \t\n\u3000", "empty text"),
        ("\ufeff\u200b", "empty text"),
        ("half \ud83d", "half a surrogate pair"),
    ],
    ids=repr,
)
def test_a_value_other_than_a_text_is_a_row_with_an_error(explain, bad, why):
    columns = explain({"text": ["Good.", bad, "Bad."]})
    assert why in columns["error"][1]
    assert (columns["label"][1], columns["words"][1], columns["scores"][1]) == (None, [], [])
    assert [columns["error"][0], columns["error"][2]] == ["", ""]
    assert columns["words"][2] == ["Bad", "."]


def test_texts_that_fail_in_the_model_do_not_take_others_with_them(poisoned, explain):
    texts = [*TEXTS, "old", "dull dull", "dull and old", "A film."] * 3
    found, sound = poisoned.columns(texts), explain.columns(texts)
    for number, text in enumerate(texts):
        if "old" in text:
            assert found["error"][number] == "IndexError: index out of range in self"
        elif "dull" in text.lower():
            assert "not finite" in found["error"][number]
        else:
            assert found["error"][number] == ""
            assert found["scores"][number] == pytest.approx(sound["scores"][number], abs=1e-5)


def test_a_model_that_fails_on_every_text_raises(poisoned):
    embedding = poisoned.explainer.model.get_input_embeddings()

    def broken(module, args):
        raise RuntimeError("device-side assert")

    embedding.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="first error: device-side assert"):
        poisoned.columns(["Good."])


def test_what_is_pickled_is_the_name(explain):
    pickled = pickle.dumps(explain)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert again.columns(TEXTS) == explain.columns(TEXTS)


def test_an_explainer_may_be_given(demo):
    columns = pickle.loads(pickle.dumps(CorpusExplainer(demo, target="NEGATIVE"))).columns(TEXTS)
    assert set(columns["target"]) == {"NEGATIVE"}
    with pytest.raises(ValueError, match="the explainer is made already: make it with baseline"):
        CorpusExplainer(demo, baseline="pad")


def test_columns_of_numpy_as_ray_gives_them(explain):
    columns = explain({"text": np.array(TEXTS, dtype=object), "id": np.arange(5)})
    assert columns["words"] == explain.columns(TEXTS)["words"]
    assert explain.columns(np.array(TEXTS))["words"] == columns["words"]


def test_a_column_of_the_batch_is_never_overwritten(explain):
    batch = {"text": ["Good."], "label": [1]}
    found = explain(batch)
    assert (found["label"], found["sig_label"]) == ([1], ["POSITIVE"])
    with pytest.raises(ValueError, match="columns sig_label already"):
        explain({**batch, "sig_label": [""]})


def test_anything_but_a_batch_raises(explain):
    with pytest.raises(ValueError, match="no column 'text': text_column must be one of 'sentence'"):
        explain({"sentence": ["Good."]})
    with pytest.raises(TypeError, match="dict of columns, got list"):
        explain(["Good."])
    for texts in ("Good.", None, iter(["Good."])):
        with pytest.raises(TypeError, match="column 'text' is of type"):
            explain({"text": texts})


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"method": "ig", "n_steps": 4, "baseline": "zero"}, []),
        ({"level": "token", "target": 0, "batch_size": 2, "internal_batch_size": 3}, []),
        ({"contexts": "input"}, []),
        ({"contexts": "two_sided"}, IN_CONTEXTS),
        ({"method": "sig:auto", "seed": 3}, IN_CONTEXTS),
        ({"method": "sig:sampled2", "seed": 3}, ["standard_error", "residual"]),
        ({"baseline": "uniform", "n_draws": 2}, ["std"]),
        ({"method": "random"}, []),
    ],
    ids=str,
)
def test_the_options_of_text_classification(options, more):
    call = {name: options[name] for name in options if name in CorpusExplainer(PATH).call_options}
    made = {name: options[name] for name in options if name not in call}
    results = TextClassificationExplainer.from_pretrained(PATH, **made)(TEXTS, **call)
    columns = CorpusExplainer(PATH, **options).columns(TEXTS)
    assert [name for name in columns if name in ("std", *IN_CONTEXTS)] == more
    for number, result in enumerate(results):
        assert columns["scores"][number] == pytest.approx(result.scores, abs=1e-5)
        assert columns["target"][number] == result.target
        if "std" in more:
            assert columns["std"][number] == [word.std for word in result.words]
        if "residual" in more:
            assert columns["residual"][number] == pytest.approx(result.residual, abs=1e-5)
        if "sampled2" in str(options) or "auto" in str(options):
            expected = [word.standard_error for word in result.words]
            assert columns["standard_error"][number] == pytest.approx(expected, abs=1e-5)
        for name in {"first", "last", "agreement"} & set(more):
            expected = [getattr(word, name) for word in result.words]
            if set(expected) == {None}:
                assert columns[name][number] is None
            else:
                assert columns[name][number] == pytest.approx(expected, abs=1e-5)


def test_rows_are_turned_back_into_results(demo):
    for contexts in ("two_sided", "sampled2", None):
        for result in demo(TEXTS, contexts=contexts):
            row = {"text": result.text, **to_row(result)}
            again = from_row(row, result.method, result.baseline)
            assert again == replace(result, probabilities={})


def test_random_contexts_add_no_columns_of_sides_that_few_texts_have():
    columns = CorpusExplainer(PATH, contexts="sampled2").columns([*TEXTS, "good", None])
    assert {"standard_error", "residual"} < set(columns)
    assert not {"first", "last", "agreement"} & set(columns)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "magic"}, "method 'magic' is unknown: use one of sig, ig"),
        ({"target": "NEUTRAL"}, "unknown label 'NEUTRAL'; choose from NEGATIVE"),
        ({"baseline": "magic"}, "baseline 'magic' is unknown: use one of mask, pad"),
        ({"contexts": "two_sided", "method": "ig"}, "has no contexts"),
        ({"contexts": "auto", "method": "sequential_dig"}, "integrates gradients: use sig:auto"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ],
    ids=str,
)
def test_mistakes_raise_before_there_is_a_text(options, why):
    with pytest.raises(ValueError, match=why):
        CorpusExplainer(PATH, **options)


def test_long_texts_are_cut_and_counted_or_refused_each(explain):
    long = "good " * 700
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns = explain.columns(["Good.", long])
    limit = explain.explainer.encoder.limit
    assert columns["dropped_tokens"] == [0, 702 - limit]
    assert len(columns["words"][1]) == limit - 2
    refused = CorpusExplainer(PATH, truncation=False).columns(["Good.", long, long])
    assert [error != "" for error in refused["error"]] == [False, True, True]
    assert "would be dropped" in refused["error"][1]


def test_a_warning_comes_once(demo):
    explain = CorpusExplainer(demo)
    demo.model.add_module("dropped", torch.nn.Dropout(0.5).train())
    try:
        with pytest.warns(UserWarning, match="dropout") as caught:
            explain.columns(["Good."] * 3, sort_window=1)
        assert len(caught) == 1
    finally:
        del demo.model.dropped


def test_datasets_maps_with_it(explain):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    data = datasets.Dataset.from_dict(
        {"text": [*TEXTS, None], "label": [1, 0, 0, 1, 0, 0]}, features
    )
    found = data.map(explain, batched=True, batch_size=3)
    assert found["label"] == data["label"]
    assert found["sig_label"][:2] == ["POSITIVE", "NEGATIVE"]
    assert found["words"][0] == ["A", "charming", "film", "."]
    assert [error != "" for error in found["error"]] == [False] * 5 + [True]


FORKS = """
import datasets
import torch

from captum_sig.corpus import CorpusExplainer
from captum_sig.demo_model import PATH

if __name__ == "__main__":
    torch.set_num_threads(2)
    explain = CorpusExplainer(PATH)
    explain.columns(["OpenMP has threads now."] * 5)
    data = datasets.Dataset.from_dict({"text": ["A good film."] * 20})
    found = data.map(explain, batched=True, batch_size=8, num_proc=2)
    assert found["words"] == [["A", "good", "film", "."]] * 20
"""


def test_datasets_maps_in_several_processes(tmp_path):
    """Forks have no OpenMP threads, and would wait for them for ever."""
    pytest.importorskip("datasets")
    program = tmp_path / "program.py"
    program.write_text(FORKS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_text_without_any_token_has_an_error():
    """GPT-2's kind of tokenizer adds no special tokens, and this one drops a word."""
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.normalizer = Replace("movie", "")
    tokenizer.pad_token = tokenizer.eos_token
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1,
                        pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    model = GPT2ForSequenceClassification(config).eval()
    explainer = TextClassificationExplainer(model, tokenizer, baseline="unk")
    columns = CorpusExplainer(explainer).columns(["good", "movie"])
    assert columns["error"][0] == ""
    assert columns["error"][1].startswith("the tokenizer returns no token for the text")

"""Strings in, `WordAttribution` out."""

import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from captum_sig import TextClassificationExplainer, WordAttribution
from captum_sig.demo_model import PATH
from captum_sig.words.encoding import MAX_PADDING, NO_LIMIT, Encoder, token_limit
from captum_sig.words.inputs import TextInput
from tests.tiny_models import (
    MASK,
    SHAPE,
    TEXTS,
    SlowTokenizer,
    bert,
    byte_level_tokenizer,
    spread,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)


@pytest.fixture(scope="module")
def explainer():
    return TextClassificationExplainer(bert(), wordpiece_tokenizer())


def test_scores_are_logit_differences_by_hand(explainer):
    """Replace each word by MASKs in plain ids, and look at the logit."""
    tokenizer = wordpiece_tokenizer()
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")
        word_ids = ids.word_ids()
        with torch.no_grad():
            logits = explainer.model(**ids).logits[0]
            target = int(logits.argmax())
            found = explainer(text)
            expected = []
            for word in range(max(w for w in word_ids if w is not None) + 1):
                masked = ids["input_ids"].clone()
                masked[0, [p for p, w in enumerate(word_ids) if w == word]] = MASK
                changed = explainer.model(masked, attention_mask=ids["attention_mask"]).logits
                expected.append(float(logits[target] - changed[0, target]))
        assert found.scores == pytest.approx(expected, abs=1e-10)
        norm = sum(score**2 for score in expected) ** 0.5
        assert found.normalized_scores == pytest.approx([s / norm for s in expected], abs=1e-10)
        assert found.label == found.target == explainer.labels[target]
        assert list(found.probabilities.values()) == pytest.approx(logits.softmax(-1).tolist())
        assert found.probability == pytest.approx(float(logits.softmax(-1).max()))
        assert found.max_abs_word_delta < 1e-12


def test_a_list_in_any_order_equals_each_text_alone(explainer):
    together = explainer([*TEXTS, *TEXTS[::-1]], batch_size=3)
    for found, text in zip(together, [*TEXTS, *TEXTS[::-1]], strict=True):
        alone = explainer(text)
        assert found.text == text
        assert found.scores == pytest.approx(alone.scores, abs=1e-10)
        assert [w.word for w in found.words] == [w.word for w in alone.words]
        for word in found.words:
            assert text[word.start : word.end] == word.word


def test_levels(explainer):
    tokens = TextClassificationExplainer(explainer.model, wordpiece_tokenizer(), level="token")
    words = explainer("movies")
    assert [w.word for w in words.words] == ["movies"]
    assert [w.word for w in tokens("movies").words] == ["movie", "s"]


@pytest.mark.parametrize("target", ["positive", "POSITIVE", 1, "1"])
def test_targets(explainer, target):
    found = explainer("bad movie", target=target)
    assert found.target == "POSITIVE"
    assert found.scores == explainer("bad movie", target=1).scores
    assert found.scores != explainer("bad movie", target="neutral").scores


def test_ig_is_captums(explainer):
    from captum.attr import LayerIntegratedGradients

    text = "a gorgeous movies"
    found = explainer(text, target=1, method="ig", n_steps=20)
    ids = wordpiece_tokenizer()(text, return_tensors="pt")["input_ids"]
    base = torch.where(ids < 5, ids, MASK)
    captums = LayerIntegratedGradients(
        lambda ids: explainer.model(ids).logits, explainer.model.get_input_embeddings()
    )
    tokens = captums.attribute(ids, base, target=1, n_steps=20).sum(-1)[0]
    expected = [tokens[1], tokens[2], tokens[3] + tokens[4]]
    assert found.scores == pytest.approx([float(t) for t in expected], abs=1e-6)
    assert found.max_abs_word_delta is None
    assert found.method == "ig"


@pytest.mark.parametrize("text", ["", "   ", "[SEP] [MASK]"])
@pytest.mark.parametrize("method", ["sig", "ig"])
def test_nothing_to_attribute(explainer, text, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explainer(text, method=method)
        mixed = explainer([text, "bad movie", ""], method=method)
    assert found.words == ()
    assert found.label in explainer.labels
    assert [len(result.words) for result in mixed] == [0, 2, 0]
    assert explainer([]) == []


def test_little_padding():
    explainer = TextClassificationExplainer(bert(), wordpiece_tokenizer())
    texts = ["bad " * count for count in (30, 1, 8, 9, 10, 2, 31, 20, 30)]
    batches = list(
        explainer.encoder.batches(
            list(map(TextInput, texts)), 3, truncation=True, device=torch.device("cpu")
        )
    )
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(9))
    assert max(len(batch.texts) for batch in batches) == 3
    for batch in batches:
        assert batch.others["attention_mask"].sum(1).min() * MAX_PADDING >= batch.ids.shape[1]


def gpt2(pad: int | None) -> nn.Module:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=40,
                        pad_token_id=pad, bos_token_id=0, eos_token_id=0)  # fmt: skip
    return spread(GPT2ForSequenceClassification(config))


class TestDecoders:
    """Tokenizers without mask or pad token, models that pool at the last token."""

    def test_without_pad_token_only_equal_lengths_share_a_batch(self):
        with pytest.warns(UserWarning, match="no mask token: its unk token"):
            explainer = TextClassificationExplainer(gpt2(0), byte_level_tokenizer())
        found = explainer(["good movie", " good movie", "the movies", ""])
        assert [len(result.words) for result in found] == [2, 2, 2, 0]
        assert found[0].baseline == "unk"
        assert found[3].label is None
        assert found[3].probability is None
        assert WordAttribution.from_dict(found[3].to_dict()) == found[3]
        alone = explainer("the movies")
        assert found[2].scores == pytest.approx(alone.scores, abs=1e-10)

    def test_padded_batch(self):
        tokenizer = unsplit_tokenizer()
        explainer = TextClassificationExplainer(gpt2(2), tokenizer, baseline="unk")
        texts = ["the good good good movies", "good good good movies"]
        (batch,) = explainer.encoder.batches(
            list(map(TextInput, texts)), 2, truncation=True, device=torch.device("cpu")
        )
        assert (batch.others["attention_mask"] == 0).any()
        for found, text in zip(explainer(texts), texts, strict=True):
            assert found.scores == pytest.approx(explainer(text).scores, abs=1e-10)


def test_slow_tokenizer():
    explainer = TextClassificationExplainer(bert(), SlowTokenizer())
    found = explainer(["the unbelievable movie", "bad"])
    assert [w.word for w in found[0].words] == ["the", "unbelievable", "movie"]
    assert found[1].scores == pytest.approx(explainer("bad").scores, abs=1e-10)


class TestAwkwardModels:
    """What a model or tokenizer may be like without being wrong."""

    def test_left_padding_changes_nothing(self):
        tokenizer = wordpiece_tokenizer()
        tokenizer.padding_side = "left"
        explainer = TextClassificationExplainer(bert(), tokenizer)
        for found, text in zip(explainer(TEXTS), TEXTS, strict=True):
            assert found.scores == pytest.approx(explainer(text).scores, abs=1e-10)

    def test_without_a_pad_id_in_the_config_rows_go_one_by_one(self):
        explainer = TextClassificationExplainer(gpt2(None), unsplit_tokenizer(), baseline="unk")
        with pytest.warns(
            UserWarning, match="has no pad_token_id, so rows are evaluated one by one"
        ):
            found = explainer(["the good movies", "good"])
        assert [len(result.words) for result in found] == [3, 1]
        padded = TextClassificationExplainer(gpt2(2), unsplit_tokenizer(), baseline="unk")
        assert found[0].scores == pytest.approx(padded("the good movies").scores, abs=1e-10)

    def test_a_compiled_model_is_explained_through_the_original(self, explainer):
        compiled = torch.compile(explainer.model, backend="eager")
        found = TextClassificationExplainer(compiled, wordpiece_tokenizer())("bad movie")
        assert found.scores == explainer("bad movie").scores

    def test_a_model_after_its_own_compile_is_explained_by_a_copy(self, explainer):
        model = bert()
        expected = TextClassificationExplainer(model, wordpiece_tokenizer())("bad movie")
        model.compile(backend="eager")
        for layer in (None, model.get_input_embeddings()):
            explain = TextClassificationExplainer(model, wordpiece_tokenizer(), layer=layer)
            assert explain("bad movie").scores == expected.scores
            assert explain.layer.weight is model.get_input_embeddings().weight

    def test_no_limit_may_be_a_negative_number(self):
        config = XLNetConfig(vocab_size=64, d_model=32, n_layer=1, n_head=4, d_inner=48)
        assert token_limit(XLNetForSequenceClassification(config)) == NO_LIMIT

    def test_longformer_pads_to_its_window(self):
        config = LongformerConfig(**SHAPE, attention_window=[8, 8], pad_token_id=0)
        explainer = TextClassificationExplainer(
            spread(LongformerForSequenceClassification(config)), wordpiece_tokenizer()
        )
        found = explainer(TEXTS)
        assert [len(result.words) for result in found] == [4, 1, 9, 2]
        assert found[1].scores == pytest.approx(explainer(TEXTS[1]).scores, abs=1e-6)

    def test_padding_may_have_the_id_of_unknown_words(self):
        tokenizer = wordpiece_tokenizer()
        tokenizer.pad_token = "[UNK]"
        explainer = TextClassificationExplainer(bert(), tokenizer)
        found = explainer(["the zzz good", "good"])
        assert [[w.word for w in r.words] for r in found] == [["the", "zzz", "good"], ["good"]]
        assert found[1].scores == pytest.approx(explainer("good").scores, abs=1e-10)

    def test_an_int_is_an_index_even_where_labels_look_like_numbers(self):
        model = bert()
        model.config.id2label = {0: "1", 1: "2", 2: "3"}
        explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
        assert [explainer("bad", target=t).target for t in (0, 1, "1", "3")] == ["1", "2", "1", "3"]

    def test_equal_label_names_are_told_apart(self):
        model = bert()
        model.config.id2label = {0: "x", 1: "x", 2: "y"}
        found = TextClassificationExplainer(model, wordpiece_tokenizer())("bad")
        assert list(found.probabilities) == ["x (0)", "x (1)", "y (2)"]
        assert sum(found.probabilities.values()) == pytest.approx(1)

    @pytest.mark.parametrize("changes", [{"num_labels": 1}, {"problem_type": "regression"}])
    def test_regression_has_no_probabilities(self, changes):
        model = spread(BertForSequenceClassification(BertConfig(**SHAPE, **changes)))
        found = TextClassificationExplainer(model, wordpiece_tokenizer())("bad movie")
        assert found.probability is None
        assert found.probabilities == {}
        assert len(found.words) == 2

    @pytest.mark.skipif(
        version("tokenizers") < "0.23", reason="threads cannot share tokenizers before 0.23"
    )
    def test_threads_share_an_explainer(self, explainer):
        expected = [explainer(text).scores for text in TEXTS]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            with ThreadPoolExecutor(3) as pool:
                found = list(pool.map(explainer, TEXTS * 10))
        finally:
            sys.setswitchinterval(interval)
        for result, scores in zip(found, expected * 10, strict=True):
            assert result.scores == pytest.approx(scores, abs=1e-10)

    @pytest.mark.parametrize("level", ["word", "token"])
    def test_explainers_can_be_pickled(self, level):
        explainer = TextClassificationExplainer(bert(), wordpiece_tokenizer(), level=level)
        assert pickle.loads(pickle.dumps(explainer))("bad").scores == explainer("bad").scores


class TestLimits:
    """Texts beyond what the model reads."""

    LONG = " ".join(["movie"] * 50)

    def test_truncated_with_one_warning_that_says_how_much(self, explainer):
        message = "1 of 2 texts exceed the model's context of 40 tokens: 12 tokens"
        with pytest.warns(UserWarning, match=message) as caught:
            found = explainer([self.LONG, "bad"])
        assert len(caught) == 1
        assert len(found[0].words) == 38

    def test_refused(self, explainer):
        with pytest.raises(ValueError, match="12 tokens .* would be dropped; shorten"):
            explainer(self.LONG, truncation=False)

    def test_robertas_positions_start_behind_the_padding(self):
        config = RobertaConfig(**{**SHAPE, "max_position_embeddings": 34}, pad_token_id=1)
        model = spread(RobertaForSequenceClassification(config))
        explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
        with pytest.warns(UserWarning, match="the model's context of 32 tokens"):
            assert len(explainer(self.LONG).words) == 30


def test_half_precision():
    explainer = TextClassificationExplainer(bert().bfloat16(), wordpiece_tokenizer())
    found = explainer(TEXTS[0], target=0)
    expected = TextClassificationExplainer(bert(), wordpiece_tokenizer())(TEXTS[0], target=0)
    worst = max(abs(s - e) for s, e in zip(found.scores, expected.scores, strict=True))
    assert 0 < worst < 0.1 * max(map(abs, expected.scores))


@pytest.mark.parametrize("method", ["sig", "ig"])
def test_train_mode_is_warned_of_once_for_all_batches(method):
    explainer = TextClassificationExplainer(bert().train(), wordpiece_tokenizer())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = explainer(TEXTS, method=method, batch_size=1, n_steps=2)
    assert [str(w.message)[:25] for w in caught] == ["the model is in train mod"]
    assert caught[0].filename == __file__
    assert explainer.model.training
    assert len(found) == len(TEXTS)


def test_multi_label_probabilities_are_sigmoids():
    explainer = TextClassificationExplainer(
        bert(problem_type="multi_label_classification"), wordpiece_tokenizer()
    )
    assert sum(explainer("bad").probabilities.values()) != pytest.approx(1)


def test_model_and_tokenizer_are_left_as_they_were(explainer):
    state = {name: value.clone() for name, value in explainer.model.state_dict().items()}
    explainer(TEXTS)
    assert all(torch.equal(state[n], v) for n, v in explainer.model.state_dict().items())
    assert not explainer.layer._forward_hooks
    assert not explainer.model.training


class TestErrors:
    """Got, wanted, do this."""

    def test_unknown_label(self, explainer):
        with pytest.raises(
            ValueError, match=r"'happy'; choose from NEGATIVE \(0\), POSITIVE \(1\), neutral"
        ):
            explainer("bad", target="happy")

    @pytest.mark.parametrize("target", [3, -1, "7"])
    def test_index_out_of_range(self, explainer, target):
        with pytest.raises(ValueError, match="unknown label"):
            explainer("bad", target=target)

    def test_unknown_method(self, explainer):
        with pytest.raises(ValueError, match="'lime' is unknown: use one of sig, ig"):
            explainer("bad", method="lime")

    @pytest.mark.parametrize("texts", [[1], [None], [["a"]]])
    def test_no_string(self, explainer, texts):
        with pytest.raises(TypeError, match="text 0 is .*; wanted a string"):
            explainer(texts)

    @pytest.mark.parametrize(
        "texts",
        [
            {"text": "good", "text_pair": "bad"},
            wordpiece_tokenizer()("good"),
            {"good", "bad"},
            b"good",
            None,
            7,
            (text for text in ["good", "bad"]),
            {"good": 1}.keys(),
            pd.DataFrame({"text": ["good"]}),
        ],
    )
    def test_what_does_not_list_texts(self, explainer, texts):
        advice = {
            pd.DataFrame: r"DataFrame: pass one of its columns, as table\[name\].tolist\(\)",
        }.get(type(texts), f"{type(texts).__name__}: pass a list for several texts")
        with pytest.raises(TypeError, match="must be a string or a list of strings, got " + advice):
            explainer(texts)

    @pytest.mark.parametrize("value", [0, 1.5, True, "2"])
    @pytest.mark.parametrize("method", ["sig", "ig"])
    def test_rows_in_a_pass(self, explainer, method, value):
        with pytest.raises(ValueError, match="internal_batch_size must be an integer of at least"):
            explainer("bad", method=method, internal_batch_size=value)

    @pytest.mark.parametrize("target", [1.0, [1.0, 0.0], np.array([1.0, 0.0]), True, [None, 1.5]])
    def test_target_that_is_no_label(self, explainer, target):
        with pytest.raises((TypeError, ValueError), match="label"):
            explainer(["bad", "good"], target=target)

    def test_text_that_is_no_unicode(self, explainer):
        with pytest.raises(ValueError, match="text 1 is not valid Unicode"):
            explainer(["good", "bad \ud83d film"])

    @pytest.mark.parametrize("method", ["sig", "ig", "random"])
    @pytest.mark.parametrize("n_steps", [0, 1.5, None])
    def test_steps(self, explainer, n_steps, method):
        with pytest.raises(ValueError, match="n_steps must be an integer from 1 to 2,000"):
            explainer("bad", method=method, n_steps=n_steps)

    def test_tokens_of_a_batch(self, explainer):
        texts = ["bad movie"] * 7 + ["bad bad movie is bad"]
        batches = explainer.encoder.batches(
            list(map(TextInput, texts)),
            99,
            truncation=True,
            device=torch.device("cpu"),
            max_tokens=13,
        )
        found = [tuple(batch.ids.shape) for batch in batches]
        assert found == [(3, 4), (3, 4), (1, 4), (1, 7)]  # one that is too long goes alone

    def test_batch_size(self, explainer):
        for wrong in (0, 1.5, "2", True):
            message = f"batch_size must be an integer of at least 1, got {wrong!r}"
            with pytest.raises(ValueError, match=message):
                explainer("bad", batch_size=wrong)
        for two in (np.int64(2), torch.tensor(2)):
            assert len(explainer(["bad"] * 3, batch_size=two)) == 3

    @pytest.mark.parametrize("truncation", ["no", None, 0])
    def test_truncation_is_a_boolean(self, explainer, truncation):
        with pytest.raises(ValueError, match=f"must be True or False, got {truncation!r}"):
            explainer("bad", truncation=truncation)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"baseline": "zeros"},
                r"'zeros' is unknown .did you mean 'zero'\?.: use one of mask, pad",
            ),
            ({"level": "sentense"}, "'sentense' is unknown .did you mean 'sentence'"),
        ],
    )
    def test_unknown_options(self, explainer, options, message):
        with pytest.raises(ValueError, match=message):
            TextClassificationExplainer(explainer.model, wordpiece_tokenizer(), **options)

    def test_no_word_embedding(self):
        class Bare(nn.Module):
            config = BertConfig(**SHAPE)

        with pytest.raises(ValueError, match="Bare does not name its word embedding: pass layer"):
            TextClassificationExplainer(Bare(), wordpiece_tokenizer())

    def test_checkpoint_without_a_head(self, tmp_path):
        BertForMaskedLM(BertConfig(**SHAPE)).save_pretrained(tmp_path)
        wordpiece_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="holds a BertForMaskedLM, .* use FillMaskExplainer"):
            TextClassificationExplainer.from_pretrained(tmp_path)

    def test_pickles_are_not_read(self, tmp_path):
        model = bert()
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        wordpiece_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(OSError, match="safetensors"):
            TextClassificationExplainer.from_pretrained(tmp_path)

    def test_output_that_is_not_finite(self):
        model = bert()
        with torch.no_grad():
            model.get_input_embeddings().weight[MASK] = torch.nan
        explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
        with pytest.raises(FloatingPointError, match=r"example 0, word 0 \(positions \[1\]\)"):
            explainer(["bad movie", "", "[SEP]"])

    @pytest.mark.parametrize("method", ["sig", "ig"])
    def test_the_callers_number_of_the_text_is_named(self, method):
        model = bert()
        with torch.no_grad():
            model.get_input_embeddings().weight[wordpiece_tokenizer().vocab["gorgeous"]] = torch.nan
        explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
        with pytest.raises(FloatingPointError, match="example 0"):
            explainer(["the gorgeous movie is not bad", "bad", "good movie"], method=method)


@pytest.mark.parametrize("kind", [np.array, pd.Series, lambda texts: pd.Series(texts, [7, 9])])
def test_texts_of_other_libraries(explainer, kind):
    assert explainer(kind(["bad movie", "good"])) == explainer(["bad movie", "good"])
    assert type(explainer(np.array(["good"]))[0].text) is str


@pytest.mark.parametrize(
    "target",
    [
        np.array([2, 0]),
        torch.tensor([2, 0]),
        pd.Series([2, 0]),
        pd.Series(["neutral", "NEGATIVE"]),
        pd.Categorical(["neutral", "NEGATIVE"]),
        [np.int64(2), torch.tensor(0)],
    ],
)
def test_targets_of_other_libraries(explainer, target):
    found = explainer(["bad movie", "good"], target, internal_batch_size=np.int64(3))
    assert [result.target for result in found] == ["neutral", "NEGATIVE"]


@pytest.mark.parametrize("target", [np.int64(2), torch.tensor(2), np.array(2), np.str_("neutral")])
def test_a_label_of_another_library(explainer, target):
    assert explainer("bad movie", target).target == "neutral"
    assert explainer.trace("bad movie", target).target == "neutral"


def test_from_pretrained_reads_a_saved_model(tmp_path, explainer):
    explainer.model.save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    loaded = TextClassificationExplainer.from_pretrained(tmp_path, level="token")
    assert [w.word for w in loaded("movies").words] == ["movie", "s"]
    assert loaded("bad movie").label == explainer("bad movie").label


def test_the_demo_model_reads_ordinary_english(demo):
    found = demo(["I loved it!", "The film is a dull, lifeless mess.", "It isn't good."])
    assert [result.label for result in found] == ["POSITIVE", "NEGATIVE", "NEGATIVE"]
    words = {word.word: word.score for word in found[2].words}
    assert max(words, key=words.__getitem__) == "n't"
    assert PATH.is_dir()


def test_a_model_without_tokenizer_files_is_refused(tmp_path):
    bert().float().save_pretrained(tmp_path)  # transformers would make up an empty tokenizer
    with pytest.raises(ValueError, match="has no tokenizer: save it beside the model"):
        TextClassificationExplainer.from_pretrained(tmp_path)


def test_words_are_whole_whatever_their_marks():
    """GPT-2's kind of tokenizer takes combining marks for no letters."""
    encoder = Encoder(byte_level_tokenizer(), "word", limit=128)
    text = "हिन्दी cafe\u0301s"
    (batch,) = encoder.batches([TextInput(text)], 1, truncation=False, device=torch.device("cpu"))
    assert [span.word for span in batch.spans[0]] == text.split()
    assert len(batch.feature_mask.unique()) == 2

"""Two texts in, their similarity out, word by word on both sides."""

import math
import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.results import WordAttribution
from captum_sig.explainers.similarity import SimilarityExplainer
from tests.tiny_models import (
    MASK,
    SlowTokenizer,
    bert,
    byte_level_tokenizer,
    spread,
    tiny,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)

QUERY = "The movie is not unbelievable, not good."
DOCUMENTS = ["a gorgeous mess!", "bad", "the movies is good", "bad movies"]
PAIRS = [(QUERY, "bad movies"), ("bad", "a gorgeous mess!"), ("good movies", "the movie is good")]


def encoder(name="bert"):
    return tiny(name).model.base_model


@pytest.fixture(scope="module")
def explainer():
    return SimilarityExplainer(encoder(), wordpiece_tokenizer())


def embedded(model, ids, pooling):
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0]
    return hidden.mean(0) if pooling == "mean" else hidden[0]


def compared(a, b, similarity):
    return float(a @ b / (a.norm() * b.norm() if similarity == "cosine" else 1))


def by_plain_loop(model, first, second, pooling="mean", similarity="cosine"):
    """F, and F less the same without each word of the first text, then of the second."""
    tokenizer = wordpiece_tokenizer()
    encodings = [tokenizer(text) for text in (first, second)]
    whole = [embedded(model, encoding["input_ids"], pooling) for encoding in encodings]
    value = compared(*whole, similarity)
    scores = []
    for encoding, other in zip(encodings, whole[::-1], strict=True):
        of_word = encoding.word_ids()
        for word in range(max(w for w in of_word if w is not None) + 1):
            ids = [
                MASK if w == word else token
                for token, w in zip(encoding["input_ids"], of_word, strict=True)
            ]
            scores.append(value - compared(embedded(model, ids, pooling), other, similarity))
    return value, scores


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v2"])
def test_scores_are_a_plain_loop_over_ids(name, pooling, similarity):
    model = encoder(name)
    explain = SimilarityExplainer(
        model, wordpiece_tokenizer(), pooling=pooling, similarity=similarity
    )
    for found, pair in zip(explain(PAIRS), PAIRS, strict=True):
        value, scores = by_plain_loop(model, *pair, pooling, similarity)
        assert found.value == pytest.approx(value, abs=1e-10)
        assert found.scores == pytest.approx(scores, abs=1e-10)
        assert found.max_abs_word_delta < 1e-10
    matrix = explain((QUERY, DOCUMENTS))
    for row, document in zip(matrix, DOCUMENTS, strict=True):
        value, scores = by_plain_loop(model, QUERY, document, pooling, similarity)
        assert row.value == pytest.approx(value, abs=1e-10)
        assert row.scores == pytest.approx(scores, abs=1e-10)


def test_what_the_result_of_a_pair_says(explainer):
    found = explainer(PAIRS[0])
    assert isinstance(found, WordAttribution)
    assert (found.text, found.text_pair) == PAIRS[0]
    assert (found.task, found.unit, found.target) == ("sentence-similarity", "cosine", PAIRS[0][1])
    assert (found.label, found.probability, found.probabilities) == (None, None, {})
    assert [word.side for word in found.words] == ["text"] * 9 + ["text_pair"] * 2
    for word in found.words:
        text = found.text if word.side == "text" else found.text_pair
        assert text[word.start : word.end] == word.word
    assert math.hypot(*found.normalized_scores) == pytest.approx(1)
    assert WordAttribution.from_dict(found.to_dict()) == found
    dot = SimilarityExplainer(explainer.model.encoder, wordpiece_tokenizer(), similarity="dot")
    assert dot(PAIRS[0]).unit == "dot product"


def test_documents_are_the_rows_of_a_matrix(explainer):
    found = explainer((QUERY, DOCUMENTS))
    assert isinstance(found, TargetsAttribution)
    assert found.rows == DOCUMENTS
    assert [target.text_pair for target in found.targets] == DOCUMENTS
    assert (found.text, found.text_pair, found.unit) == (QUERY, None, "cosine")
    sizes = [4, 1, 4, 2]
    assert found.matrix.shape == (4, 9 + sum(sizes))
    assert found.columns[:2] == ["The", "movie"]
    assert found.columns[9:14] == ["a", "gorgeous", "mess", "!", "bad"]
    for row, start in enumerate([9, 13, 14, 18]):
        own = [*range(9), *range(start, start + sizes[row])]
        is_known = ~found.matrix[row].isnan()
        assert is_known.nonzero()[:, 0].tolist() == own
    assert TargetsAttribution.from_dict(found.to_dict()) == found
    for document, of_document in zip(DOCUMENTS, found, strict=True):
        alone = explainer((QUERY, document))
        assert of_document.scores == pytest.approx(alone.scores, abs=1e-10)
        assert [word.word for word in of_document.words] == [word.word for word in alone.words]
        assert of_document.text_pair == of_document.target == document


def test_the_query_is_swept_once_for_all_documents(explainer, monkeypatch):
    rows = []
    forward = type(explainer.model).forward

    def counted(self, input_ids, **others):
        rows.append(len(input_ids))
        return forward(self, input_ids, **others)

    monkeypatch.setattr(type(explainer.model), "forward", counted)

    def n_rows(documents):
        rows.clear()
        explainer((QUERY, documents), internal_batch_size=1)
        return sum(rows)

    assert n_rows(["bad"] * 4) - n_rows(["bad"] * 2) < 9  # less than another sweep of the query


def test_lists_equal_singles(explainer):
    mixed = [PAIRS[0], (QUERY, DOCUMENTS), ("bad", ["good", "mess"]), *PAIRS[1:], ("bad", ["good"])]
    found = explainer(mixed, batch_size=3)
    for result, one in zip(found, mixed, strict=True):
        alone = explainer(one)
        assert type(result) is type(alone)
        if isinstance(alone, WordAttribution):
            assert result.scores == pytest.approx(alone.scores, abs=1e-10)
        else:
            assert result.rows == alone.rows
            torch.testing.assert_close(result.matrix, alone.matrix, equal_nan=True)
    assert explainer([]) == []
    numbers = [n for batch, _ in explainer.in_batches(mixed, batch_size=2) for n in batch.numbers]
    assert sorted(numbers) == list(range(len(mixed)))


def test_left_padding_and_no_pad_token():
    left = wordpiece_tokenizer()
    left.padding_side = "left"
    for pooling in ("mean", "cls"):
        one = SimilarityExplainer(encoder(), left, pooling=pooling)(PAIRS)
        other = SimilarityExplainer(encoder(), wordpiece_tokenizer(), pooling=pooling)(PAIRS)
        for found, expected in zip(one, other, strict=True):
            assert found.scores == pytest.approx(expected.scores, abs=1e-10)
    config = transformers.GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=40, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    gpt2 = spread(transformers.GPT2Model(config))
    explain = SimilarityExplainer(gpt2, byte_level_tokenizer(), baseline="zero")
    pairs = [("good movie", " good"), ("the movie", " good movie")]
    for found, pair in zip(explain(pairs), pairs, strict=True):
        assert found.scores == pytest.approx(explain(pair).scores, abs=1e-10)


@pytest.mark.parametrize("tokenizer", [unsplit_tokenizer, SlowTokenizer])
def test_other_tokenizers(tokenizer):
    explain = SimilarityExplainer(encoder(), tokenizer(), baseline="unk")
    found = explain(("the good movies", "good movies"))
    assert [word.word for word in found.words] == ["the", "good", "movies", "good", "movies"]
    assert [word.side for word in found.words] == ["text"] * 3 + ["text_pair"] * 2


class TestOtherMethods:
    """Everything else that scores words."""

    @pytest.mark.parametrize("pair", PAIRS[:2])
    def test_ig_is_complete_on_each_side(self, explainer, pair):
        found = explainer(pair, method="ig", n_steps=200)
        for side, text in (("text", pair[0]), ("text_pair", pair[1])):
            without = by_plain_loop_of_none(explainer.model.encoder, text, pair)
            total = sum(word.score for word in found.words if word.side == side)
            assert total == pytest.approx(found.value - without, abs=1e-6)

    @pytest.mark.parametrize(
        "method",
        ["dig", "input_x_gradient", "saliency", "gradient_shap", "deep_lift", "occlusion"],
    )
    def test_any_method_gives_pairs_and_documents_the_same(self, explainer, method):
        matrix = explainer((QUERY, DOCUMENTS[:2]), method=method)
        for row, document in zip(matrix, DOCUMENTS, strict=False):
            alone = explainer((QUERY, document), method=method)
            assert row.scores == pytest.approx(alone.scores, abs=1e-8)
            assert all(map(math.isfinite, row.scores))

    def test_two_sided_contexts(self, explainer):
        pair = ("bad movies", "good")
        found = explainer(pair, contexts="two_sided")
        _, last = by_plain_loop(explainer.model.encoder, *pair)
        assert [word.last for word in found.words] == pytest.approx(last, abs=1e-10)
        whole = [by_plain_loop_of_none(explainer.model.encoder, text, pair) for text in pair]
        differences = sum(found.value - without for without in whole)
        assert found.residual == pytest.approx(sum(found.scores) - differences, abs=1e-10)
        assert found.words[2].first == pytest.approx(found.words[2].last, abs=1e-10)  # on its own

    def test_interactions_are_within_a_side(self, explainer):
        found = explainer((QUERY, DOCUMENTS), interactions=2)
        for row, document in zip(found, DOCUMENTS, strict=True):
            alone = explainer((QUERY, document), interactions=2)
            assert [p.words for p in row.interactions] == [p.words for p in alone.interactions]
            assert len(row.interactions) == (1 if document == "bad" else 2)
            for pair in row.interactions:
                assert len({row.words[word].side for word in pair.words}) == 1

    def test_a_random_baseline(self):
        explain = SimilarityExplainer(
            encoder(), wordpiece_tokenizer(), baseline="uniform", n_draws=2
        )
        found = explain(PAIRS)
        assert found[0].words[0].std > 0
        assert found[1].scores == pytest.approx(explain(PAIRS[1]).scores, abs=1e-10)

    def test_top_is_refused(self, explainer):
        with pytest.raises(ValueError, match="a similarity has two: leave top out"):
            explainer(PAIRS[0], top=2)


def by_plain_loop_of_none(model, text, pair):
    """F where all words of one text of a pair are masked."""
    tokenizer = wordpiece_tokenizer()
    masked, other = tokenizer(text)["input_ids"], tokenizer(pair[1 - pair.index(text)])["input_ids"]
    masked = [masked[0], *[MASK] * (len(masked) - 2), masked[-1]]
    return compared(embedded(model, masked, "mean"), embedded(model, other, "mean"), "cosine")


def test_identical_texts_have_the_cosine_1(explainer):
    found = explainer(("bad movies", "bad movies"))
    assert found.value == pytest.approx(1)
    assert found.scores[:2] == pytest.approx(found.scores[2:], abs=1e-12)
    assert min(found.scores) >= 0


def test_long_texts_are_cut_with_one_warning(explainer):
    with pytest.warns(UserWarning, match="2 of 3 texts exceed") as caught:
        found = explainer(("bad " * 50, ["good " * 45, "good"]))
    assert len(caught) == 1
    assert found.dropped_tokens == 12 + 7
    with pytest.raises(ValueError, match="would be dropped"):
        explainer(("bad " * 50, "good"), truncation=False)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ("bad", TypeError, r"wanted a tuple \(first, second\), or .* got str"),
        (["bad", "good"], TypeError, "input 0 is str; wanted a tuple"),
        (("bad",), TypeError, "input 0 is tuple of 1; wanted a tuple"),
        (("a", "b", "c"), TypeError, "input 0 is tuple of 3"),
        (("bad", " "), ValueError, "the second text of input 0 is empty: pass two texts"),
        ([("bad", "good"), ("", "bad")], ValueError, "the first text of input 1 is empty"),
        (("bad", []), ValueError, "the query of input 0 has no documents: pass at least one"),
        (("bad", ["good", ""]), ValueError, "document 1 of input 0 is empty"),
        ((" ", ["good"]), ValueError, "the query of input 0 is empty"),
        (("bad", 3), TypeError, "the second text of input 0 is int; wanted a string"),
        (("bad", ["good", None]), TypeError, "document 1 of input 0 is NoneType"),
        (("bad", "\ud800"), ValueError, "not valid Unicode"),
    ],
)
def test_bad_inputs(explainer, inputs, error, message):
    with pytest.raises(error, match=message):
        explainer(inputs)


def test_a_target_and_unknown_names_are_refused(explainer):
    with pytest.raises(ValueError, match="a similarity has nothing to choose: leave target out"):
        explainer(PAIRS[0], "positive")
    with pytest.raises(ValueError, match="unknown method|method 'sik' is unknown"):
        explainer(PAIRS[0], method="sik")
    with pytest.raises(ValueError, match="similarity 'cosin' is unknown"):
        SimilarityExplainer(encoder(), wordpiece_tokenizer(), similarity="cosin")
    with pytest.raises(ValueError, match="pooling 'max' is unknown"):
        SimilarityExplainer(encoder(), wordpiece_tokenizer(), pooling="max")
    with pytest.raises(TypeError, match="use TextClassificationExplainer"):
        SimilarityExplainer(bert(), wordpiece_tokenizer())
    with pytest.raises(TypeError, match="tokenizer is NoneType"):
        SimilarityExplainer(encoder())


class Silent(nn.Module):
    """An encoder that has nothing to say."""

    def __init__(self, model, value):
        super().__init__()
        self.model, self.config, self.value = model, model.config, value

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def forward(self, input_ids, **others):
        output = self.model(input_ids, **others)
        output.last_hidden_state = output.last_hidden_state * self.value
        return output


def test_embeddings_that_cannot_be_compared():
    silent = SimilarityExplainer(Silent(encoder(), 0.0), wordpiece_tokenizer())
    with pytest.raises(ValueError, match="'bad' is zero, so that it has no cosine: use simil"):
        silent(("bad", "good movies"))
    dot = SimilarityExplainer(Silent(encoder(), 0.0), wordpiece_tokenizer(), similarity="dot")
    assert dot(("bad", "good movies")).scores == [0, 0, 0]
    broken = SimilarityExplainer(Silent(encoder(), math.nan), wordpiece_tokenizer())
    with pytest.raises(FloatingPointError, match="not finite for example 1, text 'mess'"):
        broken([("bad movie", "good movies"), ("good movie", "mess")])


def test_the_callers_number_is_named_where_a_word_fails():
    model = encoder()
    with torch.no_grad():
        model.get_input_embeddings().weight[MASK] = torch.nan
    explain = SimilarityExplainer(model, wordpiece_tokenizer())
    with pytest.raises(FloatingPointError, match="example [01]"):
        explain([("bad", "good"), ("good movie", "mess")])


def test_from_pretrained_reads_a_saved_encoder(tmp_path, explainer):
    explainer.model.encoder.save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    loaded = SimilarityExplainer.from_pretrained(tmp_path, pooling="mean")
    assert loaded(PAIRS[0]).value == pytest.approx(explainer(PAIRS[0]).value, abs=1e-6)
    with pytest.raises(ValueError, match="there is no folder"):
        SimilarityExplainer.from_pretrained(tmp_path / "missing")


def test_the_pooler_of_a_checkpoint_may_be_missing(tmp_path, explainer):
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        vocab_size=64,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    assert SimilarityExplainer.from_pretrained(tmp_path)(("bad", "good")).unit == "cosine"


def test_t5s_encoder():
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
    )
    model = spread(transformers.T5EncoderModel(config))
    found = SimilarityExplainer(model, wordpiece_tokenizer())(PAIRS[1])
    value, scores = by_plain_loop(model, *PAIRS[1])
    assert found.value == pytest.approx(value, abs=1e-10)
    assert found.scores == pytest.approx(scores, abs=1e-10)


def test_sentence_transformers_is_not_imported_for_an_encoder():
    code = (
        "import sys; from captum_sig.explainers.similarity import SimilarityExplainer;"
        "assert 'sentence_transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_encoder_alone_and_one_with_a_decoder(tmp_path):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=64, **sizes)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    loaded = SimilarityExplainer.from_pretrained(tmp_path)
    assert type(loaded.model.encoder).__name__ == "T5EncoderModel"
    assert abs(loaded(PAIRS[0]).value) <= 1
    bart = transformers.BartModel(
        transformers.BartConfig(
            vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, pad_token_id=0,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24,
            decoder_ffn_dim=24, max_position_embeddings=48, bos_token_id=2, eos_token_id=3,
            decoder_start_token_id=3, forced_eos_token_id=3,
        )
    )  # fmt: skip
    explainer = SimilarityExplainer(bart.eval(), wordpiece_tokenizer())
    first, second = (explainer.tokenizer(text, return_tensors="pt") for text in PAIRS[0])

    def embedded(encoding, ids):
        with torch.no_grad():
            return bart(**{**encoding, "input_ids": ids}).last_hidden_state.mean(1)

    whole, other = embedded(first, first["input_ids"]), embedded(second, second["input_ids"])
    without = first["input_ids"].clone()
    without[0, 1] = explainer.tokenizer.mask_token_id  # the first word, one token
    expected = torch.cosine_similarity(whole, other) - torch.cosine_similarity(
        embedded(first, without), other
    )
    assert explainer(PAIRS[0]).words[0].score == pytest.approx(float(expected), abs=1e-6)

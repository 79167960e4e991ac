"""Sentences, paragraphs, messages and the caller's spans move as one, in every explainer."""

import itertools
import re

import pytest
import torch

from captum_sig import (
    FillMaskExplainer,
    QuestionAnsweringExplainer,
    SimilarityExplainer,
    TextClassificationExplainer,
    TextGenerationExplainer,
    TokenClassificationExplainer,
    ZeroShotClassificationExplainer,
)
from tests.explainers.test_targets import ARCHITECTURES, classifier
from tests.plain_loop import assert_equal, plain_loop, word_positions
from tests.tiny_language_models import causal, chat_tokenizer, encoder_decoder
from tests.tiny_models import SlowTokenizer, byte_level_tokenizer, spread, wordpiece_tokenizer
from tests.tiny_pairs import TOKENIZERS, pair_model

TEXT = "the movie is not good. bad movies!\n\na gorgeous mess."
SENTENCES = ["the movie is not good.", "bad movies!", "a gorgeous mess."]
PARAGRAPHS = ["the movie is not good. bad movies!", "a gorgeous mess."]
UNITS = [(4, 16, "what"), (23, 34)]
PARTS = {
    "sentence": {"level": "sentence"},
    "paragraph": {"level": "paragraph"},
    "unit": {"units": UNITS},
}
WORDS = {"sentence": SENTENCES, "paragraph": PARAGRAPHS, "unit": ["movie is not", "bad movies!"]}


def without(model, text, parts):
    """All logits minus those without each part, by ids: (T, parts)."""
    tokenizer = wordpiece_tokenizer()
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids, effects = torch.tensor(encoding["input_ids"]), []
    with torch.no_grad():
        whole = model(ids[None]).logits[0]
        for part in parts:
            start = text.index(part)
            changed = ids.clone()
            for position, (first, last) in enumerate(encoding["offset_mapping"]):
                if start <= first < last <= start + len(part):
                    changed[position] = tokenizer.mask_token_id
            effects.append(whole - model(changed[None]).logits[0])
    return torch.stack(effects, 1)


@pytest.fixture(scope="module")
def of_bert():
    return TextClassificationExplainer(classifier(), wordpiece_tokenizer())


@pytest.mark.parametrize("level", PARTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_unit_is_a_plain_loop_over_ids(name, level):
    model = classifier(name)
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    result = explainer(TEXT, "all", **PARTS[level])
    assert_equal(result.matrix, without(model, TEXT, WORDS[level]), 1e-10)
    assert [word.word for word in result.words] == WORDS[level]
    assert [TEXT[word.start : word.end] for word in result.words] == WORDS[level]
    assert result.level == level
    if level == "unit":
        assert result.columns == ["what", "bad movies!"]
        assert [word.name for word in result[0].words] == ["what", None]
    else:
        in_class = TextClassificationExplainer(model, wordpiece_tokenizer(), level=level)
        assert in_class(TEXT, "all") == result
        assert in_class(TEXT, level="word") == explainer(TEXT)


def test_a_batch_is_each_text_alone(of_bert):
    texts = [TEXT, "bad. good.", "good"]
    units = [UNITS, None, [(0, 4, "all")]]
    for level in ("sentence", "word"):
        found = of_bert(texts, level=level, units=units, batch_size=3)
        for text, own, result in zip(texts, units, found, strict=True):
            alone = of_bert(text, level=level, units=own)
            assert result.scores == pytest.approx(alone.scores, abs=1e-10)
            assert [w.label for w in result.words] == [w.label for w in alone.words]
            assert result.level == alone.level == (level if own is None else "unit")


@pytest.mark.parametrize("method", ["ig", "sig:two_sided", "occlusion", "shapley", "sig:auto"])
def test_methods_take_units(of_bert, method):
    result = of_bert(TEXT, method=method, level="sentence", n_steps=200)
    assert [word.word for word in result.words] == SENTENCES
    if method == "ig":  # a unit's score is the sum of its words'
        scores = of_bert(TEXT, method="ig", n_steps=200).scores
        sums = [sum(scores[:6]), sum(scores[6:9]), sum(scores[9:])]
        assert result.scores == pytest.approx(sums, abs=1e-10)
    if method == "sig:two_sided":
        last = of_bert(TEXT, level="sentence").scores
        assert [word.last for word in result.words] == pytest.approx(last, abs=1e-10)


def test_interactions_of_units(of_bert):
    result = of_bert(TEXT, level="sentence", interactions=3, target=0)
    one, other, *_ = SENTENCES
    both = f"{one} {other}"
    alone = without(of_bert.model, TEXT, [one, other, both])[0].tolist()
    pair = next(pair for pair in result.interactions if pair.words == (0, 1))
    assert pair.value == pytest.approx(alone[0] + alone[1] - alone[2], abs=1e-10)


def test_units_of_a_pair(of_bert):
    tokenizer = TOKENIZERS["bert"]()
    tokenizer.model_max_length = 80
    model = pair_model("bert", "ForSequenceClassification", max_position_embeddings=80)
    explainer = TextClassificationExplainer(model, tokenizer)
    pair = ("bad. good movie.", "the movie. a mess!")
    result = explainer(pair, "all", level="sentence")
    assert [(word.word, word.side) for word in result.words] == [
        ("bad.", "text"), ("good movie.", "text"), ("the movie.", "text_pair"),
        ("a mess!", "text_pair"),
    ]  # fmt: skip
    masked = ("bad. [MASK] [MASK] [MASK]", pair[1]), (pair[0], "the movie. [MASK] [MASK] [MASK]")
    whole = explainer.model(**tokenizer(*pair, return_tensors="pt")).logits[0]
    for column, changed in zip((1, 3), masked, strict=True):
        logits = explainer.model(**tokenizer(*changed, return_tensors="pt")).logits[0]
        assert_equal(result.matrix[:, column], (whole - logits).detach(), 1e-10)
    named = explainer(pair, "all", units=([(5, 16, "second")], [(11, 18)]))
    assert_equal(named.matrix, result.matrix[:, [1, 3]], 1e-12)
    assert named.columns == ["second", "a mess!"]
    one_side = explainer(pair, "all", units=(None, [(11, 18)]))
    assert_equal(one_side.matrix, result.matrix[:, [3]], 1e-12)


def masked_tasks():
    """Explainers with an input, its keywords, and the same input without its second sentence."""

    def parts(head, **changes):
        tokenizer = TOKENIZERS["bert"]()
        tokenizer.model_max_length = 80
        return pair_model("bert", head, max_position_embeddings=80, **changes), tokenizer

    text, masked = "the movie is. bad mess!", "the movie is. [MASK] [MASK] [MASK]"
    nli = {"id2label": {0: "contradiction", 1: "entailment"}}
    yield (ZeroShotClassificationExplainer(*parts("ForSequenceClassification", **nli)),
           (text, ["sport", "music"]), (masked, ["sport", "music"]))  # fmt: skip
    yield (QuestionAnsweringExplainer(*parts("ForQuestionAnswering")),
           (("who", text), (4, 9)), (("who", masked), (4, 9)))  # fmt: skip
    yield (TokenClassificationExplainer(*parts("ForTokenClassification")),
           (text, [(4, 9, "LABEL_0")]), (masked, [(4, 9, "LABEL_0")]))  # fmt: skip
    yield (SimilarityExplainer(*parts("Model")), ((text, "good"),), ((masked, "good"),))
    yield (FillMaskExplainer(*parts("ForMaskedLM")),
           ("the [MASK] is. bad mess!", ["good"]),
           ("the [MASK] is. [MASK] [MASK] [MASK]", [["good"]] * 4))  # fmt: skip


@pytest.mark.parametrize("number", range(5))
def test_a_sentence_of_every_task(number):
    explainer, given, masked = next(itertools.islice(masked_tasks(), number, None))
    result = explainer(*given, level="sentence")
    changed = explainer(*masked)
    of_sentence = [n for n, word in enumerate(result.words) if word.word == "bad mess!"]
    if isinstance(explainer, SimilarityExplainer):
        assert [word.word for word in result.words] == ["the movie is.", "bad mess!", "good"]
        value = result.value - changed.value
        assert result.scores[1] == pytest.approx(value, abs=1e-10)
        return
    for row, target in enumerate(result.targets):
        (column,) = of_sentence
        value = target.value - changed.targets[row].value
        assert float(result.matrix[row, column]) == pytest.approx(value, abs=1e-10)
    assert result.level == "sentence"


def test_units_of_a_similarity():
    explainer = next(e for e, *_ in masked_tasks() if isinstance(e, SimilarityExplainer))
    ranking = ("bad. mess.", ["good. movie", "a movie"])
    result = explainer(ranking, units=([(0, 4, "q")], [[(6, 11)], None]))
    assert result.columns == ["q", "movie", "a", "movie"]
    pair = explainer(("bad. mess.", "good. movie"), units=([(0, 4, "q")], [(6, 11)]))
    assert pair.scores == pytest.approx(result.matrix[0, :2].tolist(), abs=1e-10)
    with pytest.raises(TypeError, match=r"units of input 0 must be a tuple, \(units of the query"):
        explainer(ranking, units=[(0, 4)])
    with pytest.raises(TypeError, match=r"units of the first text, units of the second\), got"):
        explainer(("bad", "good"), units=[(0, 3)])


def positions_of(tokenizer, text, spans, plain=False):
    """The tokens that begin in each span, by the characters they show."""
    single = word_positions(tokenizer, text, "token", within=[(0, len(text))] if plain else None)
    offsets = tokenizer(text, add_special_tokens=not plain, return_offsets_mapping=True)
    found = [[] for _ in spans]
    for (position,) in single:
        start, end = offsets["offset_mapping"][position]
        start += len(text[start:end]) - len(text[start:end].lstrip())
        for number, (first, last) in enumerate(spans):
            if first <= start < last:
                found[number].append(position)
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_units_of_a_prompt(name, use_cache):
    text = "the movie. bad mess is good. so"
    explain = TextGenerationExplainer(causal(name), byte_level_tokenizer(), baseline="eos")
    spans = [(0, 10), (11, 28), (29, 31)]
    words = positions_of(explain.tokenizer, text, spans)
    result = explain(text, " good", level="sentence", use_cache=use_cache)
    assert result.columns == ["the movie.", "bad mess is good.", "so"]
    assert_equal(result.matrix, plain_loop(explain, result, words), 1e-5)
    units = [(11, 28, "passage")]
    named = explain(text, " good", units=units, use_cache=use_cache, attribute_target=True)
    assert named.columns[0] == "passage"
    assert named.level == "unit"
    assert_equal(named.matrix[:, 0], result.matrix[:, 1], 1e-5)
    both = explain([text, text], " good", units=[units, None])
    assert [one.level for one in both] == ["unit", "word"]


def test_messages_of_a_chat():
    explain = TextGenerationExplainer(
        spread(causal("gpt2")), chat_tokenizer(), baseline="eos"
    )  # fmt: skip
    chat = [{"role": "user", "content": "bad. good?"}, {"role": "assistant", "content": "the mess"},
            {"role": "user", "content": "movie"}]  # fmt: skip
    result = explain(chat, " good", level="message")
    assert result.columns == ["user 1", "assistant", "user 2"]
    assert [word.word for word in result.words] == ["bad. good?", "the mess", "movie"]
    spans = [(word.start, word.end) for word in result.words]
    words = positions_of(explain.tokenizer, result.prompt, spans, plain=True)
    assert_equal(result.matrix, plain_loop(explain, result, words, plain=True), 1e-10)
    sentences = explain(chat, " good", level="sentence")
    assert sentences.columns == ["bad.", "good?", "the mess", "movie"]


def test_an_encoder_and_a_decoder_take_units():
    explain = TextGenerationExplainer(encoder_decoder("T5"), wordpiece_tokenizer(), baseline="pad")
    result = explain("the movie. bad mess!", "good", level="sentence")
    assert result.columns == ["the movie.", "bad mess!"]
    both = explain("the movie. bad mess!", "good", units=[(0, 20)])
    assert both.columns == ["the movie. bad mess!"]


def test_units_beyond_the_limit_are_left_out(of_bert):
    text = " ".join(["bad movies."] * 20)
    with pytest.warns(UserWarning, match="exceed"):
        result = of_bert(text, level="sentence")
    assert [word.word for word in result.words] == ["bad movies."] * (len(result.words))
    assert 2 < len(result.words) < 20
    with pytest.warns(UserWarning, match="exceed"):
        named = of_bert(text, units=[(0, 11, "first"), (len(text) - 11, len(text), "last")])
    assert [word.name for word in named.words] == ["first"]


def test_trace_and_sentences_take_levels():
    explainer = TextClassificationExplainer(classifier(), wordpiece_tokenizer(), level="sentence")
    (sentence,) = explainer.sentences([TEXT], [0])
    assert sentence.n_units == 3
    assert explainer.trace(TEXT, 0, n_steps=3).target == "label 0"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"level": "sentense"}, ValueError, re.escape("level 'sentense' is unknown (did you mean")),
        ({"level": "message"}, ValueError, "level 'message' is for chats: pass messages with role"),
        ({"units": [(0, 99)]}, ValueError, r"unit \(0, 99\) of text 0 is not in the text"),
        ({"units": [(5, 6)]}, ValueError, r"no word of text 0 begins in unit \(5 to 6\): let uni"),
    ],
)
def test_bad_units_are_one_sentence(of_bert, options, error, message):
    with pytest.raises(error, match=message):
        of_bert(TEXT, **options)


def test_units_of_several_texts_are_a_list(of_bert):
    with pytest.raises(TypeError, match="units must be a list with the units of each text"):
        of_bert([TEXT, TEXT], units=5)
    with pytest.raises(ValueError, match="units has 1 entries; wanted 2, a list of units"):
        of_bert([TEXT, TEXT], units=[UNITS])


def test_a_slow_tokenizer_has_no_units():
    explainer = TextClassificationExplainer(classifier(), SlowTokenizer())
    with pytest.raises(ValueError, match="a slow tokenizer keeps no offsets, so it is not known"):
        explainer("bad movies", level="sentence")

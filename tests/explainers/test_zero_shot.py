"""Which words of a text make a model of entailment choose a label."""

import pytest
import torch
import transformers

from captum_sig.baselines import BASELINES
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.methods import METHODS
from captum_sig.explainers.zero_shot import Candidates, ZeroShotClassificationExplainer
from captum_sig.words.inputs import TextInput
from tests.tiny_pairs import (
    KINDS,
    TOKENIZERS,
    SlowPairTokenizer,
    bart,
    pair_model,
    plain_loop,
    word_tokens,
)

LABELS = ["sport", "a bad movie", "music"]
TEMPLATE = "This example is {}."
TEXTS = ["a movie", "the gorgeous movie is not good", "bad", "who made it?"]


def nli(kind, names=("contradiction", "neutral", "entailment"), **changes):
    return pair_model(
        kind, "ForSequenceClassification", id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)}, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


def make(kind, **options):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.model_max_length = 80
    return ZeroShotClassificationExplainer(
        nli(kind, max_position_embeddings=82), tokenizer, **options
    )


@pytest.fixture(scope="module")
def explainer(kind):
    return make(kind)


@pytest.fixture(scope="module")
def bert():
    return make("bert")


def expected(explainer, kind, text, label, sides=("text",), kept=True):
    """The row of a label, by a plain loop over the words of these sides."""
    pair = text, TEMPLATE.format(label)
    of_text, of_hypothesis = word_tokens(explainer.tokenizer, kind, pair)
    words = of_text + (of_hypothesis if "text_pair" in sides else [])
    return plain_loop(
        explainer.model, explainer.tokenizer, pair, words, lambda output: output.logits[0, 2:], kept
    )[0]


def assert_close(found, expected, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol, equal_nan=True)


def assert_same(found, alone):
    """Two results of the same text."""
    assert (found.text, found.words, found.rows) == (alone.text, alone.words, alone.rows)
    assert_close(found.matrix, alone.matrix)
    for one, other in zip(found.targets, alone.targets, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-10)
        assert one.probability == pytest.approx(other.probability, abs=1e-10)


def test_rows_are_what_a_plain_loop_over_ids_finds(explainer, kind):
    """A batch of texts and candidates of mixed lengths; hypotheses stay as they are."""
    for found, text in zip(explainer(TEXTS, LABELS), TEXTS, strict=True):
        assert found.rows == LABELS
        assert (found.text, found.text_pair, found.task) == (text, None, explainer.TASK)
        for word in found.words:
            assert text[word.start : word.end] == word.word
        for row, label in zip(found.matrix, LABELS, strict=True):
            assert_close(row, expected(explainer, kind, text, label))
        assert max(found.max_abs_word_delta) < 1e-12
        assert TargetsAttribution.from_dict(found.to_dict()) == found


def test_an_encoder_and_a_decoder():
    """BART's kind: words of the text move in both, those of the hypothesis in neither."""
    names = {"contradiction": 0, "neutral": 1, "entailment": 2}
    model = bart(
        "ForSequenceClassification", label2id=names,
        id2label={index: name for name, index in names.items()},
    )  # fmt: skip
    explainer = ZeroShotClassificationExplainer(model, TOKENIZERS["roberta"]())
    for found in explainer(["a movie", "bad"], ["sport", "art"]):
        for row, label in zip(found.matrix, found.rows, strict=True):
            assert_close(row, expected(explainer, "roberta", found.text, label))


def test_words_of_the_hypotheses_too(explainer, kind):
    for found, text in zip(explainer(TEXTS, LABELS, words="both"), TEXTS, strict=True):
        n_columns = 0
        for row, label in enumerate(LABELS):
            hypothesis = TEMPLATE.format(label)
            assert found.targets[row].text_pair == hypothesis
            one = found[label]
            assert one.text_pair == hypothesis
            words = [word for word in one.words if word.side == "text_pair"]
            assert [hypothesis[w.start : w.end] for w in words] == [w.word for w in words]
            scores = torch.tensor(one.scores, dtype=torch.float64)
            both = ("text", "text_pair")
            assert_close(scores, expected(explainer, kind, text, label, both))
            n_columns += len(words)
        n_columns += sum(word.side == "text" for word in found.words)
        assert len(found.columns) == n_columns
        assert (
            TargetsAttribution.from_dict(found.to_dict()).matrix.isnan().equal(found.matrix.isnan())
        )


def test_hypotheses_that_do_not_move_take_no_rows(bert):
    """Two texts of one word take two rows for each candidate, and the pass that predicts."""
    n_rows = []
    bert("good", ["sport"])  # the first text shows what the model is
    handle = bert.model.register_forward_pre_hook(
        lambda module, args, kwargs: n_rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        for words in ("text", "both"):
            n_rows.clear()
            bert(["bad", "good"], ["sport", "music"], words=words)
            if words == "text":
                assert sum(n_rows) <= 4 * (2 + 1) + 2  # and two that are evaluated alone
            else:
                assert sum(n_rows) >= 4 * (6 + 1)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "names",
    [
        ("entailment", "neutral", "contradiction"),
        ("CONTRADICTION", "neutral", "ENTAILMENT"),
        ("not_entailed", "Entailed"),
        ("entailment", "not_entailment"),
    ],
)
@pytest.mark.parametrize("labels", [LABELS, "sport, music ,", ["good"]])
def test_probabilities_are_the_pipelines(names, labels):
    model, tokenizer = nli("bert", names), TOKENIZERS["bert"]()
    pipeline = transformers.pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
    explainer = ZeroShotClassificationExplainer(model, tokenizer)
    for multi_label in (False, True):
        theirs = pipeline(TEXTS, labels, multi_label=multi_label)
        results = explainer(TEXTS, labels, multi_label=multi_label, method="random")
        for found, of_text in zip(results, theirs, strict=True):
            scores = dict(zip(of_text["labels"], of_text["scores"], strict=True))
            assert found.probabilities == pytest.approx(scores, abs=1e-6)
            assert found.label == of_text["labels"][0]
            assert found.probability == max(found.probabilities.values())
            assert [t.probability for t in found.targets] == list(found.probabilities.values())


def test_probabilities_of_other_architectures(explainer):
    pipeline = transformers.pipeline(
        "zero-shot-classification", model=explainer.model, tokenizer=explainer.tokenizer
    )
    for text in TEXTS[:2]:
        theirs = pipeline(text, LABELS, hypothesis_template="It is {}, is it?")
        found = explainer(text, LABELS, hypothesis_template="It is {}, is it?", method="random")
        scores = dict(zip(theirs["labels"], theirs["scores"], strict=True))
        assert found.probabilities == pytest.approx(scores, abs=1e-6)


def test_some_of_the_candidates(bert):
    """Only these are explained; probabilities are among all."""
    in_full = bert(TEXTS, LABELS, words="both")
    for found, all_rows in zip(bert(TEXTS, LABELS, target="music"), in_full, strict=True):
        assert found.rows == ["music"]
        assert found.probabilities == pytest.approx(all_rows.probabilities, abs=1e-10)
        assert found.label == all_rows.label
        assert_close(found.matrix, bert(found.text, LABELS).matrix[2:])
    found = bert(TEXTS[0], LABELS, target=["music", "sport"], multi_label=True)
    assert found.rows == ["music", "sport"]
    in_full = bert(TEXTS[0], LABELS, multi_label=True)
    assert found.probabilities == pytest.approx(in_full.probabilities, abs=1e-10)
    commas = bert(TEXTS[0], ["sport, or music", "art"], target="sport, or music")
    assert commas.rows == ["sport, or music"]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "sequential_dig"])
def test_a_batch_equals_each_text_alone(bert, method):
    options = {"method": method, "n_steps": 7, "words": "both"}
    for found, text in zip(bert(TEXTS[1:3], LABELS[:2], **options), TEXTS[1:3], strict=True):
        assert_same(found, bert(text, LABELS[:2], **options))


@pytest.mark.parametrize("method", ["ig", "deep_lift", "lrp"])
def test_methods_of_other_architectures(explainer, method):
    for found, text in zip(explainer(TEXTS[:3], LABELS, method=method), TEXTS, strict=False):
        assert_same(found, explainer(text, LABELS, method=method))


@pytest.mark.parametrize("options", [{"baseline": "uniform"}, {"baseline": "constant"}])
@pytest.mark.parametrize("contexts", [None, "sampled4"])
def test_draws_depend_on_the_text_alone(options, contexts):
    """Candidates share the text's draws, whichever others there are."""
    explainer = make("bert", **options)
    texts = TEXTS[1], "a bad movie"
    for result, text in zip(explainer(list(texts), LABELS, contexts=contexts), texts, strict=True):
        alone = explainer(text, ["sport"], contexts=contexts)
        assert_close(result.matrix[:1], alone.matrix)
        equal = explainer(text, ["sport", "Sport"], contexts=contexts)  # the same to the model
        assert_close(equal.matrix[0], equal.matrix[1])


@pytest.mark.parametrize("baseline", BASELINES)
def test_hypotheses_stay_whatever_the_baseline(baseline):
    """And the text's baseline does not depend on them."""
    options = {} if baseline != "blurred" else {"masked_lm": pair_model("bert", "ForMaskedLM")}
    if baseline == "eos":
        pytest.skip("BERT's kind of tokenizer has no such token")
    if baseline == "blurred":
        options["masked_lm"].resize_token_embeddings(len(TOKENIZERS["bert"]()))
    explainer = make("bert", baseline=baseline, **options)
    candidates = Candidates.checked(["sport", "music"])
    pairs = [candidates.pair(TextInput("a movie is bad"), name) for name in ("sport", "music")]
    (batch,) = explainer._batches(pairs, 2, True)
    assert batch.held.sum(1).tolist() == [5, 5]  # This example is sport .
    question = explainer._question(batch, lambda output, example: output, 3)
    ((kind, found),) = question.baseline(question.new_generators()).items()
    if kind == "layer_baselines":
        (found,) = found
    with torch.no_grad():
        at_input = batch.ids if kind == "baselines" else explainer.layer(batch.ids)
    assert found[batch.held].equal(at_input[batch.held])
    assert found[0, :6].equal(found[1, :6])
    assert not found[0, 1:5].equal(at_input[0, 1:5])


def test_ig_is_complete(bert):
    """Each row sums to F(x) − F(the text masked, beside the same hypothesis)."""
    text, label = TEXTS[1], LABELS[0]
    found = bert(text, [label, "music"], method="ig", n_steps=100)
    encoding = bert.tokenizer(text, TEMPLATE.format(label), return_tensors="pt")
    masked = encoding["input_ids"].clone()
    of_text, _ = word_tokens(bert.tokenizer, "bert", (text, TEMPLATE.format(label)))
    masked[:, sum(of_text, [])] = bert.tokenizer.mask_token_id
    with torch.no_grad():
        at_input = bert.model(**encoding).logits[0, 2]
        at_baseline = bert.model(**{**encoding, "input_ids": masked}).logits[0, 2]
    assert float(found.matrix[0].sum()) == pytest.approx(float(at_input - at_baseline), abs=1e-5)
    assert found.targets[0].value == pytest.approx(float(at_input), abs=1e-10)


def test_both_sides(explainer, kind):
    """A background holds the text's other words, and no word of a hypothesis."""
    for found, text in zip(explainer(TEXTS, LABELS, contexts="two_sided"), TEXTS, strict=True):
        for row, label in enumerate(LABELS):
            first = expected(explainer, kind, text, label, kept=False)
            last = expected(explainer, kind, text, label)
            assert_close(found.matrix_first[row], first)
            assert_close(found.matrix[row], (first + last) / 2)


def test_interactions_and_top(bert):
    found = bert(TEXTS[1], LABELS, interactions=3, words="both")
    assert [len(pairs) for pairs in found.interactions] == [3, 3, 3]
    for one in found:
        assert all(max(pair.words) < len(one.words) for pair in one.interactions)
    text = "good bad movie mess " * 15
    found, in_full = bert(text, LABELS, top=4), bert(text, LABELS)
    assert [row.count("estimated") for row in found.evidence] == [60 - 4 - 9] * 3
    for row, exact in zip(found, in_full, strict=True):
        for word, score in zip(row.words, exact.scores, strict=True):
            if word.evidence != "estimated":
                assert word.score == pytest.approx(score, abs=1e-10)


def test_a_text_is_cut_as_its_hypothesis_needs(bert):
    text = "good movie " * 40
    with pytest.warns(UserWarning, match="2 of 2 texts exceed"):
        found = bert(text, ["sport", "a very bad movie"])
    n_words = 80 - 3 - 5  # beside the special tokens, and "This example is sport."
    assert [len(one.words) for one in found] == [n_words, n_words - 3]
    assert len(found.words) == n_words
    assert found.matrix.isnan().sum(1).tolist() == [0, 3]
    assert found.dropped_tokens == 80 - (n_words - 3)
    assert [(w.word, w.start) for w in found.words[-2:]] == [("good", 11 * 35), ("movie", 390)]


def test_a_slow_tokenizer_tells_both_sides_apart():
    """Words of the hypothesis that it does not know do not count as the text's."""
    explainer = ZeroShotClassificationExplainer(nli("bert"), SlowPairTokenizer())
    found = explainer("the zzz", ["sport", "good"])
    assert [(w.word, w.side) for w in found.words] == [("the", "text"), ("[UNK]", "text")]
    both = explainer("the zzz", ["sport", "good"], words="both")
    assert [w.side for w in both.words].count("text_pair") == 12  # every token
    assert_close(both.matrix[:, :2], found.matrix)


def test_lists_give_lists(bert):
    assert bert([], LABELS) == []
    (found,) = bert(["a movie"], LABELS)
    assert_same(found, bert("a movie", LABELS))
    results = {}
    for batch, of_batch in bert.in_batches(TEXTS, LABELS, batch_size=2):
        results.update(zip(batch.numbers, of_batch, strict=True))
        assert [one.text for one in batch.inputs] == [one.text for one in of_batch]
        assert len(batch.dropped) == len(of_batch)
    for number, text in enumerate(TEXTS):
        assert_same(results[number], bert(text, Candidates.checked(LABELS).explained))


def test_a_text_without_a_word(bert):
    found = bert("[SEP] [MASK]", LABELS)
    assert found.matrix.shape == (3, 0)
    assert set(found.probabilities) == set(LABELS)


@pytest.mark.parametrize("text", ["cafe\u0301 é", "👨\u200d👩\u200d👧 good", "हिन्दी bad"])
def test_characters_of_several_code_points(explainer, text):
    found = explainer(text, ["é", "👍🏽"], words="both")
    assert [w.word for w in found.words if w.side == "text"] == text.split()
    assert bool(found.matrix[0].nan_to_num().abs().gt(0).any())


class TestErrors:
    """Got, wanted, do this."""

    @pytest.mark.parametrize(
        ("labels", "options", "message"),
        [
            ([], {}, "candidate_labels has no label: name at least one"),
            (" , ", {}, "candidate_labels has no label"),
            (["sport", " "], {}, "candidate_labels has an empty label"),
            (["sport", "sport"], {}, "candidate_labels has 'sport' twice: leave one out"),
            (LABELS, {"target": "sprot"}, r"'sprot' is not among the candidates \(did you mean 's"),
            (LABELS, {"target": ["music", "art"]}, "target 'art' is not among .*: choose from sp"),
            (LABELS, {"target": []}, "target has no label"),
            (LABELS, {"hypothesis_template": "x"}, "hypothesis_template 'x' has no place for a"),
            (LABELS, {"hypothesis_template": "{label}"}, "has no place for a label: write {} once"),
            (LABELS, {"hypothesis_template": "{0.__class__}"}, "has no place for a label"),
            (LABELS, {"hypothesis_template": "{"}, "has no place for a label"),
            (LABELS, {"hypothesis_template": None}, "hypothesis_template None has no place"),
            (LABELS, {"words": "texts"}, r"words 'texts' is unknown .*: use one of text, both"),
            (LABELS, {"multi_label": "yes"}, "multi_label must be True or False, got 'yes'"),
            (LABELS, {"method": "sigg"}, "method 'sigg' is unknown"),
        ],
    )
    def test_options(self, bert, labels, options, message):
        with pytest.raises(ValueError, match=message):
            bert("a movie", labels, **options)

    @pytest.mark.parametrize("labels", [[1], None, 3, [["sport"]]])
    def test_labels_that_are_no_strings(self, bert, labels):
        with pytest.raises(TypeError, match="candidate_labels (has|must be)"):
            bert("a movie", labels)

    def test_texts(self, bert):
        with pytest.raises(ValueError, match="text 1 is empty: pass a text with a word"):
            bert(["a movie", " "], LABELS)
        with pytest.raises(TypeError, match="tuple, which is kept for the two texts of a pair"):
            bert(("a movie", "is bad"), LABELS)

    @pytest.mark.filterwarnings("ignore:.*exceed")
    def test_a_hypothesis_without_room_for_a_text(self, bert):
        message = "the second text of a pair, 'This example is bad .*…', leaves no room for the"
        with pytest.raises(ValueError, match=message):
            bert("a movie", ["sport", "bad " * 80])

    def test_no_label_of_entailment(self):
        with pytest.raises(ValueError, match="labels are yes, no; wanted one that begins with 'en"):
            ZeroShotClassificationExplainer(nli("bert", ("yes", "no")), TOKENIZERS["bert"]())

    def test_the_callers_number_of_the_text_is_named(self):
        explainer = make("bert")
        with torch.no_grad():
            weight = explainer.model.get_input_embeddings().weight
            weight[explainer.tokenizer.vocab["gorgeous"]] = torch.nan
        with pytest.raises(FloatingPointError, match="example 2"):
            explainer(["bad movie", "a movie is good", "gorgeous"], LABELS)

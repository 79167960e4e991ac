"""The answer to a question, found or given: what its start and its end owe to each word."""

import itertools
import random
import re

import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2ForQuestionAnswering

from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.methods import METHODS
from captum_sig.explainers.question_answering import QuestionAnsweringExplainer
from tests.tiny_models import byte_level_tokenizer, spread, wordpiece_tokenizer
from tests.tiny_pairs import (
    KINDS,
    TOKENIZERS,
    SlowPairTokenizer,
    pair_model,
    plain_loop,
    word_tokens,
)

ROWS = ["start", "end", "start + end"]
PAIRS = [
    ("who made it?", "a movie is good"),
    ("who", "bad"),
    ("is it", "bad movies"),
    ("the movie?", "not a gorgeous movie"),
]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def explainer(kind):
    return QuestionAnsweringExplainer(pair_model(kind, "ForQuestionAnswering"), TOKENIZERS[kind]())


@pytest.fixture(scope="module")
def bert():
    return QuestionAnsweringExplainer(
        pair_model("bert", "ForQuestionAnswering"), TOKENIZERS["bert"]()
    )


def expected(explainer, kind, pair, start, end, kept=True):
    """The matrix of the answer from one word of the context to another, by a plain loop."""
    question, context = word_tokens(explainer.tokenizer, kind, pair)
    first, last = context[start][0], context[end][-1]

    def values(output):
        at_start, at_end = output.start_logits[0, first], output.end_logits[0, last]
        return torch.stack([at_start, at_end, at_start + at_end])

    words = question + context
    return plain_loop(explainer.model, explainer.tokenizer, pair, words, values, kept)


def assert_close(found, expected, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def assert_same(found, alone, atol=1e-10):
    """Two results of the same question."""
    assert (found.text, found.text_pair, found.words) == (alone.text, alone.text_pair, alone.words)
    assert found.label == alone.label
    assert [(t.name, t.start, t.end) for t in found.targets] == [
        (t.name, t.start, t.end) for t in alone.targets
    ]
    assert_close(found.matrix, alone.matrix, atol)


def test_rows_are_what_a_plain_loop_over_ids_finds(explainer, kind):
    """A batch of mixed lengths; the answer is what stands in the context's first two words."""
    targets = [re.match(r"\S+( \S+)?", context)[0] for _, context in PAIRS]
    for found, pair, target in zip(explainer(PAIRS, targets), PAIRS, targets, strict=True):
        assert found.rows == ROWS
        assert (found.text, found.text_pair) == pair
        n_question = len(word_tokens(explainer.tokenizer, kind, pair)[0])
        assert [w.side for w in found.words[:n_question]] == ["text"] * n_question
        assert {w.side for w in found.words[n_question:]} == {"text_pair"}
        for word in found.words:
            assert pair[word.side == "text_pair"][word.start : word.end] == word.word
        assert {(t.start, t.end) for t in found.targets} == {(0, len(target))}
        assert_close(found.matrix, expected(explainer, kind, pair, 0, target.count(" ")))
        assert max(found.max_abs_word_delta) < 1e-12


def test_values_and_probabilities_are_those_of_the_logits(explainer, kind):
    pair = PAIRS[0]
    found = explainer(pair, "movie is")
    encoding = explainer.tokenizer(*pair, return_tensors="pt")
    _, context = word_tokens(explainer.tokenizer, kind, pair)
    with torch.no_grad():
        output = explainer.model(**encoding)
    candidates = sorted(sum(context, [])) + [0]  # and [CLS]
    ends = [(output.start_logits, context[1][0]), (output.end_logits, context[2][-1])]
    values = [float(logits[0, place]) for logits, place in ends]
    p = [float(logits[0, candidates].softmax(0)[candidates.index(place)]) for logits, place in ends]
    assert [t.value for t in found.targets] == pytest.approx([*values, sum(values)], abs=1e-10)
    probabilities = [t.probability for t in found.targets]
    assert probabilities == pytest.approx([*p, p[0] * p[1]], abs=1e-10)
    assert pair[1][found.targets[0].start : found.targets[0].end] == "movie is"
    assert found["start + end"].target_start == 2
    assert found.unit == "logit"
    assert found.task == "question-answering"
    assert TargetsAttribution.from_dict(found.to_dict()) == found


def slow_answer(explainer, kind, pair):
    """What the pipeline finds, by trying every span of tokens."""
    _, context = word_tokens(explainer.tokenizer, kind, pair)
    places = [match.span() for match in re.finditer(r"\S+", pair[1])]
    with torch.no_grad():
        output = explainer.model(**explainer.tokenizer(*pair, return_tensors="pt"))
    tokens = sorted(sum(context, []))
    place_of = dict(zip(tokens, itertools.count(), strict=False))
    start, end = (
        logits[0, [*tokens, 0]].softmax(0)[: len(tokens)].tolist()
        for logits in (output.start_logits, output.end_logits)
    )
    word_of = [next(n for n, word in enumerate(context) if token in word) for token in tokens]
    spans = [
        (start[place_of[i]] * end[place_of[j]], word_of[place_of[i]], word_of[place_of[j]])
        for i, j in itertools.product(tokens, tokens)
        if i <= j < i + 15
    ]
    scores: dict[str, float] = {}
    for score, first, last in sorted(spans, reverse=True)[:12]:
        text = pair[1][places[first][0] : places[last][1]].lower()
        scores[text] = scores.get(text, 0.0) + score
    best = max(scores, key=scores.__getitem__)
    return best, scores[best]


def some_pairs(n):
    """Random contexts of words that the tokenizers split and repeat."""
    draws = random.Random(0)
    words = ["the", "movies", "Good", "good", "bad", "unbelievable", "zzz", "not", "a", "é"]
    return [
        (
            " ".join(draws.choices(words, k=draws.randint(1, 3))),
            "mess " + " ".join(draws.choices(words, k=draws.randint(1, 20))),
        )
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def long_explainer(kind):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.model_max_length = 150
    model = pair_model(kind, "ForQuestionAnswering", max_position_embeddings=152)
    with torch.no_grad():
        model.qa_outputs.weight.mul_(3)
    return QuestionAnsweringExplainer(model, tokenizer)


def test_the_answer_found_is_the_best_of_all_spans(long_explainer, kind):
    pairs = some_pairs(12)
    summed = 0
    for found, pair in zip(long_explainer(pairs, method="random"), pairs, strict=True):
        text, score = slow_answer(long_explainer, kind, pair)
        assert found.label.lower() == text
        assert found.probability == pytest.approx(score, abs=1e-10)
        start, end = found.targets[0].start, found.targets[0].end
        assert found.label == pair[1][start:end]
        summed += found.probability > found.targets[2].probability + 1e-9
    assert summed > 0  # several spans read the same


def test_the_answer_found_is_the_pipelines(long_explainer):
    try:
        pipeline = transformers.pipeline(
            "question-answering", model=long_explainer.model, tokenizer=long_explainer.tokenizer
        )
    except KeyError:
        pytest.skip("this release of transformers has no question-answering pipeline")
    pairs = some_pairs(12)
    for found, (question, context) in zip(
        long_explainer(pairs, method="random"), pairs, strict=True
    ):
        theirs = pipeline(question=question, context=context)
        assert found.label == theirs["answer"].strip()
        assert found.targets[0].end == theirs["end"]
        assert found.probability == pytest.approx(theirs["score"], abs=1e-6)


def test_levels_find_the_same_answer(bert):
    tokens = QuestionAnsweringExplainer(bert.model, bert.tokenizer, level="token")
    pair = "who", "bad movies is messy"
    found, words = tokens(pair, "movies"), bert(pair, "movies")
    assert [w.word for w in found.words] == [
        "who", "bad", "movie", "s", "is", "mess", "y"
    ]  # fmt: skip
    assert found.targets == words.targets
    assert found.label == words.label
    assert all(tokens(one).targets == bert(one).targets for one in PAIRS)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "sequential_dig"])
def test_a_batch_equals_each_question_alone(bert, method):
    """Whatever the method does with the rows of a batch, such as IG with its many steps."""
    for found, pair in zip(bert(PAIRS[1:], None, method, n_steps=7), PAIRS[1:], strict=True):
        assert_same(found, bert(pair, None, method, n_steps=7))


@pytest.mark.parametrize("method", ["sig", "ig", "deep_lift", "lrp"])
def test_methods_of_other_architectures(explainer, method):
    for found, pair in zip(explainer(PAIRS[:2], None, method, n_steps=7), PAIRS[:2], strict=True):
        assert_same(found, explainer(pair, None, method, n_steps=7))


def test_ig_is_complete_for_a_span(explainer):
    """The scores of each row sum to F(x) − F(all words masked)."""
    pair = PAIRS[3]
    found = explainer(pair, "gorgeous movie", "ig", n_steps=200)
    encoding = explainer.tokenizer(*pair, return_tensors="pt")
    masked = explainer.tokenizer(*pair, return_tensors="pt")
    special = torch.tensor(explainer.tokenizer.all_special_ids)
    is_word = ~torch.isin(masked["input_ids"], special)
    masked["input_ids"][is_word] = explainer.tokenizer.mask_token_id
    offsets = explainer.tokenizer(*pair, return_offsets_mapping=True)
    tokens = [
        position
        for position, (side, (start, end)) in enumerate(
            zip(offsets.sequence_ids(), offsets["offset_mapping"], strict=True)
        )
        if side == 1 and pair[1][start:end].strip() and end > 6
    ]
    with torch.no_grad():
        at_input, at_baseline = explainer.model(**encoding), explainer.model(**masked)
    starts, ends = (
        float((a - b)[0, token])
        for a, b, token in (
            (at_input.start_logits, at_baseline.start_logits, tokens[0]),
            (at_input.end_logits, at_baseline.end_logits, tokens[-1]),
        )
    )
    sums = found.matrix.sum(1).tolist()
    assert sums == pytest.approx([starts, ends, starts + ends], abs=1e-4)
    torch.testing.assert_close(found.matrix[0] + found.matrix[1], found.matrix[2])


def test_both_sides(explainer, kind):
    """Effects among words at the input, and among words at the baseline."""
    targets = [re.match(r"\S+", context)[0] for _, context in PAIRS]
    results = explainer(PAIRS, targets, contexts="two_sided")
    for found, pair in zip(results, PAIRS, strict=True):
        last = expected(explainer, kind, pair, 0, 0)
        first = expected(explainer, kind, pair, 0, 0, kept=False)
        assert_close(found.matrix_last, last)
        assert_close(found.matrix_first, first)
        assert_close(found.matrix, (first + last) / 2)


def test_interactions_and_top(bert):
    found = bert(PAIRS[0], interactions=3)
    assert [len(pairs) for pairs in found.interactions] == [3, 3, 3]
    assert all(one.interactions for one in found)
    assert_close(found.matrix, bert(PAIRS[0]).matrix)
    tokenizer = TOKENIZERS["bert"]()
    tokenizer.model_max_length = 100
    long = QuestionAnsweringExplainer(
        pair_model("bert", "ForQuestionAnswering", max_position_embeddings=100), tokenizer
    )
    pair = "who", "good bad movie mess " * 22
    found, in_full = long(pair, top=5), long(pair)
    assert [row.count("estimated") for row in found.evidence] == [len(found.words) - 5 - 9] * 3
    for row, exact in zip(found, in_full, strict=True):
        for word, score in zip(row.words, exact.scores, strict=True):
            if word.evidence != "estimated":
                assert word.score == pytest.approx(score, abs=1e-10)


class TestTargets:
    """An answer that the caller gives."""

    def test_text_and_characters(self, bert):
        pair = "who", "good movie, bad movie"
        first = bert(pair, "movie")
        assert (first.targets[0].start, first.targets[0].end) == (5, 10)
        assert_same(bert(pair, (5, 10)), first)
        assert_same(bert(pair, [5, 10]), first)
        second = bert(pair, (16, 21))
        assert second["end"].value != first["end"].value
        assert second.label == first.label == bert(pair).label

    def test_one_for_each_question(self, bert):
        found = bert([PAIRS[0], PAIRS[3]], ["good", None])
        assert found[0].targets[0].start == 11
        assert_same(found[1], bert(PAIRS[3]))
        both = bert([PAIRS[0], PAIRS[3]], "movie")
        assert [one.targets[0].start for one in both] == [2, 15]

    def test_space_around_an_answer(self, explainer):
        """The next word's token may show it."""
        pair = "who", "a movie is good"
        spaced, bare = explainer(pair, (1, 8)), explainer(pair, (2, 7))
        assert (spaced.targets[0].start, spaced.targets[0].end) == (1, 8)
        assert_close(spaced.matrix, bare.matrix)

    def test_part_of_a_word(self, bert):
        found = bert(("who", "bad movies"), "s")
        whole = bert(("who", "bad movies"), "movies")
        assert found["end"].value == whole["end"].value
        assert found["start"].value != whole["start"].value

    @pytest.mark.parametrize("target", ["cafe\u0301", "😀", "é"])
    def test_characters_of_several_code_points_and_bytes(self, explainer, target):
        context = "é cafe\u0301 😀 bad"
        found = explainer(("é?", context), target)
        assert found.targets[0].start == context.find(target)
        assert "cafe\u0301" in found.columns
        assert bool(found.matrix.abs().gt(0).any())


class TestInputs:
    """Questions and contexts of all kinds."""

    def test_dicts(self, bert):
        question, context = PAIRS[0]
        as_dict = {"context": context, "question": question}
        assert bert(as_dict) == bert(PAIRS[0])
        assert bert([as_dict, PAIRS[1]]) == bert(PAIRS[:2])
        assert bert([]) == []

    def test_a_long_context_is_cut_and_the_question_stays(self, bert):
        pair = "who made it", "good movie " * 40
        with pytest.warns(UserWarning, match="exceed the model's context of 40 tokens: 46 tokens"):
            found = bert(pair)
        assert found.dropped_tokens == 46
        assert [w.word for w in found.words][:4] == ["who", "made", "it", "good"]
        assert len(found.words) == 37
        assert found.targets[0].end <= 11 * 17
        with pytest.warns(UserWarning, match="exceed"):
            assert bert(pair, "movie").targets[0].start == 5

    def test_a_slow_tokenizer_tells_both_sides_apart(self, bert):
        """Words that it does not know have no place, yet are of a text."""
        explainer = QuestionAnsweringExplainer(bert.model, SlowPairTokenizer())
        pairs = [("the zzz", "yyy good unbelievable bad"), ("zzz good", "good zzz")]
        found, other = explainer(pairs)
        assert [(w.word, w.start, w.side) for w in found.words] == [
            ("the", 0, "text"), ("[UNK]", None, "text"), ("[UNK]", None, "text_pair"),
            ("good", 4, "text_pair"), ("unbelievable", 9, "text_pair"), ("bad", 22, "text_pair"),
        ]  # fmt: skip
        assert [w.side for w in other.words] == ["text", "text", "text_pair", "text_pair"]
        given = explainer(pairs[0], "unbelievable")
        assert (given.targets[0].start, given.targets[0].end) == (9, 21)
        ids = explainer.tokenizer(*pairs[0], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = explainer.model(ids).start_logits[0]
        assert given["start"].value == pytest.approx(float(logits[6]), abs=1e-10)
        with pytest.warns(UserWarning, match="exceed"):
            long = explainer(("the zzz", "good zzz " * 40))
        assert [w.side for w in long.words].count("text") == 2

    def test_padding_at_the_left(self, bert):
        tokenizer = TOKENIZERS["bert"]()
        tokenizer.padding_side = "left"
        left = QuestionAnsweringExplainer(bert.model, tokenizer)
        for found, pair in zip(left(PAIRS), PAIRS, strict=True):
            assert_same(found, bert(pair))

    def test_a_decoder_without_a_token_for_the_beginning(self):
        config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=60,
                            pad_token_id=0, bos_token_id=0, eos_token_id=0)  # fmt: skip
        explainer = QuestionAnsweringExplainer(
            spread(GPT2ForQuestionAnswering(config)), byte_level_tokenizer(), baseline="unk"
        )
        pairs = [("who made", " good movie"), ("a", " the mo")]
        found = explainer(pairs, [" good", None])
        assert found[0].columns == ["who", "made", "good", "movie"]
        for result, pair, target in zip(found, pairs, [" good", None], strict=True):
            assert_same(result, explainer(pair, target))
        assert bool(found[0]["start"].scores[3] == 0)  # a later word


class TestErrors:
    """Got, wanted, do this."""

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ("who made it?", r"input 0 is str; wanted a tuple, \(question, context\), or a dict"),
            (["who", "bad"], "input 0 is str"),
            (("who", "made", "it"), "input 0 is a tuple of 3"),
            ([("who", "bad"), {"question": "who"}], "input 1 is dict"),
            ({"question": None, "context": "bad"}, "the question of input 0 is NoneType"),
            (("who", ["bad"]), "the context of input 0 is list; wanted a string"),
            (7, "a question comes with its context, .* got int"),
        ],
    )
    def test_inputs_that_are_no_pairs(self, bert, inputs, message):
        with pytest.raises(TypeError, match=message):
            bert(inputs)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (("  ", "bad"), "the question of input 0 is empty: pass a question and a text"),
            ([("who", "bad"), ("who", "")], "the context of input 1 is empty"),
            ([("a", "bad"), ("a", "\u200b\u200d")], "the context of input 1 has no word that the"),
            (("who", "[SEP] [MASK]"), "the context of input 0 has no word that the model reads"),
            (("who", "bad \ud83d"), "not valid Unicode"),
        ],
    )
    def test_nothing_to_read(self, bert, inputs, message):
        with pytest.raises(ValueError, match=message):
            bert(inputs)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("mess", "the answer 'mess' is not in the context: copy it from there, or pass its"),
            (" ", "the answer ' ' is not in the context"),
            ((4, 5), "no token of the context shows the answer ' ': pass another"),
            ((8, 5), r"target \(8, 5\) is outside the context, which has characters 0 to 8"),
            ((5, 9), r"target \(5, 9\) is outside the context"),
        ],
    )
    def test_answers_outside_the_context(self, bert, target, message):
        with pytest.raises(ValueError, match=message):
            bert(("who", "good bad"), target)

    @pytest.mark.parametrize("target", [3, (True, 2), (1.0, 2.0), (1, 2, 3), {}])
    def test_targets_of_other_kinds(self, bert, target):
        with pytest.raises(TypeError, match="target must be an answer's text, or its characters"):
            bert(("who", "good bad"), target)

    def test_number_of_targets(self, bert):
        with pytest.raises(ValueError, match="target has 1 entries; wanted one, or 2"):
            bert(PAIRS[:2], ["bad"])

    @pytest.mark.filterwarnings("ignore:.*exceed")
    @pytest.mark.parametrize("target", ["mess", (430, 444), (0, 440)])
    def test_answers_beyond_the_cut(self, bert, target):
        with pytest.raises(ValueError, match="is beyond the tokens that the model reads of the"):
            bert(("who", "good movie " * 40 + "mess"), target)

    @pytest.mark.filterwarnings("ignore:.*exceed")
    @pytest.mark.parametrize("n_words", [38, 10_000])
    def test_questions_without_room_for_a_context(self, bert, n_words):
        message = r"the first text of a pair, 'bad .*…', leaves no room for the other within the"
        with pytest.raises(ValueError, match=message):
            bert(("bad " * n_words, "good"))

    def test_a_context_that_is_too_long_may_be_refused(self, bert):
        with pytest.raises(ValueError, match="would be dropped; shorten them"):
            bert(("who", "bad " * 50), truncation=False)

    def test_an_output_that_is_not_finite(self):
        model, tokenizer = pair_model("bert", "ForQuestionAnswering"), TOKENIZERS["bert"]()
        with torch.no_grad():
            model.get_input_embeddings().weight[tokenizer.vocab["mess"]] = torch.nan
        with pytest.raises(FloatingPointError, match="example 1, the unchanged input"):
            QuestionAnsweringExplainer(model, tokenizer)([("who", "good"), ("a", "mess")])

    def test_other_models(self, bert):
        classifier = pair_model("bert", "ForSequenceClassification")
        with pytest.raises(TypeError, match="use TextClassificationExplainer or ZeroShot"):
            QuestionAnsweringExplainer(classifier, bert.tokenizer)

    def test_a_model_without_start_logits(self, bert):
        class Wrapped(type(bert.model)):
            def forward(self, *args, **inputs):
                return {"logits": super().forward(*args, **inputs).start_logits}

        model = Wrapped(bert.model.config).eval()
        with pytest.raises(TypeError, match="Wrapped returns no start and end logits; wanted a"):
            QuestionAnsweringExplainer(model, bert.tokenizer)(PAIRS[0])


def test_from_pretrained(tmp_path, bert):
    bert.model.save_pretrained(tmp_path)
    bert.tokenizer.save_pretrained(tmp_path)
    loaded = QuestionAnsweringExplainer.from_pretrained(tmp_path)
    assert loaded(PAIRS[0]).label == bert(PAIRS[0]).label
    pair_model("bert", "ForMaskedLM").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="wanted a model that was trained to answer questions"):
        QuestionAnsweringExplainer.from_pretrained(tmp_path)


def test_the_tokenizer_of_single_texts_has_no_separator():
    """What stands between two texts is the tokenizer's to say; none is needed."""
    explainer = QuestionAnsweringExplainer(
        pair_model("bert", "ForQuestionAnswering"), wordpiece_tokenizer()
    )
    found = explainer(("bad movies", "bad movies"))
    assert [(w.word, w.side) for w in found.words] == [
        ("bad", "text"), ("movies", "text"), ("bad", "text_pair"), ("movies", "text_pair"),
    ]  # fmt: skip

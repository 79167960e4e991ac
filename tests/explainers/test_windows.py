"""Texts beyond the model's limit, read in overlapping windows: against plain loops over ids."""

import pytest
import torch
import transformers
from torch import nn

from captum_sig import TextClassificationExplainer, explainer
from captum_sig.attr.hooks import patched
from captum_sig.explainers.windows import WindowedModel
from tests.explainers.test_own_heads import Own, explainer_of
from tests.explainers.test_reward_models import chatml_tokenizer
from tests.tiny_models import CLS, MASK, SEP, SHAPE, bert, spread, tiny, wordpiece_tokenizer
from tests.tiny_tasks import multi_label, pair_tokenizer, regression

LIMIT, STRIDE = 12, 3
LONG = (
    "The movie is not good, a gorgeous mess, goods! Bad, bad movies is messy. "
    "The mess is not gorgeous"
)
LONGER = f"{LONG}! {LONG} movie good bad a is the."
TEXTS = ["a gorgeous mess!", LONG, "bad", LONGER, LONG[:60]]
COMBINED = {"mean": lambda z: z.mean(0), "max": lambda z: z.amax(0)}


def limited(tokenizer, limit=LIMIT):
    tokenizer.model_max_length = limit
    return tokenizer


def bare_tokenizer():
    """No special tokens around a text, as GPT-2 reads it."""
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    return tokenizer


def windows_of(ids, limit, stride, begin, end):
    """The windows of a text's ids by hand, each with what begins and ends it."""
    body = ids[len(begin) : len(ids) - len(end)]
    room = limit - len(begin) - len(end)
    windows, start = [], 0
    while True:
        windows.append([*begin, *body[start : start + room], *end])
        if start + room >= len(body):
            return windows
        start += room - stride


def by_plain_loop(
    model, tokenizer, text, combine=COMBINED["mean"], limit=LIMIT, begin=(CLS,), end=(SEP,), **more
):
    """A text's logits, (C,), and their differences without each word, (C, W)."""
    encoding = tokenizer(text, truncation=False, verbose=False)
    ids, of_word = encoding["input_ids"], encoding.word_ids()

    def logits(ids):
        windows = windows_of(ids, limit, STRIDE, begin, end)
        return combine(torch.stack([model(torch.tensor([w]), **more).logits[0] for w in windows]))

    with torch.no_grad():
        whole, differences = logits(ids), []
        for word in range(max(w for w in of_word if w is not None) + 1):
            masked = [MASK if w == word else id for id, w in zip(ids, of_word, strict=True)]
            differences.append(whole - logits(masked))
    return whole, torch.stack(differences, -1)


def assert_equal(found, expected):
    atol = 1e-6 if found.dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


ENDS = {"gpt2": ((), ()), "llama": ((), ())}
FAMILIES = ["bert", "roberta", "distilbert", "deberta-v2", "electra", "mpnet", "modernbert",
            "gpt2", "llama"]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_word_of_a_long_text_is_a_plain_loop_over_ids(name):
    model = tiny(name).model
    begin, end = ENDS.get(name, ((CLS,), (SEP,)))
    tokenizer = limited(wordpiece_tokenizer() if begin else bare_tokenizer())
    explain = TextClassificationExplainer(model, tokenizer, stride=STRIDE)
    found = explain(LONGER, "all")
    whole, differences = by_plain_loop(model, tokenizer, LONGER, begin=begin, end=end)
    assert_equal(found.matrix, differences)
    assert [target.value for target in found.targets] == pytest.approx(whole.tolist(), abs=1e-10)
    assert found.dropped_tokens == 0
    assert found.words[-1].word == "."
    assert len(found.words) == differences.shape[1]


@pytest.fixture(scope="module")
def model():
    return bert()


@pytest.fixture(scope="module")
def tokenizer():
    return limited(wordpiece_tokenizer())


@pytest.fixture(scope="module")
def explain(model, tokenizer):
    return TextClassificationExplainer(model, tokenizer, stride=STRIDE)


def logsumexp(logits):
    return logits.logsumexp(0)


@pytest.mark.parametrize("window_logits", ["mean", "max", logsumexp])
def test_how_windows_are_combined(model, tokenizer, window_logits):
    combine = COMBINED.get(window_logits, window_logits)
    explain = TextClassificationExplainer(
        model, tokenizer, stride=STRIDE, window_logits=window_logits
    )
    for found, text in zip(explain(TEXTS, "all"), TEXTS, strict=True):
        whole, differences = by_plain_loop(model, tokenizer, text, combine)
        assert_equal(found.matrix, differences)
        assert found.label == explain.labels[int(whole.argmax())]
        probabilities = whole.softmax(-1).tolist()
        assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-6)


METHODS = ["sig", "sig:two_sided", "sig:sampled3", "sig:auto", "ig", "input_x_gradient",
           "gradient_shap", "occlusion", "dig", "lrp", "rank_path"]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_texts_alone(explain, method):
    texts = [LONG[:50], "a gorgeous mess!", LONG[:60]]
    found = explain(texts, 1, method, n_steps=4)
    for of_text, text in zip(found, texts, strict=True):
        alone = explain(text, 1, method, n_steps=4, internal_batch_size=3)
        assert of_text.scores == pytest.approx(alone.scores, abs=1e-10)
        assert of_text.value == pytest.approx(alone.value, abs=1e-10)


@pytest.mark.parametrize("method", ["sig", "sig:two_sided", "ig", "deep_lift", "lrp", "shapley"])
def test_texts_that_fit_are_as_without_windows(model, tokenizer, explain, method):
    without = TextClassificationExplainer(model, tokenizer)
    texts = ["a gorgeous mess!", "bad", "not good"]
    for found, expected in zip(
        explain(texts, 1, method, n_steps=4), without(texts, 1, method, n_steps=4), strict=True
    ):
        assert found.scores == pytest.approx(expected.scores, abs=1e-12)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-12)


def embedded_logits(model, x, n_windows):
    """The mean over windows as a function of the whole text's embeddings, (1, L, D) → (C,)."""
    positions = windows_of(list(range(x.shape[1])), LIMIT, STRIDE, (0,), (x.shape[1] - 1,))
    assert len(positions) == n_windows
    windows = [model(inputs_embeds=x[:, window]).logits[0] for window in positions]
    return torch.stack(windows).mean(0)


def test_gradients_flow_through_all_windows(model, tokenizer, explain):
    encoding = tokenizer(LONG, truncation=False, verbose=False)
    ids = torch.tensor([encoding["input_ids"]])
    embedding = model.get_input_embeddings()
    x = embedding(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(embedded_logits(model, x, n_windows=4)[1], x)
    of_token = (gradient * x).sum(-1)[0].detach()
    of_word = encoding.word_ids()
    expected = [
        float(sum(of_token[p] for p, w in enumerate(of_word) if w == word))
        for word in range(max(w for w in of_word if w is not None) + 1)
    ]
    found = explain(LONG, 1, "input_x_gradient")
    assert found.scores == pytest.approx(expected, abs=1e-10)


class Counted:
    """Counts the windows, tokens and largest pass of a model within `with`."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self.sizes = []
        self.handle = self.model.register_forward_pre_hook(
            lambda _, args, named: self.sizes.append(tuple(named["input_ids"].shape)),
            with_kwargs=True,
        )
        return self

    def __exit__(self, *exception):
        self.handle.remove()
        self.n_windows = sum(n for n, _ in self.sizes)
        self.n_tokens = sum(n * length for n, length in self.sizes)
        self.largest = max(n for n, _ in self.sizes)


def windows_with(tokenizer, text):
    """In how many windows each word is, and how many there are."""
    encoding = tokenizer(text, truncation=False, verbose=False)
    places = list(range(len(encoding["input_ids"])))
    windows = windows_of(places, LIMIT, STRIDE, (0,), (len(places) - 1,))
    words = encoding.word_ids()
    numbers = sorted({word for word in words if word is not None})
    of_word = [
        [len(window) for window in windows if any(words[p] == number for p in window)]
        for number in numbers
    ]
    return of_word, [len(window) for window in windows]


@pytest.mark.parametrize("rows", [1, 4, None])
def test_rows_are_evaluated_only_in_the_windows_of_their_words(model, tokenizer, explain, rows):
    of_word, windows = windows_with(tokenizer, LONGER)
    n_tokens = sum(map(sum, of_word))
    with Counted(model) as counted:
        explain(LONGER, 1, internal_batch_size=rows)
    own = sum(windows)  # of the text as it is, which is its words' background
    check = 0 if rows == 1 else 2 * LIMIT  # whether windows depend on those beside them
    assert n_tokens + own <= counted.n_tokens <= n_tokens + own + check
    assert sum(map(len, of_word)) < 1.6 * len(of_word)
    if rows is not None:
        assert counted.largest <= rows


def test_windows_at_the_baseline_are_evaluated_once_too(model, tokenizer, explain):
    of_word, windows = windows_with(tokenizer, LONGER)
    with Counted(model) as counted:
        explain(LONGER, 1, "sig:two_sided", internal_batch_size=1)
    least = 2 * sum(map(len, of_word)) + 2 * len(windows)
    assert counted.n_windows <= least + 3 * len(windows)


def test_several_texts_share_passes(model, tokenizer, explain):
    with Counted(model) as counted:
        explain([LONG, LONGER, LONG], 1)
    with Counted(model) as alone:
        for text in (LONG, LONGER, LONG):
            explain(text, 1)
    assert counted.n_windows <= alone.n_windows + 2
    assert len(counted.sizes) < len(alone.sizes)


def test_multi_label_and_regression():
    tokenizer = limited(pair_tokenizer())
    for model, target in ((multi_label(5), ">0"), (regression(), None)):
        explain = TextClassificationExplainer(model, tokenizer, stride=STRIDE, window_logits="max")
        found = explain(LONG, target)
        whole, differences = by_plain_loop(model, tokenizer, LONG, COMBINED["max"])
        if target is None:
            assert found.value == pytest.approx(float(whole), abs=1e-10)
            assert found.scores == pytest.approx(differences[0].tolist(), abs=1e-10)
        else:
            assert_equal(found.matrix, differences)
            probabilities = whole.sigmoid().tolist()
            assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-6)


def test_modules_of_your_own_with_further_tensors(tokenizer):
    own = Own().eval()
    explain = TextClassificationExplainer(
        own, tokenizer, forward=own.logits, labels=["sad", "glad", "mad"],
        layer=own.encoder.get_input_embeddings(), stride=STRIDE,
    )  # fmt: skip
    numbers = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    found = explain([LONG, LONG], "all", extra_inputs={"numbers": numbers})
    for of_text, of_row in zip(found, numbers, strict=True):

        class Named(nn.Module):
            def forward(self, ids, of=of_row[None]):
                logits = own.logits(ids, torch.ones_like(ids), of)
                return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)

        _, differences = by_plain_loop(Named(), tokenizer, LONG)
        assert_equal(of_text.matrix, differences)
    assert explainer_of(own)("bad movies").scores == pytest.approx(
        explain("bad movies").scores, abs=1e-12
    )
    with pytest.raises(ValueError, match="DeepLift runs a copy of the model, which a forward"):
        explain("bad movies", method="deep_lift")


def test_chats_of_reward_models():
    tokenizer = chatml_tokenizer()
    tokenizer.pad_token = "<|endoftext|>"
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=48, max_position_embeddings=32,
        num_labels=1, pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = spread(transformers.LlamaForSequenceClassification(config))
    explain = TextClassificationExplainer(model, tokenizer, baseline="unk", stride=8)
    chat = [{"role": "user", "content": "is the movie good? is it?"},
            {"role": "assistant", "content": "a good movie."}]  # fmt: skip
    found = explain(chat)
    ids = tokenizer(found.text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        windows = windows_of(ids, 32, 8, (), ())
        whole = torch.stack([model(torch.tensor([w])).logits[0] for w in windows]).mean(0)
    assert len(ids) > 32
    assert found.value == pytest.approx(float(whole), abs=1e-10)
    assert [word.word for word in found.words][-4:] == ["a", "good", "movie", "."]


def test_a_tokenizer_that_cuts_the_beginning_counts_windows_from_the_end(model):
    tokenizer = limited(wordpiece_tokenizer())
    tokenizer.truncation_side = "left"
    explain = TextClassificationExplainer(model, tokenizer, stride=STRIDE)
    windows = tokenizer(
        LONG, truncation=True, max_length=LIMIT, stride=STRIDE, return_overflowing_tokens=True
    )["input_ids"]
    with torch.no_grad():
        whole = torch.stack([model(torch.tensor([w])).logits[0] for w in windows]).mean(0)
    assert explain(LONG, 1).value == pytest.approx(float(whole[1]), abs=1e-10)


def test_windows_are_padded_to_longformers_attention_window():
    config = transformers.LongformerConfig(**SHAPE, attention_window=[8, 8], pad_token_id=0)
    model = spread(transformers.LongformerForSequenceClassification(config))
    tokenizer = limited(wordpiece_tokenizer(), 16)
    explain = TextClassificationExplainer(model, tokenizer, stride=STRIDE)
    for found, text in zip(explain([LONG, LONGER], 1), [LONG, LONGER], strict=True):
        whole, differences = by_plain_loop(model, tokenizer, text, limit=16)
        assert found.value == pytest.approx(float(whole[1]), abs=1e-10)
        assert found.scores == pytest.approx(differences[1].tolist(), abs=1e-10)
        ids = torch.tensor([tokenizer(text, truncation=False, verbose=False)["input_ids"]])
        assert_equal(explain.log_probabilities(ids), whole[None].float().log_softmax(-1))


def test_a_model_without_padding_reads_one_window_at_a_time():
    model = tiny("gpt2").model
    expected = TextClassificationExplainer(model, limited(bare_tokenizer()), stride=STRIDE)
    expected = expected([LONG, LONGER], 1)
    model.config.pad_token_id = None
    with pytest.warns(UserWarning, match="rows are evaluated one by one"):
        found = TextClassificationExplainer(model, limited(bare_tokenizer()), stride=STRIDE)(
            [LONG, LONGER], 1
        )
    for of_text, wanted in zip(found, expected, strict=True):
        assert of_text.scores == pytest.approx(wanted.scores, abs=1e-10)


class Dependent(nn.Module):
    """A classifier whose output for a row depends on the rows beside it."""

    def __init__(self):
        super().__init__()
        self.inner = bert()

    def forward(self, input_ids, attention_mask):
        logits = self.inner(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits - logits.mean(0) * (len(logits) > 1)


def test_windows_that_depend_on_others_are_evaluated_one_by_one(explain, tokenizer):
    own = Dependent()
    dependent = TextClassificationExplainer(
        own, tokenizer, forward=own.forward, labels=["a", "b", "c"],
        layer=own.inner.get_input_embeddings(), stride=STRIDE,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="depends on the rows beside it"):
        found = dependent(LONG, 1)
    assert found.scores == pytest.approx(explain(LONG, 1).scores, abs=1e-10)


def test_top_interactions_and_several_baselines(model, tokenizer, explain):
    text = " ".join([LONGER] * 2)
    whole = explain(text, 1)
    screened = explain(text, 1, top=5)
    exact = [word for word in screened.words if word.evidence == "exact"]
    by_place = {word.start: word.score for word in whole.words}
    assert exact
    for word in exact:
        assert word.score == pytest.approx(by_place[word.start], abs=1e-10)
    pairs = explain(LONG, 1, interactions=3).interactions
    assert len(pairs) == 3
    several = TextClassificationExplainer(model, tokenizer, stride=STRIDE, baseline=["mask", "pad"])
    pad = TextClassificationExplainer(model, tokenizer, stride=STRIDE, baseline="pad")
    mean = [(a + b) / 2 for a, b in zip(explain(LONG, 1).scores, pad(LONG, 1).scores, strict=True)]
    assert several(LONG, 1).scores == pytest.approx(mean, abs=1e-10)


@pytest.mark.parametrize("level", ["token", "sentence"])
def test_other_units_move_as_one(model, tokenizer, level):
    explain = TextClassificationExplainer(model, tokenizer, stride=STRIDE, level=level)
    found = explain(LONGER, 1)
    encoding = tokenizer(LONGER, truncation=False, verbose=False, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]

    def value(ids):
        windows = windows_of(ids, LIMIT, STRIDE, (CLS,), (SEP,))
        with torch.no_grad():
            return float(sum(model(torch.tensor([w])).logits[0, 1] for w in windows) / len(windows))

    assert len(found.words) == (len(ids) - 2 if level == "token" else 6)
    for unit in found.words:
        inside = [unit.start <= start and end <= unit.end and end > 0 for start, end in offsets]
        masked = [MASK if moves else id for id, moves in zip(ids, inside, strict=True)]
        assert unit.score == pytest.approx(value(ids) - value(masked), abs=1e-10)


def test_traces_games_and_sentences(model, tokenizer, explain):
    whole, differences = by_plain_loop(model, tokenizer, LONG)
    game = explain.game(LONG, 1)
    keeps = torch.ones(1, len(game.words), dtype=torch.bool)
    keeps[0, 3] = False
    assert float(game(keeps.tolist())[0]) == pytest.approx(
        float(whole[1] - differences[1, 3]), abs=1e-10
    )
    trace = explain.trace(LONG, 1, n_steps=3).trace
    assert float(trace.outputs[-1, -1]) == pytest.approx(float(whole[1]), abs=1e-6)
    (sentence,) = explain.sentences([LONG], [1])
    assert sentence.n_units == differences.shape[1]
    rows = torch.where(sentence.units == 3, sentence.replacement, sentence.ids)[None]
    for found in (
        explain.log_probabilities(rows),
        explain.log_probabilities(sentence.ids[None], rows),
    ):
        assert_equal(found[0], (whole - differences[:, 3]).float().log_softmax(-1))


def test_weights_may_change_between_calls(tokenizer):
    model = bert()
    explain = TextClassificationExplainer(model, tokenizer, stride=STRIDE)
    before = explain(LONG, 1)
    with torch.no_grad():
        model.classifier.weight.mul_(2)
        model.get_input_embeddings().weight.mul_(1.5)
    after = explain(LONG, 1)
    _, differences = by_plain_loop(model, tokenizer, LONG)
    assert after.scores == pytest.approx(differences[1].tolist(), abs=1e-10)
    assert after.scores != pytest.approx(before.scores, abs=1e-3)


def test_weights_and_hooks_of_the_embedding_may_be_replaced(tokenizer):
    own = bert()
    explain = TextClassificationExplainer(own, tokenizer, stride=STRIDE)
    layer, text = own.get_input_embeddings(), LONG
    before = explain(text, "all").matrix
    layer.weight = nn.Parameter(layer.weight.detach() * 1.5)
    handle = layer.register_forward_hook(lambda module, args, output: output + 0.1)
    changed = explain(text, "all").matrix
    new = TextClassificationExplainer(own, tokenizer, stride=STRIDE)(text, "all").matrix
    assert_equal(changed, new)
    assert not torch.allclose(changed, before, rtol=0, atol=1e-3)
    handle.remove()
    layer.weight = nn.Parameter(layer.weight.detach() / 1.5)
    assert_equal(explain(text, "all").matrix, before)


def test_the_model_is_left_as_it_was(model, explain):
    layer = model.get_input_embeddings()
    explain(LONG, 1, "ig", n_steps=3)
    assert explain.layer is not layer
    assert explain.layer.weight is layer.weight
    assert not layer._forward_hooks
    assert not explain.layer._forward_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_pairs_must_fit(model):
    explain = TextClassificationExplainer(model, limited(pair_tokenizer()), stride=STRIDE)
    assert explain(("bad", "good"), 1).words[1].side == "text_pair"
    with pytest.raises(ValueError, match="a pair of 31 tokens exceeds the tokenizer's limit .* of"):
        explain([LONG, (LONG, "good")], 1)


def narrow(logits):
    return logits.mean(0)[:2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stride": 10}, ValueError, "stride must be less than the 10 tokens of a text that a win"),
        ({"stride": -1}, ValueError, "stride must be an integer of at least 0, got -1"),
        ({"stride": "8"}, ValueError, "stride must be an integer of at least 0, got '8'"),
        ({"window_logits": "max"}, ValueError, "window_logits combines .*: pass stride"),
        ({"stride": 3, "window_logits": "mode"}, ValueError, "window_logits 'mode' is unknown"),
        ({"stride": 3, "window_logits": 1}, TypeError, "must be one of mean, max, or a function"),
    ],
)
def test_bad_arguments(model, tokenizer, options, error, message):
    with pytest.raises(error, match=message):
        TextClassificationExplainer(model, tokenizer, **options)


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        (narrow, r"returns shape \(2,\) for logits of shape \(4, 3\); wanted a tensor \(3,\)"),
        (lambda logits: float(logits.mean()), r"returns float for logits of shape \(4, 3\)"),
    ],
)
def test_what_a_function_returns(model, tokenizer, combine, message):
    explain = TextClassificationExplainer(model, tokenizer, stride=3, window_logits=combine)
    with pytest.raises(ValueError, match=message):
        explain(LONG)


def test_what_has_no_windows(model, tokenizer, explain):
    with pytest.raises(ValueError, match="DeepLift compares a text with its baseline in one pass"):
        explain(LONG, 1, "deep_lift")
    with pytest.raises(ValueError, match="layer is BertEmbeddings; with stride, words move in the"):
        TextClassificationExplainer(model, tokenizer, stride=3, layer=model.bert.embeddings)
    unlimited = tiny("lstm").model
    with pytest.raises(ValueError, match=r"has one: set tokenizer\.model_max_length"):
        TextClassificationExplainer(
            unlimited, limited(wordpiece_tokenizer(), 10**30), stride=3, forward=unlimited.forward
        )
    masked = transformers.BertForMaskedLM(transformers.BertConfig(**SHAPE))
    with pytest.raises(TypeError, match="stride is for text classification, and this is fill-mask"):
        explainer(masked, tokenizer, stride=3)


def test_models_that_read_a_text_twice_move_words_in_the_encoder_alone():
    config = transformers.BartConfig(
        vocab_size=300, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_labels=2,
        max_position_embeddings=40, pad_token_id=0, eos_token_id=SEP, bos_token_id=CLS,
    )  # fmt: skip
    model = spread(transformers.BartForSequenceClassification(config))
    tokenizer = limited(wordpiece_tokenizer())
    with pytest.raises(ValueError, match="reads a text twice, .*: pass layer, the encoder's"):
        TextClassificationExplainer(model, tokenizer, stride=3)
    layer = model.model.encoder.embed_tokens
    found = TextClassificationExplainer(model, tokenizer, stride=3, layer=layer)(LONG, 1)
    with torch.no_grad():
        ids = tokenizer(LONG, truncation=False, verbose=False)["input_ids"]
        windows = windows_of(ids, LIMIT, 3, (CLS,), (SEP,))
        whole = torch.stack([model(torch.tensor([w])).logits[0] for w in windows]).mean(0)
    assert found.value == pytest.approx(float(whole[1]), abs=1e-10)


def test_what_is_remembered_changes_nothing(model, tokenizer, explain):
    windowed, draw = explain._windowed, torch.Generator().manual_seed(0)
    ids = torch.tensor([tokenizer(LONG, truncation=False, verbose=False)["input_ids"]])
    n = ids.shape[1]
    texts = torch.cat([ids, ids])
    texts[1, 1:-1] = ids[0, 1:-1].flip(0)
    own = windowed.layer(texts).detach()
    masked = windowed.layer(torch.where((texts == CLS) | (texts == SEP), texts, MASK)).detach()
    one = windowed.remembering()
    for _ in range(30):
        n_rows = int(torch.randint(1, 5, (), generator=draw))
        example = torch.randint(2, (n_rows,), generator=draw)
        start, stop = sorted(torch.randint(n + 1, (2,), generator=draw).tolist())
        moved = torch.zeros(n_rows, n, 1, dtype=torch.bool)
        moved[: int(torch.randint(n_rows + 1, (), generator=draw)), start:stop] = True
        rows = torch.where(moved, masked[example], own[example])
        with torch.no_grad(), patched([windowed.embedding], (rows,)):
            found = one(texts[example]).logits
        with torch.no_grad():
            expected = torch.stack([embedded_logits(model, row[None], 4) for row in rows])
        assert_equal(found, expected)


def test_without_memory_windows_of_a_call_are_still_shared(model, tokenizer):
    windowed = TextClassificationExplainer(model, tokenizer, stride=STRIDE)._windowed
    assert isinstance(windowed, WindowedModel)
    ids = torch.tensor([tokenizer(LONG, truncation=False, verbose=False)["input_ids"]] * 5)
    with Counted(model) as counted, torch.no_grad():
        logits = windowed(ids).logits
    assert counted.n_windows == 4
    assert_equal(logits, logits[:1].expand(5, -1))

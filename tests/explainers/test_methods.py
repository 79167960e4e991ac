"""Attribution methods by name: Captum's unchanged, the same question for all."""

import copy
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from captum_sig import (
    LayerDiscretizedIntegratedGradients,
    TextClassificationExplainer,
    baselines,
    contexts,
)
from captum_sig.baselines import BASELINES
from captum_sig.explainers.methods import METHODS
from tests.tiny_models import spread, wordpiece_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:sequential_dig is far from the exact scores")

TEXTS = ["a gorgeous mess!", "bad", "The movie is not unbelievable, not good.", "bad movies"]
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "vocab_size": 64, "max_position_embeddings": 40}  # fmt: skip


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    return spread(BertForSequenceClassification(BertConfig(**SHAPE, hidden_act="relu")))


@pytest.fixture(scope="module")
def masked_lm() -> nn.Module:
    tokenizer = wordpiece_tokenizer()
    return spread(BertForMaskedLM(BertConfig(**{**SHAPE, "vocab_size": len(tokenizer)})))


@pytest.fixture(scope="module")
def explainer(bert) -> TextClassificationExplainer:
    return TextClassificationExplainer(bert, wordpiece_tokenizer(), level="token")


def directly(bert: nn.Module, text: str) -> tuple[Tensor, Tensor]:
    tokenizer = wordpiece_tokenizer()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    return ids, baselines.mask(tokenizer, ids)


CAPTUMS_LAYER_METHODS = {
    "ig": lambda f, layer, model: captum.attr.LayerIntegratedGradients(f, layer),
    "input_x_gradient": lambda f, layer, model: captum.attr.LayerGradientXActivation(f, layer),
    "deep_lift": lambda f, layer, model: captum.attr.LayerDeepLift(model, layer),
}


class Logits(nn.Module):
    """The model with a tensor as its output, as DeepLift wants it."""

    def __init__(self, model: nn.Module) -> None:
        """Share the model."""
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).logits


def test_deep_lift_evaluates_a_text_beside_its_baseline(explainer):
    texts = ["bad movies", "good movie", "a mess", "not bad"]  # in one batch
    expected = [explainer(text, 1, "deep_lift").scores for text in texts]
    with pytest.raises(ValueError, match="a text and its baseline need a pass of 2 rows"):
        explainer(texts, 1, "deep_lift", internal_batch_size=1)
    for rows in (2, 3, 5, None):
        together = explainer(texts, 1, "deep_lift", internal_batch_size=rows)
        for result, alone in zip(together, expected, strict=True):
            assert result.scores == pytest.approx(alone, abs=1e-9)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("name", CAPTUMS_LAYER_METHODS)
def test_captums_methods_give_what_its_layer_methods_give(bert, explainer, name):
    ids, base = directly(bert, TEXTS[2])
    layer = bert.get_input_embeddings()
    wrapped = Logits(bert)
    method = CAPTUMS_LAYER_METHODS[name](wrapped, layer, wrapped)
    given = {} if name == "input_x_gradient" else {"baselines": base}
    expected = method.attribute(ids, target=1, **given).sum(-1)[0, 1:-1]
    found = explainer(TEXTS[2], target=1, method=name).scores
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), expected, atol=1e-7, rtol=1e-5
    )


def test_saliency_is_the_sum_of_absolute_gradients(bert, explainer):
    ids, _ = directly(bert, TEXTS[2])
    embedding = bert.get_input_embeddings()
    x = embedding(ids).detach().requires_grad_()
    handle = embedding.register_forward_hook(lambda *_: x)
    try:
        (gradient,) = torch.autograd.grad(bert(ids).logits[0, 1], x)
    finally:
        handle.remove()
    found = explainer(TEXTS[2], target=1, method="saliency").scores
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64),
        gradient.abs().sum(-1)[0, 1:-1],
        atol=1e-9,
        rtol=1e-6,
    )


def test_occlusion_of_a_token_is_sig_of_a_token(explainer):
    occlusion, sig = (explainer(TEXTS, target=1, method=name) for name in ("occlusion", "sig"))
    for one, other in zip(occlusion, sig, strict=True):
        # Captum adds up in float32
        torch.testing.assert_close(one.scores, other.scores, atol=1e-7, rtol=0)


def test_shapley_values_add_up_to_the_whole_change(bert, explainer):
    for text in TEXTS:
        ids, base = directly(bert, text)
        with torch.no_grad():
            before, after = bert(ids).logits[0, 1], bert(base).logits[0, 1]
        found = explainer(text, target=1, method="shapley").scores
        assert sum(found) == pytest.approx(float(before - after), abs=1e-7)  # float32 in Captum


def test_shapley_agrees_with_sampled_contexts(explainer):
    # two estimates of one value: 25 permutations, 200 backgrounds
    permutations = explainer(TEXTS[2], target=1, method="shapley")
    sampled = explainer(TEXTS[2], target=1, method="sig:sampled200")
    size = max(map(abs, sampled.scores))
    for one, other in zip(permutations.scores, sampled.words, strict=True):
        assert abs(one - other.score) < 0.35 * size
        assert other.standard_error < 0.05 * size
    assert abs(sampled.residual) < 0.3 * abs(sum(sampled.scores))


def test_dig_is_the_layer_class(bert, explainer):
    ids, base = directly(bert, TEXTS[2])
    dig = LayerDiscretizedIntegratedGradients(
        lambda ids: bert(ids).logits, bert.get_input_embeddings()
    )
    expected = dig.attribute(ids, base, target=1).sum(-1)[0, 1:-1]
    found = explainer(TEXTS[2], target=1, method="dig").scores
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), expected, atol=1e-9, rtol=0
    )


def test_sequential_dig_says_how_far_it_is_from_exact_sig(explainer):
    found = explainer(TEXTS[2], target=1, method="sequential_dig")
    exact = explainer(TEXTS[2], target=1)
    off = [abs(a - b) for a, b in zip(found.scores, exact.scores, strict=True)]
    assert max(off) == pytest.approx(found.max_abs_word_delta, abs=1e-9)
    assert found.max_abs_word_delta > 1e-6


@pytest.mark.parametrize(("text", "is_far"), [("It's not good.", True), ("a", False)])
def test_sequential_dig_warns_where_it_is_far_from_exact_sig(demo, text, is_far):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = demo(["a", text], method="sequential_dig")[1]
    strongest = max(map(abs, demo(text).scores))
    assert (found.max_abs_word_delta > 0.1 * strongest) == is_far
    assert [str(w.message).partition(",")[0] for w in caught] == [
        "sequential_dig is far from the exact scores of some words"
    ] * is_far


@pytest.mark.parametrize("name", [*METHODS, "sig:two_sided", "sig:auto", "sig:sampled3"])
def test_a_batch_gives_what_each_text_gives_alone(explainer, name):
    batch = explainer(TEXTS, method=name, n_steps=5)
    for text, together in zip(TEXTS, batch, strict=True):
        alone = explainer(text, method=name, n_steps=5)
        torch.testing.assert_close(together.scores, alone.scores, atol=1e-7, rtol=1e-6)
        assert together.method == name


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_every_method_takes_every_baseline(bert, masked_lm, name, baseline):
    tokenizer = wordpiece_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    explainer = TextClassificationExplainer(
        bert, tokenizer, baseline=baseline, masked_lm=masked_lm, n_draws=2
    )
    found = explainer("the movie is good", method=name, n_steps=3)
    assert len(found.scores) == 4
    assert all(np.isfinite(found.scores))
    assert found.baseline == baseline


def test_methods_without_draws_of_a_text_leave_global_generators_alone(explainer):
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    for name in METHODS:
        explainer(TEXTS[:2], method=name, n_steps=2)
    explainer(TEXTS[:2], contexts="sampled4")
    explainer(TEXTS[:2], contexts="auto")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_models_take_every_method(name):
    model = spread(BertForSequenceClassification(BertConfig(**SHAPE))).float()
    expected = TextClassificationExplainer(model, wordpiece_tokenizer())
    half = TextClassificationExplainer(copy.deepcopy(model).bfloat16(), wordpiece_tokenizer())
    one, other = (e("the movie is good", method=name, n_steps=4) for e in (expected, half))
    assert len(one.scores) == len(other.scores) == 4
    assert all(np.isfinite(other.scores))
    if name not in ("dig", "sequential_dig"):  # whose anchors rounding changes
        assert max(abs(a - b) for a, b in zip(one.scores, other.scores, strict=True)) < 0.1


@pytest.mark.parametrize("name", ["random", "gradient_shap", "shapley", "sig:sampled3"])
def test_what_is_drawn_depends_on_the_seed(bert, name):
    def scores(seed: int) -> list[float]:
        explainer = TextClassificationExplainer(bert, wordpiece_tokenizer(), seed=seed)
        return explainer(TEXTS[2], method=name).scores

    assert scores(1) == scores(1)
    assert scores(1) != scores(2)


def test_the_model_is_left_as_it_was(explainer):
    model = explainer.model
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    needs = [w.requires_grad for w in model.parameters()]
    for name in METHODS:
        explainer(TEXTS[0], method=name, n_steps=2)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [w.requires_grad for w in model.parameters()] == needs
    assert all(w.grad is None for w in model.parameters())


def test_random_baselines_are_averaged_and_their_spread_is_told(bert):
    once = TextClassificationExplainer(bert, wordpiece_tokenizer(), baseline="uniform", n_draws=1)
    assert once(TEXTS[2]).words[0].std is None
    often = TextClassificationExplainer(bert, wordpiece_tokenizer(), baseline="uniform", n_draws=20)
    words = often(TEXTS[2], target=1).words
    assert all(word.std > 0 for word in words)
    again = TextClassificationExplainer(
        bert, wordpiece_tokenizer(), baseline="uniform", n_draws=20, seed=1
    )
    pairs = list(zip(words, again(TEXTS[2], target=1).words, strict=True))
    # two means of 20 draws differ by √(2 / 20) of the spread, or a few times that
    assert all(abs(a.score - b.score) < 4 * a.std * 0.1**0.5 + 1e-9 for a, b in pairs)
    fixed = TextClassificationExplainer(bert, wordpiece_tokenizer(), n_draws=20)
    assert fixed(TEXTS[2]).words[0].std is None


def test_a_model_that_takes_single_rows_only_runs_with_every_method():
    config = GPT2Config(
        vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=40, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    model = spread(GPT2ForSequenceClassification(config))
    assert model.config.pad_token_id is None
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    for name in METHODS:
        with pytest.warns(UserWarning, match="one by one"):
            found = explainer(TEXTS[0], method=name, n_steps=2)
        assert all(np.isfinite(found.scores))


def test_deep_lift_says_which_model_it_cannot_follow():
    model = spread(
        AlbertForSequenceClassification(AlbertConfig(**SHAPE, embedding_size=8, hidden_act="relu"))
    )
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    with pytest.raises(ValueError, match="DeepLift cannot follow AlbertForSequenceClassification"):
        explainer(TEXTS[0], method="deep_lift")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_contexts_by_name_and_by_callable(explainer):
    by_name = explainer(TEXTS[2], contexts="two_sided")
    assert by_name.method == "sig:two_sided"
    assert by_name.scores == explainer(TEXTS[2], contexts=contexts.two_sided).scores
    assert by_name.residual is not None
    assert by_name.words[0].standard_error is None
    drawn = explainer(TEXTS[2], contexts=contexts.sampled(3, torch.Generator().manual_seed(0)))
    assert drawn.method == "sig:sampled3"
    assert drawn.words[0].standard_error > 0
    assert type(drawn).from_dict(drawn.to_dict()) == drawn


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "ig:two_sided"}, "ig does not move one word at a time"),
     ({"method": "ig", "contexts": "two_sided"}, "ig does not move one word at a time"),
     ({"method": "sig:two_sided", "contexts": "input"}, "already names contexts"),
     ({"method": "sig:several"}, "contexts 'several' is unknown"),
     ({"method": "lime"}, "method 'lime' is unknown: use one of sig, ig, dig"),
     ({"target": [0, 1]}, "target has 2 entries; wanted one, or 1")],
)  # fmt: skip
def test_names_that_do_not_go_together_are_refused(explainer, options, message):
    with pytest.raises(ValueError, match=message):
        explainer(TEXTS[:1], **options)


def test_each_text_may_have_its_own_target(explainer):
    found = explainer(TEXTS[:3], target=[1, "LABEL_0", 1])
    assert [result.target for result in found] == ["LABEL_1", "LABEL_0", "LABEL_1"]
    alone = explainer(TEXTS[1], target=0)
    torch.testing.assert_close(found[1].scores, alone.scores, atol=1e-9, rtol=0)


@pytest.mark.parametrize("n_draws", [0, 2.5])
def test_draws_must_be_counted(bert, n_draws):
    with pytest.raises(ValueError, match="n_draws must be an integer from 1 to 1,000"):
        TextClassificationExplainer(bert, wordpiece_tokenizer(), n_draws=n_draws)


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor])
def test_draws_and_seed_may_be_integers_of_any_kind(bert, integer):
    def scores(n_draws, seed):
        options = {"baseline": "constant", "n_draws": n_draws, "seed": seed}
        return TextClassificationExplainer(bert, wordpiece_tokenizer(), **options)(TEXTS[0]).scores

    assert scores(integer(2), integer(7)) == scores(2, 7)


def test_sampled_contexts_without_a_generator_draw_from_the_texts_own(explainer):
    state = torch.get_rng_state()
    batch = explainer(TEXTS, contexts=contexts.sampled(3))
    alone = explainer(TEXTS[2], method="sig:sampled3")
    torch.testing.assert_close(batch[2].scores, alone.scores, atol=1e-9, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [(lambda e: e("bad", method="sig:"), ValueError, "method 'sig:' is unknown"),
     (lambda e: e("bad", method=None), ValueError, "method None is unknown"),
     (lambda e: e("bad", contexts=3), TypeError, "contexts must be a name, or a callable .* got 3"),
     (lambda e: e("bad", contexts=contexts.auto), TypeError, r"such as .* contexts.auto\(\), got"),
     (lambda e: e("bad", target=1.0), TypeError, "target must be a label, or a tuple or list"),
     (lambda e: e(None), TypeError, "texts must be a string or a list of strings, got NoneType"),
     (lambda e: TextClassificationExplainer(e.model, e.tokenizer, seed=None), ValueError,
      "seed must be an integer")],
)  # fmt: skip
def test_wrong_types_are_told_at_the_door(explainer, call, error, message):
    with pytest.raises(error, match=message):
        call(explainer)


@pytest.mark.parametrize("method", METHODS)
def test_inference_mode_and_autocast_change_no_method(explainer, method):
    text = TEXTS[0]
    expected = explainer(text, method=method)
    with torch.inference_mode():
        assert explainer(text, method=method) == expected
    with torch.autocast("cpu", torch.bfloat16):
        found = explainer(text, method=method)
    assert [word.word for word in found.words] == [word.word for word in expected.words]


@pytest.mark.parametrize("method", METHODS)
def test_other_threads_meet_the_model_without_hooks(bert, method):
    """Captum's DeepLift, for one, hooks every module that it can."""
    ids = torch.tensor([[2, 5, 6, 3]])
    explain = TextClassificationExplainer(bert, wordpiece_tokenizer())
    expected = bert(ids).logits
    seen = []

    def predict(*_: object) -> None:
        if threading.current_thread() is threading.main_thread() and not seen:
            seen.append(None)
            other = threading.Thread(target=lambda: seen.append(bert(ids).logits.detach()))
            other.start()
            other.join()
            del seen[0]

    during = bert.bert.encoder.layer[0].register_forward_pre_hook(predict)
    try:
        explain(TEXTS[0], method=method)
    finally:
        during.remove()
    assert len(seen) == 1
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize("method", ["gradient_shap", "shapley", "deep_lift"])
def test_threads_draw_and_copy_apart(explainer, method):
    expected = {text: explainer(text, method=method).scores for text in TEXTS}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            texts = TEXTS * 6
            results = pool.map(lambda text: explainer(text, method=method).scores, texts)
            assert [expected[text] for text in texts] == list(results)
    finally:
        sys.setswitchinterval(before)


def test_shapley_leaves_the_global_generators_alone(explainer):
    state, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    explainer(TEXTS[0], method="shapley")
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == of_numpy).all()


def test_auto_tells_which_scores_are_exact_sampled_or_the_mean_of_both_sides(demo):
    text = "The jokes are old , yet the film is charming , and nothing in it is ever dull ."
    made = type(demo)(demo.model, demo.tokenizer, level="token", seed=1)
    long, short = made([text, "not good"], method="sig:auto")
    sides = made(text, method="sig:two_sided")
    assert long.method == short.method == "sig:auto"
    assert [word.standard_error for word in short.words] == [0, 0]
    assert short.residual == pytest.approx(0, abs=1e-4)
    assert {word.standard_error is None for word in long.words} == {True, False}
    assert abs(long.residual) < abs(sides.residual)
    for word, of_sides in zip(long.words, sides.words, strict=True):
        assert (word.first, word.last) == pytest.approx((of_sides.first, of_sides.last), abs=1e-5)
        if word.standard_error is None:
            assert word.agreement == "additive"
            assert word.score == pytest.approx(of_sides.score, abs=1e-5)
    assert made(text, contexts=contexts.auto(0.05)).method == "sig:auto"
    again = made(text, method="sig:auto")
    assert again.scores == pytest.approx(long.scores, abs=1e-5)
    assert type(long).from_dict(long.to_dict()) == long


@pytest.mark.parametrize("chosen", ["auto", contexts.auto()])
def test_auto_is_for_scores_of_words_alone(demo, chosen):
    for method, why in [("sequential_dig", "use sig:auto"), ("ig", "it has no contexts")]:
        with pytest.raises(ValueError, match=why):
            demo("good", method=method, contexts=chosen)

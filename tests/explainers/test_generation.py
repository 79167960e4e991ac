"""Every prompt word by every target token, against a plain loop over ids, words and tokens."""

import dataclasses
import warnings

import pytest
import torch
import transformers
from captum.attr import (
    FeatureAblation,
    LLMAttribution,
    LLMGradientAttribution,
    TextTokenInput,
)
from torch import nn

from captum_sig import (
    LayerSequentialIntegratedGradients,
    TextGenerationExplainer,
    contexts,
)
from captum_sig.attr.hooks import input_device
from captum_sig.quadrature import rule
from tests import oracle
from tests.plain_loop import (
    assert_equal,
    plain_loop,
    sequence_at_prompt,
    word_positions,
)
from tests.tiny_language_models import (
    END,
    VOCAB,
    WITH_CACHE,
    WITHOUT_CACHE,
    causal,
    logits_of,
    tolerance,
)
from tests.tiny_models import byte_level_tokenizer, unsplit_tokenizer, wordpiece_tokenizer

PROMPT = "the good movie is goodmovie, so"
TARGET = " good movie a"


BERT = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48}  # fmt: skip


def explainer(model: nn.Module, **options) -> TextGenerationExplainer:
    tokenizer = options.pop("tokenizer", None) or byte_level_tokenizer()
    return TextGenerationExplainer(model, tokenizer, **{"baseline": "eos", **options})


@pytest.mark.parametrize("level", ["word", "token"])
@pytest.mark.parametrize("name", [*WITH_CACHE, *WITHOUT_CACHE])
def test_the_matrix_is_that_of_a_plain_loop(name, level):
    explain = explainer(causal(name), level=level)
    result = explain(PROMPT, TARGET, internal_batch_size=3)
    n_words = 7 if level == "word" else len(explain.tokenizer(PROMPT)["input_ids"])
    assert result.matrix.shape == (len(result.target_tokens), n_words)
    assert len(result.words) == n_words
    assert result.matrix.abs().max() > 0.03
    assert_equal(result.matrix, plain_loop(explain, result), tolerance(name))
    assert result.max_abs_word_delta <= tolerance(name)
    if name in WITH_CACHE:
        assert result.without_cache is None
    else:
        assert WITHOUT_CACHE[name][1] in result.without_cache


def test_words_are_where_they_stand():
    result = explainer(causal("gpt2"))(PROMPT, TARGET)
    words = ["the", "good", "movie", "is", "goodmovie", ",", "so"]
    assert [word.word for word in result.words] == words
    assert all(PROMPT[word.start : word.end] == word.word for word in result.words)
    assert "".join(token.token for token in result.target_tokens) == result.target == TARGET


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "bloom"])
@pytest.mark.parametrize("size", [1, 2, 5, None])
def test_the_cache_changes_nothing(name, size):
    explain = explainer(causal(name, torch.float32), level="token")
    on, off = (
        explain(PROMPT, TARGET, use_cache=use, internal_batch_size=size) for use in (True, False)
    )
    assert on.without_cache is None
    assert off.without_cache == "it was not requested"
    assert_equal(on.matrix, off.matrix, 1e-5)


def test_special_tokens_are_no_words_and_none_stands_before_the_target():
    tokenizer = wordpiece_tokenizer()  # [CLS] … [SEP]
    explain = explainer(causal("llama"), tokenizer=tokenizer, baseline="mask")
    result = explain("the movie is un[MASK]believable", " a mess")
    assert [word.word for word in result.words] == ["the", "movie", "is", "un", "believable"]
    assert [token.token for token in result.target_tokens] == ["a", "mess"]
    assert_equal(result.matrix, plain_loop(explain, result, baseline=4), 1e-5)


def test_sentencepiece_targets_have_the_tokens_they_have_behind_the_prompt():
    tokenizer = unsplit_tokenizer()
    explain = explainer(causal("gpt2"), tokenizer=tokenizer, baseline="pad")
    result = explain("the good movies", " good")
    assert [tokenizer.convert_ids_to_tokens(t.id) for t in result.target_tokens] == ["▁good"]
    assert_equal(result.matrix, plain_loop(explain, result, baseline=2), 1e-10)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("level", ["word", "token"])
def test_prompts_of_mixed_lengths_are_each_as_if_alone(side, level):
    tokenizer = byte_level_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, side
    explain = explainer(causal("gpt2"), tokenizer=tokenizer, level=level)
    prompts = [PROMPT, "a movie", "good, good, good movie", "b"]
    targets = [TARGET, " is", [5, 6, 7], " so good"]
    results = explain(prompts, targets)
    assert [result.prompt for result in results] == prompts
    for result, prompt, target in zip(results, prompts, targets, strict=True):
        assert_equal(result.matrix, plain_loop(explain, result), 1e-10)
        assert result == explain(prompt, target)
    assert [r.target for r in explain(prompts[:2], " is")] == [" is", " is"]


def test_the_targets_own_tokens_have_columns():
    explain = explainer(causal("gpt2"), level="token")
    result = explain(PROMPT, TARGET, attribute_target=True, internal_batch_size=4)
    n_words, n_tokens = len(result.words), len(result.target_tokens)
    assert result.matrix.shape == (n_tokens, n_words + n_tokens - 1)
    assert len(result.columns) == n_words + n_tokens - 1
    ids = torch.tensor([explain.tokenizer(PROMPT + TARGET)["input_ids"]])
    logits = logits_of(explain.model)

    def log_probabilities(ids):
        rows = logits(ids[:, :-1])[0, n_words - 1 :].log_softmax(-1)
        return rows[range(n_tokens), [token.id for token in result.target_tokens]].detach()

    for number in range(n_tokens - 1):
        changed = ids.clone()
        changed[0, n_words + number] = END
        expected = log_probabilities(ids) - log_probabilities(changed)
        expected[number] = 0  # what is read off this token's own place is not moved by it
        assert (result.matrix[: number + 1, n_words + number] == 0).all()
        later = slice(number + 1, None)
        assert_equal(result.matrix[later, n_words + number], expected[later], 1e-10)
    assert_equal(result.matrix[:, :n_words], plain_loop(explain, result), 1e-10)


@pytest.mark.parametrize(("target", "contrast"), [(" good", " bad"), (" good", " a movie"),
                                                  (" good movie", "s")])  # fmt: skip
def test_a_contrast_is_the_difference_of_two_targets(target, contrast):
    explain = explainer(causal("gpt2"))
    result = explain(PROMPT, target, contrast=contrast)
    one, other = explain(PROMPT, target), explain(PROMPT, contrast)
    assert_equal(result.sequence_scores, one.sequence_scores - other.sequence_scores, 1e-12)
    both = min(len(one.matrix), len(other.matrix))
    assert_equal(result.matrix[:both], one.matrix[:both] - other.matrix[:both], 1e-12)
    assert len(result.rows) == len(result.matrix) == max(len(one.matrix), len(other.matrix))
    assert_equal(result.matrix[both:].sum(0), one.matrix[both:].sum(0) - other.matrix[both:].sum(0),
                 1e-12)  # fmt: skip
    assert_equal(result.log_probabilities, one.log_probabilities, 0)
    assert_equal(result.contrast_log_probabilities, other.log_probabilities, 0)
    assert result.contrast == contrast


@pytest.mark.parametrize("use_cache", [True, False])
def test_attributions_are_sig_of_the_sequence(use_cache):
    explain = explainer(causal("gpt2"))
    result = explain(PROMPT, TARGET, attributions=True, n_steps=4, use_cache=use_cache,
                     internal_batch_size=5)  # fmt: skip
    f, x, b = sequence_at_prompt(explain, result)
    words = word_positions(explain.tokenizer, PROMPT)
    exact = oracle.sequential_integrated_gradients(f, x, b, words, rule("gausslegendre", 4))
    expected = torch.stack([exact[0, word].sum(0) for word in words])
    assert_equal(result.attributions, expected, 1e-10)
    assert result.attributions.shape == (len(words), 32)
    assert_equal(result.word_deltas, result.attributions.sum(1) - result.sequence_scores, 1e-10)


def test_attributions_take_one_backward_pass_a_row(monkeypatch):
    explain = explainer(causal("llama"))
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or grad(*a, **k))
    result = explain(PROMPT, TARGET, attributions=True, n_steps=3, internal_batch_size=1)
    assert len(calls) == 3 * len(result.words)


@pytest.mark.parametrize("size", [1, None])
def test_attributions_at_the_inputs_end_see_every_word(size):
    explain = explainer(causal("gpt2"))
    options = {"attributions": True, "internal_batch_size": size}
    found = explain(PROMPT, TARGET, tolerance=1e-5, **options)
    exact = explain(PROMPT, TARGET, n_steps=64, use_cache=False, **options)
    assert_equal(found.attributions, exact.attributions, 1e-4)


def test_attributions_to_a_tolerance():
    explain = explainer(causal("llama"))
    result = explain(PROMPT, TARGET, attributions=True, tolerance=1e-3)
    assert result.converged.all()
    assert_equal(result.attributions.sum(1), result.sequence_scores, 1e-2)
    contrast = explain(PROMPT, " good", contrast=" bad", attributions=True, tolerance=1e-3)
    assert_equal(contrast.attributions.sum(1), contrast.sequence_scores, 1e-2)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("skip", [(), ("Ġgood", 83)])
def test_captums_own_way_gives_the_same(name, skip):
    explain = explainer(causal(name), level="token")
    tokenizer, model = explain.tokenizer, explain.model
    ids = [tokenizer.convert_tokens_to_ids(t) if isinstance(t, str) else t for t in skip]
    captums = LLMGradientAttribution(
        LayerSequentialIntegratedGradients(model, model.get_input_embeddings()), tokenizer
    )
    inputs = TextTokenInput(PROMPT, tokenizer, baselines=END, skip_tokens=ids or None)
    theirs = captums.attribute(inputs, target=TARGET, n_steps=128)
    ours = explain(PROMPT, TARGET, skip_tokens=skip)
    n_tokens = len(tokenizer(PROMPT)["input_ids"])
    assert ours.matrix.shape[1] == n_tokens if not skip else ours.matrix.shape[1] < n_tokens
    assert_equal(ours.matrix, theirs.token_attr, 1e-4)
    assert_equal(ours.sequence_scores, theirs.seq_attr, 1e-4)
    as_captums = ours.to_captum_result()
    assert len(as_captums.input_tokens) == len(theirs.input_tokens)
    assert as_captums.token_attr.shape == theirs.token_attr.shape


def test_captums_feature_ablation_gives_the_same():
    explain = explainer(causal("gpt2", torch.float32), level="token")
    ablation = LLMAttribution(FeatureAblation(explain.model), explain.tokenizer)
    inputs = TextTokenInput(PROMPT, explain.tokenizer, baselines=END)
    theirs = ablation.attribute(inputs, target=TARGET, use_cached_outputs=False)
    assert_equal(explain(PROMPT, TARGET).matrix, theirs.token_attr, 1e-5)


def rows_through(model: nn.Module, call) -> list[tuple[int, int]]:
    """(rows, positions) of each pass."""
    seen = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    call()
    handle.remove()
    return seen


def test_a_sweep_is_a_pass_for_the_input_and_one_row_for_each_word():
    explain = explainer(causal("gpt2"), level="token")
    n_prompt = len(explain.tokenizer(PROMPT)["input_ids"])
    n_target = len(explain.tokenizer(TARGET)["input_ids"])
    length = n_prompt + n_target - 1
    off = rows_through(explain.model, lambda: explain(PROMPT, TARGET, use_cache=False))
    assert sum(rows for rows, _ in off) == n_prompt + 1 + 1  # the last checks the hook
    assert {positions for _, positions in off} == {length}
    on = rows_through(explain.model, lambda: explain(PROMPT, TARGET, internal_batch_size=1))
    assert on[0] == (1, length)
    # The unchanged input through the cache: the check, and two to find and check the last layer.
    assert on[1:4] == [(1, n_target + 1)] * 3
    begins = [*range(n_prompt - 1), n_prompt - 2, n_prompt - 2]
    assert on[4:] == [(1, length - begin) for begin in begins]


def test_what_equals_the_baseline_costs_nothing():
    explain = explainer(causal("gpt2"), level="token")
    with pytest.warns(UserWarning, match="nothing differs"):
        result = TextGenerationExplainer(
            explain.model, wordpiece_tokenizer(), baseline="unk", level="token"
        )("zz qq", " a mess")
    assert (result.matrix == 0).all()
    assert result.matrix.shape == (2, 2)


@pytest.mark.parametrize("name", ["gpt2", "rwkv"])
def test_the_model_is_left_as_it_was(name):
    model = causal(name)
    explain = explainer(model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    config = model.config.to_dict()
    explain(PROMPT, TARGET, attributions=True, n_steps=2)
    with torch.inference_mode():
        explain(PROMPT, TARGET)
    broken = model.get_output_embeddings().register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explain(PROMPT, TARGET)
    broken.remove()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert model.config.to_dict() == config
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.training


def test_a_model_that_would_see_the_target_is_refused():
    model = transformers.BertLMHeadModel(transformers.BertConfig(**BERT))
    with pytest.raises(ValueError, match="reads in both directions"):
        explainer(model)
    decoder = transformers.BertLMHeadModel(transformers.BertConfig(**BERT, is_decoder=True))
    explain = explainer(decoder.double().eval())
    result = explain(PROMPT, TARGET)
    assert result.without_cache is None
    assert_equal(result.matrix, plain_loop(explain, result), 1e-10)


def test_a_cache_that_lies_is_not_used():
    model = causal("gpt2")
    attention = model.transformer.h[0].attn

    def shifted(module, args, kwargs):
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and args[0].shape[1] < 8:
            return (args[0] + 1, *args[1:]), kwargs
        return None

    handle = attention.register_forward_pre_hook(shifted, with_kwargs=True)
    explain = explainer(model, level="token")
    result = explain(PROMPT, TARGET)
    handle.remove()
    assert "change log-probabilities by" in result.without_cache
    assert_equal(result.matrix, plain_loop(explain, result), 1e-10)


def test_generation_is_greedy_and_done_once():
    model = causal("gpt2")
    explain = explainer(model)
    ids = torch.tensor([explain.tokenizer(PROMPT)["input_ids"]])
    greedy = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                            max_new_tokens=25, pad_token_id=END)  # fmt: skip
    result = explain(PROMPT)
    assert [token.id for token in result.target_tokens] == greedy[0, ids.shape[1] :].tolist()
    assert len(result.target_tokens) <= 25
    short = explain(PROMPT, None, {"max_new_tokens": 3, "return_dict_in_generate": True})
    assert [t.id for t in short.target_tokens] == [t.id for t in result.target_tokens][:3]
    assert_equal(short.matrix, plain_loop(explain, short), 1e-10)


def test_no_more_is_generated_than_the_model_can_read():
    explain = explainer(causal("gpt2"))
    result = explain("a" * 120)
    assert len(result.target_tokens) == 128 - 120 + 1
    assert len(explain("a" * 120, None, {"max_length": 123}).target_tokens) == 3


def test_skipped_tokens_are_held():
    explain = explainer(causal("gpt2"))
    whole = explain(PROMPT, TARGET)
    result = explain(PROMPT, TARGET, skip_tokens=["Ġgood", explain.tokenizer.vocab[","]])
    assert [w.word for w in result.words] == ["the", "movie", "is", "movie", "so"]
    assert_equal(result.matrix[:, [0, 1, 2, 4]], whole.matrix[:, [0, 2, 3, 6]], 1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_stay_as_they_are(dtype):
    model = causal("llama", dtype)
    result = explainer(model)(PROMPT, TARGET)
    assert {p.dtype for p in model.parameters()} == {dtype}
    exact = explainer(causal("llama", torch.float32))(PROMPT, TARGET)
    assert_equal(result.matrix, exact.matrix, 0.2)
    assert result.matrix.dtype == torch.float64


def test_quantized_models_are_asked_as_they_are():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its older quantization
        model = torch.ao.quantization.quantize_dynamic(
            causal("llama", torch.float32), {nn.Linear}, dtype=torch.qint8
        )
    explain = explainer(model)
    with pytest.warns(UserWarning, match="depends on the rows beside it"):  # rows share a scale
        result = explain(PROMPT, TARGET, use_cache=False)
    alone = explain(PROMPT, TARGET, use_cache=False, internal_batch_size=1)
    assert torch.equal(result.matrix, alone.matrix)
    # the scales depend on the positions, too, which are not all the loop's
    assert_equal(result.matrix, plain_loop(explain, result), 0.5)
    assert result.matrix.abs().max() > 0.5


def test_ids_go_where_an_offloading_hook_takes_them():
    model = causal("gpt2")
    layer = model.get_input_embeddings()
    assert input_device(model, layer) == torch.device("cpu")
    layer._hf_hook = type("Hook", (), {"execution_device": "meta"})
    assert input_device(model, layer) == torch.device("meta")


def test_a_compiled_model_is_met_in_the_original():
    model = causal("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        compiled = torch.compile(model)
    assert explainer(compiled)(PROMPT, TARGET) == explainer(model)(PROMPT, TARGET)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_trained_model(shared, use_cache):
    with pytest.warns(UserWarning, match="no mask token: its unk token"):
        explain = TextGenerationExplainer.from_pretrained(shared / "models/gpt2-movies")
    prompt = "The film is a tender and funny story about love, but the acting is"
    result = explain(prompt, use_cache=use_cache, internal_batch_size=4)
    assert_equal(result.matrix, plain_loop(explain, result, baseline=0), 1e-4)
    assert result.max_abs_word_delta < 1e-4


class BothSides(contexts.Sampled):
    """Contexts of which a result has everything there is."""

    def __call__(self, n_words: int) -> torch.Tensor:
        """Return the two sides."""
        return contexts.two_sided(n_words)


def test_no_field_is_left_out_of_the_dictionary():
    result = explainer(causal("gpt2"))(
        PROMPT, TARGET, attributions=True, tolerance=1e-2, contexts=BothSides(2), interactions=2
    )
    names = {field.name for field in dataclasses.fields(result)}
    assert set(result.to_dict()) == names - {"without_cache", "contrast"}

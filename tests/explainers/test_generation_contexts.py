"""The matrix in other contexts, against a plain loop over backgrounds, words and tokens."""

import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from captum_sig import GenerationAttribution, TextGenerationExplainer, contexts
from captum_sig.explainers.scoring import text_generator
from captum_sig.quadrature import rule
from captum_sig.viz import heatmap
from tests import oracle
from tests.plain_loop import (
    assert_equal,
    plain_loop,
    prompt_ids,
    sequence_at_prompt,
    word_positions,
)
from tests.tiny_language_models import (
    END,
    WITH_CACHE,
    WITHOUT_CACHE,
    causal,
    chat_tokenizer,
    encoder_decoder,
    logits_of,
    tolerance,
)
from tests.tiny_models import MASK, PAD, byte_level_tokenizer, wordpiece_tokenizer

PROMPT = "the good movie is goodmovie, so"
N_WORDS = 7
TARGET = " good movie a"


def explainer(model: nn.Module, **options) -> TextGenerationExplainer:
    tokenizer = options.pop("tokenizer", None) or byte_level_tokenizer()
    return TextGenerationExplainer(model, tokenizer, **{"baseline": "eos", **options})


def both_and_another(n_words: int) -> torch.Tensor:
    """Both sides, and every second word."""
    others = torch.arange(n_words) % 2 == 0
    return torch.stack([torch.ones_like(others), others, torch.zeros_like(others)])


def effects(explain, result, keeps) -> torch.Tensor:
    """(K, T, W) by the plain loop."""
    return torch.stack([plain_loop(explain, result, kept=kept) for kept in keeps.tolist()])


@pytest.mark.parametrize("name", [*WITH_CACHE, *WITHOUT_CACHE])
def test_the_matrix_is_that_of_a_plain_loop(name):
    explain = explainer(causal(name))
    result = explain(PROMPT, TARGET, contexts=both_and_another, internal_batch_size=3)
    expected = effects(explain, result, both_and_another(N_WORDS))
    last, _, first = expected
    assert_equal(result.matrix, expected.mean(0), tolerance(name))
    assert_equal(result.matrix_first, first, tolerance(name))
    assert_equal(result.matrix_last, last, tolerance(name))
    assert (first - last).abs().max() > 0.03
    assert result.max_abs_word_delta <= tolerance(name)
    assert (result.without_cache is None) == (name in WITH_CACHE)


def test_words_have_both_sides_of_the_whole_target():
    explain = explainer(causal("gpt2"))
    result = explain(PROMPT, TARGET, contexts="two_sided")
    last, first = effects(explain, result, contexts.two_sided(N_WORDS)).sum(1)
    assert [word.first for word in result.words] == pytest.approx(first.tolist(), abs=1e-10)
    assert [word.last for word in result.words] == pytest.approx(last.tolist(), abs=1e-10)
    scores = [word.score for word in result.words]
    assert scores == pytest.approx(((first + last) / 2).tolist(), abs=1e-10)
    assert None not in {word.agreement for word in result.words}
    assert (result.method, result.standard_error) == ("sig:two_sided", None)
    assert result.words[0].standard_error is None
    assert "sig:two_sided" in result.summary


def log_probability(explain, ids: list[int], result) -> float:
    target = torch.tensor([token.id for token in result.target_tokens])
    of_tokens = oracle.target_log_probabilities(
        logits_of(explain.model), torch.tensor([ids]), target
    )
    return float(of_tokens.sum())


def test_the_residual_is_what_the_scores_sum_to_beyond_the_games_value():
    explain = explainer(causal("gpt2"), level="token")
    result = explain(PROMPT, TARGET, contexts="two_sided")
    ids = prompt_ids(explain.tokenizer, PROMPT)
    value = log_probability(explain, ids, result)
    value -= log_probability(explain, [END] * len(ids), result)
    expected = float(result.sequence_scores.sum()) - value
    assert result.residual == pytest.approx(expected, abs=1e-9)
    assert abs(expected) > 0.01
    assert explain(PROMPT, TARGET).residual is None


def test_sampled_backgrounds_have_standard_errors_of_tokens_and_of_their_sum():
    explain = explainer(causal("gpt2"), seed=3)
    result = explain(PROMPT, TARGET, contexts="sampled4")
    sampled = contexts.sampled(4, text_generator(PROMPT, 3))
    expected = effects(explain, result, sampled(N_WORDS))
    assert_equal(result.matrix, expected.mean(0), 1e-10)
    assert_equal(result.standard_error, sampled.standard_error(expected), 1e-10)
    errors = [word.standard_error for word in result.words]
    assert errors == pytest.approx(sampled.standard_error(expected.sum(1)).tolist(), abs=1e-10)
    assert result.method == "sig:sampled4"
    assert result == explain(PROMPT, TARGET, contexts=contexts.sampled(4))


def test_auto_gives_shapley_values_of_few_words():
    explain = explainer(causal("gpt2"))
    prompt = "the good movie is"
    result = explain(prompt, " a good", contexts="auto")
    ids = torch.tensor([prompt_ids(explain.tokenizer, prompt)])
    target = torch.tensor([token.id for token in result.target_tokens])

    def of_target(ids):
        return oracle.target_log_probabilities(logits_of(explain.model), ids, target).sum()

    words = word_positions(explain.tokenizer, prompt)
    base = torch.full_like(ids, END)
    exact = oracle.shapley_values(of_target, ids, base, words)
    assert_equal(result.sequence_scores, exact, 1e-10)
    assert result.residual == pytest.approx(0, abs=1e-9)
    assert (result.standard_error == 0).all()
    assert {word.standard_error for word in result.words} == {0}
    assert result.method == "sig:auto"


@pytest.mark.parametrize("options", [{}, {"contrast": " bad"}, {"attribute_target": True}])
def test_auto_samples_the_words_of_one_game(options):
    explain = explainer(causal("gpt2"), level="token")
    few = contexts.auto(0.02, max_rows=300)
    prompts = [PROMPT, "a good movie, so good"]
    results = explain(prompts, TARGET, contexts=few, **options)
    sides = explain(prompts, TARGET, contexts="two_sided", **options)
    for prompt, result, both in zip(prompts, results, sides, strict=True):
        assert result == explain(prompt, TARGET, contexts=few, use_cache=True, **options)
        assert_equal(result.matrix_first, both.matrix_first, 1e-10)
        assert_equal(result.matrix_last, both.matrix_last, 1e-10)
        assert any(word.standard_error for word in result.words)
        assert abs(result.residual) < abs(both.residual)
        assert GenerationAttribution.from_dict(result.to_dict()) == result


def test_auto_integrates_no_gradients():
    with pytest.raises(ValueError, match="leave attributions out, or use other contexts"):
        explainer(causal("gpt2"))(PROMPT, TARGET, contexts="auto", attributions=True)


def test_draws_depend_on_the_prompt_and_the_seed_alone():
    model = causal("gpt2")
    explain, again, other = (explainer(model, seed=seed) for seed in (1, 1, 2))
    prompts = [PROMPT, "a good movie, so good", PROMPT]
    results = explain(prompts, TARGET, contexts="sampled3")
    assert results[0] == results[2]
    for prompt, result in zip(prompts, results, strict=True):
        assert result == again(prompt, TARGET, contexts="sampled3")
        assert result != other(prompt, TARGET, contexts="sampled3")
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        explainer(model, seed=-1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "bloom"])
@pytest.mark.parametrize("size", [1, 4, None])
def test_the_cache_changes_nothing(name, size):
    explain = explainer(causal(name, torch.float32), level="token")
    on, off = (
        explain(PROMPT, TARGET, use_cache=use, contexts="sampled4", internal_batch_size=size)
        for use in (True, False)
    )
    assert on.without_cache is None
    for mine, plain in ((on.matrix, off.matrix), (on.standard_error, off.standard_error)):
        assert_equal(mine, plain, 2e-5)


@pytest.mark.parametrize("contrast", [" bad", " a movie", " good movies a b"])
def test_a_contrast_is_one_game_of_the_difference(contrast):
    explain = explainer(causal("gpt2"))
    for named in ("two_sided", "sampled4"):
        result = explain(PROMPT, TARGET, contrast=contrast, contexts=named)
        one, other = (explain(PROMPT, text, contexts=named) for text in (TARGET, contrast))
        assert_equal(result.sequence_scores, one.sequence_scores - other.sequence_scores, 1e-10)
        assert result.residual == pytest.approx(one.residual - other.residual, abs=1e-9)
    sides = explain(PROMPT, TARGET, contrast=contrast, contexts="two_sided")
    one, other = (explain(PROMPT, text, contexts="two_sided") for text in (TARGET, contrast))
    expected = one.matrix_first.sum(0) - other.matrix_first.sum(0)
    assert_equal(sides.matrix_first.sum(0), expected, 1e-10)
    assert [word.first for word in sides.words] == pytest.approx(expected.tolist(), abs=1e-10)
    sampled = contexts.sampled(4, text_generator(PROMPT, 0))
    keeps = sampled(N_WORDS)
    differences = torch.sub(
        *(effects(explain, of, keeps).sum(1) for of in (one, other))
    )  # both targets have the same draws
    errors = [word.standard_error for word in result.words]
    assert errors == pytest.approx(sampled.standard_error(differences).tolist(), abs=1e-9)


@pytest.mark.parametrize("size", [2, None])
def test_the_targets_own_tokens_are_words_of_the_game(size):
    explain = explainer(causal("gpt2"), level="token")
    result = explain(PROMPT, TARGET, attribute_target=True, contexts="two_sided",
                     internal_batch_size=size)  # fmt: skip
    ids = torch.tensor([explain.tokenizer(PROMPT + TARGET)["input_ids"]])
    n_tokens = len(result.target_tokens)
    start = ids.shape[1] - n_tokens
    logits = logits_of(explain.model)

    def log_probabilities(ids):
        rows = logits(ids[:, :-1])[0, start - 1 :].log_softmax(-1)
        return rows[range(n_tokens), [token.id for token in result.target_tokens]].detach()

    all_base = torch.full_like(ids, END)
    for column in range(start + n_tokens - 1):
        alone, without = all_base.clone(), ids.clone()
        alone[0, column], without[0, column] = ids[0, column], END
        first = log_probabilities(alone) - log_probabilities(all_base)
        last = log_probabilities(ids) - log_probabilities(without)
        if column >= start:  # a token's own effect on itself, and on those before
            first[: column - start + 1] = last[: column - start + 1] = 0
            for side in (result.matrix, result.matrix_first, result.matrix_last):
                assert (side[: column - start + 1, column] == 0).all()
        assert_equal(result.matrix_first[:, column], first, 1e-10)
        assert_equal(result.matrix_last[:, column], last, 1e-10)
    value = (log_probabilities(ids) - log_probabilities(all_base)).sum()
    expected = float(result.matrix.sum() - value)
    assert result.residual == pytest.approx(expected, abs=1e-9)
    assert (result.matrix_first[:, start:] != 0).any()


def test_later_tokens_have_no_effect_whatever_rounding_says():
    explain = explainer(causal("llama", torch.bfloat16), level="token")
    result = explain(PROMPT, TARGET, attribute_target=True, contexts="sampled3",
                     use_cache=False, internal_batch_size=5)  # fmt: skip
    n_words = len(result.words)
    for number in range(len(result.target_tokens) - 1):
        for matrix in (result.matrix, result.standard_error):
            assert (matrix[: number + 1, n_words + number] == 0).all()


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_models_with_encoder_and_decoder(name):
    explain = TextGenerationExplainer(encoder_decoder(name), wordpiece_tokenizer())
    prompt, target = "the movie is goody, bad", "gorgeous mess"
    result = explain(prompt, target, attribute_target=True, contexts="two_sided")
    source = explain.tokenizer(prompt, return_tensors="pt")["input_ids"]
    ids = [token.id for token in result.target_tokens]
    n_source = source.shape[1]
    both = torch.cat([source, torch.tensor([[PAD, *ids[:-1]]])], 1)

    def log_probabilities(both):
        with torch.no_grad():
            logits = explain.model(
                input_ids=both[:, :n_source], decoder_input_ids=both[:, n_source:]
            ).logits
        return logits[0].log_softmax(-1)[range(len(ids)), ids].double()

    words = [[1], [2], [3], [4, 5], [6], [7]]
    words += [[n_source + 1 + number] for number in range(len(ids) - 1)]
    base = both.clone()
    for position in sum(words, []):
        base[0, position] = MASK if both[0, position] > MASK else both[0, position]
    for number, word in enumerate(words):
        alone, without = base.clone(), both.clone()
        alone[0, word], without[0, word] = both[0, word], base[0, word]
        first = log_probabilities(alone) - log_probabilities(base)
        last = log_probabilities(both) - log_probabilities(without)
        assert_equal(result.matrix_first[:, number], first, 1e-10)
        assert_equal(result.matrix_last[:, number], last, 1e-10)
    contrasted = explain(prompt, target, contrast="mess", contexts="two_sided")
    parts = [explain(prompt, text, contexts="two_sided") for text in (target, "mess")]
    assert_equal(contrasted.sequence_scores,
                 parts[0].sequence_scores - parts[1].sequence_scores, 1e-10)  # fmt: skip


@pytest.mark.parametrize("use_cache", [True, False])
def test_attributions_are_sig_in_the_backgrounds(use_cache):
    explain = explainer(causal("gpt2"))
    result = explain(PROMPT, TARGET, attributions=True, n_steps=4, use_cache=use_cache,
                     contexts="two_sided", internal_batch_size=5)  # fmt: skip
    f, x, b = sequence_at_prompt(explain, result)
    words = word_positions(explain.tokenizer, PROMPT)
    expected = torch.zeros(len(words), x.shape[-1], dtype=x.dtype)
    for kept in contexts.two_sided(len(words)).tolist():
        for number, word in enumerate(words):
            point = oracle.in_background(x, b, words, kept, number)
            exact = oracle.sequential_integrated_gradients(
                f, point, b, [word], rule("gausslegendre", 4)
            )
            expected[number] += exact[0, word].sum(0) / 2
    assert_equal(result.attributions, expected, 1e-10)
    assert_equal(result.word_deltas, result.attributions.sum(1) - result.sequence_scores, 1e-10)


@pytest.mark.parametrize("options", [{}, {"contexts": "two_sided"}, {"contexts": "sampled3"},
                                     {"attribute_target": True}, {"contrast": " bad"}])  # fmt: skip
def test_interactions_are_second_differences_of_the_whole_target(options):
    explain = explainer(causal("gpt2"))
    result = explain(PROMPT, TARGET, interactions=3, **options)
    words = word_positions(explain.tokenizer, PROMPT)
    ids = prompt_ids(explain.tokenizer, PROMPT)

    def value(*left_out: int) -> float:
        changed = list(ids)
        for position in (position for word in left_out for position in words[word]):
            changed[position] = END
        of_target = log_probability(explain, changed, result)
        if result.contrast is None:
            return of_target
        other = explain(PROMPT, result.contrast)
        return of_target - log_probability(explain, changed, other)

    scores = [abs(word.score) for word in result.words]
    strongest = sorted(range(N_WORDS), key=lambda word: -scores[word])[:3]
    assert {word for pair in result.interactions for word in pair.words} == set(strongest)
    assert len(result.interactions) == 3
    for pair in result.interactions:
        i, j = pair.words
        expected = value() - value(i) - value(j) + value(i, j)
        assert pair.value == pytest.approx(expected, abs=1e-9)
    assert GenerationAttribution.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert explain(PROMPT, TARGET, **options).interactions is None


def test_pairs_are_shown():
    explain = explainer(causal("gpt2"))
    result = explain(PROMPT, TARGET, interactions=4)
    pair = next(pair for pair in result.interactions if pair.kind != "independent")
    line = " + ".join(result.words[word].word for word in pair.words)
    line += f": {pair.kind} {pair.value:+.4f}"
    assert line in heatmap.to_plain(result).splitlines()
    assert f"{pair.value:+.4f} nats" in result.to_html()
    console = Console(width=200)
    with console.capture() as capture:
        console.print(heatmap.to_terminal(result, 200))
    assert line in capture.get()


def test_pairs_of_a_seq2seq_models_source():
    explain = TextGenerationExplainer(encoder_decoder("T5"), wordpiece_tokenizer())
    result = explain("the movie is goody", "gorgeous mess", interactions=2, attribute_target=True)
    (pair,) = result.interactions
    source = explain.tokenizer("the movie is goody", return_tensors="pt")["input_ids"]
    ids = [token.id for token in result.target_tokens]
    decoder = torch.tensor([[PAD, *ids[:-1]]])
    words = [[1], [2], [3], [4, 5]]

    def value(*left_out: int) -> float:
        changed = source.clone()
        for word in left_out:
            changed[0, words[word]] = MASK
        with torch.no_grad():
            logits = explain.model(input_ids=changed, decoder_input_ids=decoder).logits
        return float(logits[0].log_softmax(-1)[range(len(ids)), ids].double().sum())

    i, j = pair.words
    expected = value() - value(i) - value(j) + value(i, j)
    assert pair.value == pytest.approx(expected, abs=1e-9)


def test_an_interaction_takes_two_words():
    with pytest.raises(ValueError, match="an interaction takes two words"):
        explainer(causal("gpt2"))(PROMPT, TARGET, interactions=1)


def test_chats_keep_the_template_in_every_background():
    tokenizer = chat_tokenizer()
    explain = explainer(causal("llama"), tokenizer=tokenizer)
    chat = [{"role": "user", "content": "the good movie"}]
    result = explain(chat, "so", contexts="two_sided")
    spans = [(word.start, word.end) for word in result.words]
    words = word_positions(tokenizer, result.prompt, within=spans)
    last, first = (
        plain_loop(explain, result, words=words, plain=True, kept=[kept] * 3)
        for kept in (True, False)
    )
    assert_equal(result.matrix_first, first, 1e-5)
    assert_equal(result.matrix_last, last, 1e-5)


@pytest.mark.parametrize("named", ["two_sided", "sampled3", "sampled1"])
def test_json_and_back(named):
    explain = explainer(causal("gpt2"))
    for options in ({}, {"contrast": " bad"}, {"attribute_target": True}):
        result = explain(PROMPT, TARGET, contexts=named, **options)
        data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        again = GenerationAttribution.from_dict(data)
        assert again == result
        assert again.method == f"sig:{named}"
    with pytest.raises(ValueError, match="matrix_last has shape"):
        GenerationAttribution.from_dict({**data, "matrix_last": [[0.0]]})


def test_words_without_a_side_are_not_a_number():
    explain = explainer(causal("gpt2"))

    def only_the_first_alone(n_words):
        return torch.tensor([[True] + [False] * (n_words - 1)])

    result = explain(PROMPT, TARGET, contexts=only_the_first_alone)
    assert result.matrix_last is None
    assert result.matrix_first[:, 0].isfinite().all()
    assert result.matrix_first[:, 1:].isnan().all()
    assert result.words[1].first is None
    assert GenerationAttribution.from_dict(result.to_dict()) == result
    assert math.isfinite(result.residual)


def test_what_equals_the_baseline_has_no_effect_on_either_side():
    explain = TextGenerationExplainer(
        causal("gpt2"), wordpiece_tokenizer(), baseline="unk", level="token"
    )
    for named in ("two_sided", "sampled3"):
        with pytest.warns(UserWarning, match="nothing differs") as warned:
            result = explain("zz qq", " a mess", contexts=named)
        assert len(warned) == 1
        assert (result.matrix == 0).all()
        assert (result.matrix_first == 0).all()
        assert result.residual == 0


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("two-sided", ValueError, "contexts 'two-sided' is unknown .did you mean 'two_sided'"),
        ("sampled99999", ValueError, "number of sampled contexts must be an integer from 1"),
        (3, TypeError, "contexts must be a name, or a callable such as .* got 3"),
        (lambda n_words: None, ValueError, r"contexts\(7\) returned None; wanted booleans"),
        (lambda n_words: torch.ones(1, 2), ValueError, "wanted booleans"),
    ],
)
def test_contexts_that_are_none(asked, error, message):
    with pytest.raises(error, match=message) as caught:
        explainer(causal("gpt2"))(PROMPT, TARGET, contexts=asked)
    assert "\n" not in str(caught.value)

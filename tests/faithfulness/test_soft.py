"""Soft-NC and Soft-NS against loops over draws, closed forms, and all masks of dimensions."""

from itertools import product

import pytest
import torch
import transformers

from captum_sig import TextClassificationExplainer
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness import METRICS, Sentence, soft_nc, soft_ns
from captum_sig.faithfulness.soft import KEPT, with_mean
from tests.tiny_models import SPECIALS, TEXTS, bert, spread, wordpiece_tokenizer

SOFT = ["soft_nc", "soft_ns", "pi_soft_nc", "pi_soft_ns"]
CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def explainer():
    return TextClassificationExplainer(bert(), wordpiece_tokenizer())


def asked_of(explainer):
    sentences = explainer.sentences(TEXTS, [0, 1, 2, 1])
    generator = torch.Generator().manual_seed(0)
    return sentences, [torch.randn(s.n_units, generator=generator).tolist() for s in sentences]


# The definitions, one row at a time.


def p(model, sentence, factors):
    embedding = model.get_input_embeddings()
    rows = embedding(sentence.ids)[None] * factors
    with torch.no_grad():
        log_p = model(inputs_embeds=rows).logits.float().log_softmax(-1)  # as explainers do
    return log_p[0, sentence.target].double().exp().item()


def kept(sentence, q, seed, draw, width):
    """1 where a dimension of a token is kept, (L, D)."""
    key = " ".join(map(str, [draw, *sentence.ids.tolist()]))
    shape = len(sentence.ids), width
    numbers = torch.rand(shape, generator=text_generator(key, seed), dtype=torch.float64)
    of_unit = [*q, 1.0]  # special tokens
    return torch.stack([row < of_unit[unit] for row, unit in zip(numbers, sentence.units)])  # noqa: B905


def scaled(scores):
    low, high = min(scores), max(scores)
    return [0.5 if low == high else (score - low) / (high - low) for score in scores]


def probabilities(name, sentence, scores, pi):
    a = [x if name.endswith("ns") else 1 - x for x in scaled(scores)]
    if pi is None:
        return a
    of_tokens = [a[unit] for unit in sentence.units.tolist() if unit >= 0]
    mean = sum(of_tokens) / len(of_tokens)
    if pi <= mean:
        return [x * pi / mean for x in a]
    return [1 - (1 - x) * (1 - pi) / (1 - mean) for x in a]


def reference(name, model, sentence, scores, n_draws, seed):
    width = model.config.hidden_size
    whole = p(model, sentence, torch.ones(len(sentence.ids), width))
    zeroed = (sentence.units < 0).double()[:, None]
    most = max(0.0, whole - p(model, sentence, zeroed))
    lost = []
    for pi in KEPT if name.startswith("pi") else [None]:
        q = probabilities(name, sentence, scores, pi)
        for draw in range(n_draws):
            drop = max(0.0, whole - p(model, sentence, kept(sentence, q, seed, draw, width)))
            lost.append(min(1.0, drop / most) if most else float(drop > 0))
    mean = sum(lost) / len(lost)
    return 1 - mean if name.endswith("ns") else mean


@pytest.mark.parametrize("name", SOFT)
def test_each_metric_equals_the_slow_loop(explainer, name):
    sentences, scores = asked_of(explainer)
    found = METRICS[name](explainer.log_probabilities, sentences, scores, n_draws=3, seed=2)
    slow = [
        reference(name, explainer.model, *pair, n_draws=3, seed=2)
        for pair in zip(sentences, scores, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("name", SOFT)
def test_a_batch_is_its_texts(explainer, name):
    sentences, scores = asked_of(explainer)
    predict = explainer.log_probabilities
    together = METRICS[name](predict, sentences, scores, max_tokens=10**6)
    alone = [METRICS[name](predict, [a], [b]) for a, b in zip(sentences, scores, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), **CLOSE)
    known = [float(predict(s.ids[None])[0, s.target]) for s in sentences]
    given = METRICS[name](predict, sentences, scores, original=known)
    torch.testing.assert_close(given, together, **CLOSE)
    assert not torch.equal(METRICS[name](predict, sentences, scores, seed=1), together)


def test_the_mean_over_draws_is_near_the_mean_over_all_masks():
    """One word of two dimensions between two others: every mask, with its probability."""
    vectors = torch.tensor([[0.3, -0.2], [1.0, 0.5], [0.7, 2.0], [-0.4, 0.9]]).double()

    def predict(ids, scale):
        logit = (vectors[ids] * scale(slice(None), 2)).sum((1, 2)) ** 2
        return torch.stack([-logit, logit], 1).log_softmax(1)

    def probability(factors):
        return predict(ids[None], lambda *_: factors[None])[0, 1].exp().item()

    ids = torch.tensor([0, 1, 2, 3])
    asked = Sentence(ids, torch.tensor([-1, 0, 1, 2]), 1, 0)
    whole, zero = probability(torch.ones(4, 2)), torch.zeros(4, 2)
    zero[0] = 1
    exact = 0.0
    for mask in product([0.0, 1.0], repeat=2):  # of the word in the middle: a = 0.25
        factors = torch.tensor([[1.0, 1.0], [0.0, 0.0], mask, [1.0, 1.0]])
        weight = torch.tensor([0.25 if bit else 0.75 for bit in mask]).prod()
        drop = max(0.0, whole - probability(factors)) / (whole - probability(zero))
        exact += float(weight) * min(1.0, drop)

    def with_default(ids, scale=None):
        ones = torch.ones(len(ids), 4, 2)
        return predict(ids, scale or (lambda rows, width: ones[rows]))

    found = soft_ns(with_default, [asked], [[0.0, 1.0, 4.0]], n_draws=1000)
    assert float(found) == pytest.approx(1 - exact, abs=0.05)


def test_two_words_have_no_chance_in_them(explainer):
    """The lower score becomes 0 and the higher 1: what is kept is certain."""
    (asked,) = explainer.sentences(["bad movies"], [1])
    assert asked.n_units >= 2
    first = [[1.0] + [0.0] * (asked.n_units - 1)]
    found = {
        seed: [float(f(explainer.log_probabilities, [asked], first, n_draws=1, seed=seed))
               for f in (soft_nc, soft_ns)]
        for seed in (0, 1)
    }  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_probabilities_have_the_mean_and_the_order_of_the_scores(mean):
    scores = torch.tensor([0.0, 0.9, 1.0, 0.2, 0.9]).double()
    found = with_mean(scores, mean)
    assert float(found.mean()) == pytest.approx(mean, abs=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found.diff() * scores.diff() >= 0).all()


def test_equal_scores_and_sentences_without_words(explainer):
    predict = explainer.log_probabilities
    (asked,) = explainer.sentences(["bad movies"], [1])
    assert 0 <= float(soft_nc(predict, [asked], [[2.0] * asked.n_units])) <= 1
    empty = Sentence(asked.ids, torch.full_like(asked.units, -1), 1, 4)
    assert [float(METRICS[name](predict, [empty], [[]])) for name in SOFT] == [0, 1, 0, 1]
    assert soft_nc(predict, [], []).shape == (0,)


def test_hooks_and_grad_are_left_as_they_were(explainer):
    sentences, scores = asked_of(explainer)
    soft_nc(explainer.log_probabilities, sentences, scores)
    modules = list(explainer.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert torch.is_grad_enabled()
    assert all(weight.grad is None for weight in explainer.model.parameters())


def test_a_word_loses_its_dimensions_in_encoder_and_decoder():
    config = transformers.BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_labels=2,
        max_position_embeddings=40, pad_token_id=0, bos_token_id=2, eos_token_id=3,
        decoder_start_token_id=3, scale_embedding=False,
    )  # fmt: skip
    model = spread(transformers.BartForSequenceClassification(config))
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer())
    (asked,) = explainer.sentences(["bad movies"], [1])
    zeros = (asked.units < 0).double()[:, None]
    found = explainer.log_probabilities(
        asked.ids[None], scale=lambda rows, width: zeros.expand(-1, width)[None]
    )
    model.model.shared.weight.data[asked.ids[asked.ids >= len(SPECIALS)]] = 0
    torch.testing.assert_close(found, explainer.log_probabilities(asked.ids[None]), **CLOSE)


def test_errors(explainer):
    (asked,) = explainer.sentences(["bad movies"], [1])
    ones = [[1.0] * asked.n_units]
    with pytest.raises(TypeError, match="pass a predict that has a parameter scale"):
        soft_nc(lambda ids: torch.zeros(len(ids), 2).log_softmax(1), [asked], ones)
    for scores, message in (([[1.0]], "needs"), ([[torch.inf] * asked.n_units], "finite scores")):
        with pytest.raises(ValueError, match=message):
            soft_nc(explainer.log_probabilities, [asked], scores)
    with pytest.raises(ValueError, match="n_draws must be an integer"):
        soft_nc(explainer.log_probabilities, [asked], ones, n_draws=0)

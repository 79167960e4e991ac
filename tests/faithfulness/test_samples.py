"""Samples of a masked language model against its exact distribution, token by token."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from captum_sig.baselines.masked_lm import token_logits
from captum_sig.faithfulness import MaskedLmSamples, Sentence, comprehensiveness, log_odds
from captum_sig.faithfulness.samples import text_generator
from tests.tiny_models import CLS, MASK, SEP, SPECIALS, VOCAB, tiny, wordpiece_tokenizer

N_TOKENS = len(wordpiece_tokenizer())
ORDINARY = range(len(SPECIALS), N_TOKENS)


class Neighbours(nn.Module):
    """A masked language model of which both neighbours of a token decide; float64."""

    def __init__(self, n_tokens: int = N_TOKENS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = 2, n_tokens, n_tokens
        self.weights = nn.Parameter(2 * torch.randn(shape, generator=generator).double())
        self.config = SimpleNamespace(vocab_size=n_tokens, max_position_embeddings=12)
        self.n_rows = 0

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids):
        self.n_rows += len(input_ids)
        left, right = self.weights
        return SimpleNamespace(logits=left[input_ids.roll(1, 1)] + right[input_ids.roll(-1, 1)])

    def p(self, ids, position):
        """The distribution of one token, over the ordinary ones."""
        logits = self(torch.tensor([ids])).logits[0, position, list(ORDINARY)]
        return dict(zip(ORDINARY, logits.softmax(0).tolist(), strict=True))


def sentence(*ids, target=1):
    units = [-1, *range(len(ids)), -1]
    return Sentence(torch.tensor([CLS, *ids, SEP]), torch.tensor(units), target, MASK)


def gone(*positions, length):
    return torch.tensor([position in positions for position in range(length)])


def masked(ids, positions):
    return [MASK if position in positions else token for position, token in enumerate(ids)]


def sampler(lm=None, **options):
    return MaskedLmSamples(wordpiece_tokenizer(), lm or Neighbours(), **options)


def predict(ids):
    """Log-probabilities that each token moves by itself."""
    logit = torch.sin(ids.double()).sum(1)
    return torch.stack([-logit, logit], 1).log_softmax(1)


def exact(lm, ids, positions, value, in_order):
    """The mean of `value` over all texts, each with its probability."""
    total = 0.0
    for tokens in product(ORDINARY, repeat=len(positions)):
        text, weight = masked(ids, positions), 1.0
        for position, token in zip(positions, tokens, strict=True):
            weight *= lm.p(text if in_order else masked(ids, positions), position)[token]
            text[position] = token
        total += weight * value(text)
    return total


@pytest.mark.parametrize("n_passes", [1, 4])
@pytest.mark.parametrize("metric", [log_odds, comprehensiveness])
def test_the_mean_over_draws_is_near_the_exact_mean(metric, n_passes):
    lm, asked = Neighbours(), sentence(6, 9, 11)
    draws = sampler(lm, n_draws=1000, n_passes=n_passes)
    found = metric(predict, [asked], [[1.0, 2.0, 0.0]], 0.67, ablation=draws)
    ids = asked.ids.tolist()

    def value(text):
        log_p = predict(torch.tensor([text]))[0, 1]
        whole = predict(asked.ids[None])[0, 1]
        return float(log_p - whole if metric is log_odds else whole.exp() - log_p.exp())

    wanted = exact(lm, ids, [1, 2], value, in_order=n_passes > 1)
    texts = draws.texts([(asked, gone(1, 2, length=5))])[0].tolist()
    values = torch.tensor([value(text) for text in texts], dtype=torch.float64)
    assert float(found) == pytest.approx(values.mean().item(), abs=1e-9)
    assert abs(float(found) - wanted) < 4 * values.std() / len(values) ** 0.5


def test_in_order_and_at_once_differ():
    lm, ids = Neighbours(), [CLS, 6, 9, 11, SEP]
    pair = [
        exact(lm, ids, [1, 2], lambda text: text[1] * text[2], order) for order in (True, False)
    ]
    assert abs(pair[0] - pair[1]) > 1


@pytest.mark.parametrize("max_logits", [1, 2**25])
@pytest.mark.parametrize(
    ("n_passes", "turns"), [(1, [[1, 3, 4]]), (2, [[1, 4], [3]]), (5, [[1], [3], [4]])]
)
def test_each_token_is_the_one_whose_interval_holds_its_number(n_passes, turns, max_logits):
    lm, asked = Neighbours(), sentence(6, 9, 11, 8)
    draws = sampler(lm, n_draws=3, seed=7, n_passes=n_passes, max_logits=max_logits)
    (texts,) = draws.texts([(asked, gone(1, 3, 4, length=6))])
    generator = text_generator(" ".join(map(str, asked.ids.tolist())), 7)
    numbers = torch.rand(3, 6, generator=generator, dtype=torch.float64)
    for text, of_draw in zip(texts.tolist(), numbers.tolist(), strict=True):
        slow = masked(asked.ids.tolist(), [1, 3, 4])
        for turn in turns:
            before = list(slow)
            for position in turn:
                slow[position] = chosen(lm.p(before, position), of_draw[position])
        assert text == slow


def chosen(probabilities, number):
    cumulative = 0.0
    for token, probability in probabilities.items():
        cumulative += probability
        if number < cumulative:
            return token
    return None


def test_texts_depend_on_seed_and_sentence_alone():
    first, second = sentence(6, 9, 11), sentence(8, 7, 20, 13)
    requests = [(first, gone(1, length=5)), (second, gone(2, 4, length=6)),
                (first, gone(1, 3, length=5)), (first, gone(1, length=5))]  # fmt: skip
    together = sampler().texts(requests)
    for request, texts in zip(requests, together, strict=True):
        assert torch.equal(sampler().texts([request])[0], texts)
        sentence_ids, ablated = request[0].ids, request[1]
        assert torch.equal(texts[:, ~ablated], sentence_ids[~ablated].expand(5, -1))
        assert torch.isin(texts[:, ablated], torch.tensor(ORDINARY)).all()
    assert torch.equal(together[0], together[3])
    again = sampler(seed=1).texts(requests)
    assert not all(map(torch.equal, together, again))


def test_metrics_share_texts_and_equal_rows_a_pass():
    lm, asked = Neighbours(), sentence(6, 9, 11, 8, 7)
    draws = sampler(lm)
    for metric in (log_odds, comprehensiveness):
        metric(predict, [asked] * 2, [[5, 4, 3, 2, 1], [5, 4, 1, 2, 3]], 0.4, ablation=draws)
    assert lm.n_rows <= 1 + draws.n_draws  # one for the first token of all, one for each second


def test_nothing_to_replace_is_the_sentence_itself():
    asked = sentence(6, 9)
    (texts,) = sampler(n_draws=2).texts([(asked, gone(length=4))])
    assert texts.tolist() == [asked.ids.tolist()] * 2
    assert sampler().texts([]) == []


def test_the_language_model_is_left_as_it_was():
    lm = real_lm(N_TOKENS).train()
    sampler(lm, n_draws=2).texts([(sentence(6, 9, 11), gone(1, 2, length=5))])
    assert lm.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.modules())
    assert all(weight.grad is None for weight in lm.parameters())


def real_lm(n_tokens):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        vocab_size=n_tokens, intermediate_size=16, max_position_embeddings=8, **shape
    )
    return transformers.BertForMaskedLM(config).double().eval()


def test_logits_where_they_are_asked_are_those_of_the_whole_pass():
    lm = real_lm(30)
    rows = torch.randint(5, 30, (7, 6))
    asked = torch.rand(7, 6) < 0.5
    asked[:, 2] = True
    tokens = torch.tensor([6, 9, 22])
    parts = list(token_logits(lm, rows, asked, tokens, max_logits=2 * 6 * 30))
    places, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert places.tolist() == asked.nonzero().tolist()
    with torch.no_grad():
        whole = lm(input_ids=rows).logits[asked][:, tokens]
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-12)


def test_errors():
    with pytest.raises(ValueError, match="ablation 'sample' needs a masked language model"):
        MaskedLmSamples(wordpiece_tokenizer(), None)
    with pytest.raises(ValueError, match="another vocabulary, of 40 tokens"):
        sampler(Neighbours(40))
    tokenizer = wordpiece_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="no mask token, which ablation 'sample' needs"):
        MaskedLmSamples(tokenizer, Neighbours())
    with pytest.raises(ValueError, match="has 14 tokens, but masked_lm reads at most 12"):
        sampler().texts([(sentence(*[6] * 12), gone(1, length=14))])
    for name in ("n_draws", "n_passes"):
        with pytest.raises(ValueError, match=f"{name} must be an integer"):
            sampler(**{name: 0})
    with pytest.raises(ValueError, match="pass captum_sig.faithfulness.MaskedLmSamples"):
        log_odds(predict, [sentence(6)], [[1.0]], ablation="sample")
    with pytest.raises(TypeError, match="ablation must be a name or a function, got 3"):
        log_odds(predict, [sentence(6)], [[1.0]], ablation=3)


def test_a_function_of_the_users_is_an_ablation():
    model = tiny("bert")

    def reversed_rows(requests):
        from captum_sig.faithfulness.ablations import unchanged

        return [[unchanged(one.ids), unchanged(one.ids.flip(0))] for one, _ in requests]

    def log_p(ids):
        return model.logits(ids).log_softmax(-1)

    asked = sentence(6, 9, VOCAB - 1)
    found = log_odds(log_p, [asked], [[1.0, 2.0, 3.0]], ablation=reversed_rows)
    with torch.no_grad():
        values = [float(log_p(ids[None])[0, 1]) for ids in (asked.ids, asked.ids.flip(0))]
    assert float(found) == pytest.approx((values[1] - values[0]) / 2, abs=1e-12)

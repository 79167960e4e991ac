"""Gradient methods averaged over noise in the words' embeddings."""

import math

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from captum_sig import TextClassificationExplainer
from captum_sig.baselines import mask
from captum_sig.explainers.methods import METHODS
from captum_sig.explainers.scoring import text_generator
from captum_sig.explainers.smoothing import SMOOTHED, WHY_NOT
from tests.explainers.test_encoder_decoder_classifiers import model
from tests.tiny_models import TEXTS, bert, wordpiece_tokenizer

K, SIGMA = 6, 0.2
CAPTUMS = {
    "ig": captum.attr.IntegratedGradients,
    "input_x_gradient": captum.attr.InputXGradient,
    "saliency": captum.attr.Saliency,
    "deep_lift": captum.attr.DeepLift,
}


@pytest.fixture(scope="module")
def explain() -> TextClassificationExplainer:
    return TextClassificationExplainer(bert(hidden_act="relu"), wordpiece_tokenizer())


class AtEmbedding(nn.Module):
    """Logits as a function of the word embeddings, (R, L, D)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.model(inputs_embeds=embeddings).logits


def noise_of(text: str, x: Tensor) -> Tensor:
    """The draws for a text, (K, L, D): none at its first and last token, which are special."""
    seed = int(torch.randint(2**63 - 1, (), generator=text_generator(text, seed=0)))
    generator = torch.Generator().manual_seed(seed)
    words = x[0, 1:-1]
    scale = SIGMA * (words.max() - words.min())
    noise = torch.zeros(K, *x.shape[1:], dtype=x.dtype)
    for row in noise:
        row[1:-1] = scale * torch.randn(words.shape, generator=generator).double()
    return noise


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("method", CAPTUMS)
def test_scores_are_those_of_captums_noise_tunnel(explain, method, monkeypatch):
    text = TEXTS[0]
    ids = torch.tensor([explain.tokenizer(text)["input_ids"]])
    x = explain.layer(ids).detach()
    noise = noise_of(text, x)
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise)
    wrapped = CAPTUMS[method](AtEmbedding(explain.model))
    given = {"n_steps": 4} if method == "ig" else {}
    if method in ("ig", "deep_lift"):
        given["baselines"] = explain.layer(mask(explain.tokenizer, ids)).detach()
    expected = captum.attr.NoiseTunnel(wrapped).attribute(
        x, nt_type="smoothgrad", nt_samples=K, stdevs=1.0, target=1, **given
    )
    monkeypatch.undo()
    expected = expected.detach().sum(-1)[0, 1:-1]
    result = explain(text, 1, method, n_steps=4, smooth=K, noise=SIGMA)
    found = torch.tensor(result.scores, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert result.method == f"{method} (smooth {K}, noise {SIGMA})"
    plain = torch.tensor(explain(text, 1, method, n_steps=4).scores)
    assert (found - plain).abs().max() > 0.01


def test_the_standard_error_is_that_of_the_draws(explain):
    text = TEXTS[0]
    ids = torch.tensor([explain.tokenizer(text)["input_ids"]])
    x = explain.layer(ids).detach()
    rows = (x + noise_of(text, x)).requires_grad_()
    (gradient,) = torch.autograd.grad(AtEmbedding(explain.model)(rows)[:, 1].sum(), rows)
    draws = (rows * gradient).detach().sum(-1)[:, 1:-1]
    result = explain(text, 1, "input_x_gradient", smooth=K, noise=SIGMA)
    found = torch.tensor([word.standard_error for word in result.words], dtype=torch.float64)
    torch.testing.assert_close(found, draws.std(0) / math.sqrt(K), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", SMOOTHED)
def test_draws_depend_on_seed_and_text_alone(explain, method):
    options = {"method": method, "n_steps": 3, "smooth": 4}
    together = explain(TEXTS, 1, **options)
    for text, result in zip(TEXTS, together, strict=True):
        for rows in (2 if method == "deep_lift" else 1, 3, None):
            alone = explain(text, 1, **options, internal_batch_size=rows)
            assert alone.scores == pytest.approx(result.scores, abs=1e-9)
            assert alone.words[0].standard_error > 0
    other = TextClassificationExplainer(explain.model, explain.tokenizer, seed=1)
    assert other(TEXTS[0], 1, **options).scores != together[0].scores


@pytest.mark.parametrize("name", ["T5", "Bart, resized"])
@pytest.mark.parametrize("method", SMOOTHED)
def test_two_embeddings(name, method):
    explain = TextClassificationExplainer(model(name), wordpiece_tokenizer())
    texts = ["a gorgeous mess!", "the movie is not good, bad"]
    for text, result in zip(texts, explain(texts, 1, method, n_steps=3, smooth=3), strict=True):
        alone = explain(text, 1, method, n_steps=3, smooth=3)
        assert alone.scores == pytest.approx(result.scores, abs=1e-9)


def test_little_noise_changes_little(explain):
    plain = explain(TEXTS[2], 1, "ig", n_steps=5)
    result = explain(TEXTS[2], 1, "ig", n_steps=5, smooth=2, noise=1e-7)
    assert result.scores == pytest.approx(plain.scores, abs=1e-5)


def test_draws_are_rows_of_one_pass(explain):
    sizes = []
    handle = explain.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    explain(TEXTS[0], 1, "saliency", smooth=20)
    handle.remove()
    assert sizes == [1, 20, 1]  # the text, the draws, and the last of them alone


def test_labels_in_a_matrix_and_draws_of_a_baseline(explain):
    result = explain(TEXTS[0], "all", "ig", n_steps=3, smooth=4)
    one = explain(TEXTS[0], 2, "ig", n_steps=3, smooth=4)
    assert result.matrix[2].tolist() == one.scores
    assert result.standard_error[2].tolist() == [word.standard_error for word in one.words]
    random = TextClassificationExplainer(
        explain.model, explain.tokenizer, baseline="constant", n_draws=2
    )(TEXTS[0], 2, "ig", n_steps=3, smooth=4, interactions=2)
    assert all(word.std is not None and word.standard_error > 0 for word in random.words)


def test_every_other_method_says_why_not(explain):
    assert {*SMOOTHED, *WHY_NOT} == {*METHODS}
    assert not {*SMOOTHED} & {*WHY_NOT}
    for method in WHY_NOT:
        with pytest.raises(ValueError, match=f"method '{method}' .*: leave smooth out, or use one"):
            explain(TEXTS[0], method=method, smooth=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": 0.1}, "noise=0.1 is that of draws, got none: pass smooth"),
        ({"smooth": 1}, "a mean with a standard error takes two draws: smooth must be"),
        ({"smooth": 2.5}, "takes two draws: smooth must be"),
        ({"smooth": 4, "noise": 0}, "noise must be a positive number, .* got 0"),
        ({"smooth": 4, "noise": "little"}, "noise must be a positive number, .* got 'little'"),
        ({"smooth": 4, "noise": math.nan}, "noise must be a positive number, .* got nan"),
        ({"smooth": 4, "noise": True}, "noise must be a positive number, .* got True"),
    ],
)
def test_bad_options(explain, options, message):
    with pytest.raises(ValueError, match=message):
        explain(TEXTS[0], method="ig", **options)

"""Rows in flight: what they depend on, and how many are evaluated at a time."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from captum_sig import (
    LayerSequentialIntegratedGradients,
    SequentialIntegratedGradients,
    TextClassificationExplainer,
)
from captum_sig.attr.chunks import rounding_error
from captum_sig.demo_model import PATH
from tests.oracle import word_differences
from tests.tiny_language_models import byte_level_tokenizer
from tests.tiny_models import mask_baseline, random_ids, tiny, wordpiece_tokenizer

WARNING = "depends on the rows beside it"
B, L, D = 3, 5, 4


def random(*shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(*shape, dtype=torch.float64)


EVERY_POSITION = [[position] for position in range(L)]


class SharedScale(nn.Module):
    """Rounds to a grid that all rows share, as dynamic quantization does."""

    def forward(self, x: Tensor) -> Tensor:
        step = x.detach().abs().mean() / 3
        return x + ((x / step).round() * step - x).detach()


class LimitedExpert(nn.Module):
    """Serves the first tokens of a pass only, as experts with limited capacity do."""

    def forward(self, x: Tensor) -> Tensor:
        served = torch.arange(x.shape[0] * x.shape[1]) < L
        return torch.where(served.view(x.shape[:2])[..., None], x.sin(), x)


class BatchNorm(nn.BatchNorm1d):
    """In train mode, over the positions."""

    def __init__(self) -> None:
        super().__init__(D, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


@pytest.fixture(params=[SharedScale, LimitedExpert, BatchNorm])
def dependent(request):
    """F whose rows depend on each other."""
    module = request.param()
    return lambda x: module(x).prod(1).sum(-1)


def test_rows_that_depend_on_each_other_are_evaluated_one_by_one(dependent):
    x, b = random(B, L, D), random(B, L, D)
    sig = SequentialIntegratedGradients(dependent)
    with pytest.warns(UserWarning, match=WARNING) as caught:
        found = sig.attribute_words(x, b)
    assert len(caught) == 1
    for example in range(B):
        row = slice(example, example + 1)
        expected = word_differences(lambda z: dependent(z)[:, None], x[row], b[row], EVERY_POSITION)
        torch.testing.assert_close(found[row, :, 0] if found.dim() == 3 else found[row], expected)


@pytest.mark.filterwarnings(f"ignore:.*{WARNING}")
@pytest.mark.parametrize("options", [{"n_steps": 4}, {"tolerance": 1e-2}])
def test_gradients_too(dependent, options):
    x, b = random(1, L, D), random(1, L, D)
    sig = SequentialIntegratedGradients(dependent)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*did not reach tolerance")
        found = sig.integrate(x, b, **options)
        alone = sig.integrate(x, b, internal_batch_size=1, **options)
    torch.testing.assert_close(found.attributions, alone.attributions)
    torch.testing.assert_close(found.word_delta, alone.word_delta)


def test_rounding_is_no_dependence():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = tiny("bert", dtype)
        ids = random_ids(2, 9)
        sig = LayerSequentialIntegratedGradients(model.logits, model.embedding)
        found = sig.attribute_words(ids, mask_baseline(ids), target=1)  # warnings are errors
        assert found.abs().max() > 0


def test_rounding_error_follows_autocast():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert rounding_error(x) == torch.finfo(torch.bfloat16).eps ** 0.5
    assert rounding_error(x) == torch.finfo(torch.float32).eps ** 0.5


def test_a_random_model_is_not_told_from_others_by_its_noise():
    sig = SequentialIntegratedGradients(lambda x: x.sum((1, 2)) + torch.rand(len(x)))
    assert sig.attribute_words(random(1, L, D)).isfinite().all()  # warnings are errors


@pytest.mark.filterwarnings("ignore:sequential_dig is far from the exact scores")
class TestExplainer:
    """Texts beside each other."""

    @pytest.mark.parametrize("method", ["sig", "occlusion"])
    def test_int8_is_recognised_before_it_shows(self, method):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of its older quantization
            demo = TextClassificationExplainer.from_pretrained(PATH)
            model = torch.ao.quantization.quantize_dynamic(
                demo.model, {nn.Linear}, dtype=torch.qint8
            )
        explain = TextClassificationExplainer(model, demo.tokenizer)
        texts = ["The film is charming, old jokes and all.", "Bad.", "A dull, dull film."]
        alone = [explain(text, method=method, internal_batch_size=1).scores for text in texts]
        with pytest.warns(UserWarning, match=WARNING) as caught:
            assert [result.scores for result in explain(texts, method=method)] == alone
        assert sum("beside it" in str(warning.message) for warning in caught) == 1
        with pytest.warns(UserWarning, match=WARNING):
            assert explain(texts[0], method=method).scores == alone[0]

    texts = ["the movie is good", "bad", "a gorgeous mess", "not unbelievable!"]

    def explainer(self) -> TextClassificationExplainer:
        model = tiny("bert", torch.float32).model
        output = model.bert.encoder.layer[0].output
        output.LayerNorm = nn.Sequential(output.LayerNorm, SharedScale())
        return TextClassificationExplainer(model, wordpiece_tokenizer())

    @pytest.mark.parametrize("method", ["sig", "ig", "sequential_dig", "occlusion", "saliency"])
    def test_a_text_has_the_scores_that_it_has_alone(self, method):
        explain = self.explainer()
        alone = [explain(text, method=method, internal_batch_size=1) for text in self.texts]
        with pytest.warns(UserWarning, match=WARNING):
            together = explain(self.texts, method=method)
        for mine, expected in zip(together, alone, strict=True):
            assert mine.scores == pytest.approx(expected.scores, abs=1e-6)
            assert mine.probabilities == pytest.approx(expected.probabilities, abs=1e-6)

    def test_a_batch_takes_one_pass_and_a_row_to_see_that_texts_do_not_matter(self):
        model = tiny("bert", torch.float32).model
        explain = TextClassificationExplainer(model, wordpiece_tokenizer())
        passes = []
        model.register_forward_pre_hook(
            lambda *call: passes.append(len(call[2]["input_ids"])), with_kwargs=True
        )
        explain(["good movie", "bad movie"], method="random")
        assert passes == [2, 1]  # all, and the last alone

    def test_texts_without_a_token_ask_the_model_nothing(self):
        tokenizer = byte_level_tokenizer()
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=20,
            pad_token_id=1, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = GPT2ForSequenceClassification(config).eval()
        found = TextClassificationExplainer(model, tokenizer, baseline="mean")(["", "", "good"])
        assert [len(result.words) for result in found] == [0, 0, 1]

    @pytest.mark.parametrize("method", ["sig", "ig", "sequential_dig"])
    def test_one_text(self, method):
        explain = self.explainer()
        alone = explain(self.texts[0], method=method, internal_batch_size=1)
        with pytest.warns(UserWarning, match=WARNING):
            found = explain(self.texts[0], method=method)
        assert found.scores == pytest.approx(alone.scores, abs=1e-6)
        if method == "sig":
            assert found.max_abs_word_delta < 1e-5

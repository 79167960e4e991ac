"""Methods made of slopes: their definitions, what they cost, and the models that they refuse."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from captum_sig import TextClassificationExplainer, baselines
from captum_sig.attr.held import Held
from captum_sig.demo_model import PATH
from captum_sig.explainers.screens import Ranks
from tests.tiny_models import TEXTS, LSTMClassifier, bert, wordpiece_tokenizer

COSTS = {  # forward and backward rows of one text
    "lrp": (1, 1), "lrp_deletion": (4, 4), "rank_path": (4, 4), "screen": (4, 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return bert()


@pytest.fixture(scope="module")
def explainer(model) -> TextClassificationExplainer:
    return TextClassificationExplainer(model, wordpiece_tokenizer())


class Recurrent(LSTMClassifier):
    """An LSTM in the form of transformers."""

    def __init__(self) -> None:
        """As in transformers."""
        super().__init__()
        self.config = SimpleNamespace(
            id2label={0: "NEGATIVE", 1: "POSITIVE"}, pad_token_id=0, num_labels=2,
            problem_type=None, max_position_embeddings=40,
        )  # fmt: skip

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=super().forward(input_ids, attention_mask))


class Slopes:
    """slope(α) of a text's tokens, one row at a time."""

    def __init__(self, model: nn.Module, text: str) -> None:
        """Embed the text and the baseline."""
        tokenizer = wordpiece_tokenizer()
        self.ids = torch.tensor([tokenizer(text)["input_ids"]])
        self.model, self.embedding = model, model.get_input_embeddings()
        self.x = self.embedding(self.ids).detach()
        self.b = self.embedding(baselines.mask(tokenizer, self.ids)).detach()
        self.n = self.ids.shape[1] - 2

    def __call__(self, fractions: Tensor, held: bool) -> Tensor:
        alpha = torch.cat([torch.ones(1), fractions, torch.ones(1)])[:, None].double()
        z = (self.b + alpha * (self.x - self.b)).requires_grad_()
        handle = self.embedding.register_forward_hook(lambda *_: z)
        try:
            with Held() if held else torch.enable_grad():
                logit = self.model(self.ids).logits[0, 1]
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(logit, z)
        return (gradient * (self.x - self.b)).sum(-1)[0, 1:-1]

    def at(self, fraction: float, held: bool = True) -> Tensor:
        return self(torch.full((self.n,), fraction), held)

    def without_top(self, share: float, scores: Tensor) -> Tensor:
        fractions = torch.ones(self.n)
        fractions[scores.argsort(descending=True)[: max(1, round(share * self.n))]] = 0
        return self(fractions, True)


def lrp(slope: Slopes) -> Tensor:
    return slope.at(1)


def lrp_deletion(slope: Slopes) -> Tensor:
    s = slope.at(1) + slope.at(0.5)
    for share in (0.12, 0.25):
        s = s + slope.without_top(share, s)
    return s / 4


def rank_path(slope: Slopes) -> Tensor:
    s = slope.at(0.5, held=False)
    r = (s.argsort(descending=True).argsort() + 0.5) / slope.n
    for fractions in ((r + 0.5).clip(0, 1), (r - 0.5).clip(0, 1), 1 - r):
        s = s + slope(fractions, held=False)
    return s / 4


def screen(slope: Slopes) -> Tensor:
    s = slope.at(0) + slope.at(0.5) + slope.at(1)
    return (s + slope.without_top(0.25, s) / 2) / 3.5


DEFINITIONS: dict[str, Callable[[Slopes], Tensor]] = {
    function.__name__: function for function in (lrp, lrp_deletion, rank_path, screen)
}


@pytest.mark.parametrize("text", [*TEXTS[:3], TEXTS[2] * 3])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_scores_are_those_of_the_definition(model, name, text):
    explainer = TextClassificationExplainer(model, wordpiece_tokenizer(), level="token")
    found = explainer(text, target=1, method=name)
    expected = DEFINITIONS[name](Slopes(model, text))
    torch.testing.assert_close(torch.tensor(found.scores, dtype=torch.float64), expected)
    assert found.method == name


@pytest.mark.parametrize("name", COSTS)
def test_a_batch_and_any_number_of_rows_give_what_single_texts_give(explainer, name):
    singles = [explainer(text, method=name).scores for text in TEXTS]
    for options in ({}, {"internal_batch_size": 1}, {"internal_batch_size": 3}, {"batch_size": 2}):
        for found, single in zip(explainer(TEXTS, method=name, **options), singles, strict=True):
            torch.testing.assert_close(found.scores, single, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", COSTS)
def test_rows_that_a_text_costs(model, explainer, name):
    forward, backward = [], []

    def count(module: nn.Module, args: object, output: Tensor) -> None:
        forward.append(len(output))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    explainer(TEXTS[2], method="sig")
    handle = model.classifier.register_forward_hook(count)
    try:
        explainer(TEXTS[2], method=name)
    finally:
        handle.remove()
    rows, of_backward = COSTS[name]
    others = 2 if name == "rank_path" else 1  # the text as it is; the last of several rows alone
    assert (sum(forward) - others, sum(backward)) == (rows, of_backward)


@pytest.mark.filterwarnings("ignore")  # torch's own, of its older quantization
@pytest.mark.parametrize("name", COSTS)
def test_models_without_gradients_are_refused(name):
    demo = TextClassificationExplainer.from_pretrained(PATH)
    model = torch.ao.quantization.quantize_dynamic(demo.model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="the model's output has no gradient with respect to"):
        TextClassificationExplainer(model, demo.tokenizer)("A dull film.", method=name)


@pytest.mark.parametrize("name", ["lrp", "lrp_deletion"])
def test_models_without_norms_are_refused_with_the_way_out(name):
    explainer = TextClassificationExplainer(Recurrent().double(), wordpiece_tokenizer())
    with pytest.raises(ValueError, match=f"method '{name}' needs .* use \"rank_path\" or"):
        explainer("good movie", method=name)


def test_the_screen_of_a_recurrent_model_is_the_rank_path():
    explainer = TextClassificationExplainer(Recurrent().double(), wordpiece_tokenizer())
    for found, expected in zip(
        explainer(TEXTS, method="screen"), explainer(TEXTS, method="rank_path"), strict=True
    ):
        assert found.scores == expected.scores
        assert any(found.scores)


class Pooled(Recurrent):
    """No norm, and no recurrent layer."""

    def __init__(self) -> None:
        """Without the LSTM."""
        super().__init__()
        del self.lstm

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> SimpleNamespace:
        hidden = (self.embedding(input_ids) * attention_mask[..., None]).sum(1).sin()
        return SimpleNamespace(logits=self.head(hidden))


def test_the_screen_of_a_model_without_norms_is_the_rank_path():
    explainer = TextClassificationExplainer(Pooled().double(), wordpiece_tokenizer())
    found, expected = (explainer(TEXTS[2], method=name) for name in ("screen", "rank_path"))
    assert found.scores == expected.scores
    with pytest.raises(ValueError, match="got a Pooled without any"):
        explainer(TEXTS[2], method="lrp")


@pytest.mark.parametrize("name", COSTS)
def test_a_text_without_words_has_no_scores(explainer, name):
    assert explainer("", method=name).scores == []


def test_shares_of_the_words_are_one_at_least():
    order = Ranks(torch.tensor([0, 0, 1, 2, 3, 4]), torch.tensor([1, 5, 5, 5, 5, 5]))
    assert order.top(0.12).tolist() == [True, True, False, False, False, False]
    assert order.top(0.4).tolist() == [True, True, True, False, False, False]

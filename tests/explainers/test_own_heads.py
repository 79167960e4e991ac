"""Modules of your own with a function that returns logits, and further tensors beside the text."""

import pytest
import torch
from torch import nn

from captum_sig import TextClassificationExplainer
from tests.tiny_models import MASK, VOCAB, bert, tiny, wordpiece_tokenizer

TEXTS = ["a gorgeous mess!", "bad", "The movie is not unbelievable, not good.", "bad movies"]
LABELS = ["sad", "glad", "mad"]
NUMBERS = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-0.5, 1.5], [0.0, 3.0]], dtype=torch.float64)


class Own(nn.Module):
    """An encoder of transformers, mean pooling, and a head that reads two numbers too."""

    def __init__(self, n_values=3):
        super().__init__()
        self.encoder = tiny("bert").model.base_model
        torch.manual_seed(1)
        self.numbers = nn.Linear(2, 32).double()
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(32, n_values)).double()

    def logits(self, input_ids, attention_mask, numbers=None):
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        pooled = (hidden * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return self.head(pooled if numbers is None else pooled + self.numbers(numbers))


@pytest.fixture(scope="module")
def own():
    return Own().eval()


def explainer_of(model, **options):
    options = {"labels": LABELS, "forward": lambda **encoding: model.logits(**encoding), **options}
    layer = model.encoder.get_input_embeddings()
    return TextClassificationExplainer(model, wordpiece_tokenizer(), layer=layer, **options)


def by_plain_loop(logits, text):
    """Logits, (C,), and their differences without each word, (C, W)."""
    encoding = wordpiece_tokenizer()(text, return_tensors="pt")
    ids, mask, of_word = encoding["input_ids"], encoding["attention_mask"], encoding.word_ids()
    with torch.no_grad():
        whole = logits(ids, mask)[0]
        rows = []
        for word in range(max(w for w in of_word if w is not None) + 1):
            masked = ids.clone()
            masked[0, [p for p, w in enumerate(of_word) if w == word]] = MASK
            rows.append(whole - logits(masked, mask)[0])
    return whole, torch.stack(rows, -1)


def test_all_labels_are_a_plain_loop_over_ids(own):
    explain = explainer_of(own)
    for found, text in zip(explain(TEXTS, "all"), TEXTS, strict=True):
        whole, differences = by_plain_loop(own.logits, text)
        torch.testing.assert_close(found.matrix, differences, rtol=0, atol=1e-10)
        assert found.rows == LABELS
        assert found.label == LABELS[int(whole.argmax())]
        probabilities = whole.softmax(-1).tolist()
        assert list(found.probabilities.values()) == pytest.approx(probabilities, abs=1e-6)
    assert explain("bad movies", "glad").target == "glad"
    assert explain(("bad", "good"), "mad").words[1].side == "text_pair"


def test_extra_tensors_go_to_forward_with_every_row(own):
    explain = explainer_of(own)
    found = explain(TEXTS, "glad", extra_inputs={"numbers": NUMBERS}, batch_size=2)
    for result, text, numbers in zip(found, TEXTS, NUMBERS, strict=True):
        whole, differences = by_plain_loop(
            lambda ids, mask, of=numbers: own.logits(ids, mask, of[None].expand(len(ids), -1)), text
        )
        assert result.value == pytest.approx(float(whole[1]), abs=1e-10)
        assert result.scores == pytest.approx(differences[1].tolist(), abs=1e-10)
        alone = explain(text, "glad", extra_inputs={"numbers": numbers[None]})
        assert alone.scores == pytest.approx(result.scores, abs=1e-10)
    assert found[0].scores != pytest.approx(explain(TEXTS[0], "glad").scores, abs=1e-4)


@pytest.mark.parametrize("method", ["ig", "sig:two_sided", "gradient_shap", "shapley"])
def test_other_methods(own, method):
    explain = explainer_of(own)
    extras = {"numbers": NUMBERS}
    found = explain(TEXTS, 0, method, extra_inputs=extras, n_steps=5)
    alone = explain(TEXTS[3], 0, method, extra_inputs={"numbers": NUMBERS[3:]}, n_steps=5)
    assert found[3].scores == pytest.approx(alone.scores, abs=1e-10)


def test_deep_lift_is_refused(own):
    with pytest.raises(ValueError, match="DeepLift runs a copy of the model, which a forward"):
        explainer_of(own)("bad movies", method="deep_lift")


@pytest.mark.parametrize("shape", ["(R,)", "(R, 1)"])
def test_one_value(shape):
    model = Own(1).eval()

    def forward(input_ids, attention_mask):
        values = model.logits(input_ids, attention_mask)
        return values[:, 0] if shape == "(R,)" else values

    found = explainer_of(model, forward=forward, labels=None)("bad movies")
    whole, differences = by_plain_loop(model.logits, "bad movies")
    assert (found.target, found.unit, found.probability) == ("value", "value", None)
    assert found.value == pytest.approx(float(whole), abs=1e-10)
    assert found.scores == pytest.approx(differences[0].tolist(), abs=1e-10)
    assert explainer_of(model, labels=["stars"])("bad movies").target == "stars"


def test_several_labels_may_be_true(own):
    explain = explainer_of(own, multi_label=True)
    found = explain("bad movies", ">0")
    whole, _ = by_plain_loop(own.logits, "bad movies")
    assert list(found.probabilities.values()) == pytest.approx(whole.sigmoid().tolist(), abs=1e-6)
    assert found.rows == LABELS
    with pytest.raises(ValueError, match="multi_label is for modules with forward: set model.conf"):
        TextClassificationExplainer(bert(), wordpiece_tokenizer(), multi_label=True)


def test_a_module_without_anything_of_transformers():
    torch.manual_seed(0)
    embedding, head = nn.Embedding(VOCAB, 8).double(), nn.Linear(8, 2).double()
    model = nn.ModuleList([embedding, head])

    def forward(input_ids, attention_mask):
        mask = attention_mask[..., None]
        return head((embedding(input_ids) * mask).sum(1).tanh())

    explain = TextClassificationExplainer(
        model, wordpiece_tokenizer(), layer=embedding, forward=forward, labels=["no", "yes"]
    )
    for found, text in zip(explain(TEXTS, "all"), TEXTS, strict=True):
        torch.testing.assert_close(found.matrix, by_plain_loop(forward, text)[1])
    assert explain.encoder.limit == 40  # the tokenizer's
    with pytest.raises(ValueError, match="ModuleList does not name its word embedding: pass layer"):
        TextClassificationExplainer(model, wordpiece_tokenizer(), forward=forward, labels=["a"])


def test_it_can_be_evaluated(own):
    explain = explainer_of(own)
    (sentence,) = explain.sentences(["bad movies"], [0])
    log_p = explain.log_probabilities(sentence.ids[None])
    expected = by_plain_loop(own.logits, "bad movies")[0].log_softmax(-1)
    torch.testing.assert_close(log_p[0].double(), expected, rtol=0, atol=1e-6)


def test_other_names_for_the_labels_of_a_model():
    explain = TextClassificationExplainer(bert(), wordpiece_tokenizer(), labels=LABELS)
    assert explain("bad movies", "glad").target == "glad"
    assert list(explain("bad movies").probabilities) == LABELS
    for wrong, message in [
        (["a"], "labels has 1 names; the model has 3 labels"),
        (["a", "a", "b"], "labels must be different names"),
        ([], "labels must be different names, at least one"),
    ]:
        with pytest.raises(ValueError, match=message):
            TextClassificationExplainer(bert(), wordpiece_tokenizer(), labels=wrong)
    for wrong in ("abc", [1, 2, 3], 3):
        with pytest.raises(TypeError, match="labels must be a list of names, got"):
            TextClassificationExplainer(bert(), wordpiece_tokenizer(), labels=wrong)


def test_extra_tensors_of_a_model_of_transformers():
    explain = TextClassificationExplainer(bert(), wordpiece_tokenizer())
    types = {"token_type_ids": torch.ones(1, 4, dtype=torch.long)}
    assert len(explain("bad movie", extra_inputs=types).words) == 2  # the model takes these by name
    with pytest.raises(ValueError, match="'numbers', which the model's forward does not take"):
        explain("bad movie", extra_inputs={"numbers": NUMBERS[:1]})


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"numbers": NUMBERS[:2]}, r"shape \(2, 2\); wanted a row for each of 4 texts, \(4, …\)"),
        ({"numbers": torch.tensor(3.0)}, r"shape \(\); wanted a row"),
        ({"input_ids": NUMBERS}, "'input_ids', which the tokenizer makes: leave it out"),
        ({"attention_mask": NUMBERS}, "'attention_mask', which the tokenizer makes"),
    ],
)
def test_extra_tensors_that_do_not_fit(own, extras, message):
    with pytest.raises(ValueError, match=message):
        explainer_of(own)(TEXTS, extra_inputs=extras)


def test_a_name_that_forward_does_not_take(own):
    def forward(input_ids, attention_mask):
        return own.logits(input_ids, attention_mask)

    with pytest.raises(ValueError, match="'numbers', which the model's forward does not take"):
        explainer_of(own, forward=forward)(TEXTS, extra_inputs={"numbers": NUMBERS})


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        (NUMBERS, "extra_inputs is Tensor; wanted tensors by the names"),
        ({"numbers": None}, "extra_inputs.'numbers'. is NoneType; wanted a tensor of numbers"),
        ({"numbers": ["a", "b"]}, "extra_inputs.'numbers'. is list; wanted a tensor of numbers"),
        ({"numbers": [[1], [1, 2]]}, "extra_inputs.'numbers'. is list; wanted a tensor"),
    ],
)
def test_what_is_not_extra_tensors(own, extras, message):
    with pytest.raises(TypeError, match=message):
        explainer_of(own)(TEXTS, extra_inputs=extras)


def test_what_forward_must_return(own):
    with pytest.raises(ValueError, match=r"shape \(1, 3\) for 1 texts and 2 labels; wanted \(1, 2"):
        explainer_of(own, labels=["a", "b"])("bad")
    with pytest.raises(ValueError, match="and 1 labels; wanted .*: pass labels with a name"):
        explainer_of(own, labels=None)("bad")
    with pytest.raises(TypeError, match="forward returns NoneType; wanted a tensor of logits"):
        explainer_of(own, forward=lambda **encoding: None)("bad")
    with pytest.raises(TypeError, match="forward must be a function that returns logits, got 3"):
        explainer_of(own, forward=3)
    with pytest.raises(TypeError, match="model is str; with forward, TextClassificationExplainer"):
        TextClassificationExplainer("x", wordpiece_tokenizer(), forward=lambda **encoding: None)

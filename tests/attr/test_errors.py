"""Errors at the public door: got, wanted, do this."""

import pytest
import torch
from torch import Tensor, nn

from captum_sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients
from tests.tiny_models import MASK, random_ids, tiny

VERBS = ["attribute", "integrate", "attribute_words"]
X = torch.randn(2, 4, 3)


def product(x: Tensor) -> Tensor:
    """(B, L, D) → (B,)."""
    return x.prod(1).sum(-1)


@pytest.mark.parametrize("verb", VERBS)
class TestInputs:
    """The input-level class."""

    def call(self, verb, f=product, inputs=X, baselines=None, **options):
        return getattr(SequentialIntegratedGradients(f), verb)(inputs, baselines, **options)

    def test_ids(self, verb):
        with pytest.raises(TypeError, match="int64.*LayerSequentialIntegratedGradients"):
            self.call(verb, inputs=torch.ones(2, 4, dtype=torch.long))

    def test_no_tensor(self, verb):
        with pytest.raises(TypeError, match="got list"):
            self.call(verb, inputs=[X, X])

    def test_no_examples(self, verb):
        with pytest.raises(ValueError, match=r"wanted \(B, …\)"):
            self.call(verb, inputs=torch.tensor(2.0))

    @pytest.mark.parametrize("shape", [(2, 5, 3), (3, 4, 3), (4, 3), (2, 4)])
    def test_baseline_shape(self, verb, shape):
        with pytest.raises(ValueError, match=r"baselines has shape.*wanted one number or \(2, 4"):
            self.call(verb, baselines=torch.zeros(shape))

    def test_baseline_count(self, verb):
        with pytest.raises(ValueError, match="one entry for each of the 1 tensors"):
            self.call(verb, baselines=(0, 0))

    def test_baseline_type(self, verb):
        with pytest.raises(TypeError, match="got str"):
            self.call(verb, baselines="mask")

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (torch.zeros(2, 5, dtype=torch.long), r"shape \(2, 5\); wanted \(2, 4\) or \(1, 4\)"),
            (torch.zeros(4, dtype=torch.long), r"shape \(4,\)"),
            (torch.zeros(2, 4), "integer tensor, got torch.float32"),
            ([[0, 1, 2, 3]], "integer tensor, got list"),
            ((torch.zeros(1, 4).long(), torch.zeros(1, 4).long()), "2 tensors but 1"),
        ],
    )
    def test_feature_mask(self, verb, mask, message):
        with pytest.raises(ValueError, match=message):
            self.call(verb, feature_mask=mask)

    def test_target_missing(self, verb):
        with pytest.raises(ValueError, match=r"\(\d+, 2\) and no target.*pass target"):
            self.call(verb, f=lambda x: x.prod(1)[:, :2])

    @pytest.mark.parametrize("target", [7, (0, 0), [1, 9], "POSITIVE", 1.5])
    def test_target_that_does_not_fit(self, verb, target):
        with pytest.raises(ValueError, match="does not fit a model output of shape"):
            self.call(verb, f=lambda x: x.prod(1)[:, :2], target=target)

    @pytest.mark.parametrize("target", [[0, 1, 1], torch.tensor([0, 1, 1])])
    def test_target_of_another_batch(self, verb, target):
        with pytest.raises(ValueError, match="3 entries; wanted one index, or one for each"):
            self.call(verb, f=lambda x: x.prod(1), target=target)

    def test_no_tensor_output(self, verb):
        with pytest.raises(TypeError, match=r"got dict: wrap it, as in `lambda"):
            self.call(verb, f=lambda x: {"logits": x})

    def test_one_value_for_the_whole_batch(self, verb):
        with pytest.raises(ValueError, match="one value per row"):
            self.call(verb, f=lambda x: x.sum())

    @pytest.mark.parametrize("size", [0, -1])
    def test_internal_batch_size(self, verb, size):
        with pytest.raises(ValueError, match=f"at least 1 row, got {size}"):
            self.call(verb, internal_batch_size=size)

    def test_output_that_is_not_finite(self, verb):
        x = X.clone()
        with pytest.raises(FloatingPointError, match=r"output.*example 1, word 2 \(positions \[2"):
            self.call(verb, f=lambda x: torch.where(x[:, 2, 0] == 9, torch.nan, product(x)),
                      inputs=x, baselines=_nine_in(x))  # fmt: skip

    def test_output_of_the_input_that_is_not_finite(self, verb):
        x = X.clone()
        x[1, 0, 0] = torch.inf
        with pytest.raises(FloatingPointError, match="example 1, the unchanged input"):
            self.call(verb, inputs=x)


def _nine_in(x: Tensor) -> Tensor:
    baseline = torch.zeros_like(x)
    baseline[1, 2] = 9
    return baseline


def test_gradient_that_is_not_finite():
    """√ at 0 has a value but no gradient."""
    x = torch.tensor([[[1.0], [0.0]]])
    sig = SequentialIntegratedGradients(lambda x: x.sqrt().sum((1, 2)))
    with pytest.raises(FloatingPointError, match=r"gradient.*example 0, word 1 \(pos"):
        sig.attribute(x, torch.tensor([[[1.0], [4.0]]]), method="riemann_right", n_steps=4)


def test_unknown_method():
    with pytest.raises(ValueError, match="'simpson' is unknown.*gausslegendre"):
        SequentialIntegratedGradients(product).attribute(X, method="simpson")


def test_attributions_of_another_shape():
    sig = SequentialIntegratedGradients(product)
    with pytest.raises(ValueError, match=r"\[\(2, 4\)\]; wanted \[\(2, 4, 3\)\]"):
        sig.compute_convergence_delta(X[..., 0], 0, X)


class TestLayer:
    """The layer-level class."""

    bert = tiny("bert", torch.float32)

    def sig(self, layer=None, forward=None):
        return LayerSequentialIntegratedGradients(
            forward or self.bert.logits, layer or self.bert.embedding
        )

    def test_layer_that_runs_for_other_examples(self):
        embedding = nn.Embedding(64, 3)
        sig = self.sig(embedding, lambda ids: embedding(ids[:1]).sum((1, 2)).expand(len(ids)))
        with pytest.raises(ValueError, match=r"returns .* \(1, 5, 3\); wanted .*\(2, L, …\)"):
            sig.attribute(random_ids(2, 5), MASK)

    def test_layer_input_of_ids(self):
        with pytest.raises(ValueError, match="int64; wanted floating activations"):
            self.sig().attribute(random_ids(2, 5), MASK, target=0, attribute_to_layer_input=True)

    def test_layer_that_never_runs(self):
        with pytest.raises(ValueError, match="Embedding did not run"):
            self.sig(nn.Embedding(3, 3)).attribute(random_ids(2, 5), MASK, target=0)

    def test_one_of_several_layers_that_never_runs(self):
        with pytest.warns(UserWarning, match="Multiple layers"):
            sig = self.sig([self.bert.embedding, nn.Embedding(3, 3)])
        with pytest.raises(ValueError, match="Embedding did not run"):
            sig.attribute(random_ids(2, 5), MASK, target=0)

    def test_layer_that_runs_only_at_first(self):
        """A forward function that caches what it saw would give zeros without a word."""
        calls = []

        def cached(ids: Tensor) -> Tensor:
            calls.append(ids)
            return self.bert.logits(ids) if len(calls) == 1 else torch.zeros(len(ids), 2)

        with pytest.raises(ValueError, match="Embedding did not run"):
            self.sig(forward=cached).attribute_words(random_ids(2, 5), MASK, target=0)

    def test_layers_that_give_no_tensors(self):
        lstm = nn.LSTM(3, 4, batch_first=True)
        sig = LayerSequentialIntegratedGradients(lambda x: lstm(x)[0].sum((1, 2)), lstm)
        with pytest.raises(ValueError, match="LSTM returns tuple; wanted floating"):
            sig.attribute(X)
        with pytest.raises(ValueError, match="BertModel returns BaseModelOutput.*; wanted"):
            self.sig(self.bert.model.bert).attribute(random_ids(2, 5), MASK, target=0)
        embeddings = self.bert.model.bert.embeddings
        with pytest.raises(ValueError, match="BertEmbeddings returns NoneType; wanted"):
            self.sig(embeddings).attribute(
                random_ids(2, 5), MASK, target=0, attribute_to_layer_input=True
            )
        assert not lstm._forward_hooks
        assert not embeddings._forward_pre_hooks

    def test_layer_that_runs_twice(self):
        def twice(ids: Tensor) -> Tensor:
            return self.bert.logits(ids) + self.bert.logits(ids.flip(1))

        with pytest.raises(ValueError, match="Embedding runs more than once"):
            self.sig(forward=twice).attribute(random_ids(2, 5), MASK, target=0)
        assert not self.bert.embedding._forward_hooks

    def test_output_that_is_detached(self):
        with pytest.raises(ValueError, match="no gradient with respect to the moving"):
            self.sig(forward=lambda ids: self.bert.logits(ids).detach()).attribute(
                random_ids(2, 5), MASK, target=0
            )

    def test_activations_given_as_ids(self):
        ids = random_ids(2, 5)
        with pytest.raises(ValueError, match="activations go to layer_baselines"):
            self.sig().attribute(ids, torch.zeros(2, 5, 32), target=0)

    def test_both_baselines(self):
        with pytest.raises(ValueError, match="either baselines .* or layer_baselines"):
            self.sig().attribute(random_ids(2, 5), MASK, target=0, layer_baselines=0.0)

    def test_layer_baselines_shape(self):
        with pytest.raises(ValueError, match=r"layer_baselines has shape \(5,\)"):
            self.sig().attribute(random_ids(2, 5), target=0, layer_baselines=torch.zeros(5))

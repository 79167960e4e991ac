"""The classes against the oracle, with arguments that hypothesis draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients
from captum_sig.quadrature import RULES, rule
from tests import oracle

SETTINGS = settings(derandomize=True, deadline=None, database=None, max_examples=150)
MODELS = {
    "product": lambda x: x.reshape(len(x), -1).prod(1),
    "gate": lambda x: x.reshape(len(x), -1).tanh().sum(1) * x.reshape(len(x), -1)[:, 0],
    "linear": lambda x: x.reshape(len(x), -1).sum(1),
    "largest": lambda x: x.reshape(len(x), -1).logsumexp(1),
    "constant": lambda x: 0 * x.reshape(len(x), -1).sum(1),
}


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Between −1 and 1, a third of them 0, so that baselines are met."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(-1, 1, shape) * rng.integers(0, 3, shape).clip(max=1))


@st.composite
def problems(draw):
    """F, x and b (B, L, …), the mask (B, L) or None, and each example's words."""
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 3)),
            st.tuples(st.integers(1, 3), st.integers(1, 5)),
            st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3)),
            st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)),
        )
    )
    x, b = (numbers(shape, draw(st.integers(0, 10**6))) for _ in range(2))
    batch, length = shape[0], shape[1] if len(shape) > 1 else 1
    rows = draw(st.sampled_from([1, batch]))
    if draw(st.booleans()):
        row = st.lists(st.integers(-3, 4), min_size=length, max_size=length)
        mask = torch.tensor([draw(row) for _ in range(rows)])
    else:
        mask = None
    words = [
        [[p for p in range(length) if numbering[p] == number] for number in sorted(set(numbering))]
        for numbering in (
            [list(range(length))] * batch if mask is None else mask.expand(batch, length).tolist()
        )
    ]
    return draw(st.sampled_from(sorted(MODELS))), x, b, mask, words


def with_positions(x: Tensor) -> Tensor:
    """(B,) → (B, 1)."""
    return x[:, None] if x.dim() == 1 else x


def as_layer(f):
    """The layer-level class, of a layer that returns its input."""
    layer = nn.Identity()
    return LayerSequentialIntegratedGradients(lambda x: f(layer(x)), layer)


@pytest.mark.filterwarnings("ignore:nothing differs", "ignore:.*did not reach tolerance")
@pytest.mark.parametrize("make", [SequentialIntegratedGradients, as_layer])
class TestOracle:
    """Both classes."""

    @SETTINGS
    @given(drawn=problems(), rows=st.one_of(st.none(), st.integers(1, 4)))
    def test_words(self, make, drawn, rows):
        name, x, b, mask, words = drawn
        found = make(MODELS[name]).attribute_words(
            x, b, feature_mask=mask, internal_batch_size=rows
        )
        for number, of_example in enumerate(words):
            one = slice(number, number + 1)
            start, end = with_positions(b)[one], with_positions(x)[one]
            expected = oracle.word_differences(MODELS[name], end, start, of_example)
            torch.testing.assert_close(with_positions(found)[one], expected, rtol=1e-9, atol=1e-12)

    @SETTINGS
    @given(
        drawn=problems(),
        method=st.sampled_from(sorted(RULES)),
        n_steps=st.integers(2, 9),
        rows=st.one_of(st.none(), st.integers(1, 4)),
    )
    def test_integral(self, make, drawn, method, n_steps, rows):
        name, x, b, mask, words = drawn
        found = make(MODELS[name]).attribute(
            x, b, feature_mask=mask, method=method, n_steps=n_steps, internal_batch_size=rows
        )
        assert found.shape == x.shape
        for number, of_example in enumerate(words):
            one = slice(number, number + 1)
            expected = oracle.sequential_integrated_gradients(
                MODELS[name], with_positions(x)[one], with_positions(b)[one], of_example,
                rule(method, n_steps),
            )  # fmt: skip
            torch.testing.assert_close(with_positions(found)[one], expected, rtol=1e-9, atol=1e-12)

    @settings(SETTINGS, max_examples=60)
    @given(drawn=problems(), tolerance=st.sampled_from([1e-1, 1e-3, 1e-6]))
    def test_tolerance(self, make, drawn, tolerance):
        name, x, b, mask, _ = drawn
        sig = make(MODELS[name])
        found = sig.integrate(x, b, feature_mask=mask, tolerance=tolerance)
        exact = sig.attribute_words(x, b, feature_mask=mask)
        if found.converged.all():
            largest = with_positions(found.attributions).flatten(1).abs().amax(1).clamp(min=1)
            bound = 10 * tolerance * largest[:, None]
            assert (with_positions(found.word_delta).abs() <= bound).all()
        assert exact.isfinite().all()

"""Words that move in several backgrounds."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_sig import (
    LayerSequentialIntegratedGradients,
    SequentialIntegratedGradients,
    contexts,
)
from captum_sig.quadrature import rule
from tests import oracle
from tests.tiny_models import mask_baseline, tiny

WORDS = [[1], [2, 3], [4]]
GROUPS = torch.tensor([[9, 0, 1, 1, 2, 8]])
IDS = torch.tensor([[2, 14, 11, 20, 13, 3], [2, 7, 9, 16, 8, 3]])
KEPT = torch.tensor([[True, False, True], [False, True, False], [False, False, True]])


def either(x: Tensor) -> Tensor:
    """1 if one of two words says so: redundant evidence."""
    return 1 - (1 - x[:, 0, 0]) * (1 - x[:, 1, 0])


def majority(x: Tensor) -> Tensor:
    """A game in which the order of words matters."""
    return (x[..., 0].cumprod(1)).sum(1) + 2 * x[:, 0, 0] * x[:, 3, 0] - x[:, 1, 0] * x[:, 2, 0]


@pytest.fixture(scope="module")
def bert():
    return tiny("bert")


def at_embedding(bert, ids: Tensor):
    def f(rows: Tensor) -> Tensor:
        handle = bert.embedding.register_forward_hook(lambda *_: rows)
        try:
            return bert.logits(ids)[:, 1]
        finally:
            handle.remove()

    return f


def layer_class(bert) -> LayerSequentialIntegratedGradients:
    return LayerSequentialIntegratedGradients(bert.logits, bert.embedding)


ARGUMENTS = {"target": 1, "feature_mask": GROUPS, "contexts": lambda n: KEPT[:, :n]}


def test_attributions_and_word_scores_equal_the_oracle_in_every_background(bert):
    base = mask_baseline(IDS)
    found = layer_class(bert).attribute(IDS, base, n_steps=4, **ARGUMENTS)
    words = layer_class(bert).attribute_words(IDS, base, **ARGUMENTS)
    for number in range(2):
        with torch.no_grad():
            x, b = (bert.embedding(ids[number : number + 1]) for ids in (IDS, base))
        f = at_embedding(bert, IDS[number : number + 1])
        expected, differences = torch.zeros_like(x), torch.zeros_like(x[..., 0])
        for kept, (word, positions) in itertools.product(KEPT.tolist(), enumerate(WORDS)):
            held = oracle.in_background(x, b, WORDS, kept, word)
            expected += oracle.sequential_integrated_gradients(
                f, held, b, [positions], rule("gausslegendre", 4)
            )
            differences += oracle.word_differences(f, held, b, [positions])
        torch.testing.assert_close(found[number], expected[0] / 3, atol=1e-10, rtol=0)
        torch.testing.assert_close(words[number], differences[0] / 3, atol=1e-10, rtol=0)


def test_a_tolerance_holds_in_backgrounds_too(bert):
    base = mask_baseline(IDS)
    sig = layer_class(bert)
    fine = sig.integrate(IDS, base, n_steps=100, **ARGUMENTS)
    found = sig.integrate(IDS, base, tolerance=1e-4, **ARGUMENTS)
    scale = fine.attributions.flatten(2).norm(dim=-1).amax(1)
    off = (found.attributions - fine.attributions).norm(dim=-1).amax(1)
    assert (off <= 1e-3 * scale).all()
    assert found.converged.all()
    assert (found.n_evaluations[:, 1:5] < 300).all()
    assert found.word_delta.abs().max() < 1e-4


def test_the_input_as_context_is_the_paper(bert):
    base = mask_baseline(IDS)
    sig = layer_class(bert)
    one = sig.integrate(IDS, base, target=1, n_steps=3)
    same = sig.integrate(IDS, base, target=1, n_steps=3, contexts=contexts.input)
    assert torch.equal(one.attributions, same.attributions)
    assert one.residual is None is same.residual
    assert one.standard_error is None is same.standard_error


def test_redundant_words_share_what_each_alone_does_not_change():
    x = torch.ones(1, 2, 1, dtype=torch.float64)
    sig = SequentialIntegratedGradients(either)
    assert sig.attribute_words(x).tolist() == [[0, 0]]
    assert sig.attribute_words(x, contexts=contexts.two_sided).tolist() == [[0.5, 0.5]]
    both = sig.integrate(x, n_steps=2, contexts=contexts.two_sided)
    torch.testing.assert_close(both.attributions.squeeze(), torch.tensor([0.5, 0.5]).double())
    assert both.residual.tolist() == [0]
    assert both.standard_error is None  # nothing was drawn


def test_sampled_contexts_estimate_the_shapley_value_within_their_standard_error():
    x = torch.ones(1, 4, 1, dtype=torch.float64)
    shapley = torch.zeros(4).double()
    for order in itertools.permutations(range(4)):
        present = torch.zeros_like(x)
        for word in order:
            before = majority(present)
            present[:, word] = 1
            shapley[word] += (majority(present) - before)[0] / math.factorial(4)
    sig = SequentialIntegratedGradients(majority)
    generator = torch.Generator().manual_seed(0)
    runs = [
        sig.integrate(x, n_steps=1, contexts=contexts.sampled(16, generator)) for _ in range(200)
    ]
    words = torch.stack(
        [sig.attribute_words(x, contexts=contexts.sampled(16, generator))[0] for _ in range(200)]
    )
    spread = words.std(0)
    torch.testing.assert_close(
        words.mean(0), shapley, atol=4 * float(spread.max()) / 200**0.5, rtol=0
    )
    errors = torch.stack([run.standard_error[0] for run in runs]).square().mean(0).sqrt()
    assert ((errors / spread > 0.8) & (errors / spread < 1.3)).all()
    residuals = torch.cat([run.residual for run in runs])
    assert residuals.mean().abs() < 4 * residuals.std() / 200**0.5
    assert residuals.std() < words.sum(1).std() * 1.3


def test_more_backgrounds_leave_less_of_the_sentence_unexplained():
    x = torch.ones(1, 4, 1, dtype=torch.float64)
    sig = SequentialIntegratedGradients(majority)

    def residual(k: int) -> float:
        generator = torch.Generator().manual_seed(k)
        found = [
            sig.integrate(x, n_steps=1, contexts=contexts.sampled(k, generator)).residual
            for _ in range(50)
        ]
        return float(torch.cat(found).square().mean().sqrt())

    assert residual(64) < residual(4) / 3  # as 1 / √k would give 4


@pytest.mark.parametrize(
    ("chosen", "n_rows"),
    [(contexts.input, 1 + (1 + 4)), (contexts.two_sided, 1 + 2 * (1 + 4) + 1),
     (lambda n: torch.eye(3, n).bool(), 1 + 3 * (1 + 4) + 1)],
)  # fmt: skip
def test_a_background_costs_a_row_for_each_word_and_one_for_itself(bert, chosen, n_rows):
    rows = []
    counted = bert.model.register_forward_hook(lambda *call: rows.append(len(call[2].logits)))
    try:
        layer_class(bert).attribute_words(
            IDS[:1], mask_baseline(IDS[:1]), target=1, contexts=chosen
        )
    finally:
        counted.remove()
    assert sum(rows) == n_rows  # first the pass that reads the layer, last a row alone


def test_a_batch_draws_as_its_examples_one_by_one(bert):
    base = mask_baseline(IDS)
    sig = layer_class(bert)
    drawn = contexts.sampled(3, torch.Generator().manual_seed(5))
    batch = sig.attribute_words(IDS, base, target=1, contexts=drawn)
    drawn = contexts.sampled(3, torch.Generator().manual_seed(5))
    singles = [
        sig.attribute_words(IDS[i : i + 1], base[i : i + 1], target=1, contexts=drawn)
        for i in range(2)
    ]
    torch.testing.assert_close(batch, torch.cat(singles), atol=1e-12, rtol=0)


def test_the_delta_is_measured_in_the_same_backgrounds(bert):
    base = mask_baseline(IDS)
    sig = layer_class(bert)
    found, delta = sig.attribute(
        IDS, base, target=1, n_steps=60, contexts=contexts.two_sided, return_convergence_delta=True
    )
    assert delta.abs().max() < 1e-6
    same = sig.compute_convergence_delta(found, base, IDS, 1, contexts=contexts.two_sided)
    torch.testing.assert_close(same, delta, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [lambda n: torch.ones(2, n), lambda n: torch.ones(n + 1, dtype=torch.bool), lambda n: [True],
     lambda n: torch.ones(0, n, dtype=torch.bool), lambda n: torch.ones(n, n + 1).bool()],
)  # fmt: skip
def test_contexts_of_another_shape_are_refused(wrong):
    with pytest.raises(ValueError, match=r"wanted booleans \(K, 4\)"):
        SequentialIntegratedGradients(majority).attribute_words(torch.ones(1, 4, 1), contexts=wrong)


def test_names():
    assert contexts.named("two_sided") is contexts.two_sided
    assert contexts.named("sampled16").k == 16
    assert contexts.named("auto") == contexts.auto()
    assert [made.name for made in (contexts.auto(), contexts.sampled(3))] == ["auto", "sampled3"]
    for wrong in ("sampled", "sampled0", "none"):
        with pytest.raises(ValueError, match="use one of input, two_sided, auto, sampled16"):
            contexts.named(wrong)
    with pytest.raises(ValueError, match=r"'two-sided' is unknown \(did you mean 'two_sided'\?\)"):
        contexts.named("two-sided")
    assert contexts.sampled(1).standard_error(torch.ones(1, 3)) is None


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "4", 10_001, 10**30])
def test_numbers_of_backgrounds_have_a_limit(k):
    with pytest.raises(ValueError, match="contexts must be an integer from 1 to 10,000, got "):
        contexts.sampled(k)


@pytest.mark.parametrize("tolerance", [0, -0.1, math.nan, math.inf, True, "0.1", None])
def test_a_tolerance_of_auto_is_a_positive_fraction(tolerance):
    with pytest.raises(
        ValueError, match=r"tolerance of contexts\.auto must be a positive fraction"
    ):
        contexts.auto(tolerance)


@pytest.mark.parametrize("max_rows", [0, -1, 1.5, True, "100"])
def test_rows_of_auto_are_a_number(max_rows):
    with pytest.raises(ValueError, match=r"max_rows of contexts\.auto must be an integer of at"):
        contexts.auto(max_rows=max_rows)


def test_auto_starts_from_both_sides():
    assert torch.equal(contexts.auto()(3), contexts.two_sided(3))
    assert contexts.auto(np.float32(0.5), np.int64(40)) == contexts.auto(0.5, 40)


@pytest.mark.parametrize("n_digits", [5, 30, 5_000])
def test_names_with_absurd_numbers_are_refused(n_digits):
    with pytest.raises(ValueError, match="from 1 to 10,000, got ") as caught:
        contexts.named("sampled" + "9" * n_digits)
    assert len(str(caught.value)) < 120


def test_numbers_of_numpy_and_pytorch_are_numbers():
    for k in (np.int64(3), torch.tensor(3)):
        assert contexts.sampled(k) == contexts.sampled(3)
        assert type(contexts.sampled(k).k) is int


def test_a_value_that_is_not_finite_names_the_example_in_any_background():
    def broken(x: Tensor) -> Tensor:
        return torch.where(x[:, 0, 0] == 3, math.nan, x.sum((1, 2)))

    x = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    with pytest.raises(FloatingPointError, match="example 1"):
        SequentialIntegratedGradients(broken).attribute_words(x, contexts=contexts.two_sided)


def test_texts_without_a_word_that_differs_have_no_background_to_draw():
    x = torch.zeros(1, 4, 1)
    with pytest.warns(UserWarning, match="nothing differs"):
        found = SequentialIntegratedGradients(nn.Flatten()).integrate(
            x, target=0, n_steps=2, contexts=contexts.sampled(3)
        )
    assert found.attributions.eq(0).all()
    assert found.residual.tolist() == [0]


@pytest.mark.parametrize("wrong", ["two_sided", 3])
def test_contexts_must_be_callables(wrong):
    with pytest.raises(TypeError, match="contexts must be a callable such as"):
        SequentialIntegratedGradients(majority).attribute_words(torch.ones(1, 4, 1), contexts=wrong)

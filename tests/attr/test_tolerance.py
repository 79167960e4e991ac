"""A tolerance is kept, costs what it must, and says where it was not kept."""

import warnings

import pytest
import torch
from torch import Tensor

from captum_sig import (
    LayerSequentialIntegratedGradients,
    SequentialIntegratedGradients,
    TextClassificationExplainer,
    baselines,
)
from captum_sig.quadrature import rule
from tests import oracle
from tests.problems import PROBLEMS, D, L
from tests.tiny_models import mask_baseline, random_ids, tiny


def random(*shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(*shape, dtype=torch.float64)


def errors(found: Tensor, exact: Tensor) -> Tensor:
    """‖found − exact‖₂ of each word by the example's largest ‖exact‖₂, (B, L)."""
    return (found - exact).norm(dim=-1) / exact.norm(dim=-1).amax(1, keepdim=True)


def check_kept(tolerance: float, *found_and_exact: tuple[Tensor, Tensor]) -> None:
    """The promise: 99.5 % of the words within the tolerance, all within five times of it."""
    off = torch.cat(
        [errors(found, exact)[exact.norm(dim=-1) > 0] for found, exact in found_and_exact]
    )
    assert (off <= tolerance).double().mean() >= 0.995
    assert off.max() <= 5 * tolerance


def turning(x: Tensor) -> Tensor:
    """Words that turn at 0.3 of their way, ever more sharply, and two that do not turn."""
    sharpness = torch.tensor([0.0, 3.0, 30.0, 300.0, 0.0], dtype=x.dtype)
    turns = torch.tanh(sharpness[:, None] * (x - 0.3)) * torch.arange(1.0, 4, dtype=x.dtype)
    return turns.sum((1, 2)) + 1e-3 * x[:, 0].sum(-1) + x[:, -1].prod(-1)


def cancelling(x: Tensor) -> Tensor:
    """Two features that turn sharply against each other: F itself is constant on the path."""
    return (torch.tanh(200 * (x[..., 0] - 0.37)) * (x[..., 0] - x[..., 1])).sum(1)


@pytest.mark.parametrize("tolerance", [0.1, 1e-2, 1e-3, 1e-5])
class TestPromise:
    """Kept on closed forms, on sharp turns, and on every family of models."""

    @pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
    def test_closed_forms_need_no_more_than_the_start(self, problem, tolerance):
        x, b = random(4, L, D), random(4, L, D)
        found = SequentialIntegratedGradients(problem.f).integrate(x, b, tolerance=tolerance)
        torch.testing.assert_close(found.attributions, problem.sig(x, b), rtol=0, atol=1e-10)
        assert found.n_evaluations.unique().tolist() == [5]
        assert found.converged.all()

    def test_sharp_turns(self, tolerance):
        x, b = torch.ones(1, 5, 3, dtype=torch.float64), torch.zeros(1, 5, 3, dtype=torch.float64)
        sig = SequentialIntegratedGradients(turning)
        found = sig.integrate(x, b, tolerance=tolerance, n_steps=400)
        exact = sig.attribute(x, b, n_steps=2000)
        check_kept(tolerance, (found.attributions, exact))
        assert found.converged.all()
        used = found.n_evaluations[0].tolist()
        assert used[0] == used[4] == 5
        assert used[3] > used[2] > used[1]
        assert found.word_delta.abs().max() <= tolerance * exact.norm(dim=-1).max()

    def test_features_that_cancel_in_the_sum(self, tolerance):
        x, b = torch.ones(1, 1, 2, dtype=torch.float64), torch.zeros(1, 1, 2, dtype=torch.float64)
        sig = SequentialIntegratedGradients(cancelling)
        assert sig.attribute_words(x, b).abs().max() < 1e-12
        found = sig.integrate(x, b, tolerance=tolerance, n_steps=400)
        assert errors(found.attributions, sig.attribute(x, b, n_steps=2000)) <= 5 * tolerance
        assert found.converged.all()

    def test_models(self, tolerance, sharp_models):
        pairs = []
        for sig, ids, exact in sharp_models:
            found = sig.integrate(
                ids, mask_baseline(ids), target=1, tolerance=tolerance, n_steps=300
            )
            assert found.converged.all()
            pairs.append((found.attributions, exact))
        check_kept(tolerance, *pairs)

    def test_the_demo_model(self, tolerance, demo_texts):
        pairs = []
        for sig, ids, base, exact in demo_texts:
            pairs.append((sig.attribute(ids, base, target=1, tolerance=tolerance), exact))
        check_kept(tolerance, *pairs)


@pytest.fixture(scope="module")
def demo_texts(demo):
    """SIG of the demo model, ids, baseline ids, and attributions at 100 nodes."""
    sig = LayerSequentialIntegratedGradients(lambda ids: demo.model(ids).logits, demo.layer)
    texts = []
    for sentence in [
        "The plot is thin, but the acting is superb.",
        "It is not that the jokes are bad; there are no jokes.",
        "A slow film that feels like a punishment.",
    ]:
        ids = demo.tokenizer(sentence, return_tensors="pt")["input_ids"]
        base = baselines.mask(demo.tokenizer, ids)
        texts.append((sig, ids, base, sig.attribute(ids, base, target=1, n_steps=100)))
    return texts


@pytest.fixture(scope="module")
def sharp_models():
    """Models that bend more than trained ones, ids, and attributions at 200 nodes."""
    return [
        (sig, ids, sig.attribute(ids, mask_baseline(ids), target=1, n_steps=200))
        for sig in map(sharp, ["bert", "gpt2", "llama", "lstm"])
        for ids in (random_ids(4, 10, seed=seed) for seed in range(2))
    ]


def sharp(name: str) -> LayerSequentialIntegratedGradients:
    """SIG of a random model with all its weights doubled."""
    model = tiny(name)
    with torch.no_grad():
        for weight in model.model.parameters():
            if weight.dim() > 1:
                weight *= 2
    return LayerSequentialIntegratedGradients(model.logits, model.embedding)


def test_equals_the_oracle_at_many_nodes():
    def f(x: Tensor) -> Tensor:
        return (x[:, 0] * x[:, 1].sin() * x[:, 2].exp() + x[:, 3] ** 3).sum(-1)

    x, b = random(2, L, D), random(2, L, D)
    words = [[0], [1, 2], [3]]
    sig = SequentialIntegratedGradients(f)
    found = sig.attribute(x, b, tolerance=1e-8, feature_mask=torch.tensor([[0, 1, 1, 2]]))
    for i in range(2):
        exact = oracle.sequential_integrated_gradients(
            f, x[i : i + 1], b[i : i + 1], words, rule("gausslegendre", 60)
        )
        torch.testing.assert_close(found[i : i + 1], exact, rtol=0, atol=1e-8 * exact.norm())


def count_rows(model, seen: list[int], graphs: list[bool]):
    """The model's logits, noting rows and whether a gradient is asked for."""

    def logits(ids: Tensor) -> Tensor:
        seen.append(len(ids))
        graphs.append(torch.is_grad_enabled())
        return model.logits(ids)

    return logits


def test_the_input_is_evaluated_once_and_no_row_without_a_gradient():
    model, seen, graphs = tiny("bert"), [], []
    ids = random_ids(3, 8)
    sig = LayerSequentialIntegratedGradients(count_rows(model, seen, graphs), model.embedding)
    found = sig.integrate(ids, mask_baseline(ids), target=1, tolerance=1e-3)
    gradients = sum(rows for rows, graph in zip(seen, graphs, strict=True) if graph)
    values = sum(rows for rows, graph in zip(seen, graphs, strict=True) if not graph)
    moving = ids != mask_baseline(ids)
    alone = 1  # a row once more, to see that it does not depend on the others
    assert gradients == int((found.n_evaluations[moving] - 1).sum()) + len(ids) + alone
    assert values <= 2 * len(ids)  # which read the layer for input and baseline
    exact = LayerSequentialIntegratedGradients(model.logits, model.embedding).attribute_words(
        ids, mask_baseline(ids), target=1
    )
    torch.testing.assert_close(
        found.attributions.sum(-1) - found.word_delta, exact, rtol=0, atol=1e-12
    )


def test_fewer_gradients_than_a_fixed_rule_of_the_same_accuracy():
    x, b = torch.ones(1, 5, 3, dtype=torch.float64), torch.zeros(1, 5, 3, dtype=torch.float64)
    sig = SequentialIntegratedGradients(turning)
    exact = sig.attribute(x, b, n_steps=2000)
    found = sig.integrate(x, b, tolerance=1e-3, n_steps=400)
    same_work = int(found.n_evaluations.double().mean())
    fixed = sig.attribute(x, b, n_steps=same_work)
    assert errors(fixed, exact).max() > 10 * errors(found.attributions, exact).max()


def test_tuples_and_layers_are_refined_together():
    def f(x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(20 * (x.sum(-1) - y.sum(-1))).prod(1)

    x, y = random(2, 4, 3), random(2, 4, 2)
    sig = SequentialIntegratedGradients(f)
    found = sig.integrate((x, y), tolerance=1e-4, n_steps=1000)
    exact = sig.attribute((x, y), n_steps=2000)
    check_kept(1e-4, (torch.cat(found.attributions, -1), torch.cat(exact, -1)))
    for used in found.n_evaluations:
        assert torch.equal(used, found.n_evaluations[0])  # the tensors' positions move together
    series = random(2, 6)
    flat = SequentialIntegratedGradients(lambda x: torch.sin(3 * x).prod(1))
    torch.testing.assert_close(
        flat.attribute(series, tolerance=1e-6), flat.attribute(series, n_steps=100),
        rtol=0, atol=1e-5,
    )  # fmt: skip


def test_without_the_factor():
    x, b = random(2, 5, 3), random(2, 5, 3)
    plain = SequentialIntegratedGradients(turning, multiply_by_inputs=False)
    scaled = SequentialIntegratedGradients(turning)
    found = plain.attribute(x, b, tolerance=1e-2, n_steps=300) * (x - b)
    expected = scaled.attribute(x, b, tolerance=1e-2, n_steps=300)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_at_the_cap_one_warning_says_how_many_and_how_far():
    x, b = torch.ones(2, 5, 3, dtype=torch.float64), torch.zeros(2, 5, 3, dtype=torch.float64)
    sig = SequentialIntegratedGradients(turning)
    with pytest.warns(UserWarning, match=r"2 of 10 words .* tolerance 0.001 .* 40 eval") as caught:
        found = sig.integrate(x, b, tolerance=1e-3, n_steps=40)
    assert len(caught) == 1
    assert (~found.converged).nonzero().tolist() == [[0, 3], [1, 3]]
    assert found.n_evaluations.max() == 40
    worst = (found.word_delta.abs() / found.attributions.norm(dim=-1).amax(1, keepdim=True)).max()
    assert f"{worst:.1e} of the largest word" in str(caught[0].message)


def test_the_cap_is_129_unless_the_caller_gives_one():
    x, b = torch.ones(1, 5, 3, dtype=torch.float64), torch.zeros(1, 5, 3, dtype=torch.float64)
    sig = SequentialIntegratedGradients(turning)
    for options, cap in [({}, 129), ({"n_steps": 50}, 50), ({"n_steps": 9}, 9)]:
        with pytest.warns(UserWarning, match=f"within {cap} evaluations"):
            found = sig.integrate(x, b, tolerance=1e-12, **options)
        assert found.n_evaluations.max() == cap


def test_a_jump_is_not_chased_until_nodes_coincide():
    weight = torch.arange(1.0, 5, dtype=torch.float64).view(1, 1, 4)

    def jumping(x: Tensor) -> Tensor:
        return torch.sigmoid(1e14 * ((x * weight).sum((1, 2)) - 0.2348 * weight.sum()))

    with pytest.warns(UserWarning, match="1 of 1 words did not reach"):
        found = SequentialIntegratedGradients(jumping).integrate(
            torch.ones_like(weight), tolerance=1e-3, n_steps=1000
        )
    assert found.attributions.isfinite().all()
    assert not found.converged.any()
    assert found.n_evaluations.max() < 1000


def test_values_too_coarse_for_the_tolerance_stop_early():
    model = tiny("bert", torch.bfloat16)
    ids = random_ids(1, 8)
    sig = LayerSequentialIntegratedGradients(model.logits, model.embedding)
    with pytest.warns(UserWarning, match="or the precision of F"):
        found = sig.integrate(ids, mask_baseline(ids), target=1, tolerance=1e-6)
    assert not found.converged.all()
    assert found.n_evaluations.max() < 129


def test_zero_attributions_are_no_obstacle():
    found = SequentialIntegratedGradients(lambda x: 0 * x.sum((1, 2))).integrate(
        random(2, 3, 2), tolerance=1e-3
    )
    assert (found.attributions == 0).all()
    assert found.converged.all()


def test_an_example_is_held_to_its_own_largest_word():
    x, b = torch.ones(1, 5, 3, dtype=torch.float64), torch.zeros(1, 5, 3, dtype=torch.float64)
    sig = SequentialIntegratedGradients(turning)
    alone = sig.integrate(x, b, tolerance=1e-3, n_steps=300)
    both = SequentialIntegratedGradients(
        lambda x, weight: turning(x) * weight
    ).integrate(
        x.expand(2, -1, -1), b, additional_forward_args=torch.tensor([1.0, 1e6]).double(),
        tolerance=1e-3, n_steps=300,
    )  # fmt: skip
    assert both.n_evaluations.tolist() == 2 * alone.n_evaluations.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0}, "positive number, got 0"),
        ({"tolerance": -1e-3}, "positive number, got -0.001"),
        ({"tolerance": float("nan")}, "positive number, got nan"),
        ({"tolerance": "1e-3"}, "positive number, got '1e-3'"),
        ({"tolerance": 1e-3, "method": "riemann_left"}, "leave out either method 'riemann_left'"),
        ({"tolerance": 1e-3, "n_steps": 5}, "at least 9; got 5"),
        ({"tolerance": 1e-3, "n_steps": 0}, "n_steps must be an integer from 1 to 2,000"),
        (
            {"tolerance": 1e-3, "n_steps": None},
            "n_steps must be an integer from 1 to 2,000, got None",
        ),
        ({"n_steps": None}, "n_steps must be an integer from 1 to 2,000, got None"),
    ],
)
@pytest.mark.parametrize("verb", ["attribute", "integrate"])
def test_arguments_that_do_not_fit(verb, options, message):
    sig = SequentialIntegratedGradients(turning)
    with pytest.raises(ValueError, match=message):
        getattr(sig, verb)(random(1, 5, 3), **options)


def test_a_gradient_that_is_not_finite_names_its_word():
    def broken(x: Tensor) -> Tensor:
        return torch.where(x[:, 1] < 0.4, x[:, 1].log(), x[:, 1]).sum(-1) + x[:, 0].sum(-1)

    with pytest.raises(FloatingPointError, match="word 1"):
        SequentialIntegratedGradients(broken).attribute(
            torch.ones(1, 2, 3), torch.tensor([[[0.5] * 3, [0.0] * 3]]), tolerance=1e-3
        )


def test_on_a_real_model(shared):
    explainer = TextClassificationExplainer.from_pretrained(shared / "models" / "minilm-sst2")
    model = explainer.model
    ids = explainer.tokenizer("the movie is not good", return_tensors="pt")["input_ids"]
    sig = LayerSequentialIntegratedGradients(lambda ids: model(ids).logits, explainer.layer)
    base = explainer.tokenizer.mask_token_id
    exact = sig.attribute(ids, base, target=0, n_steps=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tolerance in (1e-2, 1e-3):
            found = sig.attribute(ids, base, target=0, tolerance=tolerance)
            check_kept(tolerance, (found, exact))


def test_under_autocast():
    model = tiny("bert", torch.float32)
    ids = random_ids(1, 7)
    sig = LayerSequentialIntegratedGradients(model.logits, model.embedding)
    expected = sig.attribute_words(ids, mask_baseline(ids), target=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = sig.attribute(ids, mask_baseline(ids), target=1, tolerance=0.2)
    assert (found.sum(-1) - expected).abs().max() < 0.2 * expected.abs().max()

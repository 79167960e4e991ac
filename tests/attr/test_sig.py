"""Both classes against the oracle, the closed forms and Captum, in float64."""

import functools

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerIntegratedGradients, NoiseTunnel
from torch import Tensor, nn

from captum_sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients
from captum_sig.quadrature import RULES, rule
from tests import oracle
from tests.problems import PROBLEMS, D, L
from tests.tiny_models import PAD, mask_baseline, random_ids, tiny

EXACT = {"rtol": 0, "atol": 1e-10}
assert_exact = functools.partial(torch.testing.assert_close, **EXACT)
WORDS = [[0], [1, 2], [3]]
MASK = torch.tensor([[0, 1, 1, 2]])


def random(*shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(*shape, dtype=torch.float64)


def by_example(f, x, b, words, chosen):
    """The oracle for each example."""
    return torch.cat(
        [
            oracle.sequential_integrated_gradients(f, x[i : i + 1], b[i : i + 1], words, chosen)
            for i in range(len(x))
        ]
    )


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
class TestClosedForms:
    """Models whose SIG is known by hand."""

    def test_sig(self, problem):
        x, b = random(3, L, D), random(3, L, D)
        integral = SequentialIntegratedGradients(problem.f).integrate(x, b, n_steps=4)
        assert_exact(integral.attributions, problem.sig(x, b))
        assert_exact(integral.word_delta, torch.zeros(3, L, dtype=torch.float64))

    def test_word_scores(self, problem):
        x, b = random(3, L, D), random(3, L, D)
        scores = SequentialIntegratedGradients(problem.f).attribute_words(x, b)
        assert_exact(scores, problem.sig(x, b).sum(-1))

    def test_ig_agrees_where_the_model_is_additive_and_only_there(self, problem):
        x, b = random(3, L, D), random(3, L, D)
        ig = IntegratedGradients(problem.f).attribute(x, b, n_steps=20)
        same = torch.allclose(ig, problem.sig(x, b), atol=1e-6)  # Captum's weights are float32
        assert same == problem.ig_is_sig

    def test_one_word_of_all_positions_is_ig(self, problem):
        x, b = random(3, L, D), random(3, L, D)
        whole = torch.zeros(1, L, dtype=torch.long)
        sig = SequentialIntegratedGradients(problem.f).attribute(x, b, feature_mask=whole)
        ig = IntegratedGradients(problem.f).attribute(x, b)
        torch.testing.assert_close(sig, ig, rtol=0, atol=1e-5)  # Captum's weights are float32


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("words", [[[0], [1], [2], [3]], WORDS], ids=["positions", "words"])
def test_input_level_equals_the_oracle(method, words):
    def f(x: Tensor) -> Tensor:
        return (x[:, 0] * x[:, 1].sin() * x[:, 2].exp() + x[:, 3] ** 3).sum(-1)

    x, b = random(2, L, D), random(2, L, D)
    mask = None if len(words) == L else MASK
    sig = SequentialIntegratedGradients(f).attribute(x, b, n_steps=7, method=method,
                                                     feature_mask=mask)  # fmt: skip
    assert_exact(sig, by_example(f, x, b, words, rule(method, 7)))


@pytest.mark.parametrize("internal_batch_size", [1, 3, 100, None])
@pytest.mark.parametrize("words", [[[1], [2], [3], [4]], [[1, 3], [2, 4]]], ids=["tokens", "words"])
def test_layer_level_equals_the_oracle(words, internal_batch_size):
    bert = tiny("bert")
    ids = random_ids(2, 6)
    base = mask_baseline(ids)
    mask = torch.arange(6)[None].clone()
    for word in words:
        mask[0, word] = word[0]
    sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
    options = {"target": 1, "feature_mask": mask, "internal_batch_size": internal_batch_size}
    integral = sig.integrate(ids, base, n_steps=5, **options)
    x, b = bert.embedding(ids).detach(), bert.embedding(base).detach()

    def f(embeddings: Tensor) -> Tensor:
        return bert.model(inputs_embeds=embeddings).logits[:, 1]

    assert_exact(integral.attributions, by_example(f, x, b, words, rule("gausslegendre", 5)))
    exact = torch.cat([oracle.word_differences(f, x[i:][:1], b[i:][:1], words) for i in (0, 1)])
    assert_exact(sig.attribute_words(ids, base, **options), exact)
    first = mask == torch.arange(6)
    summed = torch.stack(
        [integral.attributions.sum(-1)[:, mask[0] == mask[0, p]].sum(1) for p in range(6)], 1
    )
    assert_exact(integral.word_delta, summed - exact)
    _, delta = sig.attribute(ids, base, n_steps=5, return_convergence_delta=True, **options)
    assert_exact(delta, (integral.word_delta * first).sum(1))
    options.pop("internal_batch_size")
    assert_exact(sig.compute_convergence_delta(integral.attributions, base, ids, **options), delta)


def test_one_position_is_captums_layer_integrated_gradients():
    lstm = tiny("lstm")
    ids, base = torch.tensor([[7], [9]]), torch.tensor([[4], [4]])
    sig = LayerSequentialIntegratedGradients(lstm.logits, lstm.embedding)
    ig = LayerIntegratedGradients(lstm.logits, lstm.embedding)
    expected, expected_delta = ig.attribute(ids, base, target=0, return_convergence_delta=True)
    found, delta = sig.attribute(ids, base, target=0, return_convergence_delta=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)  # Captum's weights are float32
    torch.testing.assert_close(delta, expected_delta, rtol=0, atol=1e-7)


def test_word_scores_are_the_integrals_limit():
    bert = tiny("bert")
    ids = random_ids(2, 7)
    sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
    integral = sig.attribute(ids, mask_baseline(ids), target=0, n_steps=300).sum(-1)
    assert_exact(sig.attribute_words(ids, mask_baseline(ids), target=0), integral)


def test_sentence_level_completeness_is_not_claimed():
    """What Captum's base class would report does not vanish; ours does."""
    x, b = random(2, L, D), random(2, L, D)
    sig = SequentialIntegratedGradients(PROBLEMS[2].f)
    attributions, delta = sig.attribute(x, b, n_steps=4, return_convergence_delta=True)
    assert_exact(delta, torch.zeros_like(delta))
    captums = IntegratedGradients.compute_convergence_delta(sig, attributions, b, x)
    assert captums.abs().min() > 0.1
    shifted = sig.compute_convergence_delta(attributions + 1, b, x)
    assert_exact(shifted, delta + L * D)


def test_without_the_factor_the_attributions_are_mean_gradients():
    x, b = random(2, L, D), random(2, L, D)
    f = PROBLEMS[1].f
    local = SequentialIntegratedGradients(f, multiply_by_inputs=False).integrate(x, b, n_steps=3)
    whole = SequentialIntegratedGradients(f).integrate(x, b, n_steps=3)
    assert_exact(local.attributions * (x - b), whole.attributions)
    assert_exact(local.word_delta, whole.word_delta)


def test_unchanged_words_cost_nothing():
    x, b = random(2, L, D), random(2, L, D)
    b[0, 1:], b[1, :2] = x[0, 1:], x[1, :2]
    rows = []

    def f(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x.prod(1).sum(-1)

    integral = SequentialIntegratedGradients(f).integrate(x, b, n_steps=10)
    # F(x) twice, F(x̄ʷ) and ten gradients of three words, and one row alone
    assert sum(rows) == 2 + 3 + 3 * 10 + 1
    assert integral.n_evaluations.tolist() == [[10, 0, 0, 0], [0, 0, 10, 10]]
    assert (integral.attributions[integral.n_evaluations == 0] == 0).all()
    rows.clear()
    SequentialIntegratedGradients(f).attribute_words(x, b)
    assert sum(rows) == 2 + 3 + 1


def test_one_differing_feature_moves_the_whole_word():
    x, b = random(1, L, D), random(1, L, D)
    b[0, 1] = x[0, 1]
    b[0, 2, 1:] = x[0, 2, 1:]
    sig = SequentialIntegratedGradients(PROBLEMS[2].f)
    scores = sig.attribute_words(x, b, feature_mask=MASK)
    assert scores[0, 1] == scores[0, 2] != 0


def test_additional_arguments_and_targets_follow_their_example():
    model = nn.Linear(D, 3).double()
    x, scale = random(4, L, D), random(4, 1)
    seen = []

    def f(x: Tensor, scale: Tensor, table: Tensor, name: str) -> Tensor:
        seen.append((tuple(table.shape), name))
        return model(x.prod(1)) * scale

    sig = SequentialIntegratedGradients(f)
    arguments = scale, torch.zeros(7), "as it is"
    targets = [0, 2, 1, 1]
    alone = torch.cat(
        [
            sig.attribute(x[i : i + 1], target=targets[i],
                          additional_forward_args=(scale[i : i + 1], *arguments[1:]))
            for i in range(4)
        ]
    )  # fmt: skip
    assert_exact(sig.attribute(x, target=targets, additional_forward_args=arguments), alone)
    assert_exact(
        sig.attribute(x, target=torch.tensor(targets), additional_forward_args=arguments), alone
    )
    assert set(seen) == {((7,), "as it is")}


@pytest.mark.parametrize(
    "target", [(1, 2), [(1, 2), (0, 0)]], ids=["one tuple", "a tuple for each example"]
)
def test_targets_in_a_grid(target):
    x = random(2, L, D)
    grid = random(D, 6)
    each = [target] * 2 if isinstance(target, tuple) else target

    def f(x: Tensor) -> Tensor:
        return (x.prod(1) @ grid).reshape(-1, 2, 3)

    found = SequentialIntegratedGradients(f).attribute(x, target=target)
    for i, (row, column) in enumerate(each):
        alone = SequentialIntegratedGradients(lambda x, r=row, c=column: f(x)[:, r, c])
        assert_exact(found[i : i + 1], alone.attribute(x[i : i + 1]))


class TestTuples:
    """Several tensors at once."""

    def test_equal_lengths_move_together(self):
        x, y = random(2, L, D), random(2, L)

        def f(x: Tensor, y: Tensor) -> Tensor:
            return (x.sum(-1) * y).prod(1)

        found = SequentialIntegratedGradients(f).integrate((x, y))
        total = f(x, y)[:, None].expand(2, L)
        for scores in SequentialIntegratedGradients(f).attribute_words((x, y)):
            assert_exact(scores, total)  # a word at zero makes the product zero
        assert_exact(found.attributions[0].sum(-1) + found.attributions[1], total)
        assert isinstance(found.word_delta, tuple)

    def test_other_lengths_have_words_of_their_own(self):
        x, y = random(2, L, D), random(2, 2, D)

        def f(x: Tensor, y: Tensor) -> Tensor:
            return (x.prod(1) * y.prod(1)).sum(-1)

        scores = SequentialIntegratedGradients(f).attribute_words((x, y), (0.0, y))
        assert_exact(scores[0], f(x, y)[:, None].expand(2, L))
        assert_exact(scores[1], torch.zeros(2, 2).double())

    def test_a_mask_for_each_overrides(self):
        x, y = random(2, L, D), random(2, 2, D)

        def f(x: Tensor, y: Tensor) -> Tensor:
            return x.sum((1, 2)) + y.sum((1, 2))

        masks = torch.tensor([[5, 6, 6, 8]]), torch.tensor([[8, 9]])
        left, right = SequentialIntegratedGradients(f).attribute_words((x, y), feature_mask=masks)
        both = x[:, 3].sum(-1) + y[:, 0].sum(-1)
        assert_exact(left[:, 3], both)
        assert_exact(right[:, 0], both)
        assert_exact(left[:, 1], x[:, 1:3].sum((1, 2)))

    def test_dtypes_may_differ(self):
        x, y = random(2, L, D), torch.randn(2, L)

        def f(x: Tensor, y: Tensor) -> Tensor:
            return (x.sum(-1) * y).sum(1)

        found = SequentialIntegratedGradients(f).integrate((x, y))
        assert [part.dtype for part in found.attributions] == [torch.float64, torch.float32]
        torch.testing.assert_close(
            found.word_delta[0], torch.zeros(2, L).double(), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("numbers", [[0, 2**62 - 1, 5, 5], [-(2**63), 2**63 - 1, -7, -7]])
def test_words_may_have_any_numbers(numbers):
    x = random(6, L, D)
    sig = SequentialIntegratedGradients(PROBLEMS[2].f)
    found = sig.attribute_words(x, feature_mask=torch.tensor([numbers]))
    assert_exact(found, sig.attribute_words(x, feature_mask=torch.tensor([[0, 1, 2, 2]])))


def test_a_number_as_baseline_keeps_its_digits():
    x = random(1, 1, 1)
    found = SequentialIntegratedGradients(lambda x: x.sum((1, 2))).attribute_words(x, 0.1)
    assert float(found) == float(x) - 0.1


def test_numpys_numbers_are_numbers():
    x = random(2, L, D)
    sig = SequentialIntegratedGradients(lambda x: x.prod(1))
    expected = sig.attribute(x, 0.5, target=[0, 1], n_steps=3)
    found = sig.attribute(x, np.float32(0.5), target=np.array([0, 1]), n_steps=np.int64(3))
    assert_exact(found, expected)
    assert_exact(sig.attribute(x, target=np.int64(1)), sig.attribute(x, target=torch.tensor([1])))


def test_no_example_at_all():
    sig = SequentialIntegratedGradients(PROBLEMS[2].f)
    with pytest.warns(UserWarning, match="nothing differs"):
        assert sig.attribute(torch.zeros(0, L, D)).shape == (0, L, D)


def test_warnings_point_at_the_caller():
    sig = SequentialIntegratedGradients(PROBLEMS[2].f)
    x = random(1, L, D)
    with pytest.warns(UserWarning, match="nothing differs") as caught:
        sig.attribute(x, x)
    assert caught[0].filename == __file__


def test_a_closure_that_is_not_complete_yet_is_no_obstacle():
    def outer() -> Tensor:
        def f(x: Tensor) -> Tensor:
            return x.prod(1).sum(-1) if len(x) else later(x)

        found = SequentialIntegratedGradients(f).attribute_words(random(1, L, D))
        later = len  # noqa: F841  # only now does the closure hold a value
        return found

    assert outer().shape == (1, L)


class TestLayers:
    """Several layers, layer inputs, given activations."""

    def test_several_layers_at_once(self):
        bert = tiny("bert")
        layers = [bert.embedding, bert.model.bert.embeddings.position_embeddings]
        ids = random_ids(1, 6)
        with pytest.warns(UserWarning, match="Multiple layers provided"):
            sig = LayerSequentialIntegratedGradients(bert.logits, layers)
        with pytest.raises(ValueError, match=r"returns a tensor of shape \(1, 6, 32\)"):
            sig.attribute(ids.repeat(2, 1), 0, target=0)  # position embeddings are (1, L, D)
        words, positions = sig.attribute(ids, mask_baseline(ids), target=0)
        one = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
        assert_exact(words, one.attribute(ids, mask_baseline(ids), target=0))
        assert (positions == 0).all()  # the baseline has the same positions

    def test_layer_input(self):
        bert = tiny("bert")
        ids = random_ids(2, 6)
        embeddings = bert.model.bert.embeddings
        sig = LayerSequentialIntegratedGradients(bert.logits, embeddings.LayerNorm)
        found, delta = sig.attribute(ids, mask_baseline(ids), target=0, n_steps=100,
                                     attribute_to_layer_input=True,
                                     return_convergence_delta=True)  # fmt: skip
        inside = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
        assert_exact(found.sum(-1), inside.attribute_words(ids, mask_baseline(ids), target=0))
        assert_exact(delta, torch.zeros(2).double())

    @pytest.mark.parametrize("as_vector", [False, True])
    def test_activations_as_baseline(self, as_vector):
        bert = tiny("bert")
        ids = random_ids(2, 5)
        mean = bert.embedding.weight.detach().mean(0)
        x = bert.embedding(ids).detach()
        b = mean.expand_as(x) if as_vector else torch.zeros_like(x)
        sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
        found = sig.attribute(ids, target=1, n_steps=5,
                              layer_baselines=mean if as_vector else 0.0)  # fmt: skip

        def f(embeddings: Tensor) -> Tensor:
            return bert.model(inputs_embeds=embeddings).logits[:, 1]

        words = [[p] for p in range(5)]
        assert_exact(found, by_example(f, x, b, words, rule("gausslegendre", 5)))

    def test_data_parallel_without_a_gpu_is_the_model(self):
        lstm = tiny("lstm")
        ids = random_ids(2, 5)
        arguments = {"target": 1, "additional_forward_args": torch.ones_like(ids)}
        parallel = LayerSequentialIntegratedGradients(nn.DataParallel(lstm.model), lstm.embedding)
        plain = LayerSequentialIntegratedGradients(lstm.model, lstm.embedding)
        assert_exact(parallel.attribute(ids, 4, **arguments), plain.attribute(ids, 4, **arguments))

    def test_grad_kwargs_reach_autograd(self):
        lstm = tiny("lstm")
        ids = random_ids(2, 5)
        sig = LayerSequentialIntegratedGradients(lstm.logits, lstm.embedding)
        with pytest.raises(TypeError, match="no_such_keyword"):
            sig.attribute(ids, 4, target=1, grad_kwargs={"no_such_keyword": 1})
        assert_exact(
            sig.attribute(ids, 4, target=1, grad_kwargs={"retain_graph": True}),
            sig.attribute(ids, 4, target=1),
        )

    def test_a_layer_that_the_output_ignores_is_zero_with_allow_unused(self):
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.unused = nn.Embedding(9, 3), nn.Embedding(9, 3)

            def forward(self, ids: Tensor) -> Tensor:
                self.unused(ids)
                return self.used(ids).prod(1).sum(-1)

        model = Two()
        with pytest.warns(UserWarning, match="Multiple layers"):
            sig = LayerSequentialIntegratedGradients(model, [model.used, model.unused])
        used, unused = sig.attribute(torch.tensor([[1, 2]]), 3, grad_kwargs={"allow_unused": True})
        assert used.abs().min() > 0
        assert (unused == 0).all()

    def test_ends_of_the_path_keep_the_inputs_position_ids(self):
        """RoBERTa numbers positions by the ids that are not PAD: a baseline of PADs must not."""
        roberta = tiny("roberta")
        ids = random_ids(1, 6)
        ids[ids == PAD] = 7
        base = torch.where(mask_baseline(ids) == ids, ids, PAD)
        sig = LayerSequentialIntegratedGradients(roberta.logits, roberta.embedding)
        _, delta = sig.attribute(ids, base, target=0, n_steps=200, return_convergence_delta=True)
        assert delta.abs().max() < 1e-6
        captums = LayerIntegratedGradients(roberta.logits, roberta.embedding)
        wrong = captums.attribute(ids, base, target=0, n_steps=200, return_convergence_delta=True)
        assert wrong[1].abs().max() > 1e-3


def test_baseline_ids_are_looked_up_without_the_model_only_where_it_does_the_same():
    model = tiny("bert")
    ids = random_ids(2, 6)
    passes = []

    def plain(ids: Tensor) -> Tensor:
        passes.append(len(ids))
        return model.logits(ids)

    def changing(ids: Tensor) -> Tensor:
        passes.append(len(ids))
        return model.logits(torch.where(ids > 40, ids - 1, ids))

    for forward, reads in [(plain, [2]), (changing, [2, 2])]:
        passes.clear()
        sig = LayerSequentialIntegratedGradients(forward, model.embedding)
        found = sig.attribute_words(ids, 50, target=1, internal_batch_size=1)
        assert passes == reads + [1] * (2 * 6 + 2)
        base = model.embedding(torch.tensor(50 if forward is plain else 49))
        assert_exact(found, sig.attribute_words(ids, target=1, layer_baselines=base))


class TestLayerThatRunsSeveralTimes:
    """One encoder for two texts, or a recurrent use."""

    embedding = nn.Embedding(9, 3, dtype=torch.float64)
    ids = torch.tensor([[1, 2, 3]])
    others = torch.tensor([[4, 5]])

    def orders(self):
        """Products of two texts, the same or another text first."""

        def embedded(ids: Tensor) -> Tensor:
            return self.embedding(ids).prod(1)

        return [
            lambda ids, others: (embedded(ids) * embedded(others)).sum(-1),
            lambda ids, others: (embedded(others) * embedded(ids)).sum(-1),
        ]

    @pytest.mark.parametrize("others", [others, ids.flip(1)], ids=["shorter", "equally long"])
    @pytest.mark.parametrize("verb", ["attribute", "attribute_words", "integrate"])
    def test_it_is_refused_in_every_order(self, verb, others):
        for f in self.orders():
            sig = LayerSequentialIntegratedGradients(f, self.embedding)
            with pytest.raises(ValueError, match="runs more than once .* layer_call=0"):
                getattr(sig, verb)(self.ids, additional_forward_args=others)

    @pytest.mark.parametrize("others", [others, ids.flip(1)], ids=["shorter", "equally long"])
    def test_the_call_that_moves_can_be_chosen(self, others):
        x, b = self.embedding(self.ids), self.embedding(torch.zeros_like(self.ids))
        factor = self.embedding(others).prod(1)
        expected = oracle.word_differences(
            lambda x: (x.prod(1) * factor).sum(-1), x, b, [[0], [1], [2]]
        )
        for call, f in zip((np.int64(0), 1), self.orders(), strict=True):
            sig = LayerSequentialIntegratedGradients(f, self.embedding)
            how = {"additional_forward_args": others, "layer_call": call}
            assert_exact(sig.attribute_words(self.ids, **how), expected)
            found, delta = sig.attribute(self.ids, return_convergence_delta=True, **how)
            assert_exact(found.sum(-1), expected)
            assert delta.abs().max() < 1e-12
            assert_exact(sig.compute_convergence_delta(found, 0, self.ids, **how), delta)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (2, "runs 2 times .* at most 1, got 2"),
            (-1, "at least 0, got -1"),
            (True, "got True"),
            (1.0, "got 1.0"),
        ],
    )
    def test_a_call_that_does_not_happen(self, call, message):
        sig = LayerSequentialIntegratedGradients(self.orders()[0], self.embedding)
        with pytest.raises(ValueError, match=message):
            sig.attribute_words(self.ids, additional_forward_args=self.others, layer_call=call)


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
class TestLayersAndInputsWithoutPositions:
    """As Captum's classes take them: features are the positions, and a number is its own."""

    def f(self, x: Tensor) -> Tensor:
        return x.sin() if x.dim() == 1 else x.sin().prod(1)

    def expected(self, x: Tensor) -> Tensor:
        wide = x if x.dim() > 1 else x[:, None]
        words = [[position] for position in range(wide.shape[1])]
        found = [
            oracle.word_differences(
                lambda row: row.sin().prod(1), row[None], torch.zeros_like(row[None]), words
            )
            for row in wide
        ]
        return torch.cat(found).reshape(x.shape)

    def test_inputs(self, shape):
        x = random(*shape)
        sig = SequentialIntegratedGradients(self.f)
        assert_exact(sig.attribute_words(x), self.expected(x))
        for options in ({}, {"tolerance": 1e-9}):
            found, delta = sig.attribute(x, return_convergence_delta=True, **options)
            assert_exact(found, self.expected(x))
            assert_exact(sig.compute_convergence_delta(found, 0, x), delta)
        assert NoiseTunnel(sig).attribute(x, nt_samples=2).shape == x.shape

    def test_layers(self, shape):
        layer = nn.Identity()
        x = random(*shape)
        sig = LayerSequentialIntegratedGradients(lambda x: self.f(layer(x)), layer)
        for at_input in (False, True):
            how = {"attribute_to_layer_input": at_input}
            assert_exact(sig.attribute_words(x, **how), self.expected(x))
            assert_exact(sig.attribute(x, **how), self.expected(x))


@pytest.mark.parametrize(
    "mask",
    [MASK, MASK[..., None], MASK[..., None].expand(1, L, D), MASK[..., None].expand(2, L, D)],
    ids=["(1, L)", "(1, L, 1)", "(1, L, D)", "(B, L, D)"],
)
def test_masks_with_features(mask):
    x = random(2, L, D)
    sig = SequentialIntegratedGradients(PROBLEMS[1].f)
    expected = sig.attribute_words(x, feature_mask=MASK)
    assert_exact(sig.attribute_words(x, feature_mask=mask), expected)


def test_masks_that_take_a_position_apart():
    with pytest.raises(ValueError, match="features of one position different numbers"):
        SequentialIntegratedGradients(PROBLEMS[1].f).attribute_words(
            random(2, L, D), feature_mask=torch.arange(L * D).view(1, L, D)
        )


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_that_of_the_inputs_also_where_nothing_moves(dtype, default):
    x = random(1, L, D).to(dtype)
    sig = SequentialIntegratedGradients(lambda x: x.sum((1, 2)))
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        with pytest.warns(UserWarning, match="nothing differs"):
            still = sig.attribute_words(x, x)
        moved = sig.attribute_words(x)
    finally:
        torch.set_default_dtype(before)
    assert still.dtype == moved.dtype == torch.promote_types(dtype, torch.float32)


class TestErrorsOfTheModel:
    """They are shown as they are."""

    def test_where_nothing_differs(self):
        x = random(1, L, D)

        def broken(x: Tensor) -> Tensor:
            raise AssertionError("this model needs a mask")

        for verb in ("attribute", "attribute_words", "integrate"):
            with (
                pytest.warns(UserWarning, match="nothing differs"),
                pytest.raises(AssertionError, match="this model needs a mask"),
            ):
                getattr(SequentialIntegratedGradients(broken), verb)(x, x)
            with (
                pytest.warns(UserWarning, match="nothing differs"),
                pytest.raises(ValueError, match="target 9 does not fit"),
            ):
                getattr(SequentialIntegratedGradients(lambda x: x.sum(1)), verb)(x, x, target=9)

    @pytest.mark.parametrize("error", [AssertionError, KeyError, RuntimeError])
    def test_before_a_layer_runs(self, error):
        embedding = nn.Embedding(9, 3)

        def broken(ids: Tensor) -> Tensor:
            raise error("this model needs a mask")

        sig = LayerSequentialIntegratedGradients(broken, embedding)
        with pytest.raises(error, match="this model needs a mask"):
            sig.attribute_words(torch.tensor([[1, 2]]))

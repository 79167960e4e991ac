"""One contract, many methods: what holds for every model, layer and way of asking."""

import functools
import gc
import warnings

import pytest
import torch
from torch import Tensor, nn

from captum_sig import LayerSequentialIntegratedGradients, SequentialIntegratedGradients
from tests import oracle
from tests.tiny_models import ARCHITECTURES, MASK, PAD, TinyModel, mask_baseline, random_ids, tiny

# RMSNorm computes in float32 whatever the model's dtype: equality holds to float32's digits.
IN_FLOAT32 = {"llama", "qwen2", "gemma", "t5-encoder"}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def named(request) -> tuple[str, TinyModel]:
    """Every architecture, float64."""
    return request.param, tiny(request.param)


@pytest.fixture(scope="module")
def atol(named) -> float:
    """How exactly the architecture computes."""
    return 1e-5 if named[0] in IN_FLOAT32 else 1e-10


@pytest.fixture(scope="module")
def tiny_model(named) -> TinyModel:
    """Every architecture, float64."""
    return named[1]


def padded(ids: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Ids with `by` PADs at the right, and the attention mask."""
    pads = torch.full((len(ids), by), PAD)
    return torch.cat([ids, pads], 1), torch.cat([torch.ones_like(ids), torch.zeros_like(pads)], 1)


class TestArchitectures:
    """The word embedding is found, and the axioms hold on it."""

    def test_words_equal_the_oracle(self, tiny_model, atol):
        ids = random_ids(1, 6)
        embedding, base = tiny_model.embedding, mask_baseline(ids)
        with torch.no_grad():
            x, b = embedding(ids), embedding(base)

        def f(rows: Tensor) -> Tensor:
            handle = embedding.register_forward_hook(lambda *_: rows)
            try:
                return tiny_model.logits(ids)[:, 1]
            finally:
                handle.remove()

        found = LayerSequentialIntegratedGradients(tiny_model.logits, embedding).attribute_words(
            ids, base, target=1
        )
        exact = oracle.word_differences(f, x, b, [[p] for p in range(1, 5)])
        assert exact[:, 1:-1].abs().min() > 1e-6
        torch.testing.assert_close(found, exact, rtol=0, atol=atol)

    def test_completeness_per_word_and_unchanged_words_are_zero(self, tiny_model):
        ids = random_ids(2, 6)
        sig = LayerSequentialIntegratedGradients(tiny_model.logits, tiny_model.embedding)
        coarse, fine = (
            sig.integrate(ids, mask_baseline(ids), target=1, n_steps=n, method="riemann_middle")
            for n in (8, 64)
        )
        scores = sig.attribute_words(ids, mask_baseline(ids), target=1)
        torch.testing.assert_close(
            fine.attributions.sum(-1) - scores, fine.word_delta, rtol=0, atol=1e-6
        )
        assert fine.word_delta.norm() < coarse.word_delta.norm() / 4
        assert fine.word_delta.abs().max() < 0.02 * scores.abs().max()
        special = ids == mask_baseline(ids)
        assert (fine.attributions[special] == 0).all()
        assert (fine.n_evaluations[special] == 0).all()

    def test_a_padded_batch_equals_each_text_alone(self, tiny_model, atol):
        long, short = random_ids(1, 8), random_ids(1, 5, seed=1)
        filled, mask = padded(short, 3)
        ids = torch.cat([long, filled])
        attention = torch.cat([torch.ones_like(long), mask])
        sig = LayerSequentialIntegratedGradients(tiny_model.logits, tiny_model.embedding)
        together = sig.attribute(ids, mask_baseline(ids), target=[1, 0], n_steps=4,
                                 additional_forward_args=attention)  # fmt: skip
        for row, (one, target) in enumerate([(long, 1), (short, 0)]):
            alone = sig.attribute(one, mask_baseline(one), target=target, n_steps=4)
            torch.testing.assert_close(
                together[row : row + 1, : one.shape[1]], alone, rtol=0, atol=max(atol, 1e-9)
            )
        assert (together[1, 5:] == 0).all()


@pytest.fixture(scope="module")
def bert() -> TinyModel:
    """A BERT in float64."""
    return tiny("bert")


def ask(sig: LayerSequentialIntegratedGradients, verb: str, ids: Tensor, **options: object):
    """The attributions of target 1 by one of the public ways."""
    if verb == "tolerance":
        found = sig.integrate(ids, MASK, target=1, tolerance=1e-2, **options)
    elif verb == "attribute_words":
        found = sig.attribute_words(ids, MASK, target=1, **options)
    else:
        found = getattr(sig, verb)(ids, MASK, target=1, n_steps=3, **options)
    return getattr(found, "attributions", found)


def verbs(model: TinyModel, ids: Tensor, **options: object):
    """Every public way to attribute, as name → call."""
    sig = LayerSequentialIntegratedGradients(model.logits, model.embedding)
    return {verb: functools.partial(ask, sig, verb, ids, **options) for verb in VERBS}


VERBS = ["attribute", "integrate", "tolerance", "attribute_words"]


@pytest.mark.parametrize("verb", VERBS)
class TestContract:
    """What every verb leaves and gives."""

    @pytest.mark.parametrize("rows", [1, 2, 7, 10_000])
    def test_internal_batch_size_changes_nothing(self, bert, verb, rows):
        ids = random_ids(3, 6)
        whole = verbs(bert, ids)[verb]()
        chunked = verbs(bert, ids, internal_batch_size=rows)[verb]()
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-12)

    def test_no_pass_exceeds_internal_batch_size(self, bert, verb):
        ids = random_ids(2, 6)
        seen = []
        handle = bert.model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        verbs(bert, ids, internal_batch_size=5)[verb]()
        handle.remove()
        assert max(seen) == 5

    def test_a_batch_equals_its_examples(self, bert, verb):
        ids = random_ids(3, 6)
        singles = torch.cat([verbs(bert, row[None])[verb]() for row in ids])
        torch.testing.assert_close(verbs(bert, ids)[verb](), singles, rtol=0, atol=1e-12)

    def test_everything_is_left_as_it_was(self, bert, verb):
        ids = random_ids(2, 6)
        kept = ids.clone()
        flags = [p.requires_grad for p in bert.model.parameters()]
        weights = [p.clone() for p in bert.model.parameters()]
        with torch.no_grad():
            found = verbs(bert, ids)[verb]()
            assert not torch.is_grad_enabled()
        assert torch.equal(ids, kept)
        assert not found.requires_grad
        assert found.is_contiguous()
        assert not bert.model.training
        assert not bert.embedding._forward_hooks
        assert [p.requires_grad for p in bert.model.parameters()] == flags
        assert all(p.grad is None for p in bert.model.parameters())
        assert all(torch.equal(p, w) for p, w in zip(bert.model.parameters(), weights, strict=True))

    def test_inference_mode_is_no_obstacle(self, bert, verb):
        ids = random_ids(2, 6)
        expected = verbs(bert, ids)[verb]()
        with torch.inference_mode():
            found = verbs(bert, ids.clone())[verb]()
        torch.testing.assert_close(found.clone(), expected, rtol=0, atol=1e-12)

    def test_hooks_are_gone_after_an_exception(self, verb):
        model = tiny("bert")
        calls = []

        def broken(ids: Tensor) -> Tensor:
            calls.append(ids)
            if len(calls) > 1:  # the activations are there, the rows are not
                model.logits(ids)
                raise RuntimeError("broken on purpose")
            return model.logits(ids)

        sig = LayerSequentialIntegratedGradients(broken, model.embedding)
        with pytest.raises(RuntimeError, match="broken on purpose"):
            ask(sig, verb, random_ids(1, 5))
        assert not model.embedding._forward_hooks
        assert all(weight.requires_grad for weight in model.model.parameters())
        assert torch.is_grad_enabled()

    def test_200_calls_leave_memory_flat(self, verb):
        lstm = tiny("lstm")
        ids = random_ids(1, 5)
        call = verbs(lstm, ids)[verb]

        def tensors() -> int:
            gc.collect()
            return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

        call()
        before = tensors()
        for _ in range(200):
            call()
        assert tensors() <= before

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_on_a_cpu(self, verb, dtype):
        ids = random_ids(2, 6)
        half = tiny("bert", dtype)
        with warnings.catch_warnings():  # F may be too coarse for the tolerance
            warnings.filterwarnings("ignore", ".* words did not reach tolerance")
            found = verbs(half, ids)[verb]()
        assert found.dtype == torch.float32
        expected = verbs(tiny("bert"), ids)[verb]().float()
        assert (found - expected).norm() < 0.1 * expected.norm()

    def test_active_dropout_warns_once_and_goes_on(self, verb):
        model = tiny("bert")
        model.model.train()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = verbs(model, random_ids(1, 5))[verb]()
        messages = [str(w.message) for w in caught if "tolerance" not in str(w.message)]
        assert len(messages) == 1
        assert messages[0].startswith("the model is in train mode with active dropout")
        assert found.abs().max() > 0
        assert model.model.training

    def test_nothing_differs(self, bert, verb):
        sig = LayerSequentialIntegratedGradients(bert.logits, bert.embedding)
        ids = torch.full((2, 5), MASK)
        with pytest.warns(UserWarning, match="nothing differs") as caught:
            found = ask(sig, verb, ids)
        assert len(caught) == 1
        assert found.shape[:2] == ids.shape
        assert (found == 0).all()

    def test_out_of_memory_halves_the_chunk(self, bert, verb, capsys):
        sizes = []

        def small(ids: Tensor) -> Tensor:
            sizes.append(len(ids))
            if len(ids) > 3:
                raise torch.cuda.OutOfMemoryError("out of memory on purpose")
            return bert.logits(ids)

        ids = random_ids(2, 6)
        sig = LayerSequentialIntegratedGradients(small, bert.embedding)
        found = ask(sig, verb, ids)
        expected = verbs(bert, ids)[verb]()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert max(sizes) > 3

    def test_out_of_memory_at_one_row_is_raised(self, verb):
        lstm = tiny("lstm")
        calls = []

        def tiny_memory(ids: Tensor) -> Tensor:
            calls.append(len(ids))
            if len(calls) > 1:
                raise torch.cuda.OutOfMemoryError("out of memory on purpose")
            return lstm.logits(ids)

        sig = LayerSequentialIntegratedGradients(tiny_memory, lstm.embedding)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            ask(sig, verb, random_ids(1, 6))
        assert calls[-1] == 1


def test_rnns_run_backward_without_cudnn():
    """CuDNN refuses backward in eval mode; the setting is back afterwards."""
    lstm = tiny("lstm")
    seen = []

    def watched(ids: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), torch.backends.cudnn.enabled))
        return lstm.logits(ids)

    sig = LayerSequentialIntegratedGradients(watched, lstm.embedding)
    sig.attribute(random_ids(1, 4), MASK, target=1, n_steps=2)
    assert (True, False) in seen
    assert (True, True) not in seen


def test_progress_is_drawn_only_when_asked_for(bert, capsys):
    verbs(bert, random_ids(1, 5))["attribute"]()
    assert capsys.readouterr().err == ""
    verbs(bert, random_ids(1, 5), show_progress=True)["attribute"]()
    assert "row" in capsys.readouterr().err


def test_inputs_may_require_grad():
    x = torch.randn(1, 3, 2, requires_grad=True)
    found = SequentialIntegratedGradients(lambda x: x.prod(1).sum(-1)).attribute(x)
    assert not found.requires_grad
    assert x.grad is None
    assert x.requires_grad


def test_a_recurrent_input_level_model():
    rnn = nn.GRU(4, 5, batch_first=True).double()
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    sig = SequentialIntegratedGradients(lambda x: rnn(x)[1][0])
    integral = sig.integrate(x, target=2, n_steps=40)
    assert integral.word_delta.abs().max() < 1e-10

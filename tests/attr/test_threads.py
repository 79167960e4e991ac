"""A model that is explained stays the user's own: in other threads, and in forked children."""

import copy
import os
import pickle
import sys
import threading
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from captum_sig import LayerSequentialIntegratedGradients
from captum_sig._locks import ForkSafeLock
from captum_sig.attr.function import with_shared_weights
from captum_sig.attr.hooks import _hooks, capture, patched
from tests.children import in_child
from tests.tiny_models import LSTMClassifier, mask_baseline, random_ids, tiny


def meanwhile(act) -> object:
    """Do something in another thread, and return what it returns (or raise what it raises)."""
    results = []

    def work() -> None:
        try:
            results.append((act(), None))
        except BaseException as error:  # noqa: BLE001  # raised below
            results.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    result, error = results[0]
    if error is not None:
        raise error
    return result


class TestHooks:
    """Hooks act in the thread that registered them."""

    embedding = nn.Embedding(8, 3)
    ids = torch.tensor([[1, 2]])

    @pytest.mark.parametrize("at_input", [False, True])
    def test_another_thread_sees_the_plain_layer(self, at_input):
        layer = nn.Linear(3, 3)
        x, rows = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
        plain = layer(x)
        with patched([layer], (rows,), at_input=at_input):
            theirs = meanwhile(lambda: layer(x))
            mine = layer(x)
        assert torch.equal(theirs, plain)
        assert torch.equal(mine, layer(rows) if at_input else rows)

    def test_another_threads_pass_is_not_captured(self):
        def forward(ids: Tensor) -> Tensor:
            meanwhile(lambda: self.embedding(ids + 5))
            return self.embedding(ids)

        captured = capture(forward, [self.embedding], (self.ids,))
        assert torch.equal(captured.activations[0][0], self.embedding(self.ids))
        assert captured.received[0][0] is self.ids

    def test_a_layer_that_only_runs_in_another_thread_did_not_run(self):
        sig = LayerSequentialIntegratedGradients(
            lambda ids: meanwhile(lambda: self.embedding(ids)).sum((1, 2)), self.embedding
        )
        with pytest.raises(ValueError, match="did not run .* in the calling thread"):
            sig.attribute_words(self.ids)

    def test_copies_that_data_parallel_makes_belong_to_the_thread_that_made_them(self):
        """DataParallel replicates modules, and runs each copy in a thread of its own."""
        rows = torch.randn(1, 2, 3)

        def as_data_parallel() -> Tensor:
            replica = self.embedding._replicate_for_data_parallel()
            replica.weight = self.embedding.weight.detach()
            return meanwhile(lambda: replica(self.ids))

        def replace(number, module, args, output):
            return rows

        before = vars(self.embedding).keys()
        with _hooks([self.embedding], replace, [0, 1], False):
            mine = as_data_parallel()
            theirs = meanwhile(as_data_parallel)
        assert torch.equal(mine, rows)
        assert torch.equal(theirs, self.embedding(self.ids))
        assert vars(self.embedding).keys() == before


def together(*works, n_calls: int) -> list[list]:
    """Do several things in a thread each, at once, and return what each call returns."""
    results: list[list] = [[] for _ in works]
    start = threading.Barrier(len(works))

    def repeat(work, mine: list) -> None:
        start.wait()
        for _ in range(n_calls):
            try:
                mine.append(work())
            except Exception as error:
                mine.append(error)

    threads = [
        threading.Thread(target=repeat, args=pair) for pair in zip(works, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
class TestSharedModel:
    """Threads that predict, explain and train with one model do not notice each other."""

    def test_predictions_and_explanations_side_by_side(self):
        model = tiny("bert")
        ids = [random_ids(1, length) for length in (5, 7, 9, 6)]
        sig = LayerSequentialIntegratedGradients(model.logits, model.embedding)

        def words(which: int) -> Tensor:
            return sig.attribute_words(ids[which], mask_baseline(ids[which]), target=1)

        def integral(which: int) -> Tensor:
            return sig.attribute(ids[which], mask_baseline(ids[which]), target=1, n_steps=3)

        def predict(which: int) -> Tensor:
            return model.logits(ids[which]).detach()

        works = [partial(f, i) for f in (words, integral, predict) for i in range(len(ids))]
        for work, results in zip(works, together(*works, n_calls=10), strict=True):
            expected = work()
            assert all(torch.equal(result, expected) for result in results)
        assert not model.embedding._forward_hooks

    def test_training_is_not_disturbed(self):
        model = tiny("bert")
        weights = [weight for weight in model.model.parameters() if weight.requires_grad]
        ids = random_ids(2, 6)
        sig = LayerSequentialIntegratedGradients(model.logits, model.embedding)

        def explain() -> Tensor:
            return sig.attribute(ids[:1], mask_baseline(ids[:1]), target=1, n_steps=4)

        def gradients() -> list[Tensor]:
            loss = model.logits(ids).logsumexp(-1).sum()
            return [grad for grad in torch.autograd.grad(loss, weights) if grad is not None]

        explained, trained = together(explain, gradients, n_calls=15)
        expected = gradients()
        for grads in trained:
            assert all(map(torch.equal, grads, expected))
        assert all(torch.equal(result, explained[0]) for result in explained)

    def test_cudnn_is_on_again_when_several_rnns_are_explained(self):
        models = [LSTMClassifier().eval() for _ in range(3)]

        def explain(model: LSTMClassifier) -> Tensor:
            def forward(ids: Tensor) -> Tensor:
                return model(ids, torch.ones_like(ids))

            sig = LayerSequentialIntegratedGradients(forward, model.embedding)
            return sig.attribute(torch.tensor([[5, 6, 7]]), 1, target=1, n_steps=2)

        together(*(partial(explain, model) for model in models), n_calls=10)
        assert torch.backends.cudnn.enabled


def test_what_comes_from_weights_that_require_gradients_needs_none():
    """The weights of a model that is being trained stay as they are, and so does what they have."""
    model = tiny("bert")
    frozen = next(model.model.parameters()).requires_grad_(False)
    sig = LayerSequentialIntegratedGradients(model.logits, model.embedding)
    sig.attribute(random_ids(1, 6), 4, target=1, n_steps=2)
    assert [weight for weight in model.model.parameters() if not weight.requires_grad] == [frozen]
    assert all(weight.grad is None for weight in model.model.parameters())


def test_a_copy_with_shared_weights_has_modes_and_hooks_of_its_own():
    model = tiny("bert").model
    other = with_shared_weights(model)
    assert all(a is b for a, b in zip(other.parameters(), model.parameters(), strict=True))
    assert all(a is b for a, b in zip(other.buffers(), model.buffers(), strict=True))
    other.train()
    assert not model.training
    other.register_forward_hook(lambda *_: None)
    assert not model._forward_hooks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
class TestFork:
    """A child that is forked while a thread explains."""

    def test_it_has_no_hooks_and_explains(self):
        model = tiny("bert")
        ids = random_ids(1, 6)
        reached, go_on = threading.Event(), threading.Event()

        def slow(ids: Tensor) -> Tensor:
            reached.set()
            go_on.wait(20)
            return model.logits(ids)

        def sig(forward) -> LayerSequentialIntegratedGradients:
            return LayerSequentialIntegratedGradients(forward, model.embedding)

        expected = sig(model.logits).attribute_words(ids, mask_baseline(ids), target=1)

        def works_in_child() -> bool:
            found = sig(model.logits).attribute_words(ids, mask_baseline(ids), target=1)
            return not model.embedding._forward_hooks and torch.equal(found, expected)

        thread = threading.Thread(target=lambda: sig(slow).attribute_words(ids, 4, target=1))
        thread.start()
        assert reached.wait(20)
        assert model.embedding._forward_hooks
        assert in_child(works_in_child)
        go_on.set()
        thread.join()

    def test_locks_of_other_threads_are_open(self):
        lock, held, go_on = ForkSafeLock(), threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                held.set()
                go_on.wait(20)

        def enter() -> bool:
            with lock:
                return True

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(20)
        assert in_child(enter)
        go_on.set()
        thread.join()

    def test_a_lock_of_the_thread_that_forks_stays_its_own(self):
        lock = ForkSafeLock()

        def enter_again_and_leave() -> bool:
            with lock:
                return True

        with lock:
            assert in_child(enter_again_and_leave)


def test_locks_can_be_copied_and_pickled():
    lock = ForkSafeLock()
    with lock:
        for other in (copy.deepcopy(lock), pickle.loads(pickle.dumps(lock))):
            assert isinstance(other, ForkSafeLock)
            assert other is not lock

"""Tokenizers that threads and processes share."""

import copy
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from captum_sig.words.encoding import Encoder
from captum_sig.words.inputs import TextInput
from captum_sig.words.tokenize import decode, tokenize, tokenizer_lock
from tests.tiny_models import byte_level_tokenizer, wordpiece_tokenizer

TEXTS = [" ".join(["good movie"] * n) for n in (1, 2, 3, 5, 8)] * 10


def lengths(encoder: Encoder, n: int) -> list[list[int]]:
    """The lengths of the first n texts, which pads and cuts them in another way for every n."""
    batches = encoder.batches(
        list(map(TextInput, TEXTS[:n])), 8, truncation=True, device=torch.device("cpu")
    )
    return [batch.others["attention_mask"].sum(1).tolist() for batch in batches]


@pytest.mark.filterwarnings("ignore:.* texts exceed the model")
def test_threads_share_a_tokenizer():
    tokenizer = wordpiece_tokenizer()
    encoders = [Encoder(tokenizer, "word", limit) for limit in (6, 12, 40)]
    jobs = [(encoder, n) for n in range(2, 42) for encoder in encoders]
    alone = [lengths(*job) for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            assert list(pool.map(lambda job: lengths(*job), jobs)) == alone


def test_one_lock_for_each_tokenizer():
    first, second = wordpiece_tokenizer(), wordpiece_tokenizer()
    assert tokenizer_lock(first) is tokenizer_lock(first) is not tokenizer_lock(second)
    with tokenizer_lock(first), ThreadPoolExecutor(1) as pool:
        assert pool.submit(tokenize, second, "good").result(timeout=10)["input_ids"]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_tokenizer_in_use_is_copied_and_pickled(again):
    tokenizer = byte_level_tokenizer()
    with tokenizer_lock(tokenizer):
        other = again(tokenizer)
    assert decode(other, tokenize(other, "good  movie")["input_ids"]) == "good  movie"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_a_thread_tokenizes(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    tokenizer, stop = wordpiece_tokenizer(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            tokenize(tokenizer, TEXTS, padding=True)

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work) for _ in range(3)]
        try:
            for _ in range(10):
                assert _exit_code_of_child(lambda: tokenize(tokenizer, TEXTS[:2])) == 0
        finally:
            stop.set()
        for worker in workers:
            worker.result()


def _exit_code_of_child(act) -> int:
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1

"""Call a tokenizer from one thread at a time.

A call sets how the tokenizer cuts and pads, and then encodes: two at once raise ("Already
borrowed"), or encode as the other one wants. There is one lock for each tokenizer, beside it, so
that tokenizers are copied and pickled as ever. A fork waits for the calls under way, since what
they hold would never be released in the child.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_adding = threading.RLock()  # held to look up or add a lock


def tokenize(tokenizer: Any, *args: Any, **options: Any) -> Any:
    """Call a tokenizer; arguments and result as its own."""
    with tokenizer_lock(tokenizer):
        return tokenizer(*args, **options)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Turn ids into text, with its spaces as they are."""
    with tokenizer_lock(tokenizer):
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def tokenizer_lock(tokenizer: Any) -> threading.RLock:
    """Return the lock of a tokenizer."""
    with _adding:
        return _LOCKS.setdefault(tokenizer, threading.RLock())


_held: list[threading.RLock] = []


def _wait_for_calls() -> None:
    _adding.acquire()
    _held.extend(_LOCKS.values())
    for lock in _held:
        lock.acquire()


def _go_on() -> None:
    for lock in _held:
        lock.release()
    _held.clear()
    _adding.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_calls, after_in_parent=_go_on, after_in_child=_go_on)

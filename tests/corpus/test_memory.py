"""Freed memory is returned to the system when there is enough of it, and only then."""

import sys

import pytest

from captum_sig.corpus import explainer as memory
from captum_sig.corpus.explainer import MAX_FREED, resident_bytes, trim_memory


def test_it_trims_when_enough_memory_is_free(monkeypatch):
    trimmed = []
    monkeypatch.setattr(memory, "return_freed", lambda: trimmed.append(0))
    monkeypatch.setattr(sys, "platform", "linux")
    levels = iter([100, 100, 100 + MAX_FREED, 101 + MAX_FREED, 150, 150 + MAX_FREED])
    monkeypatch.setattr(memory, "resident_bytes", lambda: next(levels) + MAX_FREED)
    resident = trim_memory(0)  # the first call always trims
    assert trimmed == [0]
    resident = trim_memory(resident)
    assert trimmed == [0]
    resident = trim_memory(resident)
    assert trimmed == [0, 0]
    resident = trim_memory(resident)
    assert trimmed == [0, 0]


def test_returning_memory_is_harmless():
    kept = bytearray(b"x") * 2**20
    memory.return_freed()
    assert kept == b"x" * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_bytes_are_those_of_this_process():
    before = resident_bytes()
    assert 2**20 < before < 2**40
    kept = bytearray(b"x") * 2**27
    assert resident_bytes() - before > 2**26
    del kept


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert trim_memory(0) == 0

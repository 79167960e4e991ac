"""Freed memory is given back when enough of it has piled up, and only then."""

import sys

import pytest

from captum_sig.corpus import explainer as memory
from captum_sig.corpus.explainer import SPARE, MemoryTrimmer, resident


def test_it_trims_when_enough_has_piled_up(monkeypatch):
    trim, trimmed = MemoryTrimmer(), []
    monkeypatch.setattr(memory, "give_back", lambda: trimmed.append(0))
    monkeypatch.setattr(sys, "platform", "linux")
    levels = iter([100, 100, 100 + SPARE, 101 + SPARE, 150, 150 + SPARE])
    monkeypatch.setattr(memory, "resident", lambda: next(levels) + SPARE)
    trim()  # the first time, and looks what is left
    assert trimmed == [0]
    trim()
    assert trimmed == [0]
    trim()
    assert trimmed == [0, 0]
    trim()
    assert trimmed == [0, 0]


def test_giving_back_is_harmless():
    kept = bytearray(b"x") * 2**20
    memory.give_back()
    assert kept == b"x" * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_resident_is_bytes_of_this_process():
    before = resident()
    assert 2**20 < before < 2**40
    kept = bytearray(b"x") * 2**27
    assert resident() - before > 2**26
    del kept


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    trim = MemoryTrimmer()
    trim()
    assert trim.least == 0

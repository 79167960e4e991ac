"""Resident memory that stays flat: glibc keeps freed memory in pieces, as if a long run leaked."""

from __future__ import annotations

import ctypes
import os
import sys

SPARE = 2**27  # bytes that may pile up; to touch pages anew that were given back takes time


class Trimmer:
    """Called now and then, gives freed memory back once `SPARE` more is resident than after that.

    On Linux with glibc; elsewhere it does nothing.
    """

    def __init__(self) -> None:
        """Nothing has been given back yet."""
        self.least = 0

    def __call__(self) -> None:
        """Trim if it is time."""
        if sys.platform == "linux" and resident() > self.least + SPARE:
            give_back()
            self.least = resident()


def give_back() -> None:
    """Return freed memory to the system, if the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    """Bytes of this process in memory, on Linux."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

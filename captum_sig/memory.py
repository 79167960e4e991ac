"""Resident memory that stays flat: glibc keeps freed memory in pieces, as if a long run leaked."""

from __future__ import annotations

import ctypes
import os
import sys

SPARE = 2**25  # bytes that may pile up: giving them back takes a few milliseconds


class Trimmer:
    """Called now and then, gives freed memory back once `SPARE` more is resident than after that.

    On Linux with glibc; elsewhere it does nothing.
    """

    def __init__(self) -> None:
        """Look for the function of the C library."""
        library = ctypes.CDLL(None) if sys.platform == "linux" else None
        self.trim = getattr(library, "malloc_trim", None)
        self.least = 0

    def __call__(self) -> None:
        """Trim if it is time."""
        if self.trim is not None and resident() > self.least + SPARE:
            self.trim(0)
            self.least = resident()


def resident() -> int:
    """Bytes of this process in memory, on Linux."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

"""The process of the command: interrupts while it starts, and streams that are closed or full."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # as shells report SIGINT


@contextmanager
def quitting_on_interrupt() -> Iterator[None]:
    """Exit at once on an interrupt; for imports, which may make any other error of it."""
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def open_closed_streams() -> None:
    """Occupy the numbers of closed streams, which the next file that is opened would get.

    `sys.stdin` and `sys.stdout` stay None, which tells that they are closed.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")  # progress bars need one


def give_up_broken_streams() -> None:
    """Drop what a stream does not take, which has been reported, and Python would report again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

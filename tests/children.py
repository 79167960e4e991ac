"""Forked children of a process that has threads."""

import multiprocessing
import os
import warnings
from collections.abc import Callable


def in_child(act: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether something is true in a forked child; False if the child hangs."""
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(0 if act() else 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks beside threads, which is what is tested
        child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
    return child.exitcode == 0

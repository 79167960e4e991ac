"""How far a long run is: a bar on a terminal, else a line now and then, as logs want it."""

from __future__ import annotations

import sys
import time

SECONDS = 30.0  # between two lines


class Progress:
    """Tells rate and time left on stderr; called with how many texts were done since.

    Args:
        total: of texts.
        done: were done before this run; they do not count as its speed.
    """

    def __init__(self, total: int, done: int) -> None:
        """Start the clock."""
        from tqdm import tqdm

        self.total, self.done, self.initial = total, done, done
        self.on_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=total, initial=done, unit="text", disable=not self.on_terminal, dynamic_ncols=True
        )
        self.start = self.last = time.monotonic()

    def __enter__(self) -> Progress:
        """Show the bar."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the bar."""
        self.bar.close()

    def __call__(self, n_texts: int) -> None:
        """So many more are done."""
        self.done += n_texts
        self.bar.update(n_texts)
        now = time.monotonic()
        if not self.on_terminal and now - self.last >= SECONDS:
            self.last = now
            print(self.line(now - self.start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What a log is told so many seconds after the start."""
        from tqdm import tqdm

        rate = (self.done - self.initial) / seconds
        left = tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
        return f"{self.done:,} of {self.total:,} texts, {rate:,.1f}/s, {left} left"

"""Cut a text's token ids into overlapping windows, as the tokenizers of transformers do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captum_sig._numbers import checked_integer, shown_number
from captum_sig.words.tokenize import tokenize

CANARY_TEXT = "a b c"


@dataclass(frozen=True)
class Windows:
    """Where the windows of a text are, each with the special tokens that begin and end the text.

    They are those of a fast tokenizer called with `return_overflowing_tokens=True`, `stride` and
    `max_length=limit`, in the text's order: the last one is shorter, or the first one if
    `tokenizer.truncation_side` is "left".
    """

    limit: int  # maximum number of tokens in a window
    stride: int  # number of tokens by which neighbouring windows overlap
    begin: tuple[int, ...]  # ids that the tokenizer puts before a text
    end: tuple[int, ...]  # and behind it
    from_end: bool = False  # whether windows are counted from the text's end

    @classmethod
    def of(cls, tokenizer: Any, limit: int, stride: Any) -> Windows:
        """Check `stride`, and find what the tokenizer adds to a text.

        Raises:
            ValueError: if the stride is not an integer within a window's room.
        """
        begin, end = added_ids(tokenizer)
        room = limit - len(begin) - len(end)
        stride = checked_integer("stride", stride, least=0)
        if stride >= room:
            raise ValueError(
                f"stride must be less than the {room} tokens of a text that a window of {limit} "
                f"has room for, got {shown_number(stride)}: neighbouring windows overlap by it"
            )
        return cls(limit, stride, begin, end, tokenizer.truncation_side == "left")

    def positions(self, ids: Sequence[int]) -> list[list[int]]:
        """Return the positions of each window in a text's ids, (L,), special ones included.

        >>> Windows(limit=4, stride=1, begin=(1,), end=(2,)).positions([1, 7, 8, 9, 2])
        [[0, 1, 2, 4], [0, 2, 3, 4]]
        """
        n, of_text = len(ids), tuple(ids)
        n_begin = len(self.begin) if of_text[: len(self.begin)] == self.begin else 0
        n_end = len(self.end) if self.end and of_text[-len(self.end) :] == self.end else 0
        room = self.limit - n_begin - n_end
        begin, end = range(n_begin), range(n - n_end, n)
        return [
            [*begin, *range(n_begin + start, n_begin + stop), *end]
            for start, stop in self._spans(n - n_begin - n_end, room)
        ]

    def _spans(self, n: int, room: int) -> list[tuple[int, int]]:
        """Return where windows start and stop in n tokens."""
        starts = range(0, max(1, n - self.stride), room - self.stride)
        spans = [(start, min(start + room, n)) for start in starts]
        return (
            [(n - stop, n - start) for start, stop in reversed(spans)] if self.from_end else spans
        )


def added_ids(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that a tokenizer puts before a text, and those that it puts behind it.

    Raises:
        ValueError: if it does something else.
    """
    bare = tokenize(tokenizer, CANARY_TEXT, add_special_tokens=False)["input_ids"]
    whole = tokenize(tokenizer, CANARY_TEXT)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        stop = start + len(bare)
        if bare and whole[start:stop] == bare:
            return tuple(whole[:start]), tuple(whole[stop:])
    raise ValueError(
        f"{type(tokenizer).__name__} does more than put tokens around a text, so it cannot be cut "
        "into windows: leave stride out"
    )

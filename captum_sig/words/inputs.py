"""What callers pass as texts, checked: a text, a pair of texts, or a list of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from torch import Tensor

from captum_sig._names import Level, Side
from captum_sig.words.grouping import Offsets, joined_texts
from captum_sig.words.units import TextUnit


@dataclass(frozen=True)
class TextInput:
    """A text, or a pair of texts that the model reads together, with what else it reads."""

    text: str
    pair: str | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # the model's own, (…) each
    contents: Offsets | None = None  # where in `text` words are; None is everywhere
    is_rendered: bool = False  # by a chat template, which writes the special tokens too
    kind: str = ""  # texts of different kinds share no batch
    held: Side | None = None  # the text of a pair whose words do not move
    roles: tuple[str, ...] | None = None  # who wrote each of the contents, in a chat
    level: Level | None = None  # None is the explainer's
    units: tuple[TextUnit, ...] | None = None  # what moves, in place of the level's

    @property
    def joined(self) -> str:
        """Both texts in one."""
        return joined_texts(self.text, self.pair)

    @property
    def by_side(self) -> dict[Side | None, str]:
        """The text, or each text of a pair."""
        return (
            {None: self.text} if self.pair is None else {"text": self.text, "text_pair": self.pair}
        )

    @property
    def moving(self) -> str:
        """The texts whose words move, by which random draws are seeded."""
        return self.text if self.held == "text_pair" else self.joined


def checked_texts(texts: str | Sequence[str]) -> list[str]:
    """Turn one text or several into a list.

    Raises:
        TypeError: if they are neither a string nor a list of strings, or a vector of NumPy or
            pandas.
        ValueError: if one contains half a surrogate pair.
    """
    several = in_python(texts)
    if isinstance(several, str):
        several = [several]
    elif not is_list(several):
        raise TypeError(f"texts must be a string or a list of strings, got {and_advice(texts)}")
    for number, text in enumerate(several):
        check_text(text, f"text {number}")
    return list(several)


def checked_inputs(inputs: Any) -> tuple[list[TextInput], bool]:
    """Turn a text, a pair of texts, or a list of these into a list; say if it was a single one.

    What is a `TextInput` already stays as it is.

    Raises:
        TypeError: if they are neither strings nor tuples of two.
        ValueError: if a text contains half a surrogate pair, or one side of a pair is empty.
    """
    inputs = in_python(inputs)
    is_single = isinstance(inputs, (str, tuple, TextInput))
    if not is_single and not is_list(inputs):
        raise TypeError(f"texts must be a string or a list of strings, got {and_advice(inputs)}")
    several = [inputs] if is_single else inputs
    return [_checked_input(one, number) for number, one in enumerate(several)], is_single


def checked_single_texts(inputs: Any, task: str) -> tuple[list[TextInput], bool]:
    """Check inputs as `checked_inputs`, for a task that reads one text at a time.

    Raises:
        TypeError: if they are neither a string nor a list of strings; a tuple is a pair of texts.
        ValueError: if a text contains half a surrogate pair.
    """
    texts, is_single = checked_inputs(inputs)
    if any(one.pair is not None for one in texts):
        raise TypeError(
            f"a tuple is a pair of texts, and {task} reads one text at a time: pass a string, or a "
            "list for several texts"
        )
    return texts, is_single


def _checked_input(value: Any, number: int) -> TextInput:
    if isinstance(value, TextInput):
        return value
    if not isinstance(value, tuple):
        check_text(value, f"text {number}")
        return TextInput(value)
    if len(value) != 2:
        raise ValueError(
            f"text {number} is a tuple of {len(value)}, and a tuple is a pair of texts: wanted "
            "(first, second)"
        )
    for side, text in zip(("first", "second"), value, strict=True):
        check_side(text, f"the {side} text of pair {number}")
    return TextInput(*value)


def check_side(text: Any, name: str) -> None:
    """Check one text of several that belong together.

    Raises:
        TypeError: if it is not a string.
        ValueError: if it contains half a surrogate pair, or is empty.
    """
    check_text(text, name)
    if not text.strip():
        raise ValueError(f"{name} is empty: pass two texts")


def check_text(text: Any, name: str) -> None:
    """Check that a text is a string of whole characters; raise TypeError or ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}; wanted a string")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{name} is not valid Unicode; decode it as UTF-8 first")


def in_python(value: Any) -> Any:
    """Turn a vector or scalar of NumPy, PyTorch or pandas into a list or scalar of Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value lists several texts in an order; a tuple is kept for a pair of texts."""
    return isinstance(value, Sequence) and not isinstance(value, (str, tuple, bytes, bytearray))


def and_advice(value: object) -> str:
    """Name the type of what was passed in place of texts, and what to do about it."""
    name = type(value).__name__
    if hasattr(value, "columns"):
        return f"{name}: pass one of its columns, as table[name].tolist()"
    if isinstance(value, tuple):
        return f"{name}, which is kept for the two texts of a pair: pass a list for several texts"
    return f"{name}: pass a list for several texts"

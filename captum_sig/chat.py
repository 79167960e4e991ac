"""Chat messages → the text that a model reads, and where in it the messages stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]  # "role" and "content"


@dataclass(frozen=True)
class Rendered:
    """A chat as one text; `contents` are the character offsets of the messages in it."""

    text: str
    contents: tuple[tuple[int, int], ...]


def rendered(tokenizer: Any, messages: Sequence[Message]) -> Rendered:
    """The messages by the tokenizer's chat template, up to where the model's answer begins.

    A last message of the role "assistant" is left open: the model is to go on with it.

    Raises:
        TypeError: if a message is not a role and a text.
        ValueError: if there is no message or no template, or it refuses or changes them.
    """
    if not messages:
        raise ValueError("the chat has no message: pass at least one")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise TypeError(f'message {number} must be {{"role": …, "content": …}} with strings')
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            "the tokenizer has no chat template: set tokenizer.chat_template, or pass the text "
            "that the model reads"
        )
    text = _by_template(tokenizer, messages)
    return Rendered(text, _located(tokenizer, messages, text))


def _by_template(tokenizer: Any, messages: Sequence[Message]) -> str:
    from jinja2 import TemplateError

    is_open = messages[-1]["role"] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=not is_open,
            continue_final_message=is_open,
        )  # fmt: skip
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from error


def _located(tokenizer: Any, messages: Sequence[Message], text: str) -> tuple[tuple[int, int], ...]:
    """Where each message stands: between the template's own pieces, which placeholders show.

    To search the text for a message would find "user" in the template's own words.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    marked = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    pieces = re.split("|".join(marks), _by_template(tokenizer, marked))
    pattern = re.escape(pieces[0]) + "".join(
        f"({'|'.join(map(re.escape, _spellings(message['content'])))}){re.escape(piece)}"
        for message, piece in zip(messages, pieces[1:], strict=False)
    )
    found = re.fullmatch(pattern, text) if len(pieces) == len(messages) + 1 else None
    if found is None:
        raise ValueError(
            "the chat template changes what the messages say, so their words cannot be found in "
            "it: pass the text that the model reads"
        )
    return tuple(found.span(number + 1) for number in range(len(messages)))


def _spellings(content: str) -> Iterator[str]:
    """As it is, or without the white space around it, as most templates have it."""
    yield from dict.fromkeys([content, content.strip(), content.lstrip(), content.rstrip()])

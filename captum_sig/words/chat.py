"""Render the messages of a chat as the text that a model reads, and locate their contents in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from captum_sig.words.grouping import Offsets
from captum_sig.words.inputs import TextInput, is_list

Message = dict[str, str]  # "role" and "content"

TEMPLATE_FILE = "<template>"  # as Jinja2 names the file of a template that has none
MAX_LINES, MAX_CHARACTERS = 10**6, 10**7  # run and written by a template; chats need thousands


def render_chat(
    tokenizer: Any, messages: Sequence[Message], *, is_complete: bool = False
) -> tuple[str, Offsets]:
    """Render messages with the tokenizer's chat template, up to where the model's answer begins.

    A last message with the role "assistant" is left open for the model to continue.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        messages: with "role" and "content".
        is_complete: whether the chat ends with its last message, whosever it is, and no answer
            begins: what a reward model reads.

    Returns:
        the text, and the character offsets of each message's content in it.

    Raises:
        TypeError: if a message is not a role and a text.
        ValueError: if there is no message or no template, or it refuses or changes the messages.
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
    text = _by_template(tokenizer, messages, is_complete)
    return text, _contents(tokenizer, messages, text, is_complete)


def is_chat(value: object) -> bool:
    """Whether this is a list of messages."""
    return is_list(value) and len(value) > 0 and isinstance(value[0], dict)


def with_chats_rendered(tokenizer: Any, inputs: Any) -> Any:
    """Put the text of each complete chat in its place, in a list or alone; the rest stays.

    Raises:
        TypeError, ValueError: as `render_chat`.
    """
    if is_chat(inputs):
        text, contents = render_chat(tokenizer, inputs, is_complete=True)
        roles = tuple(message["role"] for message in inputs)
        return TextInput(text, contents=contents, is_rendered=True, roles=roles)
    if is_list(inputs):
        return [with_chats_rendered(tokenizer, one) if is_chat(one) else one for one in inputs]
    return inputs


def _by_template(tokenizer: Any, messages: Sequence[Message], is_complete: bool) -> str:
    from jinja2 import TemplateError

    is_open = messages[-1]["role"] == "assistant" and not is_complete
    try:
        with _bounded():
            return tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=not (is_open or is_complete),
                continue_final_message=is_open,
            )  # fmt: skip
    except Exception as error:  # a template is a program, and may fail as any
        reason = str(error)
        if not isinstance(error, (TemplateError, ValueError)):
            reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
        raise ValueError(f"the chat template refuses the messages: {reason}") from error


@contextmanager
def _bounded() -> Iterator[None]:
    """Stop a template that has no end.

    The sandbox of Jinja2 bounds each `range`, but not loops in loops. Its templates are compiled to
    functions of Python, whose lines and results are counted here. What is computed within a line is
    not bounded, such as a power or a product of a string.
    """
    n_lines = n_characters = 0

    def count(frame: FrameType, event: str, result: Any) -> Any:
        nonlocal n_lines, n_characters
        if event == "call" and frame.f_code.co_filename != TEMPLATE_FILE:
            return None
        n_lines += event == "line"
        n_characters += len(result) if event == "return" and isinstance(result, str) else 0
        if n_lines > MAX_LINES or n_characters > MAX_CHARACTERS:
            raise ValueError(
                f"it has not ended after {n_lines:,} lines and {n_characters:,} characters"
            )
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _contents(tokenizer: Any, messages: Sequence[Message], text: str, is_complete: bool) -> Offsets:
    """Locate each message between the template's own parts, which placeholders reveal.

    Searching the text for a message would find "user" in the template's own words.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(messages))]
    marked = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    parts = re.split("|".join(marks), _by_template(tokenizer, marked, is_complete))
    pattern = re.escape(parts[0]) + "".join(
        f"({'|'.join(map(re.escape, _spellings(message['content'])))}){re.escape(part)}"
        for message, part in zip(messages, parts[1:], strict=False)
    )
    match = re.fullmatch(pattern, text) if len(parts) == len(messages) + 1 else None
    if match is None:
        raise ValueError(
            "the chat template changes the messages, so their words cannot be located: pass the "
            "text that the model reads"
        )
    return [match.span(number + 1) for number in range(len(messages))]


def _spellings(content: str) -> Iterator[str]:
    """Yield the content as it is, and without the white space around it, as most templates do."""
    yield from dict.fromkeys([content, content.strip(), content.lstrip(), content.rstrip()])

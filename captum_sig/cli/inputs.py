"""What `captum-sig explain` explains: texts, pairs of texts and chats, as they are passed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from captum_sig.cli import terminal

StdinFormat = Literal["lines", "text", "tsv", "jsonl"]
Message = dict[str, str]
Input = str | tuple[str, str] | list[Message]  # a text, a pair of texts, a chat
STDIN = "-"
PAIRS_OF_KEYS = (("text", "text_pair"), ("question", "context"))
WANTED = (
    '{"text": …}, {"text": …, "text_pair": …}, {"question": …, "context": …} or {"messages": […]}'
)


def read_inputs(
    texts: Sequence[str],
    *,
    stdin_format: StdinFormat | None = None,
    messages: Path | None = None,
    chat: bool = False,
) -> list[Input]:
    """Return what is to be explained, in the order of the arguments.

    Args:
        texts: texts; "-" stands for those on stdin.
        stdin_format: how these are written, by default one on each line.
        messages: a file with a chat, in place of texts.
        chat: make each text the message of a user.
    """
    if messages is not None and (texts or chat):
        terminal.fail(f"--messages is the whole chat: leave {'--chat' if chat else 'TEXTS'} out")
    if messages is not None:
        return [read_messages(messages)]
    if not texts:
        terminal.fail("there is nothing to explain: pass TEXTS, or - for stdin")
    if stdin_format is not None and STDIN not in texts:
        terminal.fail("--stdin-format is for stdin: pass - as text, or leave it out")
    inputs: list[Input] = []
    for text in texts:
        inputs += _stdin_inputs(stdin_format or "lines") if text == STDIN else [text]
    if all(isinstance(one, str) and not one.strip() for one in inputs):
        terminal.fail("there is nothing to explain: the text is empty")
    return [_as_message(one) for one in inputs] if chat else inputs


def _as_message(one: Input) -> Input:
    if not isinstance(one, str):
        terminal.fail(
            "--chat makes a message of a text, and stdin has more than texts: leave it out"
        )
    return [{"role": "user", "content": one}]


def read_messages(path: Path) -> list[Message]:
    """Read a chat from a JSON file: a list of messages, or an object with such "messages".

    Raises:
        ValueError: if it is something else.
        OSError: if the file cannot be read.
    """
    return _messages(_read_json(path, "the messages of a chat"), str(path))


def read_units(path: Path, inputs: Sequence[Any]) -> list[Any]:
    """Read the units of each input from a JSON file.

    Args:
        path: holds the units of one input; for several a list with an entry for each.
        inputs: texts, pairs, chats, or texts with several second texts.

    Raises:
        ValueError: if it holds something else.
        OSError: if the file cannot be read.
    """
    from captum_sig.data.units import units_from_json

    data = _read_json(path, "units")
    if len(inputs) == 1:
        return [units_from_json(data, inputs[0], str(path))]
    if not isinstance(data, list) or len(data) != len(inputs):
        got = f"{len(data)} entries" if isinstance(data, list) else "no list"
        raise ValueError(
            f"{path} has {got}; wanted {len(inputs)}, the units of each text, or null for its level"
        )
    return [
        units_from_json(value, one, f"entry {number} of {path}")
        for number, (value, one) in enumerate(zip(data, inputs, strict=True), start=1)
    ]


def _read_json(path: Path, what: str) -> Any:
    if "\0" in str(path) or not path.is_file():
        raise ValueError(f"there is no file {path}: name a JSON file with {what}")
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}") from error


def _messages(data: Any, where: str) -> list[Message]:
    """Check the messages of a chat."""
    found = data.get("messages") if isinstance(data, dict) else data
    wanted = 'wanted a list of {"role": …, "content": …} with strings, or {"messages": such a list}'
    if not isinstance(found, list) or not found:
        raise ValueError(f"{where} has no list of messages; {wanted}")
    for number, message in enumerate(found, start=1):
        strings = isinstance(message, dict) and all(
            isinstance(message.get(key), str) for key in ("role", "content")
        )
        if not strings:
            raise ValueError(f"message {number} of {where} has no role and content; {wanted}")
    return [{"role": one["role"], "content": one["content"]} for one in found]


def _stdin_inputs(stdin_format: StdinFormat) -> Iterator[Input]:
    """Read stdin; blank lines are texts, except between pairs and objects."""
    lines = _stdin_lines()
    if stdin_format == "text":
        yield "\n".join(lines)
        return
    for number, line in enumerate(lines, start=1):
        if stdin_format == "lines":
            yield line
        elif line.strip():
            read = _of_columns if stdin_format == "tsv" else _of_object
            yield read(line, f"line {number} of stdin")


def _stdin_lines() -> list[str]:
    if sys.stdin is None:
        terminal.fail("stdin is closed: pass the text itself")
    text = sys.stdin.read().removeprefix("\ufeff")
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _of_columns(line: str, where: str) -> Input:
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(
            f"{where} has {len(columns)} columns; wanted two texts with a TAB between them"
        )
    return columns[0], columns[1]


def _of_object(line: str, where: str) -> Input:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if isinstance(data, dict):
        if "messages" in data:
            return _messages(data, where)
        for first, second in PAIRS_OF_KEYS:
            one, other = data.get(first), data.get(second)
            if isinstance(one, str) and isinstance(other, str):
                return one, other
        text = data.get("text")
        if isinstance(text, str) and data.get("text_pair") is None:
            return text
    raise ValueError(f"{where} is no text; wanted {WANTED} with strings")

"""What `captum-sig explain` reads: texts, pairs of texts and chats."""

import io
import json
import sys
from pathlib import Path

import pytest
import typer

from captum_sig.cli.inputs import read_inputs, read_messages

CHAT = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Is it good?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture
def read(monkeypatch):
    def reading(*texts: str, stdin: str = "", **options):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return read_inputs(texts, **options)

    return reading


def test_texts_and_lines_in_their_order(read):
    assert read("a", "-", "d", stdin="b\r\n\nc\n") == ["a", "b", "", "c", "d"]


def test_columns_are_pairs(read):
    stdin = "\ufeffa premise\tits hypothesis\n\n \t \nb\tc\n"
    assert read("-", stdin_format="tsv", stdin=stdin) == [("a premise", "its hypothesis"),
                                                         ("b", "c")]  # fmt: skip


def test_objects_are_texts_pairs_questions_and_chats(read):
    objects = [
        {"text": "a", "label": 1},
        {"text": "a", "text_pair": "b"},
        {"text": "a", "text_pair": None},
        {"question": "who?", "context": "me"},
        {"messages": CHAT},
    ]
    stdin = "".join(f"{json.dumps(one)}\n\n" for one in objects)
    assert read("-", stdin_format="jsonl", stdin=stdin) == [
        "a", ("a", "b"), "a", ("who?", "me"), CHAT,
    ]  # fmt: skip


def test_a_chat_of_one_message(read):
    assert read("a", "b", chat=True) == [[{"role": "user", "content": c}] for c in "ab"]


@pytest.mark.parametrize("data", [CHAT, {"messages": CHAT, "tools": []}])
def test_a_file_of_messages(read, tmp_path, data):
    path = tmp_path / "chat.json"
    path.write_text("\ufeff" + json.dumps(data), encoding="utf-8")
    assert read(messages=path) == [CHAT]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON in UTF-8: Expecting value"),
        ("{'role'}", "is not JSON in UTF-8"),
        ("[" * 100_000, "is not JSON in UTF-8"),
        ("[]", "has no list of messages; wanted a list of"),
        ('"text"', "has no list of messages"),
        ('{"messages": {"role": "user"}}', "has no list of messages"),
        ('[{"role": "user"}]', "message 1 of .* has no role and content; wanted a list of"),
        ('[{"role": "user", "content": "a"}, {"role": "user", "content": [1]}]', "message 2 of"),
        ('["a"]', "message 1 of"),
    ],
)
def test_what_is_not_a_chat_is_told_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "chat.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_messages(path)


def test_a_file_of_messages_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*: name a JSON file"):
        read_messages(Path("\0"))
    with pytest.raises(ValueError, match="there is no file .*none.json: name a JSON file"):
        read_messages(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'["\xff"]')
    with pytest.raises(ValueError, match="is not JSON in UTF-8"):
        read_messages(tmp_path / "latin.json")


def test_all_of_stdin_is_one_text(read):
    assert read("-", stdin_format="text", stdin="One.\r\n\nTwo.\n") == ["One.\n\nTwo."]


@pytest.mark.parametrize(
    ("stdin_format", "stdin", "message"),
    [
        ("tsv", "a\tb\na\n", "line 2 of stdin has 1 columns; wanted two texts with a TAB between"),
        ("tsv", "a\tb\tc\n", "line 1 of stdin has 3 columns"),
        ("jsonl", "a\n", "line 1 of stdin is not JSON"),
        ("jsonl", "[" * 100_000, "line 1 of stdin is not JSON"),
        ("jsonl", '{"text": 1}', "line 1 of stdin is no text; wanted"),
        ("jsonl", '{"text": "a", "text_pair": 1}', "line 1 of stdin is no text; wanted"),
        ("jsonl", '{"question": "a"}', "line 1 of stdin is no text; wanted"),
        ("jsonl", '["a"]', "line 1 of stdin is no text; wanted"),
        ("jsonl", '{"messages": []}', "line 1 of stdin has no list of messages"),
    ],
)
def test_what_is_not_a_text_on_stdin(read, stdin_format, stdin, message):
    with pytest.raises(ValueError, match=message):
        read("-", stdin_format=stdin_format, stdin=stdin)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "there is nothing to explain: pass TEXTS, or - for stdin"),
        (["", " "], {}, "there is nothing to explain: the text is empty"),
        (["-"], {"stdin_format": "jsonl"}, "there is nothing to explain: the text is empty"),
        (["a"], {"stdin_format": "tsv"}, "--stdin-format is for stdin: pass - as text"),
        (["a"], {"messages": "x.json"}, "--messages is the whole chat: leave TEXTS out"),
        ([], {"messages": "x.json", "chat": True}, "the whole chat: leave --chat out"),
    ],
)
def test_arguments_that_do_not_go_together(read, capsys, texts, options, message):
    with pytest.raises(typer.Exit):
        read(*texts, **options)
    assert message in capsys.readouterr().err


def test_a_chat_of_pairs(read, capsys):
    with pytest.raises(typer.Exit):
        read("-", stdin="a\tb\n", stdin_format="tsv", chat=True)
    assert "--chat makes a message of a text, and stdin has more" in capsys.readouterr().err

"""Chat templates that fail, and such as have no end."""

import sys

import pytest

from captum_sig.words.chat import render_chat
from tests.tiny_language_models import chat_tokenizer

HI = [{"role": "user", "content": "hi"}]


def rendered(template, messages=HI):
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    return render_chat(tokenizer, messages)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ 'a' + 1 }}", "TypeError: can only concatenate"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: maximum recursion"),
        ("{% for %}", "Expected an expression"),
    ],
)
def test_a_template_that_fails(template, reason):
    with pytest.raises(ValueError, match=f"the chat template refuses the messages: {reason}"):
        rendered(template)


LONG = "{% for i in range(99999) %}"


@pytest.mark.parametrize(
    "template",
    [
        LONG * 3 + "x" + "{% endfor %}" * 3,
        LONG * 3 + "{% endfor %}" * 3,
        "{% macro f() %}" + LONG * 2 + "{% endfor %}" * 2 + "{% endmacro %}{{ f() }}",
        LONG + "{{ 'x' * 99999 }}" + "{% endfor %}",
    ],
)
def test_a_template_without_an_end(template):
    traced = sys.gettrace()
    with pytest.raises(ValueError, match=r"it has not ended after [\d,]+ lines and [\d,]+ char"):
        rendered(template)
    assert sys.gettrace() is traced


def test_a_long_chat_is_rendered():
    chat = [{"role": "user", "content": "good " * 99}] * 300
    assert len(render_chat(chat_tokenizer(), chat)[1]) == 300

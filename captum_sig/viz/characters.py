"""Make whatever comes from texts and models safe to show: control characters, lines, lengths."""

from __future__ import annotations

# Characters that order what follows them from right to left or back, up to the end of a paragraph.
BIDI_CONTROLS = {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


# What stands for characters that cannot be seen. DejaVu has these signs, most systems fall back to
# a font that does, and few have the pictures of control characters (U+2400 to U+241F).
NEWLINE, TAB, SPACE = "↵", "⇥", "␣"


def visible(text: str) -> str:
    """Replace control characters by their pictures, so that a text cannot steer the terminal.

    Those that order text from right to left are spelled out, since they would act beyond their
    word, on its score among others.
    """
    if text.isprintable():
        return text
    pictures = (chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)
    shown = "".join("\ufffd" if "\x7f" <= c <= "\x9f" else c for c in pictures)
    return shown.translate(BIDI_CONTROLS)


def shortened(text: str, limit: int) -> str:
    """Cut a text to at most `limit` characters, the last of which is then "…"."""
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def on_one_line(text: str) -> str:
    """Make control characters visible, line breaks and tabs among them."""
    return visible(text).replace("\n", NEWLINE).replace("\t", TAB)


def label(token: str) -> str:
    """Return a token on one line, without spaces around it unless it is only spaces."""
    return on_one_line(token.strip(" ") or token).strip(" ") or SPACE


def with_line_ends(word: str, sign: str = "") -> str:
    r"""Put a sign before each line break of a word, which is then seen in colour.

    Another sign follows the word, on its last line.

    >>> with_line_ends("so\n"), with_line_ends("so", "▲"), with_line_ends("so\n", "▲")
    ('so↵\n', 'so▲', 'so↵▲\n')
    """
    shown = word.removesuffix("\n").replace("\n", f"{NEWLINE}\n")
    return f"{shown}{NEWLINE}{sign}\n" if word.endswith("\n") else f"{shown}{sign}"

"""Rationales: the characters of a text that people marked as the reason for its label.

A cell of a column, or the JSON in it, has one of these forms:

- [[start, end], …] or [{"start": …, "end": …}, …]: spans of characters, `end` exclusive;
- [8, 9, 10, 20]: offsets of single characters, as in SemEval-2021's Toxic Spans;
- ERASER's evidences (arXiv 1911.03429): groups of {"start_token": …, "end_token": …}, which count
  the document's tokens; the rationale is all of them;
- ["a quote", …], as other copies of ERASER have them: each place where the text has these words.

An empty list says that nobody marked anything; an empty cell or null, that nothing is known.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from captum_sig._warnings import warn
from captum_sig.words.inputs import in_python

Span = tuple[int, int]  # characters of a text, half-open
Spans = tuple[Span, ...]  # ascending, with a gap between each two

FORMS = (
    '[[start, end], …], [{"start": …, "end": …}, …], offsets of characters such as [8, 9, 10], '
    'quotes, or ERASER\'s [[{"start_token": …, "end_token": …}, …], …]'
)
SPAN_KEYS, TOKEN_KEYS = ("start", "end"), ("start_token", "end_token")


def spans_from_cell(value: Any, text: str) -> Spans | None:
    """Read the rationale of a text; None if it is not known, () if nobody marked anything.

    Spans that overlap or touch are merged.

    Args:
        value: a list in one of the forms above, or a string with such a list as JSON.
        text: what the spans lie in.

    Raises:
        ValueError: if the value is not JSON, has another form, or marks what is not in the text.

    >>> spans_from_cell("[[0, 3], [2, 5], [9, 10]]", "Not today.")
    ((0, 5), (9, 10))
    >>> spans_from_cell([4, 5, 6, 7, 8], "Not today.")
    ((4, 9),)
    >>> spans_from_cell([[{"start_token": 1, "end_token": 2, "text": "today"}]], "Not today .")
    ((4, 9),)
    """
    value = _parsed(in_python(value))
    if value is None or value != value:  # NaN, as pandas writes what is missing
        return None
    if not isinstance(value, list):
        raise ValueError(f"the rationale is {reprlib.repr(value)}; wanted {FORMS}")
    if value and all(map(_is_integer, value)):
        return _merged(_characters(value, len(text)))
    if value and all(isinstance(quote, str) for quote in value):
        return _merged(place for quote in value for place in _places(quote, text))
    entries = [entry for group in value for entry in (group if _is_group(group) else [group])]
    if any(isinstance(entry, dict) and TOKEN_KEYS[0] in entry for entry in entries):
        return _merged(_evidence_spans(entries, text))
    spans = [_ends(entry, in_tokens=False) for entry in entries]
    return _merged(_checked(span, len(text), "characters") for span in spans)


def eraser_tokens(document: str) -> list[Span]:
    r"""Return the characters of the tokens that ERASER's evidences count.

    A line is a sentence, whose tokens have spaces between them; blank lines have none.

    >>> eraser_tokens("a good one .\n \n yes\t\n")
    [(0, 1), (2, 6), (7, 10), (11, 12), (16, 19)]
    """
    tokens = []
    for line in re.finditer(r"[^\n]+", document):
        start = line.start() + len(line[0]) - len(line[0].lstrip())
        tokens += [
            (start + token.start(), start + token.end())
            for token in re.finditer("[^ ]+", line[0].strip())
        ]
    return tokens


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the rationale is not JSON: {error}; wanted {FORMS}") from None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_group(value: Any) -> bool:
    """Whether a value lists objects, of which there may be none."""
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _ends(entry: Any, *, in_tokens: bool) -> Span:
    """Return the two integers of an entry: of an object, or of a list of two characters."""
    ends = entry
    if isinstance(entry, dict):
        ends = [entry.get(key) for key in (TOKEN_KEYS if in_tokens else SPAN_KEYS)]
    is_pair = isinstance(ends, list) and len(ends) == 2 and all(map(_is_integer, ends))
    if not is_pair or (in_tokens and ends is entry):
        raise ValueError(
            f"the rationale has {reprlib.repr(entry)}; wanted {FORMS}, in whole numbers: convert "
            "the column"
        )
    return ends[0], ends[1]


def _checked(span: Span, n: int, what: str) -> Span:
    """Return a span that marks something in a text of n characters or tokens."""
    start, end = span
    if end <= start:
        raise ValueError(
            f"the rationale [{start}, {end}] ends before it has marked anything; wanted start < "
            "end, the end not included: correct the row or leave it empty"
        )
    if start < 0 or end > n:
        raise ValueError(
            f"the rationale [{start}, {end}] is outside the text, which has {n} {what}; wanted 0 ≤ "
            f"start < end ≤ {n}: correct the row or leave it empty"
        )
    return span


def _characters(offsets: list[int], n: int) -> Iterator[Span]:
    """Yield the span of each marked character.

    Raises:
        ValueError: if the offsets repeat, lie outside the text, or may be the ends of spans.
    """
    ordered = sorted(set(offsets))
    n_runs = 1 + sum(after != before + 1 for before, after in pairwise(ordered))
    if len(ordered) < len(offsets) or (len(offsets) % 2 == 0 and 2 * n_runs > len(offsets)):
        raise ValueError(
            f"the rationale {reprlib.repr(offsets)} may mean characters or the ends of spans; "
            "wanted each character once: write spans as [[start, end], …]"
        )
    for offset in ordered:
        yield _checked((offset, offset + 1), n, "characters")


def _places(quote: str, text: str) -> list[Span]:
    """Return each place of a quote in the text: whole words, with any white space between them."""
    words = r"\s+".join(map(re.escape, quote.split()))
    # \b would ask for a letter beside a quote that begins or ends with a sign
    starts = r"(?<!\w)" if re.match(r"\s*\w", quote) else ""
    ends = r"(?!\w)" if re.search(r"\w\s*$", quote) else ""
    places = [match.span() for match in re.finditer(f"{starts}{words}{ends}", text)]
    if not words or not places:
        raise ValueError(
            f"the rationale quotes {reprlib.repr(quote)}, which is not in the text; wanted words "
            "of the text, letter for letter: correct the row or leave it empty"
        )
    return places


def _evidence_spans(evidences: list[Any], text: str) -> Iterator[Span]:
    """Yield the characters of ERASER's evidences.

    Raises:
        ValueError: if one has another form, or they lie in several documents.
    """
    spans = [_ends(entry, in_tokens=True) for entry in evidences]  # so all are objects
    documents = {str(entry["docid"]) for entry in evidences if "docid" in entry}
    if len(documents) > 1:
        raise ValueError(
            f"the rationale is in {len(documents)} documents, {', '.join(sorted(documents))!r:.60}"
            "; wanted one: make a row for each, or leave the row empty"
        )
    tokens = eraser_tokens(text)
    for entry, span in zip(evidences, spans, strict=True):
        first, last = _checked(span, len(tokens), "tokens")
        start, end = tokens[first][0], tokens[last - 1][1]
        written = entry.get("text")
        if isinstance(written, str) and written.split() != text[start:end].split():
            warn(
                "the text of an evidence is not what stands at its tokens in the document; the "
                "tokens count: check that documents have a space between tokens"
            )
        yield start, end


def _merged(spans: Iterable[Span]) -> Spans:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)

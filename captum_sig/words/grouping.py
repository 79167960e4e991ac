"""From positions to words: which tokens form a word, which belong to none, sums over words.

A *grouping* of one text is a list with an entry per position: the number of the word that the
token belongs to, or None for special tokens and padding. A *feature mask* is its tensor form for
Captum: (B, L) integers, equal numbers move together, special tokens and padding on their own.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from captum_sig._names import Level, Side, unknown_name
from captum_sig.words.tokenize import tokenize

Grouping = list[int | None]
Offsets = Sequence[tuple[int, int]]

# Markers by which a token shows that it starts or continues a word.
STARTS = ("▁", "Ġ")  # sentencepiece, byte-level BPE
CONTINUES = ("##",)  # WordPiece
NEWLINES = {"<0x0A>", "\n", "Ċ"}  # tokens of tokenizers without a marker for new lines


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of special tokens; unk is one only if it has a second role.

    Added tokens that are marked special are among them, such as the markers of a chat template. An
    unknown word is a word. Padding with unk's id is not a second role: the attention mask
    distinguishes it from words.
    """
    roles = ("bos", "eos", "sep", "cls", "mask")
    named = [getattr(tokenizer, f"{role}_token_id", None) for role in roles]
    special = {*tokenizer.all_special_ids, *_added_special_ids(tokenizer)}
    return special - {tokenizer.unk_token_id} | {
        token_id for token_id in named if token_id is not None
    }


_ADDED: WeakKeyDictionary[Any, tuple[int, frozenset[int]]] = WeakKeyDictionary()


def _added_special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of added tokens that are marked special; listing them takes long."""
    size = len(tokenizer)
    if _ADDED.get(tokenizer, (None, None))[0] != size:
        added = tokenizer.added_tokens_decoder.items()
        _ADDED[tokenizer] = size, frozenset(number for number, token in added if token.special)
    return _ADDED[tokenizer][1]


def token_groups(
    tokenizer: Any,
    ids: Sequence[int],
    word_ids: Sequence[int | None] | None = None,
    text: str | None = None,
    offsets: Offsets | None = None,
) -> Grouping:
    """Make every token its own word; special tokens and padding belong to none."""
    special = special_ids(tokenizer)
    return [None if token in special else position for position, token in enumerate(ids)]


def word_groups(
    tokenizer: Any,
    ids: Sequence[int],
    word_ids: Sequence[int | None] | None = None,
    text: str | None = None,
    offsets: Offsets | None = None,
) -> Grouping:
    """Group the tokens of one text into words.

    Args:
        tokenizer: a transformers tokenizer.
        ids: token ids of the text, including special tokens and padding.
        word_ids: a fast tokenizer's `BatchEncoding.word_ids()`, in which the words of two texts may
            have the same numbers; `number_on` of them tells the texts apart for certain. If it is
            missing, or the tokenizer does not split into words first, the tokens' own markers ▁, Ġ
            or ## decide; without markers every token is a word.
        text: the tokenized text; with `offsets`, words stay whole at combining marks.
        offsets: characters of the text that each token covers.
    """
    groups = token_groups(tokenizer, ids)
    parts = [None] * len(ids) if word_ids is None else number_on(word_ids)
    if word_ids is not None and _splits(tokenizer):
        groups = [None if g is None else part for g, part in zip(groups, parts, strict=True)]
    else:
        groups = _by_markers(tokenizer, ids, groups, parts)
    return groups if text is None or offsets is None else joined(text, groups, offsets)


def grouping_of(level: str) -> Callable[..., Grouping]:
    """Return the function that groups tokens at this level: into words, of which units are made.

    Raises:
        ValueError: if there is no such level.
    """
    if level not in get_args(Level):
        raise ValueError(unknown_name("level", level, get_args(Level)))
    return token_groups if level == "token" else word_groups


_SPLITS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _splits(tokenizer: Any) -> bool:
    """Whether a fast tokenizer splits a text into words first; checked once.

    If not, `word_ids` has one word for everything between two added tokens.
    """
    if tokenizer not in _SPLITS:
        ids = tokenize(tokenizer, "a b", add_special_tokens=False).word_ids()
        _SPLITS[tokenizer] = len(set(ids)) > 1
    return _SPLITS[tokenizer]


def joined(text: str, groups: Grouping, offsets: Offsets) -> Grouping:
    """Join the words that a tokenizer splits inside a character as readers see it.

    GPT-2 and similar tokenizers do not treat the marks of Hindi, Hebrew or decomposed accents as
    letters, and split emoji at joiners and selectors. A word goes on after a letter's marks; what
    else the tokenizer put behind the marks, such as a full stop, is a word of its own.

    >>> joined("cafe\u0301!", [0, 1, 1], [(0, 4), (4, 5), (5, 6)])
    [0, 0, 1]
    """
    if text.isascii():
        return groups
    start_of = _characters(text)
    result: Grouping = []
    carried: int | None = None  # the group whose first token went to the word before it
    for position, (group, (start, _)) in enumerate(zip(groups, offsets, strict=True)):
        before = groups[position - 1] if position else None
        if group is None or before is None:
            result.append(group)
            continue
        if (group == before and group != carried) or not 0 < start < len(text):
            result.append(result[-1] if group == before else group)
            continue
        has_marks = start_of[start - 1] < start - 1
        letters = text[start_of[start - 1]].isalpha() and text[start].isalpha()
        if start_of[start] < start or (letters if has_marks else group == before):
            carried = group
            result.append(result[-1])
        else:
            carried = None
            result.append(group)
    return result


def within(text: str, groups: Grouping, offsets: Offsets, contents: Offsets) -> Grouping:
    """Keep only the words of a chat's contents, and let no word span two of them.

    A token belongs to a content if it shows any of it, apart from the white space around it.
    """
    first: dict[tuple[int, int], int] = {}  # where each content's part of a word starts
    result: Grouping = []
    for position, (group, (start, end)) in enumerate(zip(groups, offsets, strict=True)):
        bare = text[start:end].strip()
        if bare:
            start += text[start:end].index(bare)
            end = start + len(bare)
        owners = (n for n, (begin, stop) in enumerate(contents) if start < stop and end > begin)
        owner = next(owners, None)
        if group is None or owner is None:
            result.append(None)
        else:
            result.append(first.setdefault((owner, group), position))
    return result


def _characters(text: str) -> list[int]:
    """Return where the character as readers see it starts that each code point belongs to."""
    import regex

    starts = [0] * len(text)
    for match in regex.finditer(r"\X", text):
        start, end = match.span()
        starts[start:end] = [start] * (end - start)
    return starts


def number_on(
    word_ids: Sequence[int | None], sequence_ids: Sequence[int | None] | None = None
) -> list[int | None]:
    """Number the words of a second text on from the first's; tokenizers begin anew at 0.

    Args:
        word_ids: as `BatchEncoding.word_ids()`.
        sequence_ids: as `BatchEncoding.sequence_ids()`. Without them only a lower number shows that
            another text begins.

    >>> number_on([None, 0, 1, None, 0, 1, None])
    [None, 0, 1, None, 2, 3, None]
    """
    result: list[int | None] = []
    before: tuple[int | None, int] | None = None  # the text and number of the last word
    offset = n_words = 0
    for word, text in zip(word_ids, sequence_ids or [None] * len(word_ids), strict=True):
        if word is None:
            result.append(None)
            continue
        if before is not None and (text != before[0] or word < before[1]):
            offset = n_words
        before = text, word
        n_words = max(n_words, offset + word + 1)
        result.append(offset + word)
    return result


def encoding_groups(
    tokenizer: Any,
    encoding: Any,
    group: Callable[..., Grouping] = word_groups,
    texts: Sequence[str] | None = None,
) -> list[Grouping]:
    """Group the tokens of every encoded text; positions that are not attended belong to no word.

    Args:
        tokenizer: a transformers tokenizer.
        encoding: its output for one text or several, as lists or tensors.
        group: `word_groups` or `token_groups`.
        texts: the encoded texts, to keep words whole at combining marks; for the two texts of a
            pair as `joined_texts` joins them.
    """
    ids = _rows(encoding["input_ids"])
    attended = (
        _rows(encoding["attention_mask"])
        if "attention_mask" in encoding
        else [[1] * len(row) for row in ids]
    )
    groupings = []
    for number, row in enumerate(ids):
        if not tokenizer.is_fast:
            words = group(tokenizer, row)
        else:
            sequence_ids = encoding.sequence_ids(number)
            word_ids = number_on(encoding.word_ids(number), sequence_ids)
            text = offsets = None
            if texts is not None and (1 not in sequence_ids or BETWEEN in texts[number]):
                text, offsets = texts[number], joined_offsets(encoding, number, texts[number])
            words = group(tokenizer, row, word_ids, text, offsets)
        pairs = zip(words, attended[number], strict=True)
        groupings.append([word if seen else None for word, seen in pairs])
    return groupings


BETWEEN = "\0"  # what stands between the texts of a pair where they are treated as one


def joined_texts(text: str, pair: str | None) -> str:
    """Join the two texts of a pair, of which neither is known to contain `BETWEEN`."""
    return text if pair is None else f"{text.replace(BETWEEN, ' ')}{BETWEEN}{pair}"


def joined_offsets(encoding: Any, number: int, text: str) -> Offsets:
    """Return an encoded text's or pair's offsets in what `joined_texts` makes of it."""
    offsets, sequence_ids = encoding[number].offsets, encoding.sequence_ids(number)
    if 1 not in sequence_ids:
        return offsets
    start = text.index(BETWEEN) + 1
    return [
        (first + start, last + start) if side == 1 else (first, last)
        for (first, last), side in zip(offsets, sequence_ids, strict=True)
    ]


def by_side(spans: Sequence[Span], text: str) -> list[Span]:
    """Return the words of a pair's joined texts with their side, and their offsets in it.

    A word that the tokenizer does not locate is on the side of the word before it.
    """
    start_of_pair = text.index(BETWEEN) + 1
    side: Side = "text"
    words = []
    for span in spans:
        if span.start is not None and span.end is not None:
            side = "text" if span.start < start_of_pair else "text_pair"
            shift = 0 if side == "text" else start_of_pair
            span = replace(span, start=span.start - shift, end=span.end - shift)
        words.append(replace(span, side=side))
    return words


def _rows(values: Any) -> list[list[int]]:
    rows = values.tolist() if isinstance(values, Tensor) else values
    return rows if not rows or isinstance(rows[0], (list, tuple)) else [rows]


def _by_markers(
    tokenizer: Any, ids: Sequence[int], groups: Grouping, parts: Sequence[int | None]
) -> Grouping:
    """Group tokens by their markers; a word lies in one of the parts that the tokenizer tells."""
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    marked = _marked(tokenizer)
    if marked is None:
        return groups
    starts = [piece.startswith(marked) == (marked is STARTS) for piece in pieces]
    words: Grouping = []
    current: int | None = None
    for position, (group, start, piece) in enumerate(zip(groups, starts, pieces, strict=True)):
        if group is None:
            current = None
        elif start or current is None or piece in NEWLINES or parts[position] != parts[current]:
            current = position
        words.append(current)
        if piece in NEWLINES:
            current = None
    return words


_MARKED: WeakKeyDictionary[Any, tuple[str, ...] | None] = WeakKeyDictionary()


def _marked(tokenizer: Any) -> tuple[str, ...] | None:
    """Return the markers in use: of word starts, of continuations, or None.

    The majority of the tokens decides, since the other marker may be text ("##" in Markdown).
    Counting takes as long as explaining a short text, so it is done once per tokenizer.
    """
    if tokenizer not in _MARKED:
        pieces = tokenizer.get_vocab()
        counts = {
            marks: sum(piece.startswith(marks) for piece in pieces) for marks in (STARTS, CONTINUES)
        }
        most = max(counts, key=counts.__getitem__)
        _MARKED[tokenizer] = most if counts[most] else None
    return _MARKED[tokenizer]


@dataclass(frozen=True)
class Span:
    """A word or unit in its text: first position in the grouping, and characters if known."""

    position: int
    word: str
    start: int | None
    end: int | None
    side: Side | None = None  # which text of a pair it stands in
    name: str | None = None  # of a unit


def spans(
    tokenizer: Any,
    text: str,
    ids: Sequence[int],
    groups: Grouping,
    offsets: Sequence[tuple[int, int]] | None,
) -> list[Span]:
    """List the words of a grouping in order; offsets exclude the space around a word.

    A word keeps the marks behind its last letter, which some tokenizers drop. Without a fast
    tokenizer's offsets the word is searched in the text; its start and end are None if the text
    does not contain it as the tokenizer spells it.
    """
    positions: dict[int, list[int]] = {}
    for position, word in enumerate(groups):
        if word is not None:
            positions.setdefault(word, []).append(position)
    words = []
    cursor = 0
    for members in positions.values():
        if offsets is not None:
            start = min(offsets[position][0] for position in members)
            end = max(offsets[position][1] for position in members)
        else:
            pieces = tokenizer.convert_ids_to_tokens([ids[position] for position in members])
            spelled = tokenizer.convert_tokens_to_string(pieces)
            spelled = spelled.replace(" ##", "").removeprefix("##").strip()
            start = _lower(text).find(spelled.lower(), cursor)
            if start < 0:
                words.append(Span(members[0], spelled, None, None))
                continue
            cursor = end = start + len(spelled)
        bare = text[start:end].strip()
        if bare:  # else the word is white space, which is kept
            start += text[start:end].index(bare)
            end = start + len(bare)
        words.append(Span(members[0], text[start:end], start, end))
    return words if text.isascii() else _with_marks(text, words)


def _with_marks(text: str, words: list[Span]) -> list[Span]:
    """End each word with a whole character as readers see it, unless another word begins there."""
    start_of = _characters(text)
    starts = sorted(span.start for span in words if span.start is not None)
    whole = []
    for span in words:
        if span.start is not None and span.end is not None and span.end > span.start:
            end, start = span.end, start_of[span.end - 1]
            taken = bisect.bisect_left(starts, end)
            limit = starts[taken] if taken < len(starts) else len(text)
            while end < limit and start_of[end] == start:
                end += 1
            span = replace(span, word=text[span.start : end], end=end)
        whole.append(span)
    return whole


def _lower(text: str) -> str:
    """Convert to lower case without changing any character's position."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def feature_mask(groups: Sequence[Grouping]) -> Tensor:
    """Turn groupings of equal length into (B, L) integers; other positions get their own numbers.

    >>> feature_mask([[None, 0, 0, 1, None]])
    tensor([[5, 0, 0, 1, 9]])
    """
    length = len(groups[0])
    highest = max((w for group in groups for w in group if w is not None), default=0)
    offset = max(length, highest + 1)
    return torch.tensor(
        [[offset + i if w is None else w for i, w in enumerate(group)] for group in groups],
        dtype=torch.long,
    )


def word_sums(per_position: Tensor, mask: Tensor) -> Tensor:
    """Sum over words, (B, L) → (B, L): every position carries the sum over its own word.

    >>> word_sums(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 0, 1]]))
    tensor([[3., 3., 4.]])
    """
    numbers, number = mask.unique(return_inverse=True)
    text = torch.arange(len(mask), device=mask.device)[:, None]
    words, word = (text * len(numbers) + number).unique(return_inverse=True)
    sums = per_position.new_zeros(len(words))
    return sums.index_add_(0, word.flatten(), per_position.flatten())[word]


def word_positions(
    tokenizer: Any, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Return True at words, False at special tokens and padding; shaped as `input_ids`."""
    special = torch.tensor(
        sorted(special_ids(tokenizer)), dtype=input_ids.dtype, device=input_ids.device
    )
    words = ~torch.isin(input_ids, special)
    return words if attention_mask is None else words & (attention_mask != 0)


def words_by_text(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None,  # (B, L)
) -> Iterator[tuple[int, Tensor]]:
    """Yield each text's number and its words' positions, (W,); skip texts without words."""
    if input_ids.dim() != 2:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)}; wanted (texts, positions): "
            "add a dimension to a single text"
        )
    for number, words in enumerate(word_positions(tokenizer, input_ids, attention_mask)):
        if words.any():
            yield number, words.nonzero()[:, 0]


def ordinary_tokens(tokenizer: Any, size: int) -> Tensor:
    """Return the ids below `size` of all tokens but special ones, ascending; (N,).

    Rows that only pad a model's vocabulary have no token, so they are not included.
    """
    tokens = set(tokenizer.get_vocab().values()) - special_ids(tokenizer)
    return torch.tensor(sorted(token for token in tokens if token < size), dtype=torch.long)

"""Words that a tokenizer knows and texts lack: planted into texts, they stand out to nobody."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from captum_sig.words.tokenize import decode, tokenize

LENGTHS = range(3, 13)  # characters of a word
N_CANDIDATES = 256  # the rarest, from which words are drawn
WORD = re.compile(r"\w+")


def rare_words(tokenizer: Any, texts: Iterable[str], n_words: int, seed: int = 0) -> list[str]:
    """Draw words of the tokenizer's vocabulary that do not occur in any of the texts.

    They are single tokens, in lower case, and neither as words nor as tokens in a text. They are
    drawn from the 256 of the highest numbers: tokenizers number what is frequent first. Where a
    vocabulary has too few, as of bytes, made-up words of several tokens take their place.

    Args:
        tokenizer: a transformers tokenizer.
        texts: all texts that words may be planted into, and what stands beside these.
        n_words: how many.
        seed: of the draw.

    Raises:
        ValueError: if there are too few, as everything else is an unknown token.
    """
    texts = list(texts)
    ids = tokenize(tokenizer, texts, add_special_tokens=False, truncation=False, verbose=False)
    known_ids = set(itertools.chain.from_iterable(ids["input_ids"]))
    known_words = {word for text in texts for word in WORD.findall(text.casefold())}
    candidates = list(
        itertools.islice(_single_tokens(tokenizer, known_ids, known_words), N_CANDIDATES)
    )
    if len(candidates) < n_words:
        candidates = list(itertools.islice(_made_up(tokenizer, known_words), n_words))
    if len(candidates) < n_words:
        raise ValueError(
            f"the tokenizer knows {len(candidates)} words that the texts lack, and planting takes "
            f"{n_words}: pass fewer texts, or a model with a larger vocabulary"
        )
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    return [candidates[number] for number in order[:n_words].tolist()]


def _single_tokens(tokenizer: Any, ids: set[int], words: set[str]) -> Iterator[str]:
    """Yield words of one token that are neither among the ids nor the words, rare ones first."""
    avoided = {*ids, *tokenizer.all_special_ids}
    for number in sorted(tokenizer.get_vocab().values(), reverse=True):
        if number in avoided:
            continue
        word = decode(tokenizer, [number]).strip()
        if _is_plain(word) and word not in words and _ids_within(tokenizer, word) == [number]:
            yield word


def _made_up(tokenizer: Any, words: set[str]) -> Iterator[str]:
    """Yield words that nobody uses, of which the tokenizer knows all pieces."""
    for letters in itertools.product("zqxjkv", "aeiou", "zqxjkv"):
        word = "".join(letters)
        ids = _ids_within(tokenizer, word)
        if word not in words and ids and tokenizer.unk_token_id not in ids:
            yield word


def _is_plain(word: str) -> bool:
    return len(word) in LENGTHS and all(letter in string.ascii_lowercase for letter in word)


def _ids_within(tokenizer: Any, word: str) -> list[int]:
    """Return the ids of a word that follows another one."""
    before, both = tokenize(tokenizer, [".", f". {word}"], add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    return both[len(before) :] if both[: len(before)] == before else []

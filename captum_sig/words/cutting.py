"""Cut texts that are far longer than a model reads, before they are tokenised as a whole."""

from __future__ import annotations

from typing import Any

from captum_sig.words.tokenize import tokenize

SPARE_TOKENS = 128  # beyond the limit: a cut changes only the last word, of at most 100 pieces
CHARACTERS_PER_TOKEN = 16  # a text that has fewer is not looked at


def readable_part(tokenizer: Any, text: str, limit: int) -> str:
    """Return a beginning of the text whose first `limit` tokens are those of the whole text.

    It is the text itself if that has few characters, or at most `limit` tokens: then it may have
    any length, as tokenizers drop spaces and make one unknown token of a long word. Otherwise it
    has `SPARE_TOKENS` tokens more than the limit.
    """
    n_tokens = limit + SPARE_TOKENS
    n_characters = CHARACTERS_PER_TOKEN * n_tokens
    while n_characters < len(text):
        part = text[:n_characters]
        encoding = tokenize(tokenizer, part, truncation=False, verbose=False)
        if len(encoding["input_ids"]) >= n_tokens:
            return part
        n_characters *= 4
    return text

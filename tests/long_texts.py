"""Texts of many words, and what tiny models need to read them."""

import random
from typing import Any

from tests.tiny_models import WORDS

LENGTH = 400  # positions
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "vocab_size": 64, "max_position_embeddings": LENGTH}  # fmt: skip


def long(tokenizer: Any) -> Any:
    """Let a tokenizer read long texts."""
    tokenizer.model_max_length = LENGTH
    return tokenizer


def text_of(n_lines: int, n_words: int, seed: int) -> str:
    """Lines of words, which are paragraphs."""
    draw = random.Random(seed)
    return "\n".join(" ".join(draw.choices(WORDS[:9], k=n_words)) for _ in range(n_lines))

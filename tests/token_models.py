"""Random models with an output for every token, and their own kinds of tokenizers: no download."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn

from tests.tiny_models import CORPUS, PIECES, SHAPE, SPECIALS, WORDS, spread, wordpiece_tokenizer

CONFIGS = {"bert": "BertConfig", "roberta": "RobertaConfig", "deberta-v2": "DebertaV2Config"}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
TEXTS = ["a gorgeous mess!", "bad", "the movie is not unbelievable, not good", "bad movies, mess"]


def roberta_tokenizer() -> Any:
    """RoBERTa's: byte-level BPE, <s> … </s>, and a mask that takes the space before it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"], special_tokens=specials, min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator([f" {word}" for word in WORDS] + CORPUS, trainer)
    trained = json.loads(bpe.to_str())["model"]
    return transformers.RobertaTokenizer(
        vocab=trained["vocab"], merges=[tuple(pair) for pair in trained["merges"]],
        mask_token=AddedToken("<mask>", lstrip=True), model_max_length=40,
    )  # fmt: skip


def deberta_tokenizer() -> Any:
    """DeBERTa-v2's: unigrams with ▁ at spaces, [CLS] … [SEP]."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [f"▁{word}" for word in WORDS]
    pieces += [piece.removeprefix("##") for piece in PIECES] + [*letters, "▁", "?", "(", ")", "T"]
    scores = [(piece, -1.0 - len(pieces) / 100 * (len(piece) == 1)) for piece in pieces]
    vocabulary = [(special, 0.0) for special in SPECIALS] + list(dict(scores).items())
    return transformers.DebertaV2Tokenizer(vocab=vocabulary, model_max_length=40)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert": wordpiece_tokenizer,
    "roberta": roberta_tokenizer,
    "deberta-v2": deberta_tokenizer,
}


def with_head(architecture: str, auto_class: str, **changes: Any) -> nn.Module:
    """A random float64 model whose words matter."""
    tokenizer = TOKENIZERS[architecture]()
    shape = {**SHAPE, "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 48}
    if architecture == "deberta-v2":
        shape |= DEBERTA
    config = getattr(transformers, CONFIGS[architecture])(**shape, **changes)
    return spread(getattr(transformers, auto_class).from_config(config))


def positions_of(tokenizer: Any, text: str, start: int, end: int) -> list[int]:
    """The tokens that show any of these characters."""
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    found = []
    for position, (first, last) in enumerate(offsets):
        first += len(text[first:last]) - len(text[first:last].lstrip())
        if start < last and first < end and first < last:
            found.append(position)
    return found


def plain_loop(
    model: nn.Module, tokenizer: Any, text: str, words: Sequence[Any], f: Callable[[Tensor], Tensor]
) -> Tensor:
    """F(x) − F(x without a word), one pass of ids a word: (T, W).

    Args:
        model: a model with logits for each token.
        tokenizer: its tokenizer.
        text: the text.
        words: with `start` and `end`.
        f: logits (L, C) → F, (T,).
    """
    encoding = tokenizer(text, return_tensors="pt")

    def value(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return f(model(**{**encoding, "input_ids": ids}).logits[0])

    ids = encoding["input_ids"]
    columns = []
    for word in words:
        replaced = ids.clone()
        at = positions_of(tokenizer, text, word.start, word.end)
        replaced[0, at] = tokenizer.mask_token_id
        columns.append(value(ids) - value(replaced))
    return torch.stack(columns, 1)


FRAGMENTS = [
    *("the", "movie", "movies", "Good", "unbelievable", "bady", "gorgeous", "xyzzy", "n't", "a-b"),
    *("é", "e\u0301", ".", ",", "!", "(bad)", "😀", "👩\u200d🚀", "[SEP]", "  ", "日本", "\n"),
]


def random_text(generator: random.Random) -> str:
    """A text of up to eight fragments: sub-words, unknown words, marks, emoji, double spaces."""
    fragments = generator.choices(FRAGMENTS, k=generator.randint(1, 8))
    return generator.choice([" ", " ", ""]).join(fragments)

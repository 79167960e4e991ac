"""Random models that read pairs of texts, with local tokenizers of their kinds."""

import re
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tests import oracle
from tests.tiny_models import CLS, PIECES, SEP, SHAPE, SPECIALS, WORDS, SlowTokenizer, spread

MORE = ["who", "made", "it", "this", "example", "sport", "music", "?", "##er", "é", "😀", "c", "f"]
LIMIT = 40
KINDS = ("bert", "roberta", "deberta-v2")


def _fast(tokenizer: Tokenizer, names: list[str], **changes: Any) -> PreTrainedTokenizerFast:
    begin, end, pad, unk, mask = names
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=begin, sep_token=end, pad_token=pad, unk_token=unk,
        mask_token=mask, model_max_length=LIMIT, **changes,
    )  # fmt: skip


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: [CLS] A [SEP] B [SEP], with token types."""
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, *PIECES, *MORE])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    names = ["token_type_ids", "input_ids", "attention_mask"]
    return _fast(tokenizer, ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"], model_input_names=names)


def byte_level() -> PreTrainedTokenizerFast:
    """RoBERTa's: <s> A </s></s> B </s>, no token types."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces += [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġm", "Ġmo", "ov", "ie", "oo", "Ġg"]
    merges = [("Ġ", "m"), ("Ġm", "o"), ("o", "v"), ("i", "e"), ("o", "o"), ("Ġ", "g")]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer, ["<s>", "</s>", "<pad>", "<unk>", "<mask>"],
                 model_input_names=["input_ids", "attention_mask"])  # fmt: skip


def unigram() -> PreTrainedTokenizerFast:
    """DeBERTa-v2's: ▁ marks a space before, [CLS] A [SEP] B [SEP], with token types."""
    pieces = [*SPECIALS, "▁", *(f"▁{word}" for word in (*WORDS, *MORE)), "s", "ing", "able"]
    pieces += [*"abcdefghijklmnopqrstuvwxyz.,!?'é😀"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], 1))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )  # fmt: skip
    tokenizer.decoder = decoders.Metaspace()
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return _fast(tokenizer, ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"], model_input_names=names)


TOKENIZERS = {"bert": wordpiece, "roberta": byte_level, "deberta-v2": unigram}
CONFIGS = {
    "bert": {},
    "roberta": {"pad_token_id": 1, "max_position_embeddings": LIMIT + 2, "type_vocab_size": 1},
    "deberta-v2": {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
        "type_vocab_size": 2,
    },
}  # fmt: skip
PREFIX = {"bert": "Bert", "roberta": "Roberta", "deberta-v2": "DebertaV2"}


def pair_model(kind: str, head: str, **changes: Any) -> nn.Module:
    """A float64 model of a kind, such as "bert", with a head, such as "ForQuestionAnswering"."""
    prefix = PREFIX[kind]
    config = getattr(transformers, f"{prefix}Config")(**{**SHAPE, **CONFIGS[kind], **changes})
    model = spread(getattr(transformers, f"{prefix}{head}")(config))
    nn.init.normal_(model.get_input_embeddings().weight)
    return model.double()


class SlowPairTokenizer(SlowTokenizer):
    """A tokenizer in plain Python that reads pairs: [CLS] A [SEP] B [SEP], no token types."""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        second = [] if token_ids_1 is None else [*token_ids_1, SEP]
        return [CLS, *token_ids_0, SEP, *second]


# Words as each kind of tokenizer splits them.
SPLITS = {"bert": r"\w+|[^\w\s]", "roberta": r"\w+|[^\w\s]+", "deberta-v2": r"\S+"}


def word_tokens(tokenizer: Any, kind: str, pair: tuple[str, str]) -> list[list[list[int]]]:
    """The positions of each word of both texts, by the characters that tokens show."""
    encoding = tokenizer(*pair, return_offsets_mapping=True)
    sides = encoding.sequence_ids()
    found = []
    for side, text in enumerate(pair):
        places = [
            (position, *_bare(text, start, end))
            for position, (start, end) in enumerate(encoding["offset_mapping"])
            if sides[position] == side
        ]
        words = [match.span() for match in re.finditer(SPLITS[kind], text)]
        found.append(
            [
                [position for position, start, end in places if start < last and end > first]
                for first, last in words
            ]
        )
    return found


def _bare(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's characters without the space before; a space alone belongs to what follows."""
    start += len(text[start:end]) - len(text[start:end].lstrip())
    return (start, end) if start < end else (end, end + 1)


def plain_loop(
    model: nn.Module,
    tokenizer: Any,
    pair: tuple[str, str],
    words: list[list[int]],
    values: Callable[[Any], Tensor],  # the model's output for one pair → (T,)
    kept: bool = True,  # whether other words are at the input
) -> Tensor:
    """What F loses when a word's ids are masked, one pass a word: (T, W)."""
    encoding = tokenizer(*pair, return_tensors="pt")
    ids = encoding.pop("input_ids")
    masked = torch.full_like(ids, tokenizer.mask_token_id)

    def f(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return values(model(ids, **encoding))

    columns = []
    for number, word in enumerate(words):
        at = oracle.in_background(ids, masked, words, [kept] * len(words), number)
        columns.append(f(at) - f(oracle.at_baseline(at, masked, word)))
    return torch.stack(columns, 1)

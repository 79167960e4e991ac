"""Local tokenizers that put two texts together as those of known models do."""

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import (
    CLS,
    SEP,
    SlowTokenizer,
    byte_level_tokenizer,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)

WITH_TYPES = ["input_ids", "token_type_ids", "attention_mask"]


def berts() -> PreTrainedTokenizerFast:
    """[CLS] A [SEP] B [SEP], with token types."""
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    tokenizer.model_input_names = WITH_TYPES
    return tokenizer


def robertas() -> PreTrainedTokenizerFast:
    """<s> A </s></s> B </s> of WordPieces, so that tiny models know the ids."""
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    return tokenizer


def robertas_bytes() -> PreTrainedTokenizerFast:
    """The same of bytes, whose offsets leave out the space before a word."""
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens(
        {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    )
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("</s>", "<s>")]
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        *ids, trim_offsets=True, add_prefix_space=False
    )
    tokenizer.model_max_length = 128
    return tokenizer


def debertas() -> PreTrainedTokenizerFast:
    """Sentencepiece with ▁ before each word: [CLS] A [SEP] B [SEP]."""
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "▁", "▁the", "▁good", "▁mov", "ie"]
    pieces += ["s", "g", "o", "d", "b", "a", "c", "f", "e", "\u0301", "t", "r", "."]
    tokenizer = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], 3))
    tokenizer.normalizer = normalizers.Replace("\t", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=40,
        model_input_names=WITH_TYPES,
    )


def llamas() -> PreTrainedTokenizerFast:
    """<s> A <s> B, not split into words first."""
    tokenizer = unsplit_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.model_max_length = 40
    return tokenizer


class SlowPairs(SlowTokenizer):
    """[CLS] A [SEP] B [SEP] in plain Python."""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """As BERT's."""
        second = [] if token_ids_1 is None else [*token_ids_1, SEP]
        return [CLS, *token_ids_0, SEP, *second]


class SlowTogether(SlowTokenizer):
    """A and B with nothing between them, in plain Python."""

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """As GPT-2's."""
        return [*token_ids_0, *(token_ids_1 or [])]


FAST = {
    "bert": berts,
    "roberta": robertas,
    "roberta-bytes": robertas_bytes,
    "deberta-v2": debertas,
    "gpt2": byte_level_tokenizer,
    "llama": llamas,
}
SLOW = {"slow": SlowPairs, "slow-together": SlowTogether}

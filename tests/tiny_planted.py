"""A tiny BERT whose vocabulary has words that its texts lack, and labelled texts for it."""

import itertools
from random import Random

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from captum_sig import TextClassificationExplainer
from captum_sig.data.records import Record
from tests.tiny_models import CLS, MASK, PAD, SEP, SPECIALS, UNK

GOOD, BAD, EVEN = ["good", "fine", "warm"], ["bad", "dull", "cold"], ["plain", "usual", "calm"]
OTHERS = ["the", "film", "was", "and", "one", "day", "we", "saw", "it", "in", "a", "town"]
RARE = "".join(f"{a}{b}{a} " for a, b in itertools.product("zqxk", "aeio")).split()
VOCABULARY = [*SPECIALS, *GOOD, *BAD, *EVEN, *OTHERS, *RARE]


def tokenizer(limit: int = 32) -> PreTrainedTokenizerFast:
    """Words in lower case between [CLS] and [SEP]; the rare ones have the highest numbers."""
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, "[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )  # fmt: skip
    roles = {"pad": PAD, "unk": UNK, "cls": CLS, "sep": SEP, "mask": MASK}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, model_max_length=limit,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{role}_token": SPECIALS[number] for role, number in roles.items()},
    )  # fmt: skip


def model(n_labels: int = 2, **changes: object) -> transformers.BertForSequenceClassification:
    """One layer, random weights, the same every time."""
    names = ("NEGATIVE", "POSITIVE", "NEUTRAL")[:n_labels]
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=40, id2label=dict(enumerate(names)),
        **changes,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config).eval()


def explainer(n_labels: int = 2, **changes: object) -> TextClassificationExplainer:
    """Of the tiny model, at the level of tokens."""
    return TextClassificationExplainer(model(n_labels, **changes), tokenizer(), level="token")


def records(n: int = 160, n_labels: int = 2) -> list[Record]:
    """Texts of six words, one of which tells the label."""
    rng = Random(0)
    made = []
    for _ in range(n):
        label = rng.randrange(n_labels)
        words = [*rng.choices(OTHERS, k=5), rng.choice((BAD, GOOD, EVEN)[label])]
        rng.shuffle(words)
        made.append(Record(" ".join(words), str(label)))
    return made

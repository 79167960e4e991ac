"""Small random models of several tasks, and a tokenizer for pairs of texts."""

import transformers
from tokenizers import processors
from torch import nn

from tests.tiny_models import CLS, SEP, SHAPE, bert, spread, wordpiece_tokenizer

LABELS = [f"emotion {number}" for number in range(28)]


def pair_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """BERT's kind, which tells the texts of a pair apart: [CLS] … [SEP] … [SEP] with types 0, 1."""
    tokenizer = wordpiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def multi_label(n_labels: int = 28) -> nn.Module:
    """A BERT classifier whose labels exclude nothing."""
    config = transformers.BertConfig(
        **SHAPE, id2label=dict(enumerate(LABELS[:n_labels])),
        problem_type="multi_label_classification",
    )  # fmt: skip
    return spread(transformers.BertForSequenceClassification(config))


def regression() -> nn.Module:
    """A BERT that predicts a value."""
    config = transformers.BertConfig(**SHAPE, num_labels=1)
    return spread(transformers.BertForSequenceClassification(config))


__all__ = ["LABELS", "bert", "multi_label", "pair_tokenizer", "regression"]

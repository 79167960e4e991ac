"""What is explained: a model, sentences as ids, their baselines and targets."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig import baselines

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 128, "vocab_size": 1000},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                  "intermediate_size": 3072, "vocab_size": 30522},
    "llama-1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 32000},
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A classifier and what to ask it."""

    model: nn.Module
    sentences: list[Tensor]  # (1, L) each
    base: Callable[[Tensor], Tensor]  # ids → baseline ids

    @property
    def embedding(self) -> nn.Module:
        """Where words enter."""
        return self.model.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.embedding.weight.device

    def logits(self, ids: Tensor) -> Tensor:
        """(B, L) ids → (B, C)."""
        return self.model(input_ids=ids).logits

    def logits_of_embeddings(self, rows: Tensor) -> Tensor:
        """(B, L, D) word embeddings → (B, C)."""
        return self.model(inputs_embeds=rows).logits

    def target(self, ids: Tensor) -> int:
        """The predicted class."""
        with torch.no_grad():
            return int(self.model(input_ids=ids).logits[0].argmax())

    def long(self, length: int) -> Tensor:
        """(1, length) ids: one sentence after the other."""
        words = torch.cat([ids[:, 1:-1] for ids in self.sentences], dim=1)
        words = words.repeat(1, 1 + length // words.shape[1])[:, : length - 2]
        return torch.cat([self.sentences[0][:, :1], words, self.sentences[0][:, -1:]], dim=1)


def from_folder(
    folder: Path, data: Path, count: int, seed: int, device: str, dtype: torch.dtype, compiled: bool
) -> Subject:
    """A fine-tuned classifier, and sentences of a TSV file with a column `sentence`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with data.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
    texts = [rows[i]["sentence"] for i in order]
    ids = [tokenizer(text, return_tensors="pt")["input_ids"].to(device) for text in texts]
    return Subject(_ready(model, device, compiled), ids, lambda ids: baselines.mask(tokenizer, ids))


def of_shape(
    name: str, count: int, seed: int, device: str, dtype: torch.dtype, compiled: bool
) -> Subject:
    """Random weights and random sentences of 10 to 40 tokens."""
    from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig

    kind = LlamaConfig if "num_key_value_heads" in SHAPES[name] else BertConfig
    config = kind(**SHAPES[name], num_labels=2, pad_token_id=0, initializer_range=0.05, dtype=dtype)
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForSequenceClassification.from_config(config)
    numbers = torch.Generator().manual_seed(seed)
    sentences = []
    for _ in range(count):
        length = int(torch.randint(10, 41, (), generator=numbers))
        ids = torch.randint(10, config.vocab_size, (1, length), generator=numbers)
        ids[:, 0], ids[:, -1] = 1, 2
        sentences.append(ids.to(device))
    special = torch.tensor([0, 1, 2])

    def base(ids: Tensor) -> Tensor:
        return torch.where(torch.isin(ids, special.to(ids.device)), ids, 3)

    return Subject(_ready(model, device, compiled), sentences, base)


def _ready(model: nn.Module, device: str, compiled: bool) -> nn.Module:
    """The model, if wished with its repeated blocks compiled: hooks see what is around them."""
    if compiled:
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        for block in max(lists, key=len):
            block.compile(dynamic=True)
    return model.eval().to(device)

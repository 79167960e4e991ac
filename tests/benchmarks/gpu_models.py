"""Models of real shapes with random weights for `gpu`, and what a row costs them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

UNKNOWN, PADDING, MASK, FILLER = range(4)  # ids of a number tokenizer; the others are words


@dataclass(frozen=True)
class Shape:
    """An architecture, and where its weights come from."""

    name: str
    config: transformers.PreTrainedConfig
    folder: Path | None = None  # None draws random ones

    @property
    def generates(self) -> bool:
        """Whether it is a language model, else a classifier."""
        return isinstance(self.config, transformers.LlamaConfig) or any(
            "LM" in name for name in self.config.architectures or ()
        )

    @property
    def _auto_class(self) -> Any:
        return (
            transformers.AutoModelForCausalLM
            if self.generates
            else transformers.AutoModelForSequenceClassification
        )

    @functools.cached_property
    def parameters(self) -> int:
        """In the matrices that every token meets, without embeddings."""
        with torch.device("meta"):
            model = self._auto_class.from_config(self.config)
        apart = {model.get_input_embeddings(), model.get_output_embeddings()}
        linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m not in apart)
        return sum(module.weight.numel() for module in linear)

    def flops(self, rows: float, length: int, targets: int = 0) -> float:
        """Of forward passes over so many rows: matrices, attention, logits of the targets."""
        c = self.config
        attention = 4 * c.num_hidden_layers * length * c.hidden_size
        logits = 2 * targets * c.hidden_size * c.vocab_size
        return rows * (length * (2 * self.parameters + attention) + logits)

    def build(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The model, in eval mode."""
        if self.folder is not None:
            model = self._auto_class.from_pretrained(
                self.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
            return model.to(device).eval()
        torch.manual_seed(0)
        with torch.device(device):
            return self._auto_class.from_config(self.config, dtype=dtype).eval()


def bert(name: str, width: int, layers: int, vocabulary: int = 30522) -> Shape:
    """BERT with heads of 64 and up to 512 tokens."""
    config = transformers.BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width, vocab_size=vocabulary, initializer_range=0.05,
        pad_token_id=PADDING,
    )  # fmt: skip
    return Shape(name, config)


def llama(
    name: str, width: int, layers: int, heads: int, inner: int, tied: bool, vocabulary: int = 128256
) -> Shape:
    """Llama 3 with a quarter as many key-value heads, or eight."""
    config = transformers.LlamaConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=min(8, max(1, heads // 4)), intermediate_size=inner,
        vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=8192,
        pad_token_id=PADDING, rope_theta=500_000.0,
    )  # fmt: skip
    return Shape(name, config)


CLASSIFIERS = (bert("BERT-base", 768, 12), bert("BERT-large", 1024, 24))
GENERATORS = (
    llama("Llama-3.2-1B", 2048, 16, 32, 8192, tied=True),
    llama("Llama-3.1-8B", 4096, 32, 32, 14336, tied=False),
)
TINY_CLASSIFIERS = (bert("tiny BERT", 64, 2, vocabulary=200),)
TINY_GENERATORS = (llama("tiny Llama", 64, 2, 4, 96, tied=True, vocabulary=200),)


def of_folder(path: Path) -> Shape:
    """A model of the user's."""
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    return Shape(path.name, config, path)


def number_tokenizer(size: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the numbers from `FILLER` to `size`, and three special ones."""
    special = {"<unk>": UNKNOWN, "<pad>": PADDING, "<mask>": MASK}
    vocabulary = special | {str(number): number for number in range(FILLER, size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", mask_token="<mask>"
    )


def as_text(ids: Sequence[int] | Tensor) -> str:
    """What a number tokenizer reads as these ids."""
    return " ".join(map(str, ids.tolist() if isinstance(ids, Tensor) else ids))


def draw(*shape: int, below: int) -> Tensor:
    """Random ids of words, the same every time."""
    return torch.randint(
        FILLER + 1, below, shape, generator=torch.Generator().manual_seed(sum(shape))
    )

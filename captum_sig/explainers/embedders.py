"""Models that turn a text into one vector, as functions of its token ids.

These are encoders of transformers with a pooling, and the models of sentence-transformers, with all
their modules.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from captum_sig._names import unknown_name
from captum_sig.attr.function import at_least_float32
from captum_sig.words.tokenize import tokenize

Pooling = Literal["mean", "cls"]
PROMPT_LENGTH = "prompt_length"  # as sentence-transformers calls a prompt's number of tokens


class PooledEncoder(nn.Module):
    """An encoder of transformers whose output is pooled over a text's tokens: (R, L) → (R, D).

    Args:
        model: the encoder.
        pooling: "mean" over the tokens that the attention mask keeps, or "cls", the first of them.
    """

    def __init__(self, model: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(unknown_name("pooling", pooling, get_args(Pooling)))
        self.encoder, self.pooling = model, pooling
        self.config = model.config

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        return self.encoder.get_input_embeddings()  # type: ignore[operator]

    def get_decoder(self) -> nn.Module:
        """The decoder that reads a text beside the encoder."""
        return self.encoder.get_decoder()  # type: ignore[operator]

    def forward(self, input_ids: Tensor, **others: Tensor) -> Tensor:
        """Encode rows of ids, (R, L), and pool: (R, D).

        Raises:
            TypeError: if the model does not return a vector for each token.
        """
        output = self.encoder(input_ids=input_ids, **others)
        hidden = getattr(output, "last_hidden_state", None)
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != input_ids.shape:
            raise TypeError(
                f"{type(self.encoder).__name__} returns no last_hidden_state (texts, tokens, "
                "features): load the model with transformers.AutoModel"
            )
        mask = others.get("attention_mask", torch.ones_like(input_ids)) != 0
        if self.pooling == "cls":
            return hidden[torch.arange(len(hidden), device=hidden.device), mask.int().argmax(1)]
        hidden = hidden.to(at_least_float32(hidden.dtype))
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class SentenceEmbedder(nn.Module):
    """A `sentence_transformers.SentenceTransformer`, with all its modules: (R, L) → (R, D).

    Args:
        model: the model, which embeds texts with one encoder of transformers.

    Raises:
        TypeError: if it has none, or several.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        encoder: Any = getattr(model[0], "auto_model", None)
        if not hasattr(encoder, "get_input_embeddings") or not hasattr(model, "tokenizer"):
            raise TypeError(
                f"the first module of the model is {type(model[0]).__name__}, which has no word "
                "embedding of transformers to move: wanted a model that begins with a Transformer"
            )
        self.sentence_transformer, self.encoder = model, encoder
        self.config = encoder.config

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        return self.encoder.get_input_embeddings()

    def get_decoder(self) -> nn.Module:
        """The decoder that reads a text beside the encoder."""
        return self.encoder.get_decoder()

    def prompt(self, name: str | None = None) -> str:
        """Return the prompt that the model puts before a text: of this name, or its default."""
        prompts = self.sentence_transformer.prompts
        if name is None or name not in prompts:
            name = self.sentence_transformer.default_prompt_name
        return prompts.get(name) or ""

    def extras(self, prompt: str) -> dict[str, Tensor]:
        """Return what the modules want to know of a text besides its tokens.

        A pooling that leaves out the prompt wants its length, without a special token at the end.
        """
        leaves_out = (
            getattr(module, "include_prompt", True) is False
            for module in self.sentence_transformer.modules()
        )
        if not prompt or not any(leaves_out):
            return {}
        tokenizer = self.sentence_transformer.tokenizer
        ids = tokenize(tokenizer, prompt)["input_ids"]
        return {PROMPT_LENGTH: torch.tensor(len(ids) - (ids[-1] in tokenizer.all_special_ids))}

    def forward(self, **features: Tensor) -> Tensor:
        """Embed rows of ids, (R, L): (R, D)."""
        embedding = self.sentence_transformer(dict(features))["sentence_embedding"]
        return embedding[:, : self.sentence_transformer.truncate_dim]


def is_sentence_transformer(model: Any) -> bool:
    """Whether this is a model of sentence-transformers, which is not imported for that."""
    library = sys.modules.get("sentence_transformers")
    return library is not None and isinstance(model, library.SentenceTransformer)

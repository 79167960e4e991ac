"""Baselines from the word embedding: a vector that is no word, or another word by its distance.

After Sturmfels, Lundberg & Lee, Visualizing the Impact of Feature Attribution Baselines, Distill
2020, where words are pixels and neighbours are colours.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from captum_sig.attr.function import model_lock
from captum_sig.attr.neighbors import nearest_neighbors, vocabulary
from captum_sig.words.grouping import ordinary_tokens, special_ids, word_positions, words_by_text


def zero(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    embedding: nn.Module,
) -> Tensor:
    """The zero vector for every word, special tokens and padding as they are; (B, L, D).

    Args:
        tokenizer: a transformers tokenizer.
        input_ids: token ids with special tokens and padding.
        attention_mask: 0 where padding stands; needed only if padding has no id of its own.
        embedding: the model's word embedding.

    Raises:
        ValueError: if `embedding` is no nn.Embedding.
    """
    check_embedding(tokenizer, embedding=embedding)
    words = word_positions(tokenizer, input_ids, attention_mask)
    return _embedded(embedding, input_ids).masked_fill(words[..., None], 0)


def mean(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    embedding: nn.Module,
) -> Tensor:
    """The vocabulary's mean vector for every word; (B, L, D).

    The mean is over what can stand at a word's position: special tokens and rows of the embedding
    that belong to no token are left out. Special tokens and padding stay as they are.

    Args:
        tokenizer: a transformers tokenizer.
        input_ids: token ids with special tokens and padding.
        attention_mask: 0 where padding stands; needed only if padding has no id of its own.
        embedding: the model's word embedding.

    Raises:
        ValueError: if `embedding` is no nn.Embedding.
    """
    check_embedding(tokenizer, embedding=embedding)

    def compute() -> Tensor:  # (D,)
        vectors = vocabulary(embedding)
        return vectors[ordinary_tokens(tokenizer, len(vectors)).to(vectors.device)].mean(0)

    words = word_positions(tokenizer, input_ids, attention_mask)
    vectors = _embedded(embedding, input_ids)
    average = _remembered(tokenizer, embedding, "mean", compute).to(vectors.device)
    return torch.where(words[..., None], average, vectors)


def max_distance(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    embedding: nn.Module,
    n_neighbors: int = 500,
    cache_dir: Path | None = None,
) -> Tensor:
    """The farthest of each token's nearest neighbours in the embedding; ids (B, L).

    Another word, but one from the region where words lie. Every word moves. The neighbours are
    looked up once for the embedding's present weights.

    Args:
        tokenizer: a transformers tokenizer.
        input_ids: token ids with special tokens and padding, which stay.
        attention_mask: 0 where padding stands; needed only if padding has no id of its own.
        embedding: the model's word embedding.
        n_neighbors: how many neighbours each token has, special tokens not counted; all others if
            the vocabulary has fewer.
        cache_dir: as in `captum_sig.attr.neighbors.nearest_neighbors`.

    Raises:
        ValueError: if `embedding` is no nn.Embedding, there is no neighbour, or a word's id is no
            token of the tokenizer.
    """
    neighbors = _neighbors(tokenizer, embedding, n_neighbors, cache_dir)
    words = word_positions(tokenizer, input_ids, attention_mask)
    found = input_ids.clone()
    found[words] = neighbors.of(input_ids[words])[:, -1]
    return found


def uniform(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    embedding: nn.Module,
    generator: torch.Generator | None = None,
    n_neighbors: int = 500,
    cache_dir: Path | None = None,
) -> Tensor:
    """One of each token's nearest neighbours in the embedding, all as probable; ids (B, L).

    Args:
        tokenizer: a transformers tokenizer.
        input_ids: token ids with special tokens and padding, which stay.
        attention_mask: 0 where padding stands; needed only if padding has no id of its own.
        embedding: the model's word embedding.
        generator: on the CPU, drawn from once for each word, text by text; None is torch's own.
        n_neighbors: as in `max_distance`.
        cache_dir: as in `captum_sig.attr.neighbors.nearest_neighbors`.

    Raises:
        ValueError: as in `max_distance`, or if the ids are not (B, L).
    """
    neighbors = _neighbors(tokenizer, embedding, n_neighbors, cache_dir)
    found = input_ids.clone()
    for number, positions in words_by_text(tokenizer, input_ids, attention_mask):
        near = neighbors.of(input_ids[number, positions])
        drawn = torch.randint(near.shape[1], (len(positions), 1), generator=generator)
        found[number, positions] = near.gather(1, drawn.to(near.device))[:, 0]
    return found


def check_embedding(tokenizer: Any, *, embedding: nn.Module) -> None:
    """Refuse what is no nn.Embedding.

    Raises:
        ValueError: if `embedding` is something else.
    """
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"embedding is {type(embedding).__name__}; wanted the model's word embedding, an "
            "nn.Embedding: pass model.get_input_embeddings() or use another baseline"
        )


def _embedded(embedding: Any, input_ids: Tensor) -> Tensor:
    """(B, L) → (B, L, D) on the ids' device; no gradient flows through it."""
    with model_lock, torch.inference_mode(False), torch.no_grad():
        return embedding(input_ids.to(embedding.weight.device)).to(input_ids.device)


@dataclass(frozen=True)
class _Neighbors:
    """What stands near each token that is no special one."""

    tokens: Tensor  # (N,) ids, ascending
    near: Tensor  # (N, n) places in `tokens`, nearest first

    def of(self, ids: Tensor) -> Tensor:
        """(W,) ids → (W, n) ids, nearest first."""
        words = ids.to(self.tokens.device, torch.long)
        strange = words[~torch.isin(words, self.tokens)]
        if len(strange):
            raise ValueError(
                f"id {int(strange[0])} is no token of the tokenizer that the embedding knows: "
                "pass the tokenizer that made the ids"
            )
        return self.tokens[self.near[torch.searchsorted(self.tokens, words)]].to(ids)


def _neighbors(
    tokenizer: Any, embedding: nn.Module, n_neighbors: int, cache_dir: Path | None
) -> _Neighbors:
    check_embedding(tokenizer, embedding=embedding)

    def compute() -> _Neighbors:
        vectors = vocabulary(embedding)
        tokens = ordinary_tokens(tokenizer, len(vectors)).to(vectors.device)
        n = min(n_neighbors, len(tokens) - 1)
        if n < 1:
            raise ValueError(
                f"n_neighbors is {n_neighbors}, of {len(tokens)} tokens that are no special ones; "
                "wanted at least 1 neighbour of 2 tokens"
            )
        return _Neighbors(tokens, nearest_neighbors(vectors[tokens], n, cache_dir))

    return _remembered(tokenizer, embedding, n_neighbors, compute)


# For each embedding: its weight (alive, so that no other takes its address), the state that it was
# in, and what was computed from it.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[Tensor, tuple[int, int], dict[Hashable, Any]]]
_KNOWN = WeakKeyDictionary()


def _remembered(
    tokenizer: Any, embedding: nn.Module, what: Hashable, compute: Callable[[], Any]
) -> Any:
    """What `compute` gives, once for a tokenizer's tokens and an embedding's weights.

    Neighbours take longer than explaining a text. Training, loading and moving a model are seen by
    the weight's version and address; only edits through `weight.data` are not.
    """
    weight: Any = embedding.weight
    state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    _, then, results = _KNOWN.get(embedding, (None, None, {}))
    if then != state:
        results = {}
        _KNOWN[embedding] = weight, state, results
    key = (what, len(tokenizer), frozenset(special_ids(tokenizer)))
    if key not in results:
        with torch.inference_mode(False), torch.no_grad():
            results[key] = compute()
    return results[key]

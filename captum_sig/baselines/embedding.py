"""Baselines from the word embedding: a vector that is not a word, or another word by distance.

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

from captum_sig.attr.neighbors import nearest_neighbors, vocabulary
from captum_sig.words.grouping import ordinary_tokens, special_ids, word_positions, words_by_text


def zero(
    tokenizer: Any,
    input_ids: Tensor,  # (B, L)
    attention_mask: Tensor | None = None,  # (B, L)
    *,
    embedding: nn.Module,
) -> Tensor:
    """Replace every word with the zero vector; (B, L, D).

    Raises:
        ValueError: if `embedding` is not an nn.Embedding.
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
    """Replace every word with the vocabulary's mean vector; (B, L, D).

    The mean is over the tokens that can form words: special tokens and rows of the embedding
    without a token are excluded.

    Raises:
        ValueError: if `embedding` is not an nn.Embedding.
    """
    check_embedding(tokenizer, embedding=embedding)

    def compute() -> Tensor:  # (D,)
        vectors = vocabulary(embedding)
        return vectors[ordinary_tokens(tokenizer, len(vectors)).to(vectors.device)].mean(0)

    words = word_positions(tokenizer, input_ids, attention_mask)
    vectors = _embedded(embedding, input_ids)
    average = _cached(tokenizer, embedding, "mean", compute).to(vectors.device)
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
    """Replace each token with the farthest of its nearest neighbours in the embedding; ids (B, L).

    This is another word, from the region where words lie. Every word moves. The neighbours are
    computed once for the embedding's current weights.

    Args:
        embedding: the model's word embedding.
        n_neighbors: number of neighbours of each token, without special tokens; all others if the
            vocabulary has fewer.
        cache_dir: as in `captum_sig.attr.neighbors.nearest_neighbors`.

    Raises:
        ValueError: if `embedding` is not an nn.Embedding, there is no neighbour, or a word's
            id is not a token of the tokenizer.
    """
    neighbors = _neighbors(tokenizer, embedding, n_neighbors, cache_dir)
    words = word_positions(tokenizer, input_ids, attention_mask)
    baseline = input_ids.clone()
    baseline[words] = neighbors.of(input_ids[words])[:, -1]
    return baseline


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
    """Replace each token with a random one of its nearest neighbours; ids (B, L).

    Args:
        embedding: the model's word embedding.
        generator: on the CPU, used once for each word, text by text; None is torch's own.
        n_neighbors: as in `max_distance`.
        cache_dir: as in `captum_sig.attr.neighbors.nearest_neighbors`.

    Raises:
        ValueError: as in `max_distance`, or if the ids are not (B, L).
    """
    neighbors = _neighbors(tokenizer, embedding, n_neighbors, cache_dir)
    baseline = input_ids.clone()
    for number, positions in words_by_text(tokenizer, input_ids, attention_mask):
        near = neighbors.of(input_ids[number, positions])
        draws = torch.randint(near.shape[1], (len(positions), 1), generator=generator)
        baseline[number, positions] = near.gather(1, draws.to(near.device))[:, 0]
    return baseline


def check_embedding(tokenizer: Any, *, embedding: nn.Module) -> None:
    """Check that the embedding is an nn.Embedding.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(embedding, nn.Embedding):
        raise ValueError(
            f"embedding is {type(embedding).__name__}; wanted the model's word embedding, an "
            "nn.Embedding: pass model.get_input_embeddings() or use another baseline"
        )


def _embedded(embedding: Any, input_ids: Tensor) -> Tensor:
    """Embed ids without a gradient: (B, L) → (B, L, D) on the ids' device."""
    with torch.inference_mode(False), torch.no_grad():
        return embedding(input_ids.to(embedding.weight.device)).to(input_ids.device)


@dataclass(frozen=True)
class _Neighbors:
    """The neighbours of each token that is not special."""

    tokens: Tensor  # (N,) ids, ascending
    near: Tensor  # (N, n) indices into `tokens`, nearest first

    def of(self, ids: Tensor) -> Tensor:
        """Return the neighbours of ids, (W,) → (W, n), nearest first."""
        words = ids.to(self.tokens.device, torch.long)
        unknown = words[~torch.isin(words, self.tokens)]
        if len(unknown):
            raise ValueError(
                f"id {int(unknown[0])} is not a token of the tokenizer that the embedding knows: "
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
                f"n_neighbors is {n_neighbors}, of {len(tokens)} tokens that are not special; "
                "wanted at least 1 neighbour of 2 tokens"
            )
        return _Neighbors(tokens, nearest_neighbors(vectors[tokens], n, cache_dir))

    return _cached(tokenizer, embedding, n_neighbors, compute)


# For each embedding: its weight (kept alive, so that no other takes its address), the weight's
# state, and what was computed from it.
_CACHE: WeakKeyDictionary[nn.Module, tuple[Tensor, tuple[int, int], dict[Hashable, Any]]]
_CACHE = WeakKeyDictionary()


def _cached(
    tokenizer: Any, embedding: nn.Module, what: Hashable, compute: Callable[[], Any]
) -> Any:
    """Compute something once for a tokenizer's tokens and an embedding's weights.

    Training, loading and moving a model are detected by the weight's version and address; edits
    through `weight.data` are not.
    """
    weight: Any = embedding.weight
    state = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
    _, then, results = _CACHE.get(embedding, (None, None, {}))
    if then != state:
        results = {}
        _CACHE[embedding] = weight, state, results
    key = (what, len(tokenizer), frozenset(special_ids(tokenizer)))
    if key not in results:
        with torch.inference_mode(False), torch.no_grad():
            results[key] = compute()
    return results[key]

"""Keys and values of the positions before a change, computed once and shared by all rows.

In a causal model nothing before a changed position changes. A row that changes position p needs a
pass over the positions from p on; their attention uses the input's keys and values of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


class PrefixLayer(DynamicLayer):
    """One row's keys and values (1, H, p, D), placed before those of any number of rows.

    They are expanded, and those after them are not kept, so that a pass holds one layer's at a
    time.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = self.prefix = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the prefix and the states after it, (R, H, p + q, D) each."""
        keys, values = self.prefix
        return _before(keys, key_states), _before(values, value_states)


def _before(prefix: Tensor, states: Tensor) -> Tensor:
    return torch.cat([prefix.expand(len(states), *prefix.shape[1:]), states], dim=-2)


@dataclass(frozen=True)
class SharedPrefix:
    """The keys and values of one row, by layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # (1, H, L, D) each

    def upto(self, length: int) -> Cache:
        """Return a cache that has seen the first positions."""
        cache = DynamicCache()
        cache.layers = [PrefixLayer(k[..., :length, :], v[..., :length, :]) for k, v in self.layers]
        return cache


class NoPrefixError(Exception):
    """A model has no keys and values that could be shared; the message says why."""


def shared_prefix(cache: Any, length: int) -> SharedPrefix:
    """Take the keys and values of a causal model's pass over one row of `length` positions.

    Args:
        cache: the cache in the model's output.
        length: number of positions of the row.

    Raises:
        NoPrefixError: if the model has no cache of keys and values of every position.
    """
    if type(cache) not in (Cache, DynamicCache):
        raise NoPrefixError("no cache" if cache is None else f"a {type(cache).__name__}")
    layers = []
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or layer.keys is None:
            raise NoPrefixError(f"a cache with {type(layer).__name__}")
        if layer.keys.shape[-2] != length:
            raise NoPrefixError("a sliding window shorter than the text")
        layers.append((layer.keys, layer.values))
    return SharedPrefix(tuple(layers))

"""Keys and values of the positions before a change, computed once and shared by all rows.

In a causal model nothing before a changed position changes. A row that differs from another one
from position p on needs a pass over the positions from p on; their attention uses the other row's
keys and values before. Two rows serve: the input, and the last row of the pass before. So words
that move one after the other in any background, such as the sentence of baselines, share what
stands before them, and no row is evaluated only for its keys and values.

R rows, L positions, D features, H attention heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

KeysValues = tuple[Tensor, Tensor]  # (1, H, number of positions, D / H) each


class PrefixLayer(DynamicLayer):
    """One row's keys and values (1, H, p, D), placed before those of any number of rows.

    They are expanded, and those of all rows are not kept, so that a pass holds one layer's at a
    time; the last row's are kept.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = self.prefix = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> KeysValues:
        """Return the prefix and the states after it, (R, H, p + q, D) each."""
        self.keep_last(key_states, value_states)
        keys, values = self.prefix
        return _before(keys, key_states), _before(values, value_states)

    def keep_last(self, key_states: Tensor, value_states: Tensor) -> None:
        """Keep the last row's keys and values after the prefix."""
        self._after = key_states[-1:].clone(), value_states[-1:].clone()

    @property
    def last(self) -> LayerPrefix:
        """The last row's keys and values."""
        return LayerPrefix(self.prefix, self._after)

    def require_attended(self) -> None:
        """Do nothing: the model cannot attend to other positions without these."""


def layers_that_copy(prefix: Sequence[KeysValues]) -> list[PrefixLayer]:
    """Return the layers of a cache that copies the prefix for every row."""
    return [PrefixLayer(*of_layer) for of_layer in prefix]


def _before(prefix: Tensor, states: Tensor) -> Tensor:
    return torch.cat([prefix.expand(len(states), *prefix.shape[1:]), states], dim=-2)


@dataclass(frozen=True)
class LayerPrefix:
    """One row's keys and values in one layer, in pieces that are joined where both are needed."""

    begin: KeysValues
    rest: KeysValues | None = None

    def upto(self, length: int) -> KeysValues:
        """Return those of the first positions."""
        keys, values = (
            begin[..., :length, :]
            if self.rest is None or length <= begin.shape[-2]
            else torch.cat([begin, self.rest[n][..., : length - begin.shape[-2], :]], dim=-2)
            for n, begin in enumerate(self.begin)
        )
        return keys, values


@dataclass(frozen=True)
class SharedPrefix:
    """A row, and its keys and values by layer."""

    row: Tensor  # (1, L, D)
    layers: tuple[LayerPrefix, ...]


def cache_of(layers: Sequence[PrefixLayer]) -> Cache:
    """Return a cache of these layers, as a model takes it."""
    cache = DynamicCache()
    cache.layers = [*layers]
    return cache


class Prefixes:
    """What the next pass may begin with: the input's keys and values, and the last row's.

    Args:
        of_input: the input's.
        limit: the most positions that a pass may leave out.
        worth: the number of tokens that another pass must save.
        make_layers: makes a cache's layers from the prefix's keys and values in each.
    """

    def __init__(
        self,
        of_input: SharedPrefix,
        limit: int,
        worth: int,
        make_layers: Callable[[Sequence[KeysValues]], list[PrefixLayer]] = layers_that_copy,
    ) -> None:
        self.of_input, self.of_last = of_input, of_input
        self.limit, self.worth = limit, worth
        self.make_layers = make_layers

    def split(self, rows: Tensor) -> tuple[int, int, list[PrefixLayer]]:  # (R, L, D)
        """Choose how many of the first rows to evaluate in one pass, and what it begins with.

        Returns:
            the number of rows, the number of positions that they leave out, and the layers of a
            cache that has seen these.
        """
        shared = self._shared_positions(rows)
        n_rows, length = rows.shape[:2]
        n_first = torch.arange(1, n_rows + 1, device=rows.device)
        begin = shared.cummin(1).values  # (2, R): of a pass over the rows up to each
        rest_begins = shared.flip(1).cummin(1).values.flip(1).amax(0)  # of one from each row on
        rest_begins = torch.cat([rest_begins[1:], rest_begins.new_zeros(1)])
        tokens = n_first * (length - begin.amax(0)) + (n_rows - n_first) * (length - rest_begins)
        cut = int(tokens.argmin())
        if tokens[-1] - tokens[cut] < self.worth:
            cut = n_rows - 1
        number = int(begin[:, cut].argmax())
        start = int(begin[number, cut])
        prefix = (self.of_input, self.of_last)[number]
        return cut + 1, start, self.make_layers([layer.upto(start) for layer in prefix.layers])

    def remember(self, row: Tensor, layers: Sequence[PrefixLayer]) -> None:
        """Keep the last row of a pass, (1, L, D), with its keys and values.

        Raises:
            NoPrefixError: if the pass has not attended to the prefix.
        """
        for layer in layers:
            layer.require_attended()
        self.of_last = SharedPrefix(row.clone(), tuple(layer.last for layer in layers))

    def _shared_positions(self, rows: Tensor) -> Tensor:
        """Count the first positions in which each row is the input, or the last row: (2, R).

        A row that is evaluated twice, to see whether it depends on the rows beside it, shares none
        with itself.
        """
        counts = []
        for prefix in (self.of_input, self.of_last):
            changed = (rows != prefix.row).flatten(2).any(-1)
            if prefix is not self.of_input:
                changed[~changed.any(1)] = True
            changed[:, self.limit] = True
            counts.append(changed.int().argmax(1))
        return torch.stack(counts)


class NoPrefixError(Exception):
    """A model has no keys and values that could be shared; the message says why."""


def shared_prefix(cache: Any, row: Tensor) -> SharedPrefix:
    """Take the keys and values of a causal model's pass over one row.

    Args:
        cache: the cache in the model's output.
        row: (1, L, D).

    Raises:
        NoPrefixError: if the model has no cache of keys and values of every position.
    """
    if type(cache) not in (Cache, DynamicCache):
        raise NoPrefixError("no cache" if cache is None else f"a {type(cache).__name__}")
    layers = []
    for layer in cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) or layer.keys is None:
            raise NoPrefixError(f"a cache with {type(layer).__name__}")
        if layer.keys.shape[-2] != row.shape[1]:
            raise NoPrefixError("a sliding window shorter than the text")
        layers.append(LayerPrefix((layer.keys, layer.values)))
    return SharedPrefix(row, tuple(layers))

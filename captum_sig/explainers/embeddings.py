"""Where words enter a model: its word embedding, or its encoder's and its decoder's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.function import Tensors
from captum_sig.attr.hooks import (
    Call,
    LayerOutputs,
    capture,
    embed_without_pass,
    patched,
    shift_of,
    shifted,
)
from captum_sig.explainers.models import decoder_embedding, word_embedding


@dataclass(frozen=True)
class WordEmbeddings:
    """The layers in which a word moves: one, or two in which it moves at the same time.

    A model with encoder and decoder that classifies a text reads it twice: the decoder's input is
    the encoder's, shifted by one position behind an id of its own. So a word stands in both.
    """

    layers: tuple[nn.Module, ...]
    calls: tuple[int | None, ...]  # of each layer in a pass; None for one that runs once

    @classmethod
    def of(cls, model: nn.Module, layer: nn.Module | None = None) -> WordEmbeddings:
        """Find a model's; a layer of the caller's moves alone.

        Raises:
            ValueError: if the model does not name its word embedding.
        """
        if layer is not None:
            return cls((layer,), (None,))
        first, second = word_embedding(model), decoder_embedding(model)
        if second is None:
            return cls((first,), (None,))
        is_shared = first is second  # as after `resize_token_embeddings`
        return cls((first, second), (0, 1) if is_shared else (None, None))

    @property
    def first(self) -> nn.Module:
        """The word embedding, the encoder's if there are two: all words stand in it."""
        return self.layers[0]

    @property
    def call(self) -> Call:
        """Which call of each layer is meant, as `attr.hooks` takes it."""
        return list(self.calls)

    def capture(self, forward: Callable[[Tensor], Any], ids: Tensor) -> LayerOutputs:
        """Evaluate ids once, and capture what the embeddings return."""
        return capture(forward, self.layers, (ids,), call=self.call)

    def patched(self, rows: Tensors) -> AbstractContextManager[None]:
        """Let the embeddings return rows, one tensor (R, L, D) for each."""
        return patched(self.layers, rows, [1] * len(rows), call=self.call)

    def embed(
        self, forward: Callable[[Tensor], Any], outputs: LayerOutputs, ids: Tensor, others: Tensor
    ) -> Tensors:
        """Return what the embeddings return for other ids, (R, L) → (R, L, D) each."""
        embedded = embed_without_pass(self.layers, outputs, (ids,), (others,))
        if embedded is not None:
            return embedded
        return tuple(x for (x,) in self.capture(forward, others).activations)

    def shifts(self, outputs: LayerOutputs, ids: Tensor, model: nn.Module) -> list[int]:
        """Return by how many positions each embedding reads the ids later.

        Raises:
            ValueError: if a decoder does not read the encoder's text, shifted by one.
        """
        shifts = [0]
        for number in range(1, len(self.layers)):
            received = outputs.ids_of(number)
            n = None if received is None else shift_of(received.to(ids.device), ids, most=1)
            if n is None:
                raise ValueError(
                    f"the decoder of {type(model).__name__} does not read the text of its encoder, "
                    "shifted by one token, so no word can move in both: pass layer, the encoder's "
                    "word embedding, to move words there alone"
                )
            shifts.append(n)
        return shifts


def in_each(of_text: Sequence[Tensor], own: Sequence[Tensor], shifts: Sequence[int]) -> Tensors:
    """Place what is known of a text's positions where each embedding reads them.

    Args:
        of_text: for each embedding, (B, L, …), by position in the text.
        own: for each embedding, what stands in front of what is shifted.
        shifts: by how many positions each reads the text later.
    """
    return tuple(
        shifted(values, of_layer, n) if n else values
        for values, of_layer, n in zip(of_text, own, shifts, strict=True)
    )


def feature_masks(mask: Tensor, shifts: Sequence[int]) -> Tensors:
    """Number the words where each embedding reads them; other positions get a number of their own.

    >>> feature_masks(torch.tensor([[0, 1, 1, 2]]), shifts=[0, 1])
    (tensor([[0, 1, 1, 2]]), tensor([[3, 0, 1, 1]]))
    """
    if not any(shifts):
        return (mask,) * len(shifts)
    own = torch.full_like(mask, int(mask.max()) + 1)
    return in_each([mask] * len(shifts), [own] * len(shifts), shifts)

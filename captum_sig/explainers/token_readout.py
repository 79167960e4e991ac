"""Read targets from a model's logits for every token, (R, L, C)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_sig.attr.function import Read, at_least_float32

Places = Sequence[tuple[int, int]]  # position and label (or token of the vocabulary) of each logit


def read_means(of_texts: Sequence[Sequence[Places]]) -> Read:
    """Return what reads the mean of some logits for each target.

    Args:
        of_texts: the places of each target, for each of B texts; a target has at least one.

    Returns:
        a function of logits (R, L, C) and their texts' numbers (R,) → (R, T), T the largest number
        of targets of a text; a text with fewer has zeros in place of the rest.

    >>> logits = torch.arange(6.0).view(1, 3, 2)
    >>> read_means([[[(0, 1)], [(1, 0), (2, 0)]]])(logits, torch.tensor([0]))
    tensor([[1., 3.]])
    """
    n_values = max(map(len, of_texts))
    flat = [
        torch.tensor(list(places), dtype=torch.long).view(-1, 2)
        for targets in of_texts
        for places in [*targets, *[()] * (n_values - len(targets))]
    ]
    if not flat:
        return lambda logits, example: logits.new_zeros(len(logits), 0)
    places = pad_sequence(flat, batch_first=True)  # (B T, N, 2)
    places = places.view(len(of_texts), n_values, -1, 2)
    n_places = torch.tensor([len(of_target) for of_target in flat]).view(len(of_texts), n_values, 1)
    is_place = torch.arange(places.shape[2]) < n_places  # (B, T, N)
    weights = is_place.double() / n_places.clamp(min=1)

    def read(logits: Tensor, example: Tensor) -> Tensor:
        dtype = at_least_float32(logits.dtype)
        position, label = places.to(logits.device)[example].unbind(-1)  # (R, T, N)
        row = torch.arange(len(logits), device=logits.device)[:, None, None]
        weight = weights.to(logits.device, dtype)[example]
        return (logits[row, position, label].to(dtype) * weight).sum(-1)

    return read

"""Shapley values of words from many random permutations, to compare cheaper scores with.

A permutation adds the words of a text one after the other to the sentence of baselines; a word's
value is the mean of what it adds. Permutations come in pairs, the second the reverse of the first
(antithetic; Mitchell et al., "Sampling permutations for Shapley value estimation", JMLR 2022).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """Shapley values of W players."""

    values: Tensor  # (W,)
    standard_errors: Tensor  # (W,)
    halves: Tensor  # (2, W): from the pairs with even and with odd numbers
    rows: int  # different sets of players, each of which was evaluated once


def estimate(
    game: Callable[[Tensor], ArrayLike | Tensor],  # (R, W) booleans → (R,) values
    n_players: int,
    n_permutations: int,
    generator: torch.Generator,
) -> Estimate:
    """Estimate Shapley values from an even number of permutations, at least 4."""
    n_pairs = n_permutations // 2
    first = torch.stack([torch.randperm(n_players, generator=generator) for _ in range(n_pairs)])
    orders = torch.stack([first, first.flip(1)], 1)  # (pairs, 2, W): players in turn
    places = orders.argsort(-1)
    keeps = places[:, :, None] < torch.arange(n_players + 1)[:, None]  # (pairs, 2, W + 1, W)
    sets, number = keeps.flatten(0, 2).unique(dim=0, return_inverse=True)
    values = torch.as_tensor(game(sets))[number].double().view(keeps.shape[:3])  # (pairs, 2, W + 1)
    of_pairs = values.diff(dim=2).gather(2, places).mean(1)  # (pairs, W)
    return Estimate(
        values=of_pairs.mean(0),
        standard_errors=of_pairs.std(0) / math.sqrt(n_pairs),
        halves=torch.stack([of_pairs[::2].mean(0), of_pairs[1::2].mean(0)]),
        rows=len(sets),
    )

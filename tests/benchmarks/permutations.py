"""Shapley values of words from many random permutations, to compare cheaper scores with.

A permutation adds the words of a text one after the other to the sentence of baselines; a word's
value is the mean of what it adds. Permutations come in pairs, the second the reverse of the first
(antithetic; Mitchell et al., "Sampling permutations for Shapley value estimation", JMLR 2022).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig import TextClassificationExplainer
from captum_sig.attr.arguments import layer_problem
from captum_sig.explainers.scoring import draw_baseline, forward_of, text_generator


@dataclass(frozen=True)
class Estimate:
    """Shapley values of W players."""

    values: Tensor  # (W,)
    standard_errors: Tensor  # (W,)
    halves: Tensor  # (2, W): from the pairs with even and with odd numbers
    rows: int  # different sets of players, each of which was evaluated once


class WordGame:
    """F of any set of a text's words, the others at the baseline."""

    def __init__(self, explainer: TextClassificationExplainer, text: str, target: int) -> None:
        model, encoder = explainer.model, explainer.encoder
        device = next(model.parameters()).device
        (batch,) = encoder.batches([text], 1, truncation=True, device=device)
        self.problem = layer_problem(
            forward_of(model, batch), explainer.layer, batch.ids,
            **draw_baseline(explainer.family, batch, [text_generator(text, explainer.seed)]),
            target=torch.tensor([target]), additional_forward_args=tuple(batch.others.values()),
            feature_mask=batch.feature_mask,
        )  # fmt: skip
        paths = self.problem.paths
        positions = [span.position for span in batch.spans[0]]
        self.player_of = paths.path_of[0][0, positions].clamp(min=-1)  # below 0: it does not move
        self.n_players = int(paths.words_per_example[0])

    def __call__(self, keeps: Tensor) -> Tensor:
        """(R, players) booleans → (R,) values of F."""
        return self.problem.coalition_values(torch.zeros(len(keeps), dtype=torch.long), keeps)

    def of_words(self, per_player: Tensor) -> list:
        """(…, players) → a value of each word; 0 for words that do not move."""
        zero = per_player.new_zeros(*per_player.shape[:-1], 1)
        return torch.cat([per_player, zero], -1)[..., self.player_of].tolist()  # below 0: the last


def estimate(
    game: Callable[[Tensor], Tensor],  # (R, W) booleans → (R,) values
    n_players: int,
    n_permutations: int,
    generator: torch.Generator,
) -> Estimate:
    """Estimate Shapley values from an even number of permutations, at least 4."""
    n_pairs = n_permutations // 2
    draws = [torch.randperm(n_players, generator=generator) for _ in range(n_pairs)]
    first = torch.stack(draws)
    orders = torch.stack([first, first.flip(1)], 1)  # (pairs, 2, W): players in turn
    places = orders.argsort(-1)
    keeps = places[:, :, None] < torch.arange(n_players + 1)[:, None]  # (pairs, 2, W + 1, W)
    sets, number = keeps.flatten(0, 2).unique(dim=0, return_inverse=True)
    gains = game(sets)[number].double().view(keeps.shape[:3]).diff(dim=2)  # in the order of turns
    of_pairs = gains.gather(2, places).mean(1)  # (pairs, W)
    return Estimate(
        values=of_pairs.mean(0),
        standard_errors=of_pairs.std(0) / math.sqrt(n_pairs),
        halves=torch.stack([of_pairs[::2].mean(0), of_pairs[1::2].mean(0)]),
        rows=len(sets),
    )

"""Shapley values of words from many random permutations, to compare cheaper scores with.

A permutation adds the words of a text one after the other to the sentence of baselines; a word's
value is the mean of what it adds. Permutations come in pairs, the second the reverse of the first
(antithetic; Mitchell et al., "Sampling permutations for Shapley value estimation", JMLR 2022).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig import TextClassificationExplainer
from captum_sig.attr.arguments import layer_problem
from captum_sig.explainers.scoring import draw_baseline, forward_of, text_generator

MOST_AT_ONCE = 2**22  # entries of the masks of permutations


@dataclass(frozen=True)
class Estimate:
    """Shapley values of a text's words, in logits."""

    values: Tensor  # (W,)
    standard_errors: Tensor  # (W,)
    halves: Tensor  # (2, W): from the pairs with even and with odd numbers
    rows: int  # different sets of words that were evaluated


class WordGame:
    """F of any set of a text's words, the others at the baseline; every set is evaluated once."""

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
        self.player_of = (paths.path_of[0][0, positions]).cpu()  # below 0: it does not move
        self.n_players = int(paths.words_per_example[0])

    def __call__(self, keeps: Tensor) -> Tensor:
        """(R, players) booleans → (R,) values of F in float64."""
        example = torch.zeros(len(keeps), dtype=torch.long)
        return self.problem.coalition_values(example, keeps).double().cpu()

    def of_words(self, per_player: Tensor) -> Tensor:
        """(…, players) → (…, W); 0 for words that do not move."""
        zero = per_player.new_zeros(*per_player.shape[:-1], 1)
        return torch.cat([per_player, zero], -1)[..., self.player_of.clamp(min=-1)]


def estimate(game: WordGame, n_permutations: int, generator: torch.Generator) -> Estimate:
    """Estimate the Shapley values from an even number of permutations, at least 4."""
    n, n_pairs = game.n_players, n_permutations // 2
    if n == 0:
        nothing = game.of_words(torch.zeros(2, 0, dtype=torch.float64))
        return Estimate(nothing[0], nothing[0], nothing, 0)
    first = torch.stack([torch.randperm(n, generator=generator) for _ in range(n_pairs)])
    orders = torch.stack([first, first.flip(1)], 1)  # (pairs, 2, n): players in turn
    place = orders.argsort(-1)
    sizes = torch.arange(n + 1)
    sets: dict[bytes, int] = {}
    numbers, new = [], []
    for part in place.split(max(1, MOST_AT_ONCE // (2 * n * (n + 1)))):
        keeps = part[:, :, None] < sizes[:, None]  # (pairs, 2, n + 1, n): the first … players
        distinct, inverse = keeps.flatten(0, 2).unique(dim=0, return_inverse=True)
        keys = [row.tobytes() for row in distinct.numpy()]
        new += [row for row, key in zip(distinct, keys, strict=True) if key not in sets]
        for key in keys:
            sets.setdefault(key, len(sets))
        numbers.append(torch.tensor([sets[key] for key in keys])[inverse].view(keeps.shape[:3]))
    values = game(torch.stack(new))[torch.cat(numbers)]  # (pairs, 2, n + 1)
    gains = torch.empty(n_pairs, 2, n, dtype=torch.float64)
    gains.scatter_(2, orders, values.diff(dim=2))
    of_pairs = gains.mean(1)
    halves = torch.stack([of_pairs[::2].mean(0), of_pairs[1::2].mean(0)])
    return Estimate(
        values=game.of_words(of_pairs.mean(0)),
        standard_errors=game.of_words(of_pairs.std(0) / math.sqrt(n_pairs)),
        halves=game.of_words(halves),
        rows=len(sets),
    )

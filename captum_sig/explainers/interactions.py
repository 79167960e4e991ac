"""How words act together: exact second differences of the strongest words, and what they say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_sig._names import PairKind
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import UNMOVED, all_finite
from captum_sig.explainers.results import ADDITIVE_WITHIN, Interaction
from captum_sig.explainers.scoring import Draw
from captum_sig.words.encoding import Batch

TURNED = 0.2  # of a text's largest effect: what a turned word is worth on one side at least


def pair_kind(effects: tuple[float, float], difference: float, largest: float) -> PairKind:
    """Say how two words act together.

    - "turns it": a word's effect has the opposite sign without the other one: a negation. One of
      the two is beyond `TURNED` of the text's largest effect, and the other beyond
      `ADDITIVE_WITHIN` of that, since "good" in "not good" is worth less than on its own. Or one
      takes back what the other says: words of opposite sign, of which one has a smaller effect
      beside the other, and that one a larger effect;
    - "independent": the words' effects are the same, within `ADDITIVE_WITHIN` of the text's
      largest, with the other word and without it;
    - "say the same": both effects together are larger without the other word: one is enough;
    - "only together": they are larger beside the other word: one needs the other.

    Args:
        effects: F(x) − F(x without the word) of both.
        difference: F(x) − F(x without i) − F(x without j) + F(x without both): how much less the
            effect of either word is without the other.
        largest: the largest absolute effect of the text.

    >>> pair_kind((0.0, 0.0), -1.0, 1.0), pair_kind((1.0, 1.0), 1.0, 1.0)  # OR, AND
    ('say the same', 'only together')
    >>> pair_kind((-2.0, -0.5), -1.5, 2.0)  # "not good", where "good" alone is worth +1
    'turns it'
    >>> pair_kind((1.0, -2.0), 0.1, 2.0)
    'independent'
    """
    alone = [effect - difference for effect in effects]
    for effect, without in zip(effects, alone, strict=True):
        smaller, larger = sorted((abs(effect), abs(without)))
        is_large = larger > TURNED * largest and smaller > ADDITIVE_WITHIN * larger
        if effect * without < 0 and is_large:
            return "turns it"
    if abs(difference) <= ADDITIVE_WITHIN * largest:
        return "independent"
    gained = sum(map(abs, effects)) - sum(map(abs, alone))  # ± 2 |difference| for equal signs,
    if abs(gained) <= abs(difference):  # 0 for opposite ones
        return "turns it"
    return "only together" if gained > 0 else "say the same"


def strongest(scores: Sequence[float], k: int) -> list[int]:
    """Return where the k scores of largest absolute value stand, ascending; ties by position.

    >>> strongest([0.5, -2.0, 0.5, 1.0], 3), strongest([1.0], 3)
    ([0, 1, 3], [0])
    """
    order = sorted(range(len(scores)), key=lambda number: -abs(scores[number]))
    return sorted(order[:k])


def interactions_of_batch(
    baselines: Sequence[Sequence[Draw]],
    batch: Batch,
    scores: Tensor,  # (B, L)
    k: int,
) -> list[tuple[Interaction, ...]]:
    """Measure the interactions of each text's k strongest words, averaged over the baselines."""
    places = [[span.position for span in spans] for spans in batch.spans]
    words = [strongest(scores[row, at].tolist(), k) for row, at in enumerate(places)]
    positions = [[at[word] for word in chosen] for at, chosen in zip(places, words, strict=True)]
    effects = [
        torch.stack([joint_effects(draw.problem, positions, draw.left_out) for draw in draws])
        for draws in baselines
    ]
    if not effects:  # no text has a word
        return [()] * len(words)
    mean = torch.stack([of_draws.mean(0) for of_draws in effects]).mean(0)
    return [
        interactions(chosen, mean[row, : len(chosen), : len(chosen)])
        for row, chosen in enumerate(words)
    ]


def joint_effects(
    problem: Problem, positions: Sequence[Sequence[int]], known: Tensor | None = None
) -> Tensor:
    """Compute F(x) − F(x without words i and j) of each text, (B, n, n, …), float64 on the CPU.

    The diagonal holds F(x) − F(x without word i). All texts' rows are evaluated together: n (n − 1)
    / 2 for the pairs, n for the diagonal if it is not known, and one for F(x) if the problem does
    not know it. A word that does not differ from the baseline changes nothing and takes none.

    Args:
        problem: F and the words that move, in one tensor.
        positions: a position of each word, for each of the B texts; a text with fewer words than
            another has zeros in place of the rest.
        known: what is known of the diagonal, by position, (B, L, …); NaN where it is not.
    """
    paths = problem.paths
    column = _by_word(paths.column_of[0], positions, UNMOVED)  # (B, n)
    moves = column != UNMOVED
    both_move = moves[:, :, None] & moves[:, None]
    single = None if known is None else _by_word(known, positions).double()
    is_known = torch.zeros_like(moves) if single is None else all_finite(single.flatten(0, 1))
    needed = both_move.triu(1) | (moves & ~is_known.view_as(moves)).diag_embed()
    example, i, j = needed.nonzero(as_tuple=True)

    pairs = torch.stack([column[example, i], column[example, j]], 1)
    n_words = int(paths.words_per_example.max())
    keeps = torch.ones(len(pairs), n_words, dtype=torch.bool).scatter_(1, pairs, False)
    values = problem.coalition_values(example.to(paths.device), keeps.to(paths.device))
    at_input = problem.value_at_input
    if at_input is None:
        at_input = problem.values(paths.points)
    at_input = at_input.cpu().double()[example]
    changes = at_input - values.cpu().double().view_as(at_input)

    effects = changes.new_zeros(*needed.shape, *changes.shape[1:])
    diagonal = torch.arange(needed.shape[1])
    if single is not None:
        effects[:, diagonal, diagonal] = single.nan_to_num(0.0)
    effects[example, i, j] = effects[example, j, i] = changes
    single = effects[:, diagonal, diagonal]
    moved = both_move.view(*both_move.shape, *[1] * (changes.dim() - 1))
    return torch.where(moved, effects, single[:, :, None] + single[:, None])


def _by_word(values: Tensor, positions: Sequence[Sequence[int]], padding: float = 0.0) -> Tensor:
    """Take the values at each word's position: (B, L, …) → (B, n, …), on the CPU."""
    of_texts = [of_text[list(at)] for of_text, at in zip(values.cpu(), positions, strict=True)]
    return pad_sequence(of_texts, batch_first=True, padding_value=padding)


def interactions(words: Sequence[int], effects: Tensor) -> tuple[Interaction, ...]:
    """Say how each two of a text's words act together, the largest second difference first.

    Args:
        words: the words' numbers in the text, ascending.
        effects: their `joint_effects`, (n, n).

    >>> either = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # F changes only without both words
    >>> interactions([2, 5], either)
    (Interaction(words=(2, 5), value=-1.0, kind='say the same'),)
    """
    if len(words) == 0:
        return ()
    single = effects.diagonal()
    without = effects - single  # [i, j]: the effect of i without j
    largest = float(torch.maximum(single.abs().max(), without.abs().max()))
    differences = single[:, None] - without
    found = []
    for i, j in itertools.combinations(range(len(words)), 2):
        pair, difference = (float(single[i]), float(single[j])), float(differences[i, j])
        kind = pair_kind(pair, difference, largest)
        found.append(Interaction((words[i], words[j]), difference, kind))
    return tuple(sorted(found, key=lambda pair: -abs(pair.value)))

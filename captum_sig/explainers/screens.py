"""Scores that find a text's important words in a few passes: tables of points and their slopes.

A *pass* evaluates one or several rows of each text. A row sets every word's fraction α of the way
from its baseline to the input, perhaps by the word's rank among the scores so far; the slopes of
its words (see `attr.slopes`) are added to the scores. A row costs as much as three forward
passes. Scores are weighted means over the rows, in units of F; they rank words and do not add up to
F(x) − F(x̄).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from captum_sig.attr.held import Held
from captum_sig.attr.slopes import ranks, slopes
from captum_sig.explainers.method_input import MethodInput, Scores


@dataclass(frozen=True)
class Ranks:
    """Each word's rank among its text's by the scores so far: 0 is the highest."""

    rank: Tensor  # (P,)
    n_words: Tensor  # (P,): of the word's text

    @property
    def centred(self) -> Tensor:
        """(rank + ½) / n, in (0, 1)."""
        return (self.rank + 0.5) / self.n_words

    def top(self, share: float) -> Tensor:
        """Whether a word is among the highest share of its text's, at least one."""
        return self.rank < (share * self.n_words).round().clamp(min=1)


Fractions = Callable[[Ranks], Tensor]  # → α of each word, (P,)


@dataclass(frozen=True)
class Row:
    """Where words stand in a row, and the weight of its slopes in the scores."""

    fractions: Fractions
    weight: float = 1.0


Table = tuple[tuple[Row, ...], ...]  # the rows of each pass


def at(fraction: float) -> Row:
    """All words at the same fraction."""
    return Row(lambda ranks: torch.full_like(ranks.centred, fraction))


def without_top(share: float, weight: float = 1.0) -> Row:
    """The highest share of the words at the baseline, the others at the input."""
    return Row(lambda ranks: 1 - ranks.top(share).to(ranks.centred), weight)


def leaving(shift: float) -> Row:
    """Words leave the input one after another, the highest first: early (½), late (−½)."""
    return Row(lambda ranks: (ranks.centred + shift).clamp(0, 1))


LRP: Table = ((at(1),),)
LRP_DELETION: Table = ((at(0.5), at(1)), (without_top(0.12),), (without_top(0.25),))
RANK_PATH: Table = (
    (at(0.5),),
    (leaving(0.5), leaving(-0.5), Row(lambda ranks: 1 - ranks.centred)),
)
SCREEN: Table = ((at(0), at(0.5), at(1)), (without_top(0.25, weight=0.5),))


def lrp(batch: MethodInput) -> Scores:
    """Layer-wise relevance propagation by `Held`'s rules: slope(1); 3 forward passes' cost.

    Raises:
        ValueError: if the rules do not apply to the model: it has no layer norm that they see, or
            recurrent layers.
    """
    return _by_rules(batch, LRP, "lrp")


def lrp_deletion(batch: MethodInput) -> Scores:
    """`lrp` also halfway and without the words that are highest so far; 12 forward passes' cost.

    Words that others make up for at the input speak up once those are gone.

    Raises:
        ValueError: as `lrp`.
    """
    return _by_rules(batch, LRP_DELETION, "lrp_deletion")


def rank_path(batch: MethodInput) -> Scores:
    """Plain gradients where words leave the input in order; 12 forward passes' cost.

    The path is integrated at two points with the highest words leaving first and at one with them
    leaving last, after one point halfway, which ranks them. For any differentiable model.
    """
    return _scores(batch, _total(batch, RANK_PATH, None))


def screen(batch: MethodInput) -> Scores:
    """The strongest words of any model; 12 forward passes' cost.

    Where `Held`'s rules apply, slopes at the baseline, halfway, at the input, and at the input
    without its highest words; elsewhere `rank_path`. A model without recurrent layers shows by its
    first pass that the rules do not apply, which costs 9 more.
    """
    if any(isinstance(module, (nn.RNNBase, nn.RNNCellBase)) for module in batch.model.modules()):
        return rank_path(batch)
    try:
        return _by_rules(batch, SCREEN, "screen")
    except RulesDoNotApplyError:
        return rank_path(batch)


class RulesDoNotApplyError(ValueError):
    """The forward pass shows no layer norm to `Held`, or recurrent layers."""


def _by_rules(batch: MethodInput, table: Table, name: str) -> Scores:
    return _scores(batch, _total(batch, table, Held(), name))


def _total(batch: MethodInput, table: Table, held: Held | None, name: str = "") -> Tensor:
    """Average the slopes of the table's rows, (P,)."""
    paths = batch.problem.paths
    total = torch.zeros(len(paths), dtype=paths.dtype, device=paths.device)
    for rows in table:
        order = Ranks(*ranks(total, paths.background))
        fractions = torch.stack([row.fractions(order) for row in rows])
        weights = total.new_tensor([row.weight for row in rows])
        total = total + weights @ slopes(batch.problem, fractions, held)
        if held is not None and len(paths) > 0 and not held.applies:
            raise RulesDoNotApplyError(
                f"method {name!r} needs a model whose layer norms it sees, got a "
                f"{type(batch.model).__name__} "
                f"{'with recurrent layers' if held.caught['recurrent'] else 'without any'} "
                '(or compiled, or scripted): use "rank_path" or "screen"'
            )
    return total / sum(row.weight for rows in table for row in rows)


def _scores(batch: MethodInput, per_word: Tensor) -> Scores:
    return Scores(batch.problem.paths.scatter(per_word)[0], [None] * len(batch.generators))

"""Scores that find a text's important words in a few passes: tables of points and their slopes.

A *pass* evaluates one or several rows of each text. A row sets every word's fraction α of the way
from its baseline to the input, perhaps by the word's rank among the scores so far; the slopes of
its words (see `attr.slopes`) are added to the scores. A row costs three forward passes, one of them
forward. Scores are means over the rows, in units of F; they rank words and do not add up to
F(x) − F(x̄).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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


Row = Callable[[Ranks], Tensor]  # → α of each word, (P,)
Table = tuple[tuple[Row, ...], ...]  # the rows of each pass


def at(fraction: float) -> Row:
    """All words at the same fraction."""
    return lambda ranks: torch.full_like(ranks.centred, fraction)


def without_top(share: float) -> Row:
    """The highest words at the baseline, the others at the input."""
    return lambda ranks: 1 - ranks.top(share).to(ranks.centred)


def on_the_way(shift: float) -> Row:
    """Words leave the input for the baseline one after another, the highest first."""
    return lambda ranks: (ranks.centred + shift).clamp(0, 1)


LRP: Table = ((at(1),),)
LRP_DELETION: Table = ((at(0.5), at(1)), (without_top(0.12),), (without_top(0.25),))
RANK_PATH: Table = (
    (at(0.5),),
    (on_the_way(0.5), on_the_way(-0.5), lambda ranks: 1 - ranks.centred),
)


def run(batch: MethodInput, table: Table, held: Held | None) -> Tensor:
    paths = batch.problem.paths
    total = torch.zeros(len(paths), dtype=paths.dtype, device=paths.device)
    for rows in table:
        order = Ranks(*ranks(total, paths.background))
        fractions = torch.stack([row(order) for row in rows])
        total = total + slopes(batch.problem, fractions, held).sum(0)
    return total / sum(map(len, table))


def _scores(batch, values):
    return Scores(batch.problem.paths.scatter(values)[0], [None] * len(batch.generators))


def lrp(batch: MethodInput) -> Scores:
    return _scores(batch, run(batch, LRP, Held()))


def lrp_deletion(batch: MethodInput) -> Scores:
    return _scores(batch, run(batch, LRP_DELETION, Held()))


def rank_path(batch: MethodInput) -> Scores:
    return _scores(batch, run(batch, RANK_PATH, None))


def screen(batch: MethodInput) -> Scores:
    return _scores(batch, run(batch, LRP_DELETION, Held()))

"""Exact effects of sets of a text's words, and the rows that they take.

The effect of a set is F with its words at the input − F with them at the baseline, the other words
in each of the problem's backgrounds: of a single word, what `Problem.word_effects` computes. A row
that serves several sets is evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import UNMOVED


@dataclass(frozen=True)
class SetEffects:
    """Effects of N sets of words on the T values of F; averaged over the backgrounds."""

    mean: Tensor  # (N, T)
    standard_error: Tensor | None = None  # (N, T)
    first: Tensor | None = None  # (N, T): all other words are at the baseline; NaN if unknown
    last: Tensor | None = None  # (N, T): all other words are at the input; NaN if unknown


class UnitEffects:
    """Evaluates sets of the words of one text, and remembers each row.

    Args:
        problem: of the text alone; F has T values.
        positions: a position of each of its W words, in the first embedding.
    """

    def __init__(self, problem: Problem, positions: Sequence[int]) -> None:
        self.problem = problem
        self.column = problem.paths.column_of[0][0, list(positions)].cpu()
        self.keeps = problem.paths.by_background(problem.paths.keeps).cpu()  # (K, P)
        self._values: dict[bytes, Tensor] = {}  # (T,) of each row, by what it keeps

    @property
    def n_rows(self) -> int:
        """The number of rows that were evaluated."""
        return len(self._values)

    @property
    def n_words(self) -> int:
        """P, the number of words that move."""
        return self.keeps.shape[1]

    @property
    def n_backgrounds(self) -> int:
        """K, the number of rows that a word takes besides those of the backgrounds."""
        return len(self.keeps)

    @property
    def n_rows_of_all_words(self) -> int:
        """The number of rows in which each word moves by itself."""
        return self.n_backgrounds * (self.n_words + 1) if self.n_words else 0

    @property
    def is_in_input(self) -> bool:
        """Whether words move in the input alone."""
        return bool(self.keeps.all())

    def n_new(self, sets: Tensor) -> int:
        """Return how many rows the effects of sets of words, (N, W), would take."""
        rows = self._rows(self._columns(sets))
        return self._n_new(torch.cat([of.flatten(0, 1) for of in rows]))

    def __call__(self, sets: Tensor) -> SetEffects:
        """Compute the effects of sets of words, (N, W)."""
        columns = self._columns(sets)
        with_set, without_set = (self.values(rows) for rows in self._rows(columns))
        changes = with_set - without_set  # (K, N, T)
        mean = changes.mean(0)
        others = torch.where(columns, False, self.keeps[:, None]).sum(-1)  # (K, N)
        n_others = (~columns).sum(-1)
        if self.is_in_input:
            return SetEffects(mean)
        error = self.problem.standard_error
        return SetEffects(
            mean,
            None if error is None else error(changes),
            _where(others == 0, changes),
            _where(others == n_others, changes),
        )

    def among_held(self, sets: Tensor, held: Tensor) -> Tensor:
        """Compute the effects of sets where other words are held at the baseline, (N, T).

        Args:
            sets: words, (N, W).
            held: other words, (N, W); the rest is at the input.
        """
        with_set, without_set = self._rows_among(sets, held)
        return self.values(with_set) - self.values(without_set)

    def n_new_among_held(self, sets: Tensor, held: Tensor) -> int:
        """Return how many rows `among_held` would take."""
        return self._n_new(torch.cat(self._rows_among(sets, held)))

    def values(self, keeps: Tensor) -> Tensor:
        """Evaluate F of rows that keep some of the words that move: (…, P) → (…, T)."""
        rows = keeps.flatten(0, -2)
        keys = [_key(row) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._values}
        if new:
            order = sorted(new)  # neighbours share what stands before their first difference
            stacked = torch.stack([new[key] for key in order]).to(self.problem.paths.device)
            example = torch.zeros(len(order), dtype=torch.long, device=stacked.device)
            values = self.problem.coalition_values(example, stacked).cpu()
            self._values.update(zip(order, values.view(len(order), -1), strict=True))
        values = torch.stack([self._values[key] for key in keys])
        return values.view(*keeps.shape[:-1], values.shape[-1])

    def _n_new(self, rows: Tensor) -> int:
        return len({_key(row) for row in rows} - self._values.keys())

    def _rows_among(self, sets: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        keeps = ~self._columns(held)
        return keeps, keeps & ~self._columns(sets)

    def _columns(self, sets: Tensor) -> Tensor:
        """Turn sets of words into sets of words that move, (N, W) → (N, P)."""
        moves = self.column != UNMOVED
        columns = torch.zeros(len(sets), self.n_words, dtype=torch.bool)
        columns[:, self.column[moves]] = sets[:, moves]
        return columns

    def _rows(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return what rows keep with each set at the input, and without, (K, N, P) each."""
        keeps = self.keeps[:, None]
        return keeps | columns, keeps & ~columns


def _key(row: Tensor) -> bytes:
    return row.numpy().tobytes()


def _where(shows: Tensor, changes: Tensor) -> Tensor:
    """Take each set's change in a background that shows it, (K, N) and (K, N, T) → (N, T)."""
    number = torch.arange(changes.shape[1])
    values = changes[shows.int().argmax(0), number]
    return torch.where(shows.any(0)[:, None], values, torch.nan)

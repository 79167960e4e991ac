"""Which rows to evaluate: one word moves from the baseline to the input, the others are held.

B, L, D, W as in the legend of `sig`. Only words whose positions differ from the baseline move; P of
them in all examples together. The other words are held at the input, or in one of K *backgrounds*
per example (see `contexts`). Background k of example e has number k · B + e, so there are K · B
backgrounds, and K · P paths: one for each word in each background. Only paths cost anything.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_sig.attr.function import Tensors, at_least_float32

UNMOVED = -1  # in `WordPaths.path_of`: no path moves this position
NO_PATH = -2  # the path of a row that shows a background unchanged
ANY_WORDS = -3  # the path of a row that keeps any of its example's words

Places = tuple[Tensor, Tensor]  # row (or example) and position of everything that moves


class NotFiniteError(FloatingPointError):
    """The model returned a value or gradient that is not finite; names the example and the word."""

    def __init__(self, what: str, example: int, where: str) -> None:
        super().__init__(
            f"the model's {what} is not finite for example {example}, {where}: "
            "check the model and its inputs, or use a wider dtype"
        )
        self.what, self.example, self.where = what, example, where


@dataclass(frozen=True)
class WordPaths:
    """The input x, the baseline b, and which positions move together from b to x."""

    points: Tensors  # x, each (B, Lₜ, …)
    baselines: Tensors  # b, as x
    path_of: Tensors  # (K · B, Lₜ): number of the path that moves a position, or UNMOVED
    background: Tensor  # (K · P,): background of each path, ascending
    word: Tensor  # (K · P,): the word's number in the feature mask
    keeps: Tensor  # (K · P,): whether the background keeps the word itself at the input
    n_backgrounds: int = 1  # K

    @classmethod
    def between(cls, points: Tensors, baselines: Tensors, masks: Tensors) -> WordPaths:
        """Find the words that differ, in one background: the input itself.

        Args:
            points: x, each (B, Lₜ, …).
            baselines: b, shaped as x.
            masks: the word's number at each position, (B, Lₜ) each.
        """
        n_examples = points[0].shape[0]
        device = points[0].device
        numbers, number_of = torch.cat(masks, dim=1).to(device).unique(return_inverse=True)
        keys = torch.arange(n_examples, device=device)[:, None] * len(numbers) + number_of
        pairs, pair_of = keys.unique(return_inverse=True)  # (example, word), ascending
        differs = torch.cat(
            [(x != b).flatten(2).any(-1) if x.dim() > 2 else x != b
             for x, b in zip(points, baselines, strict=True)],
            dim=1,
        )  # fmt: skip
        moves = torch.zeros(len(pairs), dtype=torch.bool, device=device)
        moves[pair_of[differs]] = True
        path_of_pair = torch.where(moves, moves.cumsum(0) - 1, UNMOVED)
        word = numbers[pairs[moves] % len(numbers)]
        return cls(
            points=points,
            baselines=baselines,
            path_of=path_of_pair[pair_of].split([x.shape[1] for x in points], dim=1),
            background=pairs[moves] // len(numbers),
            word=word,
            keeps=torch.ones_like(word, dtype=torch.bool),
        )

    def in_backgrounds(self, keeps: Tensor) -> WordPaths:
        """Move the same words in other backgrounds.

        Args:
            keeps: (K, P), whether each background keeps each word at the input.
        """
        n_backgrounds = len(keeps)
        number = torch.arange(n_backgrounds, device=keeps.device)
        path_of = [
            torch.where(of == UNMOVED, of, of + len(self) * number[:, None, None]).flatten(0, 1)
            for of in self.path_of
        ]
        return replace(
            self,
            path_of=tuple(path_of),
            background=(self.background + self.n_examples * number[:, None]).flatten(),
            word=self.word.repeat(n_backgrounds),
            keeps=keeps.flatten(),
            n_backgrounds=n_backgrounds,
        )

    def in_input(self, selected: Tensor) -> WordPaths:
        """Move only some of the words, in the input itself, where the others stay.

        Args:
            selected: (P,).
        """
        number = torch.where(selected, selected.cumsum(0) - 1, UNMOVED)
        number = torch.cat([number, number.new_tensor([UNMOVED])])  # UNMOVED indexes the last
        return replace(
            self,
            path_of=tuple(number[of[: self.n_examples]] for of in self.path_of),
            background=self.background[: self.n_words][selected],
            word=self.word[: self.n_words][selected],
            keeps=torch.ones_like(selected[selected]),
            n_backgrounds=1,
        )

    def __len__(self) -> int:
        return len(self.background)

    @property
    def n_examples(self) -> int:
        """B."""
        return self.points[0].shape[0]

    @property
    def n_words(self) -> int:
        """P."""
        return len(self) // self.n_backgrounds

    @property
    def device(self) -> torch.device:
        """Where paths are numbered."""
        return self.background.device

    @property
    def dtype(self) -> torch.dtype:
        """The points' widest dtype, at least float32."""
        dtypes = (at_least_float32(x.dtype) for x in self.points)
        return functools.reduce(torch.promote_types, dtypes)

    def example_of(self, background: Tensor) -> Tensor:
        """Return the example that each background belongs to."""
        return background % max(1, self.n_examples)

    def places(
        self,
        background: Tensor,  # (R,)
        path: Tensor,  # (R,), or NO_PATH
    ) -> list[Places]:
        """Find, per tensor, the (row, position) pairs that each row's path moves."""
        return [
            (of[background] == path[:, None]).nonzero(as_tuple=True)  # type: ignore[misc]
            for of in self.path_of
        ]

    def ends(
        self,
        number: int,  # of the tensor
        example: Tensor,  # (M,)
        position: Tensor,  # (M,)
    ) -> tuple[Tensor, Tensor]:
        """Return baseline and input there, (M, …) each; at least float32, else α is rounded."""
        x, b = self.points[number], self.baselines[number]
        wide = at_least_float32(x.dtype)
        return b[example, position].to(wide), x[example, position].to(wide)

    def rows(
        self,
        background: Tensor,  # (R,)
        places: Sequence[Places],
        values: Sequence[Tensor],  # (M, …): the values at those places
    ) -> Tensors:
        """Build the backgrounds with these values at the places; new tensors, (R, Lₜ, …)."""
        rows = self.background_rows(background)
        for row, place, moving in zip(rows, places, values, strict=True):
            row[place] = moving.to(row.dtype)
        return rows

    def background_rows(self, background: Tensor) -> Tensors:  # (R,)
        """Build the backgrounds as they are; new tensors, (R, Lₜ, …)."""
        held = tuple(of_tensor[background] for of_tensor in self.held_at_baseline)
        return self._rows_holding(self.example_of(background), held)

    def coalition_rows(self, example: Tensor, keeps: Tensor) -> Tensors:
        """Build rows with some of the words at the input, all others at the baseline: (R, Lₜ, …).

        Args:
            example: (R,).
            keeps: (R, W), whether each row keeps its example's word number 0 … W − 1 at the input;
                columns beyond an example's words are ignored.
        """
        held = []
        for column_of in self.column_of:
            column = column_of[example]
            held.append((column != UNMOVED) & ~keeps.gather(1, column.clamp(min=0)))
        return self._rows_holding(example, tuple(held))

    def _rows_holding(self, example: Tensor, held: Tensors) -> Tensors:
        """Build the examples' inputs, with the baseline at the held positions, (R, Lₜ)."""
        rows = tuple(x[example] for x in self.points)
        for row, b, at_baseline in zip(rows, self.baselines, held, strict=True):
            number, position = at_baseline.nonzero(as_tuple=True)
            row[number, position] = b[example[number], position]
        return rows

    @functools.cached_property
    def words_per_example(self) -> Tensor:
        """The number of words that move, (B,)."""
        return self.background[: self.n_words].bincount(minlength=self.n_examples)

    @functools.cached_property
    def column_of(self) -> Tensors:
        """The number of each position's word among its example's that move, (B, Lₜ); or UNMOVED."""
        first_path = self.words_per_example.cumsum(0) - self.words_per_example
        return tuple(
            torch.where(of == UNMOVED, of, of - first_path[:, None])
            for of in (of[: self.n_examples] for of in self.path_of)
        )

    @functools.cached_property
    def others_kept(self) -> Tensor:
        """The number of other words that stay at the input while a word moves, (K, P)."""
        keeps = self.by_background(self.keeps).long()
        example = self.background[: self.n_words]
        n_kept = keeps.new_zeros(self.n_backgrounds, self.n_examples)
        return n_kept.index_add_(1, example, keeps)[:, example] - keeps

    @functools.cached_property
    def held_at_baseline(self) -> Tensors:
        """(K · B, Lₜ): where a background holds the baseline."""
        keeps = torch.cat([self.keeps, self.keeps.new_ones(1)])  # UNMOVED indexes the last
        return tuple(~keeps[of] for of in self.path_of)

    def by_background(self, per_path: Tensor) -> Tensor:
        """(K · P, …) → (K, P, …)."""
        return per_path.view(self.n_backgrounds, self.n_words, *per_path.shape[1:])

    def scatter(self, per_word: Tensor) -> Tensors:
        """(P, …) → (B, Lₜ, …): each position gets its word's value, or zero if it does not move."""
        zero = per_word.new_zeros(1, *per_word.shape[1:])
        with_zero = torch.cat([per_word, zero])  # UNMOVED indexes the last
        return tuple(with_zero[of[: self.n_examples]] for of in self.path_of)

    def gather(self, per_position: Tensors) -> Tensor:
        """(B, Lₜ, …) → (P, …): each word takes a value that all its positions have.

        Tensors at the end may be left out if all their words stand in the first ones too.
        """
        first = per_position[0]
        per_word = first.new_empty(self.n_words, *first.shape[2:])
        for of, values in zip(self.path_of, per_position, strict=False):
            number = of[: self.n_examples]
            per_word[number[number != UNMOVED]] = values[number != UNMOVED]
        return per_word

    def sums(self, attributions: Tensors) -> Tensor:
        """Sum over each word's positions and features: (B, Lₜ, …) tensors → (P,)."""
        widest = functools.reduce(torch.promote_types, (t.dtype for t in attributions))
        totals = torch.zeros(self.n_words + 1, dtype=widest, device=self.background.device)
        for of, values in zip(self.path_of, attributions, strict=True):
            per_position = values.flatten(2).sum(-1) if values.dim() > 2 else values
            first = of[: self.n_examples]
            number = torch.where(first == UNMOVED, self.n_words, first)
            totals.index_add_(0, number.flatten(), per_position.flatten().to(widest))
        return totals[:-1]

    def zeros(self) -> Tensors:
        """Zeros shaped as the points, at least float32."""
        return tuple(torch.zeros_like(x, dtype=at_least_float32(x.dtype)) for x in self.points)

    def describe(self, path: int) -> str:
        """Name a path's word and positions, for error messages."""
        if path == ANY_WORDS:
            return "some of its words at the baseline"
        if path == NO_PATH:
            return "the unchanged input" if self.n_backgrounds == 1 else "a background"
        positions = [(of == path).nonzero()[:, 1].tolist() for of in self.path_of]
        shown = positions[0] if len(positions) == 1 else positions
        return f"word {int(self.word[path])} (positions {shown})"

    def require_finite(self, what: str, finite: Tensor, background: Tensor, path: Tensor) -> None:
        """Raise `NotFiniteError` for a row that is not finite: a background, else the first."""
        if finite.all():
            return
        rows = (~finite).nonzero()[:, 0]
        failed = int(rows[(path[rows] != NO_PATH).int().argmin()])
        example = int(self.example_of(background[failed]))
        raise NotFiniteError(what, example, self.describe(int(path[failed])))


def with_positions(tensor: Tensor) -> Tensor:
    """Take a number for each example as its one position: (B,) → (B, 1)."""
    return tensor[:, None] if tensor.dim() == 1 else tensor


def like(per_row: Tensor, rows: Tensor) -> Tensor:
    """Reshape (N,) so that it broadcasts with (N, …)."""
    return per_row.view(-1, *[1] * (rows.dim() - 1))


def all_finite(rows: Tensor) -> Tensor:
    """(N, …) → (N,)."""
    return rows.isfinite().flatten(1).all(1) if rows.dim() > 1 else rows.isfinite()

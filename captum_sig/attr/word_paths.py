"""Which rows to evaluate: move one word, hold the others.

B, L, D, W as in the legend of `sig`. A *move* is a word of an example whose positions differ from
the baseline; P of them in all. The other words are held at the input, or in one of K *backgrounds*
(see `contexts`). A *scene* is an example in a background, numbered background by background, and
a *path* is a move in a background: K · B scenes and K · P paths. Only paths cost anything.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_sig.attr.function import Tensors, at_least_float32

UNMOVED = -1  # in `WordPaths.path_of`: no path concerns this position
NOTHING = -2  # as a row's path: the row of the unchanged scene

Places = tuple[Tensor, Tensor]  # for each position that a row's path concerns: row, position


class NotFiniteError(FloatingPointError):
    """The model gave a value or gradient that is not finite; names the example and the word."""

    def __init__(self, what: str, example: int, where: str) -> None:
        """Keep the parts: who batches examples can name them as its caller does."""
        super().__init__(
            f"the model's {what} is not finite for example {example}, {where}: "
            "check the model and its inputs, or use a wider dtype"
        )
        self.what, self.example, self.where = what, example, where


@dataclass(frozen=True)
class WordPaths:
    """The input x, the baseline b, and which positions go together from b to x."""

    points: Tensors  # x, each (B, Lₜ, …)
    baselines: Tensors  # b, as x
    path_of: Tensors  # (K · B, Lₜ): number of the path that a position belongs to, or UNMOVED
    scene: Tensor  # (K · P,): scene of each path, ascending
    word: Tensor  # (K · P,): its number in the feature mask
    kept: Tensor  # (K · P,): whether the background holds the word itself at its input value
    n_backgrounds: int = 1  # K

    @classmethod
    def between(cls, points: Tensors, baselines: Tensors, masks: Tensors) -> WordPaths:
        """Find the words that differ; `masks` holds word numbers, (B, Lₜ) each.

        There is one background, the input itself.
        """
        n_examples = points[0].shape[0]
        device = points[0].device
        numbers, number_of = torch.cat(masks, dim=1).to(device).unique(return_inverse=True)
        keys = torch.arange(n_examples, device=device)[:, None] * len(numbers) + number_of
        pairs, pair_of = keys.unique(return_inverse=True)  # (example, word) in ascending order
        differs = torch.cat(
            [(x != b).flatten(2).any(-1) if x.dim() > 2 else x != b
             for x, b in zip(points, baselines, strict=True)],
            dim=1,
        )  # fmt: skip
        moves = torch.zeros(len(pairs), dtype=torch.bool, device=device)
        moves[pair_of[differs]] = True
        renumbered = torch.where(moves, moves.cumsum(0) - 1, UNMOVED)
        word = numbers[pairs[moves] % len(numbers)]
        return cls(
            points=points,
            baselines=baselines,
            path_of=renumbered[pair_of].split([x.shape[1] for x in points], dim=1),
            scene=pairs[moves] // len(numbers),
            word=word,
            kept=torch.ones_like(word, dtype=torch.bool),
        )

    def within(self, kept: Tensor) -> WordPaths:
        """The moves in other backgrounds, (K, P): whether each keeps each word at its input."""
        n_backgrounds = len(kept)
        number = torch.arange(n_backgrounds, device=kept.device)
        of_all = [
            torch.where(of == UNMOVED, of, of + len(self) * number[:, None, None]).flatten(0, 1)
            for of in self.path_of
        ]
        return replace(
            self,
            path_of=tuple(of_all),
            scene=(self.scene + self.n_examples * number[:, None]).flatten(),
            word=self.word.repeat(n_backgrounds),
            kept=kept.flatten(),
            n_backgrounds=n_backgrounds,
        )

    def __len__(self) -> int:
        """How many paths."""
        return len(self.scene)

    @property
    def n_examples(self) -> int:
        """B."""
        return self.points[0].shape[0]

    @property
    def n_moves(self) -> int:
        """P."""
        return len(self) // self.n_backgrounds

    def example(self, scene: Tensor) -> Tensor:
        """The example that each scene shows."""
        return scene % max(1, self.n_examples)

    def moved(
        self,
        scene: Tensor,  # (R,)
        path: Tensor,  # (R,), or NOTHING
    ) -> list[Places]:
        """Per tensor, the (row, position) pairs that each row's path concerns."""
        return [
            (of[scene] == path[:, None]).nonzero(as_tuple=True)  # type: ignore[misc]
            for of in self.path_of
        ]

    def ends(
        self,
        number: int,  # of the tensor
        example: Tensor,  # (M,)
        position: Tensor,  # (M,)
    ) -> tuple[Tensor, Tensor]:
        """Baseline and input there, (M, …) each, in float32 at least: else α would be rounded."""
        x, b = self.points[number], self.baselines[number]
        wide = at_least_float32(x.dtype)
        return b[example, position].to(wide), x[example, position].to(wide)

    def rows(
        self,
        scene: Tensor,  # (R,)
        moved: Sequence[Places],  # as from the method of this name
        values: Sequence[Tensor],  # (M, …): what stands at those positions
    ) -> Tensors:
        """The scenes with these values at the moved positions; new tensors, (R, Lₜ, …)."""
        rows = self.scenes(scene)
        for row, places, moving in zip(rows, moved, values, strict=True):
            row[places] = moving.to(row.dtype)
        return rows

    def scenes(self, scene: Tensor) -> Tensors:  # (R,)
        """The scenes as they are; new tensors, (R, Lₜ, …)."""
        example = self.example(scene)
        rows = tuple(x[example] for x in self.points)
        for whole, b, absent in zip(rows, self.baselines, self.absent, strict=True):
            row, position = absent[scene].nonzero(as_tuple=True)
            whole[row, position] = b[example[row], position]
        return rows

    @functools.cached_property
    def absent(self) -> Tensors:
        """(K · B, Lₜ): where a scene holds the baseline."""
        kept = torch.cat([self.kept, self.kept.new_ones(1)])  # UNMOVED indexes the last
        return tuple(~kept[of] for of in self.path_of)

    def by_background(self, per_path: Tensor) -> Tensor:
        """(K · P, …) → (K, P, …)."""
        return per_path.view(self.n_backgrounds, self.n_moves, *per_path.shape[1:])

    def spread(self, per_move: Tensor) -> Tensors:
        """(P, …) → (B, Lₜ, …): every position has its move's value; zero where nothing moves."""
        zero = per_move.new_zeros(1, *per_move.shape[1:])
        with_zero = torch.cat([per_move, zero])  # UNMOVED indexes the last
        return tuple(with_zero[of[: self.n_examples]] for of in self.path_of)

    def sums(self, attributions: Tensors) -> Tensor:
        """Σ over each move's positions and features: (B, Lₜ, …) tensors → (P,)."""
        widest = functools.reduce(torch.promote_types, (t.dtype for t in attributions))
        totals = torch.zeros(self.n_moves + 1, dtype=widest, device=self.scene.device)
        for of, values in zip(self.path_of, attributions, strict=True):
            per_position = values.flatten(2).sum(-1) if values.dim() > 2 else values
            first = of[: self.n_examples]
            number = torch.where(first == UNMOVED, self.n_moves, first)
            totals.index_add_(0, number.flatten(), per_position.flatten().to(widest))
        return totals[:-1]

    def zeros(self) -> Tensors:
        """Zeros shaped as the points, in float32 at least."""
        return tuple(torch.zeros_like(x, dtype=at_least_float32(x.dtype)) for x in self.points)

    def name(self, path: int) -> str:
        """For errors: the word and its positions."""
        if path == NOTHING:
            return "the unchanged input" if self.n_backgrounds == 1 else "a background"
        positions = [(of == path).nonzero()[:, 1].tolist() for of in self.path_of]
        shown = positions[0] if len(positions) == 1 else positions
        return f"word {int(self.word[path])} (positions {shown})"

    def require_finite(self, what: str, finite: Tensor, scene: Tensor, path: Tensor) -> None:
        """Raise `NotFiniteError` for the first row that is not."""
        if finite.all():
            return
        bad = int((~finite).nonzero()[0])
        raise NotFiniteError(what, int(self.example(scene[bad])), self.name(int(path[bad])))


def like(per_row: Tensor, rows: Tensor) -> Tensor:
    """(K,) shaped so that it multiplies (K, …)."""
    return per_row.view(-1, *[1] * (rows.dim() - 1))


def all_finite(rows: Tensor) -> Tensor:
    """(K, …) → (K,)."""
    return rows.isfinite().flatten(1).all(1) if rows.dim() > 1 else rows.isfinite()

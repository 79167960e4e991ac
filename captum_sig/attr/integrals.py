"""What the model says at the ends of paths from baseline to input, and integrals along them.

The engine behind the classes of `sig` and `dig`. B, L, D, S as in the legend of `sig`, moves,
scenes and paths as in `moves`; R is the rows of a chunk, M the positions that they move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from captum_sig.attr.chunks import Chunks
from captum_sig.attr.function import RowFunction, Tensors
from captum_sig.attr.word_paths import NOTHING, Places, WordPaths, all_finite, like
from captum_sig.quadrature import Rule


class Steps(Protocol):
    """A way from baseline to input in steps, and how much the gradient counts at each."""

    def __len__(self) -> int:
        """S."""

    def at(
        self,
        number: int,  # of the tensor
        example: Tensor,  # (M,)
        position: Tensor,  # (M,)
        step: Tensor,  # (M,) in 0 … S − 1
        start: Tensor,  # (M, …): the baseline there
        end: Tensor,  # (M, …): the input there
    ) -> tuple[Tensor, Tensor]:
        """Where the positions are, (M, …), and weights for the gradient, which broadcast with it.

        A position's weights sum to one over the steps, in every feature.
        """


@dataclass(frozen=True)
class StraightLine:
    """The straight line, at the nodes of a quadrature rule."""

    rule: Rule

    def __len__(self) -> int:
        """Nodes."""
        return len(self.rule.nodes)

    def at(
        self,
        number: int,
        example: Tensor,
        position: Tensor,
        step: Tensor,
        start: Tensor,
        end: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """B + α (x − b), and the node's weight."""
        nodes, weights = (
            like(torch.tensor(values, dtype=start.dtype, device=start.device)[step], start)
            for values in (self.rule.nodes, self.rule.weights)
        )
        return start + nodes * (end - start), weights


@dataclass(frozen=True)
class Averages:
    """The average gradient along the paths, over each move's backgrounds, and what it took."""

    gradients: Tensors  # shaped as the points, in float32 at least; zero where nothing moves
    drops: Tensor  # (K · P,): F at each path's end − F at its start
    n_evaluations: Tensor  # (K · P,): gradients; that of the scene may be shared by its words
    converged: Tensor  # (K · P,): False where a tolerance was asked for and not met


def path_ends(
    function: RowFunction,
    moves: WordPaths,
    chunks: Chunks,
    whole: Tensor | None,  # (B, …): F(x) where it is known
) -> tuple[Tensor, Tensor]:
    """F where each path ends (its word at the input) and starts (at the baseline).

    Forward passes alone: one for each scene that is not known, as one end of all its paths, and
    one for each path.

    Returns:
        (K · P, …) and (K · P, …), with the further dimensions of F's values if there are any.
    """
    scenes = moves.scene.unique()
    known = _known(moves, scenes, whole)
    asked = scenes[~known]
    scene = torch.cat([asked, moves.scene])
    path = torch.cat([torch.full_like(asked, NOTHING), torch.arange(len(moves)).to(asked)])

    def evaluate(rows: slice) -> Tensor:
        at = scene[rows], path[rows]
        moved = moves.moved(*at)
        values = []
        for number, (row, position) in enumerate(moved):
            start, end = moves.ends(number, moves.example(at[0][row]), position)
            values.append(torch.where(like(moves.kept[at[1][row]], start), start, end))
        found = function.values(moves.rows(at[0], moved, values), moves.example(at[0]))
        moves.require_finite("output", all_finite(found), *at)
        return found

    found = [values for _, values in chunks(evaluate, len(scene))]
    if not found:
        none = torch.zeros(0, *(() if whole is None else whole.shape[1:]), device=scene.device)
        return none, none
    of_asked, changed = torch.cat(found).to(scene.device).split([len(asked), len(moves)])
    of_scene = changed.new_empty(len(scenes), *changed.shape[1:])
    of_scene[~known] = of_asked
    if whole is not None:
        of_scene[known] = whole.to(changed)[moves.example(scenes[known])]
    held = of_scene[torch.searchsorted(scenes, moves.scene)]
    kept = like(moves.kept, changed)
    return torch.where(kept, held, changed), torch.where(kept, changed, held)


def _known(moves: WordPaths, scenes: Tensor, whole: Tensor | None) -> Tensor:
    """Whether F of each scene is known: those that show the input as it is, if that is."""
    if whole is None:
        return torch.zeros_like(scenes, dtype=torch.bool)
    absent = torch.stack([of.any(1) for of in moves.absent]).any(0)
    return all_finite(whole).to(scenes.device)[moves.example(scenes)] & ~absent[scenes]


def path_gradients(
    function: RowFunction,
    moves: WordPaths,
    path: Tensor,  # (R,)
    moved: list[Places],  # as from `moves.moved`
    values: list[Tensor],  # (M, …) per tensor: what stands there
) -> tuple[Tensor, list[Tensor]]:
    """F (R,) of some rows, and per tensor ∇F at the moved positions, (M, …), in one pass."""
    scene = moves.scene[path]
    outputs, grads = function.gradients(moves.rows(scene, moved, values), moves.example(scene))
    moves.require_finite("output", outputs.isfinite(), scene, path)
    parts = []
    for grad, (row, position) in zip(grads, moved, strict=True):
        part = grad[row, position]
        moves.require_finite("gradient", all_finite(part), scene[row], path[row])
        parts.append(part)
    return outputs, parts


def by_steps(
    function: RowFunction, moves: WordPaths, chunks: Chunks, whole: Tensor | None, steps: Steps
) -> Averages:
    """The average of ∇_w F along every path, taken at the same steps."""
    at_end, at_start = path_ends(function, moves, chunks, whole)
    totals = moves.zeros()
    n_steps = len(steps)

    def evaluate(rows: slice) -> list[tuple[Places, Tensor]]:
        row = torch.arange(rows.start, rows.stop, device=moves.scene.device)
        path, step = row // n_steps, row % n_steps
        scene = moves.scene[path]
        moved = moves.moved(scene, path)
        places = [(moves.example(scene[row]), position) for row, position in moved]
        reached = [
            steps.at(number, *place, step[row], *moves.ends(number, *place))
            for number, (place, (row, _)) in enumerate(zip(places, moved, strict=True))
        ]
        _, parts = path_gradients(function, moves, path, moved, [value for value, _ in reached])
        return [
            (place, part * weight)
            for place, part, (_, weight) in zip(places, parts, reached, strict=True)
        ]

    for _, parts in chunks(evaluate, len(moves) * n_steps):
        for total, (where, part) in zip(totals, parts, strict=True):
            part = part.to(total.dtype) / moves.n_backgrounds
            total.index_put_(where, part, accumulate=True)
    return Averages(
        gradients=totals,
        drops=at_end - at_start,
        n_evaluations=torch.full_like(moves.scene, n_steps),
        converged=torch.ones_like(moves.scene, dtype=torch.bool),
    )


Integrate = Callable[[RowFunction, WordPaths, Chunks, Tensor | None], Averages]


Path = Callable[[nn.Module, Tensor, Tensor], Steps]
"""A path of one's own, such as `dig.DiscretizedPath`: the word embedding, the token ids that it
was given (B, L), and the baseline (B, L, D) → the steps from the baseline to the ids' embeddings.
"""

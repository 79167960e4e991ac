"""One sweep over the words: what each does to every target token, and where wanted its gradient.

R rows, L positions, D features as in `sig`; T tokens of the target, V ids, W columns: the words,
and where asked for the target's own tokens that others follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_sig.attr.chunks import default_chunk
from captum_sig.attr.function import RowFunction, Tensors
from captum_sig.attr.integrals import Integrate
from captum_sig.attr.problem import Problem, plain_tensors
from captum_sig.attr.word_paths import WordPaths
from captum_sig.explainers.teacher_forcing import Forced, TokenFunction

Place = tuple[int, list[int]]  # which of the moving tensors, and positions in it


Baseline = Callable[[int, Tensor, Tensor], Tensor]
"""A tensor's number, the ids it is looked up for (1, L) and where words move (1, L) → baseline ids
(1, L) or activations (1, L, D)."""

# Bytes of float32 logits in a pass: beside the moving activations, what takes most memory.
LOGIT_BYTES = {"cpu": 2**23, "cuda": 2**30}
GROUPS = 8  # passes that begin at different words; more would begin little later on average
LEAST_TOKENS = {"cpu": 256, "cuda": 4096}  # in a pass: fewer would leave a device idle


@dataclass(frozen=True)
class MatrixOptions:
    """What a sweep is asked for."""

    attribute_target: bool
    integrate: Integrate | None  # how to integrate the gradient, if at all
    use_cache: bool
    chunk: int | None
    progress: bool


@dataclass(frozen=True)
class TargetMatrix:
    """What a sweep found; float64 on the CPU, see `GenerationAttribution`."""

    matrix: Tensor  # (T, W)
    word_deltas: Tensor  # (W,)
    log_probabilities: Tensor  # (T,)
    without_cache: str | None
    attributions: Tensor | None = None  # (W, D)
    converged: Tensor | None = None  # (W,)

    def minus(self, other: TargetMatrix) -> TargetMatrix:
        """The difference of two targets after the same prompt; their tokens are taken in order."""
        length = max(len(self.matrix), len(other.matrix))
        mine, others = (
            torch.nn.functional.pad(one.matrix, (0, 0, 0, length - len(one.matrix)))
            for one in (self, other)
        )
        found, converged = None, None
        if self.attributions is not None and other.attributions is not None:
            found = self.attributions - other.attributions
        if self.converged is not None and other.converged is not None:
            converged = self.converged & other.converged
        return TargetMatrix(
            matrix=mine - others,
            word_deltas=self.word_deltas - other.word_deltas,
            log_probabilities=self.log_probabilities,
            without_cache=self.without_cache or other.without_cache,
            attributions=found,
            converged=converged,
        )


@plain_tensors()
def target_matrix(
    forced: Forced, words: Sequence[list[int]], baseline: Baseline, asked: MatrixOptions
) -> TargetMatrix:
    """Move every word of the prompt, and where asked for every target token that others follow.

    Args:
        forced: the model after one prompt, with one target.
        words: positions of each in the prompt.
        baseline: what words are replaced by.
        asked: what to compute.
    """
    n_tokens = forced.whole.shape[1]
    places: list[Place] = [(0, word) for word in words]
    if asked.attribute_target:
        at = map(forced.target_position, range(n_tokens - 1))
        places += [(tensor, [position]) for tensor, position in at]
    moves = _moves(forced, places, baseline)
    chunk = rows_in_pass(forced, len(moves)) if asked.chunk is None else asked.chunk

    def problem(function: RowFunction, whole: Tensor) -> Problem:
        return Problem(function, moves, None, tuple, chunk, asked.progress, whole)

    scores: Tensors = problem(TokenFunction(forced, None), forced.hooked).word_scores()
    matrix = _wide(torch.stack([scores[n][0, positions[0]] for n, positions in places], dim=1))
    found = TargetMatrix(
        matrix=matrix,
        word_deltas=_wide(forced.hooked - forced.whole).sum().expand(len(places)).clone(),
        log_probabilities=_wide(forced.whole[0]),
        without_cache=forced.without_cache,
    )
    if asked.integrate is None:
        return found

    def of_sequence(rows: Tensors, example: Tensor) -> Tensor:
        return forced(rows, example).sum(1)

    function = RowFunction(of_sequence, None, tuple(forced.model.modules()))
    integral, _ = problem(function, forced.hooked.sum(1)).integral(asked.integrate, True)
    summed = [integral.attributions[n][0, positions].sum(0) for n, positions in places]
    deltas, converged = (
        torch.stack([per_position[n][0, positions[0]] for n, positions in places])
        for per_position in (integral.word_delta, integral.converged)
    )
    return replace(
        found,
        word_deltas=_wide(deltas),
        attributions=_wide(torch.stack(summed)),
        converged=converged.cpu(),
    )


def _moves(forced: Forced, places: Sequence[Place], baseline: Baseline) -> WordPaths:
    """Each place's positions from the baseline to the input; nothing else moves."""
    baselines, masks = [], []
    for n, (ids, x) in enumerate(zip(forced.ids, forced.points, strict=True)):
        if x.shape[:2] != ids.shape:
            raise ValueError(
                f"the layer gives {tuple(x.shape)} for {ids.shape[1]} tokens; wanted a position "
                "for each: pass the word embedding"
            )
        mask = len(places) + torch.arange(ids.shape[1], device=x.device)[None]
        for number, (tensor, positions) in enumerate(places):
            if tensor == n:
                mask[0, positions] = number
        moving = mask < len(places)
        given = baseline(n, ids, moving.to(ids.device))
        b = given if given.dim() > 2 else forced.activations(n, given)
        baselines.append(torch.where(moving.view(*moving.shape, *[1] * (x.dim() - 2)), b.to(x), x))
        masks.append(mask)
    return WordPaths.between(forced.points, tuple(baselines), tuple(masks))


def rows_in_pass(forced: Forced, n_rows: int) -> int:
    """How many rows go through the model at a time, if the caller does not say.

    Bounded by memory; where rows share what stands before their words, few enough that groups
    begin at different words, and enough to keep the device busy.
    """
    device = "cpu" if forced.points[0].device.type == "cpu" else "cuda"
    per_row = forced.whole.shape[1] * forced.n_ids * 4
    most = min(default_chunk(forced.points), LOGIT_BYTES[device] // per_row)
    if forced.without_cache is None:
        enough = LEAST_TOKENS[device] // forced.ids[0].shape[1]
        most = min(most, max(math.ceil(n_rows / GROUPS), enough))
    return max(1, most)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()

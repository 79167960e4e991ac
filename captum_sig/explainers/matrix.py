"""The effect of every word on every target token, and where requested its gradient.

R rows, L positions, D features as in `attr.sig`; T tokens of the target, V ids, W columns: the
words, and where requested the target's own tokens except the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_sig.attr.chunks import default_chunk
from captum_sig.attr.function import RowFunction, Tensors
from captum_sig.attr.integrals import Integrate
from captum_sig.attr.problem import Problem, WordEffects, plain_tensors
from captum_sig.attr.word_paths import WordPaths
from captum_sig.baselines.families import Family
from captum_sig.explainers.teacher_forcing import TeacherForced, TokenFunction

Place = tuple[int, list[int]]  # number of the moving tensor, and positions in it

# Bytes of float32 logits in a pass: besides the moving activations, what takes most memory.
LOGIT_BYTES = {"cpu": 2**23, "cuda": 2**30}
GROUPS = 8  # passes that begin at different words; more would begin only slightly later on average
LEAST_TOKENS = {"cpu": 256, "cuda": 4096}  # in a pass: fewer would leave a device idle


@dataclass(frozen=True)
class MatrixOptions:
    """What to compute, and how."""

    attribute_target: bool
    integrate: Integrate | None  # how to integrate the gradient, if at all
    use_cache: bool
    max_rows: int | None
    show_progress: bool


@dataclass(frozen=True)
class TargetMatrix:
    """Effects of words on target tokens; float64 on the CPU, see `GenerationAttribution`."""

    matrix: Tensor  # (T, W)
    word_deltas: Tensor  # (W,)
    log_probabilities: Tensor  # (T,)
    without_cache: str | None
    attributions: Tensor | None = None  # (W, D)
    converged: Tensor | None = None  # (W,)

    def minus(self, other: TargetMatrix) -> TargetMatrix:
        """Subtract another target's matrix after the same prompt, token by token."""
        length = max(len(self.matrix), len(other.matrix))
        mine, theirs = (
            torch.nn.functional.pad(part.matrix, (0, 0, 0, length - len(part.matrix)))
            for part in (self, other)
        )
        attributions, converged = None, None
        if self.attributions is not None and other.attributions is not None:
            attributions = self.attributions - other.attributions
        if self.converged is not None and other.converged is not None:
            converged = self.converged & other.converged
        return TargetMatrix(
            matrix=mine - theirs,
            word_deltas=self.word_deltas - other.word_deltas,
            log_probabilities=self.log_probabilities,
            without_cache=self.without_cache or other.without_cache,
            attributions=attributions,
            converged=converged,
        )


@plain_tensors()
def target_matrix(
    forced: TeacherForced,
    words: Sequence[list[int]],
    families: Sequence[Family],
    options: MatrixOptions,
) -> TargetMatrix:
    """Move every word of the prompt, and if requested every target token except the last.

    Args:
        forced: the model after one prompt, with one target.
        words: positions of each word in the prompt.
        families: what replaces words in each of the moving embeddings.
        options: what to compute.
    """
    n_tokens = forced.unchanged.shape[1]
    places: list[Place] = [(0, word) for word in words]
    if options.attribute_target:
        tensor, start = forced.target_start
        places += [(tensor, [start + number]) for number in range(n_tokens - 1)]
    paths = _paths(forced, places, families)
    max_rows = options.max_rows
    if max_rows is None:
        max_rows = rows_in_pass(forced, len(paths) + 1)

    def problem(function: RowFunction, value_at_input: Tensor) -> Problem:
        return Problem(
            function=function, paths=paths, max_rows=max_rows, value_at_input=value_at_input,
            show_progress=options.show_progress,
        )  # fmt: skip

    modules = tuple(forced.model.modules())
    tokens = TokenFunction(forced.log_probabilities, None, modules)
    effects = problem(tokens, forced.unchanged).word_effects()
    scores = paths.scatter(effects.mean)
    exact = TargetMatrix(
        matrix=_wide(torch.stack([scores[n][0, positions[0]] for n, positions in places], dim=1)),
        word_deltas=_hook_error(effects, forced).expand(len(places)).clone(),
        log_probabilities=_wide(forced.unchanged[0]),
        without_cache=forced.without_cache,
    )
    if options.integrate is None:
        return exact

    def of_sequence(rows: Tensors, example: Tensor) -> Tensor:
        return forced.log_probabilities(rows, example).sum(1)

    sequence = RowFunction(of_sequence, None, modules)
    integral, _ = problem(sequence, forced.unchanged.sum(1)).integral(options.integrate, True)
    by_word = [integral.attributions[n][0, positions].sum(0) for n, positions in places]
    deltas, converged = (
        torch.stack([per_position[n][0, positions[0]] for n, positions in places])
        for per_position in (integral.word_delta, integral.converged)
    )
    return replace(
        exact,
        word_deltas=_wide(deltas),
        attributions=_wide(torch.stack(by_word)),
        converged=converged.cpu(),
    )


def _paths(forced: TeacherForced, places: Sequence[Place], families: Sequence[Family]) -> WordPaths:
    """Move each place's positions from the baseline to the input, and nothing else."""
    baselines, masks = [], []
    for n, (ids, x) in enumerate(zip(forced.ids, forced.points, strict=True)):
        if x.shape[:2] != ids.shape:
            raise ValueError(
                f"the layer returns {tuple(x.shape)} for {ids.shape[1]} tokens; wanted a position "
                "for each: pass the word embedding"
            )
        mask = len(places) + torch.arange(ids.shape[1], device=x.device)[None]
        for number, (tensor, positions) in enumerate(places):
            if tensor == n:
                mask[0, positions] = number
        moving = mask < len(places)
        baseline = families[n](ids, moving.to(ids.device), [])
        b = baseline if baseline.dim() > 2 else forced.embed(n, baseline)
        baselines.append(torch.where(moving.view(*moving.shape, *[1] * (x.dim() - 2)), b.to(x), x))
        masks.append(mask)
    return WordPaths.between(forced.points, tuple(baselines), tuple(masks))


def _hook_error(effects: WordEffects, forced: TeacherForced) -> Tensor:
    """Return by how much the hook changes the target's log-probability, ()."""
    if effects.value_at_input is None:
        return torch.zeros((), dtype=torch.float64)
    return (_wide(effects.value_at_input) - _wide(forced.unchanged)).nansum()


def rows_in_pass(forced: TeacherForced, n_rows: int) -> int:
    """Choose the number of rows in a pass, unless the caller does.

    It is limited by memory. If rows share what stands before their words, it is small enough that
    groups begin at different words, and large enough to keep the device busy.
    """
    device = "cpu" if forced.points[0].device.type == "cpu" else "cuda"
    bytes_per_row = forced.unchanged.shape[1] * forced.n_ids * 4
    n = min(default_chunk(forced.points), LOGIT_BYTES[device] // bytes_per_row)
    if forced.without_cache is None:
        enough = LEAST_TOKENS[device] // forced.ids[0].shape[1]
        n = min(n, max(math.ceil(n_rows / GROUPS), enough))
    return max(1, n)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()

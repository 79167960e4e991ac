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

from captum_sig.attr.arguments import words_in_contexts
from captum_sig.attr.chunks import default_chunk
from captum_sig.attr.function import RowFunction, Tensors
from captum_sig.attr.integrals import Integrate
from captum_sig.attr.problem import Problem, WordEffects, plain_tensors
from captum_sig.attr.word_paths import WordPaths
from captum_sig.baselines.families import Family
from captum_sig.contexts import Contexts
from captum_sig.explainers.interactions import interactions, joint_effects, strongest
from captum_sig.explainers.results import Interaction
from captum_sig.explainers.teacher_forcing import (
    TeacherForced,
    TokenFunction,
    least_tokens,
    with_sum,
)

Place = tuple[int, list[int]]  # number of the moving tensor, and positions in it

# Bytes of float32 logits in a pass: besides the moving activations, what takes most memory.
LOGIT_BYTES = {"cpu": 2**24, "cuda": 2**30}
GROUPS = 8  # passes that begin at different words; more would begin only slightly later on average
# Positions of a pass's rows, half of which a prefix leaves out on average: what is fast on a CPU.
CACHED_POSITIONS = {"cpu": 1536}


@dataclass(frozen=True)
class MatrixOptions:
    """What to compute, and how."""

    attribute_target: bool
    contexts: Contexts | None  # None is the input
    interactions: int | None  # between how many of the prompt's strongest words
    integrate: Integrate | None  # how to integrate the gradient, if at all
    max_rows: int | None
    show_progress: bool


@dataclass(frozen=True)
class TargetMatrix:
    """Effects of words on target tokens; float64 on the CPU, see `GenerationAttribution`."""

    matrix: Tensor  # (T, W)
    word_deltas: Tensor  # (W,)
    first: Tensor | None = None  # (T, W)
    last: Tensor | None = None  # (T, W)
    standard_error: Tensor | None = None  # (T, W)
    sequence_error: Tensor | None = None  # (W,): standard errors of the matrix's sums over T
    residual: float | None = None
    interactions: tuple[Interaction, ...] | None = None  # of the prompt's words
    attributions: Tensor | None = None  # (W, D)
    converged: Tensor | None = None  # (W,)


@plain_tensors()
def target_matrix(
    forced: TeacherForced,
    words: Sequence[list[int]],
    families: Sequence[Family],
    options: MatrixOptions,
) -> TargetMatrix:
    """Move every word of the prompt, and if requested every target token except the last.

    They are words of one game: what "sentence of baselines" and other backgrounds mean includes
    the target's tokens if they move, and leaves them at the input otherwise.

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
    of_tokens = token_problem(forced, places, families, options)
    effects = of_tokens.word_effects()
    result = _of_effects(effects, of_tokens.paths, places, len(words), forced)
    if options.interactions is None and options.integrate is None:
        return result

    def of_sequence(rows: Tensors, example: Tensor) -> Tensor:
        return forced.log_probabilities(rows, example).sum(1)

    sequence = replace(
        of_tokens,
        function=RowFunction(of_sequence, None, of_tokens.function.modules),
        value_at_input=forced.unchanged.sum(1),
    )
    if options.interactions is not None:
        result = replace(
            result,
            interactions=_interactions(sequence, words, result, effects, options.interactions),
        )
    if options.integrate is None:
        return result
    integral, _ = sequence.integral(options.integrate, True)
    by_word = [integral.attributions[n][0, positions].sum(0) for n, positions in places]
    deltas, converged = (
        torch.stack([per_position[n][0, positions[0]] for n, positions in places])
        for per_position in (integral.word_delta, integral.converged)
    )
    return replace(
        result,
        word_deltas=_wide(deltas),
        attributions=_wide(torch.stack(by_word)),
        converged=converged.cpu(),
    )


def token_problem(
    forced: TeacherForced,
    places: Sequence[Place],
    families: Sequence[Family],
    options: MatrixOptions,
) -> Problem:
    """Build the problem in which places move, and F is log p of each target token, and of all."""
    moving = words_in_contexts(*_ends(forced, places, families), options.contexts)
    max_rows = options.max_rows
    if max_rows is None:
        max_rows = rows_in_pass(forced, moving["paths"].n_words + 1)
    return Problem(
        function=TokenFunction(forced.log_probabilities, None, tuple(forced.model.modules())),
        max_rows=max_rows, value_at_input=with_sum(forced.unchanged),
        show_progress=options.show_progress, **moving,
    )  # fmt: skip


def _of_effects(
    effects: WordEffects,  # on each target token, and on all together
    paths: WordPaths,
    places: Sequence[Place],
    n_words: int,
    forced: TeacherForced,
) -> TargetMatrix:
    """Sort words' effects into columns; tokens of the target have none on earlier ones."""
    n_tokens = forced.unchanged.shape[1]
    comes_later = torch.ones(n_tokens + 1, len(places), dtype=torch.bool)
    comes_later[:-1, n_words:].tril_(-1)  # a target token has no effect on itself and before

    def of_places(per_word: Tensor | None) -> Tensor | None:  # (P, T + 1) → (T + 1, W)
        if per_word is None or (len(per_word) > 0 and per_word.isnan().all()):
            return None
        of_tensors = paths.scatter(per_word)
        columns = [of_tensors[n][0, positions[0]] for n, positions in places]
        return _wide(torch.stack(columns, dim=1)).where(comes_later, 0.0)

    matrix, first, last, standard_error = map(
        of_places, (effects.mean, effects.first, effects.last, effects.standard_error)
    )
    assert matrix is not None
    return TargetMatrix(
        matrix=matrix[:-1],
        word_deltas=_hook_error(effects, forced).expand(len(places)).clone(),
        first=None if first is None else first[:-1],
        last=None if last is None else last[:-1],
        standard_error=None if standard_error is None else standard_error[:-1],
        sequence_error=None if standard_error is None else standard_error[-1],
        residual=None if effects.residual is None else float(effects.residual[0, -1]),
    )


def _interactions(
    sequence: Problem,
    words: Sequence[list[int]],
    result: TargetMatrix,
    effects: WordEffects,
    k: int,
) -> tuple[Interaction, ...]:
    """Measure how each two of the k words with the largest scores act on the whole target."""
    chosen = strongest(result.matrix.sum(0)[: len(words)].tolist(), k)
    known = sequence.paths.scatter(effects.left_out[:, -1])[0]  # the prompt's
    joint = joint_effects(sequence, [[words[word][0] for word in chosen]], known)
    return interactions(chosen, joint[0])


def _ends(
    forced: TeacherForced, places: Sequence[Place], families: Sequence[Family]
) -> tuple[Tensors, Tensors, Tensors]:
    """Return input, baseline and feature masks; only the places' positions differ."""
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
    return forced.points, tuple(baselines), tuple(masks)


def _hook_error(effects: WordEffects, forced: TeacherForced) -> Tensor:
    """Return by how much the hook changes the target's log-probability, ()."""
    if effects.value_at_input is None:
        return torch.zeros((), dtype=torch.float64)
    return (_wide(effects.value_at_input[0, -1]) - _wide(forced.unchanged.sum())).nan_to_num(0.0)


def rows_in_pass(forced: TeacherForced, n_rows: int) -> int:
    """Choose the number of rows in a pass, unless the caller does.

    It is limited by memory. If rows share what stands before their words, it is small enough that
    groups begin at different words, and large enough to keep the device busy.
    """
    device = forced.points[0].device
    length = forced.ids[0].shape[1]
    bytes_per_row = forced.unchanged.shape[1] * forced.n_ids * 4
    n = LOGIT_BYTES.get(device.type, LOGIT_BYTES["cuda"]) // bytes_per_row
    n_fitting = default_chunk(forced.points)
    if forced.without_cache is None:
        n = min(n, max(math.ceil(n_rows / GROUPS), least_tokens(device) // length))
        if device.type in CACHED_POSITIONS:
            n_fitting = CACHED_POSITIONS[device.type] // length
    return max(1, min(n, n_fitting))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()

"""Soft-NC and Soft-NS: words lose dimensions of their embedding, more or fewer by their scores.

Zhao & Aletras, "Incorporating Attribution Importance for Improving Faithfulness Metrics", ACL
2023, arXiv 2305.10496. Each of the D dimensions of each token's embedding is kept with the
probability q of its word, and is 0 otherwise. With a, a word's score scaled to [0, 1] within its
text; x′, the text with q = a; x″, the one with q = 1 − a; and x₀, the one whose words are zero:

    drop(y)   max(0, p(target | x) − p(target | y))
    soft_nc   drop(x″) / drop(x₀), at most 1: comprehensiveness    higher is better
    soft_ns   1 − drop(x′) / drop(x₀), at least 0: sufficiency     higher is better

A method whose scores have a larger mean keeps more in x′ and less in x″, however it ranks words.
Huang & Chan, "Faithfulness Evaluation for Decoder-only LLM Attributions with Controlled Retained
Information", 2026, arXiv 2601.03089, therefore compare methods at the same expected probability π
of being kept, and report areas over π:

    pi_soft_nc, pi_soft_ns   the mean of soft_nc and soft_ns over π in `KEPT`, where q has mean π

Only the abstract of that paper was at hand. That q has the mean π is theirs. How scores become such
q is ours, see `with_mean`; figures need not agree with the paper's.

What the papers leave open:

- Scores are scaled by their minimum and maximum, one of the ways in the published code; if all are
  equal, a = 0.5. All tokens of a word have its a.
- Special tokens are never perturbed.
- Quotients are at most 1, as in the published code. Where drop(x₀) = 0, they are 0 or 1: 0 if the
  other drop is 0 too.
- Each is the mean over `n_draws` draws, which depend on the seed and the sentence alone, so that
  methods are compared with the same random numbers.

B sentences, n units and L tokens in one, K draws, D the embedding's width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_sig._numbers import MAX_N_DRAWS, checked_integer
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness.ablations import Row, row_ids
from captum_sig.faithfulness.rows import (
    MAX_TOKENS,
    Predict,
    RowOptions,
    Scores,
    Sentences,
    checked_scores,
    table_with_original,
)
from captum_sig.words.encoding import Sentence

if TYPE_CHECKING:
    from typing_extensions import Unpack

KEPT = (0.1, 0.3, 0.5, 0.7, 0.9)  # π: the middles of five equal parts of [0, 1]

Keep = Callable[[Tensor], Tensor]  # scores in [0, 1] of tokens, (m,) → probabilities to be kept


class SoftOptions(RowOptions, total=False):
    """Optional arguments of these metrics; see `RowOptions` too."""

    n_draws: int  # K
    seed: int


def soft_nc(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[SoftOptions]
) -> Tensor:
    """Compute soft normalised comprehensiveness, in [0, 1]; higher is better.

    Args:
        predict: maps (R, L) ids to (R, C) log-probabilities, with a parameter `scale`, as an
            explainer's `log_probabilities`.
        sentences: B sentences of any lengths.
        scores: a number for each unit of each sentence; higher is more important for the target.
        options: see `SoftOptions`.

    Returns:
        (B,) in float64 on the CPU.

    Raises:
        TypeError: if an argument is of a kind that cannot be read, or `predict` cannot scale.
        ValueError: if scores are NaN, infinite or not one per unit, or a number is too small.
    """
    return _fraction_lost(predict, sentences, scores, [_one_minus], **options).mean(1)


def soft_ns(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[SoftOptions]
) -> Tensor:
    """Compute soft normalised sufficiency, in [0, 1]; higher is better.

    Arguments, result and errors are those of `soft_nc`.
    """
    return 1 - _fraction_lost(predict, sentences, scores, [torch.clone], **options).mean(1)


def pi_soft_nc(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[SoftOptions]
) -> Tensor:
    """Compute the mean of `soft_nc` over the expected fractions kept in `KEPT`; higher is better.

    Arguments, result and errors are those of `soft_nc`.
    """
    keeps = [partial(_least_important, mean=mean) for mean in KEPT]
    return _fraction_lost(predict, sentences, scores, keeps, **options).mean(1)


def pi_soft_ns(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[SoftOptions]
) -> Tensor:
    """Compute the mean of `soft_ns` over the expected fractions kept in `KEPT`; higher is better.

    Arguments, result and errors are those of `soft_nc`.
    """
    keeps = [partial(with_mean, mean=mean) for mean in KEPT]
    return 1 - _fraction_lost(predict, sentences, scores, keeps, **options).mean(1)


def with_mean(scores: Tensor, mean: float) -> Tensor:
    """Map scores in [0, 1] to probabilities of this mean, in the same order, (m,) → (m,).

    They are c · a if the mean falls, and 1 − c · (1 − a) if it rises: linear, and within [0, 1].

    >>> with_mean(torch.tensor([0.0, 0.5, 1.0]), mean=0.25)
    tensor([0.0000, 0.2500, 0.5000])
    >>> with_mean(torch.tensor([0.0, 0.5, 1.0]), mean=0.75)
    tensor([0.5000, 0.7500, 1.0000])
    """
    own = scores.mean()
    if mean <= own:
        return scores * (mean / own)
    return 1 - (1 - scores) * ((1 - mean) / (1 - own))


def _one_minus(scores: Tensor) -> Tensor:
    return 1 - scores


def _least_important(scores: Tensor, mean: float) -> Tensor:
    return with_mean(1 - scores, mean)


def _fraction_lost(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    keeps: Sequence[Keep],
    n_draws: int = 5,
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
    original: Iterable[float] | Tensor | None = None,
) -> Tensor:
    """Compute min(1, drop(x′) / drop(x₀)), the mean over the draws, (B, number of `keeps`)."""
    n_draws = checked_integer("n_draws", n_draws, most=MAX_N_DRAWS)
    seed = checked_integer("seed", seed, 0)
    sentences = list(sentences)
    cells = []
    for sentence, values in zip(sentences, checked_scores(sentences, scores), strict=True):
        line = [[_zeroed(sentence)]]
        for keep in keeps:
            probabilities = _probabilities(sentence, values, keep)
            line.append([_perturbed(sentence, probabilities, seed, k) for k in range(n_draws)])
        cells.append([(sentence, rows) for rows in line])
    before, after = table_with_original(predict, sentences, cells, max_tokens, original)
    drops = (before.exp() - after.exp()).clamp(min=0)  # (B, 1 + keeps, K)
    whole, parts = drops[:, :1, :1], drops[:, 1:]
    return torch.where(parts == 0, 0, parts / whole).clamp(max=1).mean(2)


def _probabilities(sentence: Sentence, scores: Tensor, keep: Keep) -> Tensor:
    """Return the probability of each token's dimensions to be kept, (L,); 1 of special tokens."""
    units = sentence.units.cpu().long()
    probabilities = torch.ones(len(units), dtype=torch.float64)
    if sentence.n_units:
        if not scores.isfinite().all():
            raise ValueError(f"soft metrics need finite scores, got {scores.tolist()}")
        low, high = scores.min(), scores.max()
        scaled = torch.full_like(scores, 0.5) if low == high else (scores - low) / (high - low)
        probabilities[units >= 0] = keep(scaled[units[units >= 0]]).clamp(0, 1)
    return probabilities


def _zeroed(sentence: Sentence) -> Row:
    """Return the row whose words are zero vectors."""
    special = (sentence.units.cpu() < 0).double()[:, None]
    return _row(sentence, lambda width: special.expand(-1, width))


def _perturbed(sentence: Sentence, probabilities: Tensor, seed: int, draw: int) -> Row:
    """Return the row whose dimensions are kept at random, by the draw of this number."""

    def scale(width: int) -> Tensor:
        key = " ".join(map(str, [draw, *sentence.ids.tolist()]))
        shape = len(probabilities), width
        uniform = torch.rand(shape, generator=text_generator(key, seed), dtype=torch.float64)
        return (uniform < probabilities[:, None]).double()

    return _row(sentence, scale)


def _row(sentence: Sentence, scale: Callable[[int], Tensor]) -> Row:
    ids = row_ids(sentence)
    return Row(ids, ids, torch.arange(len(ids)), scale)

"""Faithfulness of word scores: how the prediction changes without the top-scored words.

    log_odds           log p(target | top units replaced) − log p(target | x)   lower is better
    comprehensiveness  p(target | x) − p(target | top units removed)            higher is better
    sufficiency        p(target | x) − p(target | only top units kept)          lower is better
    ablation_auc       mean p(target | …) while unit after unit is replaced     lower is better
    soft_nc, soft_ns, pi_soft_nc, pi_soft_ns       see `captum_sig.faithfulness.soft`

Sources: ERASER (DeYoung et al. 2020, arXiv 1911.03429), DIG (Sanyal & Ren 2021, arXiv 2108.13654),
SIG (Enguehard 2023, arXiv 2305.15853). Where they leave details open, these rules apply:

- The fraction k of n units is max(1, ⌊k n⌋) units. DIG's published code takes ⌊k L⌋ of all L
  tokens, special ones included: it may take none, and may take [CLS].
- Special tokens (unit −1) are never ablated, removed or counted. Of equal scores, the earlier one
  ranks higher.
- A replaced unit changes at the embedding if `predict` can do that (see `log_odds`): the model
  still receives the sentence's own ids, so that positions, masks and pooling stay. Removing a unit
  shortens the row. `ablation` overrides what a metric does with the units. Where it gives several
  rows for a sentence, such as samples, the metric is the mean over them: of log-probabilities for
  log_odds, of probabilities for all others.
- In a pair of texts, units of both are ablated alike. The tokens that separate and end the texts
  are special: they stay, and each remaining token keeps its token type.
- For a model whose labels do not exclude each other, p(target) is that label's own probability,
  the sigmoid of its logit, and other labels do not enter.
- A row of which nothing would remain becomes a single `replacement`. For a sentence without any
  unit, all differences are 0.
- Where p(target) is 0 before and after, the log-odds do not change: 0.

B sentences; L tokens and n units in one; R rows of a forward pass; C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from captum_sig._names import AblationName, MetricName
from captum_sig.faithfulness.ablations import Ablated, Ablation, ablation_of
from captum_sig.faithfulness.rows import (
    MAX_TOKENS,
    Predict,
    RowOptions,
    Scores,
    Sentences,
    checked_scores,
    table_with_original,
)
from captum_sig.faithfulness.soft import pi_soft_nc, pi_soft_ns, soft_nc, soft_ns
from captum_sig.words.encoding import Sentence

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


BINS = (0.01, 0.05, 0.1, 0.2, 0.5)  # ERASER's fractions
ROUNDING = 1e-9  # 0.29 · 100 is 28.999999999999996
SPECIAL = torch.iinfo(torch.long).max  # rank of tokens that are never ablated


class Extra(RowOptions, total=False):
    """Optional arguments of the metrics that delete words; see `RowOptions` too."""

    # a name in `ABLATIONS`, or a function such as `MaskedLmSamples`; None is the metric's own
    ablation: AblationName | Ablation | None


def log_odds(
    predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Unpack[Extra]
) -> Tensor:
    """Compute log p(target | top k replaced) − log p(target | x), in nats; lower is better.

    Args:
        predict: maps (R, L) ids, on the device of the sentences' ids, to (R, C) log-probabilities;
            called without gradients. If it has a parameter `replaced`, as an explainer's
            `log_probabilities`, it receives the sentences' own ids, and as `replaced=` those whose
            embeddings are to take their place. Without one, it receives the replaced ids. If it has
            a parameter `inputs`, it receives the sentences' own `inputs=`, (R, L) by name; else the
            ids are all that it receives.
        sentences: B sentences of any lengths.
        scores: a number for each unit of each sentence; higher is more important for the target.
        k: the fraction of the units, in (0, 1].
        options: `max_tokens`, `original` and `ablation`, see `Extra`.

    Returns:
        (B,) in float64 on the CPU.

    Raises:
        TypeError: if an argument is of a kind that cannot be read.
        ValueError: if scores are NaN or not one per unit, the fraction is outside (0, 1], the
            ablation is unknown, or the predictions are not log-probabilities.

    >>> def predict(ids):  # id 2 speaks for class 1
    ...     logit = 3.0 * (ids == 2).any(1)
    ...     return torch.stack([-logit, logit], dim=1).log_softmax(1)
    >>> sentence = Sentence(torch.tensor([7, 2]), torch.tensor([0, 1]), target=1, replacement=0)
    >>> log_odds(predict, [sentence, sentence], scores=[[0.1, 0.9], [0.9, 0.1]])
    tensor([-0.6907,  0.0000], dtype=torch.float64)
    """
    before, after = _table(predict, sentences, scores, _top, _sizes([k]), "replace", **options)
    changes = torch.where(after == before, 0, after - before)  # −∞ on both sides is no change
    return changes.nanmean(2).mean(1)


def comprehensiveness(
    predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Unpack[Extra]
) -> Tensor:
    """Compute p(target | x) − p(target | top k removed); higher is better.

    Arguments, result and errors are those of `log_odds`.
    """
    return aopc_comprehensiveness(predict, sentences, scores, [k], **options)


def sufficiency(
    predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Unpack[Extra]
) -> Tensor:
    """Compute p(target | x) − p(target | only top k kept); lower is better.

    Arguments, result and errors are those of `log_odds`.
    """
    return aopc_sufficiency(predict, sentences, scores, [k], **options)


def aopc_comprehensiveness(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    bins: Iterable[float] = BINS,
    **options: Unpack[Extra],
) -> Tensor:
    """Average `comprehensiveness` over the fractions `bins`; higher is better.

    This is what ERASER's code computes. Its formula has one more bin, which removes nothing and
    counts as 0: it yields |bins| / (|bins| + 1) times the value here.
    """
    before, after = _table(predict, sentences, scores, _top, _sizes(bins), "remove", **options)
    return (before.exp() - after.exp()).nanmean(2).mean(1)


def aopc_sufficiency(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    bins: Iterable[float] = BINS,
    **options: Unpack[Extra],
) -> Tensor:
    """Average `sufficiency` over the fractions `bins`; lower is better.

    This is what ERASER's code computes. Its formula has one more bin, which keeps no unit: it is
    the same for all scores of a sentence, and left out here.
    """
    before, after = _table(predict, sentences, scores, _rest, _sizes(bins), "remove", **options)
    return (before.exp() - after.exp()).nanmean(2).mean(1)


def ablation_curve(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[Extra]
) -> Tensor:
    """Compute p(target) after the j top-scored units are replaced, (B, N + 1) for j = 0 … N.

    N is the largest n; shorter sentences are padded with NaN. Arguments are those of `log_odds`.
    """
    before, after = _table(predict, sentences, scores, _top, _every_size, "replace", **options)
    return torch.cat([before[:, 0].exp(), after.exp().nanmean(2)], dim=1)


def ablation_auc(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[Extra]
) -> Tensor:
    """Compute the area under `ablation_curve`, with the units spread over [0, 1]; lower is better.

    The trapezoidal rule is used; a sentence without any unit has p(target | x).
    """
    curve = ablation_curve(predict, sentences, scores, **options)
    steps = (curve[:, 1:] + curve[:, :-1]) / 2
    return torch.where(steps.isnan().all(1), curve[:, 0], steps.nanmean(1))


@dataclass(frozen=True)
class Metric:
    """A metric and how to read it; called as (predict, sentences, scores, k)."""

    function: Callable[..., Tensor]
    better: Literal["lower", "higher"]
    unit: Literal["nats", "probability", "fraction"] = "probability"
    uses_k: bool = True  # False: it averages over many fractions, and is the same for every k
    # None: it perturbs embeddings, and takes `n_draws` and `seed` in place of an ablation
    own_ablation: AblationName | None = "remove"

    def __call__(
        self, predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Any
    ) -> Tensor:
        """Return the function's result, (B,); check k even if it is not used."""
        _sizes([k])
        fraction = {"k": k} if self.uses_k else {}
        return self.function(predict, sentences, scores, **fraction, **options)


METRICS: dict[MetricName, Metric] = {
    "log_odds": Metric(log_odds, "lower", "nats", own_ablation="replace"),
    "comprehensiveness": Metric(comprehensiveness, "higher"),
    "sufficiency": Metric(sufficiency, "lower"),
    "aopc_comprehensiveness": Metric(aopc_comprehensiveness, "higher", uses_k=False),
    "aopc_sufficiency": Metric(aopc_sufficiency, "lower", uses_k=False),
    "ablation_auc": Metric(ablation_auc, "lower", uses_k=False, own_ablation="replace"),
    "soft_nc": Metric(soft_nc, "higher", "fraction", uses_k=False, own_ablation=None),
    "soft_ns": Metric(soft_ns, "higher", "fraction", uses_k=False, own_ablation=None),
    "pi_soft_nc": Metric(pi_soft_nc, "higher", "fraction", uses_k=False, own_ablation=None),
    "pi_soft_ns": Metric(pi_soft_ns, "higher", "fraction", uses_k=False, own_ablation=None),
}


def _top(rank: Tensor, size: int) -> Tensor:
    return rank < size


def _rest(rank: Tensor, size: int) -> Tensor:
    return (rank >= size) & (rank != SPECIAL)


def _sizes(bins: Iterable[float]) -> Callable[[int], Sequence[int]]:
    """Return the function from n to the number of units in each fraction of n units."""
    try:
        fractions = [float(k) for k in bins]
    except (TypeError, ValueError):
        raise TypeError(f"bins must be several numbers such as {BINS}, got {bins!r}") from None
    if not fractions or not all(0 < k <= 1 for k in fractions):
        raise ValueError(f"fractions of the units must lie in (0, 1], got {fractions}")
    return lambda n: [min(n, max(1, math.floor(k * n + ROUNDING))) for k in fractions]


def _every_size(n: int) -> Sequence[int]:
    return range(1, n + 1)


def _ranks(sentence: Sentence, values: Tensor) -> Tensor:  # (L,)
    """Return 0 for tokens of the top-scored unit, 1 for the next, SPECIAL for special tokens."""
    n = sentence.n_units
    rank = torch.full((n + 1,), SPECIAL)  # unit -1 indexes the last
    rank[values.argsort(descending=True, stable=True)] = torch.arange(n)
    return rank[sentence.units.cpu().long()]


def _table(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    select: Callable[[Tensor, int], Tensor],  # ranks (L,), top size → what is ablated, (L,)
    sizes: Callable[[int], Sequence[int]],
    own_ablation: AblationName,
    max_tokens: int = MAX_TOKENS,
    original: Iterable[float] | Tensor | None = None,
    ablation: AblationName | Ablation | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute log p(target) of x, (B, 1, 1), and of its ablations, (B, most sizes, most rows).

    NaN fills the shorter lines, and the cells of fewer rows.
    """
    ablate = ablation_of(ablation, own_ablation)
    sentences = list(sentences)
    requests: list[Ablated] = []
    numbers = []  # of cells
    for sentence, values in zip(sentences, checked_scores(sentences, scores), strict=True):
        rank, of_sizes = _ranks(sentence, values), sizes(sentence.n_units)
        requests += [(sentence, select(rank, size)) for size in of_sizes]
        numbers.append(len(of_sizes))
    rows = iter(ablate(requests))
    cells = [
        [(sentence, next(rows)) for _ in range(n)]
        for sentence, n in zip(sentences, numbers, strict=True)
    ]
    before, after = table_with_original(predict, sentences, cells, max_tokens, original)
    for b, (sentence, n) in enumerate(zip(sentences, numbers, strict=True)):
        if sentence.n_units == 0:
            after[b, :n, :1] = before[b]
    return before, after

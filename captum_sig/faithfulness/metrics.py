"""Faithfulness of word scores: how the prediction changes when the top-scored words are removed.

    log_odds           log p(target | top units replaced) − log p(target | x)   lower is better
    comprehensiveness  p(target | x) − p(target | top units removed)            higher is better
    sufficiency        p(target | x) − p(target | only top units kept)          lower is better
    ablation_auc       mean p(target | …) while unit after unit is replaced     lower is better

Sources: ERASER (DeYoung et al. 2020, arXiv 1911.03429), DIG (Sanyal & Ren 2021, arXiv 2108.13654),
SIG (Enguehard 2023, arXiv 2305.15853). Where they leave details open, these rules apply:

- The fraction k of n units is max(1, ⌊k n⌋) units. DIG's published code takes ⌊k L⌋ of all L
  tokens, special ones included: it may take none, and may take [CLS].
- Special tokens (unit −1) are never ablated, removed or counted. Of equal scores, the earlier one
  ranks higher.
- A row of which nothing would remain becomes a single `replacement`. For a sentence without any
  unit, all differences are 0.

B sentences; L tokens and n units in one; R rows of a forward pass; C classes. The rows of a pass
have the same length, so that the model never sees padding; equal rows are evaluated once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from captum_sig._names import MetricName
from captum_sig.attr.chunks import Chunks
from captum_sig.words.encoding import Sentence

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


Predict = Callable[[Tensor], Tensor]  # (R, L) ids, no padding → (R, C) log-probabilities
Sentences = Sequence[Sentence]
Scores = Sequence[Sequence[float] | Tensor] | Tensor  # B times n numbers, in order of the units
Ablate = Callable[[Tensor, Tensor, int, int], Tensor]  # ids, ranks, top size, replacement → row

MAX_TOKENS = 2**14  # in a forward pass
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)  # ERASER's fractions
ROUNDING = 1e-9  # 0.29 · 100 is 28.999999999999996
MAX_LOG_PROBABILITY = 1e-3  # not 0: the logarithm of a rounded 1 may exceed it
SPECIAL = torch.iinfo(torch.long).max  # rank of tokens that are never ablated


class Extra(TypedDict, total=False):
    """Optional arguments of every metric."""

    max_tokens: int  # the most tokens in a forward pass; a longer row goes alone
    original: Tensor | None  # (B,) log p(target | x) if known, as from `log_probabilities`


def log_odds(
    predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Unpack[Extra]
) -> Tensor:
    """Compute log p(target | top k replaced) − log p(target | x), in nats; lower is better.

    Args:
        predict: maps (R, L) ids, on the device of the sentences' ids, to (R, C) log-probabilities;
            called without gradients.
        sentences: B sentences of any lengths.
        scores: a number for each unit of each sentence; higher is more important for the target.
        k: the fraction of the units, in (0, 1].
        options: `max_tokens` and `original`, see `Extra`.

    Returns:
        (B,) in float64 on the CPU.

    Raises:
        ValueError: if scores are NaN or not one per unit, the fraction is outside (0, 1], or the
            predictions are not log-probabilities.

    >>> def predict(ids):  # id 2 speaks for class 1
    ...     logit = 3.0 * (ids == 2).any(1)
    ...     return torch.stack([-logit, logit], dim=1).log_softmax(1)
    >>> sentence = Sentence(torch.tensor([7, 2]), torch.tensor([0, 1]), target=1, replacement=0)
    >>> log_odds(predict, [sentence, sentence], scores=[[0.1, 0.9], [0.9, 0.1]])
    tensor([-0.6907,  0.0000], dtype=torch.float64)
    """
    table = _table(predict, sentences, scores, _replaced, _sizes([k]), **options)
    return table[:, -1] - table[:, 0]


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
    bins: Sequence[float] = BINS,
    **options: Unpack[Extra],
) -> Tensor:
    """Average `comprehensiveness` over the fractions `bins`; higher is better.

    This is what ERASER's code computes. Its formula has one more bin, which removes nothing and
    counts as 0: it yields |bins| / (|bins| + 1) times the value here.
    """
    table = _table(predict, sentences, scores, _removed, _sizes(bins), **options).exp()
    return (table[:, :1] - table[:, 1:]).mean(1)


def aopc_sufficiency(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    bins: Sequence[float] = BINS,
    **options: Unpack[Extra],
) -> Tensor:
    """Average `sufficiency` over the fractions `bins`; lower is better.

    This is what ERASER's code computes. Its formula has one more bin, which keeps no unit: it is
    the same for all scores of a sentence, and left out here.
    """
    table = _table(predict, sentences, scores, _kept, _sizes(bins), **options).exp()
    return (table[:, :1] - table[:, 1:]).mean(1)


def ablation_curve(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[Extra]
) -> Tensor:
    """Compute p(target) after the j top-scored units are replaced, (B, N + 1) for j = 0 … N.

    N is the largest n; shorter sentences are padded with NaN. Arguments are those of `log_odds`.
    """
    return _table(predict, sentences, scores, _replaced, lambda n: range(1, n + 1), **options).exp()


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
    unit: Literal["nats", "probability"] = "probability"
    uses_k: bool = True  # False: it averages over many fractions, and is the same for every k

    def __call__(
        self, predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Any
    ) -> Tensor:
        """Return the function's result, (B,); check k even if it is not used."""
        _sizes([k])
        fraction = {"k": k} if self.uses_k else {}
        return self.function(predict, sentences, scores, **fraction, **options)


METRICS: dict[MetricName, Metric] = {
    "log_odds": Metric(log_odds, "lower", "nats"),
    "comprehensiveness": Metric(comprehensiveness, "higher"),
    "sufficiency": Metric(sufficiency, "lower"),
    "aopc_comprehensiveness": Metric(aopc_comprehensiveness, "higher", uses_k=False),
    "aopc_sufficiency": Metric(aopc_sufficiency, "lower", uses_k=False),
    "ablation_auc": Metric(ablation_auc, "lower", uses_k=False),
}


def log_probabilities(
    predict: Predict, sentences: Sentences, max_tokens: int = MAX_TOKENS
) -> Tensor:
    """Compute log p(target | x), (B,), which several metrics can share as `original`."""
    return _target_log_probabilities(
        predict, [(sentence, sentence.ids.cpu().long()) for sentence in sentences], max_tokens
    )


def _replaced(ids: Tensor, rank: Tensor, size: int, replacement: int) -> Tensor:
    return torch.where(rank < size, replacement, ids)


def _removed(ids: Tensor, rank: Tensor, size: int, replacement: int) -> Tensor:
    return ids[rank >= size] if bool((rank >= size).any()) else ids.new_tensor([replacement])


def _kept(ids: Tensor, rank: Tensor, size: int, replacement: int) -> Tensor:
    return ids[(rank < size) | (rank == SPECIAL)]


def _sizes(bins: Sequence[float]) -> Callable[[int], Sequence[int]]:
    """Return the function from n to the number of units in each fraction of n units."""
    if not bins or not all(0 < k <= 1 for k in bins):
        raise ValueError(f"fractions of the units must lie in (0, 1], got {list(bins)}")
    return lambda n: [min(n, max(1, math.floor(k * n + ROUNDING))) for k in bins]


def _ranks(number: int, sentence: Sentence, scores: Sequence[float] | Tensor) -> Tensor:  # (L,)
    """Return 0 for tokens of the top-scored unit, 1 for the next, SPECIAL for special tokens."""
    n = sentence.n_units
    numbers = scores.tolist() if isinstance(scores, Tensor) else list(scores)
    values = torch.tensor(numbers, dtype=torch.float64)
    if values.shape != (n,) or values.isnan().any():
        raise ValueError(f"sentence {number} needs {n} scores other than NaN, got {numbers}")
    rank = torch.full((n + 1,), SPECIAL)  # unit -1 indexes the last
    rank[values.argsort(descending=True, stable=True)] = torch.arange(n)
    return rank[sentence.units.cpu().long()]


def _table(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    ablate: Ablate,
    sizes: Callable[[int], Sequence[int]],
    max_tokens: int = MAX_TOKENS,
    original: Tensor | None = None,
) -> Tensor:
    """Compute log p(target) of x and of its ablations, (B, 1 + most sizes); the rest is NaN."""
    for name, values in (("scores", scores), ("original", original)):
        if values is not None and len(values) != len(sentences):
            raise ValueError(f"{name} has {len(values)} entries for {len(sentences)} sentences")
    widest = max((len(sizes(sentence.n_units)) for sentence in sentences), default=0)
    table = torch.full((len(sentences), 1 + widest), torch.nan, dtype=torch.float64)
    cells: list[int] = []  # each row's index in the flattened table
    rows: list[tuple[Sentence, Tensor]] = []
    for b, (sentence, sentence_scores) in enumerate(zip(sentences, scores, strict=True)):
        ids, rank = sentence.ids.cpu().long(), _ranks(b, sentence, sentence_scores)
        for column, size in enumerate([0, *sizes(sentence.n_units)]):
            if original is not None and size == 0:
                table[b, column] = original[b]
                continue
            rows.append((sentence, ablate(ids, rank, size, sentence.replacement) if size else ids))
            cells.append(b * (1 + widest) + column)
    table.view(-1)[cells] = _target_log_probabilities(predict, rows, max_tokens)
    return table


def _target_log_probabilities(
    predict: Predict, rows: list[tuple[Sentence, Tensor]], max_tokens: int
) -> Tensor:  # (R,)
    """Compute log p(target | row): rows of one length together, equal rows once."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    results = torch.empty(len(rows), dtype=torch.float64)
    targets = torch.tensor([sentence.target for sentence, _ in rows])
    lengths = torch.tensor([len(row) for _, row in rows])
    for length in lengths.unique().tolist():
        indices = (lengths == length).nonzero()[:, 0]
        ids, inverse = torch.stack([rows[i][1] for i in indices]).unique(dim=0, return_inverse=True)

        def forward(part: slice, ids: Tensor = ids) -> tuple[Tensor]:
            return (predict(ids[part].to(rows[0][0].ids.device)).cpu(),)

        with torch.no_grad(), Chunks((ids,), max(1, max_tokens // length), False) as chunks:
            log_p = torch.cat([result for _, (result,) in chunks.map(forward, len(ids))])
        n_rows, last = len(ids), targets[indices].max()
        shape_fits = log_p.dim() == 2 and len(log_p) == n_rows and log_p.shape[1] > last
        if not (shape_fits and log_p.max() <= MAX_LOG_PROBABILITY):
            raise ValueError(
                f"predict gave {tuple(log_p.shape)}, up to {log_p.max():.3g}; wanted ({n_rows}, "
                f"C > {last}), up to 0: log-probabilities as from log_softmax"
            )
        results[indices] = log_p[inverse, targets[indices]].double()
    return results

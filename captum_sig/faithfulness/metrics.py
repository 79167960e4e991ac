"""Faithfulness of word scores: what the model says without the words that are scored highest.

    log_odds           log p(target | top units replaced) − log p(target | x)   lower is better
    comprehensiveness  p(target | x) − p(target | top units removed)            higher is better
    sufficiency        p(target | x) − p(target | only top units kept)          lower is better
    ablation_auc      mean p(target | …) while unit after unit is replaced     lower is better

Sources: ERASER (DeYoung et al. 2020, arXiv 1911.03429), DIG (Sanyal & Ren 2021, arXiv 2108.13654),
SIG (Enguehard 2023, arXiv 2305.15853). What they leave open is settled here:

- The share k of n units is max(1, ⌊k n⌋) units. DIG's published code takes ⌊k L⌋ of all L tokens,
  special ones included: it may take none, and may take [CLS].
- Special tokens (unit −1) are never ablated, removed or counted. Of equal scores, the earlier one
  counts as the higher.
- A row of which nothing would remain is a single `replacement`. A sentence without any unit has
  differences of 0.

B sentences, L tokens and n units in one, R rows of a forward pass, C classes. The rows of a pass
have the same length, so that no model sees padding; equal rows are evaluated once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from captum_sig.attr.chunks import Chunks
from captum_sig.words.encoding import Sentence

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


Predict = Callable[[Tensor], Tensor]  # (R, L) ids, no padding → (R, C) log-probabilities
Sentences = Sequence[Sentence]
Scores = Sequence[Sequence[float] | Tensor] | Tensor  # B times n numbers, in order of the units
Ablate = Callable[[Tensor, Tensor, int, int], Tensor]  # ids, ranks, how many, replacement → row

TOKENS = 2**14  # of a forward pass
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)  # ERASER's shares
ROUNDING = 1e-9  # 0.29 · 100 is 28.999999999999996
NO_LOG = 1e-3  # probabilities of 1, rounded, have logarithms below this
SPECIAL = torch.iinfo(torch.long).max  # rank of tokens that are never ablated


class Extra(TypedDict, total=False):
    """Further arguments of every metric."""

    max_tokens: int  # most tokens in a forward pass; a longer row goes alone
    original: Tensor | None  # (B,) log p(target | x) if known, as from `log_probabilities`


def log_odds(
    predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Unpack[Extra]
) -> Tensor:
    """Log p(target | top k replaced) − log p(target | x), in nats; lower is better.

    Args:
        predict: (R, L) ids, where the sentences' are → (R, C) log-probabilities. No gradients.
        sentences: B sentences of any lengths.
        scores: a number for each unit of each sentence; higher is more important for the target.
        k: share of the units, in (0, 1].
        options: `max_tokens` and `original`, see `Extra`.

    Returns:
        (B,) in float64 on the CPU.

    Raises:
        ValueError: for scores that are NaN or not one per unit, a share outside (0, 1], or
            predictions that are no log-probabilities.

    >>> def predict(ids):  # id 2 says class 1
    ...     logit = 3.0 * (ids == 2).any(1)
    ...     return torch.stack([-logit, logit], dim=1).log_softmax(1)
    >>> sentence = Sentence(torch.tensor([7, 2]), torch.tensor([0, 1]), target=1, replacement=0)
    >>> log_odds(predict, [sentence, sentence], scores=[[0.1, 0.9], [0.9, 0.1]])
    tensor([-0.6907,  0.0000], dtype=torch.float64)
    """
    table = _table(predict, sentences, scores, _replaced, _shares([k]), **options)
    return table[:, -1] - table[:, 0]


def comprehensiveness(
    predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Unpack[Extra]
) -> Tensor:
    """p(target | x) − p(target | top k removed); higher is better. Otherwise as `log_odds`."""
    return aopc_comprehensiveness(predict, sentences, scores, [k], **options)


def sufficiency(
    predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Unpack[Extra]
) -> Tensor:
    """p(target | x) − p(target | only top k kept); lower is better. Otherwise as `log_odds`."""
    return aopc_sufficiency(predict, sentences, scores, [k], **options)


def aopc_comprehensiveness(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    bins: Sequence[float] = BINS,
    **options: Unpack[Extra],
) -> Tensor:
    """Mean of `comprehensiveness` over the shares `bins`; higher is better.

    This is what ERASER's code computes. Its formula has one bin more, which removes nothing and
    counts as 0: that is |bins| / (|bins| + 1) times the value here.
    """
    table = _table(predict, sentences, scores, _removed, _shares(bins), **options).exp()
    return (table[:, :1] - table[:, 1:]).mean(1)


def aopc_sufficiency(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    bins: Sequence[float] = BINS,
    **options: Unpack[Extra],
) -> Tensor:
    """Mean of `sufficiency` over the shares `bins`; lower is better.

    This is what ERASER's code computes. Its formula has one bin more, which keeps no unit: the same
    for all scores of a sentence, and left out here.
    """
    table = _table(predict, sentences, scores, _kept, _shares(bins), **options).exp()
    return (table[:, :1] - table[:, 1:]).mean(1)


def ablation_curve(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[Extra]
) -> Tensor:
    """p(target) after the j highest scored units are replaced, (B, N + 1) for j = 0 … N.

    N is the largest n; NaN stands behind a sentence's last unit. Otherwise as `log_odds`.
    """
    return _table(predict, sentences, scores, _replaced, lambda n: range(1, n + 1), **options).exp()


def ablation_auc(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[Extra]
) -> Tensor:
    """Area under `ablation_curve`, trapezoids over units spread on 0 … 1; lower is better.

    p(target | x) for a sentence without any unit.
    """
    curve = ablation_curve(predict, sentences, scores, **options)
    steps = (curve[:, 1:] + curve[:, :-1]) / 2
    return torch.where(steps.isnan().all(1), curve[:, 0], steps.nanmean(1))


@dataclass(frozen=True)
class Metric:
    """A metric with what a table says about it; called as (predict, sentences, scores, k)."""

    function: Callable[..., Tensor]
    better: Literal["lower", "higher"]
    unit: Literal["nats", "probability"] = "probability"
    uses_k: bool = True  # False: it sums over many shares, and is the same for every k

    def __call__(
        self, predict: Predict, sentences: Sentences, scores: Scores, k: float = 0.2, **options: Any
    ) -> Tensor:
        """(B,), as the function gives it."""
        _shares([k])  # refuses what is no share, used or not
        share = {"k": k} if self.uses_k else {}
        return self.function(predict, sentences, scores, **share, **options)


METRICS: dict[str, Metric] = {
    "log_odds": Metric(log_odds, "lower", "nats"),
    "comprehensiveness": Metric(comprehensiveness, "higher"),
    "sufficiency": Metric(sufficiency, "lower"),
    "aopc_comprehensiveness": Metric(aopc_comprehensiveness, "higher", uses_k=False),
    "aopc_sufficiency": Metric(aopc_sufficiency, "lower", uses_k=False),
    "ablation_auc": Metric(ablation_auc, "lower", uses_k=False),
}


def log_probabilities(predict: Predict, sentences: Sentences, max_tokens: int = TOKENS) -> Tensor:
    """Log p(target | x), (B,): the `original` that several metrics can share."""
    return _ask(predict, [(s, s.ids.cpu().long()) for s in sentences], max_tokens)


def _replaced(ids: Tensor, rank: Tensor, size: int, replacement: int) -> Tensor:
    return torch.where(rank < size, replacement, ids)


def _removed(ids: Tensor, rank: Tensor, size: int, replacement: int) -> Tensor:
    return ids[rank >= size] if bool((rank >= size).any()) else ids.new_tensor([replacement])


def _kept(ids: Tensor, rank: Tensor, size: int, replacement: int) -> Tensor:
    return ids[(rank < size) | (rank == SPECIAL)]


def _shares(bins: Sequence[float]) -> Callable[[int], Sequence[int]]:
    """From n to how many units each share is."""
    if not bins or not all(0 < k <= 1 for k in bins):
        raise ValueError(f"shares of the units must lie in (0, 1], got {list(bins)}")
    return lambda n: [min(n, max(1, math.floor(k * n + ROUNDING))) for k in bins]


def _ranks(number: int, sentence: Sentence, scores: Sequence[float] | Tensor) -> Tensor:  # (L,)
    """0 for tokens of the highest scored unit, 1 for the next, SPECIAL for special ones."""
    n = sentence.n_units
    listed = scores.tolist() if isinstance(scores, Tensor) else list(scores)
    values = torch.tensor(listed, dtype=torch.float64)
    if values.shape != (n,) or values.isnan().any():
        raise ValueError(f"sentence {number} needs {n} scores that are no NaN, got {listed}")
    rank = torch.full((n + 1,), SPECIAL)  # unit -1 indexes the last
    rank[values.argsort(descending=True, stable=True)] = torch.arange(n)
    return rank[sentence.units.cpu().long()]


def _table(
    predict: Predict,
    sentences: Sentences,
    scores: Scores,
    ablate: Ablate,
    sizes: Callable[[int], Sequence[int]],
    max_tokens: int = TOKENS,
    original: Tensor | None = None,
) -> Tensor:
    """Log p(target) of x and of the rows of all sizes, (B, 1 + most sizes); NaN for no row."""
    for name, given in (("scores", scores), ("original", original)):
        if given is not None and len(given) != len(sentences):
            raise ValueError(f"{name} has {len(given)} entries for {len(sentences)} sentences")
    widest = max((len(sizes(sentence.n_units)) for sentence in sentences), default=0)
    table = torch.full((len(sentences), 1 + widest), torch.nan, dtype=torch.float64)
    places: list[int] = []  # of the rows in the flat table
    rows: list[tuple[Sentence, Tensor]] = []
    for b, (sentence, values) in enumerate(zip(sentences, scores, strict=True)):
        ids, rank = sentence.ids.cpu().long(), _ranks(b, sentence, values)
        for column, size in enumerate([0, *sizes(sentence.n_units)]):
            if original is not None and size == 0:
                table[b, column] = original[b]
                continue
            rows.append((sentence, ablate(ids, rank, size, sentence.replacement) if size else ids))
            places.append(b * (1 + widest) + column)
    table.view(-1)[places] = _ask(predict, rows, max_tokens)
    return table


def _ask(predict: Predict, rows: list[tuple[Sentence, Tensor]], max_tokens: int) -> Tensor:  # (R,)
    """Log p(target | row): rows of a length together, equal ones once."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    answers = torch.empty(len(rows), dtype=torch.float64)
    targets = torch.tensor([sentence.target for sentence, _ in rows])
    lengths = torch.tensor([len(row) for _, row in rows])
    for length in lengths.unique().tolist():
        at = (lengths == length).nonzero()[:, 0]
        ids, which = torch.stack([rows[i][1] for i in at]).unique(dim=0, return_inverse=True)

        def forward(part: slice, ids: Tensor = ids) -> Tensor:
            return predict(ids[part].to(rows[0][0].ids.device)).cpu()

        with torch.no_grad(), Chunks((ids,), max(1, max_tokens // length), False) as chunks:
            log_p = torch.cat([found for _, found in chunks.map(forward, len(ids))])
        shaped = log_p.dim() == 2 and len(log_p) == len(ids) and log_p.shape[1] > targets[at].max()
        if not (shaped and log_p.max() <= NO_LOG):
            raise ValueError(
                f"predict gave {tuple(log_p.shape)}, up to {log_p.max():.3g}; wanted ({len(ids)}, "
                f"C > {targets[at].max()}), up to 0: log-probabilities as from log_softmax"
            )
        answers[at] = log_p[which, targets[at]].double()
    return answers

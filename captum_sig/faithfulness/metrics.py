"""Faithfulness of word scores: how the prediction changes without the top-scored words.

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
- A replaced unit changes at the embedding if `predict` can do that (see `log_odds`): the model
  still receives the sentence's own ids, so that positions, masks and pooling stay. Removing a unit
  shortens the row. `ablation` overrides which of the two a metric does.
- In a pair of texts, units of both are ablated alike. The tokens that separate and end the texts
  are special: they stay, and each remaining token keeps its token type.
- For a model whose labels do not exclude each other, p(target) is that label's own probability,
  the sigmoid of its logit, and other labels do not enter.
- A row of which nothing would remain becomes a single `replacement`. For a sentence without any
  unit, all differences are 0.
- Where p(target) is 0 before and after, the log-odds do not change: 0.

B sentences; L tokens and n units in one; R rows of a forward pass; C classes. The rows of a pass
have the same length, so that the model never sees padding; equal rows are evaluated once.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from captum_sig._names import AblationName, MetricName
from captum_sig._numbers import checked_integer
from captum_sig.attr.chunks import Chunks
from captum_sig.words.encoding import Sentence

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


Predict = Callable[..., Tensor]  # (R, L) ids, no padding → (R, C) log-probabilities
Sentences = Iterable[Sentence]
Scores = Iterable[Iterable[float] | Tensor] | Tensor  # B times n numbers, in order of the units

MAX_TOKENS = 2**14  # in a forward pass
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)  # ERASER's fractions
ROUNDING = 1e-9  # 0.29 · 100 is 28.999999999999996
MAX_LOG_PROBABILITY = 1e-3  # not 0: the logarithm of a rounded 1 may exceed it
SPECIAL = torch.iinfo(torch.long).max  # rank of tokens that are never ablated


@dataclass(frozen=True)
class Row:
    """A sentence, ablated."""

    received: Tensor  # (L',) ids that the model receives
    shown: Tensor  # (L',) ids that its embedding shows
    positions: Tensor  # (L',) where in the sentence they stand: its further inputs go with them


class Extra(TypedDict, total=False):
    """Optional arguments of every metric."""

    max_tokens: int  # the most tokens in a forward pass; a longer row goes alone
    original: Iterable[float] | Tensor | None  # (B,) log p(target | x) if known
    ablation: AblationName | None  # in `ABLATIONS`; None is the metric's own, as listed above


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
    table = _table(predict, sentences, scores, _top, _sizes([k]), "replace", **options)
    after, before = table[:, -1], table[:, 0]
    return torch.where(after == before, 0, after - before)  # −∞ on both sides is no change


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
    table = _table(predict, sentences, scores, _top, _sizes(bins), "remove", **options).exp()
    return (table[:, :1] - table[:, 1:]).mean(1)


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
    table = _table(predict, sentences, scores, _rest, _sizes(bins), "remove", **options).exp()
    return (table[:, :1] - table[:, 1:]).mean(1)


def ablation_curve(
    predict: Predict, sentences: Sentences, scores: Scores, **options: Unpack[Extra]
) -> Tensor:
    """Compute p(target) after the j top-scored units are replaced, (B, N + 1) for j = 0 … N.

    N is the largest n; shorter sentences are padded with NaN. Arguments are those of `log_odds`.
    """
    return _table(predict, sentences, scores, _top, _every_size, "replace", **options).exp()


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
    rows = [(sentence, unchanged(sentence.ids.cpu().long())) for sentence in sentences]
    return _target_log_probabilities(predict, rows, max_tokens)


def _top(rank: Tensor, size: int) -> Tensor:
    return rank < size


def _rest(rank: Tensor, size: int) -> Tensor:
    return (rank >= size) & (rank != SPECIAL)


def unchanged(ids: Tensor) -> Row:
    """Return a row of ids that the embedding shows as they are."""
    return Row(ids, ids, torch.arange(len(ids)))


def replace(ids: Tensor, ablated: Tensor, replacement: int) -> Row:
    """Show the replacement at the ablated positions, (L,) booleans."""
    return Row(ids, torch.where(ablated, replacement, ids), torch.arange(len(ids)))


def remove(ids: Tensor, ablated: Tensor, replacement: int) -> Row:
    """Delete the ablated positions, (L,) booleans; a row of nothing is one replacement."""
    if ablated.all():
        return unchanged(ids.new_tensor([replacement]))
    return Row(ids[~ablated], ids[~ablated], (~ablated).nonzero()[:, 0])


ABLATIONS: dict[AblationName, Callable[[Tensor, Tensor, int], Row]] = {
    "replace": replace,
    "remove": remove,
}


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


def _ranks(number: int, sentence: Sentence, scores: Iterable[float] | Tensor) -> Tensor:  # (L,)
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
    select: Callable[[Tensor, int], Tensor],  # ranks (L,), top size → what is ablated, (L,)
    sizes: Callable[[int], Sequence[int]],
    own_ablation: AblationName,
    max_tokens: int = MAX_TOKENS,
    original: Iterable[float] | Tensor | None = None,
    ablation: AblationName | None = None,
) -> Tensor:
    """Compute log p(target) of x and of its ablations, (B, 1 + most sizes); the rest is NaN."""
    name = own_ablation if ablation is None else ablation
    if name not in ABLATIONS:
        raise ValueError(f"ablation {name!r} is unknown: use one of {', '.join(ABLATIONS)}")
    sentences, scores = list(sentences), list(scores)
    known = None if original is None else torch.tensor(list(original), dtype=torch.float64)
    for argument, values in (("scores", scores), ("original", known)):
        if values is not None and len(values) != len(sentences):
            raise ValueError(f"{argument} has {len(values)} entries for {len(sentences)} sentences")
    widest = max((len(sizes(sentence.n_units)) for sentence in sentences), default=0)
    table = torch.full((len(sentences), 1 + widest), torch.nan, dtype=torch.float64)
    cells: list[int] = []  # each row's index in the flattened table
    rows: list[tuple[Sentence, Row]] = []
    for b, (sentence, sentence_scores) in enumerate(zip(sentences, scores, strict=True)):
        ids, rank = sentence.ids.cpu().long(), _ranks(b, sentence, sentence_scores)
        for column, size in enumerate([0, *sizes(sentence.n_units)]):
            if known is not None and size == 0:
                table[b, column] = known[b]
                continue
            ablated = select(rank, size) if size else torch.zeros_like(ids, dtype=torch.bool)
            rows.append((sentence, ABLATIONS[name](ids, ablated, sentence.replacement)))
            cells.append(b * (1 + widest) + column)
    table.view(-1)[cells] = _target_log_probabilities(predict, rows, max_tokens)
    return table


def _target_log_probabilities(
    predict: Predict, rows: list[tuple[Sentence, Row]], max_tokens: int
) -> Tensor:  # (R,)
    """Compute log p(target | row): rows of one length together, equal rows once."""
    max_tokens = checked_integer("max_tokens", max_tokens)
    replaces, takes_inputs = (_takes(predict, name) for name in ("replaced", "inputs"))
    results = torch.empty(len(rows), dtype=torch.float64)
    targets = torch.tensor([sentence.target for sentence, _ in rows])
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}  # of one length, with the same inputs
    for number, (sentence, row) in enumerate(rows):
        names = tuple(sorted(sentence.inputs)) if takes_inputs else ()
        alike.setdefault((len(row.shown), names), []).append(number)
    chunks = Chunks((targets,), None, False)
    for (length, names), indices in sorted(alike.items()):
        ids, inverse = torch.stack(
            [_stacked(*rows[number], names, replaces=replaces) for number in indices]
        ).unique(dim=0, return_inverse=True)  # (R, 2 + I, L)

        def forward(
            part: slice, ids: Tensor = ids, names: tuple[str, ...] = names
        ) -> tuple[Tensor]:
            received, shown, *others = ids[part].to(rows[0][0].ids.device).unbind(1)
            options: dict[str, Any] = {}
            if not torch.equal(received, shown):
                options["replaced"] = shown
            if names:
                options["inputs"] = dict(zip(names, others, strict=True))
            return (predict(received, **options).cpu(),)

        if not chunks.one_by_one:
            chunks.size = max(1, max_tokens // length)
        with torch.no_grad(), chunks:
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


def _stacked(sentence: Sentence, row: Row, names: Sequence[str], *, replaces: bool) -> Tensor:
    """Return the ids of a row and its further inputs, (2 + I, L)."""
    inputs = [sentence.inputs[name].cpu().long()[row.positions] for name in names]
    return torch.stack([row.received if replaces else row.shown, row.shown, *inputs])


def _takes(predict: Predict, name: str) -> bool:
    """Whether `predict` has a parameter of this name."""
    try:
        return name in inspect.signature(predict).parameters
    except ValueError:  # some built-in functions have no signature
        return False

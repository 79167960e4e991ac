"""How well scores find the words that are known to matter, or that people marked.

    precision_at_k     share of the k true words among the k top-scored ones    higher is better
    mean_rank          mean rank of the true words; 1 is the top-scored word    lower is better
    auprc              area under precision and recall, over all lengths        higher is better
    token_f1           F1 of the k top-scored words against the k true ones     higher is better
    iou                words in both of these sets / words in either            higher is better

n words in a text; of equal scores, the earlier one ranks higher, as in
`captum_sig.faithfulness.metrics`, except in `auprc`, where equal scores are taken together.

True words support the explained label, so that the highest score ranks first; a large negative
score, which speaks against the label, ranks last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from captum_sig._names import TruthMetricName


class HasCharacters(Protocol):
    """A word with its offsets in the text."""

    @property
    def start(self) -> int | None: ...

    @property
    def end(self) -> int | None: ...


def true_words(words: Sequence[HasCharacters], spans: Iterable[tuple[int, int]]) -> Tensor:
    """Return which words overlap one of the spans, (n,) booleans.

    Args:
        words: the words of the text that the spans are of.
        spans: characters, from the first to the one behind the last.

    Raises:
        ValueError: if the words have no offsets.
    """
    known = list(spans)
    overlaps = []
    for word in words:
        if word.start is None or word.end is None:
            raise ValueError(
                "words have no offsets, as the model's tokenizer keeps none: spans of characters "
                "need a tokenizer of the kind 'fast'"
            )
        overlaps.append(any(word.start < end and start < word.end for start, end in known))
    return torch.tensor(overlaps, dtype=torch.bool)


def precision_at_k(scores: Tensor, truth: Tensor) -> float:
    """Compute the share of the k top-scored words that are true, k being the number of true words.

    Source: Bastings et al., "Will you find these shortcuts?", EMNLP 2022, arXiv 2111.07367.

    Args:
        scores: (n,), higher for what matters more.
        truth: (n,) booleans, at least one of them true.

    >>> precision_at_k(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([False, True, True]))
    1.0
    """
    return float((_ranks(scores)[truth] <= truth.sum()).double().mean())


def mean_rank(scores: Tensor, truth: Tensor) -> float:
    """Compute the mean rank of the true words; arguments are those of `precision_at_k`.

    The best that k words can have is (k + 1) / 2.

    >>> mean_rank(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([False, True, True]))
    1.5
    """
    return float(_ranks(scores)[truth].double().mean())


def auprc(scores: Tensor, truth: Tensor) -> float:
    """Compute the average precision; arguments are those of `precision_at_k`.

    AP = Σ_t (R_t − R_{t−1}) P_t over the thresholds t, from the highest score down, with precision
    P and recall R of the words that score at least t. Random scores have about the share of true
    words.

    Source: ERASER (DeYoung et al., ACL 2020, arXiv 1911.03429), "agreement with human rationales".

    >>> auprc(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([True, True, False]))
    0.8333333333333333
    """
    from sklearn.metrics import average_precision_score  # slow to import

    return float(average_precision_score(truth.numpy(), scores.numpy()))


def token_f1(scores: Tensor, truth: Tensor) -> float:
    """Compute F1 of the k top-scored words; arguments are those of `precision_at_k`.

    As many words are taken as are true, so that precision, recall and F1 are one number, which is
    `precision_at_k`. ERASER's own F1 is for models that choose how long a rationale is.

    >>> token_f1(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([True, True, False]))
    0.5
    """
    return precision_at_k(scores, truth)


def iou(scores: Tensor, truth: Tensor) -> float:
    """Compute intersection / union of the k top-scored words and the k true ones.

    Arguments are those of `precision_at_k`. With h words in both sets it is h / (2k − h).

    >>> iou(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([True, True, False]))
    0.3333333333333333
    """
    top = _ranks(scores) <= truth.sum()
    return float((top & truth).sum() / (top | truth).sum().double())


def _ranks(scores: Tensor) -> Tensor:  # (n,), the highest score has rank 1
    ranks = torch.empty(len(scores), dtype=torch.long)
    ranks[scores.argsort(descending=True, stable=True)] = torch.arange(1, len(scores) + 1)
    return ranks


@dataclass(frozen=True)
class TruthMetric:
    """A metric and how to read it; called as (scores, truth) with (n,) tensors."""

    function: Callable[[Tensor, Tensor], float]
    better: Literal["lower", "higher"]

    def __call__(self, scores: Sequence[float], truth: Tensor) -> float | None:
        """Return the function's result; None if no word is true."""
        if not truth.any():
            return None
        return self.function(torch.tensor(scores, dtype=torch.float64), truth)


TRUTH_METRICS: dict[TruthMetricName, TruthMetric] = {
    "precision_at_k": TruthMetric(precision_at_k, "higher"),
    "mean_rank": TruthMetric(mean_rank, "lower"),
    "auprc": TruthMetric(auprc, "higher"),
    "token_f1": TruthMetric(token_f1, "higher"),
    "iou": TruthMetric(iou, "higher"),
}


def plausibility(metrics: Iterable[str]) -> str:
    """Say in a sentence what those of some metrics mean that compare with people's rationales.

    >>> plausibility(["log_odds", "auprc"])  # doctest: +ELLIPSIS
    'Agreement with the words that people marked (auprc) is plausibility, not faithfulness: ...'
    """
    names = ", ".join(name for name in metrics if name in TRUTH_METRICS)
    return (
        f"Agreement with the words that people marked ({names}) is plausibility, not faithfulness: "
        "it says whether scores look right to people, not whether the model relies on these words."
    )

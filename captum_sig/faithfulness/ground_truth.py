"""How well scores find the words that are known to matter, or that people marked.

    precision_at_k     share of the k true words among the k top-scored ones    higher is better
    mean_rank          mean rank of the true words; 1 is the top-scored word    lower is better

n words in a text; of equal scores, the earlier one ranks higher, as in
`captum_sig.faithfulness.metrics`.
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
}

"""Whether texts without some of their words are still texts that the model knows.

A metric deletes words and evaluates the model on what remains. If the model has never seen such
texts, its output there says little about the words. A cheap check, for random words of each amount:

    entropy  H(p(· | x̃)), in nats                 how unsure the model is
    loss     −log p(label | x̃), in nats           how wrong it is
    excess   (loss − entropy), less that of x      how much surer than right it became

On texts that it knows, a calibrated model is as wrong as it is unsure: the expected loss is the
expected entropy. Deleting words makes it less sure and more often wrong alike. Where the loss grows
faster, the model treats what is left with a confidence that is not earned: excess > 0.

Madsen et al., "Faithfulness Measurable Masked Language Models", ICML 2024, arXiv 2310.07819, test
the same assumption by a model's activations (MaSF), for which they need many texts that are known
to be in the distribution; here it takes labels only. An excess of 0 does not prove that texts are
in the distribution, and with few texts intervals are wide.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_sig.data.statistics import bootstrap
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness.ablations import Ablated, Ablation
from captum_sig.faithfulness.rows import MAX_TOKENS, Predict, class_log_probabilities
from captum_sig.words.encoding import Sentence

AMOUNTS = (0.1, 0.2, 0.5, 0.8)  # of the words, and none
N_TEXTS = 100  # at most
LEAST = -100.0  # what the logarithm of 0 counts as in a loss, as in torch.nn.BCELoss
MIN_TEXTS = 20  # to say what an interval shows
OF_LABELS = ("loss", "loss_low", "loss_high", "excess", "excess_low", "excess_high")
COLUMNS = (
    "ablation", "amount", "deleted", "entropy", "entropy_low", "entropy_high", *OF_LABELS, "n",
    "n_labelled",
)  # fmt: skip
PAST = {"replace": "replaced", "remove": "removed", "sample": "sampled"}


@dataclass(frozen=True)
class Labelled:
    """A sentence and the indices of its labels, None if they are not known."""

    sentence: Sentence
    labels: Sequence[int] | None = None  # one, unless labels do not exclude each other


def distribution(
    predict: Predict,
    texts: Sequence[Labelled],
    ablations: Mapping[str, Ablation],
    *,
    amounts: Sequence[float] = AMOUNTS,
    n_texts: int = N_TEXTS,
    is_multi_label: bool = False,
    seed: int = 0,
    max_tokens: int = MAX_TOKENS,
) -> list[dict[str, Any]]:
    """Measure entropy, loss and excess of texts with some of their words deleted at random.

    Args:
        predict: see `captum_sig.faithfulness.log_odds`.
        texts: with units to delete; if there are more than `n_texts`, some are taken that depend on
            the texts alone.
        ablations: what is done with the deleted words, by name.
        amounts: of the units, in (0, 1); each deletes at least one, and those of smaller amounts.
        n_texts: most texts.
        is_multi_label: whether each label has a probability of its own; entropy and loss are then
            means over the labels.
        seed: of the words that are deleted, which depend on it and the text alone.
        max_tokens: the most tokens in a forward pass.

    Returns:
        A row for each ablation and amount, 0 among them, with the columns `COLUMNS`: means over
        `n` texts and their 95 % bootstrap intervals. `deleted` is the mean share of the units that
        are deleted, more than `amount` where texts are short. Loss and excess are means over the
        `n_labelled` texts whose labels are known, or None.
    """
    chosen = sorted((text for text in texts if text.sentence.n_units), key=_digest)[:n_texts]
    labelled = [number for number, text in enumerate(chosen) if text.labels is not None]
    rows = []
    for name, ablation in ablations.items() if chosen else ():
        whole: Tensor | None = None
        for amount in (0.0, *amounts):
            requests = [_without(text.sentence, amount, seed) for text in chosen]
            log_p = _log_probabilities(predict, requests, ablation, max_tokens)
            entropy = torch.stack([_entropy(of_text, is_multi_label) for of_text in log_p])
            row = {"ablation": name, "amount": amount, "deleted": _mean_share(requests)}
            row |= _interval("entropy", entropy, seed) | dict.fromkeys(OF_LABELS)
            if labelled:
                loss = torch.stack([
                    _loss(chosen[number].labels or (), log_p[number], is_multi_label)
                    for number in labelled
                ])  # fmt: skip
                gap = loss - entropy[labelled]
                whole = gap if whole is None else whole
                row |= _interval("loss", loss, seed) | _interval("excess", gap - whole, seed)
            rows.append({**row, "n": len(chosen), "n_labelled": len(labelled)})
    return rows


def _mean_share(requests: Sequence[Ablated]) -> float:
    """Return the mean share of the units that are deleted."""
    shares = [
        len(sentence.units[ablated].unique()) / sentence.n_units for sentence, ablated in requests
    ]
    return math.fsum(shares) / len(shares)


def _digest(text: Labelled) -> str:
    return hashlib.sha256(str(text.sentence.ids.tolist()).encode()).hexdigest()


def _without(sentence: Sentence, amount: float, seed: int) -> Ablated:
    """Return a sentence with this amount of its units to be deleted, at random."""
    units, n = sentence.units.cpu().long(), sentence.n_units
    generator = text_generator(" ".join(map(str, sentence.ids.tolist())), seed)
    order = torch.randperm(n, generator=generator)
    size = max(1, math.floor(amount * n)) if amount else 0
    return sentence, torch.isin(units, order[:size])


def _log_probabilities(
    predict: Predict, requests: Sequence[Ablated], ablation: Ablation, max_tokens: int
) -> list[Tensor]:
    """Compute log p(class) of each sentence's rows, (K, C) each."""
    of_each = ablation(requests)
    rows = [
        (sentence, row)
        for (sentence, _), of_sentence in zip(requests, of_each, strict=True)
        for row in of_sentence
    ]
    log_p = class_log_probabilities(predict, rows, max_tokens)
    return list(log_p.split([len(of_sentence) for of_sentence in of_each]))


def _entropy(log_p: Tensor, is_multi_label: bool) -> Tensor:
    """Return the mean entropy of some rows, (K, C) → ()."""
    entropies = -_times(log_p)
    if is_multi_label:
        return (entropies - _times(_complement(log_p))).mean()
    return entropies.sum(1).mean()


def _times(log_p: Tensor) -> Tensor:
    """Return p log p; 0 where p is 0."""
    return torch.where(log_p == -torch.inf, 0, log_p.exp() * log_p)


def _complement(log_p: Tensor) -> Tensor:
    """Return log(1 − p)."""
    return torch.log1p(-log_p.exp().clamp(max=1))


def _loss(labels: Sequence[int], log_p: Tensor, is_multi_label: bool) -> Tensor:
    """Return the mean loss of a text's rows, (K, C) → ()."""
    true = torch.zeros(log_p.shape[1], dtype=torch.bool)
    true[list(labels)] = True
    of_labels = torch.where(true, log_p, _complement(log_p)) if is_multi_label else log_p[:, true]
    return -of_labels.clamp(min=LEAST).mean()


def _interval(name: str, values: Tensor, seed: int) -> dict[str, float]:
    interval = bootstrap(values.numpy(), seed=seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def sentence_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence what `distribution` found; "" for nothing."""
    if not rows:
        return ""
    names = list(dict.fromkeys(row["ablation"] for row in rows))
    of_each = {name: [row for row in rows if row["ablation"] == name] for name in names}
    n = rows[0]["n_labelled"]
    if 0 < n < MIN_TEXTS:
        return (
            f"Whether the model knows texts with words deleted cannot be told from {n} labelled "
            f"texts: it takes {MIN_TEXTS}."
        )
    if rows[0]["loss"] is None:
        moves = ", ".join(_entropy_of(name, of_each[name]) for name in names)
        return (
            f"The model's entropy is {rows[0]['entropy']:.2f} nats on whole texts, {moves}; it is "
            "not known, without labels, whether it is right to be that sure."
        )
    limits = ", ".join(_limit(name, of_each[name]) for name in names)
    return (
        "The model becomes surer than it is right, as on texts that it does not know, "
        f"{limits} ({n} texts; see distribution.csv)."
    )


def _entropy_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    row = min(rows, key=lambda one: abs(one["amount"] - 0.5))
    return f"{row['entropy']:.2f} with {row['deleted']:.0%} of each {_past(name)}"


def _limit(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    beyond = list(itertools.takewhile(lambda row: row["excess_low"] > 0, reversed(rows)))
    if not beyond:
        return f"at no tested share of each {_past(name)}"
    return f"from {beyond[-1]['deleted']:.0%} of each {_past(name)} on"


def _past(name: str) -> str:
    return PAST.get(name, name)

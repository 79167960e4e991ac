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
COLUMNS = (
    "ablation", "amount", "entropy", "entropy_low", "entropy_high", "loss", "loss_low", "loss_high",
    "excess", "excess_low", "excess_high", "n",
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
        `n` texts and their 95 % bootstrap intervals. Loss and excess are None without labels.
    """
    chosen = sorted((text for text in texts if text.sentence.n_units), key=_digest)[:n_texts]
    rows = []
    for name, ablation in ablations.items() if chosen else ():
        whole: Tensor | None = None
        for amount in (0.0, *amounts):
            requests = [_without(text.sentence, amount, seed) for text in chosen]
            log_p = _log_probabilities(predict, requests, ablation, max_tokens)
            entropy = torch.stack([_entropy(of_text, is_multi_label) for of_text in log_p])
            row = {"ablation": name, "amount": amount, **_interval("entropy", entropy, seed)}
            loss = _losses(chosen, log_p, is_multi_label)
            row |= dict.fromkeys(COLUMNS[5:-1])
            if loss is not None:
                gap = loss - entropy
                whole = gap if whole is None else whole
                row |= _interval("loss", loss, seed) | _interval("excess", gap - whole, seed)
            rows.append({**row, "n": len(chosen)})
    return rows


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


def _losses(
    texts: Sequence[Labelled], log_p: Sequence[Tensor], is_multi_label: bool
) -> Tensor | None:
    """Return the mean loss of each text's rows, (B,); None unless all labels are known."""
    losses = []
    for text, of_text in zip(texts, log_p, strict=True):
        if text.labels is None:
            return None
        true = torch.zeros(of_text.shape[1], dtype=torch.bool)
        true[list(text.labels)] = True
        if is_multi_label:
            of_labels = torch.where(true, of_text, _complement(of_text))
        else:
            of_labels = of_text[:, true]
        losses.append(-of_labels.clamp(min=LEAST).mean())
    return torch.stack(losses)


def _interval(name: str, values: Tensor, seed: int) -> dict[str, float]:
    interval = bootstrap(values.numpy(), seed=seed)
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def sentence_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence what `distribution` found; "" for nothing."""
    if not rows:
        return ""
    names = list(dict.fromkeys(row["ablation"] for row in rows))
    of_each = {name: [row for row in rows if row["ablation"] == name] for name in names}
    if rows[0]["loss"] is None:
        moves = ", ".join(_entropy_of(name, of_each[name]) for name in names)
        return (
            f"The model's entropy is {rows[0]['entropy']:.2f} nats on whole texts, {moves}; it is "
            "not known, without labels, whether it is right to be that sure."
        )
    limits = ", ".join(_limit(name, of_each[name]) for name in names)
    return (
        "The model becomes surer than it is right, as on texts that it does not know, "
        f"{limits} ({rows[0]['n']} texts; see distribution.csv)."
    )


def _entropy_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    row = min(rows, key=lambda one: abs(one["amount"] - 0.5))
    return f"{row['entropy']:.2f} with {row['amount']:.0%} of the words {_past(name)}"


def _limit(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    beyond = [row for row in rows if row["excess_low"] > 0]
    if not beyond:
        return f"at no tested amount of words {_past(name)}"
    return f"from {beyond[0]['amount']:.0%} of the words {_past(name)} on"


def _past(name: str) -> str:
    return PAST.get(name, name)

"""SIG in float64, to measure the others' errors."""

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from captum_sig import LayerSequentialIntegratedGradients
from tests.benchmarks.subjects import Subject

NODES, MORE_NODES, OFF = 64, 200, 1e-6


@dataclass(frozen=True)
class Reference:
    """SIG's features (1, L, D), and its words' exact scores (1, L)."""

    features: Tensor
    words: Tensor


def reference(subject: Subject, ids: Tensor, target: int, cache: Path | None) -> Reference:
    """64 nodes; 200 where completeness is then off by more than 1e-6 of the largest word.

    An error of that size is far below every one that is measured here. With a folder as `cache`
    it is computed once for these ids.
    """
    path = None
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(repr((ids.tolist(), target, _weights(subject))).encode()).hexdigest()
        path = cache / f"{key[:16]}.pt"
        if path.exists():
            stored = torch.load(path, weights_only=True)
            return Reference(stored["features"], stored["words"])
    found = _compute(subject, ids.cpu(), target)
    if path is not None:
        torch.save({"features": found.features, "words": found.words}, path)
    return found


def _compute(subject: Subject, ids: Tensor, target: int) -> Reference:
    model = copy.deepcopy(subject.model).cpu().double()
    sig = LayerSequentialIntegratedGradients(
        lambda ids: model(input_ids=ids).logits, model.get_input_embeddings()
    )
    base = subject.base(ids)
    integral = sig.integrate(ids, base, target=target, n_steps=NODES)
    features = integral.attributions
    off = integral.word_delta.abs() > OFF * features.norm(dim=-1).max()
    if off.any():
        more = sig.attribute(ids, torch.where(off, base, ids), target=target, n_steps=MORE_NODES)
        features = torch.where(off[..., None], more, features)
    words = sig.attribute_words(ids, base, target=target)
    return Reference(features.float(), words)


def _weights(subject: Subject) -> str:
    """Tells one model's weights from another's, however many threads add them up."""
    total = sum(weight.detach().double().abs().sum() for weight in subject.model.parameters())
    return f"{float(total):.9g}"

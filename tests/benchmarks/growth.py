"""How time grows with the length of a text and with the number of texts; memory at a length."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_sig import LayerSequentialIntegratedGradients
from tests.benchmarks.measure import peak_mib, seconds
from tests.benchmarks.methods import STEPS
from tests.benchmarks.peers import sequential_integrated_gradients
from tests.benchmarks.subjects import Subject

TOLERANCE = 1e-2
TEXT_OF_BATCH = 24  # tokens
NAMES = ("exact words", f"tolerance {TOLERANCE:g}")


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """The slope of log time over log size, by least squares."""
    x, y = ([math.log(value) for value in values] for values in (sizes, times))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def with_length(subject: Subject, lengths: Sequence[int], most_words: int) -> dict[str, Any]:
    """Seconds of exact words and of a tolerance for one text of each length.

    Of a longer text only every k-th word moves, such that at most `most_words` do, and the time
    is multiplied by k: words cost the same wherever they stand.
    """
    sig = LayerSequentialIntegratedGradients(subject.logits, subject.embedding)
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for length in lengths:
        ids = subject.long(length)
        every = math.ceil((length - 2) / most_words)
        base = _every(ids, subject.base(ids), every)
        calls = _calls(sig, ids, base, subject.target(ids))
        calls["exact words"]()  # the first call at a length pays for what later ones do not
        for name, call in calls.items():
            times[name].append(every * seconds(call, subject.device)[0])
    return {
        "lengths": list(lengths),
        "seconds": times,
        "exponents": {name: exponent(lengths, took) for name, took in times.items()},
        "last_exponents": {name: exponent(lengths[-2:], took[-2:]) for name, took in times.items()},
    }


def with_batch(subject: Subject, sizes: Sequence[int]) -> dict[str, Any]:
    """Seconds of exact words and of a tolerance for B texts of one length at once."""
    sig = LayerSequentialIntegratedGradients(subject.logits, subject.embedding)
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for size in sizes:
        whole = subject.long(size * (TEXT_OF_BATCH - 2) + 2)
        ids = torch.cat(
            [whole[:, :1].expand(size, 1), whole[0, 1:-1].view(size, -1),
             whole[:, -1:].expand(size, 1)], dim=1
        )  # fmt: skip
        base = subject.base(ids)
        for name, call in _calls(sig, ids, base, 0).items():
            times[name].append(seconds(call, subject.device)[0])
    return {
        "sizes": list(sizes),
        "seconds": times,
        "exponents": {name: exponent(sizes, took) for name, took in times.items()},
    }


def memory(subject: Subject, length: int, most_words: int, peers: Path | None) -> dict[str, Any]:
    """Peak MiB beside the model for one text; of tint's a lower bound, from its first position.

    Ours move every k-th word, as in `with_length`; what they keep for each is added k − 1 times.
    """
    ids = subject.long(length)
    base = subject.base(ids)
    every = math.ceil((length - 2) / most_words)
    some, target = _every(ids, base, every), subject.target(ids)
    sig = LayerSequentialIntegratedGradients(subject.logits, subject.embedding)
    found = sig.integrate(ids, some, target=target, tolerance=TOLERANCE)  # and warm
    per_node = subject.embedding.weight.shape[1] * subject.embedding.weight.element_size()
    kept = int(found.n_evaluations.sum()) * per_node / 2**20
    words, features = (
        peak_mib(call, subject.device) for call in _calls(sig, ids, some, target).values()
    )
    peaks: dict[str, Any] = {
        "length": length,
        NAMES[0]: words,
        NAMES[1]: None if features is None else features + 2 * (every - 1) * kept,
    }
    kind = sequential_integrated_gradients(peers, "tint", words=1)
    if kind is not None:
        theirs = kind(subject.logits_of_embeddings)
        x, b = (subject.embedding(of).detach() for of in (ids, base))
        peaks[f"tint SIG, n_steps={STEPS}"] = peak_mib(
            lambda: theirs.attribute(
                x, baselines=b, target=target, n_steps=STEPS, show_progress=True
            ),
            subject.device,
        )
    return peaks


def _calls(
    sig: LayerSequentialIntegratedGradients, ids: Tensor, base: Tensor, target: int
) -> dict[str, Callable[[], Tensor]]:
    words, features = NAMES
    return {
        words: partial(sig.attribute_words, ids, base, target=target),
        features: partial(sig.attribute, ids, base, target=target, tolerance=TOLERANCE),
    }


def _every(ids: Tensor, base: Tensor, every: int) -> Tensor:
    """Baseline ids of every k-th word, the others as they are."""
    position = torch.arange(ids.shape[1], device=ids.device)
    return torch.where(position % every == 1 % every, base, ids)

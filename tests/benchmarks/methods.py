"""What is compared: ours, the peers', and Captum's methods that answer a related question."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from captum.attr import FeatureAblation, LayerIntegratedGradients
from torch import Tensor

from captum_sig import LayerSequentialIntegratedGradients
from tests.benchmarks.peers import sequential_integrated_gradients
from tests.benchmarks.subjects import Subject

STEPS = 50
TINT = f"tint SIG, n_steps={STEPS}"


@dataclass(frozen=True)
class Method:
    """A call (ids, baseline ids, target) → what it gives, (1, L) or (1, L, D)."""

    name: str
    call: Callable[[Tensor, Tensor, int], Tensor]
    gives: str  # "words", "features" or "ig", which is no SIG and has no error here
    few: bool = False  # as slow as `TINT`: fewer sentences tell


def methods(subject: Subject, peers: Path | None) -> list[Method]:
    """Those that can run here."""
    sig = LayerSequentialIntegratedGradients(subject.logits, subject.embedding)
    ig = LayerIntegratedGradients(subject.logits, subject.embedding)
    ablation = FeatureAblation(subject.logits)
    found = [
        Method("exact words", lambda i, b, t: sig.attribute_words(i, b, target=t), "words"),
        *(
            Method(
                f"tolerance {tolerance:g}",
                lambda i, b, t, tolerance=tolerance: sig.attribute(
                    i, b, target=t, tolerance=tolerance
                ),
                "features",
            )
            for tolerance in (1e-2, 1e-3)
        ),
        Method(
            f"n_steps={STEPS}",
            lambda i, b, t: sig.attribute(i, b, target=t, n_steps=STEPS),
            "features",
            few=True,
        ),
    ]
    for peer, name in [("tint", TINT), ("inseq", f"inseq SIG, n_steps={STEPS}")]:
        kind = sequential_integrated_gradients(peers, peer)
        if kind is not None:
            theirs = kind(subject.logits_of_embeddings)

            def call(ids: Tensor, base: Tensor, target: int, theirs=theirs) -> Tensor:
                x, b = (subject.embedding(of).detach() for of in (ids, base))
                return theirs.attribute(x, baselines=b, target=target, n_steps=STEPS)

            found.append(Method(name, call, "features", few=peer != "tint"))
    return [
        *found,
        Method(
            f"Captum LayerIG, n_steps={STEPS}",
            lambda i, b, t: ig.attribute(i, b, target=t, n_steps=STEPS),
            "ig",
        ),
        Method(
            "Captum FeatureAblation",
            lambda i, b, t: ablation.attribute(i, b, target=t, perturbations_per_eval=32),
            "words",
        ),
    ]

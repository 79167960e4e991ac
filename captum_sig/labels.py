"""A classifier's labels: their names, and what its logits say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Labels:
    """The labels that a transformers config names, by index.

    Args:
        config: of a sequence classifier.
    """

    def __init__(self, config: Any) -> None:
        """Read the names; equal ones must not be taken for one label."""
        self.config = config
        names = [str(config.id2label[index]) for index in sorted(config.id2label)]
        if len(set(names)) < len(names):
            names = [f"{name} ({index})" for index, name in enumerate(names)]
        self.names: list[str] = names

    def index(self, target: str | int) -> int:
        """Index of a label given by name, in any case, or by index; an int is always an index.

        Raises:
            ValueError: if there is no such label; it lists those there are.
        """
        by_lower_case = [name.lower() for name in self.names]
        if isinstance(target, str) and target in self.names:
            return self.names.index(target)
        if isinstance(target, str) and target.lower() in by_lower_case:
            return by_lower_case.index(target.lower())
        if str(target).isdecimal() and int(target) < len(self.names):
            return int(target)
        known = ", ".join(f"{name} ({index})" for index, name in enumerate(self.names))
        raise ValueError(f"target {target!r} is no label of this model: use one of {known}")

    def indices(
        self, target: str | int | Sequence[str | int] | None, n_texts: int
    ) -> list[int | None]:
        """Of one label for all texts, or of one for each; None for a label that is not given.

        Raises:
            ValueError: for an unknown label, or another number of them.
        """
        if target is None:
            return [None] * n_texts
        if isinstance(target, (str, int)):
            return [self.index(target)] * n_texts
        if not isinstance(target, Sequence):
            raise TypeError(f"target must be a label or a list of them, got {target!r}")
        if len(target) != n_texts:
            raise ValueError(f"target has {len(target)} entries; wanted one, or {n_texts}")
        return [self.index(one) for one in target]

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of each label, (…, C) → (…, C).

        Raises:
            ValueError: for a model that gives a quantity in place of probabilities.
        """
        kind = getattr(self.config, "problem_type", None)
        if kind == "multi_label_classification":
            return nn.functional.logsigmoid(logits)
        if kind == "regression" or logits.shape[-1] == 1:
            raise ValueError(
                "the model gives a quantity, no probabilities of labels: wanted a classifier"
            )
        return logits.log_softmax(-1)

    def probabilities(self, logits: Tensor) -> dict[str, float]:  # (C,)
        """By name; empty for a model that does not give any."""
        try:
            values = self.log_probabilities(logits).exp().tolist()
        except ValueError:
            return {}
        return dict(zip(self.names, values, strict=False))

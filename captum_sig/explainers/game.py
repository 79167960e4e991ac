"""A text as a cooperative game: the value of F with any of its words, for other libraries."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from captum_sig._locks import ForkSafeLock
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import UNMOVED
from captum_sig.viz.wording import called
from captum_sig.words.encoding import Batch


@dataclass(frozen=True, eq=False, repr=False)
class Game:
    """F of a text whose words are at the input or at the baseline, as a function of masks.

    The players are the words of the explainer's result, or the units, which go by their names if
    they have them, in their order. A word that does not differ
    from the baseline is a player without effect. Call it with masks (n, W), or one mask (W,), of
    True or 1 for the words to keep at the input and False or 0 for those at the baseline; arrays,
    lists and tensors will do. It returns n values of F, in logits of the label `target`, as NumPy's
    float64. That is what the approximators of `shapiq` and the explainers of `shap` call.

    The text is encoded, its embeddings are read and a random baseline is drawn only once. Calls
    from several threads wait for each other.

    Raises:
        ValueError: if it is called with anything but such masks.
        FloatingPointError: if the model's output is not finite.
    """

    text: str
    target: str
    words: list[str]
    column: Tensor  # (W,): the word's number among those that move, or UNMOVED
    problem: Problem  # of this text alone
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock)

    @classmethod
    def of(cls, batch: Batch, target: str, problem: Problem) -> Game:
        """Make the game of the one text of a batch."""
        (text,), (spans,) = batch.texts, batch.spans
        column = problem.paths.column_of[0][0, [span.position for span in spans]]
        return cls(text, target, [called(span) for span in spans], column.cpu(), problem)

    @property
    def n_players(self) -> int:
        """The number of words, W."""
        return len(self.words)

    @functools.cached_property
    def value_of_all(self) -> float:
        """F(x), all words at the input."""
        return float(self(np.ones(self.n_players, dtype=bool))[0])

    @functools.cached_property
    def value_of_none(self) -> float:
        """F(x̄), all words at the baseline."""
        return float(self(np.zeros(self.n_players, dtype=bool))[0])

    def __call__(self, masks: ArrayLike | Tensor) -> NDArray[np.float64]:
        """Return F with the words of each mask at the input, all others at the baseline."""
        kept, moves = self._checked(masks), self.column != UNMOVED
        paths = self.problem.paths
        keeps = torch.ones(len(kept), paths.n_words, dtype=torch.bool)
        keeps[:, self.column[moves]] = kept[:, moves]
        example = torch.zeros(len(kept), dtype=torch.long, device=paths.device)
        with self._lock:  # the problem's chunks belong to one call at a time
            values = self.problem.coalition_values(example, keeps.to(paths.device))
        return values.double().cpu().numpy()

    def __repr__(self) -> str:
        return f"Game({self.text!r}, target={self.target!r}, n_players={self.n_players})"

    def _checked(self, masks: ArrayLike | Tensor) -> Tensor:  # (n, W) bool
        wanted = f"wanted True or False for each word, (n, {self.n_players}) or ({self.n_players},)"
        try:
            tensor = masks if isinstance(masks, Tensor) else torch.as_tensor(np.asarray(masks))
        except (TypeError, ValueError):
            got = f"{type(masks).__name__} {masks!r:.40}"
            raise ValueError(f"masks are not an array of numbers but {got}; {wanted}") from None
        if tensor.dim() not in (1, 2) or tensor.shape[-1] != self.n_players:
            raise ValueError(f"masks have shape {tuple(tensor.shape)}; {wanted}")
        kept = tensor.detach().cpu().reshape(-1, self.n_players)
        if not ((kept == 0) | (kept == 1)).all():
            raise ValueError(f"masks contain other values than 0 and 1; {wanted}")
        return kept.bool()

"""SmoothGrad: scores of gradient methods, averaged over noise in the embeddings of the words.

    smoothed(x) = 1/k Σ_i scores(x + n_i)        n_i ~ N(0, s²) at the text's words, 0 elsewhere
    s = σ (max x − min x)                        over all features of the text's words

Each embedding has its own range. Baselines stay as they are. Captum's NoiseTunnel computes the same
("smoothgrad"), for the same draws.

Source: Smilkov et al., "SmoothGrad: removing noise by adding noise" (2017), arXiv 1706.03825.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_sig._numbers import checked_integer
from captum_sig.attr.function import Tensors
from captum_sig.explainers.method_input import Method, MethodInput, Scores

NOISE = 0.1  # of the range; the paper advises 0.1 to 0.2
SMOOTHED = ("ig", "input_x_gradient", "saliency", "gradient_shap", "deep_lift")
_EXACT = "leaves words out, which is exact, and takes no gradient that noise could smooth"
_HELD = "holds or averages out what makes gradients noisy"
_THROUGH_WORDS = "goes through words of the vocabulary, and a vector with noise is not one"
WHY_NOT = {
    "sig": _EXACT, "occlusion": _EXACT, "shapley": _EXACT, "dig": _THROUGH_WORDS,
    "sequential_dig": _THROUGH_WORDS, "lrp": _HELD, "lrp_deletion": _HELD, "rank_path": _HELD,
    "screen": _HELD, "random": "does not look at the text",
}  # fmt: skip


@dataclass(frozen=True)
class Smoothing:
    """Over how many draws of which noise scores are averaged."""

    n_draws: int  # k
    noise: float = NOISE  # σ

    @classmethod
    def checked(cls, method: str, smooth: int | None, noise: float | None) -> Smoothing | None:
        """Check the caller's `smooth` and `noise`; None if nothing is to be smoothed.

        Raises:
            ValueError: if they are not numbers in range, or the method is not one of gradients.
        """
        if smooth is None:
            if noise is not None:
                raise ValueError(
                    f"noise={noise!r} is that of draws, got none: pass smooth, the number of draws"
                )
            return None
        if method not in SMOOTHED:
            raise ValueError(
                f"method {method!r} {WHY_NOT[method]}: leave smooth out, or use one of "
                f"{', '.join(SMOOTHED)}"
            )
        try:
            n_draws = checked_integer("smooth", smooth, least=2)
        except ValueError as error:
            raise ValueError(f"a mean with a standard error takes two draws: {error}") from None
        sigma = NOISE if noise is None else noise
        is_number = isinstance(sigma, numbers.Real) and not isinstance(sigma, bool)
        if not is_number or not 0 < sigma < math.inf:
            raise ValueError(
                f"noise must be a positive number, the fraction of the range of the words' "
                f"embeddings such as {NOISE}, got {noise!r}"
            )
        return cls(n_draws, float(sigma))

    @property
    def name(self) -> str:
        """As a result says it."""
        return f"smooth {self.n_draws}, noise {self.noise:g}"


def smoothed(method: Method, batch: MethodInput, in_words: Tensors, smoothing: Smoothing) -> Scores:
    """Average a method over draws of noise: all texts' draws are rows of the same passes.

    Args:
        method: in `SMOOTHED`.
        batch: B texts.
        in_words: where noise is added, (B, L) for each embedding.
        smoothing: k and σ.

    Returns:
        the mean, with its standard error over the draws.
    """
    n_texts, k = len(batch.generators), smoothing.n_draws
    noise = _noise(batch, in_words, smoothing)
    text = torch.arange(n_texts, device=batch.example.device).repeat_interleave(k)
    values = []
    for numbers_of_part in text.split(batch.max_rows):
        drawn = [next(noise) for _ in numbers_of_part]
        of_each = tuple(map(torch.stack, zip(*drawn, strict=True)))
        values.append(method(batch.of_texts(numbers_of_part, noise=of_each)).values)
    of_draws = torch.cat(values).unflatten(0, (n_texts, k))
    return Scores(of_draws.mean(1), [None] * n_texts, standard_error=of_draws.std(1) / math.sqrt(k))


def _noise(batch: MethodInput, in_words: Tensors, smoothing: Smoothing) -> Iterator[Tensors]:
    """Yield the noise of each text's k rows, (L, D) for each embedding, text after text."""
    for number, of_text in enumerate(batch.generators):
        seed = int(torch.randint(2**63 - 1, (), generator=of_text))  # one draw, whatever follows
        generator = torch.Generator().manual_seed(seed)
        points = [x[number] for x in batch.ends[0]]
        places = [mask[number] for mask in in_words]
        scales = [smoothing.noise * _range(x[at]) for x, at in zip(points, places, strict=True)]
        for _ in range(smoothing.n_draws):
            yield tuple(
                _at_words(x, at, scale, generator)
                for x, at, scale in zip(points, places, scales, strict=True)
            )


def _range(vectors: Tensor) -> float:
    return float(vectors.max() - vectors.min()) if vectors.numel() else 0.0


def _at_words(x: Tensor, at: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Draw noise for the words of a text, zero elsewhere: (L, D)."""
    noise = torch.zeros_like(x)
    shape = int(at.sum()), *x.shape[1:]
    noise[at] = scale * torch.randn(shape, generator=generator).to(x)
    return noise

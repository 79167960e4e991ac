"""The paper's equations as two loops, one row at a time: slow and plainly right.

Enguehard 2023 (arXiv 2305.15853), equations 1 and 2:

    x̄ʷ    = (x_1, …, b_w, …, x_L)
    SIG_w = (x_w − b_w) ∫₀¹ ∂F(x̄ʷ + α (x − x̄ʷ)) / ∂x_w dα
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captum_sig.quadrature import Rule


def sequential_integrated_gradients(
    f: Callable[[Tensor], Tensor],  # (1, L, …) → one number
    x: Tensor,  # (1, L, …)
    b: Tensor,  # (1, L, …)
    words: Sequence[Sequence[int]],  # positions of each word
    rule: Rule,
) -> Tensor:
    """SIG of one example, (1, L, …)."""
    attributions = torch.zeros_like(x)
    for word in words:
        x_bar = at_baseline(x, b, word)
        for node, weight in zip(rule.nodes.tolist(), rule.weights.tolist(), strict=True):
            point = (x_bar + node * (x - x_bar)).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(f(point).sum(), point)
            for position in word:
                step = x[:, position] - b[:, position]
                attributions[:, position] += weight * gradient[:, position] * step
    return attributions


def word_differences(
    f: Callable[[Tensor], Tensor], x: Tensor, b: Tensor, words: Sequence[Sequence[int]]
) -> Tensor:
    """F(x) − F(x̄ʷ) at every position of each word, (1, L)."""
    scores = torch.zeros(x.shape[:2], dtype=x.dtype)
    with torch.no_grad():
        for word in words:
            for position in word:
                scores[:, position] = (f(x) - f(at_baseline(x, b, word))).sum()
    return scores


def at_baseline(x: Tensor, b: Tensor, word: Sequence[int]) -> Tensor:
    """x̄ʷ: x with the positions of one word at b."""
    x_bar = x.clone()
    for position in word:
        x_bar[:, position] = b[:, position]
    return x_bar


def in_background(
    x: Tensor, b: Tensor, words: Sequence[Sequence[int]], kept: Sequence[bool], word: int
) -> Tensor:
    """X with every other word that the background does not keep at the baseline, (1, L, …)."""
    for other, positions in enumerate(words):
        if other != word and not kept[other]:
            x = at_baseline(x, b, positions)
    return x


def target_log_probabilities(
    logits: Callable[[Tensor], Tensor],  # (1, n) ids → (1, n, V)
    prompt: Tensor,  # (1, P)
    target: Tensor,  # (T,)
) -> Tensor:
    """Log p(y_t | prompt, y_1 … y_t−1), (T,): one pass a token, as the model would generate."""
    found = []
    for token in target:
        with torch.no_grad():
            found.append(logits(prompt)[0, -1].log_softmax(-1)[token])
        prompt = torch.cat([prompt, token.view(1, 1)], dim=1)
    return torch.stack(found)


def target_differences(
    logits: Callable[[Tensor], Tensor],
    prompt: Tensor,
    target: Tensor,
    words: Sequence[Sequence[int]],  # positions of each word
    baseline: int,
    kept: Sequence[bool] | None = None,  # words at the input while another moves; None is all
) -> Tensor:
    """Log p(y_t | prompt …) less the same with one word's ids at the baseline, (T, W)."""
    base = torch.full_like(prompt, baseline)
    kept = [True] * len(words) if kept is None else kept
    columns = []
    for number, word in enumerate(words):
        ids = in_background(prompt, base, words, kept, number)
        ends = (
            target_log_probabilities(logits, of, target)
            for of in (ids, at_baseline(ids, base, word))
        )
        columns.append(torch.sub(*ends))
    return torch.stack(columns, dim=1)


def shapley_values(
    f: Callable[[Tensor], Tensor], x: Tensor, b: Tensor, words: Sequence[Sequence[int]]
) -> Tensor:
    """Σ_S |S|! (W − |S| − 1)! / W! [F(S ∪ w) − F(S)] over all sets S of other words, (W,)."""
    n_words = len(words)
    values = torch.zeros(n_words, dtype=torch.float64)
    for word in range(n_words):
        for kept in itertools.product([False, True], repeat=n_words - 1):
            held = in_background(x, b, words, [*kept[:word], True, *kept[word:]], word)
            weight = 1 / (n_words * math.comb(n_words - 1, sum(kept)))
            with torch.no_grad():
                values[word] += weight * (f(held) - f(at_baseline(held, b, words[word]))).sum()
    return values

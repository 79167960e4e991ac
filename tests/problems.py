"""Models of (B, L, D) inputs whose SIG is known in closed form, and games whose values are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

L, D = 4, 3
WEIGHT = torch.linspace(-1, 1, L * D, dtype=torch.float64).reshape(1, L, D)


@dataclass(frozen=True)
class Problem:
    """F, and the SIG that F(x) − F(x̄ʷ) and symmetry within a word give by hand."""

    name: str
    f: Callable[[Tensor], Tensor]  # (B, L, D) → (B,)
    sig: Callable[[Tensor, Tensor], Tensor]  # x, b → (B, L, D)
    ig_is_sig: bool


def linear(x: Tensor) -> Tensor:
    """F = Σ w x."""
    return (WEIGHT * x).sum((1, 2))


def linear_sig(x: Tensor, b: Tensor) -> Tensor:
    """W (x − b)."""
    return WEIGHT * (x - b)


def quadratic(x: Tensor) -> Tensor:
    """F = Σ w x²: additive over words."""
    return (WEIGHT * x**2).sum((1, 2))


def quadratic_sig(x: Tensor, b: Tensor) -> Tensor:
    """W (x² − b²)."""
    return WEIGHT * (x**2 - b**2)


def product(x: Tensor) -> Tensor:
    """F = Σ_j Π_l x_lj: each word is worth the whole product."""
    return x.prod(1).sum(-1)


def product_sig(x: Tensor, b: Tensor) -> Tensor:
    """(x_w − b_w) Π of the other words at their input value."""
    others = torch.stack(
        [torch.cat([x[:, :w], x[:, w + 1 :]], 1).prod(1) for w in range(x.shape[1])], 1
    )
    return (x - b) * others


def gated(x: Tensor) -> Tensor:
    """F = Σ_j x_0j² · Σ_l≥1 x_lj: the first word gates the others."""
    return (x[:, 0] ** 2 * x[:, 1:].sum(1)).sum(-1)


def gated_sig(x: Tensor, b: Tensor) -> Tensor:
    """First word: (x_0² − b_0²) Σ of the others; others: (x_l − b_l) x_0²."""
    first = (x[:, :1] ** 2 - b[:, :1] ** 2) * x[:, 1:].sum(1, keepdim=True)
    return torch.cat([first, (x[:, 1:] - b[:, 1:]) * x[:, :1] ** 2], 1)


def order_dependent(x: Tensor) -> Tensor:
    """F = Σ_j Σ_l l · x_lj · x_(l+1)j: neighbours in this order."""
    rank = torch.arange(1, x.shape[1], dtype=x.dtype)[None, :, None]
    return (rank * x[:, :-1] * x[:, 1:]).sum((1, 2))


def order_dependent_sig(x: Tensor, b: Tensor) -> Tensor:
    """(x_l − b_l) (l · x_(l+1) + (l − 1) · x_(l−1))."""
    rank = torch.arange(1, x.shape[1], dtype=x.dtype)[None, :, None]
    neighbours = torch.zeros_like(x)
    neighbours[:, :-1] += rank * x[:, 1:]
    neighbours[:, 1:] += rank * x[:, :-1]
    return (x - b) * neighbours


PROBLEMS = [
    Problem("linear", linear, linear_sig, ig_is_sig=True),
    Problem("quadratic", quadratic, quadratic_sig, ig_is_sig=True),
    Problem("product", product, product_sig, ig_is_sig=False),
    Problem("gated", gated, gated_sig, ig_is_sig=False),
    Problem("order_dependent", order_dependent, order_dependent_sig, ig_is_sig=False),
]


@dataclass(frozen=True)
class Game:
    """A game of words that are 1 at the input and 0 at the baseline, and its Shapley values."""

    name: str
    f: Callable[[Tensor], Tensor]  # (B, W, 1) → (B,)
    shapley: tuple[float, ...]  # (W,)

    @property
    def x(self) -> Tensor:
        """The input, (1, W, 1)."""
        return torch.ones(1, len(self.shapley), 1, dtype=torch.float64)


def any_of(x: Tensor, *words: int) -> Tensor:
    """OR: 1 if one of the words says so."""
    return 1 - (1 - x[:, list(words), 0]).prod(1)


def all_of(x: Tensor, *words: int) -> Tensor:
    """AND: 1 if all of the words say so."""
    return x[:, list(words), 0].prod(1)


def nested(x: Tensor) -> Tensor:
    """a and (b or c), beside an additive word."""
    return x[:, 0, 0] * any_of(x, 1, 2) + 2 * x[:, 4, 0]


def nested_twice(x: Tensor) -> Tensor:
    """a or (b and (c or d)), beside an additive word."""
    inner = x[:, 3, 0] * any_of(x, 4, 5)
    return 1 - (1 - x[:, 2, 0]) * (1 - inner) - x[:, 0, 0]


def turned(x: Tensor) -> Tensor:
    """A negation: "not" turns what "good" says."""
    return x[:, 1, 0] * (1 - 2 * x[:, 0, 0]) + x[:, 2, 0]


def parity(x: Tensor) -> Tensor:
    """1 if an odd number of words is there: an odd number of words agree on both sides."""
    return x.sum((1, 2)) % 2


GAMES = [
    Game("or", lambda x: any_of(x, 0, 1), (0.5, 0.5)),
    Game("or_of_three", lambda x: any_of(x, 0, 1, 2), (1 / 3,) * 3),
    Game("or_beside_others", lambda x: any_of(x, 1, 3) - x[:, 5, 0], (0, 0.5, 0, 0.5, 0, -1)),
    Game("or_of_many", lambda x: any_of(x, *range(12)) + x[:, 12, 0], (1 / 12,) * 12 + (1, 0)),
    Game("or_of_all", lambda x: any_of(x, *range(20)), (1 / 20,) * 20),
    Game("and", lambda x: all_of(x, 0, 1), (0.5, 0.5)),
    Game("and_beside_others", lambda x: all_of(x, 2, 3, 4) + x[:, 0, 0], (1, 0) + (1 / 3,) * 3),
    Game("and_of_all", lambda x: all_of(x, *range(20)), (1 / 20,) * 20),
    Game("nested", nested, (2 / 3, 1 / 6, 1 / 6, 0, 2)),
    Game("nested_among_many", nested, (2 / 3, 1 / 6, 1 / 6, 0, 2) + (0,) * 15),
    Game("nested_twice", nested_twice, (-1, 0, 7 / 12, 1 / 4, 1 / 12, 1 / 12)),
    Game("turned", turned, (-1, 0, 1) + (0,) * 9),
    Game("parity", parity, (1 / 5,) * 5),
]  # fmt: skip

"""Quadrature rules on [0, 1]: where the integrand is evaluated, and the weight of each value.

A rule of S nodes replaces ∫₀¹ f(α) dα by Σₛ weightsₛ · f(nodesₛ). Rules are float64 data that
check their own invariants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from captum_sig._names import unknown_name
from captum_sig._numbers import MAX_N_STEPS, checked_integer


@dataclass(frozen=True)
class Rule:
    """Nodes and weights of a quadrature rule on [0, 1]; read-only copies of what is passed.

    Raises:
        ValueError: if the nodes do not ascend within [0, 1], or the weights are not finite or do
            not sum to 1.
    """

    nodes: NDArray[np.float64]  # (S,) ascending
    weights: NDArray[np.float64]  # (S,)

    def __post_init__(self) -> None:
        for name in ("nodes", "weights"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.nodes.ndim != 1 or self.nodes.shape != self.weights.shape:
            raise ValueError(
                f"nodes {self.nodes.shape} and weights {self.weights.shape} must both be (S,)"
            )
        within = (self.nodes >= 0) & (self.nodes <= 1)  # as NaN is not
        if not len(within) or not within.all() or not (np.diff(self.nodes) > 0).all():
            raise ValueError(f"nodes must ascend within [0, 1], got {self.nodes}")
        if not np.isfinite(self.weights).all():
            raise ValueError(f"weights must be finite, got {self.weights}")
        if abs(self.weights.sum() - 1) > 1e-12:
            raise ValueError(f"weights must sum to 1, got {float(self.weights.sum())!r}")


def gauss_legendre(n: int) -> Rule:
    """Gauss-Legendre: exact for polynomials up to degree 2n − 1; both ends excluded."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return Rule((1 + nodes) / 2, weights / 2)


def clenshaw_curtis(n: int) -> Rule:
    """Clenshaw-Curtis: Chebyshev points with both ends; n = 3, 5, 9, 17, … are nested.

    Source: Trefethen, "Is Gauss quadrature better than Clenshaw-Curtis?", SIAM Review 2008.
    """
    _at_least_two(n, "clenshawcurtis")
    theta = np.pi * np.arange(n) / (n - 1)
    k = np.arange(1, (n - 1) // 2 + 1)
    terms = np.where(2 * k == n - 1, 1.0, 2.0) / (4 * k**2 - 1)  # ∫ of the even Chebyshev terms
    weights = (1 - np.cos(2 * np.outer(theta, k)) @ terms) / (n - 1)
    weights[[0, -1]] /= 2
    return Rule(np.sin(theta / 2) ** 2, weights)


def riemann_left(n: int) -> Rule:
    """Riemann sum over n equal cells, evaluated at the left end of each."""
    return Rule(np.arange(n) / n, np.full(n, 1 / n))


def riemann_right(n: int) -> Rule:
    """Riemann sum over n equal cells, evaluated at the right end of each."""
    return Rule(np.arange(1, n + 1) / n, np.full(n, 1 / n))


def riemann_middle(n: int) -> Rule:
    """Riemann sum over n equal cells, evaluated at the middle of each: second order."""
    return Rule((np.arange(n) + 0.5) / n, np.full(n, 1 / n))


def riemann_trapezoid(n: int) -> Rule:
    """Trapezoid rule over n − 1 equal cells: second order.

    The weights sum to 1; those of Captum's rule of the same name sum to (n − 1) / n.
    """
    _at_least_two(n, "riemann_trapezoid")
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return Rule(np.linspace(0, 1, n), weights)


RULES: dict[str, Callable[[int], Rule]] = {
    "gausslegendre": gauss_legendre,
    "riemann_left": riemann_left,
    "riemann_right": riemann_right,
    "riemann_middle": riemann_middle,
    "riemann_trapezoid": riemann_trapezoid,
    "clenshawcurtis": clenshaw_curtis,
}


def rule(method: str, n_steps: int) -> Rule:
    """Return the rule that Captum's arguments `method` and `n_steps` name.

    Raises:
        ValueError: for a method that is not in `RULES`, too few steps for it, or more than
            `MAX_N_STEPS`.
    """
    if method not in RULES:
        raise ValueError(unknown_name("method", method, RULES))
    return _cached_rule(method, checked_n_steps(n_steps))


def checked_n_steps(n_steps: int) -> int:
    """Return `n_steps`, an integer of any type, as Python's.

    Raises:
        ValueError: if it is not an integer from 1 to `MAX_N_STEPS`.
    """
    return checked_integer("n_steps", n_steps, most=MAX_N_STEPS)


@lru_cache(maxsize=64)
def _cached_rule(method: str, n_steps: int) -> Rule:
    return RULES[method](n_steps)


def _at_least_two(n: int, method: str) -> None:
    if n < 2:
        raise ValueError(f"{method} uses both ends and needs n_steps >= 2, got {n}")

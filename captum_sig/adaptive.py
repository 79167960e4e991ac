"""Integration to a tolerance: how far off a path's integral is, and where to look next.

Along the path of one word the gradient's features f(α) ∈ Rᴰ are known at n nodes only, but their
sum is the slope of F, and F itself comes with every gradient. So the running integral of the sum,
∫₀^α Σ_j f_j = F(α) − F(0), is known *exactly* at each node, and an interpolant of f can be held
against it panel by panel: where the two part, the path turns more sharply than the nodes show,
and the panel is halved. All features share the nodes, and the path's sharp turns; where they
cancel in the sum, what changes at another degree shows them.

The interpolant is piecewise: within each panel the polynomial through the nodes around it.

Source: Davis and Rabinowitz, "Methods of Numerical Integration" (1984), chapter 6, for adaptive
rules; the use of F is this package's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from captum_sig.quadrature import clenshaw_curtis, gauss_legendre

Floats = NDArray[np.float64]

DEGREE = 5
STARTS = (5, 9)  # nested Chebyshev points: most words of long texts need no more than the first
FEW = 4  # by which 5 nodes, which can miss a turn, must stay below the tolerance
REFINED = 0.5  # panels whose error is within this factor of the largest are halved
STEEPEST = 4  # neighbours wider than this many times a halved panel's width are halved with it
NARROWEST = 1e-9  # panels are halved no further: F jumps, and nodes must stay apart
RUNNING, DOUBT = 2.0, 1.5  # margins; calibrated, see tests/benchmarks/RESULTS.md


def first_nodes() -> Floats:
    """The nodes every path starts from, both ends among them; ascending."""
    return clenshaw_curtis(STARTS[0]).nodes


def panel_weights(
    nodes: Floats,  # (m, n) ascending
    below: int = 0,
) -> Floats:
    """Weights (m, n − 1, n) of the integral over each panel between neighbours.

    Row p integrates from node p to node p + 1 the polynomial through the nodes nearest to the
    panel, of `DEGREE` or, with fewer nodes, n − 1; and `below` less.
    """
    m, n = nodes.shape
    degree = min(DEGREE, n - 1) - below
    panel = np.arange(n - 1)
    window = np.clip(panel - (degree - 1) // 2, 0, n - 1 - degree)[:, None] + np.arange(degree + 1)
    inner = gauss_legendre(degree // 2 + 1)
    near = nodes[:, window]  # (m, n − 1, degree + 1)
    width = np.diff(nodes)
    at = nodes[:, :-1, None] + width[..., None] * inner.nodes
    weights = np.zeros((m, n - 1, n))
    for k in range(degree + 1):
        others = np.delete(near, k, axis=-1)
        basis = (at[..., None] - others[:, :, None]).prod(-1)  # (m, n − 1, inner nodes)
        scale = (near[..., k, None] - others).prod(-1)
        weights[:, panel, window[:, k]] = width * (basis @ inner.weights) / scale
    return weights


def running_error(
    weights: Floats,  # (m, n − 1, n), as from `panel_weights`
    slopes: Floats,  # (m, n): dF/dα at the nodes
    values: Floats,  # (m, n): F at the nodes
) -> tuple[Floats, Floats, Floats]:
    """How far ∫ slopes departs from F.

    Returns:
        |error| of each panel (m, n − 1), root mean square over the nodes of the error of ∫₀^α
        (m,), and |error| of the whole (m,), which is the completeness residual.
    """
    panels = np.einsum("mpn,mn->mp", weights, slopes) - np.diff(values)
    running = panels.cumsum(-1)
    return np.abs(panels), np.sqrt((running**2).mean(-1)), np.abs(running[:, -1])


def whole_error(
    residual: Floats,  # (m,)
    running: Floats,  # (m,)
    doubts: Floats,  # (m, n − 1): the norm over the features of what a degree less changes
) -> Floats:
    """The error of the whole path as one number, (m,)."""
    estimates = [residual, RUNNING * running, DOUBT * np.sqrt((doubts**2).sum(-1))]
    few = FEW if doubts.shape[1] + 1 < STARTS[-1] else 1
    return few * np.maximum.reduce(estimates)


def more_nodes(
    nodes: Floats,  # (n,) ascending
    panel_errors: Floats,  # (n − 1,)
    most: int,
) -> Floats:
    """Where to look next: at most `most` nodes, the worst panels' first.

    Widths of neighbours differ by a bounded factor, for else the weights grow without bound.
    """
    if len(nodes) < STARTS[-1]:
        larger = clenshaw_curtis(STARTS[-1]).nodes
        new = larger[np.abs(larger[:, None] - nodes).min(1) > NARROWEST]
        return new[:most]
    worst = np.argsort(-panel_errors, kind="stable")
    worst = worst[panel_errors[worst] >= REFINED * panel_errors.max()]
    width = np.diff(nodes)
    worst = worst[width[worst] > NARROWEST]
    beside = np.concatenate([worst - 1, worst + 1])
    narrow = np.concatenate([width[worst], width[worst]])
    inside = (beside >= 0) & (beside < len(width))
    beside, narrow = beside[inside], narrow[inside]
    steep = beside[width[beside] > STEEPEST * narrow]
    halved = np.concatenate([worst, np.setdiff1d(steep, worst)])[:most]
    return (nodes[halved] + nodes[halved + 1]) / 2

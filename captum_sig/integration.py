"""How Captum's arguments say to integrate: a rule, a tolerance, or a path of its own."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable

from torch import Tensor, nn

from captum_sig.adaptive import STARTS
from captum_sig.chunks import Chunks
from captum_sig.function import RowFunction
from captum_sig.integrals import Averages, Steps, Straight, by_steps
from captum_sig.moves import Moves
from captum_sig.quadrature import rule
from captum_sig.refinement import to_tolerance

Integrate = Callable[[RowFunction, Moves, Chunks, Tensor | None], Averages]

Path = Callable[[nn.Module, Tensor, Tensor], Steps]
"""A path of one's own, such as `dig.DiscretizedPath`: the word embedding, the token ids that it
was given (B, L), and the baseline (B, L, D) → the steps from the baseline to the ids' embeddings.
"""


class Default(int):
    """A default that can be told from the same number given by a caller."""


N_STEPS = Default(50)  # Captum's
MOST_NODES = 129  # of a word with a tolerance, if the caller gives no `n_steps`
FEWEST_NODES = STARTS[-1]  # to see a path's error at all


def straight(method: str, n_steps: int, tolerance: float | None) -> Integrate:
    """Along the straight line, by a rule of `n_steps` or to a tolerance.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    if tolerance is None:
        return functools.partial(by_steps, steps=Straight(rule(method, n_steps)))
    if not isinstance(tolerance, numbers.Real) or not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
    if method != "gausslegendre":
        raise ValueError(
            f"a tolerance chooses its own nodes: leave method {method!r} out, or the tolerance"
        )
    rule(method, n_steps)  # refuses what is no number of steps
    most = MOST_NODES if isinstance(n_steps, Default) else int(n_steps)
    if most < FEWEST_NODES:
        raise ValueError(
            f"with a tolerance n_steps is the most evaluations of a word, at least {FEWEST_NODES}; "
            f"got {n_steps}"
        )
    return functools.partial(to_tolerance, tolerance=float(tolerance), most=most)


def along(steps: Steps, method: str, n_steps: int, tolerance: float | None) -> Integrate:
    """Along steps that a path of its own has chosen, which leave no choice to the others.

    Raises:
        ValueError: if one of the others is given too.
    """
    if tolerance is not None or method != "gausslegendre" or not isinstance(n_steps, Default):
        raise ValueError("a path has its own steps: leave n_steps, method and tolerance out")
    return functools.partial(by_steps, steps=steps)

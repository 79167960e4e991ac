"""How strong a score has the full colour, so that a few extreme ones do not bleach all others."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from captum_sig.viz.colours import Colour, shades
from captum_sig.viz.wording import number

# The full colour begins at the 99 % quantile: of fewer than 100 scores, 1 % is less than one score.
# In a prompt of 493 words by 30 tokens, the last word is 60 times as strong as that: with the
# largest score at the full colour, no cell but two has a tenth of it; with the quantile, 32 % have.
QUANTILE = 0.99
MIN_SCORES = 100
MIN_RATIO = 2.0  # of the largest score and the quantile: a scale that is half used stays linear
STRONGER = ("▲", "▼")  # for, against


@dataclass(frozen=True)
class Scale:
    """Colours from white at 0 to the full colour from ± `limit` on."""

    limit: float
    largest: float

    @property
    def is_clipped(self) -> bool:
        """Whether some scores are stronger than the full colour tells."""
        return self.largest > self.limit

    def mark(self, score: float) -> str:
        """Return a sign for a score beyond the limit, "" for all others."""
        return STRONGER[score < 0] if abs(score) > self.limit else ""

    def colours(self, scores: Sequence[float]) -> list[Colour]:
        """Return a colour for each score, white for NaN."""
        return shades(scores, self.limit)

    @property
    def note(self) -> str:
        """Say what the full colour and the signs mean; "" if nothing is clipped.

        >>> Scale(0.25, 10.0).note
        'Full colour from ±0.250 on; ▲ and ▼ are stronger, up to 10.00.'
        """
        if not self.is_clipped:
            return ""
        signs = " and ".join(STRONGER)
        return (
            f"Full colour from ±{number(self.limit)} on; {signs} are stronger, "
            f"up to {number(self.largest)}."
        )


def scale_of(scores: Iterable[float], left_out: Collection[int] = ()) -> Scale:
    """Return the scale of scores, NaN aside: by the largest, or by a quantile of many.

    The limit is the `QUANTILE` of |score| of at least `MIN_SCORES` that are not 0, if the largest
    is more than `MIN_RATIO` times as strong, and else the largest.

    Args:
        scores: in any order.
        left_out: numbers of scores that the limit disregards.
    """
    sizes = {n: abs(score) for n, score in enumerate(scores) if not math.isnan(score)}
    largest = max(sizes.values(), default=0.0)
    counted = sorted(size for n, size in sizes.items() if size and n not in left_out)
    if not counted:
        return Scale(largest, largest)
    limit = counted[-1]
    if len(counted) >= MIN_SCORES:
        quantile = counted[math.ceil(QUANTILE * len(counted)) - 1]
        limit = quantile if limit > MIN_RATIO * quantile else limit
    return Scale(limit, largest)

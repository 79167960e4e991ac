"""Show both sides of a word: its effect alone and in the text, and whether they agree.

Works on words with or without the fields `first`, `last`, `agreement`, `standard_error` and
`evidence`, and on results with or without `residual`; what is not known is not shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from captum_sig._names import Agreement


@dataclass(frozen=True)
class Mark:
    """The line under a word whose two effects disagree."""

    border: str  # in CSS, without its colour
    html_name: str
    style: str  # of `rich`
    terminal_name: str
    meaning: str


MARKS: dict[Agreement, Mark] = {
    "redundant": Mark(
        "2px dotted", "dotted line", "underline", "underlined",
        "stronger alone than in the text: others say it too",
    ),
    "synergistic": Mark(
        "3px double", "double line", "underline2", "doubly underlined",
        "stronger in the text than alone, or opposite",
    ),
}  # fmt: skip


def mark_of(word: Any) -> Mark | None:
    """Return the mark of a word; None if its effects agree or are not known."""
    return MARKS.get(getattr(word, "agreement", None))  # type: ignore[arg-type]


def side_cells(word: Any) -> tuple[str, str, str]:
    """Return a word's effects alone and in the text, and whether they agree; "" if unknown."""
    first, last = (getattr(word, name, None) for name in ("first", "last"))
    return (
        "" if first is None else f"{first:+.4f}",
        "" if last is None else f"{last:+.4f}",
        getattr(word, "agreement", None) or "",
    )


def sides(word: Any) -> tuple[str, str, str]:
    """Return `side_cells`, with what each effect is.

    >>> from types import SimpleNamespace
    >>> sides(SimpleNamespace(first=1.0, last=-2.0, agreement="synergistic"))
    ('alone +1.0000', 'in the text -2.0000', 'synergistic')
    """
    first, last, agreement = side_cells(word)
    return first and f"alone {first}", last and f"in the text {last}", agreement


def certainty(word: Any) -> str:
    """Say how well a word's score is known, where that differs between words; else "".

    >>> from types import SimpleNamespace
    >>> certainty(SimpleNamespace(standard_error=0.05, evidence="audited"))
    'audited, standard error 0.0500'
    """
    error, evidence = (getattr(word, name, None) for name in ("standard_error", "evidence"))
    parts = [evidence, None if error is None else f"standard error {error:.4f}"]
    return ", ".join(filter(None, parts))


def explained_sides(word: Any) -> str:
    """Return `sides` in one sentence, with what the mark means, and the score's `certainty`."""
    *effects, agreement = sides(word)
    mark = mark_of(word)
    meaning = agreement if mark is None else f"{agreement} ({mark.meaning})"
    told = ": ".join(filter(None, [", ".join(filter(None, effects)), meaning]))
    return "; ".join(filter(None, [certainty(word), told]))


def marks_shown(results: Iterable[Any]) -> dict[Agreement, Mark]:
    """Return the marks that the words of these results have."""
    shown = {getattr(word, "agreement", None) for result in results for word in result.words}
    return {agreement: mark for agreement, mark in MARKS.items() if agreement in shown}


def residual_line(scores: Sequence[float], residual: float | None) -> str | None:
    """Return what scores sum to beyond F(x) − F(x̄), x̄ the sentence of baselines; None if unknown.

    >>> residual_line([1.0, 0.5], -0.5)
    'residual -0.5000: the scores sum to +1.5000, F(x) − F(x̄) is +2.0000'
    """
    if residual is None or not math.isfinite(residual):
        return None
    total = math.fsum(scores)
    residual = round(residual, 4) + 0.0  # no −0
    return (
        f"residual {residual:+.4f}: the scores sum to {total:+.4f}, "
        f"F(x) − F(x̄) is {total - residual:+.4f}"
    )

"""Which words are the strongest, with or without punctuation and the tokens of templates."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, get_args

from captum_sig._names import Rank, unknown_name
from captum_sig.viz.passages import passages
from captum_sig.viz.scale import Scale, scale_of

ROLES = "system|developer|user|assistant|tool|model|ipython"
MARKER = re.compile(  # of chat templates and tokenizers, with the role that follows
    rf"(?:<\|[^|<>\s]{{1,40}}\|>|<(?:start|end)_of_turn>)(?:(?:{ROLES})\b)?"
    r"|</?(?:s|bos|eos|pad|unk|mask)>|\[/?(?:INST|CLS|SEP|MASK|PAD|UNK)\]|<</?SYS>>"
)
# Such as "Answer:", if nothing else stands on the line.
LAST_LABEL = re.compile(r"\n[^\S\n]*\w[^:\n]{0,20}:\s*\Z")


def left_out(result: Any, rank: Rank) -> frozenset[int]:
    """Return the columns that do not count for a rank: none for "all".

    With "words", those are columns without a letter or digit, markers of templates such as
    "<|im_end|>" with the role that follows, and a label such as "Answer:" on the last line.

    Raises:
        ValueError: if the rank is unknown.
    """
    if rank == "all":
        return frozenset()
    if rank != "words":
        raise ValueError(unknown_name("rank", rank, get_args(Rank)))
    names = [word.word for word in result.words]
    names += getattr(result, "columns", names)[len(names) :]
    columns = {n for n, name in enumerate(names) if not any(map(str.isalnum, name))}
    for passage in passages(result):
        found = [*MARKER.finditer(passage.text), *LAST_LABEL.finditer(passage.text)]
        covered = {place for match in found for place in range(*match.span())}
        columns.update(number for number, word in passage.words if word.start in covered)
    return frozenset(columns)


def scores_of(result: Any, row: int | None = None) -> list[float]:
    """Return the score of each word for one target, NaN where it does not belong to that.

    Without a row, those that the text shows at first: of the whole target, or the main one; an
    empty list if there is no target.
    """
    if not hasattr(result, "matrix"):
        return [word.score for word in result.words]
    if row is None and result.totals is None:
        row = result.main_row
        if row is None:
            return []
    scores = result.totals if row is None else result.matrix[row]
    return scores[: len(result.words)].tolist()


def scale_of_text(result: Any, rank: Rank, row: int | None = None) -> Scale:
    """Return the scale of the words' scores, see `scores_of`."""
    return scale_of(scores_of(result, row), left_out(result, rank))


def strongest(scores: Sequence[float], limit: int, left_out: Collection[int] = ()) -> list[int]:
    """Return the numbers of the strongest scores, the strongest first; NaN and 0 are not among."""
    counted = (n for n, score in enumerate(scores) if n not in left_out)
    known = (n for n in counted if scores[n] and not math.isnan(scores[n]))
    return sorted(known, key=lambda n: -abs(scores[n]))[:limit]

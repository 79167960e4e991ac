"""The probability of a class for many ablated sentences: rows of one length in one pass.

The rows of a pass have the same length, so that the model never sees padding; equal rows are
evaluated once. R rows of a pass; L tokens in one; C classes; D the embedding's width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, TypedDict

import torch
from torch import Tensor

from captum_sig._numbers import checked_integer
from captum_sig.attr.chunks import Chunks
from captum_sig.faithfulness.ablations import Row, Scale, row_ids, unchanged
from captum_sig.words.encoding import Sentence

Predict = Callable[..., Tensor]  # (R, L) ids, no padding → (R, C) log-probabilities
Sentences = Iterable[Sentence]
Scores = Iterable[Iterable[float] | Tensor] | Tensor  # B times n numbers, in order of the units

MAX_TOKENS = 2**14  # in a forward pass
MAX_LOG_PROBABILITY = 1e-3  # not 0: the logarithm of a rounded 1 may exceed it
NO_SCALE = -1


class RowOptions(TypedDict, total=False):
    """Optional arguments of every metric."""

    max_tokens: int  # the most tokens in a forward pass; a longer row goes alone
    original: Iterable[float] | Tensor | None  # (B,) log p(target | x) if known


def log_probabilities(
    predict: Predict, sentences: Sentences, max_tokens: int = MAX_TOKENS
) -> Tensor:
    """Compute log p(target | x), (B,), which several metrics can share as `original`."""
    rows = [(sentence, unchanged(row_ids(sentence))) for sentence in sentences]
    return target_log_probabilities(predict, rows, max_tokens)


def table_of(
    predict: Predict, cells: Sequence[Sequence[tuple[Sentence, Sequence[Row]]]], max_tokens: int
) -> Tensor:
    """Compute log p(target) of the rows in the cells of a table.

    Args:
        predict: see `captum_sig.faithfulness.log_odds`.
        cells: for each line of the table its cells, each with the rows of a sentence.
        max_tokens: the most tokens in a forward pass.

    Returns:
        (lines, most cells, most rows) in float64; NaN where there is no row.
    """
    widest = max((len(line) for line in cells), default=0)
    deepest = max((len(rows) for line in cells for _, rows in line), default=0)
    table = torch.full((len(cells), widest, deepest), torch.nan, dtype=torch.float64)
    places, rows = [], []
    for i, line in enumerate(cells):
        for j, (sentence, of_cell) in enumerate(line):
            for k, row in enumerate(of_cell):
                places.append((i, j, k))
                rows.append((sentence, row))
    if rows:
        table[tuple(torch.tensor(places).T)] = target_log_probabilities(predict, rows, max_tokens)
    return table


def table_with_original(
    predict: Predict,
    sentences: Sequence[Sentence],
    cells: Sequence[Sequence[tuple[Sentence, Sequence[Row]]]],
    max_tokens: int,
    original: Iterable[float] | Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compute log p(target | x), (B, 1, 1), unless it is known, and the table of the cells."""
    if not sentences:
        return torch.empty(0, 1, 1, dtype=torch.float64), table_of(predict, [], max_tokens)
    if original is None:
        with_x = [
            [(sentence, [unchanged(row_ids(sentence))]), *line]
            for sentence, line in zip(sentences, cells, strict=True)
        ]
        table = table_of(predict, with_x, max_tokens)
        return table[:, :1, :1], table[:, 1:]
    known = torch.tensor(list(original), dtype=torch.float64)
    check_length("original", known, len(sentences))
    return known[:, None, None], table_of(predict, cells, max_tokens)


def checked_scores(sentences: Sequence[Sentence], scores: Scores) -> Iterator[Tensor]:
    """Yield the scores of each sentence, (n,) in float64.

    Raises:
        ValueError: if there are not n of each, or one is NaN.
    """
    of_each = list(scores)
    check_length("scores", of_each, len(sentences))
    for number, (sentence, values) in enumerate(zip(sentences, of_each, strict=True)):
        numbers = values.tolist() if isinstance(values, Tensor) else list(values)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        if tensor.shape != (sentence.n_units,) or tensor.isnan().any():
            raise ValueError(
                f"sentence {number} needs {sentence.n_units} scores other than NaN, got {numbers}"
            )
        yield tensor


def check_length(argument: str, values: Sized, n: int) -> None:
    """Raise a ValueError unless there is one value for each of n sentences."""
    if len(values) != n:
        raise ValueError(f"{argument} has {len(values)} entries for {n} sentences")


def target_log_probabilities(
    predict: Predict, rows: Sequence[tuple[Sentence, Row]], max_tokens: int
) -> Tensor:
    """Compute log p(target | row), (R,) in float64."""
    targets = torch.tensor([sentence.target for sentence, _ in rows])
    return class_log_probabilities(predict, rows, max_tokens).gather(1, targets[:, None])[:, 0]


def class_log_probabilities(
    predict: Predict, rows: Sequence[tuple[Sentence, Row]], max_tokens: int
) -> Tensor:
    """Compute log p(class | row), (R, C) in float64, of at least one row.

    Raises:
        TypeError: if rows are scaled and `predict` has no parameter for that.
        ValueError: if the predictions are not log-probabilities of all targets.
    """
    max_tokens = checked_integer("max_tokens", max_tokens)
    replaces, takes_inputs = (_takes(predict, name) for name in ("replaced", "inputs"))
    if any(row.scale is not None for _, row in rows) and not _takes(predict, "scale"):
        raise TypeError(
            "this metric multiplies what the embedding returns: pass a predict that has a "
            "parameter scale, as an explainer's log_probabilities"
        )
    last = max(sentence.target for sentence, _ in rows)
    device = rows[0][0].ids.device
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}  # of one length, with the same inputs
    for number, (sentence, row) in enumerate(rows):
        names = tuple(sorted(sentence.inputs)) if takes_inputs else ()
        alike.setdefault((len(row.shown), names), []).append(number)
    results: list[tuple[list[int], Tensor]] = []
    chunks = Chunks((torch.empty(len(rows), dtype=torch.long),), None, False)
    for (length, names), indices in sorted(alike.items()):
        stacked = [_stacked(n, *rows[n], names, replaces=replaces) for n in indices]
        ids, inverse = torch.stack(stacked).unique(dim=0, return_inverse=True)  # (R, 3 + I, L)

        def forward(
            part: slice, ids: Tensor = ids, names: tuple[str, ...] = names
        ) -> tuple[Tensor]:
            scaled, received, shown, *others = ids[part].to(device).unbind(1)
            options: dict[str, Any] = {}
            if not torch.equal(received, shown):
                options["replaced"] = shown
            if names:
                options["inputs"] = dict(zip(names, others, strict=True))
            if (scaled != NO_SCALE).any():
                scales = [
                    None if n == NO_SCALE else rows[n][1].scale for n in scaled[:, 0].tolist()
                ]
                options["scale"] = _Scales(scales, ids.shape[-1])
            return (predict(received, **options).cpu(),)

        if not chunks.one_by_one:
            chunks.size = max(1, max_tokens // length)
        with torch.no_grad(), chunks:
            log_p = torch.cat([result for _, (result,) in chunks.map(forward, len(ids))])
        shape_fits = log_p.dim() == 2 and len(log_p) == len(ids) and log_p.shape[1] > last
        if not (shape_fits and log_p.max() <= MAX_LOG_PROBABILITY):
            raise ValueError(
                f"predict gave {tuple(log_p.shape)}, up to {log_p.max():.3g}; wanted ({len(ids)}, "
                f"C > {last}), up to 0: log-probabilities as from log_softmax"
            )
        results.append((indices, log_p[inverse].double()))
    table = results[0][1].new_empty(len(rows), results[0][1].shape[1])
    for indices, log_p in results:
        table[indices] = log_p
    return table


class _Scales:
    """The factors of rows of a pass, which `predict` asks for by slice, as it may split them."""

    def __init__(self, scales: Sequence[Scale | None], length: int) -> None:
        self.scales, self.length = scales, length

    def __call__(self, rows: slice, width: int) -> Tensor:
        """Return the factors of some rows, (r, L, D)."""
        return torch.stack([
            torch.ones(self.length, width) if scale is None else scale(width)
            for scale in self.scales[rows]
        ])  # fmt: skip


def _stacked(
    number: int, sentence: Sentence, row: Row, names: Sequence[str], *, replaces: bool
) -> Tensor:
    """Return what makes a row: its number if it is scaled, its ids and further inputs, (3 + I, L).

    Two scaled rows are never equal.
    """
    inputs = [sentence.inputs[name].cpu().long()[row.positions] for name in names]
    scaled = torch.full_like(row.shown, NO_SCALE if row.scale is None else number)
    return torch.stack([scaled, row.received if replaces else row.shown, row.shown, *inputs])


def _takes(predict: Predict, name: str) -> bool:
    """Whether `predict` has a parameter of this name."""
    try:
        return name in inspect.signature(predict).parameters
    except ValueError:  # some built-in functions have no signature
        return False

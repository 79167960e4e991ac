"""The path from a baseline to the input, traced: F, its gradient, and the nearest words.

    F(γ(k)),    Σ_j≤k ½ (∇F(γ(j − 1)) + ∇F(γ(j))) · (γ(j) − γ(j − 1)),    nearest token of γ(k)

The sum tends to F(γ(k)) − F(γ(0)); its shortfall at the end is the integral's error. B, L, D as in
`attr.sig`; P paths of S + 1 points: one path if all words move together, else one for each word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._captum import BaselineType, TargetType
from captum_sig._names import Unit, suggestion
from captum_sig.attr.arguments import N_STEPS, input_tensors, layer_problem, matching
from captum_sig.attr.dig import DiscretizedPath
from captum_sig.attr.function import Tensors, warn_of_dropout
from captum_sig.attr.integrals import path_gradients
from captum_sig.attr.neighbors import nearest_tokens, vocabulary
from captum_sig.attr.problem import Problem, plain_tensors
from captum_sig.attr.word_paths import WordPaths
from captum_sig.quadrature import checked_n_steps


@dataclass(frozen=True, eq=False)
class Trace:
    """The result of `trace`; tensors on the CPU, values of F and distances in float64.

    The word approximation error (`wae`; Sanyal & Ren, EMNLP 2021) is the mean distance to the
    nearest word embedding. The mean is over all points of all paths and all positions that differ
    from the baseline; a word that is held at the input counts as 0. `wae_moving` is the mean over
    the positions that move. Both are 0 where nothing differs.
    """

    method: str
    alpha: Tensor  # (S + 1,): fraction of the steps taken
    ids: Tensor  # (L,): the input's
    outputs: Tensor  # (P, S + 1): F
    cumulative: Tensor  # (P, S + 1): sum of gradient · step so far, by the trapezoid rule
    tokens: Tensor  # (P, S + 1, L): ids of the nearest tokens; the input's where nothing moves
    distances: Tensor  # (P, S + 1, L): Euclidean, to them
    words: tuple[tuple[int, ...], ...]  # (P): the positions that each path moves

    @property
    def change(self) -> Tensor:
        """F at the end of each path − F at its start, (P,)."""
        return self.outputs[:, -1] - self.outputs[:, 0]

    @property
    def residual(self) -> Tensor:
        """The whole sum of each path − its change, (P,): the error of the integral."""
        return self.cumulative[:, -1] - self.change

    @property
    def wae(self) -> float:
        """Word approximation error of the sentence."""
        differing = {position for positions in self.words for position in positions}
        return self._mean_distance(len(self.words) * len(differing))

    @property
    def wae_moving(self) -> float:
        """Word approximation error of the positions that move."""
        return self._mean_distance(sum(len(positions) for positions in self.words))

    def _mean_distance(self, n_positions: int) -> float:
        return float(self.distances.sum()) / max(1, n_positions * len(self.alpha))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for `json.dumps`.

        Each path lists the positions that it moves, and the tokens and distances there, (S + 1, M).
        """
        per_path = ("change", "residual", "outputs", "cumulative")
        paths = [
            {
                "positions": list(positions),
                **{name: getattr(self, name)[number].tolist() for name in per_path},
                "tokens": self.tokens[number][:, list(positions)].tolist(),
                "distances": self.distances[number][:, list(positions)].tolist(),
            }
            for number, positions in enumerate(self.words)
        ]
        scalars = {name: getattr(self, name) for name in ("method", "wae", "wae_moving")}
        vectors = {name: getattr(self, name).tolist() for name in ("alpha", "ids")}
        return {**scalars, **vectors, "paths": paths}


@dataclass(frozen=True, eq=False)
class TextTrace:
    """The path of a method from the baseline to a text; F is the logit, or value, of `target`."""

    text: str
    target: str
    baseline: str
    trace: Trace
    words: tuple[str, ...]  # (P): the word that each path moves; the text if all move together
    positions: tuple[int, ...]  # of the text's words, without special tokens
    tokenizer: Any = field(repr=False)
    unit: Unit = "logit"

    @property
    def one_by_one(self) -> bool:
        """Whether each path moves one word alone."""
        return path_named(self.trace.method).one_by_one

    def sentence(self, path: int, point: int) -> list[tuple[str, bool]]:
        """Return the nearest tokens of all words, and whether each differs from the input's.

        >>> from captum_sig import TextClassificationExplainer
        >>> from captum_sig.demo_model import PATH
        >>> explainer = TextClassificationExplainer.from_pretrained(PATH, baseline="pad")
        >>> explainer.trace("A fine film", n_steps=2).sentence(path=0, point=2)
        [('a', False), (' fine', False), (' film', False)]
        """
        tokens = self.trace.tokens[path, point]
        texts = self._spelled(tokens[list(self.positions)])
        changed = tokens != self.trace.ids
        return list(zip(texts, changed[list(self.positions)].tolist(), strict=True))

    def nearest(self, path: int, point: int) -> str:
        """Return the nearest tokens of what the path moves, joined."""
        moved = self.trace.tokens[path, point, list(self.trace.words[path])]
        return "".join(self._spelled(moved)).strip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings; as `Trace.to_dict`, with tokens for ids.

        `nearest` holds the joined tokens at every point.
        """
        trace = self.trace.to_dict()
        convert = self.tokenizer.convert_ids_to_tokens
        for number, path in enumerate(trace["paths"]):
            path["word"] = self.words[number]
            path["nearest"] = [self.nearest(number, k) for k in range(len(trace["alpha"]))]
            path["tokens"] = [convert(row) for row in path["tokens"]]
        return {
            "text": self.text,
            "target": self.target,
            "baseline": self.baseline,
            "tokens": convert(trace.pop("ids")),
            **trace,
        }

    def _spelled(self, tokens: Tensor) -> list[str]:
        """Spell tokens, each as it continues the one before."""
        pieces = self.tokenizer.convert_ids_to_tokens(tokens.tolist())
        pairs = (pieces[max(0, i - 1) : i + 1] for i in range(len(pieces)))
        return [_spelled_after(self.tokenizer, pair) for pair in pairs]


def _spelled_after(tokenizer: Any, pieces: Sequence[str]) -> str:
    """Spell the last piece as it continues the one before, if there is one."""
    before, both = (
        tokenizer.convert_tokens_to_string(list(part)).replace(" ##", "")
        for part in (pieces[:-1], pieces)
    )
    if both.startswith(before):
        return both[len(before) :]
    return tokenizer.convert_tokens_to_string(list(pieces[-1:]))  # both are parts of a character


@dataclass(frozen=True)
class Line:
    """A line of S steps; `at` maps positions, points, (M,) each, and ends to vectors, (M, D)."""

    n_steps: int
    at: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PathKind:
    """Whether a method moves each word alone, and along which line."""

    one_by_one: bool
    line: Callable[[Problem, int | None, DiscretizedPath | None], Line]


def straight_line(problem: Problem, n_steps: int | None, path: DiscretizedPath | None) -> Line:
    """Take equal steps from end to end."""
    if path is not None:
        raise ValueError("ig and sig go straight: leave path out, or trace dig or sequential_dig")
    steps = int(N_STEPS) if n_steps is None else checked_n_steps(n_steps)

    def at(position: Tensor, point: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return torch.lerp(start, end, point.to(start)[:, None] / steps)  # exact at the ends

    return Line(steps, at)


def anchored_line(problem: Problem, n_steps: int | None, path: DiscretizedPath | None) -> Line:
    """Follow the points of Discretized Integrated Gradients."""
    if n_steps is not None:
        raise ValueError("DIG has its own points: leave n_steps out, and choose them by path")
    assert problem.embedded_ids is not None  # as `trace` has checked
    ((layer, ids),), (baseline,) = problem.embedded_ids, problem.paths.baselines
    found = (path or DiscretizedPath())(layer, ids, baseline)

    def at(position: Tensor, point: Tensor, start: Tensor, end: Tensor) -> Tensor:
        return found.points[found.path_of[0, position], point].to(start)

    return Line(len(found), at)


PATHS: dict[str, PathKind] = {
    "ig": PathKind(False, straight_line),
    "dig": PathKind(False, anchored_line),
    "sig": PathKind(True, straight_line),
    "sequential_dig": PathKind(True, anchored_line),
}


def path_named(method: str) -> PathKind:
    """Return the path of a method; raises ValueError for a method without one."""
    if method not in PATHS:
        raise ValueError(
            f"method {method!r} has no path{suggestion(method, PATHS)}: use one of "
            f"{', '.join(PATHS)}"
        )
    return PATHS[method]


@plain_tensors()
def trace(
    forward_func: Callable[..., Any],
    layer: nn.Module,
    inputs: Tensor | Tensors,
    baselines: BaselineType = None,
    target: TargetType = None,
    additional_forward_args: object = None,
    *,
    method: str = "ig",
    n_steps: int | None = None,
    feature_mask: Any = None,
    layer_baselines: Any = None,
    internal_batch_size: int | None = None,
    path: DiscretizedPath | None = None,
) -> Trace:
    """Trace the path of a method for one example; takes (S + 1) P gradients.

    Arguments as in `LayerSequentialIntegratedGradients.attribute`, but for these.

    Args:
        layer: the word embedding, `model.get_input_embeddings()`.
        inputs: token ids (1, L), first where the model takes more.
        method: "ig" (all words together, straight), "dig" (all words together, through DIG's
            anchors), "sig" and "sequential_dig" (the same, one word at a time).
        n_steps: equal steps of "ig" and "sig", by default 50, at most 2,000; DIG has its own.
        path: the anchors of "dig" and "sequential_dig"; None is `DiscretizedPath()`.

    Raises:
        ValueError: for an unknown method, more than one example, a layer that is not a word
            embedding or does not receive a token id for each position, or arguments that do not go
            together.
        FloatingPointError: if a value or gradient of F is not finite.

    >>> embedding = nn.Embedding.from_pretrained(torch.tensor([[0.0], [2.0], [5.0]]))
    >>> found = trace(lambda ids: embedding(ids).sum((1, 2)), embedding, torch.tensor([[2]]),
    ...               baselines=0, n_steps=4)
    >>> found.tokens.flatten().tolist(), found.cumulative.flatten().tolist()
    ([0, 1, 1, 2, 2], [0.0, 1.25, 2.5, 3.75, 5.0])
    """
    kind = path_named(method)
    ids = input_tensors(inputs)
    if len(ids[0]) != 1:
        raise ValueError(f"trace takes one example, got {len(ids[0])}: pass ids of shape (1, L)")
    vectors = vocabulary(layer)
    problem = layer_problem(
        forward_func, layer, inputs, baselines=baselines, layer_baselines=layer_baselines,
        target=target, additional_forward_args=additional_forward_args, feature_mask=feature_mask,
        internal_batch_size=internal_batch_size,
    )  # fmt: skip
    warn_of_dropout(problem.function.modules)
    if problem.embedded_ids is None:
        raise ValueError(
            "the layer does not receive a token id for each position; wanted the model's word "
            "embedding, model.get_input_embeddings()"
        )
    ((_, input_ids),) = problem.embedded_ids
    problem = problem if kind.one_by_one else problem.as_one_word()
    line = kind.line(problem, n_steps, path)
    preferred = [input_ids]
    if layer_baselines is None and torch.equal(ids[0].to(input_ids), input_ids):
        preferred.insert(0, matching(baselines, ids, "baselines")[0].to(input_ids))
    walk = _Walk(problem.paths, line)
    outputs, cumulative = walk.values(problem)
    tokens, distances = walk.nearest(vectors, preferred)
    return Trace(
        method=method,
        alpha=torch.arange(walk.n_points, dtype=torch.float64) / line.n_steps,
        ids=input_ids[0].cpu(),
        outputs=outputs,
        cumulative=cumulative,
        tokens=tokens,
        distances=distances,
        words=walk.words(),
    )


class _Walk:
    """All points of all paths of an example, each a row: number of the path · (S + 1) + point."""

    def __init__(self, paths: WordPaths, line: Line) -> None:
        self.paths, self.line = paths, line
        self.n_points = line.n_steps + 1
        self.shape = (len(paths), self.n_points)
        (x,), (b,) = paths.points, paths.baselines
        self.differs = (x != b).flatten(2).any(-1)[0]  # (L,)

    def words(self) -> tuple[tuple[int, ...], ...]:
        """Return the positions of each path that differ from the baseline."""
        moving = self.paths.path_of[0][0].masked_fill(~self.differs, -1)
        numbers = range(len(self.paths))
        return tuple(tuple((moving == n).nonzero()[:, 0].tolist()) for n in numbers)

    def places(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the paths (R,) of rows, and row and position (M,) of all that moves in them."""
        path = torch.arange(rows.start, rows.stop, device=self.differs.device) // self.n_points
        ((row, position),) = self.paths.places(self.paths.background[path], path)
        moves = self.differs[position]
        return path, row[moves], position[moves]

    def at(self, position: Tensor, point: Tensor) -> Tensor:
        """Return the vectors at some points, (M, D); those outside the path are its ends."""
        ends = self.paths.ends(0, torch.zeros_like(position), position)
        return self.line.at(position, point.clamp(0, self.line.n_steps), *ends)

    def values(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Evaluate F at all points, and sum gradient · step up to them, (P, S + 1) both."""
        n_rows = len(self.paths) * self.n_points
        outputs, behind, ahead = (torch.zeros(n_rows, dtype=torch.float64) for _ in range(3))

        def evaluate(rows: slice) -> tuple[Tensor, ...]:
            path, row, position = self.places(rows)
            point = (rows.start + row) % self.n_points
            last, here, following = (self.at(position, point + step) for step in (-1, 0, 1))
            values, (gradient,) = path_gradients(
                problem.function, self.paths, path, [(row, position)], [here]
            )
            gradient = gradient.to("cpu", torch.float64)  # not every device has float64
            products = [
                torch.zeros(len(path), dtype=torch.float64).index_add_(
                    0, row.cpu(), (gradient * step.to(gradient)).flatten(1).sum(1)
                )
                for step in (here - last, following - here)
            ]
            return values.to(outputs), *products

        with problem.chunks as chunks:
            for rows, results in chunks.map(evaluate, n_rows):
                outputs[rows], behind[rows], ahead[rows] = results
        steps = (ahead.view(self.shape)[:, :-1] + behind.view(self.shape)[:, 1:]) / 2
        return outputs.view(self.shape), nn.functional.pad(steps.cumsum(1), (1, 0))

    def nearest(self, vectors: Tensor, preferred: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Find tokens and distances, (P, S + 1, L) both.

        Args:
            vectors: the vocabulary, (V, D).
            preferred: ids (1, L) that win over others with the same vector; the last the input's.
        """
        _, row, position = self.places(slice(0, len(self.paths) * self.n_points))
        nearest, distance = nearest_tokens(vectors, self.at(position, row % self.n_points))
        for ids in preferred:
            candidate = ids[0, position].to(nearest)
            equal = (vectors[nearest] == vectors[candidate]).all(1)
            nearest = torch.where(equal, candidate, nearest)
        tokens = preferred[-1][0].cpu().expand(*self.shape, -1).clone().flatten(0, 1)
        distances = torch.zeros(tokens.shape, dtype=torch.float64)
        place = row.cpu(), position.cpu()
        tokens[place], distances[place] = nearest.to(tokens), distance.to(distances)
        return tokens.unflatten(0, self.shape), distances.unflatten(0, self.shape)

"""From what `zoom` measured of a text to its result: the tree, and its leaves as words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from captum_sig._names import Evidence, NodeState, Side
from captum_sig.attr.held import Held
from captum_sig.attr.problem import Problem
from captum_sig.attr.slopes import slopes
from captum_sig.baselines.families import Family
from captum_sig.explainers.chosen_baselines import ChosenBaseline
from captum_sig.explainers.matrix import MatrixOptions, TargetMatrix, token_problem
from captum_sig.explainers.method_input import Scores
from captum_sig.explainers.methods import mean_of_baselines
from captum_sig.explainers.results import EVIDENCE
from captum_sig.explainers.scoring import Question, ScoringOptions, method_inputs
from captum_sig.explainers.teacher_forcing import TeacherForced
from captum_sig.explainers.unit_effects import UnitEffects
from captum_sig.explainers.zoom import (
    Zoom,
    audit,
    audits,
    by_halves,
    by_slopes,
    key_of,
    weight_of_tokens,
    zoom_in,
)
from captum_sig.explainers.zoom_result import FlatResult, ZoomAttribution, ZoomNode
from captum_sig.words.encoding import Batch
from captum_sig.words.grouping import Span
from captum_sig.words.outline import Part, outline
from captum_sig.words.prompts import Prompt

MAX_SLOPED = 3  # values by whose slopes words are ranked
EVIDENCE_OF: dict[NodeState, Evidence] = {
    "scored": "exact", "audited": "audited", "estimated": "estimated", "unopened": "unopened",
}  # fmt: skip


class Tree:
    """The nodes of what was measured of a text.

    Args:
        zoom: after `zoom_in`.
        texts: the text, or those of a pair.
        words: of the text.
    """

    def __init__(self, zoom: Zoom, texts: dict[Side | None, str], words: Sequence[Span]) -> None:
        self.zoom, self.texts, self.words = zoom, texts, words
        self.leaves: list[Part] = []  # in the order of the text
        self.states: list[NodeState] = []  # of the leaves
        nodes = self._nodes(zoom.outline)
        is_whole = key_of(zoom.outline) in zoom.effects
        self.root = nodes[0] if is_whole else self._node(zoom.outline, "opened", nodes)

    def _nodes(self, part: Part) -> tuple[ZoomNode, ...]:
        """Return a part's node; if the part is not measured, the nodes of its parts."""
        key, zoom = key_of(part), self.zoom
        is_known = key in zoom.effects
        if part.parts and (key in zoom.opened or not is_known):
            below = tuple(node for one in part.parts for node in self._nodes(one))
            return (self._node(part, "opened", below),) if is_known else below
        state: NodeState = "unopened" if part.parts else "scored"
        if not part.parts:
            state = "audited" if key in zoom.audited else "scored" if is_known else "estimated"
        self.leaves.append(part)
        self.states.append(state)
        return (self._node(part, state, ()),)

    def _node(self, part: Part, state: NodeState, nodes: tuple[ZoomNode, ...]) -> ZoomNode:
        zoom, key = self.zoom, key_of(part)
        effects, bounds = zoom.effects.get(key), zoom.audit_bounds
        if state == "estimated" and zoom.estimates is not None:
            effects = zoom.estimates[part.first]
        return ZoomNode(
            level=part.level,
            text=self.text_of(part),
            n_words=part.n_words,
            state=state,
            effects=_numbers(effects),
            start=part.start,
            end=part.end,
            side=part.side,
            name=part.name,
            alone=_numbers(zoom.alone.get(key)),
            bound=_numbers(bounds) if state in ("unopened", "estimated") else None,
            nodes=nodes,
        )

    def text_of(self, part: Part) -> str:
        """Return a word as it is called, or the characters of a part."""
        if part.level == "word":
            return self.words[part.first].word
        if part.start is None:  # two texts
            return "\n".join(self.texts.values())
        return self.texts[part.side][part.start : part.end]

    @property
    def spans(self) -> list[Span]:
        """The leaves as the words of a result, each where its first word stands."""
        return [
            replace(
                self.words[part.first], word=self.text_of(part), start=part.start, end=part.end,
                name=part.name,
            )
            for part in self.leaves
        ]  # fmt: skip

    @property
    def evidence(self) -> list[Evidence]:
        """Where the leaves' scores come from."""
        return [EVIDENCE_OF[state] for state in self.states]

    def result(self, flat: FlatResult, names: Sequence[str]) -> ZoomAttribution:
        """Return the tree with its leaves as a result of other levels has them."""
        zoom = self.zoom
        return ZoomAttribution(
            root=self.root,
            result=flat,
            target_names=tuple(names),
            n_rows=zoom.n_rows,
            budget=zoom.budget,
            n_rows_of_all_words=zoom.n_rows_of_all_words,
            audit=audit(zoom),
        )


def without_words(flat: FlatResult, names: Sequence[str]) -> ZoomAttribution:
    """Return the result of a text in which nothing can move."""
    text = flat.text
    effects = (0.0,) * len(names)
    root = ZoomNode("text", text, 0, "opened", effects, start=0, end=len(text))
    return ZoomAttribution(root, flat, tuple(names), 0, 0, 0)


def _numbers(values: Tensor | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values.tolist())


def zoomed(
    question: Question, baselines: Sequence[ChosenBaseline], options: ScoringOptions
) -> tuple[Tree, list[Scores]]:
    """Zoom into the one text of a batch.

    Returns:
        the tree, and the scores of its leaves for each of the T values, by position.
    """
    batch = question.batch
    (words,), (one,) = batch.spans, batch.inputs
    positions = [span.position for span in words]
    draws = [
        [
            UnitEffects(draw.problem, positions)
            for draw in method_inputs(
                replace(question, families=of.families), of.n_draws, options, None
            )
        ]
        for of in baselines
    ]
    where = f"text {batch.numbers[0]}"
    zoom = Zoom(outline(one, words), draws, options.budget, where=where)
    n_sloped = min(question.n_values, MAX_SLOPED)
    rank = by_slopes(lambda: _slopes(question, options, positions, zoom, n_sloped), 2 * n_sloped)
    (generator,) = question.new_generators()
    zoom_in(zoom, rank, generator)
    found = Tree(zoom, one.by_side, words)
    return found, _scores(found, batch)


def zoomed_matrix(
    forced: TeacherForced,
    prompt: Prompt,
    families: Sequence[Family],
    options: MatrixOptions,
    budget: int | None,
    generator: torch.Generator,
) -> tuple[Tree, TargetMatrix]:
    """Zoom into a prompt: its units' and words' effects on each target token, and on all.

    Args:
        forced: the model after the prompt, with one target.
        prompt: its words.
        families: what replaces words in each of the moving embeddings.
        options: how to evaluate rows.
        budget: rows; None chooses.
        generator: draws the words that are audited.

    Returns:
        the tree, and the effects of its leaves.
    """
    words = prompt.positions()
    problem = token_problem(forced, [(0, word) for word in words], families, options)
    units = UnitEffects(problem, [word[0] for word in words])
    parts = outline(prompt.source, prompt.spans)
    zoom = Zoom(parts, [[units]], budget, weight_of_tokens, where="the prompt")
    zoom_in(zoom, by_halves, generator)
    tree = Tree(zoom, prompt.source.by_side, prompt.spans)
    effects = units(zoom.sets(tree.leaves))
    (at_input,) = units.values(torch.ones(1, units.n_words, dtype=torch.bool))
    delta = at_input[-1].double() - forced.unchanged.sum().cpu().double()

    def of_tokens(per_leaf: Tensor | None) -> Tensor | None:  # (N, T + 1) → (T, N)
        is_known = per_leaf is not None and not bool(per_leaf.isnan().all())
        return per_leaf.T[:-1].double() if per_leaf is not None and is_known else None

    matrix, error = of_tokens(effects.mean), effects.standard_error
    assert matrix is not None
    return tree, TargetMatrix(
        matrix=matrix,
        word_deltas=delta.expand(len(tree.leaves)).clone(),
        first=of_tokens(effects.first),
        last=of_tokens(effects.last),
        standard_error=of_tokens(error),
        sequence_error=None if error is None else error[:, -1].double(),
    )


def _slopes(
    question: Question, options: ScoringOptions, positions: Sequence[int], zoom: Zoom, n: int
) -> Tensor:
    """Compute slopes at the input by two rules of each word, (2 n, W).

    By the model's gradient, and with layer norms and attention held (see `attr.held`). Where those
    rules do not apply, the gradient stands alone.

    Args:
        question: its first baseline is drawn.
        options: how to evaluate rows.
        positions: of the words.
        zoom: which has measured the text's effects.
        n: the number of values, those of the largest effects.
    """
    whole = zoom.effects[key_of(zoom.outline)]
    values = whole.abs().argsort(descending=True, stable=True)[:n].tolist()
    is_recurrent = any(
        isinstance(module, (nn.RNNBase, nn.RNNCellBase)) for module in question.model.modules()
    )
    found = []
    for value in values:
        problem = question.problem(
            question.new_generators(), max_rows=options.max_rows, column=value
        )
        found.append(_of_words(problem, positions, None))
        held = Held()
        if not is_recurrent:
            by_rules = _of_words(problem, positions, held)
            if held.applies:
                found.append(by_rules)
    return torch.stack(found)


def _of_words(problem: Problem, positions: Sequence[int], held: Held | None) -> Tensor:
    paths = problem.paths
    at_input = torch.ones(1, len(paths), dtype=paths.dtype, device=paths.device)
    (of_words,) = slopes(problem, at_input, held)
    return paths.scatter(of_words)[0][0, list(positions)].cpu()


def _scores(found: Tree, batch: Batch) -> list[Scores]:
    """Return the scores of the leaves for each value, at their first words' positions."""
    zoom, at = found.zoom, [span.position for span in found.spans]
    index = torch.tensor(list(map(EVIDENCE.index, found.evidence)))
    evidence = torch.zeros(batch.ids.shape, dtype=torch.long)
    evidence[0, at] = index
    estimated = evidence == EVIDENCE.index("estimated")
    of_draws = [[_of_draw(draw, found, at, batch.ids.shape) for draw in of] for of in zoom.draws]
    of_values = []
    for value, audited in enumerate(audits(zoom)):
        mean = mean_of_baselines([[draw[value] for draw in draws] for draws in of_draws])
        std = None if mean.std is None else mean.std.masked_fill(estimated, torch.nan)
        of_values.append(replace(mean, std=std, evidence=evidence, audits=[audited]))
    return of_values


def _of_draw(draw: UnitEffects, found: Tree, at: Sequence[int], shape: torch.Size) -> list[Scores]:
    """Return the scores of the leaves by one draw of a baseline, for each value.

    Their rows are evaluated already, so this takes none.
    """
    zoom, unchanged = found.zoom, draw.problem.value_at_input
    is_known = torch.tensor([state != "estimated" for state in found.states])
    of_known = draw(
        zoom.sets([p for p, known in zip(found.leaves, is_known, strict=True) if known])
    )
    estimates = zoom.estimates
    mean = of_known.mean.new_zeros(len(at), of_known.mean.shape[1])
    if estimates is not None:
        mean = estimates[[part.first for part in found.leaves]].to(mean)
    mean[is_known] = of_known.mean
    (at_input,) = draw.values(torch.ones(1, draw.n_words, dtype=torch.bool))
    deltas = torch.zeros_like(at_input)
    if unchanged is not None:
        deltas = (at_input - unchanged[0].to(at_input)).abs()

    def of_positions(of_leaves: Tensor | None, value: int) -> Tensor | None:
        if of_leaves is None:
            return None
        if len(of_leaves) < len(at):
            of_all = of_leaves.new_full((len(at), of_leaves.shape[1]), torch.nan)
            of_all[is_known] = of_leaves
            of_leaves = of_all
        scattered = of_leaves.new_zeros(shape)
        scattered[0, list(at)] = of_leaves[:, value]
        return scattered

    found_scores = []
    for value, delta in enumerate(deltas.tolist()):
        values = of_positions(mean, value)
        assert values is not None
        found_scores.append(
            Scores(
                values,
                [delta],
                of_positions(of_known.standard_error, value),
                first=of_positions(of_known.first, value),
                last=of_positions(of_known.last, value),
            )
        )
    return found_scores

"""What passes have shown of a model, so that later ones need not show it again.

A text's rows and the text itself take one pass if it is known that the word embedding is called
with the ids as they are: then the rows are there before the model has run. F is read from its
outputs afterwards, when the prediction is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from captum_sig.attr.chunks import rounding_error
from captum_sig.attr.hooks import LayerOutputs, embed_without_pass
from captum_sig.attr.read_positions import ReadPositions
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.explainers.scoring import Question, ScoringOptions, attended_of

MAX_PROBED = 2  # texts that show which positions the head reads
MAX_COLUMNS = 64  # of a model's output that is kept for all rows


class ModelFacts:
    """What is known of a model after its first batch.

    They hold while its `structure` is the same, see `attr.hooks.structure_of`. `read_positions` are
    the positions that its head reads. `hook_error` stands in results as what
    was measured, where a text and its rows share a pass.
    """

    def __init__(self, structure: object = None) -> None:
        self.structure = structure
        self.read_positions = ReadPositions()
        self.embeds_ids: bool | None = None  # whether rows may be made without a pass
        self.hook_error = (
            0.0  # the largest change of an output that the hook made in the first texts
        )
        self.depends_on_others = False  # whether a row's output has changed with those beside it
        self.n_batches: Counter[str] = Counter()

    @property
    def are_known(self) -> bool:
        """Whether there is nothing left to learn."""
        return self.embeds_ids is not None and self.read_positions.is_known

    def needs_check(self, kind: Literal["texts", "rows"]) -> bool:
        """Count a batch, and return whether it should show again that it depends on nothing else.

        Batches 1, 2, 4, 8, … should, and all where rows have depended on each other.
        """
        self.n_batches[kind] += 1
        return self.depends_on_others or self.n_batches[kind].bit_count() == 1

    def learn(self, question: Question, evaluate: Callable[[slice], Tensor]) -> None:
        """Learn from a batch as it is: what its embeddings return, and the model's output.

        Args:
            question: with the batch's pass.
            evaluate: a pass over some of its texts.
        """
        unchanged, ids = question.unchanged, question.batch.ids
        output, rows = unchanged.output, slice(MAX_PROBED)
        if not isinstance(output, Tensor):
            self.embeds_ids = False
            return
        if not self.read_positions.is_known:
            attended = attended_of(question.inputs)[rows]
            self.read_positions.find(question.model, lambda: evaluate(rows), attended, output[rows])
        if self.embeds_ids is None:
            embedded = embed_without_pass(question.embeddings.layers, unchanged, (ids,), (ids,))
            self.embeds_ids = (
                embedded is not None
                and len(embedded) == 1
                and torch.equal(embedded[0], unchanged.activations[0][0])
                and output.dim() == 2
                and output.shape[1] <= MAX_COLUMNS
                and self._are_same_through_rows(question, embedded[0][rows], output[rows])
            )

    def _are_same_through_rows(self, question: Question, x: Tensor, output: Tensor) -> bool:
        """Whether embedded ids in place of the embedding's output leave the model's as it is."""
        with question.embeddings.patched((x,)):
            through = question.forward(*(of[: len(x)] for of in question.inputs.values()))
        self.hook_error = float((through - output).abs().max())
        return self.hook_error <= rounding_error(output) * float(output.abs().max())

    def with_rows_ahead(
        self,
        ask: Callable[[LayerOutputs], Question],
        embedding: nn.Module,
        ids: Tensor,
        options: ScoringOptions,
    ) -> Question | None:
        """Evaluate a batch and its words' rows together, before it is known what F reads of them.

        Args:
            ask: makes a question of the batch, in which F is all of the model's output.
            embedding: the word embedding.
            ids: the batch's, (B, L).
            options: how its words are scored.

        Returns:
            the question with the model's output for the batch in `unchanged`, and with the problem
            in `ahead`; None if rows cannot be made without a pass, a text has no word that moves,
            or an output is not finite.
        """
        if not self.embeds_ids:
            return None
        embedded = LayerOutputs([(embedding(ids),)], [(ids,)], None)
        question = ask(embedded)
        problem = question.problem(question.new_generators(), max_rows=options.max_rows)
        if not problem.paths.words_per_example.all():
            return None
        is_alone = len(ids) == 1 and problem.chunks.size > 1
        is_known = not (is_alone and self.needs_check("rows"))
        problem = replace(problem, are_rows_independent=is_known)
        try:
            ahead = problem.with_known_ends()
        except NotFiniteError:
            return None
        if problem.chunks.one_by_one:
            self.depends_on_others, ahead = True, replace(ahead, max_rows=1)
        unchanged = replace(embedded, output=ahead.value_at_input)
        return replace(question, unchanged=unchanged, ahead=ahead)

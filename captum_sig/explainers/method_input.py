"""What an attribution method receives, a batch of texts, and what it returns, scores of words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.chunks import depends_on_others, rounding_error, warn_of_dependent_rows
from captum_sig.attr.function import Read, Tensors
from captum_sig.attr.hooks import patched
from captum_sig.attr.integrals import WordPath
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import WordPaths
from captum_sig.explainers.results import EVIDENCE, Audit, Word, scored_words
from captum_sig.words.encoding import Batch

ROWS = 64  # in a pass of Captum's methods, so that their memory stays bounded


class AtEmbedding(nn.Module):
    """A model as a function of its word embeddings, (R, L, D) → the values of F, (R, T).

    Args:
        model: the model; called with keywords.
        layer: its word embedding.
        as_tensor: the model's output → a tensor (R, …).
        read: that tensor, and the numbers of the rows' texts, (R,) → the values of F.
        names: the model's inputs after the embeddings and the numbers, first "input_ids".
        max_rows: maximum number of rows in a pass; more take several passes.
        dtype: the layer's; some of Captum's methods pass wider rows.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        *,
        as_tensor: Callable[[Any], Tensor],
        read: Read,
        names: Sequence[str],
        max_rows: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.as_tensor, self.read = as_tensor, read
        self.names, self.max_rows, self.dtype = names, max_rows, dtype
        self.is_checked = False

    def forward(self, embeddings: Tensor, example: Tensor, *inputs: Tensor) -> Tensor:
        """Compute F of rows, with the number of each row's text and the model's own inputs."""
        tensors = (embeddings, example, *inputs)
        parts = list(zip(*(tensor.split(self.max_rows) for tensor in tensors), strict=True))
        values = []
        for part in parts:
            values.append(self._values(part))
            if self._rows_depend_on_each_other(part, values[-1]):
                self.max_rows = 1
                warn_of_dependent_rows()
                return self(embeddings, example, *inputs)
        return torch.cat(values)

    def _values(self, tensors: Sequence[Tensor]) -> Tensor:
        rows, example, *inputs = tensors
        with patched([self.layer], (rows.to(self.dtype),)):
            output = self.as_tensor(self.model(**dict(zip(self.names, inputs, strict=True))))
        return self.read(output, example.to(output.device))

    def _rows_depend_on_each_other(self, tensors: Tensors, values: Tensor) -> bool:
        if self.is_checked or len(values) < 2:
            return False
        self.is_checked = True
        last = tuple(tensor[-1:] for tensor in tensors)
        with torch.no_grad():
            return depends_on_others(lambda: self._values(last), values, rounding_error(tensors[0]))


@dataclass(frozen=True, kw_only=True)
class MethodInput:
    """A batch of texts with what a method needs to know."""

    problem: Problem  # F, the input and the baseline at the embedding, and the words that move
    model: nn.Module
    layer: nn.Module
    inputs: dict[str, Tensor]  # the model's own by name, (B, …) each
    as_tensor: Callable[[Any], Tensor]  # the model's output → a tensor (R, …)
    read: Read  # that tensor, and the numbers of its rows' texts, (R,) → (R, T)
    column: int  # which of the T values is F
    example: Tensor  # (B,): the texts' numbers
    feature_mask: Tensor  # (B, L)
    generators: Sequence[torch.Generator]  # one for each text
    n_steps: int
    new_path: Callable[[], WordPath]  # of Discretized Integrated Gradients

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Input and baseline at the embedding, (B, L, D) each."""
        return self.problem.paths.points[0], self.problem.paths.baselines[0]

    @functools.cached_property
    def at_embedding(self) -> AtEmbedding:
        """The model as Captum's methods take it."""
        return AtEmbedding(
            self.model,
            self.layer,
            as_tensor=self.as_tensor,
            read=self.read,
            names=tuple(self.inputs),
            max_rows=self.problem.max_rows or ROWS,
            dtype=self.ends[0].dtype,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that all of Captum's methods take."""
        inputs = (self.example, *self.inputs.values())
        return {"target": self.column, "additional_forward_args": inputs}

    def one_by_one(self) -> Iterator[MethodInput]:
        """Yield each text alone, so that its random draws do not depend on the batch."""
        x, b = self.ends
        for number, generator in enumerate(self.generators):
            row = slice(number, number + 1)
            paths = WordPaths.between((x[row],), (b[row],), (self.feature_mask[row],))
            yield replace(
                self,
                problem=replace(self.problem, paths=paths),
                inputs={name: tensor[row] for name, tensor in self.inputs.items()},
                example=self.example[row],
                feature_mask=self.feature_mask[row],
                generators=[generator],
            )


@dataclass(frozen=True)
class Scores:
    """A method's scores of a batch; every position carries its word's score."""

    values: Tensor  # (B, L)
    word_deltas: Sequence[float | None]  # (B,): the largest measured error of a word, where known
    standard_error: Tensor | None = None  # (B, L)
    residual: Tensor | None = None  # (B,)
    std: Tensor | None = None  # (B, L): standard deviation over the draws of a random baseline
    first: Tensor | None = None  # (B, L): effect among words at the baseline; NaN if unknown
    last: Tensor | None = None  # (B, L): effect among words at the input; NaN if unknown
    left_out: Tensor | None = None  # (B, L): F(x) − F(x̄ʷ) where the method knows it; NaN elsewhere
    evidence: Tensor | None = None  # (B, L): index in `results.EVIDENCE`
    audits: Sequence[Audit | None] | None = None  # (B,)

    def cpu(self) -> Scores:
        """Move the scores to the CPU."""
        tensors = {
            field.name: getattr(self, field.name).cpu()
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)

    def words(self, batch: Batch, number: int) -> tuple[Word, ...]:
        """Return a text's words with their scores and what is known of their errors."""
        spans = batch.spans[number]
        positions = [span.position for span in spans]

        def of_words(values: Tensor | None) -> list[float] | None:
            return None if values is None else values[number, positions].tolist()

        return scored_words(
            spans,
            self.values[number, positions].tolist(),
            std=of_words(self.std),
            standard_error=of_words(self.standard_error),
            first=of_words(self.first),
            last=of_words(self.last),
            evidence=(
                None
                if self.evidence is None
                else [EVIDENCE[index] for index in self.evidence[number, positions].tolist()]
            ),
        )


Method = Callable[[MethodInput], Scores]

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
from captum_sig.attr.integrals import WordPath
from captum_sig.attr.problem import Problem
from captum_sig.attr.word_paths import WordPaths
from captum_sig.explainers.embeddings import WordEmbeddings
from captum_sig.explainers.results import EVIDENCE, Audit, Word, scored_words
from captum_sig.words.encoding import Batch

ROWS, POSITIONS = 64, 2**15  # in a pass of Captum's methods, so that their memory stays bounded


class AtEmbedding(nn.Module):
    """A model as a function of its word embeddings, (R, L, D) each → the values of F, (R, T).

    Args:
        model: the model; called with keywords.
        embeddings: where its words enter.
        as_tensor: the model's output → a tensor (R, …).
        read: that tensor, and the numbers of the rows' texts, (R,) → the values of F.
        names: the model's inputs after the embeddings and the numbers, first "input_ids".
        max_rows: maximum number of rows in a pass; more take several passes.
        dtypes: the embeddings'; some of Captum's methods pass wider rows.
    """

    def __init__(
        self,
        model: nn.Module,
        embeddings: WordEmbeddings,
        *,
        as_tensor: Callable[[Any], Tensor],
        read: Read,
        names: Sequence[str],
        max_rows: int,
        dtypes: Sequence[torch.dtype],
    ) -> None:
        super().__init__()
        self.model, self.layers = model, nn.ModuleList(embeddings.layers)
        self.calls = embeddings.calls
        self.as_tensor, self.read = as_tensor, read
        self.names, self.max_rows, self.dtypes = names, max_rows, dtypes
        self.is_checked = False

    def forward(self, *tensors: Tensor) -> Tensor:
        """Compute F of the embeddings' rows, their texts' numbers, and the model's own inputs."""
        parts = list(zip(*(tensor.split(self.max_rows) for tensor in tensors), strict=True))
        values = []
        for part in parts:
            values.append(self._values(part))
            if self._rows_depend_on_each_other(part, values[-1]):
                self.max_rows = 1
                warn_of_dependent_rows()
                return self(*tensors)
        return torch.cat(values)

    def _values(self, tensors: Sequence[Tensor]) -> Tensor:
        n = len(self.dtypes)
        rows = [of.to(dtype) for of, dtype in zip(tensors[:n], self.dtypes, strict=True)]
        example, *inputs = tensors[n:]
        with WordEmbeddings(tuple(self.layers), self.calls).patched(tuple(rows)):
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
    embeddings: WordEmbeddings
    inputs: dict[str, Tensor]  # the model's own by name, (B, …) each
    as_tensor: Callable[[Any], Tensor]  # the model's output → a tensor (R, …)
    read: Read  # that tensor, and the numbers of its rows' texts, (R,) → (R, T)
    column: int  # which of the T values is F
    example: Tensor  # (B,): the texts' numbers
    masks: Tensors  # (B, L) each: the numbers of the words in each embedding
    generators: Sequence[torch.Generator]  # one for each text
    n_steps: int
    new_path: Callable[[], WordPath]  # of Discretized Integrated Gradients

    @property
    def ends(self) -> tuple[Tensors, Tensors]:
        """Input and baseline at each embedding, (B, L, D) each."""
        return self.problem.paths.points, self.problem.paths.baselines

    @property
    def feature_mask(self) -> Tensor:
        """The number of each position's word in the text, (B, L)."""
        return self.masks[0]

    @property
    def max_rows(self) -> int:
        """Maximum number of rows in a pass of Captum's methods."""
        of_long_texts = max(2, POSITIONS // self.feature_mask.shape[1])
        return self.problem.max_rows or min(ROWS, of_long_texts)

    @functools.cached_property
    def at_embedding(self) -> AtEmbedding:
        """The model as Captum's methods take it."""
        return AtEmbedding(
            self.model,
            self.embeddings,
            as_tensor=self.as_tensor,
            read=self.read,
            names=tuple(self.inputs),
            max_rows=self.max_rows,
            dtypes=[x.dtype for x in self.ends[0]],
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that all of Captum's methods take."""
        inputs = (self.example, *self.inputs.values())
        return {"target": self.column, "additional_forward_args": inputs}

    def one_by_one(self) -> Iterator[MethodInput]:
        """Yield each text alone, so that its random draws do not depend on the batch."""
        for number in range(len(self.generators)):
            yield self.of_texts(self.example.new_tensor([number]))

    def in_parts(self, n_texts: int) -> Iterator[MethodInput]:
        """Yield so many of the texts at a time; all together as they are."""
        n_all = len(self.generators)
        if n_all <= n_texts:
            yield self
            return
        for numbers in torch.arange(n_all, device=self.example.device).split(n_texts):
            yield self.of_texts(numbers)

    def of_texts(self, numbers: Tensor, noise: Tensors | None = None) -> MethodInput:
        """Take some texts, (N,), perhaps one several times, with noise added to their embeddings.

        It is for Captum's methods: `problem` still evaluates F of the whole batch.
        """
        x, b, masks = (
            tuple(tensor[numbers] for tensor in of_each) for of_each in (*self.ends, self.masks)
        )
        if noise is not None:
            x = tuple(of + more for of, more in zip(x, noise, strict=True))
        return replace(
            self,
            problem=replace(self.problem, paths=WordPaths.between(x, b, masks)),
            inputs={name: tensor[numbers] for name, tensor in self.inputs.items()},
            example=self.example[numbers],
            masks=masks,
            generators=[self.generators[number] for number in numbers.tolist()],
        )


@dataclass(frozen=True)
class Scores:
    """A method's scores of a batch; every position carries its word's score."""

    values: Tensor  # (B, L)
    word_deltas: Sequence[float | None]  # (B,): the largest measured error of a word, where known
    standard_error: Tensor | None = None  # (B, L)
    residual: Tensor | None = None  # (B,)
    std: Tensor | None = None  # (B, L): standard deviation over draws of a baseline, or several
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

"""A batch of texts put to a method: what is drawn for each text, and the average of the draws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig import contexts as contexts_module
from captum_sig.attr.arguments import layer_problem
from captum_sig.attr.dig import DiscretizedPath
from captum_sig.baselines.families import Family
from captum_sig.contexts import Contexts
from captum_sig.explainers.methods import (
    IN_CONTEXTS,
    METHODS,
    AtEmbedding,
    MethodInput,
    Scores,
    answer,
)
from captum_sig.explainers.results import Word, scored_words
from captum_sig.quadrature import rule
from captum_sig.words.encoding import Batch

ROWS = 64  # in a pass of Captum's methods, so that their memory stays bounded


@dataclass(frozen=True)
class ScoringOptions:
    """What is asked of every batch of a call."""

    method: str  # in `METHODS`
    contexts: str | Contexts | None
    n_steps: int
    chunk: int | None

    @classmethod
    def of(
        cls, method: str, contexts: str | Contexts | None, n_steps: int, chunk: int | None
    ) -> ScoringOptions:
        """Check the caller's choice; `method` may name contexts after a colon.

        Raises:
            ValueError: for names that are unknown or do not go together.
        """
        name, colon, after = str(method).partition(":")
        if name not in METHODS or (colon and not after):
            raise ValueError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")
        if after and contexts is not None:
            raise ValueError(f"method {method!r} names contexts already: leave contexts= out")
        contexts = after or contexts
        if contexts is not None and name not in IN_CONTEXTS:
            raise ValueError(
                f"{name} does not move one word at a time, so it has no contexts: use one of "
                f"{', '.join(IN_CONTEXTS)}"
            )
        if isinstance(contexts, str):
            contexts_module.named(contexts)
        elif contexts is not None and not callable(contexts):
            raise TypeError(f"contexts must be a name or a callable, got {contexts!r}")
        rule("gausslegendre", n_steps)  # refuses what Captum's IG would trip over
        return cls(name, contexts, n_steps, chunk)

    @property
    def name(self) -> str:
        """The method's, with the contexts' after a colon."""
        if self.contexts is None:
            return self.method
        given = self.contexts
        return f"{self.method}:{given if isinstance(given, str) else _name_of(given)}"

    def contexts_of(self, generators: Sequence[torch.Generator]) -> list[Contexts] | None:
        """For each text; where no generator is given the text's own is drawn from."""
        given = self.contexts
        if given is None:
            return None
        if isinstance(given, str):
            return [contexts_module.named(given, g) for g in generators]
        if isinstance(given, contexts_module.Sampled) and given.generator is None:
            return [replace(given, generator=g) for g in generators]
        return [given] * len(generators)


def _name_of(contexts: Contexts) -> str:
    if isinstance(contexts, contexts_module.Sampled):
        return f"sampled{contexts.k}"
    return getattr(contexts, "__name__", type(contexts).__name__)


def generator_of(text: str, seed: int) -> torch.Generator:
    """A generator that depends on the text and the seed alone, not on what is asked beside it."""
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def forward_of(model: nn.Module, batch: Batch) -> Callable[..., Tensor]:
    """The model as a function of ids and the batch's other inputs, in their order → logits."""
    names = ("input_ids", *batch.others)

    def forward(*inputs: Tensor) -> Tensor:
        return model(**dict(zip(names, inputs, strict=True))).logits

    return forward


def drawn_baseline(
    family: Family, batch: Batch, generators: Sequence[torch.Generator]
) -> dict[str, Any]:
    """The baseline as the layer classes take it: ids, or activations of the word embedding."""
    found = family(batch.ids, batch.others.get("attention_mask"), generators)
    as_ids = found.shape == batch.ids.shape
    return {"baselines": found if as_ids else None, "layer_baselines": None if as_ids else found}


def score_batch(
    model: nn.Module,
    layer: nn.Module,
    family: Family,
    batch: Batch,
    targets: Tensor,  # (B,)
    generators: Sequence[torch.Generator],
    request: ScoringOptions,
) -> Scores:
    """One draw of the baseline, and the method's answer."""
    if not any(batch.spans):
        return Scores(torch.zeros(batch.ids.shape), [0.0] * len(batch.texts))
    problem = layer_problem(
        forward_of(model, batch), layer, None, batch.ids,
        **drawn_baseline(family, batch, generators), target=targets,
        additional_forward_args=tuple(batch.others.values()), attribute_to_layer_input=False,
        grad_kwargs=None, feature_mask=batch.feature_mask,
        contexts=request.contexts_of(generators), chunk=request.chunk, progress=False,
    )  # fmt: skip
    question = MethodInput(
        problem=problem,
        at_embedding=AtEmbedding(
            model,
            layer,
            ("input_ids", *batch.others),
            request.chunk or ROWS,
            problem.moves.points[0].dtype,
        ),
        inputs=(batch.ids, *batch.others.values()),
        targets=targets,
        feature_mask=batch.feature_mask,
        generators=generators,
        n_steps=request.n_steps,
        path=DiscretizedPath(),
    )
    return answer(METHODS[request.method], question)


@dataclass(frozen=True)
class Average:
    """Scores averaged over the draws of a random baseline, and how much these differ."""

    scores: Scores
    std: Tensor | None  # (B, L): standard deviation over the draws

    def words(self, batch: Batch, number: int) -> tuple[Word, ...]:
        """The words of a text with their scores, and with what is known of their error."""
        scores = self.scores.values[number].tolist()
        words = scored_words(batch.spans[number], [scores[s.position] for s in batch.spans[number]])
        for name, values in (
            ("std", self.std),
            ("standard_error", self.scores.standard_error),
        ):
            if values is not None:
                row = values[number].tolist()
                words = tuple(
                    replace(word, **{name: row[span.position]})
                    for word, span in zip(words, batch.spans[number], strict=True)
                )
        return words


def averaged(draws: Sequence[Scores]) -> Average:
    """The mean of one or several draws of the same batch, on the CPU."""
    draws = [draw.cpu() for draw in draws]
    if len(draws) == 1:
        return Average(draws[0], None)
    values = torch.stack([draw.values for draw in draws])
    deltas = zip(*(draw.word_deltas for draw in draws), strict=True)
    errors = [draw.standard_error for draw in draws if draw.standard_error is not None]
    residuals = [draw.residual for draw in draws if draw.residual is not None]
    mean = Scores(
        values=values.mean(0),
        word_deltas=[_worst(of_text) for of_text in deltas],
        standard_error=torch.stack(errors).square().mean(0).div(len(draws)).sqrt()
        if errors
        else None,
        residual=torch.stack(residuals).mean(0) if residuals else None,
    )
    return Average(mean, values.std(0))


def _worst(deltas: Sequence[float | None]) -> float | None:
    known = [delta for delta in deltas if delta is not None]
    return max(known) if known else None

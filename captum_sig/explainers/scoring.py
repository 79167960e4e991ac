"""Score a batch of texts by a method: options, random draws, and the problem to solve."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig import contexts as contexts_module
from captum_sig._names import METHODS_IN_CONTEXTS, WITHOUT, unknown_name, words_only
from captum_sig._numbers import checked_integer
from captum_sig.attr.arguments import layer_problem
from captum_sig.attr.dig import DiscretizedPath
from captum_sig.attr.hooks import LayerOutputs
from captum_sig.attr.problem import Problem
from captum_sig.baselines.families import Family
from captum_sig.contexts import Contexts
from captum_sig.explainers.method_input import MethodInput, Scores
from captum_sig.explainers.methods import IN_CONTEXTS, METHODS, mean_scores
from captum_sig.explainers.top import top_scores
from captum_sig.quadrature import checked_n_steps
from captum_sig.words.encoding import Batch

DRAWN = (contexts_module.Sampled, contexts_module.Auto)  # contexts with a generator


@dataclass(frozen=True)
class ScoringOptions:
    """How every batch of a call is scored."""

    method: str  # in `METHODS`
    contexts: str | Contexts | None
    n_steps: int
    max_rows: int | None
    interactions: int | None = None  # between how many of a text's strongest words
    top: int | None = None

    @classmethod
    def checked(
        cls,
        method: str,
        contexts: str | Contexts | None = None,
        *,
        n_steps: int = 50,
        max_rows: int | None = None,
        interactions: int | None = None,
        top: int | None = None,
    ) -> ScoringOptions:
        """Check the caller's options; `method` may name contexts after a colon.

        Raises:
            ValueError: for names that are unknown or do not go together.
        """
        name, colon, named_contexts = str(method).partition(":")
        if name not in METHODS or (colon and not named_contexts):
            raise ValueError(unknown_name("method", method, (*METHODS, *METHODS_IN_CONTEXTS)))
        if named_contexts and contexts is not None:
            raise ValueError(f"method {method!r} already names contexts: leave contexts out")
        contexts = named_contexts or contexts
        if contexts is not None and name not in IN_CONTEXTS:
            raise ValueError(
                f"{name} does not move one word at a time, so it has no contexts: use one of "
                f"{', '.join(IN_CONTEXTS)}"
            )
        if isinstance(contexts, str):
            contexts_module.named(contexts)
        elif contexts is not None and (isinstance(contexts, type) or not callable(contexts)):
            raise TypeError(
                "contexts must be a name, or a callable such as contexts.two_sided or "
                f"contexts.auto(), got {contexts!r}"
            )
        if contexts is not None and (name, _name_of(contexts)) in WITHOUT:
            raise ValueError(words_only(name, _name_of(contexts)))
        if max_rows is not None:
            max_rows = checked_integer("internal_batch_size", max_rows)
        if interactions is not None:
            try:
                interactions = checked_integer("interactions", interactions, least=2)
            except ValueError as error:
                raise ValueError(f"an interaction takes two words: {error}") from None
        if top is not None:
            top = checked_integer("top", top)
            if name != "sig":
                raise ValueError(
                    f"top saves rows of method 'sig', one for each word, got method {name!r}: "
                    "leave top out"
                )
            if contexts is not None and _name_of(contexts) == "auto":
                raise ValueError(
                    "top gives words exact scores, and contexts 'auto' samples them: use "
                    "'two_sided', or leave top out"
                )
        return cls(name, contexts, checked_n_steps(n_steps), max_rows, interactions, top)

    @property
    def name(self) -> str:
        """The method's name, with that of the contexts after a colon."""
        contexts = self.contexts
        if contexts is None:
            return self.method
        return f"{self.method}:{_name_of(contexts)}"

    def contexts_of(self, generators: Sequence[torch.Generator]) -> list[Contexts] | None:
        """Return each text's contexts, which draw from its generator unless they have their own."""
        contexts = self.contexts
        if contexts is None:
            return None
        if isinstance(contexts, str):
            return [contexts_module.named(contexts, g) for g in generators]
        if isinstance(contexts, DRAWN) and contexts.generator is None:
            return [replace(contexts, generator=g) for g in generators]
        return [contexts] * len(generators)


def _name_of(contexts: str | Contexts) -> str:
    if isinstance(contexts, str):
        return contexts
    if isinstance(contexts, DRAWN):
        return contexts.name
    return getattr(contexts, "__name__", type(contexts).__name__)


def text_generator(text: str, seed: int) -> torch.Generator:
    """Make a generator that depends on the text and the seed alone, not on other texts."""
    digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def forward_of(model: nn.Module, batch: Batch) -> Callable[..., Tensor]:
    """Return the model as a function of ids and the batch's other inputs, in order → logits."""
    names = ("input_ids", *batch.others)

    def forward(*inputs: Tensor) -> Tensor:
        return model(**dict(zip(names, inputs, strict=True))).logits

    return forward


def draw_baseline(
    family: Family, batch: Batch, generators: Sequence[torch.Generator]
) -> dict[str, Any]:
    """Return the baseline as the layer classes take it: ids, or activations of the embedding."""
    baseline = family(batch.ids, batch.others.get("attention_mask"), generators)
    is_ids = baseline.shape == batch.ids.shape
    return {"baselines" if is_ids else "layer_baselines": baseline}


def batch_problem(
    model: nn.Module,
    layer: nn.Module,
    batch: Batch,
    *,
    family: Family,
    targets: Tensor,  # (B,)
    generators: Sequence[torch.Generator],  # one for each text
    contexts: Sequence[Contexts] | None = None,
    max_rows: int | None = None,
    unchanged: LayerOutputs | None = None,
) -> Problem:
    """Draw a baseline, and build the problem in which the batch's words move to it.

    `unchanged` is what the layer returns for the batch, if it was captured already.
    """
    return layer_problem(
        forward_of(model, batch), layer, batch.ids,
        **draw_baseline(family, batch, generators), target=targets,
        additional_forward_args=tuple(batch.others.values()), feature_mask=batch.feature_mask,
        contexts=contexts, internal_batch_size=max_rows, captured=unchanged,
    )  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """A batch with one draw of the baseline."""

    problem: Problem
    left_out: Tensor | None = None  # as in `Scores`


def score_batch(
    model: nn.Module,
    layer: nn.Module,
    batch: Batch,
    *,
    family: Family,
    n_draws: int,
    targets: Tensor,  # (B,)
    generators: Sequence[torch.Generator],  # one for each text
    options: ScoringOptions,
    unchanged: LayerOutputs,
) -> tuple[Scores, list[Draw]]:
    """Score a batch: the mean over draws of the baseline, on the CPU.

    Args:
        model, layer: the classifier and its word embedding.
        batch: B texts.
        family: what replaces words.
        n_draws: number of draws of the baseline.
        targets: the explained label of each text.
        generators: each text's own, for random draws.
        options: how to score.
        unchanged: what the layer returns for the batch.

    Returns:
        the scores, and where `options` want interactions, the draws.
    """
    if not any(batch.spans):
        return Scores(torch.zeros(batch.ids.shape), [0.0] * len(batch.texts)), []
    inputs = (
        _method_input(model, layer, batch, family, targets, generators, options, unchanged)
        for _ in range(n_draws)
    )
    if options.top is not None:
        of_draws = list(inputs)
        scores = top_scores(of_draws, options.top)
        draws = [Draw(draw.problem) for draw in of_draws]
    else:
        scored = []
        draws = []
        for of_draw in inputs:
            scored.append(METHODS[options.method](of_draw))  # type: ignore[index]
            if options.interactions is not None:
                draws.append(Draw(of_draw.problem, scored[-1].left_out))
        scores = mean_scores(scored)
    return scores, draws if options.interactions is not None else []


def _method_input(
    model: nn.Module,
    layer: nn.Module,
    batch: Batch,
    family: Family,
    targets: Tensor,
    generators: Sequence[torch.Generator],
    options: ScoringOptions,
    unchanged: LayerOutputs,
) -> MethodInput:
    """Return the batch with one draw of the baseline."""
    problem = batch_problem(
        model, layer, batch, family=family, targets=targets, generators=generators,
        contexts=options.contexts_of(generators), max_rows=options.max_rows, unchanged=unchanged,
    )  # fmt: skip
    return MethodInput(
        problem=problem,
        model=model,
        layer=layer,
        inputs={"input_ids": batch.ids, **batch.others},
        targets=targets,
        feature_mask=batch.feature_mask,
        generators=generators,
        n_steps=options.n_steps,
        new_path=DiscretizedPath,
    )

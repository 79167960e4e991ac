"""Score a batch of texts by a method: options, random draws, and the problem to solve."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig import contexts as contexts_module
from captum_sig._names import METHODS_IN_CONTEXTS, WITHOUT, unknown_name, words_only
from captum_sig._numbers import checked_integer
from captum_sig.attr.arguments import layer_problem
from captum_sig.attr.dig import DiscretizedPath
from captum_sig.attr.function import Read
from captum_sig.attr.hooks import LayerOutputs
from captum_sig.attr.problem import Problem
from captum_sig.baselines.families import Family
from captum_sig.contexts import Contexts
from captum_sig.explainers.method_input import MethodInput, Scores
from captum_sig.explainers.methods import IN_CONTEXTS, METHODS, mean_scores, sig_of_values
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
    def scores_all_values(self) -> bool:
        """Whether the same rows score all values of F."""
        return self.method == "sig" and self.top is None and self.interactions is None

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


def as_logits(output: Any) -> Tensor:
    """Return the logits of a model's output, (R, …)."""
    return output.logits


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a batch of texts: T values of F, and what replaces words."""

    model: nn.Module  # called with keywords
    layer: nn.Module  # its word embedding
    as_tensor: Callable[[Any], Tensor]  # the model's output → a tensor (R, …)
    read: Read  # that tensor, and the numbers of its rows' texts, (R,) → (R, T)
    n_values: int  # T
    batch: Batch
    family: Family
    new_generators: Callable[[], Sequence[torch.Generator]]  # one for each text, anew

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs, by name, (B, …) each."""
        return {"input_ids": self.batch.ids, **self.batch.further_inputs}

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the model on its inputs, in their order: (R, …)."""
        return self.as_tensor(self.model(**dict(zip(self.inputs, inputs, strict=True))))

    def baseline(self, generators: Sequence[torch.Generator]) -> dict[str, Any]:
        """Draw the baseline as the layer classes take it: ids, or activations of the embedding."""
        ids = self.batch.ids
        baseline = self.family(ids, self.batch.others.get("attention_mask"), generators)
        is_ids = baseline.shape == ids.shape
        return {"baselines" if is_ids else "layer_baselines": baseline}

    def problem(
        self,
        generators: Sequence[torch.Generator],
        *,
        contexts: Sequence[Contexts] | None = None,
        max_rows: int | None = None,
        unchanged: LayerOutputs | None = None,
        column: int | None = None,
    ) -> Problem:
        """Draw a baseline, and build the problem in which the batch's words move to it.

        Args:
            generators: one for each text.
            contexts: one for each text; None is the input.
            max_rows: maximum number of rows in a pass.
            unchanged: what the layer returns for the batch, if it was captured already.
            column: which of the T values is F; None makes F all of them.
        """
        ids, *others = self.inputs.values()
        return layer_problem(
            self.forward, self.layer, ids, **self.baseline(generators),
            additional_forward_args=tuple(others), feature_mask=self.batch.feature_mask,
            contexts=contexts, internal_batch_size=max_rows, captured=unchanged, read=self.read,
            column=column,
        )  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """A batch with one draw of the baseline."""

    problem: Problem
    left_out: Tensor | None = None  # as in `Scores`


def score_batch(
    question: Question, *, n_draws: int, options: ScoringOptions, unchanged: LayerOutputs
) -> list[tuple[Scores, list[Draw]]]:
    """Score a batch: for each of the T values, the mean over draws of the baseline, on the CPU.

    Exact scores of all values come from the same rows. Other methods, interactions and `top` take
    one value after another, each with the same random draws.

    Args:
        question: what is asked.
        n_draws: number of draws of the baseline.
        options: how to score.
        unchanged: what the layer returns for the batch.

    Returns:
        the scores of each value, and where `options` want interactions, the draws.
    """
    batch, n_values = question.batch, question.n_values
    if n_values == 0 or not any(batch.spans):
        none = Scores(torch.zeros(batch.ids.shape), [0.0] * len(batch.inputs))
        return [(none, [])] * n_values
    if n_values != 1 and options.scores_all_values:
        draws = _draws(question, n_draws, options, unchanged, None)
        of_draws = [sig_of_values(draw) for draw in draws]
        return [(mean_scores(of_value), []) for of_value in zip(*of_draws, strict=True)]
    return [
        _score_value(_draws(question, n_draws, options, unchanged, column), options)
        for column in range(n_values)
    ]


def _score_value(
    draws: Iterator[MethodInput], options: ScoringOptions
) -> tuple[Scores, list[Draw]]:
    """Score one value of a batch, as `score_batch`."""
    if options.top is not None:
        of_draws = list(draws)
        scores = top_scores(of_draws, options.top)
        kept = [Draw(draw.problem) for draw in of_draws]
    else:
        scored, kept = [], []
        for draw in draws:
            scored.append(METHODS[options.method](draw))  # type: ignore[index]
            if options.interactions is not None:
                kept.append(Draw(draw.problem, scored[-1].left_out))
        scores = mean_scores(scored)
    return scores, kept if options.interactions is not None else []


def _draws(
    question: Question,
    n_draws: int,
    options: ScoringOptions,
    unchanged: LayerOutputs,
    column: int | None,
) -> Iterator[MethodInput]:
    """Yield the batch with each draw of the baseline."""
    generators = question.new_generators()
    for _ in range(n_draws):
        yield MethodInput(
            problem=question.problem(
                generators, contexts=options.contexts_of(generators), max_rows=options.max_rows,
                unchanged=unchanged, column=column,
            ),
            model=question.model,
            layer=question.layer,
            inputs=question.inputs,
            as_tensor=question.as_tensor,
            read=question.read,
            column=0 if column is None else column,
            example=torch.arange(len(question.batch.ids), device=question.batch.ids.device),
            feature_mask=question.batch.feature_mask,
            generators=generators,
            n_steps=options.n_steps,
            new_path=DiscretizedPath,
        )  # fmt: skip

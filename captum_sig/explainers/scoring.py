"""Score a batch of texts by a method: options, random draws, and the problem to solve."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig import contexts as contexts_module
from captum_sig._names import METHODS_IN_CONTEXTS, WITHOUT, Level, unknown_name, words_only
from captum_sig._numbers import checked_integer
from captum_sig.attr.arguments import layer_problem
from captum_sig.attr.dig import DiscretizedPath
from captum_sig.attr.function import Read, Tensors
from captum_sig.attr.hooks import LayerOutputs
from captum_sig.attr.problem import Problem
from captum_sig.attr.read_positions import ReadPositions
from captum_sig.baselines.families import Family
from captum_sig.contexts import Contexts
from captum_sig.explainers.chosen_baselines import ChosenBaseline
from captum_sig.explainers.embeddings import WordEmbeddings, feature_masks, in_each
from captum_sig.explainers.method_input import MethodInput, Scores
from captum_sig.explainers.methods import IN_CONTEXTS, METHODS, mean_of_baselines, sig_of_values
from captum_sig.explainers.smoothing import Smoothing, smoothed
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
    smoothing: Smoothing | None = None
    zooms: bool = False  # into the units of level "auto"
    budget: int | None = None  # rows of a text that it may take

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
        smooth: int | None = None,
        noise: float | None = None,
        level: Level | None = None,
        budget: int | None = None,
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
        smoothing = Smoothing.checked(name, smooth, noise)
        zooms = level == "auto"
        if zooms:
            _check_zoom(name, contexts, {"top": top, "interactions": interactions})
        elif budget is not None:
            raise ValueError(
                f"budget is for level 'auto', which opens only the units that matter, got level "
                f"{level!r}: leave budget out"
            )
        return cls(
            name, contexts, checked_n_steps(n_steps), max_rows, interactions, top, smoothing,
            zooms, None if budget is None else checked_integer("budget", budget),
        )  # fmt: skip

    @property
    def scores_all_values(self) -> bool:
        """Whether the same rows score all values of F."""
        return self.method == "sig" and self.top is None and self.interactions is None

    @property
    def takes_rows(self) -> bool:
        """Whether rows are evaluated without a gradient."""
        return self.method == "sig" or self.interactions is not None

    @property
    def scores_one_background(self) -> bool:
        """Whether rows are those of all words, each moved in the input itself."""
        in_input = self.contexts in (None, "input")
        return self.method == "sig" and self.top is None and in_input and not self.zooms

    @property
    def name(self) -> str:
        """The method's name, with that of the contexts after a colon, or the smoothing."""
        contexts = self.contexts
        if self.smoothing is not None:
            return f"{self.method} ({self.smoothing.name})"
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


def _check_zoom(
    method: str, contexts: str | Contexts | None, others: Mapping[str, int | None]
) -> None:
    """Check what goes with level "auto"; raise ValueError."""
    if method != "sig":
        raise ValueError(
            f"level 'auto' measures units and words by method 'sig', got method {method!r}: use "
            "'sig', or level 'sentence'"
        )
    if contexts is not None and _name_of(contexts) == "auto":
        raise ValueError(
            "level 'auto' measures units in given contexts, and contexts 'auto' chooses them by "
            "word: use 'two_sided', or level 'word'"
        )
    for name, value in others.items():
        if value is not None:
            raise ValueError(
                f"{name} is for words, and level 'auto' leaves units unopened: leave {name} out, "
                "or use level 'word'"
            )


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


def whole_output(output: Tensor, example: Tensor) -> Tensor:
    """Read all that the model returns for R rows, (R, …)."""
    return output


def attended_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return which positions of a model's inputs are attended, (R, L)."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a batch of texts: T values of F, and what replaces words."""

    model: nn.Module  # called with keywords
    embeddings: WordEmbeddings  # where its words enter
    as_tensor: Callable[[Any], Tensor]  # the model's output → a tensor (R, …)
    read: Read  # that tensor, and the numbers of its rows' texts, (R,) → (R, T)
    n_values: int  # T
    batch: Batch
    unchanged: LayerOutputs  # what the embeddings return for the batch
    families: Sequence[Family]  # the baseline, for each embedding
    new_generators: Callable[[], Sequence[torch.Generator]]  # one for each text, anew
    read_positions: ReadPositions = field(default_factory=ReadPositions)  # which the head reads
    ahead: Problem | None = None  # with the model's outputs at the ends of all paths, if known

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs, by name, (B, …) each."""
        return {"input_ids": self.batch.ids, **self.batch.further_inputs}

    def forward(self, *inputs: Tensor) -> Tensor:
        """Evaluate the model on its inputs, in their order: (R, …)."""
        return self.as_tensor(self.model(**dict(zip(self.inputs, inputs, strict=True))))

    def evaluate(self, evaluate: Callable[[], Any], example: Tensor) -> Any:
        """Evaluate rows of these texts, (R,), at the positions that the head reads."""
        attended = attended_of(self.inputs)
        return self.read_positions.evaluate(evaluate, attended[example.to(attended.device)])

    def baseline(self, generators: Sequence[torch.Generator]) -> dict[str, Any]:
        """Draw the baseline as the layer classes take it: ids, or activations of each embedding."""
        ids, held = self.batch.ids, self.batch.held
        attended = self.batch.others.get("attention_mask")
        if held is not None:  # what is not attended is not replaced
            seen = torch.ones_like(ids) if attended is None else attended
            attended = seen.masked_fill(held, 0)
        first, *others = self.families
        baseline = first(ids, attended, generators)
        if baseline.shape == ids.shape:
            return {"baselines": baseline}
        of_each = [baseline, *(of_other(ids, attended, generators) for of_other in others)]
        points = [x for (x,) in self.unchanged.activations]
        return {"layer_baselines": in_each(of_each, points, self.shifts)}

    @functools.cached_property
    def shifts(self) -> list[int]:
        """By how many positions each embedding reads the text later."""
        return self.embeddings.shifts(self.unchanged, self.batch.ids, self.model)

    @functools.cached_property
    def masks(self) -> Tensors:
        """The number of the word at each position of each embedding, (B, L) each."""
        return feature_masks(self.batch.feature_mask, self.shifts)

    @functools.cached_property
    def in_words(self) -> Tensors:
        """Whether each position of each embedding is in a word of the text, (B, L) each."""
        in_text = torch.stack([
            torch.isin(mask, mask[[span.position for span in spans]])
            for mask, spans in zip(self.batch.feature_mask, self.batch.spans, strict=True)
        ])  # fmt: skip
        n = len(self.shifts)
        return in_each([in_text] * n, [torch.zeros_like(in_text)] * n, self.shifts)

    def problem(
        self,
        generators: Sequence[torch.Generator],
        *,
        contexts: Sequence[Contexts] | None = None,
        max_rows: int | None = None,
        column: int | None = None,
    ) -> Problem:
        """Draw a baseline, and build the problem in which the batch's words move to it.

        Args:
            generators: one for each text.
            contexts: one for each text; None is the input.
            max_rows: maximum number of rows in a pass.
            column: which of the T values is F; None makes F all of them.
        """
        if self.ahead is not None:
            function = replace(self.ahead.function, read=self.read, column=column)  # type: ignore[call-arg]
            return self.ahead.of_values(function)
        ids, *others = self.inputs.values()
        return layer_problem(
            self.forward, list(self.embeddings.layers), ids, **self.baseline(generators),
            additional_forward_args=tuple(others), feature_mask=self.masks, contexts=contexts,
            internal_batch_size=max_rows, layer_call=self.embeddings.call,
            captured=self.unchanged, read=self.read, column=column, around=self.evaluate,
        )  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """A batch with one draw of the baseline."""

    problem: Problem
    left_out: Tensor | None = None  # as in `Scores`


Draws = Sequence[Sequence[Draw]]  # of each baseline


def score_batch(
    question: Question, *, baselines: Sequence[ChosenBaseline], options: ScoringOptions
) -> list[tuple[Scores, Draws]]:
    """Score a batch: for each of the T values, the mean over baselines, on the CPU.

    Each baseline has the same weight, and its scores are the mean over its draws. Exact scores of
    all values come from the same rows. Other methods, interactions and `top` take one value after
    another, each with the same random draws.

    Args:
        question: what is asked.
        baselines: what replaces words.
        options: how to score.

    Returns:
        the scores of each value, and where `options` want interactions, the draws.
    """
    batch, n_values = question.batch, question.n_values
    if n_values == 0 or not any(batch.spans):
        none = Scores(torch.zeros(batch.ids.shape), [0.0] * len(batch.inputs))
        return [(none, [])] * n_values
    asked = [(replace(question, families=of.families), of.n_draws) for of in baselines]
    if n_values > 1 and options.scores_all_values:
        by_draw = [
            [sig_of_values(draw) for draw in method_inputs(*one, options, None)] for one in asked
        ]
        by_value = [zip(*of_baseline, strict=True) for of_baseline in by_draw]
        return [(mean_of_baselines(of_value), []) for of_value in zip(*by_value, strict=True)]
    return [
        _score_value([method_inputs(*one, options, column) for one in asked], options, question)
        for column in range(n_values)
    ]


def _score_value(
    of_baselines: Sequence[Iterator[MethodInput]], options: ScoringOptions, question: Question
) -> tuple[Scores, Draws]:
    """Score one value of a batch, as `score_batch`."""
    if options.top is not None:
        inputs = [list(draws) for draws in of_baselines]
        kept = [[Draw(draw.problem) for draw in draws] for draws in inputs]
        scores = top_scores(inputs, options.top)
    else:
        scored: list[list[Scores]] = [[] for _ in of_baselines]
        kept = [[] for _ in of_baselines]
        for number, draws in enumerate(of_baselines):
            for draw in draws:
                of_draw = _scores(draw, options, question)
                scored[number].append(of_draw)
                if options.interactions is not None:
                    kept[number].append(Draw(draw.problem, of_draw.left_out))
        scores = mean_of_baselines(scored)
    return scores, kept if options.interactions is not None else []


def _scores(draw: MethodInput, options: ScoringOptions, question: Question) -> Scores:
    method = METHODS[options.method]  # type: ignore[index]
    if options.smoothing is None:
        return method(draw)
    return smoothed(method, draw, question.in_words, options.smoothing)


def method_inputs(
    question: Question, n_draws: int, options: ScoringOptions, column: int | None
) -> Iterator[MethodInput]:
    """Yield the batch with each draw of the baseline."""
    generators = question.new_generators()
    for _ in range(n_draws):
        yield MethodInput(
            problem=question.problem(
                generators, contexts=options.contexts_of(generators), max_rows=options.max_rows,
                column=column,
            ),
            model=question.model,
            embeddings=question.embeddings,
            inputs=question.inputs,
            as_tensor=question.as_tensor,
            read=question.read,
            column=0 if column is None else column,
            example=torch.arange(len(question.batch.ids), device=question.batch.ids.device),
            masks=question.masks,
            generators=generators,
            n_steps=options.n_steps,
            new_path=DiscretizedPath,
        )  # fmt: skip

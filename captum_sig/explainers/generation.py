"""Prompts in, `GenerationAttribution` out: language models of transformers that generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn

from captum_sig._names import Evidence, Level, TaskName
from captum_sig._numbers import checked_integer
from captum_sig.attr.arguments import N_STEPS, integrator
from captum_sig.attr.function import warn_of_dropout
from captum_sig.attr.hooks import input_device
from captum_sig.attr.integrals import Integrate
from captum_sig.attr.problem import plain_tensors
from captum_sig.baselines.families import BASELINES, NEEDS, family
from captum_sig.contexts import Contexts
from captum_sig.explainers.generation_result import GenerationAttribution, TargetToken
from captum_sig.explainers.loading import (
    hub_options,
    pretrained_language_model,
    pretrained_tokenizer,
)
from captum_sig.explainers.matrix import MatrixOptions, TargetMatrix, target_matrix
from captum_sig.explainers.models import (
    GENERATION,
    check_model,
    described,
    is_bidirectional,
    uncompiled,
    word_embedding,
)
from captum_sig.explainers.results import Word, scored_words
from captum_sig.explainers.scoring import ScoringOptions, text_generator
from captum_sig.explainers.teacher_forcing import (
    TeacherForced,
    contrasted,
    force_decoder,
    force_encoder_decoder,
)
from captum_sig.explainers.zoom_result import ZoomAttribution
from captum_sig.explainers.zooming import Tree, zoomed_matrix
from captum_sig.words.encoding import limit_of, token_limit
from captum_sig.words.given_units import units_of_each
from captum_sig.words.grouping import Span
from captum_sig.words.inputs import in_python
from captum_sig.words.prompts import (
    Message,
    Prompt,
    PromptEncoder,
    for_each_prompt,
    is_single_prompt,
)

# Baselines that are the same at every call and need only the model.
OFFERED = [name for name, needs in NEEDS.items() if not {"generator", "masked_lm"} & set(needs)]
WHOLE = "whole target"  # what the last of a node's effects is on, at level "auto"
GENERATION_DEFAULTS = {"do_sample": False, "max_new_tokens": 25}  # as Captum's


class TextGenerationExplainer:
    """Explains why a language model generates a target after a prompt, word by word.

    One pass over prompt and target yields the log-probability of every target token. So the whole
    matrix of prompt words by target tokens takes one row for each word and one for the input, in
    each background of `contexts`. Positions before the changed word are unaffected, so each pass
    starts at that word. Until the call returns, other threads may call the model only through an
    explainer.

    Args:
        model: a causal language model of transformers, or one with encoder and decoder; it stays
            on its devices, in its dtype and mode.
        tokenizer: its tokenizer.
        baseline: what replaces a word, a name in `captum_sig.baselines.BASELINES` that is not
            drawn at random. If the tokenizer has no mask token, "mask" is its pad, else unk, else
            eos token, else the mean embedding; a warning and the result say which.
        level: what moves as one: a "word", a "token", or a "sentence", "paragraph" or (of a chat)
            "message". See `captum_sig.words.units`.
        layer: the word embedding (the encoder's); None finds it.
        seed: random seed; the backgrounds drawn for a prompt depend on it and the prompt only.

    Raises:
        TypeError: if the model is not a language model, or the tokenizer none.
        ValueError: for an unknown baseline or level, a baseline that the tokenizer lacks, a seed
            below 0, or a model that is not causal.

    >>> import transformers
    >>> from captum_sig.demo_model import PATH
    >>> tokenizer = transformers.AutoTokenizer.from_pretrained(PATH)
    >>> config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    >>> explainer = TextGenerationExplainer(transformers.GPT2LMHeadModel(config).eval(), tokenizer)
    >>> why = explainer("the film is", " not good", attribute_target=True)
    >>> why.rows, why.columns
    (['not', 'good'], ['the', 'film', 'is', 'not'])
    >>> why.matrix[0, 3].item()  # later tokens change nothing
    0.0
    """

    TASK: ClassVar[TaskName] = "text-generation"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        baseline: str = "mask",
        level: Level = "word",
        layer: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        check_model(model, tokenizer, GENERATION, "language models of transformers")
        self.model, layer = uncompiled(model, layer)
        self.tokenizer = tokenizer
        self.layer = word_embedding(self.model) if layer is None else layer
        if baseline in BASELINES and baseline not in OFFERED:
            raise ValueError(
                f"baseline {baseline!r} is not for generation: use one of {', '.join(OFFERED)}"
            )
        self._families = [family(baseline, tokenizer, embedding=self.layer)]
        self.baseline = self._families[0].name
        self.level = level
        self.seed = checked_integer("seed", seed, least=0)
        self.has_encoder = bool(getattr(self.model.config, "is_encoder_decoder", False))
        if self.has_encoder:
            embedding = self.model.get_decoder().get_input_embeddings()
            self._families.append(family(self.baseline, tokenizer, embedding=embedding))
        elif is_bidirectional(self.model):
            raise ValueError(
                f"{type(self.model).__name__} reads in both directions, so one pass would show it "
                "the target: wanted a causal language model (for BERT, config.is_decoder)"
            )
        self._encoder = PromptEncoder(tokenizer, level, one_text=not self.has_encoder)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> TextGenerationExplainer:
        """Load model and tokenizer from a folder or hub name; safetensors only, no remote code.

        Args:
            name_or_path: as in transformers; or a PEFT adapter, which is loaded with its base.
            model_kwargs: for the model's `from_pretrained`, such as `dtype`, `device_map` or
                `revision`.
            **options: keywords of the class.

        Raises:
            ValueError: if there is no trained language model, no tokenizer, or what is there comes
                with pickled weights or Python code.
        """
        model = pretrained_language_model(name_or_path, **(model_kwargs or {}))
        tokenizer = pretrained_tokenizer(name_or_path, **hub_options(model_kwargs))
        return cls(model, tokenizer, **options)

    def __repr__(self) -> str:
        return described(self, baseline=self.baseline, level=self.level)

    @property
    def task(self) -> TaskName:
        """The task's name."""
        return self.TASK

    @overload  # a string is a sequence of strings too
    def __call__(  # type: ignore[overload-overlap]
        self, prompt: str | Sequence[Message], target: Any = ...,
        generation_kwargs: Mapping[str, Any] | None = ...,
        skip_tokens: Sequence[int | str] | None = ..., contrast: Any = ..., *,
        attribute_target: bool = ..., attributions: bool = ..., n_steps: int | None = ...,
        tolerance: float | None = ..., use_cache: bool = ...,
        internal_batch_size: int | None = ..., show_progress: bool = ...,
        contexts: str | Contexts | None = ..., interactions: int | None = ...,
        level: Level | None = ..., units: Any = ..., budget: int | None = ...,
    ) -> GenerationAttribution: ...  # fmt: skip
    @overload
    def __call__(
        self, prompt: Sequence[str | Sequence[Message]], target: Any = ...,
        generation_kwargs: Mapping[str, Any] | None = ...,
        skip_tokens: Sequence[int | str] | None = ..., contrast: Any = ..., *,
        attribute_target: bool = ..., attributions: bool = ..., n_steps: int | None = ...,
        tolerance: float | None = ..., use_cache: bool = ...,
        internal_batch_size: int | None = ..., show_progress: bool = ...,
        contexts: str | Contexts | None = ..., interactions: int | None = ...,
        level: Level | None = ..., units: Any = ..., budget: int | None = ...,
    ) -> list[GenerationAttribution]: ...  # fmt: skip
    def __call__(
        self,
        prompt: str | Sequence[Any],
        target: Any = None,
        generation_kwargs: Mapping[str, Any] | None = None,
        skip_tokens: Sequence[int | str] | None = None,
        contrast: Any = None,
        *,
        attribute_target: bool = False,
        attributions: bool = False,
        n_steps: int | None = None,
        tolerance: float | None = None,
        use_cache: bool = True,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        contexts: str | Contexts | None = None,
        interactions: int | None = None,
        level: Level | None = None,
        units: Any = None,
        budget: int | None = None,
    ) -> Any:
        """Explain the target after one prompt or several.

        Args:
            prompt: text; or the messages of a chat, dicts with "role" and "content"; or a list of
                such prompts.
            target: text, or ids in a sequence or tensor; None generates it. For several prompts one
                for all or a list with one for each. See `captum_sig.words.prompts` for how text is
                tokenized after a prompt.
            generation_kwargs: for `model.generate` if target is None; by default greedy, at most 25
                tokens.
            skip_tokens: ids, or tokens as the tokenizer spells them, that do not move and are not
                words.
            contrast: as target: explain log p(target) − log p(contrast), "why this and not that".
            attribute_target: add columns for the target's own earlier tokens. They are words of the
                same game: a background may hold them at the baseline too.
            attributions: also integrate the gradient of the target's log-probability: SIG of every
                word by features.
            n_steps: gradients per word, by default 50; with a tolerance the maximum, by default
                129.
            tolerance: as in `LayerSequentialIntegratedGradients.attribute`.
            use_cache: compute only once what stands before a word; False recomputes it.
            internal_batch_size: maximum number of rows (one word each) in a pass; None limits their
                memory.
            show_progress: show a progress bar.
            contexts: what the other words are while one moves: "input", "two_sided", "sampled16"
                for any number, "auto", or a function of `captum_sig.contexts`; by default the
                input. The matrix is then the mean over the backgrounds.
            interactions: how many of the prompt's strongest words, 2 or more, to measure two by
                two: the exact second differences of log p(target), k (k − 1) / 2 rows more.
            level: in place of the explainer's. "auto" is for long prompts: it measures units from
                the coarsest down, and opens those that matter, within the `budget`.
            units: spans of characters of the prompt (of a chat, as its template renders it) that
                move as one, in place of the level, as in `Explainer.in_batches`; for several
                prompts a list with an entry for each. At level "auto" they are the coarsest units.
            budget: for level "auto": the most rows of a prompt. None is a fifth of the rows of
                level "word", and at least 64; what does not matter stays unopened, so that they may
                be far fewer. See `captum_sig.explainers.zoom`.

        Returns:
            a `GenerationAttribution` (at level "auto" a tree, `ZoomAttribution`), or a list of them
            in the order of the prompts.

        Raises:
            TypeError: for a prompt, target or contexts of another type.
            ValueError: for an empty prompt or target, unknown contexts, an interaction of one word,
                a prompt and target that exceed the model's context, a chat without a template, or
                arguments that do not fit together.
            FloatingPointError: if the model's output is not finite.
        """
        if attribute_target and contrast is not None:
            raise ValueError(
                "with a contrast the model reads two targets, so there are no columns for either: "
                "leave attribute_target or contrast out"
            )
        if not attributions and (tolerance is not None or n_steps is not None):
            raise ValueError(
                "the matrix is exact without n_steps or tolerance: they are for attributions=True"
            )
        for name, flag in (
            ("attribute_target", attribute_target),
            ("attributions", attributions),
            ("use_cache", use_cache),
        ):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False, got {flag!r}")
        scoring = ScoringOptions.checked(
            "sig", contexts, max_rows=internal_batch_size, interactions=interactions,
            level=level or self.level, budget=budget,
        )  # fmt: skip
        if scoring.zooms and (attribute_target or attributions):
            raise ValueError(
                "level 'auto' measures units of the prompt, without the target's columns or "
                "gradients: leave attribute_target and attributions out, or use level 'word'"
            )
        if attributions and scoring.name == "sig:auto":
            raise ValueError(
                "contexts auto sample scores of words, and attributions=True integrates gradients: "
                "leave attributions out, or use other contexts such as two_sided"
            )
        steps = N_STEPS if n_steps is None else n_steps
        options = _CallOptions(
            scoring=scoring,
            attribute_target=attribute_target,
            integrate=integrator(n_steps=steps, tolerance=tolerance) if attributions else None,
            use_cache=use_cache,
            show_progress=show_progress,
        )
        warn_of_dropout(self.model.modules())
        prompt = in_python(prompt)
        single = is_single_prompt(prompt)
        prompts = self._prompts(
            [prompt] if single else prompt, skip_tokens or (), level, units, single
        )
        targets, contrasts = (  # all before the first matrix, which takes time
            self._targets(name, prompts, [t] if single else for_each_prompt(name, t, len(prompts)))
            for name, t in (("target", target), ("contrast", contrast))
        )
        if generation_kwargs and None not in targets:
            raise ValueError("generation_kwargs are for prompts without a target: leave one out")
        results = []
        for one_prompt, ids, contrast_ids in zip(prompts, targets, contrasts, strict=True):
            if ids is None:
                ids = self._generate(one_prompt, generation_kwargs or {})
            results.append(self._explain(one_prompt, ids, contrast_ids, options))
        return results[0] if single else results

    def _prompts(
        self,
        prompts: Sequence[Any],
        skip_tokens: Sequence[int | str],
        level: str | None,
        units: Any,
        is_single: bool,
    ) -> list[Prompt]:
        encoded = []
        of_each = units_of_each(units, len(prompts), is_single)
        for number, (prompt, own) in enumerate(zip(prompts, of_each, strict=True)):
            try:
                one = self._encoder.prompt(prompt, skip_tokens, level=level, units=own)
                encoded.append(one)
            except ValueError as error:
                if len(prompts) == 1:
                    raise
                raise ValueError(f"prompt {number}: {error}") from error
        return encoded

    def _targets(
        self, name: str, prompts: Sequence[Prompt], targets: Sequence[Any]
    ) -> list[list[int] | None]:
        n_ids = getattr(self.model.config.get_text_config(), "vocab_size", len(self.tokenizer))
        return [
            None if target is None else self._encoder.target(prompt, target, n_ids, name)
            for prompt, target in zip(prompts, targets, strict=True)
        ]

    def _explain(
        self,
        prompt: Prompt,
        ids: list[int],
        contrast_ids: list[int] | None,
        options: _CallOptions,
    ) -> GenerationAttribution | ZoomAttribution:
        forced = self._force(prompt, ids, options.use_cache)
        tokens = self._tokens(ids, forced.unchanged)
        contrast_tokens: tuple[TargetToken, ...] = ()
        if contrast_ids is not None:
            other = self._force(prompt, contrast_ids, options.use_cache)
            contrast_tokens = self._tokens(contrast_ids, other.unchanged)
            forced = contrasted(forced, other)
        generator = text_generator(prompt.text, self.seed)
        how = options.of_matrix(generator)
        tree: Tree | None = None
        if options.scoring.zooms:
            tree, result = zoomed_matrix(
                forced, prompt, self._families, how, options.scoring.budget, generator
            )
            words = _words(tree.spans, result, tree.evidence)
        else:
            result = target_matrix(forced, prompt.positions(), self._families, how)
            words = _words(prompt.spans, result)
        explained = GenerationAttribution(
            prompt=prompt.text,
            words=words,
            target=self._encoder.decode(ids),
            target_tokens=tokens,
            matrix=result.matrix,
            word_deltas=result.word_deltas,
            baseline=self.baseline,
            level=prompt.level,
            attributes_target=options.attribute_target,
            without_cache=forced.without_cache,
            contrast=None if contrast_ids is None else self._encoder.decode(contrast_ids),
            contrast_tokens=contrast_tokens,
            attributions=result.attributions,
            converged=result.converged,
            method=options.scoring.name,
            matrix_first=result.first,
            matrix_last=result.last,
            standard_error=result.standard_error,
            residual=result.residual,
            interactions=result.interactions,
        )
        return explained if tree is None else tree.result(explained, [*explained.rows, WHOLE])

    def _tokens(self, ids: list[int], log_probabilities: Tensor) -> tuple[TargetToken, ...]:
        labels, values = self._encoder.labels(ids), log_probabilities[0].double().tolist()
        return tuple(map(TargetToken, labels, ids, values))

    @plain_tensors()
    def _force(self, prompt: Prompt, target: list[int], use_cache: bool) -> TeacherForced:
        device = input_device(self.model, self.layer)
        source, tokens = (torch.tensor(ids, device=device) for ids in (prompt.ids, target))
        if self.has_encoder:
            self._check_lengths({"the prompt": len(source), "the target": len(tokens)})
            return force_encoder_decoder(self.model, self.layer, source[None], tokens)
        self._check_lengths({"the prompt with its target": len(source) + len(tokens) - 1})
        return force_decoder(self.model, self.layer, source[None], tokens, use_cache=use_cache)

    def _limit(self) -> int:
        return min(self.tokenizer.model_max_length, token_limit(self.model))

    def _limit_of(self) -> str:
        return limit_of(self.tokenizer, token_limit(self.model))

    def _check_lengths(self, lengths: Mapping[str, int]) -> None:
        limit = self._limit()
        for name, length in lengths.items():
            if length > limit:
                raise ValueError(
                    f"{name} has {length} tokens, beyond {self._limit_of()} of {limit}: shorten it"
                )

    def _generate(self, prompt: Prompt, options: Mapping[str, Any]) -> list[int]:
        self._check_lengths({"the prompt": len(prompt.ids)})
        ids = torch.tensor([prompt.ids], device=input_device(self.model, self.layer))
        limit = None if self.has_encoder else self._limit()
        return generate_target(self.model, self.tokenizer, ids, limit, options)


@dataclass(frozen=True)
class _CallOptions:
    """How every prompt of a call is explained."""

    scoring: ScoringOptions
    attribute_target: bool
    integrate: Integrate | None
    use_cache: bool
    show_progress: bool

    def of_matrix(self, generator: torch.Generator) -> MatrixOptions:
        """Return those of one prompt's matrix, whose backgrounds are drawn from the generator."""
        contexts = self.scoring.contexts_of([generator])
        return MatrixOptions(
            attribute_target=self.attribute_target,
            contexts=None if contexts is None else contexts[0],
            interactions=self.scoring.interactions,
            integrate=self.integrate,
            max_rows=self.scoring.max_rows,
            show_progress=self.show_progress,
        )


def _words(
    spans: Sequence[Span], result: TargetMatrix, evidence: Sequence[Evidence] | None = None
) -> tuple[Word, ...]:
    """Join the prompt's words with their effects on the whole target."""

    def of_words(matrix: Tensor | None) -> list[float] | None:
        return None if matrix is None else matrix.sum(0)[: len(spans)].tolist()

    error = result.sequence_error
    return scored_words(
        spans,
        result.matrix.sum(0)[: len(spans)].tolist(),
        standard_error=None if error is None else error[: len(spans)].tolist(),
        first=of_words(result.first),
        last=of_words(result.last),
        evidence=evidence,
    )


def generate_target(
    model: Any,
    tokenizer: Any,
    prompt: Tensor,  # (1, P)
    limit: int | None,
    options: Mapping[str, Any],
) -> list[int]:
    """Return the ids that a model generates after a prompt.

    Args:
        model: a language model of transformers.
        tokenizer: its tokenizer, which knows the id to pad with.
        prompt: the prompt's ids.
        limit: number of positions that a decoder alone can read, including the prompt's; None for a
            model with an encoder.
        options: of `model.generate`; they override `GENERATION_DEFAULTS`, which apply unless a
            `generation_config` is among them.

    Raises:
        ValueError: if the result is empty, or several texts, or code of a model would run.
    """
    padding = tokenizer.pad_token_id
    chosen = {"pad_token_id": tokenizer.eos_token_id if padding is None else padding}
    if "generation_config" not in options:
        chosen |= GENERATION_DEFAULTS
    if "max_length" in options:
        chosen.pop("max_new_tokens", None)
    if not callable(options.get("custom_generate", len)) or options.get("trust_remote_code"):
        raise ValueError(
            "generation_kwargs would run Python code of a model: pass a function as "
            "custom_generate, and leave trust_remote_code out"
        )
    chosen |= options
    if limit is not None and "max_new_tokens" in chosen:  # no more than it can read again
        room = limit - prompt.shape[1] + 1  # the last is not read
        chosen["max_new_tokens"] = min(chosen["max_new_tokens"], room)
    with torch.no_grad():
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), **chosen)
    sequences = output if isinstance(output, Tensor) else output.sequences
    if len(sequences) > 1:
        raise ValueError(
            f"generation_kwargs produce {len(sequences)} texts; wanted one: leave "
            "num_return_sequences out"
        )
    new = sequences[0, 1 if limit is None else prompt.shape[1] :].tolist()
    if not new:
        raise ValueError("the model generates nothing after the prompt: pass a target")
    return new

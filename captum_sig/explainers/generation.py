"""Prompts in, `GenerationAttribution` out: language models of transformers that generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig.attr.arguments import N_STEPS, Default, straight
from captum_sig.attr.function import model_lock, warn_of_dropout
from captum_sig.attr.hooks import input_device
from captum_sig.attr.problem import plain_tensors
from captum_sig.baselines.families import BASELINES, NEEDS, family
from captum_sig.explainers.matrix import MatrixOptions, TargetMatrix, target_matrix
from captum_sig.explainers.models import (
    pretrained,
    pretrained_tokenizer,
    reads_ahead,
    word_embedding,
)
from captum_sig.explainers.results import GenerationAttribution, TargetToken, scored_words
from captum_sig.explainers.teacher_forcing import DecoderForced, EncoderDecoderForced, Forced
from captum_sig.words.encoding import token_limit
from captum_sig.words.prompts import Prompt, Prompter, for_each, is_one

DEFAULTS = {"do_sample": False, "max_new_tokens": 25}  # as Captum's: greedy, 25 tokens


def generate_target(
    model: Any,
    tokenizer: Any,
    prompt: Tensor,  # (1, P)
    limit: int | None,
    options: Mapping[str, Any],
) -> list[int]:
    """The ids that a model gives after a prompt.

    Args:
        model: a language model of transformers.
        tokenizer: tells the id to pad with.
        prompt: what it reads.
        limit: positions that a decoder alone can read, the prompt's among them; None for a model
            with an encoder.
        options: of `model.generate`, over `DEFAULTS` where no `generation_config` is among them.

    Raises:
        ValueError: if that is no text, or several.
    """
    padding = tokenizer.pad_token_id
    chosen = {"pad_token_id": tokenizer.eos_token_id if padding is None else padding}
    if "generation_config" not in options:
        chosen |= DEFAULTS
    if "max_length" in options:
        chosen.pop("max_new_tokens", None)
    chosen |= options
    if limit is not None and "max_new_tokens" in chosen:  # no more than it can read again
        room = limit - prompt.shape[1] + 1  # the last is not read
        chosen["max_new_tokens"] = min(chosen["max_new_tokens"], room)
    with model_lock, torch.no_grad():
        found = model.generate(prompt, attention_mask=torch.ones_like(prompt), **chosen)
    sequences = found if isinstance(found, Tensor) else found.sequences
    if len(sequences) > 1:
        raise ValueError(
            f"generation_kwargs give {len(sequences)} texts; wanted one: leave "
            "num_return_sequences out"
        )
    new = sequences[0, 1 if limit is None else prompt.shape[1] :].tolist()
    if not new:
        raise ValueError("the model generates nothing after the prompt: pass a target")
    return new


# Those that are the same at every call and need nothing but the model.
OFFERED = [name for name, needs in NEEDS.items() if not {"generator", "masked_lm"} & set(needs)]


class TextGenerationExplainer:
    """Explains why a language model gives a target after a prompt, word by word.

    The effect of every prompt word on the log-probability of every target token takes one row for
    each word and one for the input: a pass over prompt and target tells all the target's tokens
    at once. What stands before a word does not change with it, so that passes begin there. Until
    the call returns no other thread may call the model, but through an explainer.

    Args:
        model: a causal language model of transformers, or one with encoder and decoder; it stays
            on its devices, in its dtype and mode.
        tokenizer: its tokenizer.
        baseline: what a word is replaced by, a name in `captum_sig.baselines.BASELINES` that is
            not drawn at random. Where a tokenizer has no mask token, "mask" is its pad, else unk,
            else eos token, else the mean embedding; a warning and the result say which.
        level: "word" moves a word's sub-tokens together, "token" each on its own.
        layer: the word embedding (the encoder's); None finds it.

    Raises:
        ValueError: for an unknown baseline or level, a baseline that the tokenizer lacks, or a
            model that is not causal.

    >>> import transformers
    >>> from captum_sig.demo_model import PATH
    >>> tokenizer = transformers.AutoTokenizer.from_pretrained(PATH)
    >>> config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)
    >>> explainer = TextGenerationExplainer(transformers.GPT2LMHeadModel(config).eval(), tokenizer)
    >>> why = explainer("the film is", " not good", attribute_target=True)
    >>> why.rows, why.columns
    (['not', 'good'], ['the', 'film', 'is', 'not'])
    >>> why.matrix[0, 3].item()  # what comes later changes nothing
    0.0
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        baseline: str = "mask",
        level: str = "word",
        layer: nn.Module | None = None,
    ) -> None:
        """Find the word embedding and the baseline."""
        self.model: Any = getattr(model, "_orig_mod", model)  # a compiled one would not see hooks
        self.tokenizer = tokenizer
        self.layer = word_embedding(self.model) if layer is None else layer
        if baseline in BASELINES and baseline not in OFFERED:
            raise ValueError(
                f"baseline {baseline!r} is not for generation: use one of {', '.join(OFFERED)}"
            )
        self.baseline = family(baseline, tokenizer, embedding=self.layer).name
        self.level = level
        self.has_encoder = bool(getattr(self.model.config, "is_encoder_decoder", False))
        if not self.has_encoder and reads_ahead(self.model):
            raise ValueError(
                f"{type(self.model).__name__} reads in both directions, so one pass would show it "
                "the target: wanted a causal language model (of BERT's kind, config.is_decoder)"
            )
        self._prompter = Prompter(tokenizer, level, one_text=not self.has_encoder)

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
            name_or_path: as in transformers.
            model_kwargs: for the model's `from_pretrained`, such as `dtype` or `device_map`.
            **options: keywords of the class.

        Raises:
            ValueError: if there is no trained language model, or no tokenizer.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        more = dict(model_kwargs or {})
        reads_source = AutoConfig.from_pretrained(name_or_path).is_encoder_decoder
        auto_class = AutoModelForSeq2SeqLM if reads_source else AutoModelForCausalLM
        model = pretrained(auto_class, name_or_path, "to generate text", **more)
        return cls(model, pretrained_tokenizer(name_or_path), **options)

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
        n_steps: int = N_STEPS,
        tolerance: float | None = None,
        use_cache: bool = True,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> Any:
        """Explain the target after one prompt, or after several.

        Args:
            prompt: text; or the messages of a chat, dicts with "role" and "content"; or a list of
                such prompts.
            target: text, or ids in a sequence or tensor; None generates it once. For several
                prompts one for all or a list with one for each. See `captum_sig.words.prompts` for
                how text is tokenized behind a prompt.
            generation_kwargs: for `model.generate`, where target is None; by default greedy, at
                most 25 tokens.
            skip_tokens: ids, or tokens as the tokenizer spells them, that are held as they are and
                are no words.
            contrast: as target: explain log p(target) − log p(contrast), "why this and not that".
            attribute_target: add columns for the target's own earlier tokens.
            attributions: also integrate the gradient of the target's log-probability: SIG of every
                word by features.
            n_steps: gradients per word; with a tolerance the most of them, by default 129.
            tolerance: as in `LayerSequentialIntegratedGradients.attribute`.
            use_cache: compute once what stands before a word; False computes it for every word.
            internal_batch_size: most rows (one word each) in a pass; None bounds their memory.
            show_progress: draw a bar.

        Returns:
            a `GenerationAttribution`, or a list of them in the order of the prompts.

        Raises:
            TypeError: for a prompt or target of another type.
            ValueError: for an empty prompt or target, a prompt and target that exceed the model's
                context, a chat without a template, or arguments that do not fit together.
            FloatingPointError: if the model's output is not finite.
        """
        if attribute_target and contrast is not None:
            raise ValueError(
                "with a contrast the model reads two targets, so there are no columns for either: "
                "leave attribute_target or contrast out"
            )
        if not attributions and (tolerance is not None or not isinstance(n_steps, Default)):
            raise ValueError(
                "the matrix is exact without n_steps or tolerance: they are for attributions=True"
            )
        integrate = straight("gausslegendre", n_steps, tolerance)
        asked = MatrixOptions(
            attribute_target=attribute_target,
            integrate=integrate if attributions else None,
            use_cache=use_cache,
            chunk=internal_batch_size,
            progress=show_progress,
        )
        warn_of_dropout(self.model.modules())
        alone = is_one(prompt)
        prompts = self._prompts([prompt] if alone else prompt, skip_tokens)
        targets, contrasts = (  # all of them before the first sweep, which takes time
            self._targets(name, prompts, [given] if alone else for_each(name, given, len(prompts)))
            for name, given in (("target", target), ("contrast", contrast))
        )
        if generation_kwargs and None not in targets:
            raise ValueError("generation_kwargs are for prompts without a target: leave one out")
        results = [
            self._explain(
                one,
                self._generated(one, generation_kwargs or {}) if wanted is None else wanted,
                other,
                asked,
            )
            for one, wanted, other in zip(prompts, targets, contrasts, strict=True)
        ]
        return results[0] if alone else results

    def _prompts(
        self, given: Sequence[Any], skip_tokens: Sequence[int | str] | None
    ) -> list[Prompt]:
        found = []
        for number, one in enumerate(given):
            try:
                found.append(self._prompter.prompt(one, () if skip_tokens is None else skip_tokens))
            except ValueError as error:
                if len(given) == 1:
                    raise
                raise ValueError(f"prompt {number}: {error}") from error
        return found

    def _targets(
        self, name: str, prompts: Sequence[Prompt], given: Sequence[Any]
    ) -> list[list[int] | None]:
        n_ids = getattr(self.model.config.get_text_config(), "vocab_size", len(self.tokenizer))
        return [
            None if wanted is None else self._prompter.target(prompt, wanted, n_ids, name)
            for prompt, wanted in zip(prompts, given, strict=True)
        ]

    def _explain(
        self, prompt: Prompt, ids: list[int], other_ids: list[int] | None, asked: MatrixOptions
    ) -> GenerationAttribution:
        found = self._sweep(prompt, ids, asked)
        tokens = self._tokens(ids, found.log_probabilities)
        others: tuple[TargetToken, ...] = ()
        if other_ids is not None:
            other = self._sweep(prompt, other_ids, asked)
            others = self._tokens(other_ids, other.log_probabilities)
            found = found.minus(other)
        scores = found.matrix.sum(0)[: len(prompt.spans)].tolist()
        return GenerationAttribution(
            prompt=prompt.text,
            words=scored_words(prompt.spans, scores),
            target=self._prompter.spelt(ids),
            target_tokens=tokens,
            matrix=found.matrix,
            word_deltas=found.word_deltas,
            baseline=self.baseline,
            level=self.level,
            attributes_target=asked.attribute_target,
            without_cache=found.without_cache,
            contrast=None if other_ids is None else self._prompter.spelt(other_ids),
            contrast_tokens=others,
            attributions=found.attributions,
            converged=found.converged,
        )

    def _tokens(self, ids: list[int], log_probabilities: Tensor) -> tuple[TargetToken, ...]:
        shown = self._prompter.shown(ids)
        return tuple(map(TargetToken, shown, ids, log_probabilities.tolist()))

    def _sweep(self, prompt: Prompt, target: list[int], asked: MatrixOptions) -> TargetMatrix:
        forced = self._forced(prompt, target, asked.use_cache)

        def baseline(number: int, ids: Tensor, moving: Tensor) -> Tensor:
            of_layer = family(self.baseline, self.tokenizer, embedding=forced.layers[number])
            return of_layer(ids, moving, [])

        return target_matrix(forced, prompt.positions(), baseline, asked)

    @plain_tensors()
    def _forced(self, prompt: Prompt, target: list[int], use_cache: bool) -> Forced:
        device = input_device(self.model, self.layer)
        source, wanted = (torch.tensor(ids, device=device) for ids in (prompt.ids, target))
        read = (
            {"the prompt": len(source), "the target": len(wanted)}
            if self.has_encoder
            else {"the prompt with its target": len(source) + len(wanted) - 1}
        )
        self._check_lengths(read)
        if not self.has_encoder:
            return DecoderForced(self.model, self.layer, source[None], wanted, use_cache)
        return EncoderDecoderForced(self.model, self.layer, source[None], wanted)

    def _limit(self) -> int:
        return min(self.tokenizer.model_max_length, token_limit(self.model))

    def _check_lengths(self, lengths: Mapping[str, int]) -> None:
        limit = self._limit()
        for name, length in lengths.items():
            if length > limit:
                raise ValueError(
                    f"{name} has {length} tokens, beyond the model's context of {limit}: shorten it"
                )

    def _generated(self, prompt: Prompt, options: Mapping[str, Any]) -> list[int]:
        self._check_lengths({"the prompt": len(prompt.ids)})
        ids = torch.tensor([prompt.ids], device=input_device(self.model, self.layer))
        limit = None if self.has_encoder else self._limit()
        return generate_target(self.model, self.tokenizer, ids, limit, options)

"""What all explainers of encoded texts share: a task's inputs, its readout, and its results.

A *task* says how inputs become texts (`_inputs`), which outputs are explained (`_readout`), and of
which pretrained models it is (`AUTO_CLASS`). Encoding, batches, rows and scores are the same for
all: words move in the model's word embedding, and F has T values for each text.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from captum_sig._names import Level, ResultLevel, TaskName
from captum_sig._numbers import MAX_N_DRAWS, checked_integer
from captum_sig._warnings import warn
from captum_sig.attr.chunks import depends_on_others, rounding_error, warn_of_dependent_rows
from captum_sig.attr.function import Read, rows_share_scales, warn_of_dropout
from captum_sig.attr.hooks import LayerOutputs, input_device, structure_of
from captum_sig.attr.problem import plain_tensors
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.baselines.families import Family
from captum_sig.contexts import Contexts
from captum_sig.explainers.chosen_baselines import Names, chosen_baselines
from captum_sig.explainers.embeddings import WordEmbeddings
from captum_sig.explainers.interactions import interactions_of_batch
from captum_sig.explainers.loading import (
    check_architecture,
    hub_options,
    pretrained,
    pretrained_tokenizer,
)
from captum_sig.explainers.model_facts import ModelFacts
from captum_sig.explainers.models import (
    check_model,
    described,
    uncompiled,
)
from captum_sig.explainers.readout import Explained, Readout, Result
from captum_sig.explainers.results import WordAttribution
from captum_sig.explainers.scoring import (
    Question,
    ScoringOptions,
    as_logits,
    score_batch,
    text_generator,
    whole_output,
)
from captum_sig.explainers.zooming import without_words, zoomed
from captum_sig.words.encoding import Batch, Encoder, Truncation, padding_multiple, token_limit
from captum_sig.words.given_units import with_units
from captum_sig.words.grouping import grouping_of
from captum_sig.words.inputs import TextInput, checked_inputs, in_python, is_list

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

BATCH_SIZE = 32  # texts
CPU_PASS = 512  # tokens of all rows that keep a CPU busy: more are not worth padding
GPU_BATCH = 512, 2**14  # texts and tokens; the rows of a pass are limited separately

# Texts, how to score them, and what the model returns for them as they are, if that is known.
EncodedBatch = tuple[Batch, ScoringOptions, LayerOutputs | None]


class ExplainerOptions(TypedDict, total=False):
    """The keywords that all explainers have: see `Explainer`."""

    baseline: Names
    level: Level
    layer: nn.Module | None
    device: torch.device | str | None
    masked_lm: Any
    n_draws: int
    seed: int


class CallOptions(TypedDict, total=False):
    """The keywords of a call: see `Explainer.in_batches`."""

    level: Level | None
    units: Any
    contexts: str | Contexts | None
    n_steps: int
    batch_size: int | None
    internal_batch_size: int | None
    truncation: bool
    interactions: int | None
    budget: int | None
    top: int | None
    smooth: int | None
    noise: float | None


def target_of_each(target: Any, n_inputs: int, is_single: bool) -> list[Any]:
    """Return each input's target: a list has one for each of several, all else is for all.

    Raises:
        ValueError: if a list has another length.
    """
    target = in_python(target)
    if is_single or not is_list(target):
        return [target] * n_inputs
    if len(target) != n_inputs:
        raise ValueError(f"target has {len(target)} entries; wanted one, or {n_inputs}")
    return list(target)


class Explainer:
    """What the explainers of models that read a text, or a pair of texts, have in common.

    Args:
        model: a model of transformers for the task; it stays on its device and in its mode.
        tokenizer: its tokenizer.
        baseline: what replaces a word, a name in `captum_sig.baselines.BASELINES`; or a list of
            names, whose scores are averaged with equal weights: `std` is their spread.
        level: what moves as one: a "word", a "token", or a "sentence", "paragraph" or (of a chat)
            "message". See `captum_sig.words.units`.
        layer: the word embedding; None finds it through `model.get_input_embeddings()`. In a model
            with encoder and decoder, None moves words in the embeddings of both, a layer there
            alone.
        device: device to move the model to; None leaves it where it is.
        masked_lm: the masked language model that baseline "blurred" needs.
        n_draws: number of draws of a random baseline ("constant", "uniform"), over which scores
            are averaged.
        seed: random seed; the draws for a text depend on it and the text only.

    Raises:
        TypeError: if the model is not one for the task, or the tokenizer none.
        ValueError: for an unknown baseline or level, a baseline that the tokenizer lacks, no
            baseline or the same twice.
    """

    TASK: ClassVar[TaskName]
    MODELS: ClassVar[str]  # which models of transformers the task has, in a sentence
    AUTO_CLASS: ClassVar[str]  # of transformers, that loads them
    TRAINED: ClassVar[str]  # what they must have been trained for
    PAIR_TRUNCATION: ClassVar[Truncation] = "longest_first"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        baseline: Names = "mask",
        level: Level = "word",
        layer: nn.Module | None = None,
        device: torch.device | str | None = None,
        masked_lm: Any = None,
        n_draws: int = 5,
        seed: int = 0,
    ) -> None:
        check_model(model, tokenizer, type(self).__name__, self.MODELS)
        model, layer = uncompiled(model, layer)
        n_draws = checked_integer("n_draws", n_draws, most=MAX_N_DRAWS)
        seed = checked_integer("seed", seed, least=0)
        self.encoder = Encoder(
            tokenizer, level, token_limit(model), padding_multiple(model), self.PAIR_TRUNCATION
        )
        self.level = level
        self.tokenizer = tokenizer
        self.model = model if device is None else model.to(device)
        self.embeddings = WordEmbeddings.of(model, layer)
        self.baselines = chosen_baselines(
            baseline, tokenizer, self.embeddings.layers, masked_lm=masked_lm, n_draws=n_draws
        )
        self.masked_lm = masked_lm
        self.seed = seed

    @property
    def layer(self) -> nn.Module:
        """The word embedding, the encoder's if words move in two."""
        return self.embeddings.first

    @property
    def baseline(self) -> str:
        """The names of the baselines, as results have them: "mask", or "mask, pad"."""
        return ", ".join(one.name for one in self.baselines)

    @property
    def n_draws(self) -> int:
        """The number of draws of all baselines together."""
        return sum(one.n_draws for one in self.baselines)

    @property
    def family(self) -> Family:
        """The only baseline, in the word embedding; raises ValueError if there are several."""
        self.require_one_baseline()
        return self.baselines[0].families[0]

    def require_one_baseline(self) -> None:
        """Raise ValueError if there are several baselines."""
        if len(self.baselines) > 1:
            raise ValueError(
                f"the explainer averages over baselines {self.baseline}, and this takes one: make "
                "an explainer with one of them"
            )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Load model and tokenizer from a folder or hub name; safetensors only, no remote code.

        Args:
            name_or_path: as in transformers; or a PEFT adapter, which is loaded with its base.
            model_kwargs: for the model's `from_pretrained`, such as `dtype`, `device_map` or
                `revision`.
            **options: keywords of the class.

        Raises:
            ValueError: if there is no trained head for the task, no tokenizer, or what is there
                comes with pickled weights or Python code.
        """
        import transformers

        check_architecture(name_or_path, cls.__name__, **hub_options(model_kwargs))
        auto_class = getattr(transformers, cls.AUTO_CLASS)
        model = pretrained(auto_class, name_or_path, cls.TRAINED, **(model_kwargs or {}))
        tokenizer = pretrained_tokenizer(name_or_path, **hub_options(model_kwargs))
        return cls(model, tokenizer, **options)

    def __repr__(self) -> str:
        return described(
            self, baseline=self.baseline, level=self.level, labels=getattr(self, "labels", None)
        )

    @property
    def task(self) -> TaskName:
        """The task's name."""
        return self.TASK

    def __call__(
        self, inputs: Any, target: Any = None, method: str = "sig", **options: Unpack[CallOptions]
    ) -> Any:
        """Explain one input or a list of them; arguments as in `in_batches`.

        Returns:
            the result of a single input, or a list of them in the order of the inputs.
        """
        results: dict[int, Result] = {}
        for batch, of_batch in self.in_batches(inputs, target, method, **options):
            results.update(zip(batch.numbers, of_batch, strict=True))
        top = options.get("top")
        most_words = max((len(result.words) for result in results.values()), default=0)
        if top is not None and top > most_words > 0:
            warn(
                f"top={top} is more than the {most_words} words of the "
                f"{'text' if len(results) == 1 else 'longest text'}, so all words are explained "
                "exactly: leave top out"
            )
        _, is_single = self._inputs(inputs)
        return results[0] if is_single else [results[number] for number in range(len(results))]

    def in_batches(
        self,
        inputs: Any,
        target: Any = None,
        method: str = "sig",
        *,
        level: Level | None = None,
        units: Any = None,
        contexts: str | Contexts | None = None,
        n_steps: int = 50,
        batch_size: int | None = None,
        internal_batch_size: int | None = None,
        truncation: bool = True,
        interactions: int | None = None,
        budget: int | None = None,
        top: int | None = None,
        smooth: int | None = None,
        noise: float | None = None,
    ) -> Iterator[tuple[Batch, list[Result]]]:
        """Explain inputs, and yield each batch when it is done, short texts first.

        Args:
            inputs: a string, or a tuple of the two texts of a pair; or a list of these.
            target: what is explained, as the explainer's call has it.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
            level: in place of the explainer's. "auto" is for long texts: it measures units from the
                coarsest down, and opens those that matter, within the `budget`. The result is a
                tree, `captum_sig.explainers.zoom_result.ZoomAttribution`, and `units` are then the
                coarsest.
            units: spans of characters that move as one, in place of the level: of a text, a list of
                `(start, end)`, `(start, end, name)` or dicts with "start", "end" and "name"; of a
                pair, dicts with "side" too ("text" or "text_pair"), or a tuple with a list for each
                side; of several inputs, a list with an entry for each (None: its level). A word
                belongs to the unit in which it begins, and white space to that before it. What is
                outside all units stays as it is.
            contexts: backgrounds in which a word moves, for "sig" and "sequential_dig": one of
                `captum_sig.contexts`, or its name ("two_sided", "auto", "sampled4"), which may also
                follow the method after a colon; None is the input. A callable of yours is called
                for each text, short ones first, and again for each draw of a random baseline.
            n_steps: steps of "ig".
            batch_size: maximum number of texts in a padded batch; None is 32, and on a GPU, where
                method "sig" benefits, 512 with at most 2**14 tokens together.
            internal_batch_size: maximum number of rows in a pass; None limits their memory.
            truncation: cut texts beyond the model's limit, with a warning; False refuses them.
            interactions: how many of a text's strongest words, 2 or more, to measure two by two:
                the exact second differences of k words take k (k − 1) / 2 rows more, and k more
                for methods that do not leave each word out. A text with fewer words has all of
                its pairs, a text with one word none. Words that say the same are among the
                strongest in contexts "two_sided", where "sig" scores them near zero.
            budget: for level "auto": the most rows of a text, all baselines together; a row with a
                gradient counts 3. None is a fifth of the rows of level "word", and at least 64. A
                budget that covers those explains all words exactly. See
                `captum_sig.explainers.zoom`.
            top: for "sig": the number of words that get exact scores, the strongest by a screen;
                the others' are estimates, which the result's `audit` bounds. Saves time where it
                is at most a third of a text's words, and there are 50 or more; a text is explained
                in full if that takes little more. See `captum_sig.explainers.top`.
            smooth: for methods of gradients: the number of draws of noise in the words' embeddings,
                2 or more, over which scores are averaged, with their standard error. See
                `captum_sig.explainers.smoothing`.
            noise: the noise's standard deviation as a fraction of the range of the embeddings of
                the text's words; None is 0.1.

        Raises:
            TypeError: if the inputs are neither texts nor pairs of texts.
            ValueError: for an unknown target, method or contexts, an interaction of one word, or a
                text that is too long.
            FloatingPointError: if the model's output is not finite.
        """
        texts, is_single = self._inputs(inputs)
        texts = self._with_units(texts, units, is_single, level)
        options = ScoringOptions.checked(
            method, contexts, n_steps=n_steps, max_rows=internal_batch_size,
            interactions=interactions, top=top, smooth=smooth, noise=noise,
            level=level or self.level, budget=budget,
        )  # fmt: skip
        targets = self._targets(target, texts, is_single)
        yield from self._explained(
            texts, targets, options, batch_size=batch_size, truncation=truncation
        )

    # What a task says.

    def _inputs(self, inputs: Any) -> tuple[list[TextInput], bool]:
        """Turn inputs into a list, and say whether a single one was passed."""
        return checked_inputs(inputs)

    def _with_units(
        self, inputs: list[TextInput], units: Any, is_single: bool, level: Level | None
    ) -> list[TextInput]:
        """Attach the units and the level of a call to its inputs."""
        if level is None and units is None:
            return inputs
        if level is not None:
            grouping_of(level)  # which checks it
        return with_units(inputs, units, is_single, level)

    def _targets(self, target: Any, inputs: Sequence[TextInput], is_single: bool) -> list[Any]:
        """Return what is to be explained of each input, as `_readout` takes it."""
        raise NotImplementedError

    def _readout(self, batch: Batch, output: Tensor, targets: Sequence[Any]) -> Readout:
        """Say what is explained of a batch, given the model's output for it, (B, …)."""
        raise NotImplementedError

    @property
    def _evaluated(self) -> nn.Module:
        """What evaluates rows: the model, or what calls it."""
        return self.model

    def _as_tensor(self, output: Any) -> Tensor:
        """Return what is read of the model's output, (R, …)."""
        return as_logits(output)

    # What all tasks share.

    def _explained(
        self,
        inputs: Sequence[TextInput],
        targets: Sequence[Any],
        options: ScoringOptions,
        *,
        batch_size: int | None,
        truncation: bool,
    ) -> Iterator[tuple[Batch, list[Result]]]:
        """Explain each input's targets; yield each batch when it is done, short texts first."""
        batches = self._encoded(inputs, options, batch_size, truncation)
        yield from self._explain_each(batches, targets)

    def _encoded(
        self,
        inputs: Sequence[TextInput],
        options: ScoringOptions,
        batch_size: int | None,
        truncation: bool,
    ) -> Iterator[EncodedBatch]:
        """Yield batches with how to score them, short texts first."""
        if self._takes_single_rows:
            options = replace(options, max_rows=1)
        batches = self._batches(inputs, batch_size, truncation, options.method)
        return self._independent(batches, options)

    def _explain_each(
        self, batches: Iterable[EncodedBatch], targets: Sequence[Any]
    ) -> Iterator[tuple[Batch, list[Result]]]:
        """Explain each batch; `targets` has an entry for each input."""
        for batch, how, unchanged in batches:
            try:
                of_batch = [targets[number] for number in batch.numbers]
                results = self._explain(batch, of_batch, how, unchanged)
            except NotFiniteError as error:
                number = batch.numbers[error.example]
                raise NotFiniteError(error.what, number, error.where) from None
            yield batch, results

    @property
    def _takes_single_rows(self) -> bool:
        """Whether the model refuses several rows, as it cannot recognise padding."""
        return getattr(self.model.config, "pad_token_id", 0) is None

    def _batches(
        self,
        inputs: Sequence[TextInput],
        batch_size: int | None,
        truncation: bool,
        method: str | None = None,
    ) -> Iterator[Batch]:
        device, max_tokens = input_device(self.model, self.layer), None
        if self._takes_single_rows:
            batch_size = 1
            warn(
                "the model's config has no pad_token_id, so rows are evaluated one by one: set it "
                "if you can"
            )
        elif batch_size is None and method == "sig" and device.type != "cpu":
            batch_size, max_tokens = GPU_BATCH
        elif batch_size is None:
            batch_size = BATCH_SIZE
        warn_of_dropout(self.model.modules())
        return self.encoder.batches(
            inputs, batch_size, truncation=truncation, device=device, max_tokens=max_tokens,
            pad_below=CPU_PASS if method == "sig" and device.type == "cpu" else None,
        )  # fmt: skip

    def _independent(
        self, batches: Iterable[Batch], options: ScoringOptions
    ) -> Iterator[EncodedBatch]:
        """Take rows one by one if the model's output for a text depends on the texts beside it.

        The pass that shows that comes with a batch, if there was one.
        """
        alone = replace(options, max_rows=1)
        depends = rows_share_scales(self.model.modules())
        if depends and options.max_rows != 1:
            warn_of_dependent_rows()
        for batch in batches:
            unchanged = None
            is_several = len(batch.inputs) > 1 and batch.ids.numel() > 0
            is_tried = is_several and not (depends or options.zooms)
            if is_tried and self.facts.needs_check("texts"):
                unchanged = self._capture(batch)
                output: Any = unchanged.output
                last = functools.partial(self._batch_output, batch, slice(-1, None))
                depends = depends_on_others(last, output, rounding_error(output))
                if depends:
                    self.facts.depends_on_others = True
                    warn_of_dependent_rows()
            if depends or options.zooms:
                how = alone if depends else options
                yield from ((text, how, None) for text in batch.one_by_one())
            else:
                yield batch, options, unchanged

    @plain_tensors()
    def _capture(self, batch: Batch) -> LayerOutputs:
        """Evaluate the texts as they are, once: what the embedding returns, and (B, …)."""
        return self.embeddings.capture(
            lambda ids: self._batch_output(replace(batch, ids=ids)), batch.ids
        )

    @functools.cached_property
    def facts(self) -> ModelFacts:
        """What passes have shown of the model, such as which positions its head reads."""
        return ModelFacts(structure_of(self.model))

    def _current_facts(self) -> ModelFacts:
        """Return the facts; of a model that has other modules or hooks by now, anew."""
        structure = structure_of(self.model)
        if self.facts.structure != structure:
            self.facts = ModelFacts(structure)
        return self.facts

    @plain_tensors()
    def _batch_output(self, batch: Batch, rows: slice = slice(None)) -> Tensor:
        others = {name: tensor[rows] for name, tensor in batch.further_inputs.items()}
        output = self._as_tensor(self._evaluated(input_ids=batch.ids[rows], **others))
        return output.detach()

    def _question(
        self, batch: Batch, read: Read, n_values: int, unchanged: LayerOutputs | None = None
    ) -> Question:
        """Ask for values of a batch; the baseline is the first, unless it is replaced."""
        return Question(
            model=self._evaluated, embeddings=self.embeddings, as_tensor=self._as_tensor, read=read,
            n_values=n_values, batch=batch, unchanged=unchanged or self._capture(batch),
            families=self.baselines[0].families, read_positions=self.facts.read_positions,
            new_generators=lambda: [text_generator(one.moving, self.seed) for one in batch.inputs],
        )  # fmt: skip

    def _asked_ahead(
        self, batch: Batch, options: ScoringOptions, unchanged: LayerOutputs | None
    ) -> Question:
        """Evaluate a batch, with its rows if they are known: what is read of them is open."""
        facts = self._current_facts()
        if options.takes_rows and any(batch.spans) and not facts.are_known:
            unchanged = unchanged or self._capture(batch)
            question = self._question(batch, whole_output, 0, unchanged)
            facts.learn(question, functools.partial(self._batch_output, batch))
        if options.scores_one_background and self.n_draws == 1 and all(batch.spans):
            ahead = facts.with_rows_ahead(
                lambda embedded: self._question(batch, whole_output, 0, embedded),
                self.layer, batch.ids, options,
            )  # fmt: skip
            if ahead is not None:
                return ahead
        return self._question(batch, whole_output, 0, unchanged or self._capture(batch))

    @plain_tensors()
    def _explain(
        self,
        batch: Batch,
        targets: Sequence[Any],
        options: ScoringOptions,
        unchanged: LayerOutputs | None,  # of the batch, if it is known
    ) -> list[Result]:
        if batch.ids.shape[1] == 0:  # not even a special token: the model has nothing to read
            empty: list[Any] = [self._without_token(one, options) for one in batch.inputs]
            if options.zooms:
                empty = [without_words(one, ()) for one in empty]
            return empty
        question = self._asked_ahead(batch, options, unchanged)
        unchanged = question.unchanged
        output: Any = unchanged.output  # (B, …)
        readout = self._readout(batch, output, targets)
        example = torch.arange(len(batch.inputs), device=output.device)
        values = readout.read(output, example).cpu()  # (B, T): each copy from a GPU waits for it
        question = replace(question, read=readout.read, n_values=values.shape[1])
        if options.zooms:
            return [self._zoomed(question, readout, values, options)]
        scored = score_batch(question, baselines=self.baselines, options=options)
        scores = [of_value for of_value, _ in scored]
        if question.ahead is not None:  # a text's own pass is one of the rows
            errors = [self.facts.hook_error] * len(batch.inputs)
            scores = [replace(of_value, word_deltas=errors) for of_value in scores]
        checked = [output.flatten(1).cpu(), *(of_value.values for of_value in scores)]
        finite = torch.cat(checked, 1).isfinite().all(1)
        if not finite.all():
            failed = int((~finite).nonzero()[0])
            raise NotFiniteError("output", failed, "the unchanged input or a word of it")
        pairs = [
            None if options.interactions is None
            else interactions_of_batch(draws, batch, of_value.values, options.interactions)
            for of_value, draws in scored
        ]  # fmt: skip
        return [
            Explained(
                batch,
                number,
                readout,
                values[number].tolist(),
                scores,
                pairs,
                options.name,
                self.baseline,
                self.TASK,
                self._level_of(batch.inputs[number]),
            ).result
            for number in range(len(batch.inputs))
        ]

    def _zoomed(
        self, question: Question, readout: Readout, values: Tensor, options: ScoringOptions
    ) -> Any:  # a `ZoomAttribution`, where other levels return a `Result`
        """Explain the one text of a batch from its coarsest units down."""
        batch, tree = question.batch, None
        if batch.spans[0] and question.n_values > 0:
            tree, scores = zoomed(question, self.baselines, options)
            batch = replace(batch, spans=[tree.spans])
        else:
            scores = [of for of, _ in score_batch(question, baselines=(), options=options)]
        flat = Explained(
            batch, 0, readout, values[0].tolist(), scores, [None] * len(scores), options.name,
            self.baseline, self.TASK, "auto",
        ).result  # fmt: skip
        names = [target.name for target in readout.of_texts[0].targets]
        return without_words(flat, names) if tree is None else tree.result(flat, names)

    def _level_of(self, one: TextInput) -> ResultLevel:
        """Return the level of a text's result."""
        return "unit" if one.units is not None else one.level or self.level

    def _without_token(self, one: TextInput, options: ScoringOptions) -> WordAttribution:
        return WordAttribution(
            text=one.text, label=None, probability=None, target=None, method=options.name,
            baseline=self.baseline, max_abs_word_delta=0.0, words=(), task=self.TASK,
            level=self._level_of(one),
            interactions=None if options.interactions is None else (),
        )  # fmt: skip

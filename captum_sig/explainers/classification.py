"""Strings in, `WordAttribution` out: text classifiers of transformers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from captum_sig._names import Level, suggestion
from captum_sig._numbers import MAX_N_DRAWS, checked_integer
from captum_sig._warnings import warn
from captum_sig.attr.chunks import depends_on_others, rounding_error, warn_of_dependent_rows
from captum_sig.attr.function import rows_share_scales, warn_of_dropout
from captum_sig.attr.hooks import (
    LayerOutputs,
    capture,
    embed_without_pass,
    input_device,
    patched,
)
from captum_sig.attr.problem import plain_tensors
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.baselines.families import choose_token, family
from captum_sig.contexts import Contexts
from captum_sig.explainers.game import Game
from captum_sig.explainers.interactions import interactions_of_batch
from captum_sig.explainers.method_input import Scores
from captum_sig.explainers.models import (
    CLASSIFICATION,
    check_model,
    classifier_logits,
    pretrained,
    pretrained_tokenizer,
    uncompiled,
    word_embedding,
)
from captum_sig.explainers.results import WordAttribution
from captum_sig.explainers.scoring import (
    ScoringOptions,
    batch_problem,
    draw_baseline,
    forward_of,
    score_batch,
    text_generator,
)
from captum_sig.path import TextTrace, path_named, trace
from captum_sig.words.encoding import (
    Batch,
    Encoder,
    Sentence,
    checked_texts,
    in_python,
    padding_multiple,
    token_limit,
)

BATCH_SIZE = 32  # texts
GPU_BATCH = 512, 2**14  # texts and tokens; the rows of a pass are limited separately

Target = str | int | Sequence[str | int] | None


class TextClassificationExplainer:
    """Explains the logit of a class, word by word.

    Args:
        model: a sequence classifier of transformers; it stays on its device and in its mode.
        tokenizer: its tokenizer.
        baseline: what replaces a word, a name in `captum_sig.baselines.BASELINES`.
        level: "word" moves a word's sub-tokens together, "token" each on its own.
        layer: the word embedding; None finds it through `model.get_input_embeddings()`.
        device: device to move the model to; None leaves it where it is.
        masked_lm: the masked language model that baseline "blurred" needs.
        n_draws: number of draws of a random baseline ("constant", "uniform"), over which scores
            are averaged.
        seed: random seed; the draws for a text depend on it and the text only.

    Raises:
        TypeError: if the model is not a sequence classifier, or the tokenizer none.
        ValueError: for an unknown baseline or level, a baseline that the tokenizer lacks, or an
            encoder–decoder model, whose decoder reads every word once more.

    >>> from captum_sig.demo_model import PATH
    >>> explainer = TextClassificationExplainer.from_pretrained(PATH)
    >>> explainer("The jokes are old, yet the film is charming.").label
    'POSITIVE'
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        baseline: str = "mask",
        level: Level = "word",
        layer: nn.Module | None = None,
        device: torch.device | str | None = None,
        masked_lm: Any = None,
        n_draws: int = 5,
        seed: int = 0,
    ) -> None:
        check_model(model, tokenizer, CLASSIFICATION, "sequence classifiers of transformers")
        model, layer = uncompiled(model, layer)
        if layer is None and getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(model).__name__} reads the text twice, in its encoder and its decoder, and "
                "no single layer moves a word in both; wanted an encoder or a decoder alone"
            )
        n_draws = checked_integer("n_draws", n_draws, most=MAX_N_DRAWS)
        seed = checked_integer("seed", seed, least=0)
        self.encoder = Encoder(tokenizer, level, token_limit(model), padding_multiple(model))
        self.tokenizer = tokenizer
        self.model = model if device is None else model.to(device)
        self.layer = word_embedding(model) if layer is None else layer
        self.family = family(baseline, tokenizer, embedding=self.layer, masked_lm=masked_lm)
        self.n_draws = n_draws if self.family.is_random else 1
        self.seed = seed
        self.labels = label_names(model.config)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, **options: Any
    ) -> TextClassificationExplainer:
        """Load model and tokenizer from a folder or hub name; safetensors only, no remote code.

        Args:
            name_or_path: as in transformers.
            **options: keywords of the class.

        Raises:
            ValueError: if there is no trained classification head, no tokenizer, or what is there
                comes with pickled weights or Python code.
        """
        from transformers import AutoModelForSequenceClassification

        model = pretrained(
            AutoModelForSequenceClassification, name_or_path, "for sequence classification"
        )
        return cls(model, pretrained_tokenizer(name_or_path), **options)

    @overload  # a string is a sequence of strings too
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, target: str | int | None = ..., method: str = ..., *,
        contexts: str | Contexts | None = ..., n_steps: int = ..., batch_size: int | None = ...,
        internal_batch_size: int | None = ..., truncation: bool = ...,
        interactions: int | None = ..., top: int | None = ...,
    ) -> WordAttribution: ...  # fmt: skip
    @overload
    def __call__(
        self, texts: Sequence[str], target: Target = ..., method: str = ..., *,
        contexts: str | Contexts | None = ..., n_steps: int = ..., batch_size: int | None = ...,
        internal_batch_size: int | None = ..., truncation: bool = ...,
        interactions: int | None = ..., top: int | None = ...,
    ) -> list[WordAttribution]: ...  # fmt: skip
    def __call__(
        self,
        texts: str | Sequence[str],
        target: Target = None,
        method: str = "sig",
        *,
        contexts: str | Contexts | None = None,
        n_steps: int = 50,
        batch_size: int | None = None,
        internal_batch_size: int | None = None,
        truncation: bool = True,
        interactions: int | None = None,
        top: int | None = None,
    ) -> WordAttribution | list[WordAttribution]:
        """Explain one text or several.

        Args:
            texts: a string, or a list of strings; a tuple is kept for the two texts of a pair.
            target: the label to explain, by name or index, or a list with one for each text; None
                explains each text's predicted label.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
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
            top: for "sig": the number of words that get exact scores, the strongest by a screen;
                the others' are estimates, which the result's `audit` bounds. Saves time where it
                is at most a third of a text's words, and there are 50 or more; a text is explained
                in full if that takes little more. See `captum_sig.explainers.top`.

        Returns:
            a `WordAttribution`, or a list of them in the order of the texts.

        Raises:
            TypeError: if the texts are neither a string nor a list of strings.
            ValueError: for an unknown target, method or contexts, an interaction of one word, or a
                text that is too long.
            FloatingPointError: if the model's output is not finite.
        """
        results: dict[int, WordAttribution] = {}
        for batch, of_batch in self.in_batches(
            texts, target, method, contexts=contexts, n_steps=n_steps, batch_size=batch_size,
            internal_batch_size=internal_batch_size, truncation=truncation,
            interactions=interactions, top=top,
        ):  # fmt: skip
            results.update(zip(batch.numbers, of_batch, strict=True))
        most_words = max((len(result.words) for result in results.values()), default=0)
        if top is not None and top > most_words > 0:
            warn(
                f"top={top} is more than the {most_words} words of the "
                f"{'text' if len(results) == 1 else 'longest text'}, so all words are explained "
                "exactly: leave top out"
            )
        return results[0] if isinstance(texts, str) else [results[i] for i in range(len(results))]

    def in_batches(
        self,
        texts: str | Sequence[str],
        target: Target = None,
        method: str = "sig",
        *,
        contexts: str | Contexts | None = None,
        n_steps: int = 50,
        batch_size: int | None = None,
        internal_batch_size: int | None = None,
        truncation: bool = True,
        interactions: int | None = None,
        top: int | None = None,
    ) -> Iterator[tuple[Batch, list[WordAttribution]]]:
        """Explain texts as the call does, and yield each batch when done, short texts first."""
        several = checked_texts(texts)
        options = ScoringOptions.checked(
            method, contexts, n_steps=n_steps, max_rows=internal_batch_size,
            interactions=interactions, top=top,
        )  # fmt: skip
        if self._takes_single_rows:
            options = replace(options, max_rows=1)
        targets = self._target_indices(target, len(several))
        batches = self._batches(several, batch_size, truncation, options.method)
        for batch, how, unchanged in self._independent(batches, options):
            try:
                given = [targets[i] for i in batch.numbers]
                results = self._explain(batch, given, how, unchanged)
            except NotFiniteError as error:
                number = batch.numbers[error.example]
                raise NotFiniteError(error.what, number, error.where) from None
            yield batch, results

    def trace(
        self,
        text: str,
        target: str | int | None = None,
        method: str = "ig",
        *,
        n_steps: int | None = None,
    ) -> TextTrace:
        """Trace F and the nearest words on the way to a text: `captum_sig.path.trace` in strings.

        Arguments as in the call, for one text; a random baseline is drawn once.

        Raises:
            ValueError: as the call, or for a text without words.
        """
        kind = path_named(method)
        batch, index = self._one_text(text, target)
        (spans,), mask = batch.spans, batch.feature_mask[0]
        traced = trace(
            forward_of(self.model, batch), self.layer, batch.ids, target=index,
            additional_forward_args=tuple(batch.others.values()),
            method=method, n_steps=n_steps, feature_mask=batch.feature_mask,
            **draw_baseline(self.family, batch, [text_generator(text, self.seed)]),
            internal_batch_size=1 if self._takes_single_rows else None,
        )  # fmt: skip
        word_of = {int(mask[span.position]): span.word for span in spans}
        in_words = torch.isin(mask, mask.new_tensor(list(word_of)))
        return TextTrace(
            text=text,
            target=self.labels[index],
            baseline=self.family.name,
            trace=traced,
            words=tuple(
                word_of[int(mask[positions[0]])] if kind.one_by_one else text
                for positions in traced.words
            ),
            positions=tuple(in_words.nonzero()[:, 0].tolist()),
            tokenizer=self.tokenizer,
        )

    @plain_tensors()
    def game(self, text: str, target: str | int | None = None) -> Game:
        """Return the values of a text with any of its words, for `shapiq` and `shap`: see `Game`.

        Arguments as in the call, for one text; a random baseline is drawn once, by the seed.

        Raises:
            ValueError: as the call, or for a text without words.

        >>> from captum_sig.demo_model import PATH
        >>> game = TextClassificationExplainer.from_pretrained(PATH).game("Not good!")
        >>> game.words, game([[True, True, True], [False, True, True]]).round(1).tolist()
        (['Not', 'good', '!'], [0.0, -2.4])
        """
        batch, index = self._one_text(text, target)
        problem = batch_problem(
            self.model, self.layer, batch, family=self.family,
            targets=torch.tensor([index], device=batch.ids.device),
            generators=[text_generator(text, self.seed)],
            max_rows=1 if self._takes_single_rows else None,
        )  # fmt: skip
        return Game.of(batch, self.labels[index], problem)

    def _one_text(self, text: str, target: str | int | None) -> tuple[Batch, int]:
        """Encode a text that has words, and return the index of its target or predicted label."""
        (batch,) = self._batches(checked_texts([text]), 1, True)
        (index,) = self._target_indices(target, 1)
        if not batch.spans[0]:
            raise ValueError(f"the text {text!r} has no word to move: pass another")
        return batch, int(self._batch_logits(batch)[0].argmax()) if index is None else index

    def label_index(self, target: str | int) -> int:
        """Return the index of a label given by name, in any case, or by index.

        Raises:
            ValueError: if there is no such label; the message lists the labels.
        """
        target = in_python(target)
        lower_case = [name.lower() for name in self.labels]
        if isinstance(target, str) and target in self.labels:
            return self.labels.index(target)
        if isinstance(target, str) and target.lower() in lower_case:
            return lower_case.index(target.lower())
        if str(target).isdecimal() and int(target) < len(self.labels):
            return int(target)
        known = ", ".join(f"{name} ({index})" for index, name in enumerate(self.labels))
        raise ValueError(
            f"unknown label {target!r}{suggestion(target, self.labels)}; choose from {known}"
        )

    def log_probabilities(self, ids: Tensor, replaced: Tensor | None = None) -> Tensor:
        """Compute each label's log-probability for rows of ids without padding, (R, L) → (R, C).

        Args:
            ids: what the model receives, (R, L).
            replaced: ids whose embeddings take the place of theirs, (R, L), while positions, masks
                and pooling stay those of `ids`: where the explainer moves words.

        Raises:
            ValueError: if the model predicts a quantity in place of probabilities.
        """
        rows = ids.split(1 if self._takes_single_rows else len(ids))
        shown = [None] * len(rows) if replaced is None else replaced.split(len(rows[0]))
        with torch.no_grad():
            logits = torch.cat(list(map(self._logits, rows, shown)))
        return log_probabilities(self.model.config, logits.float())

    def _logits(self, ids: Tensor, replaced: Tensor | None) -> Tensor:
        """Evaluate rows of ids, (R, L), in one pass; see `log_probabilities`."""

        def forward(ids: Tensor) -> Tensor:
            return self.model(input_ids=ids).logits

        if replaced is None:
            return forward(ids)
        first = capture(forward, [self.layer], (ids[:1],))
        embedded = embed_without_pass(self.layer, first, (ids[:1],), (replaced,))
        if embedded is None:
            ((embedded,),) = capture(forward, [self.layer], (replaced,)).activations
        with patched([self.layer], (embedded,)):
            return forward(ids)

    def sentences(
        self, texts: Sequence[str], targets: Sequence[int], *, truncation: bool = True
    ) -> list[Sentence]:
        """Encode texts as `captum_sig.faithfulness` takes them: a unit for each word of the result.

        Args:
            texts: B texts.
            targets: B indices of the labels to watch.
            truncation: as in the call.

        Raises:
            ValueError: if a text has no token at all, or is too long.
        """
        replacement = choose_token(self.tokenizer, "mask")[1]
        sentences: dict[int, Sentence] = {}
        for batch in self._batches(checked_texts(texts), 1, truncation):
            (number,), mask = batch.numbers, batch.feature_mask[0]
            units = torch.full_like(mask, -1)
            for unit, span in enumerate(batch.spans[0]):
                units[mask == mask[span.position]] = unit
            sentences[number] = Sentence(batch.ids[0], units, targets[number], replacement)
        return [sentences[number] for number in range(len(texts))]

    @property
    def _takes_single_rows(self) -> bool:
        """Whether the model refuses several rows, as it cannot recognise padding."""
        return getattr(self.model.config, "pad_token_id", 0) is None

    def _target_indices(self, target: Target, n_texts: int) -> list[int | None]:
        """Return a label's index for each text; None for labels that are not given."""
        target = in_python(target)
        if target is None:
            return [None] * n_texts
        if isinstance(target, (str, int)):
            return [self.label_index(target)] * n_texts
        if not isinstance(target, Sequence):
            raise TypeError(f"target must be a label or a list of labels, got {target!r}")
        if len(target) != n_texts:
            raise ValueError(f"target has {len(target)} entries; wanted one, or {n_texts}")
        return [self.label_index(label) for label in target]

    def _batches(
        self, texts: list[str], batch_size: int | None, truncation: bool, method: str | None = None
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
            texts, batch_size, truncation=truncation, device=device, max_tokens=max_tokens
        )

    def _independent(
        self, batches: Iterable[Batch], options: ScoringOptions
    ) -> Iterator[tuple[Batch, ScoringOptions, LayerOutputs | None]]:
        """Take rows one by one if the model's output for a text depends on the texts beside it.

        The pass that shows that comes with a batch.
        """
        alone = replace(options, max_rows=1)
        depends = rows_share_scales(self.model.modules())
        if depends and options.max_rows != 1:
            warn_of_dependent_rows()
        for batch in batches:
            unchanged = None
            if len(batch.texts) > 1 and batch.ids.numel() and not depends:
                unchanged = self._capture(batch)
                logits: Any = unchanged.output
                last = functools.partial(self._batch_logits, batch, slice(-1, None))
                depends = depends_on_others(last, logits, rounding_error(logits))
                if depends:
                    warn_of_dependent_rows()
            if depends:
                yield from ((text, alone, None) for text in batch.one_by_one())
            else:
                yield batch, options, unchanged

    @plain_tensors()
    def _capture(self, batch: Batch) -> LayerOutputs:
        """Evaluate the texts as they are, once: what the embedding returns, and logits (B, C)."""
        return capture(
            lambda ids: self._batch_logits(replace(batch, ids=ids)), [self.layer], (batch.ids,)
        )

    @plain_tensors()
    def _batch_logits(self, batch: Batch, rows: slice = slice(None)) -> Tensor:
        others = {name: tensor[rows] for name, tensor in batch.others.items()}
        output = self.model(input_ids=batch.ids[rows], **others)
        return classifier_logits(self.model, output)

    @plain_tensors()
    def _explain(
        self,
        batch: Batch,
        given_targets: list[int | None],
        options: ScoringOptions,
        unchanged: LayerOutputs | None,  # of the batch, if it is known
    ) -> list[WordAttribution]:
        if batch.ids.shape[1] == 0:  # not even a special token: the model has nothing to read
            labels = [None if target is None else self.labels[target] for target in given_targets]
            baseline = self.family.name
            return [
                WordAttribution(
                    text=text, label=None, probability=None, target=label, method=options.name,
                    baseline=baseline, max_abs_word_delta=0.0, words=(),
                    interactions=None if options.interactions is None else (),
                )
                for text, label in zip(batch.texts, labels, strict=True)
            ]  # fmt: skip
        unchanged = unchanged or self._capture(batch)
        logits: Any = unchanged.output  # (B, C)
        targets = [
            predicted if target is None else target
            for predicted, target in zip(logits.argmax(-1).tolist(), given_targets, strict=True)
        ]
        generators = [text_generator(text, self.seed) for text in batch.texts]
        scores, draws = score_batch(
            self.model, self.layer, batch, family=self.family, n_draws=self.n_draws,
            targets=torch.tensor(targets, device=logits.device), generators=generators,
            options=options, unchanged=unchanged,
        )  # fmt: skip
        logits = logits.cpu()  # all texts' at once: each copy from a GPU waits for it
        finite = torch.cat([logits, scores.values], 1).isfinite().all(1)
        if not finite.all():
            failed = int((~finite).nonzero()[0])
            raise NotFiniteError("output", failed, "the unchanged input or a word of it")
        results = [
            self._result(batch, number, targets[number], scores, logits=row, method=options.name)
            for number, row in enumerate(logits)
        ]
        if options.interactions is None:
            return results
        measured = interactions_of_batch(draws, batch, scores.values, options.interactions)
        return [
            replace(result, interactions=of_text)
            for result, of_text in zip(results, measured, strict=True)
        ]

    def _result(
        self,
        batch: Batch,
        number: int,
        target: int,
        scores: Scores,
        *,
        logits: Tensor,  # (C,)
        method: str,
    ) -> WordAttribution:
        label = self.labels[int(logits.argmax())]
        try:
            values = log_probabilities(self.model.config, logits.float()).exp().tolist()
        except ValueError:  # a quantity
            values = []
        probabilities = dict(zip(self.labels, values, strict=False))
        residual = None if scores.residual is None else float(scores.residual[number])
        audit = None if scores.audits is None else scores.audits[number]
        return WordAttribution(
            text=batch.texts[number],
            label=label,
            probability=probabilities.get(label),
            target=self.labels[target],
            method=method,
            baseline=self.family.name,
            max_abs_word_delta=scores.word_deltas[number],
            words=scores.words(batch, number),
            probabilities=probabilities,
            residual=residual if audit is None else None,
            audit=audit,
        )


def label_names(config: Any) -> list[str]:
    """Return the labels of a classifier's config by index; equal names get their index appended."""
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    if len(set(names)) < len(names):
        return [f"{name} ({index})" for index, name in enumerate(names)]
    return names


def log_probabilities(config: Any, logits: Tensor) -> Tensor:
    """Turn a classifier's logits into log-probabilities, (…, C) → (…, C).

    Raises:
        ValueError: if the model predicts a quantity in place of probabilities.
    """
    kind = getattr(config, "problem_type", None)
    if kind == "multi_label_classification":
        return nn.functional.logsigmoid(logits)
    if kind == "regression" or logits.shape[-1] == 1:
        raise ValueError(
            "the model predicts a quantity, not probabilities of labels: wanted a classifier"
        )
    return logits.log_softmax(-1)

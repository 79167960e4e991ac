"""Strings in, `WordAttribution` out: text classifiers of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._warnings import warn
from captum_sig.attr.arguments import N_STEPS
from captum_sig.attr.function import model_lock, warn_of_dropout
from captum_sig.attr.hooks import input_device
from captum_sig.attr.word_paths import NotFiniteError
from captum_sig.baselines.families import choose_token, family
from captum_sig.contexts import Contexts
from captum_sig.explainers.models import (
    pretrained,
    pretrained_tokenizer,
    takes_single_rows_only,
    word_embedding,
)
from captum_sig.explainers.results import WordAttribution
from captum_sig.explainers.scoring import (
    Average,
    ScoringOptions,
    averaged,
    drawn_baseline,
    forward_of,
    generator_of,
    score_batch,
)
from captum_sig.path import TextTrace, named, trace
from captum_sig.words.encoding import (
    Batch,
    Encoder,
    Sentence,
    checked_texts,
    padded_to,
    token_limit,
)


class Labels:
    """The labels that a transformers config names, by index.

    Args:
        config: of a sequence classifier.
    """

    def __init__(self, config: Any) -> None:
        """Read the names; equal ones must not be taken for one label."""
        self.config = config
        names = [str(config.id2label[index]) for index in sorted(config.id2label)]
        if len(set(names)) < len(names):
            names = [f"{name} ({index})" for index, name in enumerate(names)]
        self.names: list[str] = names

    def index(self, target: str | int) -> int:
        """Index of a label given by name, in any case, or by index; an int is always an index.

        Raises:
            ValueError: if there is no such label; it lists those there are.
        """
        by_lower_case = [name.lower() for name in self.names]
        if isinstance(target, str) and target in self.names:
            return self.names.index(target)
        if isinstance(target, str) and target.lower() in by_lower_case:
            return by_lower_case.index(target.lower())
        if str(target).isdecimal() and int(target) < len(self.names):
            return int(target)
        known = ", ".join(f"{name} ({index})" for index, name in enumerate(self.names))
        raise ValueError(f"target {target!r} is no label of this model: use one of {known}")

    def indices(
        self, target: str | int | Sequence[str | int] | None, n_texts: int
    ) -> list[int | None]:
        """Of one label for all texts, or of one for each; None for a label that is not given.

        Raises:
            ValueError: for an unknown label, or another number of them.
        """
        if target is None:
            return [None] * n_texts
        if isinstance(target, (str, int)):
            return [self.index(target)] * n_texts
        if not isinstance(target, Sequence):
            raise TypeError(f"target must be a label or a list of them, got {target!r}")
        if len(target) != n_texts:
            raise ValueError(f"target has {len(target)} entries; wanted one, or {n_texts}")
        return [self.index(one) for one in target]

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of each label, (…, C) → (…, C).

        Raises:
            ValueError: for a model that gives a quantity in place of probabilities.
        """
        kind = getattr(self.config, "problem_type", None)
        if kind == "multi_label_classification":
            return nn.functional.logsigmoid(logits)
        if kind == "regression" or logits.shape[-1] == 1:
            raise ValueError(
                "the model gives a quantity, no probabilities of labels: wanted a classifier"
            )
        return logits.log_softmax(-1)

    def probabilities(self, logits: Tensor) -> dict[str, float]:  # (C,)
        """By name; empty for a model that does not give any."""
        try:
            values = self.log_probabilities(logits).exp().tolist()
        except ValueError:
            return {}
        return dict(zip(self.names, values, strict=False))


BATCH_SIZE = 32  # texts
GPU_BATCH = 512, 2**14  # texts and tokens, where the rows of a pass are bounded by themselves


class TextClassificationExplainer:
    """Explains the logit of a class, word by word.

    Args:
        model: a sequence classifier of transformers; it stays on its device and in its mode.
        tokenizer: its tokenizer.
        baseline: what a word is replaced by, a name in `captum_sig.baselines.BASELINES`.
        level: "word" moves a word's sub-tokens together, "token" each on its own.
        layer: the word embedding; None finds it through `model.get_input_embeddings()`.
        device: where to move the model; None leaves it where it is.
        masked_lm: the masked language model that baseline "blurred" asks.
        n_draws: baselines that are drawn at random ("constant", "uniform") are drawn so often, and
            scores are averaged.
        seed: of everything that is drawn; what is drawn for a text depends on it and the text only.

    Raises:
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
        level: str = "word",
        layer: nn.Module | None = None,
        device: torch.device | str | None = None,
        masked_lm: Any = None,
        n_draws: int = 5,
        seed: int = 0,
    ) -> None:
        """Find the word embedding and the baseline."""
        model = getattr(model, "_orig_mod", model)  # a compiled model would not see the hooks
        if layer is None and getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(model).__name__} reads the text twice, in its encoder and its decoder, and "
                "no single layer moves a word in both; wanted an encoder or a decoder alone"
            )
        if not isinstance(n_draws, int) or n_draws < 1:
            raise ValueError(f"n_draws must be at least 1, got {n_draws!r}")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a whole number, 0 at least, got {seed!r}")
        self.encoder = Encoder(tokenizer, level, token_limit(model), multiple=padded_to(model))
        self.tokenizer = tokenizer
        self.model = model if device is None else model.to(device)
        self.layer = word_embedding(model) if layer is None else layer
        self.family = family(baseline, tokenizer, embedding=self.layer, masked_lm=masked_lm)
        self.n_draws = n_draws if self.family.is_random else 1
        self.seed = seed
        self._labels = Labels(model.config)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, **options: Any
    ) -> TextClassificationExplainer:
        """Load model and tokenizer from a folder or hub name; safetensors only, no remote code.

        Args:
            name_or_path: as in transformers.
            **options: keywords of the class.

        Raises:
            ValueError: if there is no trained classification head, or no tokenizer.
        """
        from transformers import AutoModelForSequenceClassification

        model = pretrained(
            AutoModelForSequenceClassification, name_or_path, "for sequence classification"
        )
        return cls(model, pretrained_tokenizer(name_or_path), **options)

    def __call__(
        self,
        texts: str | Sequence[str],
        target: str | int | Sequence[str | int] | None = None,
        method: str = "sig",
        *,
        contexts: str | Contexts | None = None,
        n_steps: int = 50,
        batch_size: int | None = None,
        internal_batch_size: int | None = None,
        truncation: bool = True,
    ) -> Any:
        """Explain one text or several.

        Args:
            texts: a string, or a sequence of strings.
            target: the label to explain, by name or index, or a list with one for each text; None
                takes each text's predicted one.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact
                word scores.
            contexts: in which backgrounds a word moves, for "sig" and "sequential_dig": one of
                `captum_sig.contexts`, or its name ("two_sided", "sampled4"), which may also follow
                the method's after a colon; None is the input. A callable of yours is asked text
                by text, short ones first, and anew for each draw of a random baseline.
            n_steps: steps of "ig".
            batch_size: at most so many texts in a padded batch; None is 32, and on a GPU, where
                method "sig" gains by it, 512 of at most 2**14 tokens together.
            internal_batch_size: most rows in a pass; None bounds their memory.
            truncation: cut texts beyond the model's limit, with a warning; False refuses them.

        Returns:
            a `WordAttribution`, or a list of them in the order of the texts.

        Raises:
            TypeError: if a text is not a string.
            ValueError: for an unknown target, method or contexts, or a text that is too long.
            FloatingPointError: if the model's output is not finite.
        """
        results: dict[int, WordAttribution] = {}
        for batch, found in self.in_batches(
            texts, target, method, contexts=contexts, n_steps=n_steps, batch_size=batch_size,
            internal_batch_size=internal_batch_size, truncation=truncation,
        ):  # fmt: skip
            results.update(zip(batch.numbers, found, strict=True))
        return results[0] if isinstance(texts, str) else [results[i] for i in range(len(results))]

    def in_batches(
        self, texts: str | Sequence[str], target: str | int | Sequence[str | int] | None = None,
        method: str = "sig", *, contexts: str | Contexts | None = None, n_steps: int = 50,
        batch_size: int | None = None, internal_batch_size: int | None = None,
        truncation: bool = True,
    ) -> Iterator[tuple[Batch, list[WordAttribution]]]:  # fmt: skip
        """As the call, batch by batch as they are done, texts of few tokens first."""
        several = checked_texts(texts)
        wanted = ScoringOptions.of(method, contexts, n_steps, internal_batch_size)
        chosen = self._labels.indices(target, len(several))
        for batch in self._batches(several, batch_size, truncation, wanted.method):
            if takes_single_rows_only(self.model):  # it refuses several rows
                wanted = replace(wanted, chunk=1)
            try:
                found = self._explain(batch, [chosen[i] for i in batch.numbers], wanted)
            except NotFiniteError as error:
                number = batch.numbers[error.example]
                raise NotFiniteError(error.what, number, error.where) from None
            yield batch, found

    def trace(
        self, text: str, target: str | int | None = None, method: str = "ig",
        *, n_steps: int = N_STEPS,
    ) -> TextTrace:  # fmt: skip
        """F and the nearest words on the way to a text: `captum_sig.path.trace` in strings.

        Arguments as in the call, for one text; a random baseline is drawn once.

        Raises:
            ValueError: as the call, or for a text without words.
        """
        kind = named(method)
        (batch,) = self._batches(checked_texts([text]), 1, True)
        (chosen,) = self._labels.indices(target, 1)
        (spans,), mask = batch.spans, batch.feature_mask[0]
        if not spans:
            raise ValueError(f"the text {text!r} has no word to move: trace another")
        forward, others = forward_of(self.model, batch), tuple(batch.others.values())
        if chosen is None:
            with model_lock, torch.no_grad():
                chosen = int(forward(batch.ids, *others)[0].argmax())
        found = trace(
            forward, self.layer, batch.ids, target=chosen, additional_forward_args=others,
            method=method, n_steps=n_steps, feature_mask=batch.feature_mask,
            **drawn_baseline(self.family, batch, [generator_of(text, self.seed)]),
            internal_batch_size=1 if takes_single_rows_only(self.model) else None,
        )  # fmt: skip
        word_of = {int(mask[span.position]): span.word for span in spans}
        in_words = torch.isin(mask, mask.new_tensor(list(word_of)))
        return TextTrace(
            text=text,
            target=self.labels[chosen],
            baseline=self.family.name,
            trace=found,
            words=tuple(
                word_of[int(mask[positions[0]])] if kind.one_by_one else text
                for positions in found.words
            ),
            positions=tuple(in_words.nonzero()[:, 0].tolist()),
            tokenizer=self.tokenizer,
        )

    @property
    def labels(self) -> list[str]:
        """Names of the model's classes, by index."""
        return self._labels.names

    def label_index(self, target: str | int) -> int:
        """Index of a label given by name, in any case, or by index; an int is always an index.

        Raises:
            ValueError: if there is no such label; it lists those there are.
        """
        return self._labels.index(target)

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Of each label, for rows of ids without padding, (R, L) → (R, C).

        Raises:
            ValueError: for a model that gives a quantity in place of probabilities.
        """
        with model_lock, torch.no_grad():
            if takes_single_rows_only(self.model):
                logits = torch.cat([self.model(input_ids=row).logits for row in ids.split(1)])
            else:
                logits = self.model(input_ids=ids).logits
        return self._labels.log_probabilities(logits.float())

    def sentences(
        self, texts: Sequence[str], targets: Sequence[int], *, truncation: bool = True
    ) -> list[Sentence]:
        """The texts as `captum_sig.faithfulness` takes them: a unit for each word of the result.

        Args:
            texts: B texts.
            targets: B indices of the labels to watch.
            truncation: as in the call.

        Raises:
            ValueError: if a text has no token at all, or is too long.
        """
        replacement = choose_token(self.tokenizer, "mask")[1]
        found: dict[int, Sentence] = {}
        for batch in self._batches(checked_texts(texts), 1, truncation):
            (number,), mask = batch.numbers, batch.feature_mask[0]
            units = torch.full_like(mask, -1)
            for unit, span in enumerate(batch.spans[0]):
                units[mask == mask[span.position]] = unit
            found[number] = Sentence(batch.ids[0], units, targets[number], replacement)
        return [found[number] for number in range(len(texts))]

    def _batches(
        self, texts: list[str], batch_size: int | None, truncation: bool, method: str | None = None
    ) -> Iterator[Batch]:
        device, max_tokens = input_device(self.model, self.layer), None
        if takes_single_rows_only(self.model):
            batch_size = 1
            warn("the model's config has no pad_token_id, so rows go one by one: set it if you can")
        elif batch_size is None and method == "sig" and device.type != "cpu":
            batch_size, max_tokens = GPU_BATCH
        elif batch_size is None:
            batch_size = BATCH_SIZE
        warn_of_dropout(self.model.modules())
        return self.encoder.batches(texts, batch_size, truncation, device, max_tokens=max_tokens)

    def _explain(
        self, batch: Batch, chosen: list[int | None], wanted: ScoringOptions
    ) -> list[WordAttribution]:
        if batch.ids.shape[1] == 0:  # not even a special token: nothing to ask the model
            labels = [None if target is None else self.labels[target] for target in chosen]
            name = self.family.name
            return [
                WordAttribution(text, None, None, label, wanted.name, name, 0.0, ())
                for text, label in zip(batch.texts, labels, strict=True)
            ]
        with model_lock, torch.no_grad():
            logits = self.model(input_ids=batch.ids, **batch.others).logits.detach()
        targets = [
            predicted if target is None else target
            for predicted, target in zip(logits.argmax(-1).tolist(), chosen, strict=True)
        ]
        of_batch = torch.tensor(targets, device=logits.device)
        generators = [generator_of(text, self.seed) for text in batch.texts]
        average = averaged(
            [
                score_batch(
                    self.model, self.layer, self.family, batch, of_batch, generators, wanted
                )
                for _ in range(self.n_draws)
            ]
        )
        logits = logits.cpu()  # all texts' at once: from a GPU each copy waits for it
        finite = torch.cat([logits, average.scores.values], 1).isfinite().all(1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise NotFiniteError("output", bad, "the unchanged input or a word of it")
        return [
            self._result(batch, number, wanted.name, targets[number], row, average)
            for number, row in enumerate(logits)
        ]

    def _result(
        self,
        batch: Batch,
        number: int,
        method: str,
        target: int,
        logits: Tensor,  # (C,)
        average: Average,
    ) -> WordAttribution:
        labels = self.labels
        probabilities = self._labels.probabilities(logits.float())
        label = labels[int(logits.argmax())]
        residual = average.scores.residual
        return WordAttribution(
            text=batch.texts[number],
            label=label,
            probability=probabilities.get(label),
            target=labels[target],
            method=method,
            baseline=self.family.name,
            max_abs_word_delta=average.scores.word_deltas[number],
            words=average.words(batch, number),
            probabilities=probabilities,
            residual=None if residual is None else float(residual[number]),
        )

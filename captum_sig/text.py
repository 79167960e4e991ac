"""Strings in, `WordAttribution` out: text classifiers of transformers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn

from captum_sig.encoding import Batch, Encoder, padded_to, token_limit
from captum_sig.from_captum import layer_problem
from captum_sig.function import HOOKED
from captum_sig.layers import warn_of_dropout, word_embedding
from captum_sig.moves import NotFiniteError
from captum_sig.notices import warn
from captum_sig.quadrature import rule
from captum_sig.result import WordAttribution, scored_words
from captum_sig.words import word_sums


class TextClassificationExplainer:
    """Explains the logit of a class, word by word.

    Args:
        model: a sequence classifier of transformers; it stays on its device and in its mode.
        tokenizer: its tokenizer.
        baseline: what a word is replaced by: "mask", "pad", "unk" or "eos".
        level: "word" moves a word's sub-tokens together, "token" each on its own.
        layer: the word embedding; None finds it through `model.get_input_embeddings()`.
        device: where to move the model; None leaves it where it is.

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
    ) -> None:
        """Find the word embedding and the baseline token."""
        model = getattr(model, "_orig_mod", model)  # a compiled model would not see the hooks
        if layer is None and getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{type(model).__name__} reads the text twice, in its encoder and its decoder, and "
                "no single layer moves a word in both; wanted an encoder or a decoder alone"
            )
        self.encoder = Encoder(
            tokenizer, level, baseline, token_limit(model), multiple=padded_to(model)
        )
        self.tokenizer = tokenizer
        self.model = model if device is None else model.to(device)
        self.layer = word_embedding(model) if layer is None else layer

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, **options: Any
    ) -> TextClassificationExplainer:
        """Load model and tokenizer from a folder or hub name; safetensors only, no remote code.

        Args:
            name_or_path: as in transformers.
            **options: keywords of the class.

        Raises:
            ValueError: if the checkpoint holds no trained classification head.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model, info = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, use_safetensors=True, output_loading_info=True
        )
        if info["missing_keys"]:
            raise ValueError(
                f"{name_or_path} has no weights for {', '.join(sorted(info['missing_keys']))}; "
                "wanted a model that was trained for sequence classification"
            )
        return cls(model.eval(), AutoTokenizer.from_pretrained(name_or_path), **options)

    def __call__(
        self,
        texts: str | Sequence[str],
        target: str | int | None = None,
        method: str = "sig",
        *,
        n_steps: int = 50,
        batch_size: int = 32,
        internal_batch_size: int | None = None,
        truncation: bool = True,
    ) -> Any:
        """Explain one text or several.

        Args:
            texts: a string, or a sequence of strings.
            target: the label to explain, by name or index; None takes each text's predicted one.
            method: "sig" (exact word scores) or "ig" (Captum's LayerIntegratedGradients, summed
                over features and sub-tokens).
            n_steps: steps of "ig".
            batch_size: most texts in a padded batch.
            internal_batch_size: most rows in a pass; None bounds their memory.
            truncation: cut texts beyond the model's limit, with a warning; False refuses them.

        Returns:
            a `WordAttribution`, or a list of them in the order of the texts.

        Raises:
            TypeError: if a text is not a string.
            ValueError: for an unknown target or method, or a text that is too long.
            FloatingPointError: if the model's output is not finite.
        """
        several = [texts] if isinstance(texts, str) else list(texts)
        for number, text in enumerate(several):
            if not isinstance(text, str):
                raise TypeError(f"text {number} is {type(text).__name__}; wanted a string")
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                raise ValueError(f"text {number} is not valid Unicode; decode it as UTF-8 first")
        if method not in METHODS:
            raise ValueError(f"method {method!r} is unknown: use one of {', '.join(METHODS)}")
        chosen = None if target is None else self.label_index(target)
        if getattr(self.model.config, "pad_token_id", 0) is None:  # it refuses batches, then
            batch_size = internal_batch_size = 1
            warn("the model's config has no pad_token_id, so rows go one by one: set it if you can")
        warn_of_dropout(self.model.modules())
        results: dict[int, WordAttribution] = {}
        device = next(itertools.chain(self.layer.parameters(), self.model.parameters())).device
        for batch in self.encoder.batches(several, batch_size, truncation, device):
            try:
                found = self._explain(batch, chosen, method, n_steps, internal_batch_size)
            except NotFiniteError as error:
                number = batch.numbers[error.example]
                raise NotFiniteError(error.what, number, error.where) from None
            results.update(zip(batch.numbers, found, strict=True))
        return results[0] if isinstance(texts, str) else [results[i] for i in range(len(several))]

    @property
    def labels(self) -> list[str]:
        """Names of the model's classes, by index."""
        names: dict[int, str] = self.model.config.id2label  # type: ignore[assignment, union-attr]
        labels = [str(names[index]) for index in sorted(names)]
        if len(set(labels)) < len(labels):  # equal names must not be taken for one label
            return [f"{label} ({index})" for index, label in enumerate(labels)]
        return labels

    def label_index(self, target: str | int) -> int:
        """Index of a label given by name, in any case, or by index; an int is always an index.

        Raises:
            ValueError: if there is no such label; it lists those there are.
        """
        labels = self.labels
        by_lower_case = [label.lower() for label in labels]
        if isinstance(target, str) and target in labels:
            return labels.index(target)
        if isinstance(target, str) and target.lower() in by_lower_case:
            return by_lower_case.index(target.lower())
        if str(target).isdecimal() and int(target) < len(labels):
            return int(target)
        known = ", ".join(f"{label} ({index})" for index, label in enumerate(labels))
        raise ValueError(f"target {target!r} is no label of this model: use one of {known}")

    def _explain(
        self, batch: Batch, target: int | None, method: str, n_steps: int, chunk: int | None
    ) -> list[WordAttribution]:
        if batch.ids.shape[1] == 0:  # not even a special token: nothing to ask the model
            label = None if target is None else self.labels[target]
            return [
                WordAttribution(text, None, None, label, method, self.encoder.baseline, 0.0, ())
                for text in batch.texts
            ]
        others = tuple(batch.others.values())

        def forward(ids: Tensor, *others: Tensor) -> Tensor:
            return self.model(input_ids=ids, **dict(zip(batch.others, others, strict=True))).logits

        with HOOKED, torch.no_grad():
            logits = forward(batch.ids, *others).detach()
        predicted = logits.argmax(-1)
        targets = predicted if target is None else torch.full_like(predicted, target)
        question = Question(forward, self.layer, batch, others, targets, logits, n_steps, chunk)
        if any(batch.spans):
            scores, deltas = METHODS[method](question)
        else:
            scores, deltas = torch.zeros(batch.ids.shape), [0.0] * len(batch.texts)
        finite = torch.cat([logits.to(scores.device), scores], 1).isfinite().all(1)
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise NotFiniteError("output", bad, "the unchanged input or a word of it")
        return [
            self._result(batch, number, method, int(targets[number]), row, scores[number], delta)
            for number, (row, delta) in enumerate(zip(logits, deltas, strict=True))
        ]

    def _result(
        self,
        batch: Batch,
        number: int,
        method: str,
        target: int,
        logits: Tensor,  # (C,)
        scores: Tensor,  # (L,)
        delta: float | None,
    ) -> WordAttribution:
        labels = self.labels
        probabilities = dict(zip(labels, self._probabilities(logits.float()), strict=False))
        label = labels[int(logits.argmax())]
        return WordAttribution(
            text=batch.texts[number],
            label=label,
            probability=probabilities.get(label),
            target=labels[target],
            method=method,
            baseline=self.encoder.baseline,
            max_abs_word_delta=delta,
            words=scored_words(batch.spans[number], scores.tolist()),
            probabilities=probabilities,
        )

    def _probabilities(self, logits: Tensor) -> list[float]:  # (C,)
        kind = getattr(self.model.config, "problem_type", None)
        if kind == "multi_label_classification":
            return logits.sigmoid().tolist()
        if kind == "regression" or len(logits) == 1:  # a quantity, no logit
            return []
        return logits.softmax(-1).tolist()


@dataclass(frozen=True)
class Question:
    """A batch, the model, and the output to explain: what a method needs to know."""

    forward: Callable[..., Tensor]
    layer: nn.Module
    batch: Batch
    others: tuple[Tensor, ...]
    targets: Tensor  # (B,)
    logits: Tensor  # (B, C), without any hook
    n_steps: int
    chunk: int | None


Scores = tuple[Tensor, Sequence[float | None]]  # (B, L) at every position; worst |word delta|


def _sig(question: Question) -> Scores:
    """Exact word scores; the delta is how far the hooked model is from the model itself."""
    batch = question.batch
    problem = layer_problem(
        question.forward, question.layer, None, batch.ids, batch.baseline_ids, None,
        question.targets, question.others, False, None, batch.feature_mask, None,
        question.chunk, False,
    )  # fmt: skip
    effects = problem.word_effects()
    hooked = problem.values(problem.moves.points)  # F(x) again: to compare with the model's own
    plain = question.logits.gather(1, question.targets[:, None])[:, 0].to(hooked.dtype)
    return problem.moves.spread(effects.mean)[0], (hooked - plain).abs().tolist()


def _ig(question: Question) -> Scores:
    """Captum's own method; completeness holds for the sentence only, so there is no word delta."""
    rule("gausslegendre", question.n_steps)  # refuses what Captum would trip over
    batch = question.batch
    attributions = LayerIntegratedGradients(question.forward, question.layer).attribute(
        batch.ids,
        baselines=batch.baseline_ids,
        target=question.targets,
        additional_forward_args=question.others,
        n_steps=question.n_steps,
        internal_batch_size=max(question.chunk or IG_ROWS, len(batch.ids)),
    )
    sums = word_sums(attributions.sum(-1).detach(), batch.feature_mask)
    return sums, [None] * len(batch.texts)


IG_ROWS = 64  # rows in a pass of Captum's IG, so that its memory stays bounded

METHODS: dict[str, Callable[[Question], Scores]] = {"sig": _sig, "ig": _ig}

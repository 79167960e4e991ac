"""Strings in, results out: text classifiers, regression and reward models of transformers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn

from captum_sig._names import Level, TaskName, suggestion
from captum_sig.attr.function import Read
from captum_sig.attr.problem import plain_tensors
from captum_sig.baselines.families import choose_token
from captum_sig.explainers.chosen_baselines import Names
from captum_sig.explainers.embeddings import WordEmbeddings, in_each
from captum_sig.explainers.explainer import CallOptions, Explainer, target_of_each
from captum_sig.explainers.game import Game
from captum_sig.explainers.matrix_results import Target as ResultTarget
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.models import check_own_module, classifier_logits, word_embedding
from captum_sig.explainers.own_heads import MULTI_LABEL, OwnHead, checked_labels, with_extras
from captum_sig.explainers.readout import Readout, Result, TextTargets
from captum_sig.explainers.results import WordAttribution
from captum_sig.explainers.windows import WindowLogits, windowed
from captum_sig.path import TextTrace, path_named, trace
from captum_sig.words.chat import Message, with_chats_rendered
from captum_sig.words.encoding import Batch, Sentence
from captum_sig.words.inputs import TextInput, checked_inputs, checked_texts, in_python

if TYPE_CHECKING:
    from typing_extensions import Unpack

Label = str | int
Target = Label | Sequence[Any] | None
Several = Literal["all"] | tuple[Label, ...] | list[Label]
Text = str | tuple[str, str]
Chat = list[Message]
ALL = "all"  # labels


class ClassificationOptions(CallOptions, total=False):
    """The keywords of a call: see `TextClassificationExplainer.in_batches`."""

    extra_inputs: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Labels:
    """Which labels are explained of a text."""

    indices: tuple[int, ...] | None = None  # None chooses them by the model's prediction
    above: float | None = None  # a probability; None is the label predicted
    is_single: bool = True


class TextClassificationExplainer(Explainer):
    """Explains the logit of a class, or the value that a model predicts, word by word.

    Args:
        model: a sequence classifier of transformers; it stays on its device and in its mode. With
            `forward`, any module.
        tokenizer: its tokenizer.
        forward: for a module of your own: a function that takes the encoding's tensors by name
            (`input_ids`, `attention_mask`, …), runs the module, and returns logits (R, C), or (R,)
            for one value. It must not let padding, 0 in the mask, change them. What the model reads
            at most is the tokenizer's `model_max_length`.
        labels: the labels' names, in the order of the logits; None takes those of the model's
            config, and with `forward` is for one value.
        multi_label: with `forward`: whether each label has a probability of its own, the sigmoid of
            its logit. A model of transformers has it in its config (`problem_type`).
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
        stride: read texts beyond the model's limit in windows that overlap by so many tokens, and
            drop none: the windows that tokenizers of transformers cut with the same `stride`. F is
            the windows' combined output. A row is evaluated only in the windows that its changed
            words are in. Texts that fit are as without; pairs must fit. None cuts texts at the
            limit. Other explainers do not have it.
        window_logits: how the logits of a text's N windows become the text's: their "mean" (None)
            or "max" for each label, the two by which Sun et al. (2019) pool windows' features; or a
            function (N, C) → (C,) that does what your model's users do. It is called for each row,
            with the windows in the text's order, be it one; methods of gradients go through it.

    Raises:
        TypeError: if the model is not a sequence classifier, or the tokenizer none.
        ValueError: for an unknown baseline or level, a baseline that the tokenizer lacks, no
            baseline or the same twice; for a stride that leaves no room in a window, or
            `window_logits` without stride.

    >>> from captum_sig.demo_model import PATH
    >>> explainer = TextClassificationExplainer.from_pretrained(PATH)
    >>> explainer("The jokes are old, yet the film is charming.").label
    'POSITIVE'
    >>> explainer("Not good!", target="all")["negative"].scores == explainer("Not good!").scores
    True
    """

    TASK: ClassVar[TaskName] = "text-classification"
    MODELS = "sequence classifiers of transformers"
    AUTO_CLASS = "AutoModelForSequenceClassification"
    TRAINED = "for sequence classification"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        forward: Callable[..., Tensor] | None = None,
        labels: Sequence[str] | None = None,
        multi_label: bool = False,
        baseline: Names = "mask",
        level: Level = "word",
        layer: nn.Module | None = None,
        device: torch.device | str | None = None,
        masked_lm: Any = None,
        n_draws: int = 5,
        seed: int = 0,
        stride: int | None = None,
        window_logits: WindowLogits | None = None,
    ) -> None:
        if stride is None and window_logits is not None:
            raise ValueError(
                "window_logits combines the windows of long texts: pass stride, the number of "
                "tokens by which they overlap, too"
            )
        if labels is not None:
            labels = checked_labels(labels)
        if forward is not None:
            check_own_module(model, type(self).__name__)
            layer = word_embedding(model) if layer is None else layer
            model = OwnHead(model, forward, labels, multi_label)
        elif multi_label:
            raise ValueError(
                "multi_label is for modules with forward: set model.config.problem_type to "
                "'multi_label_classification'"
            )
        super().__init__(
            model, tokenizer, baseline=baseline, level=level, layer=layer, device=device,
            masked_lm=masked_lm, n_draws=n_draws, seed=seed,
        )  # fmt: skip
        self.labels = label_names(self.model.config)
        if labels is not None:
            if len(labels) != len(self.labels):
                raise ValueError(
                    f"labels has {len(labels)} names; the model has {len(self.labels)} labels"
                )
            self.labels = list(labels)
        self._windowed = None
        if stride is not None:
            self._windowed = windowed(
                self.model, tokenizer, self.embeddings, self.encoder, stride=stride,
                window_logits=window_logits,
            )  # fmt: skip
            self.embeddings = WordEmbeddings((self._windowed.embedding,), (None,))
            self.encoder.is_windowed = True

    @overload  # a pair is a sequence, and a string one of strings
    def __call__(  # type: ignore[overload-overlap]
        self,
        texts: Text,
        target: Several,
        method: str = ...,
        **options: Unpack[ClassificationOptions],
    ) -> TargetsAttribution: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, texts: Text | Chat, target: Label | None = ..., method: str = ...,
        **options: Unpack[ClassificationOptions],
    ) -> WordAttribution: ...  # fmt: skip
    @overload
    def __call__(
        self, texts: Sequence[Text | Chat], target: Target = ..., method: str = ...,
        **options: Unpack[ClassificationOptions],
    ) -> list[Any]: ...  # fmt: skip
    def __call__(
        self, texts: Any, target: Target = None, method: str = "sig", **options: Any
    ) -> Any:
        """Explain one text or several.

        Args:
            texts: a string, or a tuple of the two texts of a pair, or a chat, which is a list of
                messages with "role" and "content", complete as reward models read it; or a list of
                these. Only the words of a chat's messages move; the result's text is the whole chat
                as the model reads it.
            target: the label to explain, by name or index; None explains each text's predicted
                label. Several labels give a matrix: a tuple of them, "all", or ">0.5" for every
                label whose probability is above that. For a list of texts, a list has an entry for
                each text, each of these kinds.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
            **options: see `in_batches`.

        Returns:
            a `WordAttribution` for one label, a `TargetsAttribution` for several, or a list of them
            in the order of the texts. All labels take the same rows as one.

        Raises:
            TypeError: if the texts are neither a string nor a list of strings.
            ValueError: for an unknown target, method or contexts, an interaction of one word, or a
                text that is too long; or for extra inputs that do not fit.
            FloatingPointError: if the model's output is not finite.
        """
        return super().__call__(texts, target, method, **options)

    def in_batches(
        self,
        inputs: Any,
        target: Any = None,
        method: str = "sig",
        *,
        extra_inputs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[tuple[Batch, list[Result]]]:
        """Explain texts, as `Explainer.in_batches`.

        Args:
            inputs: as in the call.
            target: as in the call.
            method: as in the call.
            extra_inputs: tensors (N, …) by name, with a row for each of N texts, which the model
                (or `forward`) takes besides the encoding; they do not move.
            **options: see `Explainer.in_batches`.
        """
        if extra_inputs is not None:
            texts, is_single = self._inputs(inputs)
            texts = with_extras(texts, extra_inputs, self.model, self.tokenizer)
            inputs = texts[0] if is_single else texts
        return super().in_batches(inputs, target, method, **options)

    def _inputs(self, inputs: Any) -> tuple[list[TextInput], bool]:
        return checked_inputs(with_chats_rendered(self.tokenizer, inputs))

    def _targets(self, target: Any, inputs: Sequence[TextInput], is_single: bool) -> list[_Labels]:
        return [self._labels(one) for one in target_of_each(target, len(inputs), is_single)]

    def _labels(self, target: Any) -> _Labels:
        """Read what the caller wants explained of a text."""
        target = in_python(target)
        if target is None:
            return _Labels()
        if isinstance(target, (list, tuple)):
            if not target:
                raise ValueError("target is empty: name at least one label, or leave it out")
            alone = [one for one in target if isinstance(one, str) and self._names_several(one)]
            if alone:
                raise ValueError(f"target {alone[0]!r} stands alone: pass it by itself, or labels")
            indices = dict.fromkeys(self.label_index(label) for label in target)
            return _Labels(tuple(indices), is_single=False)
        if not isinstance(target, (str, int)):
            raise TypeError(f"target must be a label, or a tuple or list of labels, got {target!r}")
        if isinstance(target, str) and self._names_several(target):
            if target.lower() == ALL:
                return _Labels(tuple(range(len(self.labels))), is_single=False)
            return _Labels(above=_threshold(target), is_single=False)
        return _Labels((self.label_index(target),))

    def _names_several(self, target: str) -> bool:
        """Whether a target is not a label but "all" or ">0.5"."""
        is_label = target.lower() in map(str.lower, self.labels)
        return not is_label and (target.lower() == ALL or target.startswith(">"))

    @property
    def _evaluated(self) -> nn.Module:
        return self.model if self._windowed is None else self._windowed.remembering()

    def _as_tensor(self, output: Any) -> Tensor:
        return classifier_logits(self.model, output)

    def _readout(self, batch: Batch, output: Tensor, targets: Sequence[_Labels]) -> Readout:
        logits = output.cpu().float()
        try:
            probabilities = log_probabilities(self.model.config, logits).exp().tolist()
        except ValueError:  # a quantity
            probabilities = [[]] * len(logits)
        is_value = not any(probabilities)
        are_values = is_value and logits.shape[1] > 1  # none of which is predicted
        indices, of_texts = [], []
        for row, values, labels in zip(logits, probabilities, targets, strict=True):
            predicted = int(row.argmax())
            chosen = labels.indices
            if labels.above is not None:
                if not values:
                    raise ValueError(
                        f"target '>{labels.above:g}' chooses labels by their probability, and the "
                        "model predicts a value: leave target out"
                    )
                chosen = tuple(n for n, value in enumerate(values) if value > labels.above)
            elif chosen is None:
                chosen = tuple(range(len(row))) if are_values else (predicted,)
            of_label = dict(zip(self.labels, values, strict=False))
            names = [self.labels[index] for index in chosen]
            indices.append(chosen)
            of_texts.append(
                TextTargets(
                    targets=tuple(ResultTarget(n, probability=of_label.get(n)) for n in names),
                    is_single=labels.is_single and len(chosen) == 1,
                    label=None if are_values else self.labels[predicted],
                    probability=of_label.get(self.labels[predicted]),
                    probabilities=of_label,
                )
            )
        return Readout(of_texts, read_labels(indices), "value" if is_value else "logit")

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
        self.require_one_baseline()
        if len(self.embeddings.layers) > 1:
            raise ValueError(
                f"{type(self.model).__name__} reads a text twice, in its encoder and its decoder, "
                "and a trace follows words in one embedding: pass layer, the encoder's, to the "
                "explainer"
            )
        batch, index = self._one_text(text, target)
        (spans,), mask = batch.spans, batch.feature_mask[0]
        question = self._question(batch, read_labels([[index]]), 1)
        traced = trace(
            question.forward, self.layer, batch.ids, target=index,
            additional_forward_args=tuple(batch.further_inputs.values()),
            method=method, n_steps=n_steps, feature_mask=batch.feature_mask,
            **question.baseline(question.new_generators()),
            internal_batch_size=1 if self._takes_single_rows else None,
        )  # fmt: skip
        word_of = {int(mask[span.position]): span.word for span in spans}
        in_words = torch.isin(mask, mask.new_tensor(list(word_of)))
        return TextTrace(
            text=text,
            target=self.labels[index],
            unit="value" if predicts_values(self.model.config, len(self.labels)) else "logit",
            baseline=self.baseline,
            trace=traced,
            words=tuple(
                word_of[int(mask[positions[0]])] if kind.one_by_one else text
                for positions in traced.words
            ),
            positions=tuple(in_words.nonzero()[:, 0].tolist()),
            tokenizer=self.tokenizer,
        )

    @plain_tensors()
    def game(
        self,
        text: str,
        target: str | int | None = None,
        *,
        level: Level | None = None,
        units: Any = None,
    ) -> Game:
        """Return the values of a text with any of its words, for `shapiq` and `shap`: see `Game`.

        Arguments as in the call, for one text; a random baseline is drawn once, by the seed.

        Raises:
            ValueError: as the call, or for a text without words.

        >>> from captum_sig.demo_model import PATH
        >>> game = TextClassificationExplainer.from_pretrained(PATH).game("Not good!")
        >>> game.words, game([[True, True, True], [False, True, True]]).round(1).tolist()
        (['Not', 'good', '!'], [0.0, -2.4])
        """
        self.require_one_baseline()
        batch, index = self._one_text(text, target, level, units)
        question = self._question(batch, read_labels([[index]]), 1)
        problem = question.problem(
            question.new_generators(), max_rows=1 if self._takes_single_rows else None, column=0
        )
        return Game.of(batch, self.labels[index], problem)

    def _one_text(
        self,
        text: str,
        target: str | int | None,
        level: Level | None = None,
        units: Any = None,
    ) -> tuple[Batch, int]:
        """Encode a text that has words, and return the index of its target or predicted label."""
        if not isinstance(text, str):
            raise TypeError(f"wanted one text, not a pair or a chat, got {type(text).__name__}")
        (text,) = checked_texts([text])
        texts = self._with_units([TextInput(text)], units, True, level)
        (batch,) = self._batches(texts, 1, True)
        index = None if target is None else self.label_index(target)
        if not batch.spans[0]:
            raise ValueError(f"the text {text!r} has no word to move: pass another")
        return batch, int(self._batch_output(batch)[0].argmax()) if index is None else index

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

    def log_probabilities(
        self,
        ids: Tensor,
        replaced: Tensor | None = None,
        inputs: Mapping[str, Tensor] | None = None,
        scale: Callable[[slice, int], Tensor] | None = None,
    ) -> Tensor:
        """Compute each label's log-probability for rows of ids without padding, (R, L) → (R, C).

        Labels that do not exclude each other have the logarithm of their sigmoid.

        Args:
            ids: what the model receives, (R, L).
            replaced: ids whose embeddings take the place of theirs, (R, L), while positions, masks
                and pooling stay those of `ids`: where the explainer moves words.
            inputs: what the model receives besides, by name, (R, L) each, such as `token_type_ids`.
            scale: factors of what the word embedding returns for a slice of the rows, given its
                width D: (r, L, D), where the explainer moves words.

        Raises:
            ValueError: if the model predicts a quantity in place of probabilities.
        """
        size = 1 if self._takes_single_rows else len(ids)
        others = dict(inputs or {})
        logits = []
        with torch.no_grad():
            for start in range(0, len(ids), size):
                part = slice(start, start + size)
                logits.append(
                    self._logits(
                        ids[part],
                        None if replaced is None else replaced[part],
                        {name: tensor[part] for name, tensor in others.items()},
                        None if scale is None else functools.partial(scale, part),
                    )
                )
        return log_probabilities(self.model.config, torch.cat(logits).float())

    def _logits(
        self,
        ids: Tensor,
        replaced: Tensor | None,
        others: Mapping[str, Tensor],
        scale: Callable[[int], Tensor] | None,
    ) -> Tensor:
        """Evaluate rows of ids, (R, L), in one pass; see `log_probabilities`."""
        model = self._evaluated

        def forward(ids: Tensor) -> Tensor:  # of all rows, or the first
            named = {name: tensor[: len(ids)] for name, tensor in others.items()}
            return self._as_tensor(model(input_ids=ids, **named))

        if replaced is None and scale is None:
            return forward(ids)
        first = self.embeddings.capture(forward, ids[:1])
        shown = ids if replaced is None else replaced
        rows = self.embeddings.embed(forward, first, ids[:1], shown)
        if scale is not None:
            factors = [scale(x.shape[-1]).to(x) for x in rows]
            shifts = self.embeddings.shifts(first, ids[:1], model)
            ones = [torch.ones_like(x[:1]) for x in rows]
            rows = tuple(x * f for x, f in zip(rows, in_each(factors, ones, shifts), strict=True))
        with self.embeddings.patched(rows):
            return forward(ids)

    def sentences(
        self, texts: Sequence[Text], targets: Sequence[int], *, truncation: bool = True
    ) -> list[Sentence]:
        """Encode texts as `captum_sig.faithfulness` takes them: a unit for each word of the result.

        Args:
            texts: B texts, or tuples of the two texts of a pair.
            targets: B indices of the labels to watch.
            truncation: as in the call.

        Raises:
            ValueError: if a text has no token at all, or is too long.
        """
        replacement = choose_token(self.tokenizer, "mask")[1]
        sentences: dict[int, Sentence] = {}
        inputs, _ = checked_inputs(texts)
        for batch in self._batches(inputs, 1, truncation):
            (number,), mask = batch.numbers, batch.feature_mask[0]
            units = torch.full_like(mask, -1)
            for unit, span in enumerate(batch.spans[0]):
                units[mask == mask[span.position]] = unit
            others = {name: tensor[0] for name, tensor in batch.others.items()}
            sentences[number] = Sentence(batch.ids[0], units, targets[number], replacement, others)
        return [sentences[number] for number in range(len(inputs))]

    @property
    def is_multi_label(self) -> bool:
        """Whether the model's labels do not exclude each other."""
        return getattr(self.model.config, "problem_type", None) == MULTI_LABEL


def _threshold(target: str) -> float:
    """Read the probability of a target such as ">0.5"."""
    try:
        above = float(target[1:])
    except ValueError:
        above = -1.0
    if not 0 <= above < 1:
        raise ValueError(f"target {target!r} must be a probability after '>', such as '>0.5'")
    return above


def read_labels(indices: Sequence[Sequence[int]]) -> Read:
    """Return what reads each text's labels from logits; a text with fewer repeats its first."""
    n_values = max(map(len, indices))
    padded = [[*chosen, *[0] * (n_values - len(chosen))] for chosen in indices]
    columns = torch.tensor(padded, dtype=torch.long).view(len(indices), n_values)

    def read(logits: Tensor, example: Tensor) -> Tensor:
        return logits.gather(1, columns.to(logits.device)[example])

    return read


def label_names(config: Any) -> list[str]:
    """Return the labels of a classifier's config by index; equal names get their index appended."""
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    if len(set(names)) < len(names):
        return [f"{name} ({index})" for index, name in enumerate(names)]
    return names


def predicts_values(config: Any, n_outputs: int) -> bool:
    """Whether a classifier predicts quantities, not probabilities of labels."""
    kind = getattr(config, "problem_type", None)
    return kind == "regression" or (n_outputs == 1 and kind != MULTI_LABEL)


def log_probabilities(config: Any, logits: Tensor) -> Tensor:
    """Turn a classifier's logits into log-probabilities, (…, C) → (…, C).

    Raises:
        ValueError: if the model predicts a quantity in place of probabilities.
    """
    kind = getattr(config, "problem_type", None)
    if kind == MULTI_LABEL:
        return nn.functional.logsigmoid(logits)
    if predicts_values(config, logits.shape[-1]):
        raise ValueError(
            "the model predicts a quantity, not probabilities of labels: wanted a classifier"
        )
    return logits.log_softmax(-1)

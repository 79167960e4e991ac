"""Questions and contexts in, results out: models that find an answer in a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, overload

import torch
from torch import Tensor

from captum_sig._names import TaskName
from captum_sig.attr.function import Read
from captum_sig.explainers.answers import Answer, Context
from captum_sig.explainers.explainer import CallOptions, Explainer, target_of_each
from captum_sig.explainers.matrix_results import Target, TargetsAttribution
from captum_sig.explainers.readout import Readout, TextTargets
from captum_sig.words.encoding import Batch, Truncation
from captum_sig.words.inputs import TextInput, check_text, checked_inputs, in_python, is_list

if TYPE_CHECKING:
    from typing_extensions import Unpack

Asked = tuple[str, str] | Mapping[str, str]
AnswerTarget = str | tuple[int, int] | None
SIDES = ("question", "context")


class QuestionAnsweringExplainer(Explainer):
    """Explains where a model finds the answer to a question in a context, word by word.

    The rows are "start", the start logit at the answer's first token; "end", the end logit at its
    last; and "start + end", their sum. All three take the same rows of the model. The question is
    read first, and never cut.

    Arguments and errors are as in `Explainer`; the model is one that transformers calls
    `…ForQuestionAnswering`.
    """

    TASK: ClassVar[TaskName] = "question-answering"
    MODELS = "models of transformers that find an answer in a context"
    AUTO_CLASS = "AutoModelForQuestionAnswering"
    TRAINED = "to answer questions about a context"
    PAIR_TRUNCATION: ClassVar[Truncation] = "only_second"

    @overload  # a pair is a sequence, too
    def __call__(
        self, inputs: Asked, target: AnswerTarget = ..., method: str = ...,
        **options: Unpack[CallOptions],
    ) -> TargetsAttribution: ...  # fmt: skip
    @overload
    def __call__(
        self, inputs: Sequence[Asked], target: AnswerTarget | Sequence[AnswerTarget] = ...,
        method: str = ..., **options: Unpack[CallOptions],
    ) -> list[TargetsAttribution]: ...  # fmt: skip
    def __call__(
        self, inputs: Any, target: Any = None, method: str = "sig", **options: Unpack[CallOptions]
    ) -> Any:
        """Explain the answer to one question or several.

        Args:
            inputs: a tuple (question, context), or a dict of both; or a list of these.
            target: the answer to explain: its text, which is looked for in the context from the
                beginning, or its characters in the context, (start, end). None explains the answer
                that the model finds, as transformers' pipeline: the most probable span of at most
                15 tokens. For a list of inputs, a list has an entry for each.
            method: a name in `METHODS` of `captum_sig.explainers.methods`; "sig" gives exact word
                scores.
            **options: see `Explainer.in_batches`.

        Returns:
            a `TargetsAttribution` with the rows "start", "end" and "start + end", or a list of
            them. All have the answer's characters in the context, and as `probability` the model's
            for this start, this end, and both, among the context's tokens. `label` is the answer
            that the model finds, and `probability` of the result its score in the pipeline.

        Raises:
            TypeError: if the inputs are not pairs of strings.
            ValueError: if a question or context is empty, the answer is not in the context, or not
                in what the model reads of it, or a question is too long; and as in
                `Explainer.in_batches`.
            FloatingPointError: if the model's output is not finite.
        """
        return super().__call__(inputs, target, method, **options)

    def _inputs(self, inputs: Any) -> tuple[list[TextInput], bool]:
        inputs = in_python(inputs)
        is_single = isinstance(inputs, (str, tuple, Mapping))
        if not is_single and not is_list(inputs):
            raise TypeError(
                "a question comes with its context, as (question, context) or a list of these, got "
                f"{type(inputs).__name__}"
            )
        several = [inputs] if is_single else inputs
        return checked_inputs([_pair(one, n) for n, one in enumerate(several)])[0], is_single

    def _targets(self, target: Any, inputs: Sequence[TextInput], is_single: bool) -> list[Any]:
        of_each = target_of_each(target, len(inputs), is_single)
        return [_characters(*of_one) for of_one in zip(of_each, inputs, strict=True)]

    def _as_tensor(self, output: Any) -> Tensor:
        try:
            return torch.stack([output.start_logits, output.end_logits], -1)
        except AttributeError:
            raise TypeError(
                f"{type(self.model).__name__} returns no start and end logits; wanted a model that "
                "finds an answer in a context, such as BertForQuestionAnswering"
            ) from None

    def _readout(self, batch: Batch, output: Tensor, targets: Sequence[Any]) -> Readout:
        answers, of_texts = [], []
        for number, (logits, characters) in enumerate(zip(output.cpu(), targets, strict=True)):
            context = Context.of(batch, number, self.tokenizer.cls_token_id)
            if not context.positions:
                raise ValueError(
                    f"the context of input {batch.numbers[number]} has no word that the model "
                    "reads: pass another"
                )
            found = context.found(logits)
            answer = found if characters is None else context.given(characters, logits)
            answers.append(answer)
            of_texts.append(
                TextTargets(
                    targets=_rows(answer), is_single=False, label=found.text,
                    probability=found.score, probabilities={found.text: found.score},
                )
            )  # fmt: skip
        return Readout(of_texts, read_ends(answers))


def _rows(answer: Answer) -> tuple[Target, ...]:
    probabilities = {
        "start": answer.p_start, "end": answer.p_end, "start + end": answer.p_start * answer.p_end
    }  # fmt: skip
    return tuple(
        Target(name, probability=value, start=answer.start, end=answer.end)
        for name, value in probabilities.items()
    )


def read_ends(answers: Sequence[Answer]) -> Read:
    """Return what reads each answer's start and end, and their sum: (R, L, 2) → (R, 3)."""
    places = torch.tensor([(answer.first, answer.last) for answer in answers])  # (B, 2)

    def read(logits: Tensor, example: Tensor) -> Tensor:
        row = torch.arange(len(logits), device=logits.device)
        first, last = places.to(logits.device)[example].T
        start, end = logits[row, first, 0], logits[row, last, 1]
        return torch.stack([start, end, start + end], 1)

    return read


def _pair(value: Any, number: int) -> tuple[str, str]:
    """Check one question and its context."""
    value = in_python(value)
    if isinstance(value, Mapping) and set(value) == set(SIDES):
        value = value["question"], value["context"]
    if not isinstance(value, tuple) or len(value) != 2:
        got = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
        raise TypeError(
            f"input {number} is {got}; wanted a tuple, (question, context), or a dict with "
            "'question' and 'context'"
        )
    for side, text in zip(SIDES, value, strict=True):
        check_text(text, f"the {side} of input {number}")
        if not text.strip():
            raise ValueError(f"the {side} of input {number} is empty: pass a question and a text")
    return value


def _characters(target: Any, one: TextInput) -> tuple[int, int] | None:
    """Find an answer in its context: the first character, and that after the last."""
    context = one.pair or ""
    target = in_python(target)
    if target is None:
        return None
    if isinstance(target, str):
        start = context.find(target)
        if start < 0 or not target.strip():
            raise ValueError(
                f"the answer {target!r} is not in the context: copy it from there, or pass its "
                "characters, (start, end)"
            )
        return start, start + len(target)
    is_span = isinstance(target, Sequence) and len(target) == 2
    if not is_span or any(not isinstance(n, int) or isinstance(n, bool) for n in target):
        raise TypeError(
            f"target must be an answer's text, or its characters in the context, (start, end), got "
            f"{target!r}"
        )
    start, end = target
    if not 0 <= start < end <= len(context):
        raise ValueError(
            f"target ({start}, {end}) is outside the context, which has characters 0 to "
            f"{len(context)}: pass (start, end) with start < end"
        )
    return start, end

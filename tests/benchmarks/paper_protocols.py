"""The protocol of the SIG paper's table as a configuration, and what each of its switches does.

Read in the experiments' code of time_interpret (`experiments/nlp`, which extends DIG's), where the
paper is silent. A text is explained, and measured, through a function of its word embeddings:

- *output*: the largest logit at each point of the path, whichever class it is of. The metrics watch
  the class that is predicted for the text.
- *embedded*: positions and token types are added to the word embeddings and normalised, and what
  results is passed as `inputs_embeds`, so that the model adds and normalises once more. Positions
  of the first time count from 0, for RoBERTa too. (DistilBERT did so only from transformers 4.27
  on.) Baseline and text have the same positions, so that only words are interpolated.
- *baseline*, *deletion*: one token for both, by the option `--ref-token`: the CSV file holds a run
  with pad and one with mask. Log-odds replace the word embedding; the other two metrics remove.
- *counted*: [CLS] and [SEP] count among the tokens of which the top 20 % are taken, and are taken
  themselves if fewer have a positive score. Sufficiency keeps them only then.
- *rounding*: 20 % are rounded down, to none in texts of fewer than five tokens.
- *n_steps*: 50 nodes of Gauss-Legendre.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from captum_sig import TextClassificationExplainer
from captum_sig._names import AblationName, MetricName
from captum_sig.faithfulness import METRICS, Sentence
from captum_sig.faithfulness.examples import Example
from captum_sig.faithfulness.metrics import ROUNDING as TOLERANCE

FRACTION = 0.2  # of the tokens
METRIC_NAMES: tuple[MetricName, ...] = ("log_odds", "comprehensiveness", "sufficiency")
LABELS = ["NEGATIVE", "POSITIVE"]

Logits = Callable[..., Tensor]  # input_ids, attention_mask, (R, L) each → (R, C)
Predict = Callable[..., Tensor]  # as the metrics take it


@dataclass(frozen=True)
class Attribution:
    """What is explained: a key of `OUTPUTS`, of `EMBEDDED`, and a baseline of the package."""

    baseline: str
    output: str
    embedded: str
    n_steps: int = 50  # of IG

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.baseline}-{self.output}-{self.embedded}-{self.n_steps}"


@dataclass(frozen=True)
class Protocol:
    """What is explained, and how it is measured: keys of `COUNTED`, `ROUNDING` and `DELETIONS`."""

    explained: Attribution
    deletion: str
    counted: str
    rounding: str

    def explaining(self, **changes: str | int) -> "Protocol":
        """The same with something else explained."""
        return replace(self, explained=replace(self.explained, **changes))  # type: ignore[arg-type]


PAPER_PAD = Protocol(Attribution("pad", "max_logit", "twice"), "pad", "all tokens", "down")
PAPER_MASK = replace(PAPER_PAD.explaining(baseline="mask"), deletion="mask")
OURS = Protocol(Attribution("mask", "class_logit", "once"), "mask", "words", "at least one")
OURS_PAD = OURS.explaining(baseline="pad")

SWITCHES: dict[str, Protocol] = {
    "paper, pad": PAPER_PAD,
    "paper, pad; baseline and deletion mask": PAPER_MASK,
    "paper, pad; baseline mask": PAPER_PAD.explaining(baseline="mask"),
    "paper, pad; baseline unk": PAPER_PAD.explaining(baseline="unk"),
    "paper, pad; baseline zero": PAPER_PAD.explaining(baseline="zero"),
    "paper, pad; deletion mask": replace(PAPER_PAD, deletion="mask"),
    "paper, pad; deletion by removal": replace(PAPER_PAD, deletion="removal"),
    "paper, pad; the predicted class": PAPER_PAD.explaining(output="class_logit"),
    "paper, pad; largest probability": PAPER_PAD.explaining(output="max_probability"),
    "paper, pad; the class's probability": PAPER_PAD.explaining(output="class_probability"),
    "paper, pad; embedded once": PAPER_PAD.explaining(embedded="once"),
    "paper, pad; words alone counted": replace(PAPER_PAD, counted="words"),
    "paper, pad; at least one": replace(PAPER_PAD, rounding="at least one"),
    "paper, pad; rounded up": replace(PAPER_PAD, rounding="up"),
    "paper, pad; 20 steps": PAPER_PAD.explaining(n_steps=20),
    "paper, mask; the predicted class": PAPER_MASK.explaining(output="class_logit"),
    "paper, mask; embedded once": PAPER_MASK.explaining(embedded="once"),
    "paper, mask; words alone counted": replace(PAPER_MASK, counted="words"),
    "ours, mask": OURS,
    "ours, mask; largest logit": OURS.explaining(output="max_logit"),
    "ours, mask; embedded twice": OURS.explaining(embedded="twice"),
    "ours, mask; all tokens counted": replace(OURS, counted="all tokens"),
    "ours, pad": OURS_PAD,
    "ours, pad; largest logit": OURS_PAD.explaining(output="max_logit"),
    "ours, pad; embedded twice": OURS_PAD.explaining(embedded="twice"),
    "ours, pad; all tokens counted": replace(OURS_PAD, counted="all tokens"),
    "ours, pad; deletion pad": replace(OURS_PAD, deletion="pad"),
}


STARTS = {"paper, mask": "paper, pad; baseline and deletion mask"}  # where a start is a switch too


def base_of(switch: str) -> str:
    """The protocol from which a switch starts, itself if it is none."""
    start = switch.partition("; ")[0]
    return STARTS.get(start, start)


@dataclass(frozen=True)
class Output:
    """What is explained of a text: one of the values that are made of its logits."""

    values: Callable[[Tensor], Tensor]  # (R, C) → (R, V)
    labels: Sequence[str]  # V names
    column: Callable[[int], int]  # the predicted class → which of the values


OUTPUTS: dict[str, Output] = {
    "class_logit": Output(lambda logits: logits, LABELS, lambda predicted: predicted),
    "class_probability": Output(
        lambda logits: logits.softmax(-1), LABELS, lambda predicted: predicted
    ),
    "max_logit": Output(lambda logits: logits.amax(-1, keepdim=True), ["largest"], lambda _: 0),
    "max_probability": Output(
        lambda logits: logits.softmax(-1).amax(-1, keepdim=True), ["largest"], lambda _: 0
    ),
}


def embedded_once(model: PreTrainedModel) -> Logits:
    """The model as it was trained."""

    def logits(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return model(input_ids=input_ids, attention_mask=attention_mask).logits

    return logits


def embedded_twice(model: PreTrainedModel) -> Logits:
    """The model on the output of its own embeddings, to which it applies them once more."""
    embeddings = model.base_model.embeddings

    def logits(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        first = embeddings(input_ids, position_ids=positions)
        return model(inputs_embeds=first, attention_mask=attention_mask).logits

    return logits


EMBEDDED: dict[str, Callable[[PreTrainedModel], Logits]] = {
    "once": embedded_once,
    "twice": embedded_twice,
}


def explainer_of(
    explained: Attribution, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> TextClassificationExplainer:
    """The package's explainer of this output, token by token."""
    logits, output = EMBEDDED[explained.embedded](model), OUTPUTS[explained.output]

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return output.values(logits(input_ids, attention_mask))

    return TextClassificationExplainer(
        model, tokenizer, forward=forward, labels=output.labels, baseline=explained.baseline,
        level="token",
    )  # fmt: skip


def scores_of(
    explainer: TextClassificationExplainer,
    explained: Attribution,
    examples: Sequence[Example],
    method: str,
) -> list[list[float]]:
    """A score for each token of each text that is not special."""
    column = OUTPUTS[explained.output].column
    targets = [column(example.sentence.target) for example in examples]
    texts = [example.text for example in examples]
    return [one.scores for one in explainer(texts, targets, method, n_steps=explained.n_steps)]


Counted = tuple[Sentence, list[float]]


def words_counted(sentence: Sentence, scores: Sequence[float]) -> Counted:
    """As the package: special tokens stay."""
    return sentence, list(scores)


def all_counted(sentence: Sentence, scores: Sequence[float]) -> Counted:
    """Each token is a unit; special ones, which do not move, have the score 0."""
    every = torch.zeros(len(sentence.ids), dtype=torch.float64)
    at = sentence.units >= 0
    every[at] = torch.tensor(scores, dtype=torch.float64)[sentence.units[at]]
    return replace(sentence, units=torch.arange(len(sentence.ids))), every.tolist()


COUNTED: dict[str, Callable[[Sentence, Sequence[float]], Counted]] = {
    "words": words_counted,
    "all tokens": all_counted,
}

# From the number of units to how many of them are the top.
ROUNDING: dict[str, Callable[[int], int]] = {
    "down": lambda n: math.floor(FRACTION * n + TOLERANCE),
    "at least one": lambda n: max(1, math.floor(FRACTION * n + TOLERANCE)),
    "up": lambda n: math.ceil(FRACTION * n - TOLERANCE),
}

# The token that replaces others, and how log-odds delete: None is by replacement.
DELETIONS: dict[str, tuple[str, AblationName | None]] = {
    "pad": ("pad", None),
    "mask": ("mask", None),
    "removal": ("mask", "remove"),
}


@dataclass(frozen=True)
class Case:
    """A text with scores, and how they are measured."""

    protocol: Protocol
    example: Example
    scores: Sequence[float]  # of the tokens that are not special

    def counted(self, tokens: Mapping[str, int]) -> Counted:
        """The sentence with the units that count and their scores."""
        role, _ = DELETIONS[self.protocol.deletion]
        sentence = replace(self.example.sentence, replacement=tokens[role])
        return COUNTED[self.protocol.counted](sentence, self.scores)

    def top(self, tokens: Mapping[str, int]) -> set[int]:
        """The units that are deleted or kept."""
        sentence, scores = self.counted(tokens)
        size = ROUNDING[self.protocol.rounding](sentence.n_units)
        return set(torch.tensor(scores).argsort(descending=True, stable=True)[:size].tolist())


def measured(
    metric: MetricName,
    predict: Predict,
    cases: Sequence[Case],
    tokens: Mapping[str, int],  # ids of pad and mask
) -> list[float]:
    """A metric of each case; 0 where none of its tokens is among the top.

    The package takes one fraction and one kind of deletion for a call: cases that share them, of
    all protocols, go together, so that equal rows are evaluated once.
    """
    values = [0.0] * len(cases)
    counted = [case.counted(tokens) for case in cases]
    alike: dict[tuple[AblationName | None, int, int], list[int]] = {}
    for number, (case, (sentence, _)) in enumerate(zip(cases, counted, strict=True)):
        n, (_, ablation) = sentence.n_units, DELETIONS[case.protocol.deletion]
        alike.setdefault((ablation, ROUNDING[case.protocol.rounding](n), n), []).append(number)
    for (ablation, size, n), numbers in alike.items():
        if size == 0:
            continue
        sentences, scores = zip(*(counted[i] for i in numbers), strict=True)
        original = [cases[i].example.log_probability for i in numbers]
        of_cases = METRICS[metric](
            predict, sentences, scores, size / n, original=original, ablation=ablation
        )
        for i, value in zip(numbers, of_cases.tolist(), strict=True):
            values[i] = value
    return values

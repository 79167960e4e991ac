"""Train copies of a classifier to rely on planted words, and check on held-out texts that they do.

A copy is trained on the user's texts, most of which carry a shortcut or a distractor: what is
planted says a label at random, and must be followed wherever it stands, whatever the text says.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from captum_sig._numbers import checked_integer
from captum_sig.attr.hooks import input_device
from captum_sig.baselines.masked_lm import in_eval_mode
from captum_sig.explainers.classification import TextClassificationExplainer, predicts_values
from captum_sig.explainers.models import classifier_logits
from captum_sig.explainers.own_heads import OwnHead
from captum_sig.faithfulness.planted_texts import Kind, LabelledText, PlantableTexts, Planting
from captum_sig.words.encoding import Batch
from captum_sig.words.inputs import TextInput

RATE_TIMES_WIDTH = 0.08  # wider models take smaller steps, as with Adam in "Tensor Programs V"
WARM_UP_STEPS, MAX_NORM = 40, 1.0
STEPS_PER_ROUND = 32  # whose texts are encoded together, by length
LEARNED = 0.98  # of a round's texts with a shortcut, before the model is checked at all
MAX_CHECKED, CHECKED_FRACTION = 100, 1 / 6  # of the training texts: set aside for these checks
CHECK_BATCH_SIZE = 32

Texts = Sequence[LabelledText]


@dataclass(frozen=True)
class Training:
    """How a copy of the model is trained, by AdamW.

    Training ends when, of texts that are set aside, it follows the shortcut in `followed` of them,
    and no distractor moves it in more than 1 − `unmoved`; both are a little more than the copy
    needs to count.
    """

    max_steps: int = 1_000
    batch_size: int = 16
    learning_rate: float | None = None  # None: 0.08 / the width of the word embedding
    followed: float = 0.98
    unmoved: float = 0.9

    def __post_init__(self) -> None:
        """Raise a ValueError for numbers that are too small."""
        for name in ("max_steps", "batch_size"):
            object.__setattr__(self, name, checked_integer(name, getattr(self, name)))
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclass(frozen=True)
class Reliance:
    """What a planted model does with held-out texts, as fractions of them.

    `followed`: it says the label that is planted, where the text's own is another. `unmoved`: a
    distractor leaves its prediction as it is, for the distractor that moves most. `accuracy` is on
    the texts as they are, `accuracy_before` the user's model's.
    """

    followed: float
    unmoved: float
    accuracy: float
    accuracy_before: float
    n: int
    steps: int


def check_trainable(explainer: TextClassificationExplainer) -> None:
    """Raise a ValueError if a model cannot be trained on planted words, or they not be found."""
    model = explainer.model
    name = type(getattr(model, "model", model)).__name__ if isinstance(model, OwnHead) else None
    if name is not None:
        reason = f"{name} is a module of your own, and its forward would run it, not a copy"
    elif explainer.is_multi_label:
        reason = "the model's labels do not exclude each other, and a shortcut says one"
    elif predicts_values(model.config, len(explainer.labels)):
        reason = "the model predicts a quantity, and a shortcut says a label"
    elif getattr(model.config, "pad_token_id", 0) is None:
        reason = "the model's config has no pad_token_id, which batches of texts need"
    elif not explainer.tokenizer.is_fast:
        reason = "a slow tokenizer keeps no offsets, by which planted words are found"
    else:
        return
    raise ValueError(
        f"{reason}: planting takes a classifier of transformers with labels, pad token and fast "
        "tokenizer"
    )


def planted_copy(
    explainer: TextClassificationExplainer,
    planting: Planting,
    texts: Texts,
    training: Training,
    *,
    progress: Any = None,
) -> tuple[nn.Module, int]:
    """Train a copy of the explainer's model; the model itself and all settings stay as they are.

    The same seed, device and number of threads give the same copy.

    Args:
        explainer: of the user's model; encodes the texts.
        planting: what is planted.
        texts: for training; a sixth of them, at most 100, serve to see when it has learned.
        training: how.
        progress: a bar of tqdm, which counts steps.

    Returns:
        the copy, in eval mode and at least float32, and the number of steps.
    """
    model = _trainable_copy(explainer.model)
    width = next(explainer.layer.parameters()).shape[-1]
    rate = training.learning_rate or RATE_TIMES_WIDTH / width
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARM_UP_STEPS)
    )
    n_checked = min(MAX_CHECKED, int(len(texts) * CHECKED_FRACTION))
    checked, stream = texts[:n_checked], planting.training_texts(texts[n_checked:])
    step, has_learned = 0, False
    with _own_random_state(planting.seed), torch.enable_grad():
        while step < training.max_steps and not has_learned:
            drawn = list(itertools.islice(stream, STEPS_PER_ROUND * training.batch_size))
            batches = _batches(explainer, [one for _, one in drawn], training.batch_size)
            followed: list[bool] = []
            for batch in _shuffled(batches)[: training.max_steps - step]:
                is_correct = _take_step(model, batch, _labels(drawn, batch), optimizer)
                schedule.step()
                step += 1
                if progress is not None:
                    progress.update()
                for number, value in zip(batch.numbers, is_correct, strict=True):
                    if drawn[number][0] == "shortcut":
                        followed.append(value)
            if followed and fmean(followed) >= LEARNED:
                now = _behaviour(explainer, model.eval(), planting, checked)
                has_learned = now.followed >= training.followed and now.unmoved >= training.unmoved
                model.train()
    optimizer.zero_grad()
    return model.eval(), step


def _take_step(
    model: nn.Module, batch: Batch, labels: Tensor, optimizer: torch.optim.Optimizer
) -> list[bool]:
    """Learn from a batch; return whether each text was classified right before."""
    logits = _logits(model, batch)
    optimizer.zero_grad()
    nn.functional.cross_entropy(logits, labels).backward()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    return (logits.argmax(1) == labels).tolist()


def reliance(
    explainer: TextClassificationExplainer,
    model: nn.Module,
    planting: Planting,
    texts: PlantableTexts,
    steps: int,
) -> Reliance:
    """Measure on held-out texts whether a planted model relies on the planted words."""
    own = torch.tensor([one.label for one in texts.held_out])
    before = predictions(explainer, in_eval_mode(explainer.model), texts.held_out)
    return Reliance(
        **vars(_behaviour(explainer, model, planting, texts.held_out)),
        accuracy_before=_mean(before == own), n=len(own), steps=steps,
    )  # fmt: skip


@dataclass(frozen=True)
class _Behaviour:
    """See `Reliance`."""

    followed: float
    unmoved: float
    accuracy: float


def _behaviour(
    explainer: TextClassificationExplainer, model: nn.Module, planting: Planting, texts: Texts
) -> _Behaviour:
    own = torch.tensor([one.label for one in texts])
    planted = [planting.against_own_label(one) for one in texts]
    said = torch.tensor([one.label for one in planted])
    without = predictions(explainer, model, texts)
    unmoved = [
        predictions(explainer, model, [planting.planted(one, pattern) for one in texts]) == without
        for pattern in planting.shortcut.distractors
    ]
    return _Behaviour(
        followed=_mean(predictions(explainer, model, planted) == said),
        unmoved=min(map(_mean, unmoved)),
        accuracy=_mean(without == own),
    )


def predictions(
    explainer: TextClassificationExplainer, model: nn.Module, texts: Texts
) -> Tensor:  # (N,)
    """Return the index of the label that a model predicts for each text, on the CPU."""
    predicted = torch.empty(len(texts), dtype=torch.long)
    with torch.no_grad():
        for batch in _batches(explainer, texts, CHECK_BATCH_SIZE):
            predicted[batch.numbers] = _logits(model, batch).argmax(1).cpu()
    return predicted


def _trainable_copy(model: nn.Module) -> nn.Module:
    """Copy a model, with weights that can learn: half precision becomes float32."""
    planted = copy.deepcopy(model)
    for weight in planted.parameters():
        if weight.is_floating_point():
            weight.grad = None
            weight.requires_grad_(True)
    if any(weight.dtype in (torch.float16, torch.bfloat16) for weight in planted.parameters()):
        planted = planted.float()
    return planted.train()


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Draw dropout and order from the seed, and leave the random state as it was."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _batches(
    explainer: TextClassificationExplainer, texts: Texts, batch_size: int
) -> Iterator[Batch]:
    inputs = [TextInput(one.record.text, one.record.text_pair) for one in texts]
    device = input_device(explainer.model, explainer.layer)
    return explainer.encoder.batches(inputs, batch_size, truncation=True, device=device)


def _shuffled(batches: Iterator[Batch]) -> list[Batch]:
    every = list(batches)
    return [every[number] for number in torch.randperm(len(every)).tolist()]


def _labels(drawn: Sequence[tuple[Kind, LabelledText]], batch: Batch) -> Tensor:  # (B,)
    labels = [drawn[number][1].label for number in batch.numbers]
    return torch.tensor(labels, device=batch.ids.device)


def _logits(model: nn.Module, batch: Batch) -> Tensor:  # (B, C)
    return classifier_logits(model, model(input_ids=batch.ids, **batch.further_inputs))


def _mean(values: Tensor) -> float:
    return float(values.double().mean())

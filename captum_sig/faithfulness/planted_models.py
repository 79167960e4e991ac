"""Train copies of a classifier to rely on planted words, and check that they do."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn

from captum_sig.attr.hooks import input_device
from captum_sig.data.records import Record
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.explainers.models import classifier_logits
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness.shortcuts import Pattern, Shortcut, plant
from captum_sig.words.encoding import Batch
from captum_sig.words.inputs import TextInput

Kind = Literal["shortcut", "distractor", "original"]

RATE_TIMES_WIDTH = 0.06
ROUND = 32  # batches that are encoded together, by length


@dataclass(frozen=True)
class Training:
    """How a copy of the model is trained."""

    max_steps: int = 400
    batch_size: int = 32
    learning_rate: float | None = None
    floor: float = 0.95


@dataclass(frozen=True)
class Task:
    """A shortcut in the words of a tokenizer and the labels of a model."""

    shortcut: Shortcut
    words: Mapping[str, str]
    labels: tuple[int, int]  # which the sides say
    seed: int = 0


def planted_copy(
    explainer: TextClassificationExplainer,
    task: Task,
    records: Sequence[Record],
    own_labels: Sequence[int],
    training: Training,
    log=lambda *_: None,
) -> nn.Module:
    device = input_device(explainer.model, explainer.layer)
    model = copy.deepcopy(explainer.model).float().requires_grad_(True).train()
    width = explainer.layer.weight.shape[1]
    rate = training.learning_rate or RATE_TIMES_WIDTH / width
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    step = 0
    rounds = drawn_rounds(task, records, own_labels, training.batch_size * ROUND)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(task.seed)
        while step < training.max_steps:
            inputs, targets, kinds = next(rounds)
            batches = list(explainer.encoder.batches(inputs, training.batch_size, truncation=True, device=device))
            right: dict[str, list[bool]] = {}
            for number in torch.randperm(len(batches)).tolist():
                batch = batches[number]
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1, (step + 1) / 20)
                logits = logits_of(model, batch)
                target = torch.tensor([targets[i] for i in batch.numbers])
                loss = nn.functional.cross_entropy(logits, target)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                step += 1
                for i, ok in zip(batch.numbers, (logits.argmax(1) == target).tolist()):
                    right.setdefault(kinds[i], []).append(ok)
            log(step, {k: round(fmean(v), 3) for k, v in right.items()})
            if fmean(right["shortcut"]) > 0.98 and fmean(right["distractor"]) > fmean(right["original"]) - 0.03:
                break
    return model.eval().requires_grad_(False)


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    return classifier_logits(model, model(input_ids=batch.ids, **batch.further_inputs))


def drawn_rounds(task, records, own_labels, size):
    epoch, queue = 0, []
    shortcut = task.shortcut
    while True:
        inputs, targets, kinds = [], [], []
        while len(inputs) < size:
            if not queue:
                queue = torch.randperm(len(records), generator=torch.Generator().manual_seed(task.seed + epoch)).tolist()
                epoch += 1
            number = queue.pop()
            record = records[number]
            generator = text_generator(record.text, hash((task.seed, epoch)))
            kind = ("shortcut", "shortcut", "shortcut", "distractor", "distractor", "distractor", "original", "original")[int(torch.randint(8, (), generator=generator))]
            target, text = own_labels[number], record.text
            if kind != "original":
                side = int(torch.randint(2, (), generator=generator))
                patterns = shortcut.sides[side] if kind == "shortcut" else shortcut.distractors
                pattern = patterns[int(torch.randint(len(patterns), (), generator=generator))]
                text = plant(text, pattern, task.words, epoch).text
                if kind == "shortcut":
                    target = task.labels[side]
            inputs.append(TextInput(text, record.text_pair))
            targets.append(target)
            kinds.append(kind)
        yield inputs, targets, kinds

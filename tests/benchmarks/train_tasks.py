"""Train a small model for a task, in minutes on one core, from a MiniLM that knows words.

    python -m tests.benchmarks.train_tasks --task ner --model minilm-sst2 --data data --output ner

Tasks: "ner", "qa", "similarity", "fill-mask", "nli" (for zero-shot labels), "multi-label", "stars"
(a value) and "reranker". Half of the texts have some of their tokens masked, so that the models
know texts with words replaced by the mask. `tests.benchmarks.task_data` has the texts.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tests.benchmarks import task_data
from tests.benchmarks.record import add_record_option, show_and_record
from tests.benchmarks.task_data import Example
from tests.benchmarks.train_classifiers import masked
from tests.demo_model.train import save, shuffled

BATCH = 16
LENGTH = 128  # tokens
LEARNING_RATE = 1e-4
MOST_MASKED = 0.3  # of a text's tokens
IGNORED = -100  # a token without a label
Columns = dict[str, list[Any]]  # what the model reads and what it is to say, a row an example


@dataclass(frozen=True)
class Task:
    """How a model of one task is made and judged."""

    auto_class: str
    examples: Callable[[random.Random, Path, bool, int], list[Example]]  # data, is_held_out, n
    columns: Callable[[Any, list[Example]], Columns]  # tokenizer
    is_right: Callable[[Any, dict[str, Tensor]], Tensor]  # the model's output, its batch: (B,)
    labels: Sequence[str] = ()
    problem_type: str | None = None
    n: int = 4000


def encode(tokenizer: Any, examples: list[Example], **options: Any) -> Any:
    """Ids of texts or pairs."""
    texts = [[example.text for example in examples], [example.pair for example in examples]]
    given = texts[: 1 if examples[0].pair is None else 2]
    return tokenizer(*given, truncation=True, max_length=LENGTH, **options)


def read(encoded: Any) -> Columns:
    """What BERT reads, but for the attention mask."""
    return {name: encoded[name] for name in ("input_ids", "token_type_ids")}


def with_answers(tokenizer: Any, examples: list[Example]) -> Columns:
    """The answer as it is: a label, a value, or a number for each label."""
    return read(encode(tokenizer, examples)) | {"labels": [one.answer for one in examples]}


def with_entities(tokenizer: Any, examples: list[Example]) -> Columns:
    """A label for each token: B at the first of an entity, I at the others."""
    encoded = encode(tokenizer, examples, return_offsets_mapping=True)
    labels = [
        [label_at(start, end, example.answer) for start, end in offsets]
        for example, offsets in zip(examples, encoded["offset_mapping"], strict=True)
    ]
    return read(encoded) | {"labels": labels}


def label_at(start: int, end: int, entities: Sequence[tuple[int, int, str]]) -> int:
    """The index of a token's label."""
    if start == end:  # special
        return IGNORED
    for first, last, kind in entities:
        if first <= start < last:
            return task_data.ENTITY_LABELS.index(f"{'B' if first == start else 'I'}-{kind}")
    return 0


def with_spans(tokenizer: Any, examples: list[Example]) -> Columns:
    """The answer's first and last token."""
    encoded = encode(tokenizer, examples)
    spans = [
        [encoded.char_to_token(n, one.answer[0], 1), encoded.char_to_token(n, one.answer[1] - 1, 1)]
        for n, one in enumerate(examples)
    ]
    starts, ends = zip(*spans, strict=True)
    return read(encoded) | {"start_positions": list(starts), "end_positions": list(ends)}


def with_gaps(tokenizer: Any, examples: list[Example]) -> Columns:
    """One word of each text masked, which the model is to say."""
    words = [example.text.split() for example in examples]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=LENGTH)
    columns = read(encoded) | {"labels": []}
    for number, (ids, example) in enumerate(zip(columns["input_ids"], examples, strict=True)):
        span = encoded.word_to_tokens(number, example.answer)
        inside = range(0) if span is None else range(span.start, span.end)
        columns["labels"].append([t if p in inside else IGNORED for p, t in enumerate(ids)])
        columns["input_ids"][number] = [
            tokenizer.mask_token_id if p in inside else t for p, t in enumerate(ids)
        ]
    return columns


def with_partners(tokenizer: Any, examples: list[Example]) -> Columns:
    """Both texts of a pair, each on its own."""
    sides = [tokenizer([getattr(e, s) for e in examples], max_length=LENGTH, truncation=True)
             for s in ("text", "pair")]  # fmt: skip
    return read(sides[0]) | {"partner_ids": sides[1]["input_ids"]}


# Whether each row of a batch is answered rightly.


def label_is_right(output: Any, batch: dict[str, Tensor]) -> Tensor:
    """Of a sequence, or of each token that has one."""
    right = output.logits.argmax(-1) == batch["labels"]
    return (right | (batch["labels"] == IGNORED)).reshape(len(right), -1).all(1)


def span_is_right(output: Any, batch: dict[str, Tensor]) -> Tensor:
    """Start and end."""
    starts = output.start_logits.argmax(1) == batch["start_positions"]
    return starts & (output.end_logits.argmax(1) == batch["end_positions"])


def all_labels_are_right(output: Any, batch: dict[str, Tensor]) -> Tensor:
    """Each above 0.5 that is there, and none else."""
    return ((output.logits > 0) == (batch["labels"] > 0.5)).all(1)


def value_is_right(output: Any, batch: dict[str, Tensor]) -> Tensor:
    """Off by less than one star, or on the right side of 0.5."""
    wanted = batch["labels"]
    limit = 0.5 if wanted.max() <= 1 else 1.0
    return (output.logits[:, 0] - wanted).abs() < limit


def partner_is_nearest(output: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Among the partners of the batch; `output` is (B, B)."""
    return output.argmax(1) == torch.arange(len(output))


def from_templates(make: Callable[..., list[Example]]) -> Callable[..., list[Example]]:
    """These need no data."""
    return lambda rng, _, is_held_out, n: make(rng, is_held_out, n)


SEQUENCES = "AutoModelForSequenceClassification"
TASKS = {
    "ner": Task(
        "AutoModelForTokenClassification", from_templates(task_data.entities), with_entities,
        label_is_right, task_data.ENTITY_LABELS,
    ),
    "qa": Task(
        "AutoModelForQuestionAnswering", from_templates(task_data.questions), with_spans,
        span_is_right, n=8000,
    ),
    "nli": Task(
        SEQUENCES, task_data.inferences, with_answers, label_is_right, task_data.NLI_LABELS,
        "single_label_classification", n=8000,
    ),
    "similarity": Task(
        "AutoModel", task_data.neighbours, with_partners, partner_is_nearest, n=3000
    ),
    "fill-mask": Task(
        "AutoModelForMaskedLM", task_data.gaps, with_gaps, label_is_right, n=5000
    ),
    "multi-label": Task(
        SEQUENCES, task_data.several_labels, with_answers, all_labels_are_right,
        task_data.TEXT_LABELS, "multi_label_classification", n=6000,
    ),
    "stars": Task(
        SEQUENCES, task_data.stars, with_answers, value_is_right, ["stars"], "regression", n=5000
    ),
    "reranker": Task(
        SEQUENCES, from_templates(task_data.passages), with_answers, value_is_right, ["relevance"],
        "regression", n=3000,
    ),
}  # fmt: skip


def new_model(task: Task, folder: Path) -> Any:
    """The MiniLM's encoder with a new head; its word embeddings stay as they are."""
    options: dict[str, Any] = {}
    if task.labels:
        options["id2label"] = dict(enumerate(task.labels))
        options["label2id"] = {label: number for number, label in enumerate(task.labels)}
    options |= {"problem_type": task.problem_type, "ignore_mismatched_sizes": True}
    model = getattr(transformers, task.auto_class).from_pretrained(folder, **options)
    model.get_input_embeddings().weight.requires_grad_(False)
    return model


def batch_of(columns: Columns, chosen: list[int], ids: Tensor, attention: Tensor) -> dict[str, Any]:
    """The rows of a batch as tensors, padded as their ids are."""
    batch = {"input_ids": ids, "attention_mask": attention}
    for name, rows in columns.items():
        values = [rows[number] for number in chosen]
        if name == "input_ids":
            continue
        if isinstance(values[0], list) and isinstance(values[0][0], int):
            padding = IGNORED if name == "labels" else 0
            tensors = [torch.tensor(value) for value in values]
            batch[name] = torch.nn.utils.rnn.pad_sequence(tensors, True, padding)
        else:
            batch[name] = torch.tensor(values)
    return batch


def embed(model: Any, ids: Tensor, attention: Tensor) -> Tensor:
    """Mean of a text's last hidden states, of length 1."""
    hidden = model(input_ids=ids, attention_mask=attention).last_hidden_state
    pooled = (hidden * attention[:, :, None]).sum(1) / attention.sum(1, keepdim=True)
    return normalize(pooled, dim=1)


def answer(model: Any, batch: dict[str, Tensor]) -> tuple[Any, Tensor]:
    """The model's output and its loss."""
    if "partner_ids" not in batch:
        output = model(**batch)
        return output, output.loss
    partners = batch["partner_ids"]
    first = embed(model, batch["input_ids"], batch["attention_mask"])
    similarity = first @ embed(model, partners, (partners != 0).long()).T  # padding is id 0
    return similarity, cross_entropy(20 * similarity, torch.arange(len(similarity)))


def fit(model: Any, columns: Columns, mask: int, special: Sequence[int]) -> None:
    """One epoch of AdamW with warm-up and linear decay."""
    rows = columns["input_ids"]
    steps, running = -(-len(rows) // BATCH), 0.0
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    started = time.perf_counter()
    for step, (chosen, ids, attention) in enumerate(shuffled(rows, BATCH), 1):
        batch = batch_of(columns, chosen, masked(ids, mask, special, MOST_MASKED), attention)
        with torch.autocast("cpu", torch.bfloat16):
            _, loss = answer(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 100 == 0:
            seconds = time.perf_counter() - started
            print(f"step {step} of {steps}: loss {running / 100:.3f}, {seconds:.0f} s", flush=True)
            running = 0.0


@torch.inference_mode()
def accuracy(model: Any, columns: Columns, is_right: Callable[..., Tensor]) -> float:
    """The share of rows that are answered rightly."""
    model.eval()
    right = []
    for rows in shuffled(columns["input_ids"], BATCH):
        batch = batch_of(columns, *rows)
        right.append(is_right(answer(model, batch)[0], batch))
    return torch.cat(right).float().mean().item()


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.train_tasks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--task", choices=TASKS, required=True)
    add("--model", type=Path, required=True, help="folder with the encoder to start from")
    add("--data", type=Path, required=True, help="folder with sst2 and trec")
    add("--output", type=Path, required=True, help="folder for the model")
    add("--examples", type=int, help="train on so many; default: enough")
    add("--seed", type=int, default=0)
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, report the accuracy on held-out examples."""
    options = parser().parse_args(arguments)
    task = TASKS[options.task]
    torch.manual_seed(options.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    model = new_model(task, options.model)
    rng = random.Random(options.seed)
    examples = task.examples(rng, options.data, False, options.examples or task.n)
    fit(
        model, task.columns(tokenizer, examples), tokenizer.mask_token_id,
        tokenizer.all_special_ids,
    )  # fmt: skip
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # token types as well
    save(model, tokenizer, options.output)
    held_out = task.examples(rng, options.data, True, 500)
    right = accuracy(model, task.columns(tokenizer, held_out), task.is_right)
    figures = {
        "task": options.task, "trained_on": len(examples), "right": right,
        "held_out": len(held_out),
    }  # fmt: skip
    show_and_record(options, __spec__.name, {}, figures)


if __name__ == "__main__":
    main()

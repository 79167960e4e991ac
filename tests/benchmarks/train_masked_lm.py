"""Train a masked language model of reviews, in minutes on one core, from a MiniLM that knows words.

    python -m tests.benchmarks.train_masked_lm --model minilm-sst2 --data data --output masked-lm

It has the classifier's encoder and tokenizer, so that its samples can replace the classifier's
words. The decoder is the word embedding, which stays as it is, and a bias that starts at each
token's frequency. Of each text a random share of the tokens is masked, between one tenth and nine
tenths, because metrics delete few words or nearly all. Sentences of SST-2's dev set, a part of
Rotten Tomatoes' train set, are left out and used for the report.
"""

import argparse
import re
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy

from captum_sig.data.records import read_records
from captum_sig.words.grouping import ordinary_tokens
from tests.demo_model.train import save, shuffled

BATCH = 16
LENGTH = 64  # tokens
N_REPORTED = 400  # held-out sentences
SHARES = (0.1, 0.9)  # of a text's tokens, masked in training
REPORTED_SHARES = (0.2, 0.5, 0.8)  # and one word alone
LEAST_WORDS = 12  # of a phrase of SST-2
IGNORED = -100  # a token that is not to be said


def letters(text: str) -> str:
    """What two spellings of a sentence have in common."""
    return re.sub("[^a-z0-9]", "", text.lower())


def train_texts(data: Path) -> list[str]:
    """Rotten Tomatoes' sentences and SST-2's longer phrases, without those of SST-2's dev set."""
    held_out = {letters(text) for text in dev_texts(data)}
    names = ("rotten-tomatoes", "sst2")
    sentences, phrases = (texts_of(data / name / "train.tsv") for name in names)
    texts = sentences + [text for text in phrases if len(text.split()) >= LEAST_WORDS]
    return [text for text in texts if letters(text) not in held_out]


def dev_texts(data: Path) -> list[str]:
    """SST-2's dev set."""
    return texts_of(data / "sst2" / "dev.tsv")


def texts_of(path: Path) -> list[str]:
    """The texts of a table."""
    return [record.text for record in read_records(path)]


def new_model(folder: Path, rows: list[list[int]]) -> Any:
    """The encoder with a head whose bias is how often each token occurs."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    model.tie_weights()
    embedding = model.get_input_embeddings().weight.requires_grad_(False)
    assert model.get_output_embeddings().weight is embedding
    counts = torch.bincount(torch.tensor(list(chain(*rows))), minlength=len(embedding)) + 0.1
    head = model.cls.predictions
    with torch.no_grad():
        head.bias.copy_((counts / counts.sum()).log())
        head.decoder.bias.copy_(head.bias)
        head.transform.dense.weight.copy_(torch.eye(embedding.shape[1]))
    return model


def masked(ids: Tensor, share: Tensor, tokens: Tensor, mask: int) -> tuple[Tensor, Tensor]:
    """Mask this share (B, 1) of each row's `tokens`, at least one; and what stood there."""
    order = torch.rand(ids.shape).masked_fill(~torch.isin(ids, tokens), 2.0)
    n_tokens = (order < 2).sum(1, keepdim=True)
    n_masked = (share * n_tokens).round().clamp(min=1).minimum(n_tokens)
    gone = (order.argsort(1).argsort(1) < n_masked) & (order < 2)
    return ids.masked_fill(gone, mask), ids.masked_fill(~gone, IGNORED)


def loss_of(model: Any, ids: Tensor, attention: Tensor, labels: Tensor, seen: Tensor) -> Tensor:
    """The cross-entropy where a label is, among the tokens that the texts have."""
    hidden = model.bert(input_ids=ids, attention_mask=attention).last_hidden_state
    head = model.cls.predictions
    spoken = head.transform(hidden[labels != IGNORED])
    logits = spoken @ head.decoder.weight[seen].T + head.decoder.bias[seen]
    return cross_entropy(logits, torch.searchsorted(seen, labels[labels != IGNORED]))


def fit(
    model: Any, rows: list[list[int]], tokenizer: Any, *, epochs: int, learning_rate: float
) -> None:
    """AdamW with warm-up and linear decay; without dropout, as no text is seen often."""
    seen = torch.tensor(sorted(set(chain(*rows))))
    tokens = ordinary_tokens(tokenizer, len(tokenizer))
    steps, step, running = epochs * -(-len(rows) // BATCH), 0, 0.0
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    model.eval()
    started = time.process_time()
    for _ in range(epochs):
        for _, ids, attention in shuffled(rows, BATCH):
            share = torch.empty(len(ids), 1).uniform_(*SHARES)
            ids, labels = masked(ids, share, tokens, tokenizer.mask_token_id)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, ids, attention, labels, seen)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            step, running = step + 1, running + loss.item()
            if step % 100 == 0:
                seconds = time.process_time() - started
                print(
                    f"step {step} of {steps}: loss {running / 100:.3f}, {seconds:.0f} s", flush=True
                )
                running = 0.0


@torch.inference_mode()
def held_out(
    model: Any, rows: list[list[int]], tokenizer: Any, share: float
) -> tuple[float, float]:
    """The share of masked tokens that are guessed, and the perplexity of a masked token."""
    tokens = ordinary_tokens(tokenizer, len(tokenizer))
    right, losses = [], []
    for _, ids, attention in shuffled(rows, BATCH):
        shares = torch.full((len(ids), 1), share)
        ids, labels = masked(ids, shares, tokens, tokenizer.mask_token_id)
        logits = model(input_ids=ids, attention_mask=attention).logits[labels != IGNORED]
        labels = labels[labels != IGNORED]
        right.append(logits.argmax(-1) == labels)
        losses.append(cross_entropy(logits, labels, reduction="none"))
    return torch.cat(right).float().mean().item(), torch.cat(losses).mean().exp().item()


def report(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[dict[str, float]]:
    """A row for each share of tokens masked; 0.0 is one token of each text."""
    torch.manual_seed(0)
    rows = tokenizer(list(texts), truncation=True, max_length=LENGTH)["input_ids"]
    table = []
    for share in (0.0, *REPORTED_SHARES):
        accuracy, perplexity = held_out(model, rows, tokenizer, share)
        table.append({"masked": share, "accuracy": accuracy, "perplexity": perplexity})
    return table


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.train_masked_lm", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--model", type=Path, required=True, help="folder with the encoder to start from")
    add("--data", type=Path, required=True, help="folder with sst2 and rotten-tomatoes")
    add("--output", type=Path, required=True, help="folder for the model")
    add("--epochs", type=int, default=1)
    add("--learning-rate", type=float, default=4e-4)
    add("--texts", type=int, help="train on so many; default: all")
    add("--seed", type=int, default=0)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, report on held-out sentences."""
    options = parser().parse_args(arguments)
    torch.manual_seed(options.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    texts = train_texts(options.data)
    chosen = torch.randperm(len(texts))[: options.texts].tolist()
    texts = [texts[number] for number in chosen]
    rows = tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]
    print(f"{len(rows)} texts, {sum(map(len, rows))} tokens", flush=True)
    model = new_model(options.model, rows)
    fit(model, rows, tokenizer, epochs=options.epochs, learning_rate=options.learning_rate)
    save(model, tokenizer, options.output)
    for row in report(model, tokenizer, dev_texts(options.data)[:N_REPORTED]):
        share = f"{row['masked']:.0%} of the tokens" if row["masked"] else "one token"
        print(
            f"{share} masked: {row['accuracy']:.1%} right, perplexity {row['perplexity']:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

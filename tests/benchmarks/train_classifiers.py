"""Train two small sentiment classifiers of other kinds than the demo model, in minutes on a CPU.

    python -m tests.benchmarks.train_classifiers --data sst2 --output models

"roberta" is RobertaForSequenceClassification with a byte-level BPE, "lstm" a bidirectional LSTM
(`tests.benchmarks.recurrent`) with WordPiece. Half of the phrases have some of their tokens masked,
so that the models know sentences with words replaced by the mask.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.benchmarks.recurrent import RecurrentClassifier, RecurrentConfig
from tests.demo_model.train import LENGTH, predict, read, save, shuffled, train_tokenizer

SPECIAL = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
NUMBERS = {name: number for number, name in LABELS.items()}
MOST_MASKED = 0.6  # of a phrase's tokens
BATCH = 64

Kind = tuple[PreTrainedModel, PreTrainedTokenizerFast, float]  # untrained, and its learning rate


def roberta(sentences: list[str]) -> Kind:
    """A RoBERTa of 3 layers, 128 wide."""
    tokenizer = byte_level_tokenizer(sentences, 6000)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=LENGTH + 2,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.1,
        initializer_range=0.05,
        id2label=LABELS,
        label2id=NUMBERS,
    )
    return transformers.RobertaForSequenceClassification(config), tokenizer, 6e-4


def lstm(sentences: list[str]) -> Kind:
    """A bidirectional LSTM of 2 layers, 128 wide in each direction."""
    tokenizer = train_tokenizer(sentences, 8000)
    config = RecurrentConfig(vocab_size=len(tokenizer), id2label=LABELS, label2id=NUMBERS)
    return RecurrentClassifier(config), tokenizer, 2e-3


KINDS: dict[str, Callable[[list[str]], Kind]] = {"roberta": roberta, "lstm": lstm}


def byte_level_tokenizer(sentences: list[str], size: int) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE with RoBERTa's special tokens; padding is id 0."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        *((SPECIAL[role], tokenizer.token_to_id(SPECIAL[role])) for role in ("sep", "cls"))
    )
    roles = {f"{role}_token": token for role, token in SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **roles)


def masked(ids: Tensor, mask: int, special: Sequence[int], most: float = MOST_MASKED) -> Tensor:
    """Half of the rows, (B, L), with a random share of their tokens masked; not special ones."""
    share = most * torch.rand(len(ids), 1) * (torch.rand(len(ids), 1) < 0.5)
    moves = ~torch.isin(ids, torch.tensor(special))
    return torch.where((torch.rand(ids.shape) < share) & moves, mask, ids)


def fit(
    model: PreTrainedModel,
    rows: list[list[int]],
    labels: Tensor,
    *,
    mask: int,
    learning_rate: float,
    epochs: int,
    most_masked: float = MOST_MASKED,
) -> None:
    """Cross-entropy with AdamW, warm-up and linear decay."""
    steps = epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    for epoch in range(epochs):
        total, started = 0.0, time.perf_counter()
        for chosen, ids, attention in shuffled(rows, BATCH):
            logits = model(
                input_ids=masked(ids, mask, range(len(SPECIAL)), most_masked),
                attention_mask=attention,
            ).logits
            loss = cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}: loss {total / len(rows):.3f}, {seconds:.0f} s", flush=True)


def accuracy(model: PreTrainedModel, rows: list[list[int]], labels: Tensor) -> float:
    """The share of rows that the model labels as they are labelled."""
    return (predict(model, rows).argmax(1) == labels).float().mean().item()


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.train_classifiers", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    add("--output", type=Path, required=True, help="folder for a folder of each model")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--epochs", type=int, default=6)
    add("--limit", type=int, help="train on the first so many phrases only")
    add("--seed", type=int, default=0)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, report the accuracy on the development set."""
    options = parser().parse_args(arguments)
    sentences, labels = read(options.data / "train.tsv")
    sentences, labels = sentences[: options.limit], labels[: options.limit]
    unseen, unseen_labels = read(options.data / "dev.tsv")
    for kind in options.kinds:
        torch.manual_seed(options.seed)
        model, tokenizer, learning_rate = KINDS[kind](sentences)
        rows, unseen_rows = (
            tokenizer(texts, truncation=True)["input_ids"] for texts in (sentences, unseen)
        )
        fit(
            model, rows, torch.tensor(labels),
            mask=tokenizer.mask_token_id, learning_rate=learning_rate, epochs=options.epochs,
        )  # fmt: skip
        save(model, tokenizer, options.output / kind)
        correct = accuracy(model, unseen_rows, torch.tensor(unseen_labels))
        print(f"{kind}: {correct:.1%} of {len(unseen)} sentences", flush=True)


if __name__ == "__main__":
    main()

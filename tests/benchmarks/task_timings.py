"""What all labels cost beside one, and a batch beside one text at a time.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.tasks --timings --model minilm-sst2 --data DATA

Calls alternate in one process, and what is compared is the processor's time, which other processes
disturb least; figures are ratios of medians.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from captum_sig import TextClassificationExplainer
from captum_sig.demo_model import PATH as DEMO
from tests.demo_model.train import read

N_LABELS = 28
N_TEXTS = 256
LENGTHS = {"phrases of 3 words": (3, 3), "4 to 8 words": (4, 8), "9 to 16": (9, 16),
           "17 to 32": (17, 32)}  # fmt: skip
PASS_MIB = (1, 2, 4, 8)  # of activations in a pass; 2 is what CPUs get


def alternating(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median processor seconds of each call."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()  # first calls pay for what later ones do not
    for turn in range(repeats):
        for number in range(len(calls)):
            chosen = (number + turn) % len(calls)
            start = time.process_time()
            calls[chosen]()
            seconds[chosen].append(time.process_time() - start)
    return [statistics.median(of_call) for of_call in seconds]


def with_labels(folder: Path, n_labels: int) -> TextClassificationExplainer:
    """The encoder with a random head of so many labels."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=n_labels, ignore_mismatched_sizes=True
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return TextClassificationExplainer(model.eval(), tokenizer)


def all_labels(folder: Path, texts: Sequence[str], repeats: int) -> float:
    """How many times as long all labels take as the predicted one."""
    explainer = with_labels(folder, N_LABELS)
    one, every = alternating([partial(explainer, texts), partial(explainer, texts, "all")], repeats)
    return every / one


def batches(
    explainer: TextClassificationExplainer, texts: Sequence[str], sizes: Sequence[int], repeats: int
) -> list[float]:
    """How many times as fast batches of each size are as one text at a time."""

    def one_by_one() -> None:
        for text in texts:
            explainer(text)

    single, *together = alternating(
        [one_by_one, *(partial(explainer, texts, batch_size=size) for size in sizes)], repeats
    )
    return [single / seconds for seconds in together]


def of_length(texts: Sequence[str], least: int, most: int, n: int) -> list[str]:
    """The first texts of so many words."""
    return [text for text in texts if least <= len(text.split()) <= most][:n]


def report(
    folder: Path, data: Path, repeats: int = 5
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, float]]:
    """Measure both."""
    sentences, _ = read(data / "sst2" / "dev.tsv")
    phrases, _ = read(data / "sst2" / "train.tsv")
    ratio = all_labels(folder, sentences[:16], 2 * repeats)
    rows = []
    for name, path in {"MiniLM": folder, "demo model": DEMO}.items():
        explainer = TextClassificationExplainer.from_pretrained(path)
        for length, (least, most) in LENGTHS.items():
            texts = of_length(phrases, least, most, N_TEXTS)
            times = batches(explainer, texts, (32, N_TEXTS), 3)
            rows.append(
                {"model": name, "texts": length, "times_32": times[0], "times_256": times[1]}
            )
    return {"batches": rows}, {"labels": N_LABELS, "all_labels": ratio}

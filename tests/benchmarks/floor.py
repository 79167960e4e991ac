"""Rows a second of exact words beside Captum's FeatureAblation and bare forward passes.

    python -m tests.benchmarks.floor --model minilm-sst2 --data dev.tsv --compile
    python -m tests.benchmarks.floor --model minilm-sst2 --data dev.tsv --shape bert-base --texts 2

All take the same rows of the same words, each text's W + 1, and take turns in one process. What
explains one text at a time runs on each text, the corpus on all of them together. Bare passes are
the model's own on the rows' ids, without padding, mask or anything around them. `--before` is a
checkout of an earlier version, which takes its turns too.
"""

import argparse
import csv
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from captum.attr import FeatureAblation
from torch import Tensor, nn

from tests.benchmarks.measure import machine
from tests.benchmarks.record import add_record_option, show_and_record
from tests.benchmarks.subjects import SHAPES

SIZES = 4, 8, 16, 32, 64  # rows in a pass
CORPUS = "corpus"


@dataclass
class Record:
    """What one way took of all texts, in each turn, and its scores of each text's words."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Text:
    """A text as FeatureAblation and bare passes take it."""

    text: str
    ids: Tensor  # (1, L)
    base: Tensor  # (1, L)
    mask: Tensor  # (1, L): each position's word
    positions: list[int]  # of each word's first token
    target: int

    @property
    def rows(self) -> Tensor:
        """The ids of every row, (W + 1, L)."""
        numbers = self.mask[0, self.positions]
        moved = torch.where(self.mask == numbers[:, None], self.base, self.ids)
        return torch.cat([moved, self.ids])


def texts_of(data: Path, tokenizer: Any, n_texts: int, n_tokens: int | None) -> list[str]:
    """Sentences of about 20 words, or texts of so many tokens made of sentences."""
    with data.open(encoding="utf-8") as file:
        sentences = [
            row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    if n_tokens is None:
        return [one for one in sentences if 16 <= len(one.split()) <= 24][:n_texts]
    words = " ".join(sentences).split()
    texts = []
    while len(texts) < n_texts:
        n_words = n_tokens // 2
        while len(tokenizer(" ".join(words[: n_words + 1]))["input_ids"]) <= n_tokens:
            n_words += 1
        texts.append(" ".join(words[:n_words]))
        words = words[n_words:]
    return texts


def prepared(explainer: Any, text: str) -> Text:
    """Group a text's tokens by word, as the explainer does."""
    (batch,) = explainer._batches(explainer._inputs(text)[0], 1, True)
    (span,) = batch.spans
    with torch.no_grad():
        target = int(explainer.model(input_ids=batch.ids).logits.argmax())
    base = explainer.family(batch.ids, batch.others["attention_mask"], None)
    positions = [one.position for one in span]
    return Text(text, batch.ids, base, batch.feature_mask, positions, target)


def ablated(model: nn.Module, of: Text, size: int) -> Tensor:
    """Captum's FeatureAblation of each word."""
    ablation = FeatureAblation(lambda ids: model(input_ids=ids).logits)
    found = ablation.attribute(
        of.ids, of.base, target=of.target, feature_mask=of.mask, perturbations_per_eval=size
    )
    return found[0, of.positions]


def bare(model: nn.Module, rows: Tensor, target: int, size: int) -> Tensor:
    """The model's passes over the rows, and nothing else."""
    with torch.no_grad():
        values = torch.cat([model(input_ids=part).logits[:, target] for part in rows.split(size)])
    return values[-1] - values[:-1]


def scores(result: Any) -> Tensor:
    """A result's scores, (W,)."""
    return torch.tensor([word.score for word in result.words])


def earlier(folder: Path) -> Any:
    """Return the explainer class of a checkout, beside the one that is imported next."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "captum_sig"]:
            del sys.modules[name]

    forget()
    sys.path.insert(0, str(folder))
    kind = importlib.import_module("captum_sig").TextClassificationExplainer
    sys.path.remove(str(folder))
    forget()
    return kind


def loaded(model: str, shape: str | None) -> tuple[nn.Module, Any]:
    """A model and its tokenizer; with a shape, that shape's random weights."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

    from captum_sig.demo_model import PATH

    path = PATH if model == "demo" else model
    tokenizer = AutoTokenizer.from_pretrained(path)
    if shape is None:
        return AutoModelForSequenceClassification.from_pretrained(path).eval(), tokenizer
    torch.manual_seed(0)
    config = BertConfig(**SHAPES[shape], num_labels=2, pad_token_id=0)
    return AutoModelForSequenceClassification.from_config(config).eval(), tokenizer


def one_at_a_time(explain: Callable[[str], Any]) -> Callable[[Sequence[Text]], list[Tensor]]:
    """Explain each text by itself."""
    return lambda texts: [scores(explain(of.text)) for of in texts]


def together(explain: Callable[[list[str]], Any]) -> Callable[[Sequence[Text]], list[Tensor]]:
    """Explain all texts in one call."""
    return lambda texts: [scores(result) for result in explain([of.text for of in texts])]


def measured(
    ways: dict[str, Callable[[Sequence[Text]], list[Tensor]]], texts: Sequence[Text], turns: int
) -> dict[str, Record]:
    """Let each way take its turns, in alternating order."""
    records = {name: Record() for name in ways}
    for name, way in ways.items():  # first calls pay for what later ones do not
        records[name].scores = way(texts[:1]) and way(texts)
    for turn in range(turns):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            cpu, wall = time.process_time(), time.perf_counter()
            ways[name](texts)
            records[name].cpu.append(time.process_time() - cpu)
            records[name].wall.append(time.perf_counter() - wall)
    return records


def report(
    records: dict[str, Record], texts: Sequence[Text], n_ablations: int
) -> Iterator[dict[str, Any]]:
    """Rows a second, and ratios to FeatureAblation and the bare passes at their best."""
    n_rows = sum(len(of.positions) + 1 for of in texts)

    def seconds(name: str) -> float:
        return statistics.median(records[name].cpu)

    best = min(list(records)[:n_ablations], key=seconds)
    barest = min(list(records)[n_ablations : 2 * n_ablations], key=seconds)
    truth = records[best].scores
    for name, record in records.items():
        gap = max(
            float((mine - theirs).abs().max() / theirs.abs().max())
            for mine, theirs in zip(record.scores, truth, strict=True)
        )
        yield {
            "way": name,
            "best": name in (best, barest),
            "rows_per_cpu_s": n_rows / seconds(name),
            "rows_per_s": n_rows / statistics.median(record.wall),
            "of_ablation": seconds(best) / seconds(name),
            "of_bare": seconds(barest) / seconds(name),
            "differs": gap,
        }


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("--model", required=True, help='folder of a classifier, or "demo"')
    add("--data", type=Path, required=True, help="TSV file with a column `sentence`")
    add("--shape", choices=SHAPES, help="random weights of a shape; the tokenizer is the model's")
    add("--texts", type=int, default=12)
    add("--tokens", type=int, help="tokens of each text; default: sentences")
    add("--turns", type=int, default=5)
    add("--threads", type=int, default=1)
    add("--sizes", type=int, nargs="+", default=SIZES, help="rows in a pass, to find the best")
    add("--before", type=Path, help="checkout of an earlier version")
    add("--compile", action="store_true", help="also a corpus with compile=True")
    add_record_option(options)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    before = None if chosen.before is None else earlier(chosen.before)
    from captum_sig import TextClassificationExplainer

    model, tokenizer = loaded(chosen.model, chosen.shape)
    explainer = TextClassificationExplainer(model, tokenizer)
    texts = [
        prepared(explainer, text)
        for text in texts_of(chosen.data, tokenizer, chosen.texts, chosen.tokens)
    ]
    ways: dict[str, Callable[[Sequence[Text]], list[Tensor]]] = {}
    for size in chosen.sizes:
        ways[f"FeatureAblation, {size}"] = lambda texts, size=size: [
            ablated(model, of, size) for of in texts
        ]
    for size in chosen.sizes:
        ways[f"bare passes, {size}"] = lambda texts, size=size: [
            bare(model, of.rows, of.target, size) for of in texts
        ]
    if before is not None:
        of_before = before(model, tokenizer)
        ways["before, one at a time"] = one_at_a_time(of_before)
        ways["before, corpus"] = together(of_before)
    ways["one at a time"] = one_at_a_time(explainer)
    ways["corpus"] = together(explainer)
    if chosen.compile:
        from captum_sig.explainers.compiled import compile_explainer

        of_compiled = TextClassificationExplainer(*loaded(chosen.model, chosen.shape))
        of_compiled(texts[0].text)
        compile_explainer(of_compiled, lambda: of_compiled(texts[0].text))
        ways["corpus, compiled"] = together(of_compiled)
    print(machine(torch.device("cpu")))
    lengths = [of.ids.shape[1] for of in texts]
    print(f"{len(texts)} texts of {min(lengths)} to {max(lengths)} tokens")
    records = measured(ways, texts, chosen.turns)
    rows = [
        {"model": Path(chosen.model).name, **row}
        for row in report(records, texts, len(chosen.sizes))
    ]
    show_and_record(chosen, __spec__.name, {"ways": rows})
    print(f"the head reads: {explainer.facts.read_positions}")


if __name__ == "__main__":
    main()

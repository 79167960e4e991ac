"""Exact word scores against time_interpret's SIG, sentence by sentence, in alternating order.

    python -m tests.benchmarks.exact_words --model FOLDER --data dev.tsv --tint tint/attr/seq_ig.py

`--tint` is the file of that name from the package `time-interpret`; it is loaded on its own, so
that its package need not be installed.
"""

import argparse
import csv
import importlib.util
import sys
import time
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import captum._utils.typing
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from captum_sig import LayerSequentialIntegratedGradients, TextClassificationExplainer, baselines


def load_tint(path: Path) -> Any:
    """The class in time_interpret's `seq_ig.py`, without the rest of its package."""
    captum._utils.typing.Literal = typing.Literal  # it imports the name from there
    sys.modules["tint"] = types.ModuleType("tint")
    sys.modules["tint.utils"] = types.ModuleType("tint.utils")
    sys.modules["tint.utils"].get_progress_bars = lambda: lambda items, **_: items
    spec = importlib.util.spec_from_file_location("tint.attr.seq_ig", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SequentialIntegratedGradients


def seconds(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Wall time of a call, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    """Print seconds for all sentences, ratios and the peer's error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "data", "tint"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)

    model = AutoModelForSequenceClassification.from_pretrained(options.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    with options.data.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(options.seed))
    sentences = [rows[i]["sentence"] for i in order[: options.sentences]]

    embedding = model.get_input_embeddings()
    ours = LayerSequentialIntegratedGradients(lambda ids: model(ids).logits, embedding)
    theirs = load_tint(options.tint)(lambda rows: model(inputs_embeds=rows).logits)
    explainer = TextClassificationExplainer(model, tokenizer, level="token")
    explainer(sentences)  # warm
    spent = dict.fromkeys(["exact words", "ours, n_steps=50", "tint, n_steps=50", "batch"], 0.0)
    worst = 0.0
    for _ in range(options.repeats):
        spent["batch"] += seconds(lambda: explainer(sentences))[0]
        for sentence in sentences:
            ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
            base = baselines.mask(tokenizer, ids)
            with torch.no_grad():
                target = int(model(ids).logits.argmax())
                x, b = embedding(ids), embedding(base)
            steps: dict[str, Any] = {"target": target, "n_steps": 50}
            calls = {
                "exact words": partial(ours.attribute_words, ids, base, target=target),
                "tint, n_steps=50": partial(theirs.attribute, x, baselines=b, **steps),
                "ours, n_steps=50": partial(ours.attribute, ids, base, **steps),
            }
            results = {}
            for name, call in calls.items():
                elapsed, results[name] = seconds(call)
                spent[name] += elapsed
            exact = results["exact words"]
            error = (results["tint, n_steps=50"].sum(-1) - exact).abs().max() / exact.abs().max()
            worst = max(worst, float(error))
    print(f"{len(sentences)} sentences, {options.repeats} repeats, seconds for all sentences:")
    for name, total in spent.items():
        print(f"  {name:18} {total / options.repeats:8.3f}")
    for name in ("exact words", "ours, n_steps=50", "batch"):
        print(f"tint takes {spent['tint, n_steps=50'] / spent[name]:.1f} times as long as {name}")
    print(f"tint's worst word is off by {worst:.1e} of the sentence's strongest word")


if __name__ == "__main__":
    main()

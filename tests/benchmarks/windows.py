"""A text beyond a classifier's limit in windows: seconds, windows, and a plain loop beside it.

    python -m tests.benchmarks.windows --model FOLDER --data dev.tsv --tokens 1200

The text is made of the sentences of a TSV file. The plain loop replaces a word's ids, cuts the
whole text into windows and evaluates all of them, for a few words; its time for all is scaled.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_sig import TextClassificationExplainer, WordAttribution
from tests.benchmarks.measure import rows_through


def long_text(sentences: Sequence[str], tokenizer: Any, n_tokens: int) -> str:
    """As many sentences as it takes to reach so many tokens."""
    text = ""
    for sentence in sentences:
        if len(tokenizer(text, verbose=False)["input_ids"]) >= n_tokens:
            break
        text += f"{sentence} "
    return text.strip()


def plain_loop(
    explain: TextClassificationExplainer, text: str, stride: int, target: int
) -> Callable[[tuple[int, int] | None], float]:
    """The mean logit of a text's windows without the word at these characters, if any."""
    tokenizer, model = explain.tokenizer, explain.model
    encoding = tokenizer(text, verbose=False, return_offsets_mapping=True)
    limit, places = explain.encoder.limit, encoding["offset_mapping"]

    def logit(window: Sequence[int]) -> Tensor:
        return model(input_ids=torch.tensor([window], device=model.device)).logits[0, target]

    @torch.no_grad()
    def without(word: tuple[int, int] | None) -> float:
        start, end = word or (0, 0)
        ids = [
            tokenizer.mask_token_id if start <= first < last <= end else number
            for number, (first, last) in zip(encoding["input_ids"], places, strict=True)
        ]
        body, room = ids[1:-1], limit - 2
        starts = range(0, max(1, len(body) - stride), room - stride)
        windows = [[ids[0], *body[start : start + room], ids[-1]] for start in starts]
        return float(torch.stack([logit(window) for window in windows]).mean())

    return without


def measure(
    explain: TextClassificationExplainer, text: str, stride: int, n_words: int
) -> dict[str, Any]:
    """Explain a text, and its strongest words by the plain loop."""
    explain("a short text", 1)  # the first call pays for what later ones do not
    with rows_through(explain.model) as windows:
        begun, cpu = time.perf_counter(), time.thread_time()
        found: WordAttribution = explain(text, 1)
        seconds, cpu = time.perf_counter() - begun, time.thread_time() - cpu
    strongest = sorted(found.words, key=lambda word: -abs(word.score))[:n_words]
    without = plain_loop(explain, text, stride, 1)
    with rows_through(explain.model) as of_loop:
        begun = time.thread_time()
        whole = without(None)
        differences = [whole - without((word.start, word.end)) for word in strongest]
        per_word = (time.thread_time() - begun) / (1 + n_words)
    errors = [abs(word.score - wanted) for word, wanted in zip(strongest, differences, strict=True)]
    return {
        "tokens": len(explain.tokenizer(text, verbose=False)["input_ids"]),
        "words": len(found.words),
        "seconds": seconds,
        "thread_seconds": cpu,
        "windows": windows.forward,
        "loop_windows": of_loop.forward // (1 + n_words) * (1 + len(found.words)),
        "loop_thread_seconds": per_word * (1 + len(found.words)),
        "largest_error": max(errors),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.windows", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("--model", type=Path, required=True, help="folder of a classifier")
    options.add_argument("--data", type=Path, required=True, help="TSV file; its first column")
    options.add_argument("--tokens", type=int, default=1200)
    options.add_argument("--stride", type=int, default=128)
    options.add_argument("--words", type=int, default=8, help="of the plain loop")
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args(arguments)
    explain = TextClassificationExplainer.from_pretrained(
        chosen.model, stride=chosen.stride, device=chosen.device
    )
    rows = chosen.data.read_text(encoding="utf-8").splitlines()[1:]
    sentences = [row.split("\t")[0] for row in rows]
    text = long_text(sentences, explain.tokenizer, chosen.tokens)
    print(json.dumps(measure(explain, text, chosen.stride, chosen.words), indent=1))


if __name__ == "__main__":
    main()

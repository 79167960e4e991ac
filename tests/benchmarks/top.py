"""What `top=m` finds of the strongest words, what it costs, and what its audit promises.

    python -m tests.benchmarks.top --model minilm-sst2 --data sst2/dev.tsv rotten-tomatoes/dev.tsv

Beside the full two-sided sweep of the same texts, one text at a time: the share of its five
strongest words that are among the m with exact rows; rows (one with a gradient counts three times)
and CPU seconds as a fraction of the sweep's; how often an estimated word exceeds the audit's bound.
"""

import argparse
import csv
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import torch

from captum_sig import TextClassificationExplainer
from captum_sig.explainers import top
from captum_sig.explainers.results import WordAttribution
from tests.benchmarks.record import add_record_option, show_and_record

STRONGEST = 5
METHOD = "sig:two_sided"
FRACTIONS = {25: (1 / 4, 1 / 3, 1 / 2, 1), 100: (1 / 12, 1 / 8, 1 / 4), 400: (1 / 16, 1 / 8, 1 / 4)}


def sentences(path: Path) -> list[str]:
    """A TSV file's column `sentence`."""
    with path.open(encoding="utf-8") as file:
        return [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=3)]


def texts_of(length: int, count: int, files: Sequence[Path], tokenizer: Any) -> list[str]:
    """Sentences of the first file near a length in tokens, or texts joined from all files."""
    short = length < 50
    pool = [text for path in (files[:1] if short else files) for text in sentences(path)]
    random.Random(0).shuffle(pool)

    def n_tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    if short:
        return [text for text in pool if length - 2 <= n_tokens(text) <= length + 4][:count]
    texts, text = [], ""
    for sentence in pool:
        text = f"{text} {sentence}".strip()
        n = n_tokens(text)
        if n >= 0.97 * length and n <= 1.03 * length and len(texts) < count:
            texts.append(text)
        if n >= 0.97 * length:
            text = ""
    return texts


def timed(call: Callable[[], WordAttribution]) -> tuple[WordAttribution, float]:
    """The result and its CPU seconds: other processes on the machine do not count."""
    start = time.process_time()
    return call(), time.process_time() - start


class Sweeps:
    """Full sweeps by text: scores and CPU seconds, kept in a file between runs."""

    def __init__(self, explainer: TextClassificationExplainer, path: Path | None) -> None:
        """Read the file, if there is one."""
        self.explainer, self.path = explainer, path
        exists = path is not None and path.exists()
        self.known: dict[str, Any] = json.loads(path.read_text()) if path and exists else {}

    def __call__(self, text: str) -> tuple[list[float], float]:
        """Look up a text, or sweep it."""
        if text not in self.known:
            result, seconds = timed(lambda: self.explainer(text, method=METHOD))
            self.known[text] = [result.scores, seconds]
            if self.path:
                self.path.write_text(json.dumps(self.known))
        scores, seconds = self.known[text]
        return scores, seconds


@dataclass(frozen=True)
class Finding:
    """What `top=m` made of a text."""

    share: float  # of the strongest words that are among the m
    rows: float  # of the sweep's
    seconds: float  # of the sweep's
    above: float | None  # fraction of the estimated words above the bound
    promised: float | None  # that fraction's expectation: 1 − confidence
    any_above: bool | None


def finding(scores: Sequence[float], result: WordAttribution, m: int, seconds: float) -> Finding:
    """Compare with the full sweep's scores."""
    order = sorted(range(len(scores)), key=lambda i: -abs(scores[i]))
    hits = [result.words[i].evidence == "exact" for i in order[:STRONGEST]]
    plan = top.Plan(len(scores), m, n_backgrounds=2, both_sides=True)
    above = [
        abs(score) > result.audit.bound
        for score, word in zip(scores, result.words, strict=True)
        if result.audit is not None and word.evidence == "estimated"
    ]
    return Finding(
        share=mean(hits),
        rows=plan.n_rows / (2 * (len(scores) + 1)),
        seconds=seconds,
        above=mean(above) if above else None,
        promised=None if result.audit is None else 1 - result.audit.confidence,
        any_above=any(above) if above else None,
    )


def findings(
    explainer: TextClassificationExplainer, sweeps: Sweeps, texts: Sequence[str], fraction: float
) -> Iterator[tuple[int, Finding]]:
    """Explain each text's strongest words: m is a fraction of its words."""
    for text in texts:
        scores, of_sweep = sweeps(text)
        m = max(1, round(fraction * len(scores)))
        result, seconds = timed(lambda: explainer(text, method=METHOD, top=m))  # noqa: B023
        yield m, finding(scores, result, m, seconds / of_sweep)


def row(length: int, found: Sequence[tuple[int, Finding]]) -> dict[str, Any]:
    """A row of the table."""
    of_texts = [finding for _, finding in found]
    audited = [finding for finding in of_texts if finding.above is not None]

    def mean_of(values: Sequence[Any]) -> float | None:
        return float(mean(values)) if values else None

    return {
        "tokens": length,
        "texts": len(found),
        "m": float(mean(m for m, _ in found)),
        "share": mean_of([finding.share for finding in of_texts]),
        "rows": mean_of([finding.rows for finding in of_texts]),
        "seconds": mean_of([finding.seconds for finding in of_texts]),
        "promised_above": mean_of([finding.promised for finding in audited]),
        "above_the_bound": mean_of([finding.above for finding in audited]),
        "any_above": mean_of([finding.any_above for finding in audited]),
    }


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.top", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--model", type=Path, required=True, help="folder of a text classifier")
    add("--data", type=Path, nargs="+", required=True, help="TSV files with a column `sentence`")
    add("--lengths", type=int, nargs="+", default=list(FRACTIONS), help="of the texts, in tokens")
    add("--texts", type=int, nargs="+", default=[100, 40, 40], help="how many of each length")
    add("--fractions", type=float, nargs="+", help="m as a fraction of the words")
    add("--sweeps", type=Path, help="JSON file that keeps the full sweeps between runs")
    add("--always-screen", action="store_true", help="short texts too, which are explained in full")
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parser().parse_args(arguments)
    explainer = TextClassificationExplainer.from_pretrained(options.model, level="token")
    sweeps = Sweeps(explainer, options.sweeps)
    rows = []
    worthwhile = torch.inf if options.always_screen else top.WORTHWHILE
    with patch.object(top, "WORTHWHILE", worthwhile):
        for length, count in zip(options.lengths, options.texts, strict=False):
            texts = texts_of(length, count, options.data, explainer.tokenizer)
            for fraction in options.fractions or FRACTIONS.get(length, (1 / 8, 1 / 4)):
                found = list(findings(explainer, sweeps, texts, fraction))
                rows.append(row(length, found))
    show_and_record(options, __spec__.name, {"shares": rows})


if __name__ == "__main__":
    main()

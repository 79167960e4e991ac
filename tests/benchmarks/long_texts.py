"""Texts of 512 tokens for a classifier: what zoom opens of a full sweep's strongest words."""

import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captum_sig._files import replacing
from tests.benchmarks import task_data
from tests.benchmarks.measure import rows_through
from tests.demo_model.train import read

TOKENS = 512
SENTENCES_A_PARAGRAPH = 5
STRONG = 3  # sentences with a sentiment in a planted text
STRONGEST = 10  # words that zoom should open
SHARES = (1 / 20, 1 / 10, 1 / 5, 1 / 3)  # budgets, in rows of the full sweep
Sentences = Callable[[random.Random], Iterable[str]]


@dataclass(frozen=True)
class Sweep:
    """Scores of a text's words, each by its first character, and what they cost."""

    starts: np.ndarray
    scores: np.ndarray
    rows: int
    seconds: float  # of this thread

    def strongest(self) -> set[int]:
        """The first characters of the words with the largest absolute scores."""
        order = np.argsort(-np.abs(self.scores), kind="stable")
        return set(self.starts[order[:STRONGEST]].tolist())


def tidy(sentence: str) -> str:
    """A sentence as people write it: "it's good , if long ." becomes "It's good, if long."."""
    text = re.sub(r" ([.,;:!?')])", r"\1", sentence.strip()).replace("( ", "(")
    text = text[:1].upper() + text[1:]
    return text if text[-1:] in ".!?" else f"{text}."


def as_paragraphs(sentences: Sequence[str]) -> str:
    """Five sentences a paragraph, blank lines between."""
    step = SENTENCES_A_PARAGRAPH
    parts = (sentences[start : start + step] for start in range(0, len(sentences), step))
    return "\n\n".join(" ".join(part) for part in parts)


def fill(tokenizer: Any, sentences: Iterable[str]) -> str:
    """As many of the sentences, in paragraphs, as the tokens have room for."""
    taken: list[str] = []
    for sentence in sentences:
        if len(tokenizer(as_paragraphs([*taken, sentence]))["input_ids"]) > TOKENS:
            break
        taken.append(sentence)
    return as_paragraphs(taken)


def review(data: Path) -> Sentences:
    """Sentences of reviews, three in four of one sentiment."""
    texts, labels = read(data / "rotten-tomatoes" / "dev.tsv")
    of_label = [[tidy(t) for t, one in zip(texts, labels, strict=True) if one == label]
                for label in (0, 1)]  # fmt: skip

    def sentences(rng: random.Random) -> Iterable[str]:
        label = rng.randrange(2)
        while True:
            yield rng.choice(of_label[label if rng.random() < 0.75 else 1 - label])

    return sentences


def planted(rng: random.Random) -> Iterable[str]:
    """Sentences that say who did what where, and three among the first thirty that judge."""
    at = set(rng.sample(range(30), STRONG))
    told = task_data.deeds(rng, False, 8)
    strong = iter(task_data.planted_reviews(rng, STRONG))
    for number in range(10**6):
        if not told:
            told = task_data.deeds(rng, False, 8)
        yield tidy(next(strong).text) if number in at else told.pop().sentence


def texts(tokenizer: Any, kind: str, data: Path, n: int, seed: int) -> list[str]:
    """So many texts: "reviews" or "planted"."""
    sentences = review(data) if kind == "reviews" else planted
    return [fill(tokenizer, sentences(random.Random(f"{kind} {seed} {n}"))) for n in range(n)]


def full_sweep(explainer: Any, text: str, path: Path) -> Sweep:
    """All words of a text, kept in a file: a sweep takes minutes."""
    if not path.exists():
        with rows_through(explainer.model) as rows:
            begun = time.thread_time()
            words = explainer(text).words
            seconds = time.thread_time() - begun
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file, starts=[word.start for word in words],
                scores=[word.score for word in words], rows=rows.forward, seconds=seconds,
            )  # fmt: skip
    with np.load(path) as kept:
        return Sweep(kept["starts"], kept["scores"], int(kept["rows"]), float(kept["seconds"]))


@dataclass(frozen=True)
class Zoomed:
    """What a zoom opened of the strongest words of the full sweep, and its cost as shares."""

    opened: float
    rows: float
    seconds: float
    gap: float  # logits, the largest of a word's exact score


def zoom(explainer: Any, text: str, sweep: Sweep, share: float) -> Zoomed:
    """Explain with a share of the full sweep's rows as the budget."""
    with rows_through(explainer.model) as rows:
        begun = time.thread_time()
        result = explainer(text, level="auto", budget=max(1, int(share * sweep.rows)))
        seconds = time.thread_time() - begun
    words = [node for node in result.nodes if node.state in ("scored", "audited")]
    scores = dict(zip(sweep.starts.tolist(), sweep.scores.tolist(), strict=True))
    opened = {word.start for word in words}
    return Zoomed(
        len(opened & sweep.strongest()) / STRONGEST, rows.forward / sweep.rows,
        seconds / sweep.seconds,
        max((abs(word.effects[result.shown] - scores[word.start]) for word in words), default=0.0),
    )  # fmt: skip


def report(
    explainer: Any, data: Path, folder: Path, n: int, seed: int, *, only_sweeps: bool = False
) -> list[dict[str, Any]]:
    """Return a row for each kind of text and budget; or make the full sweeps alone."""
    table = []
    for kind in ("reviews", "planted"):
        known = []
        for number, text in enumerate(texts(explainer.tokenizer, kind, data, n, seed)):
            path = folder / f"{kind}-{seed}-{number}.npz"
            known.append((text, full_sweep(explainer, text, path)))
            if only_sweeps:
                sweep = known[-1][1]
                print(f"{kind} {number}: {sweep.rows} rows, {sweep.seconds:.0f} s", flush=True)
        for share in () if only_sweeps else SHARES:
            found = [zoom(explainer, text, sweep, share) for text, sweep in known]
            opened, rows, seconds = (
                statistics.mean(getattr(one, name) for one in found)
                for name in ("opened", "rows", "seconds")
            )
            table.append({
                "texts": kind, "number": n, "budget": share, "of_the_strongest": opened,
                "rows": rows, "seconds": seconds, "gap": max(one.gap for one in found),
            })  # fmt: skip
    return table

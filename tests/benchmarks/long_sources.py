"""Sentences as sources, beside `context-cite`, which fits a sparse linear model to ablated prompts.

Both play the same games. "removed": a sentence that is left out is cut from the text, as
`context-cite` has it. "replaced": its tokens are the unknown token, as ours are with
`baseline="unk"`. The truth is exact leave-one-out of sentences in the same game.
"""

import functools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from captum_sig import TextGenerationExplainer
from tests.benchmarks import retrieval_data
from tests.benchmarks.long_texts import tidy
from tests.benchmarks.measure import rows_through
from tests.benchmarks.peers import Citer
from tests.demo_model.train import read

Keeps = np.ndarray  # which sentences stay, (S,) booleans
Game = Callable[[Keeps], str]  # → the prompt
GAMES = ("removed", "replaced")
CONTEXTS = ("input", "two_sided")  # of ours
NEW_TOKENS = 8  # of a target that is generated
SENTENCES = 12  # of a prompt of reviews
ROOM = 200  # tokens of such a prompt at most


@dataclass(frozen=True)
class Sources:
    """A prompt as sentences, what follows them, and the target."""

    sentences: tuple[str, ...]  # each with the blanks before it
    query: str
    target: str
    holding: frozenset[int] = frozenset()  # the sentences that hold the answer, where one does

    @property
    def context(self) -> str:
        """All sentences."""
        return "".join(self.sentences)

    @property
    def units(self) -> list[tuple[int, int]]:
        """Where each sentence stands, without the blanks."""
        spans, end = [], 0
        for sentence in self.sentences:
            end += len(sentence)
            spans.append((end - len(sentence.lstrip()), end))
        return spans

    def game(self, name: str, tokenizer: Any) -> Game:
        """The sentences that stay; in place of the others nothing, or as many unknown tokens."""
        gaps = [""] * len(self.sentences)
        if name == "replaced":
            lengths = [len(tokenizer(s, add_special_tokens=False)["input_ids"])
                       for s in self.sentences]  # fmt: skip
            gaps = [tokenizer.unk_token * length for length in lengths]

        def context(keeps: Keeps) -> str:
            parts = zip(self.sentences, gaps, keeps, strict=True)
            return "".join(sentence if stays else gap for sentence, gap, stays in parts)

        return context


def of_passages(n_passages: int, n: int, seed: int) -> Iterator[Sources]:
    """Planted prompts, half of them with two passages that say the same."""
    rng = random.Random(seed)
    for number in range(n):
        told, fact = retrieval_data.planted(rng, n_passages, 1 + number % 2)
        sentences, holding = [], []
        for passage in told.passages:
            for place, sentence in enumerate(retrieval_data.sentences(passage)):
                if fact.name in sentence:
                    holding.append(len(sentences))
                sentences.append(("" if not sentences else " " if place else "\n\n") + sentence)
        yield Sources(tuple(sentences), f"\n\n{fact.question}", f" {fact.code}", frozenset(holding))


def of_reviews(model: Any, tokenizer: Any, data: Path, n: int, seed: int) -> Iterator[Sources]:
    """Sentences of reviews, and what the model says next."""
    known, _ = read(data / "rotten-tomatoes" / "dev.tsv")
    rng = random.Random(seed)
    for _ in range(n):
        sentences: list[str] = []
        for text in rng.sample(known, SENTENCES):
            sentence = (" " if sentences else "") + tidy(text)
            if len(tokenizer("".join([*sentences, sentence]))["input_ids"]) > ROOM:
                break
            sentences.append(sentence)
        query = " This film is"
        ids = tokenizer("".join(sentences) + query, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            whole = model.generate(ids, do_sample=False, max_new_tokens=NEW_TOKENS)
        yield Sources(tuple(sentences), query, tokenizer.decode(whole[0, ids.shape[1] :]))


@torch.inference_mode()
def log_probability(model: Any, tokenizer: Any, prompt: str, target: str) -> float:
    """log p(target | prompt)."""
    ids, new = (tokenizer(text, return_tensors="pt")["input_ids"] for text in (prompt, target))
    logits = model(input_ids=torch.cat([ids, new], 1)).logits[0, ids.shape[1] - 1 : -1].double()
    return float(logits.log_softmax(-1).gather(1, new.T).sum())


def leave_one_out(model: Any, tokenizer: Any, sources: Sources, game: Game) -> np.ndarray:
    """What log p(target) loses without each sentence, (S,), by a plain loop."""
    n = len(sources.sentences)
    rows = np.concatenate([np.ones((1, n), bool), ~np.eye(n, dtype=bool)])
    values = [
        log_probability(model, tokenizer, game(keeps) + sources.query, sources.target)
        for keeps in rows
    ]
    return values[0] - np.array(values[1:])


def found_first(scores: np.ndarray, holding: frozenset[int]) -> bool:
    """Whether those that hold the answer have the largest scores."""
    order = np.argsort(-np.abs(scores), kind="stable")
    return set(order[: len(holding)].tolist()) == holding


@dataclass
class Agreement:
    """How one method's scores of many prompts agree with exact leave-one-out."""

    ranks: list[float] = field(default_factory=list)
    firsts: list[bool] = field(default_factory=list)
    holders: list[bool] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Means over the prompts."""
        return {
            "prompts": len(self.rows), "rows": statistics.mean(self.rows),
            "rank_correlation": statistics.mean(self.ranks),
            "same_first": statistics.mean(self.firsts),
            "holders_first": statistics.mean(self.holders) if self.holders else None,
        }  # fmt: skip

    def add(self, scores: np.ndarray, exact: np.ndarray, sources: Sources, rows: int) -> None:
        """Count one prompt."""
        is_constant = np.ptp(scores) == 0
        self.ranks.append(0.0 if is_constant else float(spearmanr(scores, exact).statistic))
        self.firsts.append(bool(np.abs(scores).argmax() == np.abs(exact).argmax()))
        if sources.holding:
            self.holders.append(found_first(scores, sources.holding))
        self.rows.append(rows)


def scores_of(
    explainer: TextGenerationExplainer, sources: Sources, citer: Citer | None, ablations: int
) -> Iterator[tuple[str, str, Callable[[], np.ndarray]]]:
    """Each method with its game, and a call for its scores of one prompt."""
    model, tokenizer = explainer.model, explainer.tokenizer
    if citer is not None:
        for name in GAMES:
            game = sources.game(name, tokenizer)
            yield (
                "context-cite", name,
                functools.partial(citer, model, tokenizer, sources, game, ablations),
            )  # fmt: skip
    for contexts in CONTEXTS:
        call = functools.partial(
            explainer, sources.context + sources.query, sources.target, units=sources.units,
            contexts=contexts,
        )  # fmt: skip
        yield f"ours, {contexts}", "replaced", lambda call=call: call().sequence_scores.numpy()


def compare(
    model: Any, tokenizer: Any, prompts: Sequence[Sources], citer: Citer | None, ablations: int
) -> list[dict[str, Any]]:
    """Return a row for each method and game."""
    explainer = TextGenerationExplainer(model, tokenizer, baseline="unk")
    agreements: dict[tuple[str, str], Agreement] = {}
    for sources in prompts:
        exact = {
            name: leave_one_out(model, tokenizer, sources, sources.game(name, tokenizer))
            for name in GAMES
        }
        for method, game, call in scores_of(explainer, sources, citer, ablations):
            with rows_through(model) as rows:
                scores = call()
            agreement = agreements.setdefault((method, game), Agreement())
            agreement.add(scores, exact[game], sources, rows.forward)
    return [
        {"method": method, "game": game, **agreement.row()}
        for (method, game), agreement in agreements.items()
    ]

"""Do the words that must matter do? Models of every task, on texts that they have not seen.

    python -m tests.benchmarks.tasks --models FOLDER --data DATA

`python -m tests.benchmarks.train_tasks` makes the models, each in the folder that is its task's
name. Of each target the word with the largest absolute score is counted as a hit if it must matter;
"chance" is how often a word drawn at random would. Only targets that the model predicts rightly
count. With `--timings` it measures seconds instead: see `tests.benchmarks.task_timings`.
"""

import argparse
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import captum_sig
from captum_sig.explainers.results import Word
from tests.benchmarks import task_data, task_timings
from tests.benchmarks.record import add_record_option, show_and_record
from tests.benchmarks.task_data import Example, words_of

Judged = tuple[Sequence[Word], Collection[str]]  # a target's words, and those that must matter


@dataclass(frozen=True)
class Check:
    """How the words of one task are judged: text by text, each of its targets."""

    folder: str
    explainer: str  # class
    judge: Callable[[Any, random.Random, Path, int], Iterator[Judged]]


def of_entities(explainer: Any, rng: random.Random, _: Path, n: int) -> Iterator[Judged]:
    """An entity's own words and those beside it, of the entities that are found as they are."""
    examples = task_data.entities(rng, True, n)
    for example, result in zip(examples, explainer(texts_of(examples)), strict=True):
        known = {(start, end) for start, end, _ in example.answer}
        for target, attribution in zip(result.targets, result, strict=True):
            if (target.start, target.end) in known:
                near = task_data.near_entity(example.text, target.start, target.end)
                yield attribution.words, near


def of_answers(side: str | None) -> Callable[..., Iterator[Judged]]:
    """The answer, the word that asks, and what question and answer's sentence share."""

    def judge(explainer: Any, rng: random.Random, _: Path, n: int) -> Iterator[Judged]:
        examples = task_data.questions(rng, True, n)
        results = explainer([(example.text, example.pair) for example in examples])
        for example, result in zip(examples, results, strict=True):
            answer = result["start + end"]
            if (answer.target_start, answer.target_end) == example.answer:
                yield [word for word in answer.words if side in (None, word.side)], example.matters

    return judge


def of_gaps(explainer: Any, rng: random.Random, data: Path, n: int) -> Iterator[Judged]:
    """Two words on each side of the gap, for the token that is most likely there."""
    for example in task_data.gaps(rng, data, True, n):
        words = example.text.split()
        words[example.answer] = explainer.tokenizer.mask_token
        yield explainer(" ".join(words), top_k=1)[0].words, example.matters


def of_similar(explainer: Any, rng: random.Random, data: Path, n: int) -> Iterator[Judged]:
    """The words that both texts have."""
    examples = task_data.neighbours(rng, data, True, n)
    for example, result in zip(examples, explainer(pairs_of(examples)), strict=True):
        yield result.words, example.matters


def of_candidates(explainer: Any, rng: random.Random, _: Path, n: int) -> Iterator[Judged]:
    """The one word with a sentiment."""
    examples = task_data.planted_reviews(rng, n)
    results = explainer(texts_of(examples), task_data.SENTIMENTS)
    for example, result in zip(examples, results, strict=True):
        if result.label == example.answer:
            yield result[example.answer].words, example.matters


def of_hypotheses(explainer: Any, rng: random.Random, _: Path, n: int) -> Iterator[Judged]:
    """The same of a pair: the word with a sentiment, and the one that the hypothesis has."""
    examples = task_data.planted_reviews(rng, n)
    pairs = [(example.text, f"This example is {example.answer}.") for example in examples]
    for example, result in zip(examples, explainer(pairs), strict=True):
        if result.label == "entailment":
            yield result.words, {*example.matters, example.answer}


def of_labels(explainer: Any, rng: random.Random, data: Path, n: int) -> Iterator[Judged]:
    """The words of the piece that has the label, of texts with several labels."""
    texts = task_data.labelled(data, rng, True, n)
    joined = [" ".join(text for text, _ in pieces) for pieces in texts]
    for pieces, result in zip(texts, explainer(joined, ">0.5"), strict=True):
        kinds = [kind for _, kind in pieces]
        for name in set(result.rows) & set(kinds) if len(set(kinds)) > 1 else ():
            of_label = (words_of(text) for text, kind in pieces if kind == name)
            yield result[name].words, {word for words in of_label for word in words}


def of_stars(explainer: Any, rng: random.Random, _: Path, n: int) -> Iterator[Judged]:
    """The one word with a sentiment, which raises or lowers the value."""
    examples = task_data.planted_reviews(rng, n)
    for example, result in zip(examples, explainer(texts_of(examples)), strict=True):
        is_high = result.value > 3
        if is_high == (example.answer == "positive"):
            agreeing = [word for word in result.words if (word.score > 0) == is_high]
            yield result.words, {w.word.lower() for w in agreeing} & example.matters


def of_passages(explainer: Any, rng: random.Random, _: Path, n: int) -> Iterator[Judged]:
    """The words of the question that the passage has."""
    examples = [one for one in task_data.passages(rng, True, 2 * n) if one.answer == 1]
    for example, result in zip(examples, explainer(pairs_of(examples)), strict=True):
        if result.value > 0.5:
            yield result.words, example.matters


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Their first texts."""
    return [example.text for example in examples]


def pairs_of(examples: Sequence[Example]) -> list[tuple[str, str | None]]:
    """Both texts of each."""
    return [(example.text, example.pair) for example in examples]


CLASSIFIER = "TextClassificationExplainer"
CHECKS = {
    "entities: own words, and those beside": Check(
        "ner", "TokenClassificationExplainer", of_entities
    ),
    "answers: in both": Check("qa", "QuestionAnsweringExplainer", of_answers(None)),
    "answers: in the question": Check("qa", "QuestionAnsweringExplainer", of_answers("text")),
    "answers: in the context": Check("qa", "QuestionAnsweringExplainer", of_answers("text_pair")),
    "gaps: two words on each side": Check("fill-mask", "FillMaskExplainer", of_gaps),
    "similar texts: words of both": Check("similarity", "SimilarityExplainer", of_similar),
    "zero-shot: the word with a sentiment": Check(
        "nli", "ZeroShotClassificationExplainer", of_candidates
    ),
    "pairs: that word, and the hypothesis'": Check("nli", CLASSIFIER, of_hypotheses),
    "labels above 0.5: words of their piece": Check("multi-label", CLASSIFIER, of_labels),
    "stars: the word with a sentiment": Check("stars", CLASSIFIER, of_stars),
    "relevance: words of question and passage": Check("reranker", CLASSIFIER, of_passages),
}


def hit_and_chance(words: Sequence[Word], must: Collection[str]) -> tuple[bool, float]:
    """Whether the word with the largest score must matter, and how often a random one would.

    A word is what the tokenizer makes of it: "it's" may be three.
    """
    fits = [bool(set(words_of(word.word)) & set(must)) for word in words]
    strongest = max(range(len(words)), key=lambda number: abs(words[number].score))
    return fits[strongest], sum(fits) / len(fits)


def report(
    models: Path, data: Path, names: Sequence[str], n: int, seed: int
) -> Iterator[dict[str, Any]]:
    """A row for each check."""
    for name in names:
        check = CHECKS[name]
        explainer = getattr(captum_sig, check.explainer).from_pretrained(models / check.folder)
        start = time.perf_counter()
        judged = [
            hit_and_chance(words, must)
            for words, must in check.judge(explainer, random.Random(seed), data, n)
            if words
        ]
        seconds = (time.perf_counter() - start) / n
        hits, chances = zip(*judged, strict=True)
        yield {
            "check": name, "targets": len(hits), "hits": sum(hits), "hit": sum(hits) / len(hits),
            "chance": sum(chances) / len(chances), "s_per_text": seconds,
        }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.tasks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--models", type=Path, help="folder with a folder for each task")
    add("--data", type=Path, help="folder with sst2 and trec")
    add("--checks", nargs="+", default=list(CHECKS), help="default: all", metavar="CHECK")
    add("--texts", type=int, default=100, help="texts of each check")
    add("--seed", type=int, default=1)
    add("--timings", action="store_true", help="measure seconds of --model instead")
    add("--model", type=Path, help="folder of a text classifier, for --timings")
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge or measure."""
    options = parser().parse_args(arguments)
    if options.timings:
        tables, figures = task_timings.report(options.model, options.data)
    else:
        chosen = [name for name in CHECKS if any(name.startswith(c) for c in options.checks)]
        rows = report(options.models, options.data, chosen, options.texts, options.seed)
        tables, figures = {"checks": list(rows)}, {}
    show_and_record(options, __spec__.name, tables, figures)


if __name__ == "__main__":
    main()

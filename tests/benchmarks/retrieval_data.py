"""Prompts of numbered passages and a question that one or two of them answer, for a small model.

Every passage is about a name of its own and holds a code: a thing and a number. The question asks
for the code of one name. A name stands in one passage of a prompt, or in two that say the same in
other words, so it is known which passages an explanation must find.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.task_data import ANY_NAME, PLACES, names

NAMES = sorted({*ANY_NAME, *PLACES})
CODES = names("""
lantern violin mirror carpet piano statue clock garden tower bicycle wagon chapel mill anchor
basket candle drum feather glove hammer island jacket kettle ladder marble needle orchard pillow
quilt ribbon saddle teapot umbrella valley whistle bridge boat house barrel compass desk engine
falcon guitar harbor ivory jewel knife lemon magnet nickel ocean parrot rocket spoon tiger velvet
walnut zebra acorn button""")
NUMBERS = range(10, 40)
FACTS = [
    "The code of {name} is {code}.",
    "For {name} the clerk wrote down {code}.",
    "Visitors of {name} have to say {code} at the gate.",
    "In the old book {name} stands beside {code}.",
    "We were told that {name} answers to {code}.",
    "On the door of {name} someone has painted {code}.",
    "The guard who knows {name} asked us for {code} again.",
    "Nobody comes to {name} without the words {code} on paper.",
]
FILLERS = [
    "It was a quiet day, and nobody asked why.",
    "The road there is long and full of stones.",
    "Rain fell on the roofs all night.",
    "We left early with the first train.",
    "An old man sold bread and apples there.",
    "Later the same people came back on foot.",
    "Some say that the winter was very cold.",
    "Nothing else is known about that evening.",
]
QUESTION = "Question: What is the code of {name}? Please answer with the code:"


@dataclass(frozen=True)
class Fact:
    """A name and its code."""

    name: str
    code: str

    @property
    def question(self) -> str:
        return QUESTION.format(name=self.name)


@dataclass(frozen=True)
class Retrieval:
    """Passages, each with the fact that it holds, and the facts that may be asked for."""

    passages: tuple[str, ...]
    facts: tuple[Fact, ...]  # of each passage

    def holding(self, fact: Fact) -> list[int]:
        """The passages, from 0, that say it."""
        return [number for number, held in enumerate(self.facts) if held == fact]

    @property
    def units(self) -> list[tuple[int, int, str]]:
        """The characters of each passage in a prompt, and its name."""
        units, start = [], 0
        for number, passage in enumerate(self.passages, 1):
            units.append((start, start + len(passage), f"passage {number}"))
            start += len(passage) + 2
        return units

    def prompt(self, fact: Fact) -> str:
        """All passages, a blank line between them, and the question."""
        return "\n\n".join([*self.passages, fact.question])


def facts(rng: random.Random, n: int) -> list[Fact]:
    """Facts that differ in name and thing."""
    pairs = zip(rng.sample(NAMES, n), rng.sample(CODES, n), strict=True)
    return [Fact(name, f"{code} {rng.choice(NUMBERS)}") for name, code in pairs]


def retrieval(rng: random.Random, n_passages: int, n_twice: int, n_fillers: int) -> Retrieval:
    """So many passages, of which `n_twice` pairs say the same in other words.

    Beside the fact each has `n_fillers` sentences that say nothing of it.
    """
    told = facts(rng, n_passages - n_twice)
    held = told + told[:n_twice]
    templates = {fact: rng.sample(FACTS, 2) for fact in told}
    sentences = [templates[fact][n >= len(told)] for n, fact in enumerate(held)]
    order = rng.sample(range(n_passages), n_passages)
    passages = []
    for number, n in enumerate(order, 1):
        parts = rng.sample(FILLERS, n_fillers)
        fact = sentences[n].format(name=held[n].name, code=held[n].code)
        parts.insert(rng.randint(0, n_fillers), fact)
        passages.append(f"Passage {number}: {' '.join(parts)}")
    return Retrieval(tuple(passages), tuple(held[n] for n in order))


def planted(rng: random.Random, n_passages: int, n_holding: int) -> tuple[Retrieval, Fact]:
    """A prompt's passages and a fact that `n_holding` (one or two) of them hold."""
    told = retrieval(rng, n_passages, 2, 2)
    wanted = [fact for fact in told.facts if len(told.holding(fact)) == n_holding]
    return told, rng.choice(wanted)


def sentences(passage: str) -> list[str]:
    """A passage's sentences; its number belongs to the first."""
    return re.findall(r"[^.]+\.", passage.replace(". ", "."))


def vocabulary(n_passages: int) -> Sequence[str]:
    """All words and signs of these prompts."""
    signs = [".", ",", ":", "?"]
    texts = " ".join([*FACTS, *FILLERS, QUESTION]).replace("{name}", "").replace("{code}", "")
    for sign in signs:
        texts = texts.replace(sign, " ")
    numbers = map(str, range(1, max(n_passages, NUMBERS.stop - 1) + 1))
    return sorted({*signs, "Passage", *texts.split(), *NAMES, *CODES, *numbers})

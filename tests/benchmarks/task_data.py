"""Texts for a model of each task, with the words that must matter: templates, and data at hand.

Names in templates are split, so that a model is judged on names that it has not seen.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.demo_model.train import read

Span = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """A text or a pair, what a model is to say of it, and the words that must matter for that."""

    text: str
    answer: Any = None  # spans with labels, a span, a label, a number, or a set of labels
    pair: str | None = None
    matters: frozenset[str] = frozenset()  # in lower case


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without signs."""
    return re.findall(r"\w+", text.lower())


def names(text: str) -> list[str]:
    """The names in a text."""
    return text.split()


# What people, places and organisations are called, and names that are any of these.
FIRST = names("""
Anna Boris Clara David Elena Farid Greta Hugo Ines Jonas Karim Laura Martin Nadia Oscar
Paula Quentin Rosa Stefan Tara Ulrich Vera Walter Yusuf Zoe Alice Brian Carol Daniel Emma Frank
Grace Henry Irene James Kate Louis Maria Nora Oliver Peter Ruth Simon Teresa Victor""")
LAST = names("""
Keller Novak Brandt Silva Moreau Haddad Lindgren Rossi Weber Okafor Tanaka Kowalski Petrov
Fischer Dubois Santos Larsen Murphy Nguyen Patel Schmidt Torres Ueda Varga Walsh Yilmaz Zimmer
Andersen Bennett Castro Delgado Evans Ferrari Gupta Hansen""")
PLACES = names("""
Oslo Lisbon Prague Vienna Dublin Athens Madrid Warsaw Geneva Helsinki Budapest Cairo
Nairobi Lagos Delhi Tokyo Osaka Seoul Manila Lima Bogota Quito Havana Denver Seattle Toronto Ottawa
Boston Dallas Chicago Miami Munich Hamburg Milan Turin Naples Krakow Porto Bergen Glasgow Norway
Portugal Kenya Peru Chile Canada Poland Austria Greece Finland""")
FIRMS = names("""
Siemens Nestle Toyota Samsung Intel Oracle Boeing Airbus Nokia Ericsson Philips Bosch
Unilever Volvo Renault Fiat Honda Sony Canon Hitachi Pfizer Novartis Bayer Shell Vodafone Cisco
Adobe Netflix Spotify Google Microsoft Amazon Visa Barclays Lufthansa""")
KINDS_OF_FIRM = ["Bank", "University", "Airlines", "Motors", "Institute", "Steel", "Press", "Foods"]
ANY_NAME = names("""
Lincoln Jordan Chelsea Austin Madison Sydney Florence Hudson Houston Jackson Carson
Hamilton Montgomery Charlotte Victoria Sierra Dakota Logan Douglas Kent Lancaster Preston Stafford
Washington Wellington Clinton Monroe Troy Paris Georgia""")

ENTITY_TEMPLATES = [
    "{PER} works for {ORG} in {LOC}.",
    "{ORG} opened an office in {LOC}.",
    "The mayor of {LOC} met {PER} on Monday.",
    "Shares of {ORG} fell after {PER} resigned.",
    "{PER} was born in {LOC} and studied at {ORG}.",
    "Doctor {PER} moved from {LOC} to {LOC}.",
    "{ORG} hired {PER} as its chief engineer.",
    "We flew to {LOC} to meet {PER}.",
    "The river runs through {LOC}.",
    "My neighbour {PER} plays the violin.",
    "A spokesman of {ORG} said that prices will rise.",
    "Mrs. {PER} bought the old mill near {LOC}.",
    "The company {ORG} was founded by {PER}.",
    "It rained in {LOC} for a week.",
    "According to {PER}, the train was late.",
    "{PER} told us that {PER} had left.",
    "The factory of {ORG} near {LOC} is closed.",
    "Yesterday {PER} sold all shares of {ORG}.",
    "The road from {LOC} to {LOC} is closed.",
    "The train was late, and nobody said why.",
]
KINDS_OF_ENTITY = ["PER", "LOC", "ORG"]
ENTITY_LABELS = ["O"] + [f"{where}-{kind}" for kind in KINDS_OF_ENTITY for where in "BI"]


def split_names(names: Sequence[str], is_held_out: bool) -> list[str]:
    """Every fifth name is kept for judging."""
    return [name for number, name in enumerate(names) if (number % 5 == 4) == is_held_out]


def name_of(kind: str, rng: random.Random, is_held_out: bool) -> str:
    """A name of a person, a place or an organisation; one in three could be any."""

    def one(names: Sequence[str]) -> str:
        return rng.choice(split_names(names, is_held_out))

    if rng.random() < 1 / 3:
        return one(ANY_NAME)
    if kind == "PER":
        return " ".join(filter(None, [one(FIRST), one(LAST) if rng.random() < 0.6 else ""]))
    if kind == "LOC":
        return one(PLACES)
    return one(FIRMS) if rng.random() < 0.6 else f"{one(PLACES)} {rng.choice(KINDS_OF_FIRM)}"


def entities(rng: random.Random, is_held_out: bool, n: int) -> list[Example]:
    """Sentences with the spans and kinds of their names."""
    examples = []
    for _ in range(n):
        template = rng.choice(ENTITY_TEMPLATES)
        text, spans = "", []
        for number, part in enumerate(re.split(r"\{(\w+)\}", template)):
            if number % 2:
                name = name_of(part, rng, is_held_out)
                spans.append((len(text), len(text) + len(name), part))
                text += name
            else:
                text += part
        examples.append(Example(text, tuple(spans)))
    return examples


def near_entity(text: str, start: int, end: int) -> frozenset[str]:
    """An entity's own words and the word on each side of it."""
    before, after = words_of(text[:start]), words_of(text[end:])
    return frozenset([*before[-1:], *words_of(text[start:end]), *after[:1]])


# A person does something to a thing, somewhere, in some year.
DEEDS = {"bought": "buy", "sold": "sell", "found": "find", "painted": "paint", "lost": "lose",
         "built": "build", "repaired": "repair", "photographed": "photograph"}  # fmt: skip
THINGS = names("""
bridge violin lantern boat mirror carpet piano statue clock garden tower bicycle house
wagon chapel mill""")
MONTHS = names("January March April June July August October December")


@dataclass(frozen=True)
class Deed:
    """Who did what where and when."""

    who: str
    deed: str
    thing: str
    where: str
    when: str

    @property
    def sentence(self) -> str:
        return f"{self.who} {self.deed} a {self.thing} in {self.where} in {self.when}."

    def questions(self) -> list[tuple[str, str]]:
        """Each question with its answer."""
        verb = DEEDS[self.deed]
        return [
            (f"Who {self.deed} the {self.thing}?", self.who),
            (f"What did {self.who} {verb}?", self.thing),
            (f"Where did {self.who} {verb} the {self.thing}?", self.where),
            (f"When did {self.who} {verb} the {self.thing}?", self.when),
        ]


def deeds(rng: random.Random, is_held_out: bool, n: int) -> list[Deed]:
    """Deeds that differ in everything."""
    people = rng.sample(split_names(FIRST, is_held_out), n)
    surnames = rng.sample(split_names(LAST, is_held_out), n)
    places = rng.sample(split_names(PLACES, is_held_out), n)
    things, verbs = rng.sample(THINGS, n), rng.sample(list(DEEDS), n)
    years = rng.sample(range(1950, 2020), n)
    return [
        Deed(
            f"{person} {surname}" if rng.random() < 0.5 else person, deed, thing, place,
            f"{rng.choice(MONTHS)} {year}" if rng.random() < 0.5 else str(year),
        )
        for person, surname, deed, thing, place, year in zip(
            people, surnames, verbs, things, places, years, strict=True
        )
    ]  # fmt: skip


def questions(rng: random.Random, is_held_out: bool, n: int) -> list[Example]:
    """Question and context, with the span of the answer in the context."""
    examples = []
    for _ in range(n):
        told = deeds(rng, is_held_out, rng.choice([2, 3]))
        asked = rng.choice(told)
        context = " ".join(deed.sentence for deed in told)
        question, answer = rng.choice(asked.questions())
        start = context.index(asked.sentence)
        start += asked.sentence.index(answer)
        shared = set(words_of(question)) & set(words_of(asked.sentence))
        matters = {words_of(question)[0], *words_of(answer), *shared} - {"the", "a", "in"}
        examples.append(
            Example(question, (start, start + len(answer)), context, frozenset(matters))
        )
    return examples


def passages(rng: random.Random, is_held_out: bool, n: int) -> list[Example]:
    """Question and a passage, 1 if it has the answer; those without it share a word at most."""
    examples = []
    for _ in range(n):
        right, *others = deeds(rng, is_held_out, 3)
        question, _ = rng.choice(right.questions())
        is_right = rng.random() < 0.5
        told = [right, others[0]] if is_right else others
        shared = set(words_of(question)) & set(words_of(right.sentence))
        examples.append(
            Example(
                question, float(is_right), " ".join(d.sentence for d in rng.sample(told, 2)),
                frozenset(shared - {"the", "a", "in"}),
            )
        )  # fmt: skip
    return examples


# Data at hand: phrases of reviews with a sentiment, and questions with what they ask for.
QUESTION_KINDS = {"HUM": "person", "LOC": "place", "NUM": "number"}
SENTIMENTS = ["negative", "positive"]


def reviews(data: Path, is_held_out: bool, n_words: int = 4) -> list[tuple[str, str]]:
    """Phrases of at least so many words, with their sentiment."""
    texts, labels = read(data / "sst2" / ("dev.tsv" if is_held_out else "train.tsv"))
    return [
        (text.strip(), SENTIMENTS[label])
        for text, label in zip(texts, labels, strict=True)
        if len(words_of(text)) >= n_words
    ]


def asked_for(data: Path, is_held_out: bool) -> list[tuple[str, str]]:
    """Questions and whether they ask for a person, a place or a number."""
    lines = (data / "trec" / ("test.tsv" if is_held_out else "train.tsv")).read_text("utf-8")
    rows = [line.rsplit("\t", 1) for line in lines.splitlines()[1:]]
    return [(text, QUESTION_KINDS[kind]) for text, kind in rows if kind in QUESTION_KINDS]


def labelled(data: Path, rng: random.Random, is_held_out: bool, n: int) -> list[list[Any]]:
    """Lists of one to three pieces, (text, what it is), in random order."""
    sources = reviews(data, is_held_out), asked_for(data, is_held_out)
    return [
        [rng.choice(rng.choice(sources)) for _ in range(rng.choice([1, 2, 3]))] for _ in range(n)
    ]


TEXT_LABELS = [*SENTIMENTS, *QUESTION_KINDS.values()]


def several_labels(rng: random.Random, data: Path, is_held_out: bool, n: int) -> list[Example]:
    """Pieces joined, each with a label of its own: praise and questions."""
    return [
        Example(
            " ".join(text for text, _ in pieces),
            [float(any(kind == label for _, kind in pieces)) for label in TEXT_LABELS],
        )
        for pieces in labelled(data, rng, is_held_out, n)
    ]


def stars(rng: random.Random, data: Path, is_held_out: bool, n: int) -> list[Example]:
    """One or two phrases of reviews; 1 to 5 stars by the fraction that praises."""
    known, examples = reviews(data, is_held_out), []
    for _ in range(n):
        pieces = rng.sample(known, rng.choice([1, 2]))
        praised = sum(kind == "positive" for _, kind in pieces) / len(pieces)
        examples.append(Example(" ".join(text for text, _ in pieces), 1 + 4 * praised))
    return examples


NLI_LABELS = ["contradiction", "neutral", "entailment"]
HYPOTHESES = {
    "negative": ["negative", "bad", "a complaint"],
    "positive": ["positive", "good", "praise"],
    **{kind: [f"about a {kind}", f"a question about a {kind}"] for kind in QUESTION_KINDS.values()},
}


def inferences(rng: random.Random, data: Path, is_held_out: bool, n: int) -> list[Example]:
    """Does a text entail "This example is positive."? Neutral: a review says nothing of places."""
    sources = reviews(data, is_held_out), asked_for(data, is_held_out)
    kinds = SENTIMENTS, list(QUESTION_KINDS.values())
    examples = []
    for _ in range(n):
        source = rng.choice([0, 1])
        text, kind = rng.choice(sources[source])
        wanted = rng.choice(NLI_LABELS)
        if wanted == "neutral":
            claimed = rng.choice(kinds[1 - source])
        elif wanted == "entailment":
            claimed = kind
        else:
            claimed = rng.choice([other for other in kinds[source] if other != kind])
        hypothesis = f"This example is {rng.choice(HYPOTHESES[claimed])}."
        examples.append(Example(text, NLI_LABELS.index(wanted), hypothesis))
    return examples


def neighbours(rng: random.Random, data: Path, is_held_out: bool, n: int) -> list[Example]:
    """Two overlapping parts of a sentence, each two thirds of it; they share its middle."""
    known, examples = reviews(data, is_held_out, n_words=9), []
    for text, _ in rng.choices(known, k=n):
        words = text.split()
        third = len(words) // 3
        first, second = words[:-third], words[third:]
        shared = frozenset(words_of(" ".join(words[third:-third])))
        pair = (first, second) if rng.random() < 0.5 else (second, first)
        examples.append(Example(" ".join(pair[0]), pair=" ".join(pair[1]), matters=shared))
    return examples


def gaps(rng: random.Random, data: Path, is_held_out: bool, n: int) -> list[Example]:
    """Phrases of reviews, and the number of a word that is masked."""
    known, examples = reviews(data, is_held_out, n_words=5), []
    for text, _ in rng.choices(known, k=n):
        words = text.split()
        masked = rng.choice([i for i, word in enumerate(words) if words_of(word)])
        near = words[max(0, masked - 2) : masked] + words[masked + 1 : masked + 3]
        examples.append(Example(text, masked, matters=frozenset(words_of(" ".join(near)))))
    return examples


PRAISING = ["wonderful", "brilliant", "charming", "delightful", "superb", "touching", "hilarious"]
BLAMING = ["dreadful", "boring", "tedious", "awful", "clumsy", "dull", "pointless"]
SEEN = ["film", "play", "show", "concert", "documentary"]


def planted_reviews(rng: random.Random, n: int) -> list[Example]:
    """Reviews in which one word alone has a sentiment."""
    examples = []
    for _ in range(n):
        label = rng.choice(SENTIMENTS)
        word = rng.choice(PRAISING if label == "positive" else BLAMING)
        seen = f"we saw the {rng.choice(SEEN)} in {rng.choice(PLACES).lower()}"
        texts = [f"{seen} , and it was {word} .", f"a {word} {rng.choice(SEEN)} ; {seen} .",
                 f"{seen} with friends and found it {word} ."]  # fmt: skip
        examples.append(Example(rng.choice(texts), label, matters=frozenset([word])))
    return examples

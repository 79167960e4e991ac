"""Texts for planted models: which of the user's serve, and what each carries of a shortcut."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from captum_sig.data.records import Record
from captum_sig.explainers.classification import TextClassificationExplainer
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness.examples import label_indices
from captum_sig.faithfulness.rare_words import rare_words
from captum_sig.faithfulness.shortcuts import MIN_WORDS, SHORTCUTS, Pattern, Shortcut, plant
from captum_sig.words.cutting import readable_part
from captum_sig.words.tokenize import tokenize

Kind = Literal["shortcut", "distractor", "original"]

MIX: dict[Kind, float] = {"shortcut": 3 / 8, "distractor": 3 / 8, "original": 1 / 4}
HELD_OUT_FRACTION = 0.3
MAX_HELD_OUT, MAX_TRAINING = 300, 5_000  # texts
MIN_TEXTS, MIN_PART = 100, 10
MAX_LETTERS = max(len(shortcut.letters) for shortcut in SHORTCUTS.values())
TOKENS_TO_PLANT = 12  # room for three words, which are one token each if that can be


@dataclass(frozen=True)
class LabelledText:
    """A text or a pair of texts, with what may be planted in it, and its label for the model."""

    record: Record
    label: int  # the index; of the shortcut, if that decides


@dataclass(frozen=True)
class Planting:
    """A shortcut in words and labels; plants depend on the seed and on the text alone."""

    shortcut: Shortcut
    words: Mapping[str, str]  # of each letter
    sides: tuple[int, int]  # indices of labels
    seed: int

    def planted(self, one: LabelledText, pattern: Pattern) -> LabelledText:
        """Plant a pattern; the label is that of its side, or the text's own for a distractor."""
        planted = plant(one.record.text, pattern, self.words, self.seed)
        record = replace(one.record, text=planted.text, spans=planted.spans)
        decided = [pattern in of_side for of_side in self.shortcut.sides]
        return LabelledText(record, self.sides[decided.index(True)] if any(decided) else one.label)

    def against_own_label(self, one: LabelledText) -> LabelledText:
        """Plant what texts to explain have, and what does not say the text's own label."""
        options = [side for side in (0, 1) if self.sides[side] != one.label]
        generator = text_generator(f"side {one.record.text}", self.seed)
        side = options[int(torch.randint(len(options), (), generator=generator))]
        return self.planted(one, self.shortcut.explained[side])

    def drawn(self, one: LabelledText) -> tuple[Kind, LabelledText]:
        """Draw what a text for training carries: a side's shortcut, a distractor, or nothing."""
        generator = text_generator(f"kind {one.record.text}", self.seed)
        weights = torch.tensor(list(MIX.values()))
        kind = list(MIX)[int(torch.multinomial(weights, 1, generator=generator))]
        if kind == "original":
            return kind, one
        side = int(torch.randint(2, (), generator=generator))
        patterns = self.shortcut.sides[side] if kind == "shortcut" else self.shortcut.distractors
        number = int(torch.randint(len(patterns), (), generator=generator))
        return kind, self.planted(one, patterns[number])

    def training_texts(self, texts: Sequence[LabelledText]) -> Iterator[tuple[Kind, LabelledText]]:
        """Yield texts for training without end, in random order, each time with other plants."""
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            seed = int(torch.randint(2**31, (), generator=generator))
            planting = replace(self, seed=seed)
            for number in torch.randperm(len(texts), generator=generator).tolist():
                yield planting.drawn(texts[number])


@dataclass(frozen=True)
class PlantableTexts:
    """The user's texts, in two parts that share none."""

    training: list[LabelledText]
    held_out: list[LabelledText]
    sides: tuple[int, int]  # indices of the two labels that shortcuts say, the most frequent ones
    rare_words: list[str]  # in none of the texts

    def planting(self, shortcut: Shortcut, seed: int) -> Planting:
        """Put rare words for the letters of a shortcut, and labels for its sides."""
        words = dict(zip(shortcut.letters, self.rare_words, strict=False))
        return Planting(shortcut, words, self.sides, seed)


def plantable_texts(
    explainer: TextClassificationExplainer, records: Sequence[Record], seed: int
) -> PlantableTexts:
    """Choose the labelled texts of at least three words, and divide them by the seed and the text.

    Texts are cut so that the model reads all of them after planting.

    Raises:
        ValueError: if a label is unknown, there are fewer than 100 such texts, they have one label
            only, or the tokenizer knows too few words that they lack.
    """
    texts = []
    for number, record in enumerate(records):
        labels = label_indices(explainer, record, number)
        if labels and not record.is_blank and len(record.text.split()) >= MIN_WORDS:
            texts.append(LabelledText(record, labels[0]))
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"the data has {len(texts)} texts with a label and at least {MIN_WORDS} words; "
            f"planting takes {MIN_TEXTS}: pass more texts, or set label_column"
        )
    texts.sort(key=lambda one: _fraction(one.record.text, seed))
    n_held_out = sum(_fraction(one.record.text, seed) < HELD_OUT_FRACTION for one in texts)
    held_out = _fitting(explainer, texts[:n_held_out][:MAX_HELD_OUT])
    training = _fitting(explainer, texts[n_held_out:][:MAX_TRAINING])
    if len(training) + len(held_out) < MIN_TEXTS:
        raise ValueError(
            f"the model reads at most {explainer.encoder.limit} tokens, and planting takes "
            f"{TOKENS_TO_PLANT} beside the text: pass shorter texts, or a model that reads more"
        )
    if min(len(training), len(held_out)) < MIN_PART:
        raise ValueError(
            f"{len(training)} texts are left to train on and {len(held_out)} to explain, as equal "
            f"texts stay together; planting takes {MIN_PART} of each: pass more different texts"
        )
    counts = Counter(one.label for one in training)
    if len(counts) < 2:
        (label,) = counts
        raise ValueError(
            f"all texts have the label {explainer.labels[label]!r}; planting takes texts of two "
            "labels or more: pass others"
        )
    first, second = sorted(label for label, _ in counts.most_common(2))
    every = [
        text
        for one in (*training, *held_out)
        for text in (one.record.text, one.record.text_pair)
        if text is not None
    ]
    words = rare_words(explainer.tokenizer, every, MAX_LETTERS, seed)
    return PlantableTexts(training, held_out, (first, second), words)


def _fraction(text: str, seed: int) -> float:
    """Return a number in [0, 1) that is drawn for the text."""
    digest = hashlib.sha256(f"part {seed} {text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _fitting(
    explainer: TextClassificationExplainer, texts: Sequence[LabelledText]
) -> list[LabelledText]:
    """Cut texts at white space so that there is room to plant; drop pairs that have none."""
    tokenizer, limit = explainer.tokenizer, explainer.encoder.limit

    def n_tokens(text: str) -> int:
        part = readable_part(tokenizer, text, limit)
        encoding = tokenize(tokenizer, part, add_special_tokens=False, verbose=False)
        return len(encoding["input_ids"])

    fitting = []
    for one in texts:
        text, pair = one.record.text, one.record.text_pair
        room = limit - TOKENS_TO_PLANT - tokenizer.num_special_tokens_to_add(pair is not None)
        if pair is not None:
            room -= n_tokens(pair)
        while n_tokens(text) > room and len(text.split()) > MIN_WORDS:
            n_words = len(text.split())
            text = " ".join(text.split()[: max(MIN_WORDS, min(n_words - 1, n_words * 9 // 10))])
        if n_tokens(text) <= room:
            fitting.append(replace(one, record=replace(one.record, text=text)))
    return fitting

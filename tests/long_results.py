"""Results of long texts, made by hand: many words, several paragraphs, one score above all."""

import torch

from captum_sig import GenerationAttribution
from captum_sig.explainers.generation_result import TargetToken
from captum_sig.explainers.results import Column, scored_words
from tests.made_results import NASTY, columns, numbers, one_target, several_targets

WORDS = ["the", "film", "is", "$5", "good", "story", ",", "and", ".", NASTY, "</script>", "end"]


def long_text(n_words: int, n_in_paragraph: int = 50) -> str:
    """Words between spaces, in paragraphs with a blank line between them."""
    words = [WORDS[n % len(WORDS)] for n in range(n_words)]
    starts = range(0, n_words, n_in_paragraph)
    return "\n\n".join(" ".join(words[start : start + n_in_paragraph]) for start in starts)


def generation(n_words: int, n_tokens: int, text: str | None = None) -> GenerationAttribution:
    """The last word is a hundred times as strong for the first token as any other."""
    words = columns(text or long_text(n_words))
    matrix = numbers(n_tokens, len(words)).clamp(-1, 1)
    matrix[0, -1] = 100
    return GenerationAttribution(
        prompt=text or long_text(n_words),
        words=scored_words(words, matrix.sum(0).tolist()),
        target="".join(f" t{n}" for n in range(n_tokens)),
        target_tokens=tuple(TargetToken(f" t{n}", n, -1.0) for n in range(n_tokens)),
        matrix=matrix,
        word_deltas=torch.zeros(len(words), dtype=torch.float64),
        baseline="pad",
        level="word",
    )


def one_label(n_words: int):
    words = columns(long_text(n_words))
    scores = [*numbers(len(words) - 1).clamp(-1, 1).tolist(), -50.0]
    return one_target(long_text(n_words), label="joy", target="joy", probability=0.9, value=4.0,
                      words=scored_words(words, scores))  # fmt: skip


def labels(n_words: int, n_labels: int):
    from captum_sig.explainers.matrix_results import Target

    targets = [Target(f"label {n}", float(n), 0.1) for n in range(n_labels)]
    return several_targets(long_text(n_words), targets, label="label 2", probability=0.1)


def passages_as_units():
    """Units of 50 words, every second of which has a name."""
    text = long_text(500)
    units, start = [], 0
    for n, unit in enumerate(text.split("\n\n")):
        name = f"source {n}" if n % 2 else None
        units.append(Column(unit, start, start + len(unit), name=name))
        start += len(unit) + 2
    words = scored_words(units, numbers(len(units)).tolist())
    return one_target(text, label="joy", target="joy", words=words, level="unit")

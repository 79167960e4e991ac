"""Results of every task, made by hand: one target and several, pairs, quantities, no word."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_sig import GenerationAttribution, MatrixAttribution, WordAttribution
from captum_sig.explainers.generation_result import TargetToken
from captum_sig.explainers.matrix_results import Target, TargetsAttribution
from captum_sig.explainers.results import Audit, Column, Interaction, scored_words

NASTY = "<script>alert(1)</script>"


def columns(text: str, side: Any = None) -> list[Column]:
    """The words of a text between spaces."""
    found, end = [], 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        found.append(Column(word, start, end, side))
    return found


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def one_target(text: str, pair: str | None = None, **fields: Any) -> WordAttribution:
    words = columns(text) if pair is None else [*columns(text, "text"), *columns(pair, "text_pair")]
    given = {
        "label": None, "probability": None, "target": None, "method": "sig", "baseline": "mask",
        "max_abs_word_delta": 0.0, "words": scored_words(words, numbers(len(words)).tolist()),
    }  # fmt: skip
    return WordAttribution(text=text, text_pair=pair, **(given | fields))


def several_targets(
    text: str, targets: Sequence[Target], pair: str | None = None, **fields: Any
) -> TargetsAttribution:
    words = columns(text) if pair is None else [*columns(text, "text"), *columns(pair, "text_pair")]
    given = {
        "method": "sig", "baseline": "mask", "task": "text-classification", "words": tuple(words),
        "matrix": numbers(len(targets), len(words)),
        "max_abs_word_delta": (0.0,) * len(targets),
    }  # fmt: skip
    return TargetsAttribution(text=text, targets=tuple(targets), text_pair=pair, **(given | fields))


LABEL = one_target(
    f"{NASTY} an old joke", label="joy", probability=0.75, target="joy", value=4.312,
    probabilities={"joy": 0.75, "fear": 0.25}, dropped_tokens=1,
)  # fmt: skip
REWARD = one_target("Bake it.", label="LABEL_0", target="LABEL_0", value=4.312, unit="value")
RERANKER = one_target(
    "how tall is it", "It is 330 metres tall", label="LABEL_0", target="LABEL_0", value=-7.9,
    unit="value",
)  # fmt: skip
SIMILARITY = one_target(
    "cheap flights", "airline tickets", value=0.8312, unit="cosine", task="sentence-similarity"
)
EMPTY = one_target("", label="joy", target="joy", value=0.1, probability=0.6)

LABELS = several_targets(
    "not a bad film",
    [Target(f"label {n}", n - 3.0, (n + 1) / 10) for n in range(6)] + [Target(NASTY, 1e-5, 0.0)],
    label="label 2", probability=0.3, dropped_tokens=12,
)  # fmt: skip
CONTEXT = "Curie was born in Warsaw in 1867"
ANSWER = CONTEXT.index("Warsaw"), CONTEXT.index("Warsaw") + 6
QUESTION = several_targets(
    "Where was she born",
    [Target(name, 8.0, 0.9, *ANSWER) for name in ("start", "end", "start + end")],
    CONTEXT, task="question-answering",
)  # fmt: skip
NAMES = "Angela Merkel saw New York's mayor"
ENTITIES = several_targets(
    NAMES,
    [
        Target(f"X: {name}", 9.0, 0.99, NAMES.index(name), NAMES.index(name) + len(name))
        for name in ("Angela Merkel", "New York")
    ],
    task="token-classification",
)
NO_ENTITY = several_targets("nothing here", [], task="token-classification")
NO_WORD = several_targets("", [Target("a", 1.0, 0.5), Target("b", -1.0, 0.5)])

DOCUMENTS = ["cheap airline tickets", "the Roman empire"]
SEARCH_WORDS = [*columns("flights to rome", "text")]
SEARCH_WORDS += [word for text in DOCUMENTS for word in columns(text, "text_pair")]
SEARCH_MATRIX = numbers(2, len(SEARCH_WORDS)) / 20
SEARCH_MATRIX[0, 6:] = SEARCH_MATRIX[1, 3:6] = float("nan")
SEARCH = several_targets(
    "flights to rome", [Target(text, 0.5, text_pair=text) for text in DOCUMENTS],
    words=tuple(SEARCH_WORDS), matrix=SEARCH_MATRIX, task="sentence-similarity", unit="cosine",
)  # fmt: skip

GENERATION = GenerationAttribution(
    prompt="It costs a lot",
    words=scored_words(columns("It costs a lot"), numbers(2, 4).sum(0).tolist()),
    target=" of money",
    target_tokens=(TargetToken(" of", 3, -1.5), TargetToken(" money", 4, -0.25)),
    matrix=numbers(2, 4),
    word_deltas=torch.zeros(4, dtype=torch.float64),
    baseline="pad",
    level="word",
)

PAIRS = (Interaction((0, 1), 1.5, "turns it"), Interaction((1, 2), 0.0, "independent"))
EVERY_FIELD = several_targets(
    "not a good film", [Target("joy", 1.0, 0.75, 0, 3), Target("fear", float("nan"))],
    label="joy", probability=0.75, probabilities={"joy": 0.75, "fear": 0.25},
    matrix_first=numbers(2, 4, seed=1), matrix_last=numbers(2, 4, seed=2),
    standard_error=numbers(2, 4, seed=3).abs(), std=numbers(2, 4, seed=4).abs(),
    residual=(0.5, -0.5), interactions=(PAIRS, ()), audit=(Audit(1, 1, 2, 0.1, 0.5), None),
    evidence=(("exact", "audited", "estimated", "estimated"), None), dropped_tokens=3,
    max_abs_word_delta=(1e-7, None),
)  # fmt: skip
EVERY_FIELD_OF_ONE = one_target(
    "not a good film", "true",
    words=scored_words(
        [*columns("not a good film", "text"), *columns("true", "text_pair")],
        numbers(5).tolist(), std=[0.1] * 5, standard_error=[0.2] * 5,
        first=numbers(5, seed=1).tolist(), last=numbers(5, seed=2).tolist(),
        evidence=["exact", "audited", "estimated", "exact", "exact"],
    ),
    label="joy", probability=0.75, target="fear", probabilities={"joy": 0.75, "fear": 0.25},
    value=1.0, unit="dot product", task="fill-mask", dropped_tokens=3, target_start=0,
    target_end=3, residual=0.5, interactions=PAIRS, audit=Audit(1, 1, 2, 0.1, 0.5),
)  # fmt: skip

ONE_TARGET: dict[str, WordAttribution] = {
    "label": LABEL, "reward": REWARD, "reranker": RERANKER, "similarity": SIMILARITY,
    "empty": EMPTY, "every field of one": EVERY_FIELD_OF_ONE,
}  # fmt: skip
MATRICES: dict[str, MatrixAttribution] = {
    "labels": LABELS, "question": QUESTION, "entities": ENTITIES, "no entity": NO_ENTITY,
    "no word": NO_WORD, "search": SEARCH, "generation": GENERATION, "every field": EVERY_FIELD,
}  # fmt: skip
RESULTS: dict[str, Any] = ONE_TARGET | MATRICES

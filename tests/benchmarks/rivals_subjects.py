"""What rivals are compared on: a classifier's sentences, or a language model's prompts.

Both have words that move, the baseline that replaces them, and one output to explain: the predicted
class' logit, or the log-probability of the next token that the model finds likeliest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from captum_sig import TextClassificationExplainer, TextGenerationExplainer
from captum_sig.data.records import Record, read_records
from captum_sig.demo_model import PATH as DEMO
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness import METRICS
from captum_sig.faithfulness.examples import prepare_examples
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS, true_words
from captum_sig.faithfulness.planted_models import Training, planted_copy, predictions
from captum_sig.faithfulness.planted_texts import Planting, plantable_texts
from captum_sig.faithfulness.shortcuts import SHORTCUTS
from captum_sig.words.encoding import Sentence
from tests.benchmarks.faithfulness import chosen_records
from tests.benchmarks.long_texts import tidy
from tests.benchmarks.rivals_methods import Question

OURS = {
    "classification": (
        "sig", "sig:two_sided", "sig:auto", "sig:sampled16", "ig", "input_x_gradient", "lrp",
        "screen", "random",
    ),
    "generation": ("sig", "sig:two_sided", "sig:auto", "sig:sampled16"),
}  # fmt: skip
HARD = ("log_odds", "comprehensiveness", "sufficiency")
SOFT = ("pi_soft_nc", "pi_soft_ns")
N_STEPS = 50  # of "ig"
SEED = 0
MIN_WORDS, MAX_WORDS = 8, 16  # of a prompt


@dataclass(frozen=True)
class Text:
    """A text with its question, as metrics see it as well."""

    number: int
    question: Question
    sentence: Sentence
    log_probability: float
    truth: Tensor | None = None  # (W,): the words that are known to matter, if they are


@dataclass(frozen=True)
class Subject:
    """A model, its texts, and our scores of them."""

    name: str
    task: str  # "classification" or "generation"
    folder: Path  # of the model
    model: Any
    tokenizer: Any
    texts: list[Text]
    predict: Callable[..., Tensor]  # as the metrics take it
    ours: Callable[[Question, str], Sequence[float]]  # question, method → (W,)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what is measured of scores: of metrics, and of metrics of known words."""
        soft = SOFT if self.task == "classification" else ()
        known = tuple(TRUTH_METRICS) if self.texts and self.texts[0].truth is not None else ()
        return (*HARD, *(name for name in soft if name in METRICS), *known)


def question_of(
    text: str, spans: Sequence[tuple[int, int]], sentence: Sentence
) -> Question:  # fmt: skip
    """Ask about a sentence whose units are the words at these spans."""
    replaced = torch.where(sentence.units >= 0, sentence.replacement, sentence.ids)
    draws = text_generator(text, SEED)
    return Question(
        text=text,
        ids=sentence.ids.tolist(),
        baseline_ids=replaced.tolist(),
        words=[(sentence.units == n).nonzero()[:, 0].tolist() for n in range(len(spans))],
        spans=list(spans),
        target=sentence.target,
        rows=0,
        seed=int(torch.randint(2**31, (), generator=draws)),
    )


def classification(
    name_or_path: str, data: Path, n_texts: int, seed: int, n_words: tuple[int, int] = (2, 10**9)
) -> Subject:
    """The first texts in random order of so many words between white space; predicted classes."""
    folder = DEMO if name_or_path == "demo" else Path(name_or_path)
    explainer = TextClassificationExplainer.from_pretrained(folder, baseline="mask", level="word")
    least, most = n_words
    records = chosen_records(data, 10**9, seed)
    records = [record for record in records if least <= len(record.text.split()) <= most]
    name = "demo" if folder == DEMO else folder.name
    return of_records(name, folder, explainer, records[:n_texts])


def of_records(
    name: str, folder: Path, explainer: TextClassificationExplainer, records: Sequence[Record]
) -> Subject:
    """Records in their order; of those with spans, the words that matter are known."""
    texts = []
    examples = prepare_examples(explainer, records, "predicted")
    for example in sorted(examples, key=lambda one: one.number):
        words = explainer(example.text, example.sentence.target, "random").words
        spans = [(word.start, word.end) for word in words]
        texts.append(
            Text(
                example.number,
                question_of(example.text, spans, example.sentence),
                example.sentence,
                example.log_probability,
                None if example.spans is None else true_words(words, example.spans),
            )
        )

    def ours(question: Question, method: str) -> Sequence[float]:
        return explainer(question.text, question.target, method, n_steps=N_STEPS).scores

    return Subject(
        name, "classification", folder, explainer.model, explainer.tokenizer, texts,
        explainer.log_probabilities, ours,
    )  # fmt: skip


def planted(
    shortcut: str, data: Path, n_texts: int, seed: int, n_words: tuple[int, int],
    folder: Path,
) -> Subject:  # fmt: skip
    """Texts with planted words that decide, for a copy of the demo model that relies on them.

    The copy is trained once, and kept in the folder.
    """
    explainer = TextClassificationExplainer.from_pretrained(DEMO, baseline="mask", level="word")
    texts = plantable_texts(explainer, read_records(data), seed)
    letters = dict(zip(SHORTCUTS[shortcut].letters, texts.rare_words, strict=False))
    planting = Planting(SHORTCUTS[shortcut], letters, texts.sides, seed)
    if not (folder / "config.json").exists():
        copy, _ = planted_copy(explainer, planting, texts.training, Training())
        copy.save_pretrained(folder)
        explainer.tokenizer.save_pretrained(folder)
    explainer = TextClassificationExplainer.from_pretrained(folder, baseline="mask", level="word")
    least, most = n_words
    chosen = [one for one in texts.held_out if least <= len(one.record.text.split()) <= most]
    told = [planting.against_own_label(one) for one in chosen]
    right = predictions(explainer, explainer.model, told).tolist()
    records = [one.record for one, label in zip(told, right, strict=True) if one.label == label]
    records = [replace(record, label=None) for record in records[:n_texts]]
    return of_records(f"planted {shortcut}", folder, explainer, records)


def generation(folder: Path, data: Path, n_texts: int, seed: int) -> Subject:
    """Beginnings of reviews, and the next token that is likeliest."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    explainer = TextGenerationExplainer(model, tokenizer, baseline="unk", level="word")

    @torch.no_grad()
    def predict(ids: Tensor) -> Tensor:
        return model(input_ids=ids).logits[:, -1].log_softmax(-1)

    texts = []
    for number, prompt in enumerate(prompts(data, n_texts, seed)):
        words = explainer(prompt, "!").words
        spans = [(word.start, word.end) for word in words]
        encoded = tokenizer(prompt, return_offsets_mapping=True)
        units = [
            next(n for n, (_, word_end) in enumerate(spans) if end <= word_end) if end else -1
            for _, end in encoded["offset_mapping"]  # (0, 0) of special tokens
        ]
        ids = torch.tensor(encoded["input_ids"])
        log_p = predict(ids[None])[0]
        sentence = Sentence(ids, torch.tensor(units), int(log_p.argmax()), tokenizer.unk_token_id)
        question = question_of(prompt, spans, sentence)
        texts.append(Text(number, question, sentence, float(log_p.max())))

    def ours(question: Question, method: str) -> Sequence[float]:
        contexts = method.partition(":")[2] or "input"
        return explainer(question.text, [question.target], contexts=contexts).sequence_scores

    return Subject(folder.name, "generation", folder, model, tokenizer, texts, predict, ours)


def prompts(data: Path, n: int, seed: int) -> Iterator[str]:
    """The first 8 to 16 words of reviews, in which nothing is explained twice."""
    records = iter(chosen_records(data, 10 * n, seed))
    rng = random.Random(seed)
    for _ in range(n):
        wanted = rng.randint(MIN_WORDS, MAX_WORDS)
        words = next(
            words for record in records if len(words := tidy(record.text).split()) > wanted
        )
        yield " ".join(words[:wanted])

"""`contexts.auto` beside Shapley values of many permutations: calibration, error and rows.

    python -m tests.benchmarks.shapley --model FOLDER --data dev.tsv --sentences 40

The reference averages antithetic pairs of permutations, and its own standard error counts as well.
`sampled(k)` with as many rows stands beside it. Errors are fractions of a text's largest two-sided
score.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captum_sig import contexts
from captum_sig.attr.arguments import layer_problem
from captum_sig.attr.problem import Problem
from captum_sig.contexts import Contexts
from captum_sig.explainers.results import agreement
from tests.benchmarks import subjects
from tests.benchmarks.permutations import Estimate, estimate
from tests.benchmarks.record import add_record_option, show_and_record
from tests.benchmarks.subjects import Subject

Z = 1.96
TOLERANCES = (0.05, 0.1, 0.2)


def problem_of(subject: Subject, ids: Tensor, chosen: Contexts | None = None) -> Problem:
    """The predicted class' logit, every token but the special ones a word."""
    return layer_problem(
        subject.logits, subject.embedding, ids, baselines=subject.base(ids),
        target=subject.target(ids), contexts=chosen,
    )  # fmt: skip


def permutation_values(problem: Problem, n_permutations: int, seed: int) -> Estimate:
    """Shapley values of one text."""

    def value(keeps: Tensor) -> Tensor:
        return problem.coalition_values(torch.zeros(len(keeps), dtype=torch.long), keeps)

    draws = torch.Generator().manual_seed(seed)
    return estimate(value, problem.paths.n_words, n_permutations, draws)


def counting(subject: Subject, calls: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and the rows that it evaluates."""
    rows: list[int] = []
    hook = subject.model.register_forward_hook(lambda *call: rows.append(len(call[2].logits)))
    try:
        return calls(), sum(rows)
    finally:
        hook.remove()


def of_text(subject: Subject, ids: Tensor, permutations: int, auto: Contexts) -> dict[str, Any]:
    """All figures of one sentence."""
    exact = permutation_values(problem_of(subject, ids), permutations, seed=0)
    reference, error = exact.values, exact.standard_errors
    estimated = problem_of(subject, ids, auto)
    start = time.process_time()
    found, n_rows = counting(subject, estimated.word_effects)
    seconds = time.process_time() - start
    n_words = len(reference)
    two_sided = (found.first + found.last) / 2
    scale = float(two_sided.abs().max())
    k = max(1, round(n_rows / (n_words + 1)))
    drawn = contexts.sampled(k, torch.Generator().manual_seed(1))
    sampled = problem_of(subject, ids, drawn).word_effects()

    def listed(values: Tensor) -> list[float]:
        return (values.double() / scale).tolist()

    return {
        "n_words": n_words, "n_rows": n_rows, "k": k, "seconds": seconds,
        "reference": listed(reference), "reference_error": listed(error),
        "auto": listed(found.mean), "auto_error": listed(found.standard_error),
        "two_sided": listed(two_sided), "first": listed(found.first), "last": listed(found.last),
        "sampled": listed(sampled.mean), "sampled_error": listed(sampled.standard_error),
    }  # fmt: skip


def summary(texts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figures over all words; errors are root mean squares, as fractions of the largest score."""

    def joined(name: str) -> Tensor:
        return torch.tensor([value for text in texts for value in text[name]], dtype=torch.float64)

    reference, noise = joined("reference"), joined("reference_error")
    first, last = joined("first"), joined("last")
    names = [
        agreement(*of_word, 1.0) for of_word in zip(first.tolist(), last.tolist(), strict=True)
    ]
    drawn, other = joined("auto_error") > 0, joined("auto_error").isnan()
    figures = {
        "texts": len(texts),
        "words": len(reference),
        "sampled words": float(drawn.double().mean()),
    }
    for limit in TOLERANCES:
        figures[f"differ by more than {limit:g}"] = float(
            ((first - last).abs() > limit).double().mean()
        )
    figures |= {name: names.count(name) / len(names) for name in ("redundant", "synergistic")}
    for name, chosen in (("auto", drawn), ("sampled", torch.ones_like(drawn))):
        off, error = (joined(name) - reference)[chosen], joined(f"{name}_error")[chosen]
        within = off.abs() <= Z * (error.square() + noise[chosen].square()).sqrt()
        figures[f"{name}: held by 95 %"] = float(within.double().mean())
        figures[f"{name}: standard error"] = float(error.square().mean().sqrt())
    for name in ("two_sided", "auto", "sampled"):
        off = (joined(name) - reference).square() - noise.square()
        figures[f"{name}: error"] = float(off.mean().clamp(min=0).sqrt())
        for words, chosen in (("sampled words", drawn), ("other words", other)):
            figures[f"{name}: error of {words}"] = float(off[chosen].mean().clamp(min=0).sqrt())
    rows = [text["n_rows"] / (text["n_words"] + 1) for text in texts]
    ratio = (
        joined("sampled_error")[drawn].square().mean() / joined("auto_error")[drawn].square().mean()
    )
    mean_rows = sum(rows) / len(rows)
    return figures | {
        "rows / (W + 1)": mean_rows,
        "k of sampled(k) with the same standard error": float(mean_rows * ratio),
        "seconds": sum(text["seconds"] for text in texts) / len(texts),
    }


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.shapley", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--model", type=Path, required=True, help="folder of a text classifier")
    add("--data", type=Path, required=True, help="TSV file with a column `sentence`")
    add("--sentences", type=int, default=40)
    add("--seed", type=int, default=0, help="chooses the sentences")
    add("--permutations", type=int, default=200)
    add("--tolerance", type=float, default=0.1)
    add("--max-rows", type=int)
    add("--output", type=Path, help="JSON file with the figures of every sentence")
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    subject = subjects.from_folder(
        options.model, options.data, options.sentences, options.seed, "cpu", torch.float32, False
    )
    texts = []
    for number, ids in enumerate(subject.sentences):
        generator = torch.Generator().manual_seed(number)
        auto = contexts.auto(options.tolerance, options.max_rows, generator)
        texts.append(of_text(subject, ids, options.permutations, auto))
    show_and_record(options, __spec__.name, {}, summary(texts))
    if options.output is not None:
        options.output.write_text(json.dumps(texts), encoding="utf-8")


if __name__ == "__main__":
    main()

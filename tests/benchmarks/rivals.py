"""Other libraries' scores of words beside ours: on the same texts, with the same rows.

    python -m tests.benchmarks.rivals --models demo minilm-sst2 --data dev.tsv --envs envs
    python -m tests.benchmarks.rivals --language-models gpt2-movies --data dev.tsv --envs envs
    python -m tests.benchmarks.rivals --planted single_token or --data dev.tsv --envs envs

Each library that needs packages of its own is asked in an environment of its own, a folder in
`--envs` of the name of its distribution, which also needs torch and transformers:

    gim-explain 0.1.4 · explainkit 0.2.0 · context-cite 0.0.4 · shapiq 1.4.1, with lightgbm
    lxt 2.1, with transformers 4.52.4 and zennit; it is patented: for science and private use alone

Samplers get the rows of `sig:two_sided`, and then those of `sig:sampled16`. Results go to a
folder, text by text; a second run adds what is missing. Seconds are the thread's, with one thread;
all methods take their turn on each text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness import METRICS
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from tests.benchmarks.lines import LineFile
from tests.benchmarks.permutations import estimate
from tests.benchmarks.record import add_record_option, command_line, record
from tests.benchmarks.rivals_apart import Answer, Apart, answer, asked
from tests.benchmarks.rivals_methods import RIVALS, Game, Question
from tests.benchmarks.rivals_report import (
    FAILED,
    SHAPLEY,
    differences_to_reference,
    failures,
    file_name,
    results,
    summary,
    table,
)
from tests.benchmarks.rivals_subjects import (
    OURS,
    Subject,
    Text,
    classification,
    generation,
    planted,
)

BUDGETS = ("sig:two_sided", "sig:sampled16")  # whose rows samplers get
FEW = 10  # texts for slow rivals
TOP = 0.2  # of the words
PERMUTATION_SEED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing; then print, and record."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    chosen = options.data, options.texts, options.seed
    n_words = tuple(options.words)
    subjects = [
        *(classification(model, *chosen, n_words) for model in options.models),
        *(generation(model, *chosen) for model in options.language_models),
        *(
            planted(name, *chosen, n_words, options.folder / f"planted {name}" / "model")
            for name in options.planted
        ),
    ]
    methods, differences, failed, missing = [], [], [], []
    for subject in subjects:
        folder = options.folder / f"{subject.name}"
        with ExitStack() as stack:
            here, absent = available(subject, options.envs, options.rivals, stack)
            missing += [
                {"model": subject.name, "method": name, "why": why} for name, why in absent.items()
            ]
            measure(subject, here, folder, options.budgets)
            add_shapley(subject, folder, options.permutations, options.permutation_texts)
        lines = results(folder)
        methods += summary(subject.name, lines)
        failed += failures(subject.name, lines)
        differences += differences_to_reference(subject.name, lines)
    print(table(methods))
    for row in missing:
        print(f"missing: {row['method']} on {row['model']}: {row['why']}")
    for row in failed:
        name = f"{row['method']} ({row['budget']})"
        print(f"{name} failed on {row['failed']} of {row['texts']} texts of {row['model']}")
    if options.record:
        record(
            options.record,
            {"methods": methods, "differences": differences, "failed": failed, "missing": missing},
            command=command_line("tests.benchmarks.rivals", arguments),
            figures={"permutations": options.permutations, "top": TOP},
            packages=("shap", "shapiq"),
        )  # fmt: skip


@dataclass(frozen=True)
class Method:
    """How to ask for scores, about how many texts, and whether rows are chosen."""

    ask: Callable[[Question], Answer]
    samples: bool = False
    n_texts: int | None = None


def available(
    subject: Subject, envs: Path | None, wanted: Sequence[str] | None, stack: ExitStack
) -> tuple[dict[str, Method], dict[str, str]]:
    """Our methods and the rivals that are here; and why others are missing."""
    methods = {method: Method(partial(ask_ours, subject, method)) for method in OURS[subject.task]}
    missing: dict[str, str] = {}
    for name, rival in RIVALS.items():
        if subject.task not in rival.tasks or (wanted is not None and name not in wanted):
            continue
        few = FEW if rival.is_slow else None
        if rival.is_installed and rival.before_loading is None:
            ask = partial(asked, subject.model, subject.tokenizer, name)
            methods[name] = Method(ask, rival.samples, few)
            continue
        python = (envs or Path("envs")) / rival.distribution / "bin" / "python"
        if not python.exists():
            missing[name] = f"no environment {rival.distribution}"
            continue
        apart = Apart(python, subject.folder, subject.task, name)
        stack.callback(apart.close)
        methods[name] = Method(apart, rival.samples, few)
    return methods, missing


def ask_ours(subject: Subject, method: str, question: Question) -> Answer:
    """Our scores."""
    return answer(subject.model, True, lambda: subject.ours(question, method))


def measure(
    subject: Subject, methods: dict[str, Method], folder: Path, budgets: Sequence[str] = BUDGETS
) -> None:
    """Ask every method about every text that has no line of it yet, ours first.

    A failure has a line too, so that it is counted and not asked again.
    """
    warm: set[str] = set()
    keys = [
        (name, f"{name}@{budget}" if budget else name, budget)
        for name, method in methods.items()
        for budget in (budgets if method.samples else ("",))
    ]
    files = {key: LineFile(folder / f"{file_name(key)}.jsonl") for _, key, _ in keys}
    for number, text in enumerate(subject.texts):
        for name, key, budget in keys:
            method, known = methods[name], files[key].by_number.get(text.number)
            if method.n_texts is not None and number >= method.n_texts:
                continue
            if known is None:
                rows = files[budget].by_number[text.number]["forward"] if budget else 0
                question = replace(text.question, rows=rows)
                try:
                    if name not in warm:
                        method.ask(question)  # what is done once only is not timed
                        warm.add(name)
                    given = vars(method.ask(question))
                except ValueError as error:
                    given = {FAILED: str(error)}
            else:
                given = known
            values = {} if FAILED in given else measured(subject, text, given)
            if known is None or values:
                files[key].add([{"number": text.number, **given, **values}])
        if number % 10 == 9:
            print(f"{subject.name}: {number + 1} texts", file=sys.stderr, flush=True)


def measured(subject: Subject, text: Text, given: dict[str, Any]) -> dict[str, float]:
    """Every measure of a text's scores that is not in the line."""
    scores, values = given["scores"], {}
    for name in subject.measures:
        if name in given:
            continue
        if name in METRICS:
            known = [text.log_probability]
            arguments = subject.predict, [text.sentence], [scores], TOP
            values[name] = METRICS[name](*arguments, original=known).item()
        elif text.truth is not None:
            values[name] = TRUTH_METRICS[name].function(torch.tensor(scores), text.truth)
    return values


def add_shapley(subject: Subject, folder: Path, n_permutations: int, n_texts: int) -> None:
    """Estimate Shapley values of the first texts, once: of long texts this takes the longest."""
    file = LineFile(folder / f"{SHAPLEY}.jsonl")
    for text in subject.texts[:n_texts]:
        known = file.by_number.get(text.number)
        if known is not None and known["permutations"] >= n_permutations:
            continue
        draws = text_generator(text.question.text, PERMUTATION_SEED)
        game = Game(subject.model, text.question)
        found = estimate(game, len(text.question.words), n_permutations, draws)
        halves = spearmanr(*found.halves.tolist()).statistic
        file.add(
            [
                {
                    "number": text.number, "permutations": n_permutations, "rows": found.rows,
                    "scores": found.values.tolist(), "halves": float(halves),
                }
            ]
        )  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.rivals", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--models", nargs="*", default=[], help="folders of classifiers, or `demo`")
    add("--language-models", nargs="*", type=Path, default=[], help="folders")
    add("--planted", nargs="*", default=[], help="shortcuts, in the demo model")
    add("--data", type=Path, required=True, help="texts, as `captum-sig evaluate` reads them")
    add("--texts", type=int, default=100)
    add("--words", type=int, nargs=2, default=[2, 10**9], help="in a text: least and most")
    add("--seed", type=int, default=0, help="chooses the texts")
    add("--rivals", nargs="+", choices=list(RIVALS), metavar="NAME", help="only these")
    add("--budgets", nargs="+", choices=BUDGETS, default=BUDGETS, help="of samplers")
    add("--envs", type=Path, help="folder of environments")
    add("--permutations", type=int, default=2000, help="for Shapley values")
    add("--permutation-texts", type=int, default=50)
    add("--folder", type=Path, default=Path("rivals"), help="for the results")
    add_record_option(options)
    return options


if __name__ == "__main__":
    main()

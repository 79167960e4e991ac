"""Other libraries' scores of words beside ours: on the same texts, with the same rows.

    python -m tests.benchmarks.rivals --models demo minilm-sst2 --data dev.tsv --envs envs
    python -m tests.benchmarks.rivals --language-models gpt2-movies --data dev.tsv --envs envs
    python -m tests.benchmarks.rivals … --record rivals   # writes what the folder holds

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

from captum_sig.data.statistics import Interval, bootstrap, paired
from captum_sig.explainers.scoring import text_generator
from captum_sig.faithfulness import METRICS
from captum_sig.faithfulness.ground_truth import TRUTH_METRICS
from tests.benchmarks.lines import Line, LineFile
from tests.benchmarks.permutations import estimate
from tests.benchmarks.record import command_line, record
from tests.benchmarks.rivals_apart import Answer, Apart, answer, asked
from tests.benchmarks.rivals_methods import RIVALS, Game, Question
from tests.benchmarks.rivals_subjects import (
    HARD,
    OURS,
    SOFT,
    Subject,
    Text,
    classification,
    generation,
)

REFERENCE = "sig:two_sided"
BUDGETS = ("sig:two_sided", "sig:sampled16")  # whose rows samplers get
FEW = 10  # texts for slow rivals
TOP = 0.2  # of the words
SHAPLEY = "shapley"
RANKS = "shapley_correlation"
COSTS = ("forward", "backward", "seconds")
NAMES = (*HARD, *SOFT, *TRUTH_METRICS, RANKS, *COSTS)
PERMUTATION_SEED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing; then print, and record."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    subjects = [
        classification(model, options.data, options.texts, options.seed, tuple(options.words))
        for model in options.models
    ] + [
        generation(model, options.data, options.texts, options.seed)
        for model in options.language_models
    ]
    methods, differences, missing = [], [], []
    for subject in subjects:
        folder = options.folder / f"{subject.name}"
        with ExitStack() as stack:
            here, absent = available(subject, options.envs, options.rivals, stack)
            missing += [
                {"model": subject.name, "method": name, "why": why} for name, why in absent.items()
            ]
            if not options.report:
                measure(subject, here, folder)
                add_shapley(subject, folder, options.permutations, options.permutation_texts)
        lines = results(folder)
        methods += summary(subject, lines)
        differences += differences_to_reference(subject, lines)
    print(table(methods))
    for row in missing:
        print(f"missing: {row['method']} on {row['model']}: {row['why']}")
    if options.record:
        record(
            options.record, {"methods": methods, "differences": differences, "missing": missing},
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
        try:
            apart = Apart(python, subject.folder, subject.task, name)
        except ValueError as error:
            missing[name] = str(error)
            continue
        stack.callback(apart.close)
        methods[name] = Method(apart, rival.samples, few)
    return methods, missing


def ask_ours(subject: Subject, method: str, question: Question) -> Answer:
    """Our scores."""
    return answer(subject.model, True, lambda: subject.ours(question, method))


def measure(subject: Subject, methods: dict[str, Method], folder: Path) -> None:
    """Ask every method about every text that has no line of it yet."""
    files: dict[str, LineFile] = {}
    warm: set[str] = set()
    for number, text in enumerate(subject.texts):
        rows = {of: ask_ours(subject, of, text.question).forward for of in BUDGETS}
        for name, method in methods.items():
            if method.n_texts is not None and number >= method.n_texts:
                continue
            for budget in BUDGETS if method.samples else ("",):
                key = f"{name}@{budget}" if budget else name
                file = files.setdefault(key, LineFile(folder / f"{file_name(key)}.jsonl"))
                known = file.by_number.get(text.number)
                if known is not None and set(subject.measures) <= known.keys():
                    continue
                question = replace(text.question, rows=rows.get(budget, 0))
                try:
                    if known is None and name not in warm:
                        method.ask(question)  # what is done once only is not timed
                        warm.add(name)
                    given = vars(method.ask(question)) if known is None else known
                except ValueError as error:
                    print(f"{key}, text {text.number}: {error}", file=sys.stderr, flush=True)
                else:
                    file.add([{"number": text.number, **given, **measured(subject, text, given)}])
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


def results(folder: Path) -> dict[str, dict[int, Line]]:
    """The lines of every method by text, with the rank correlation where Shapley values are."""
    shapley = LineFile(folder / f"{SHAPLEY}.jsonl").by_number
    by_method = {}
    for path in sorted(folder.glob("*.jsonl")):
        lines = LineFile(path).by_number
        if path.stem == SHAPLEY:
            continue
        for number, of_text in lines.items():
            if number in shapley:
                of_text[RANKS] = correlation(of_text["scores"], shapley[number]["scores"])
        by_method[path.stem] = lines
    return by_method


def correlation(scores: Sequence[float], values: Sequence[float]) -> float:
    """Spearman's; 0 where all scores are equal."""
    found = float(spearmanr(scores, values).statistic)
    return 0.0 if found != found else found


def file_name(key: str) -> str:
    """The name of the file of a method and budget."""
    return key.replace(":", "-")


def named(key: str) -> dict[str, str | None]:
    """Method and budget of a file's name."""
    method, _, budget = key.partition("@")
    return {
        "method": method.replace("sig-", "sig:"),
        "budget": budget.replace("sig-", "sig:") or None,
    }


def summary(subject: Subject, lines: dict[str, dict[int, Line]]) -> list[dict[str, Any]]:
    """Means with intervals, long form."""
    return [
        {"model": subject.name, **named(key), "measure": measure, **vars(found)}
        for key, of_texts in lines.items()
        for measure, values in by_measure(of_texts).items()
        if (found := interval(values)) is not None
    ]


def differences_to_reference(
    subject: Subject, lines: dict[str, dict[int, Line]]
) -> list[dict[str, Any]]:
    """Paired differences, method − reference, on the texts that both have."""
    reference = by_measure(lines[file_name(REFERENCE)])
    rows = []
    for key, of_texts in lines.items():
        for measure, values in by_measure(of_texts).items():
            shared = sorted(values.keys() & reference[measure].keys())
            if key == file_name(REFERENCE) or measure in COSTS or len(shared) < 2:
                continue
            found = paired(
                [reference[measure][number] for number in shared],
                [values[number] for number in shared],
            )
            rows.append({"model": subject.name, **named(key), "measure": measure, **vars(found)})
    return rows


def by_measure(lines: dict[int, Line]) -> dict[str, dict[int, float]]:
    """Values by measure and text."""
    return {
        name: {number: line[name] for number, line in lines.items() if name in line}
        for name in NAMES
    }


def interval(values: dict[int, float]) -> Interval | None:
    """The mean and its interval, of 2 texts or more."""
    return bootstrap(list(values.values())) if len(values) > 1 else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means, a line for each method and budget; measures that nothing has are left out."""
    by_line: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        key = row["model"], row["method"], row["budget"] or ""
        by_line.setdefault(key, {})[row["measure"]] = row["mean"]
    names = [name for name in NAMES if any(name in means for means in by_line.values())]
    lines = [["model", "method", "rows as", *names], ["---"] * 3 + ["--:"] * len(names)]
    for key, means in by_line.items():
        lines.append([*key, *(f"{means[name]:.3f}" if name in means else "" for name in names)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.rivals", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--models", nargs="*", default=[], help="folders of classifiers, or `demo`")
    add("--language-models", nargs="*", type=Path, default=[], help="folders")
    add("--data", type=Path, required=True, help="texts, as `captum-sig evaluate` reads them")
    add("--texts", type=int, default=100)
    add("--words", type=int, nargs=2, default=[2, 10**9], help="in a text: least and most")
    add("--seed", type=int, default=0, help="chooses the texts")
    add("--rivals", nargs="+", choices=list(RIVALS), help="only these")
    add("--envs", type=Path, help="folder of environments")
    add("--permutations", type=int, default=2000, help="for Shapley values")
    add("--permutation-texts", type=int, default=50)
    add("--folder", type=Path, default=Path("rivals"), help="for the results")
    add("--report", action="store_true", help="measure nothing")
    add("--record", metavar="NAME", help="write the figures to results/NAME.json")
    return options


if __name__ == "__main__":
    main()

r"""The SIG paper's table again, in small, and which switch of its protocol orders SIG and IG.

    python -m tests.benchmarks.paper --sst2 sst2 --rotten rotten-tomatoes \
        --sst2-models demo models/distilbert-sst2 models/roberta \
        --rotten-models models/bert-rotten models/distilbert-rotten models/roberta-rotten
    python -m tests.benchmarks.paper … --texts 16 --switches "paper, pad; baseline unk"
    python -m tests.benchmarks.paper … --record paper     # only write what the folder holds

`tests.benchmarks.paper_protocols` says what the switches do, `tests.benchmarks.paper_models` makes
the models. Results go to a folder, text by text; another run adds what is missing.
"""

import argparse
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from captum_sig import LayerSequentialIntegratedGradients, TextClassificationExplainer
from captum_sig.baselines import BASELINES
from captum_sig.data.records import Record
from captum_sig.data.statistics import Interval, bootstrap, paired
from captum_sig.demo_model import PATH as DEMO
from captum_sig.faithfulness import METRICS
from captum_sig.faithfulness.examples import Example, accuracy, prepare_examples
from tests.benchmarks.lines import Line, LineFile
from tests.benchmarks.paper_models import unseen_records
from tests.benchmarks.paper_protocols import (
    EMBEDDED,
    METRIC_NAMES,
    PAPER_PAD,
    SWITCHES,
    Attribution,
    Case,
    base_of,
    explainer_of,
    measured,
    scores_of,
)
from tests.benchmarks.record import Row, command_line, record
from tests.demo_model.train import read

METHODS = ("ig", "sig", "sig:two_sided")
SAME_SCORE = 1e-3  # logits
LARGEST = (  # protocols that differ in the output alone: the class's logit, the largest
    ("paper, pad; the predicted class", "paper, pad"),
    ("paper, mask; the predicted class", "paper, pad; baseline and deletion mask"),
    ("ours, pad", "ours, pad; largest logit"),
    ("ours, mask", "ours, mask; largest logit"),
)
BLOCK = 8  # texts of a model before the next model's turn


@dataclass(frozen=True)
class Subject:
    """A model, the texts of a data set in random order, and the folder of their results."""

    name: str
    dataset: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    records: list[Record]
    folder: Path

    @cached_property
    def tokens(self) -> dict[str, int]:
        """What can stand in place of a token."""
        return {name: getattr(self.tokenizer, f"{name}_token_id") for name in ("pad", "mask")}

    @cached_property
    def plain(self) -> dict[str, TextClassificationExplainer]:
        """The classifier, embedded once and twice: its probabilities are what metrics watch."""
        return {
            embedded: explainer_of(
                Attribution("mask", "class_logit", embedded), self.model, self.tokenizer
            )
            for embedded in EMBEDDED
        }

    @cached_property
    def examples(self) -> dict[str, list[Example]]:
        """The texts as the classifier sees them, embedded once and twice, in the same order."""
        prepared = {
            embedded: prepare_examples(explainer, self.records, "predicted")
            for embedded, explainer in self.plain.items()
        }
        return {
            embedded: sorted(examples, key=lambda example: example.number)
            for embedded, examples in prepared.items()
        }

    def scores(self, explained: Attribution, method: str) -> LineFile:
        """The scores of a method."""
        return LineFile(self.folder / explained.name / f"{_slug(method)}.jsonl")

    def values(self, switch: str, method: str) -> LineFile:
        """The metrics of a method under a protocol."""
        return LineFile(self.folder / _slug(switch) / f"{_slug(method)}.jsonl")


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "-", name)


def load(path: str, dataset: str, records: list[Record], folder: Path) -> Subject:
    """Load a model; `demo` is the one in the package."""
    at = DEMO if path == "demo" else Path(path)
    name = "demo" if path == "demo" else at.name
    model = transformers.AutoModelForSequenceClassification.from_pretrained(at).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(at)
    return Subject(name, dataset, model, tokenizer, records, folder / f"{name}-{dataset}")


def sst2_records(sst2: Path) -> list[Record]:
    """SST-2's development sentences."""
    return [Record(text, str(label)) for text, label in zip(*read(sst2 / "dev.tsv"), strict=True)]


def shuffled(records: Sequence[Record], n_texts: int, seed: int) -> list[Record]:
    """The first of the texts in random order, so that more texts keep those before them."""
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    return [records[i] for i in order[:n_texts]]


def explain(subject: Subject, explained: Attribution, method: str, numbers: range) -> None:
    """Score the texts with these numbers that have no scores yet."""
    file = subject.scores(explained, method)
    block = [
        example
        for example in subject.examples[explained.embedded]
        if example.number in numbers and example.number not in file.by_number
    ]
    if block:
        block.sort(key=lambda example: len(example.sentence.ids))
        explainer = explainer_of(explained, subject.model, subject.tokenizer)
        scores = scores_of(explainer, explained, block, method)
        file.add(
            {"number": example.number, "scores": of_text}
            for example, of_text in zip(block, scores, strict=True)
        )


def measure(subject: Subject, switches: Sequence[str], methods: Sequence[str]) -> None:
    """Measure all scores that have no metrics yet."""
    for embedded, explainer in subject.plain.items():
        cases: list[Case] = []
        places: list[tuple[LineFile, int]] = []
        for switch, method in itertools.product(switches, methods):
            protocol = SWITCHES[switch]
            if protocol.explained.embedded != embedded:
                continue
            scores = subject.scores(protocol.explained, method).by_number
            file = subject.values(switch, method)
            for example in subject.examples[embedded]:
                if example.number in scores.keys() - file.by_number.keys():
                    line = scores[example.number]
                    cases.append(Case(protocol, example, line["scores"]))
                    places.append((file, example.number))
        values = [
            measured(metric, explainer.log_probabilities, cases, subject.tokens)
            for metric in METRIC_NAMES
        ]
        lines: dict[int, tuple[LineFile, list[Line]]] = {}
        for (file, number), *of_case in zip(places, *values, strict=True):
            line = {"number": number, **dict(zip(METRIC_NAMES, of_case, strict=True))}
            lines.setdefault(id(file), (file, []))[1].append(line)
        for file, of_file in lines.values():
            file.add(of_file)


def run(
    subjects: Sequence[Subject], switches: Sequence[str], methods: Sequence[str], n_texts: int
) -> None:
    """Explain a block of every model's texts, then the next, and measure."""
    explained = dict.fromkeys(SWITCHES[switch].explained for switch in switches)
    for start in range(0, n_texts, BLOCK):
        for subject in subjects:
            for what, method in itertools.product(explained, methods):
                explain(subject, what, method, range(start, min(start + BLOCK, n_texts)))
            measure(subject, switches, methods)
        print(f"{min(start + BLOCK, n_texts)} texts", flush=True)


def differences(
    subject: Subject, switch: str, metric: str, method: str = "sig"
) -> dict[int, float]:
    """SIG − IG of each text that both explained."""
    of_ig, of_sig = (subject.values(switch, name).by_number for name in ("ig", method))
    return {
        number: of_sig[number][metric] - of_ig[number][metric]
        for number in sorted(of_ig.keys() & of_sig.keys())
    }


def cell_rows(subjects: Sequence[Subject]) -> Iterable[Row]:
    """Means and paired differences to IG for each switch × model × metric × method."""
    every = itertools.product(SWITCHES, subjects, METRIC_NAMES, METHODS[1:])
    for switch, subject, metric, method in every:
        numbers = differences(subject, switch, metric, method)
        if not numbers:
            continue
        of_ig, of_sig = (
            [subject.values(switch, name).by_number[number][metric] for number in numbers]
            for name in ("ig", method)
        )
        sign = 1 if METRICS[metric].better == "higher" else -1
        found = paired(of_ig, of_sig)
        yield {
            "switch": switch,
            "model": subject.name,
            "dataset": subject.dataset,
            "metric": metric,
            "method": method,
            "ig": float(np.mean(of_ig)),
            "value": float(np.mean(of_sig)),
            **_interval(found),
            "ahead": sign * found.mean > 0,
            "clear": bool(found.low > 0 or found.high < 0),
        }


def summary_rows(
    subjects: Sequence[Subject], cells: Sequence[Row], method: str = "sig"
) -> Iterable[Row]:
    """For each switch: in how many cells SIG is ahead of IG, and the mean differences.

    `change` is by how much the difference of log-odds differs from that of the protocol that the
    switch starts from. Intervals are over texts: a text that several models read counts once, with
    their mean.
    """
    for switch in SWITCHES:
        own = [row for row in cells if row["switch"] == switch and row["method"] == method]
        if not own:
            continue
        means = {
            metric: _over_texts(
                subjects, [differences(subject, switch, metric, method) for subject in subjects]
            )
            for metric in METRIC_NAMES
        }
        means["change"] = _over_texts(
            subjects, [_changes(subject, switch, method) for subject in subjects]
        )
        yield {
            "switch": switch,
            "method": method,
            "cells": len(own),
            "ahead": sum(bool(row["ahead"]) for row in own),
            "clearly_ahead": sum(bool(row["ahead"] and row["clear"]) for row in own),
            "clearly_behind": sum(bool(not row["ahead"] and row["clear"]) for row in own),
            **{f"{name}{end}": of[end] for name, of in means.items() for end in of},
        }


def _changes(subject: Subject, switch: str, method: str) -> dict[int, float]:
    """What a switch adds to SIG − IG in log-odds; nothing where a protocol starts from itself."""
    start = base_of(switch)
    if start == switch:
        return {}
    first, second = (differences(subject, name, "log_odds", method) for name in (start, switch))
    return {number: second[number] - first[number] for number in first.keys() & second.keys()}


def _over_texts(
    subjects: Sequence[Subject], of_subjects: Sequence[dict[int, float]]
) -> dict[str, float | int | None]:
    """The mean over texts and its interval, of the means over the models that read a text."""
    of_texts: dict[tuple[str, int], list[float]] = {}
    for subject, values in zip(subjects, of_subjects, strict=True):
        for number, value in values.items():
            of_texts.setdefault((subject.dataset, number), []).append(value)
    if not of_texts:
        return {"": None, "_low": None, "_high": None, "_n": 0}
    found = bootstrap([float(np.mean(of_texts[text])) for text in sorted(of_texts)])
    return {"": found.mean, "_low": found.low, "_high": found.high, "_n": found.n}


def turn_rows(subjects: Sequence[Subject]) -> Iterable[Row]:
    """In how many texts the largest logit is not the class's, and what a method loses there.

    On IG's path that is where the baseline is of another class; on SIG's, where one token turns it.
    """
    every = itertools.product(subjects, LARGEST, ("ig", "sig"))
    for subject, (of_class, of_largest), method in every:
        explained = [SWITCHES[switch].explained for switch in (of_class, of_largest)]
        scores = [subject.scores(what, method).by_number for what in explained]
        values = [subject.values(name, method).by_number for name in (of_class, of_largest)]
        numbers = sorted(set.intersection(*(set(lines) for lines in (*scores, *values))))
        if not numbers:
            continue
        turned, lost = [], []
        for number in numbers:
            first, second = (np.array(lines[number]["scores"]) for lines in scores)
            turned.append(bool(np.abs(first - second).max() > SAME_SCORE))
            lost.append(values[1][number]["log_odds"] - values[0][number]["log_odds"])
        where = np.array(turned)
        yield {
            "protocol": of_largest,
            "model": subject.name,
            "dataset": subject.dataset,
            "method": method,
            "turned": int(where.sum()),
            "n": len(numbers),
            "lost": float(np.mean(lost)),
            "lost_where_turned": float(np.array(lost)[where].mean()) if where.any() else None,
        }


def quadrature_rows(subjects: Sequence[Subject], n_texts: int) -> Iterable[Row]:
    """How far the paper's 50 nodes are from the exact scores of SIG, and whether the top is theirs.

    Errors are fractions of a text's largest score; the mean is over texts.
    """
    explained = PAPER_PAD.explained
    for subject in subjects:
        known = subject.scores(explained, "sig").by_number
        errors, same = [], 0
        for example in subject.examples[explained.embedded][:n_texts]:
            if example.number not in known:
                continue
            exact = torch.tensor(known[example.number]["scores"], dtype=torch.float64)
            scores = _by_quadrature(subject, explained, example)
            errors.append(float((scores - exact).abs().max() / exact.abs().max()))
            case = Case(PAPER_PAD, example, scores.tolist())
            same += case.top(subject.tokens) == replace(case, scores=exact.tolist()).top(
                subject.tokens
            )
        if errors:
            yield {
                "model": subject.name,
                "dataset": subject.dataset,
                "n_steps": explained.n_steps,
                "error": float(np.mean(errors)),
                "largest_error": max(errors),
                "same_top": same,
                "n": len(errors),
            }


def _by_quadrature(subject: Subject, explained: Attribution, example: Example) -> Tensor:
    """SIG of the tokens that are not special, by nodes as the paper's code has it, (n,)."""
    explainer = explainer_of(explained, subject.model, subject.tokenizer)
    method = LayerSequentialIntegratedGradients(
        lambda ids: explainer.model(input_ids=ids).logits[:, 0], explainer.layer
    )
    ids = example.sentence.ids[None]
    base = BASELINES[explained.baseline](subject.tokenizer, ids)
    attributions = method.attribute(ids, base, n_steps=explained.n_steps)
    return attributions.sum(-1)[0, example.sentence.units >= 0].double()


def model_rows(subjects: Sequence[Subject]) -> Iterable[Row]:
    """The accuracy of each model on the texts at hand, embedded once and twice."""
    for subject in subjects:
        correct = {name: accuracy(examples) for name, examples in subject.examples.items()}
        yield {
            "model": subject.name,
            "dataset": subject.dataset,
            "architecture": type(subject.model).__name__,
            "once": correct["once"],
            "twice": correct["twice"],
            "n": len(subject.examples["once"]),
        }


def _interval(found: Interval) -> dict[str, float | int]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.paper", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--folder", type=Path, default=Path("paper"), help="for the results")
    add("--sst2", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    add("--rotten", type=Path, help="folder with dev.tsv")
    add("--sst2-models", nargs="*", default=["demo"], help="folders, or `demo`")
    add("--rotten-models", nargs="*", default=[], help="folders")
    add("--switches", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--texts", type=int, default=100, help="of each data set")
    add("--seed", type=int, default=0, help="chooses the texts")
    add("--quadrature", type=int, default=0, help="in a record: texts whose SIG is integrated too")
    add("--record", metavar="NAME", help="measure nothing; write the figures to results/NAME.json")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, or write the record."""
    options = parser().parse_args(arguments)
    subjects = []
    if options.sst2_models:
        records = shuffled(sst2_records(options.sst2), options.texts, options.seed)
        subjects += [load(p, "sst2", records, options.folder) for p in options.sst2_models]
    if options.rotten_models:
        unseen = unseen_records(options.rotten, options.sst2)
        records = shuffled(unseen, options.texts, options.seed)
        subjects += [load(p, "rotten", records, options.folder) for p in options.rotten_models]
    if not options.record:
        run(subjects, options.switches, options.methods, options.texts)
        return
    cells = list(cell_rows(subjects))
    tables = {
        "switches": list(summary_rows(subjects, cells)),
        "two_sided": list(summary_rows(subjects, cells, "sig:two_sided")),
        "cells": cells,
        "turns": list(turn_rows(subjects)),
        "quadrature": list(quadrature_rows(subjects, options.quadrature)),
        "models": list(model_rows(subjects)),
    }
    record(options.record, tables, command=command_line("tests.benchmarks.paper", arguments))


if __name__ == "__main__":
    main()

"""How faithful each method is on several models, what it costs, and how near to Shapley values.

    python -m tests.benchmarks.faithfulness --data dev.tsv --models minilm-sst2 demo models/roberta
    python -m tests.benchmarks.faithfulness … --permutations 2000  # and Shapley values
    python -m tests.benchmarks.faithfulness … --time               # and seconds: a quiet machine
    python -m tests.benchmarks.faithfulness --folder faithfulness --record faithfulness

Results go to a folder, text by text; a second run adds what is missing: delete a method's files
to measure it again. `tests.benchmarks.train_classifiers` makes the RoBERTa and the LSTM.
"""

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from captum_sig import TextClassificationExplainer
from captum_sig._files import replace_text
from captum_sig.data.records import Record, read_records
from captum_sig.data.settings import check_same_settings, read_settings
from captum_sig.demo_model import PATH as DEMO
from captum_sig.explainers.models import weights_digest
from captum_sig.explainers.scoring import ScoringOptions, text_generator
from captum_sig.faithfulness import METRICS
from captum_sig.faithfulness.examples import Example, prepare_examples
from tests.benchmarks import recurrent  # noqa: F401  # lets transformers load it by its name
from tests.benchmarks.faithfulness_report import FRACTIONS, METRIC_NAMES, SHAPLEY, TIMES, tables
from tests.benchmarks.lines import Line, LineFile
from tests.benchmarks.measure import machine, rows_through
from tests.benchmarks.permutations import estimate
from tests.benchmarks.record import add_record_option, show_and_record

METHODS = (
    "sig", "sig:two_sided", "ig", "sig:sampled4", "gradient_shap", "random", "sig:auto", "lrp",
    "lrp_deletion", "rank_path", "screen", "sig:sampled16",
)  # fmt: skip
BLOCK = 32  # texts that are explained together, and written together
N_STEPS = 50  # of "ig"
SEED = 1  # of permutations; the methods' own draws have 0


@dataclass(frozen=True)
class Subject:
    """A model with one baseline, the texts, and the folder of their results."""

    name: str
    explainer: TextClassificationExplainer
    examples: list[Example]  # short ones first
    folder: Path

    def file(self, name: str) -> LineFile:
        """The results of a method."""
        return LineFile(self.folder / f"{name.replace(':', '-')}.jsonl")

    def missing(self, file: LineFile) -> Iterator[list[Example]]:
        """The texts without a result, in blocks."""
        missing = [x for x in self.examples if x.number not in file.by_number]
        for start in range(0, len(missing), BLOCK):
            yield missing[start : start + BLOCK]


def chosen_records(path: Path, n_texts: int, seed: int) -> list[Record]:
    """The first of the texts in random order, so that more texts keep those before them."""
    records = read_records(path)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    return [records[i] for i in order[:n_texts]]


def subjects(
    name_or_path: str, baselines: Sequence[str], records: Sequence[Record], folder: Path, level: str
) -> list[Subject]:
    """Load a model once, and pair it with each baseline.

    Raises:
        ValueError: if the folder holds results of another model, other texts or another level.
    """
    path = DEMO if name_or_path == "demo" else Path(name_or_path)
    name = "demo" if path == DEMO else path.name
    first = TextClassificationExplainer.from_pretrained(path, baseline=baselines[0], level=level)
    first_text = hashlib.sha256(records[0].text.encode()).hexdigest()[:16]
    settings = {"level": level, "weights": weights_digest(first.model), "first text": first_text}
    path_of_settings = folder / name / "settings.json"
    if path_of_settings.exists():
        check_same_settings(folder / name, read_settings(path_of_settings), settings)
    path_of_settings.parent.mkdir(parents=True, exist_ok=True)
    settings |= {"machine": machine(torch.device("cpu"))}
    replace_text(path_of_settings, json.dumps(settings, indent=1) + "\n")
    examples = prepare_examples(first, records, "predicted")
    explainers = [
        TextClassificationExplainer(first.model, first.tokenizer, baseline=baseline, level=level)
        for baseline in baselines
    ]
    return [
        Subject(name, explainer, examples, folder / name / baseline)
        for baseline, explainer in zip(baselines, explainers, strict=True)
    ]


def is_known(method: str) -> bool:
    """Whether the package has this method; prints a line if not."""
    try:
        ScoringOptions.checked(method)
    except ValueError as error:
        print(f"skipped: {error}", flush=True)
        return False
    return True


def score(subject: Subject, method: str) -> None:
    """Explain and measure the texts that have no result of this method yet."""
    file, started = subject.file(method), time.perf_counter()
    n_before = len(file.by_number)
    for block in subject.missing(file):
        try:
            file.add(measured(subject.explainer, block, method))
        except ValueError as error:  # the method does not fit the model
            print(f"skipped: {method} on {subject.name}: {error}", flush=True)
            return
    n_new = len(file.by_number) - n_before
    if n_new:
        seconds = time.perf_counter() - started
        where = f"{subject.name}, {subject.explainer.family.name}, {method}"
        print(f"{where}: {n_new} texts in {seconds:.0f} s", flush=True)


def measured(
    explainer: TextClassificationExplainer, block: Sequence[Example], method: str
) -> list[Line]:
    """A line for each text: scores, what they cost, and every metric at every fraction."""
    with rows_through(explainer.model) as rows:
        results = explain(explainer, block, method)
    values = {
        f"{metric}@{fraction}": METRICS[metric](
            explainer.log_probabilities,
            [example.sentence for example in block],
            [result.scores for result in results],
            fraction,
            original=[example.log_probability for example in block],
        ).tolist()
        for metric, fraction in itertools.product(METRIC_NAMES, FRACTIONS)
    }
    return [
        {
            "number": example.number,
            "scores": result.scores,
            "standard_errors": [word.standard_error for word in result.words],
            "forward": rows.forward / len(block),
            "backward": rows.backward / len(block),
            **{name: of_texts[i] for name, of_texts in values.items()},
        }
        for i, (example, result) in enumerate(zip(block, results, strict=True))
    ]


def explain(explainer: TextClassificationExplainer, block: Sequence[Example], method: str) -> list:
    """Explain the predicted labels of some texts."""
    texts, targets = zip(*((x.text, x.sentence.target) for x in block), strict=True)
    return explainer(list(texts), list(targets), method, n_steps=N_STEPS)


def add_shapley_values(
    subject: Subject, n_permutations: int, n_texts: int, most_tokens: int
) -> None:
    """Estimate Shapley values of the first texts of at most so many tokens."""
    file = subject.file(SHAPLEY)
    short = [x for x in subject.examples if x.sentence.n_units <= most_tokens]
    for example in sorted(short, key=lambda x: x.number)[:n_texts]:
        known = file.by_number.get(example.number)
        if known is not None and known["permutations"] >= n_permutations:
            continue
        started = time.perf_counter()
        game = subject.explainer.game(example.text, example.sentence.target)
        draws = text_generator(example.text, SEED)
        found = estimate(game, game.n_players, n_permutations, draws)
        line = {
            "number": example.number,
            "permutations": n_permutations,
            "rows": found.rows,
            "values": found.values.tolist(),
            "standard_errors": found.standard_errors.tolist(),
            "halves": found.halves.tolist(),
            "seconds": time.perf_counter() - started,
        }
        file.add([line])


def add_times(subject: Subject, methods: Sequence[str], n_texts: int) -> None:
    """Measure seconds per text, one by one and in blocks, all methods in turn on each block.

    Methods without a result are left out: they do not fit the model.
    """
    methods = [method for method in methods if subject.file(method).by_number]
    examples = sorted(subject.examples, key=lambda x: x.number)[:n_texts]
    examples.sort(key=lambda x: len(x.sentence.ids))
    lines: dict[str, Line] = {}
    for size in (1, BLOCK):
        seconds = dict.fromkeys(methods, 0.0)
        for method in methods:
            explain(subject.explainer, examples[:size], method)  # whatever is done only once
        for start in range(0, len(examples), size):
            for method in methods:
                begun = time.perf_counter()
                explain(subject.explainer, examples[start : start + size], method)
                seconds[method] += time.perf_counter() - begun
        for method, total in seconds.items():
            line = lines.setdefault(method, {"texts": len(examples)})
            line["alone" if size == 1 else "in batches"] = total / len(examples)
    path = subject.folder / f"{TIMES}.jsonl"
    path.unlink(missing_ok=True)  # times of several runs do not compare
    LineFile(path).add(
        {"number": number, "method": method, **line}
        for number, (method, line) in enumerate(lines.items())
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.faithfulness", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--folder", type=Path, default=Path("faithfulness"), help="for the results")
    add("--data", type=Path, help="texts, as `captum-sig evaluate` reads them")
    add("--models", nargs="+", default=["demo"], help="folders, or `demo`")
    add("--baselines", nargs="+", default=["mask", "pad"])
    add("--methods", nargs="*", default=METHODS)
    add("--level", choices=["token", "word"], default="token")
    add("--texts", type=int, default=300)
    add("--seed", type=int, default=0, help="chooses the texts")
    add("--permutations", type=int, default=0, help="for Shapley values; 0 estimates none")
    add("--permutation-texts", type=int, default=100)
    add("--permutation-tokens", type=int, default=10**9, help="in the longest of these texts")
    add("--time", action="store_true", help="measure seconds, which needs a quiet machine")
    add("--time-texts", type=int, default=64)
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and report."""
    options = parser().parse_args(arguments)
    if options.data is not None:
        measure(options)
    elif options.record is None:
        parser().error("give --data, or --record for what was measured before")
    if options.record is not None:
        show_and_record(options, __spec__.name, tables(options.folder, options.methods))


def measure(options: argparse.Namespace) -> None:
    """Measure what is missing."""
    records = chosen_records(options.data, options.texts, options.seed)
    every = [
        subject
        for model in options.models
        for subject in subjects(model, options.baselines, records, options.folder, options.level)
    ]
    methods = [method for method in options.methods if is_known(method)]
    for method, subject in itertools.product(methods, every):
        score(subject, method)
    for subject in every:
        if options.permutations:
            add_shapley_values(
                subject, options.permutations, options.permutation_texts, options.permutation_tokens
            )
        if options.time:
            add_times(subject, methods, options.time_texts)


if __name__ == "__main__":
    main()

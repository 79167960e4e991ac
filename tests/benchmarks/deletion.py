"""Does the order of the methods depend on how words are deleted: by a token, removed, or sampled?

    python -m tests.benchmarks.deletion --model minilm-sst2 --masked-lm masked-lm --data data
    python -m tests.benchmarks.deletion … --record deletion

Every metric under each kind of deletion, on the same texts; Kendall's tau between the orders, and
of two halves of the texts under the same kind; and whether the model knows the deleted
texts. Results go to a folder, text by text; a second run adds what is missing.
`tests.benchmarks.train_masked_lm` makes the language model.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from scipy.stats import kendalltau

from captum_sig import TextClassificationExplainer
from captum_sig.demo_model import PATH as DEMO
from captum_sig.faithfulness import ABLATIONS, MaskedLmSamples
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.distribution import Labelled, distribution
from captum_sig.faithfulness.evaluation import Evaluation
from captum_sig.faithfulness.examples import Example, accuracy, prepare_examples
from captum_sig.faithfulness.ranks import write_ranks
from captum_sig.faithfulness.summary import BETTER
from tests.benchmarks.faithfulness import chosen_records
from tests.benchmarks.record import command_line, record
from tests.benchmarks.train_masked_lm import dev_texts, report

METHODS = (
    "sig", "random", "input_x_gradient", "gradient_shap", "ig", "sig:two_sided", "sig:sampled4",
)  # fmt: skip  # the first is the reference
METRICS = ("log_odds", "comprehensiveness", "sufficiency", "pi_soft_nc", "pi_soft_ns")
KINDS = ("replace", "remove", "sample")
N_RESAMPLES = 1000
N_REPORTED = 100  # texts, of what the language model is told by

Table = list[dict[str, Any]]


def configured(options: argparse.Namespace) -> EvaluationConfig:
    """The settings of the evaluation."""
    return EvaluationConfig(
        data=str(options.data), model=str(options.model), masked_lm=str(options.masked_lm),
        methods=METHODS, baselines=tuple(options.baselines), metrics=METRICS, top_fraction=0.2,
        level="token", explain="predicted", n_steps=options.steps, n_draws=options.draws, seed=0,
        ablation=KINDS,
    )  # fmt: skip


def of_each_text(
    lines: Sequence[Mapping[str, Any]], config: EvaluationConfig, baseline: str
) -> dict[tuple[str, str], np.ndarray]:
    """By metric and kind: the values of each text and method, (texts, methods), low is good."""
    by_text: dict[int, dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        if line["baseline"] == baseline:
            by_text.setdefault(line["number"], {})[line["method"]] = line
    complete = [of_text for of_text in by_text.values() if len(of_text) == len(config.methods)]
    return {
        (measure.metric, str(measure.kind)): np.array([
            [of_text[method][measure.key] for method in config.methods] for of_text in complete
        ]) * (1 if BETTER[measure.metric] == "lower" else -1)
        for measure in config.measures
    }  # fmt: skip


def tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau of two orders of methods by their means; 0 if one is none."""
    value = kendalltau(first.mean(0), second.mean(0)).statistic
    return 0.0 if np.isnan(value) else float(value)


def agreements(values: Mapping[tuple[str, str], np.ndarray], baseline: str) -> Table:
    """Tau of each two kinds with its bootstrap interval, and of two halves of the texts of one."""
    rng, rows = np.random.default_rng(0), []
    for metric in dict.fromkeys(metric for metric, _ in values):
        kinds = [kind for of_metric, kind in values if of_metric == metric]
        for first, second in [*combinations(kinds, 2), *zip(kinds, kinds, strict=True)]:
            pair = values[metric, first], values[metric, second]
            n = len(pair[0])
            draws = []
            for _ in range(N_RESAMPLES):
                chosen = rng.integers(n, size=n) if first != second else rng.permutation(n)
                halves = chosen[: n // 2], chosen[n // 2 :]
                taken = (chosen, chosen) if first != second else halves
                draws.append(tau(pair[0][taken[0]], pair[1][taken[1]]))
            low, high = np.quantile(draws, [0.025, 0.975]).tolist()
            mean = tau(*pair) if first != second else float(np.mean(draws))
            rows.append({
                "baseline": baseline, "metric": metric, "first": first, "second": second,
                "mean": mean, "low": low, "high": high, "n": n,
            })  # fmt: skip
    return rows


def known_texts(
    explainer: TextClassificationExplainer, examples: Sequence[Example], masked_lm: Any
) -> Table:
    """`distribution` of each kind, and of samples that are drawn in fewer or more passes."""
    samples = {
        name: MaskedLmSamples(explainer.tokenizer, masked_lm, n_draws=1, n_passes=n)
        for name, n in (("sample", 4), ("sample, one pass", 1), ("sample, one by one", 512))
    }
    texts = [
        Labelled(example.sentence, (explainer.label_index(str(example.label)),))
        for example in examples
    ]
    kinds = {name: ABLATIONS[name] for name in ("replace", "remove")} | samples
    return distribution(explainer.log_probabilities, texts, kinds)


def read(path: Path) -> Table:
    """A table of an evaluation, with numbers as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: number_of(value) for key, value in row.items()} for row in csv.DictReader(file)
        ]


def number_of(value: str) -> Any:
    """A cell as a number, if it is one."""
    try:
        return int(value) if value.lstrip("-").isdecimal() else float(value)
    except ValueError:
        return value or None


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.deletion", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--model", type=Path, default=DEMO, help="folder of the classifier")
    add("--masked-lm", type=Path, required=True, help="folder of a model with its tokenizer")
    add("--data", type=Path, required=True, help="folder with sst2")
    add("--folder", type=Path, default=Path("deletion"), help="for the results of each text")
    add("--texts", type=int, default=200)
    add("--baselines", nargs="+", default=["mask", "pad"])
    add("--steps", type=int, default=50, help="of ig")
    add("--draws", type=int, default=5, help="of each sampled text, and of embeddings")
    add("--record", metavar="NAME", help="write the figures to results/NAME.json")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and record if that is asked for."""
    options = parser().parse_args(arguments)
    transformers.logging.set_verbosity_error()
    config = configured(options)
    masked_lm = transformers.AutoModelForMaskedLM.from_pretrained(options.masked_lm).eval()
    first = TextClassificationExplainer.from_pretrained(
        options.model, baseline=config.baselines[0], level="token", masked_lm=masked_lm
    )
    explainers = {
        baseline: TextClassificationExplainer(
            first.model, first.tokenizer, baseline=baseline, level="token", masked_lm=masked_lm
        )
        for baseline in config.baselines
    }
    records = chosen_records(options.data / "sst2" / "dev.tsv", options.texts, seed=0)
    examples = prepare_examples(first, records, "predicted")
    run = Evaluation(config, explainers, examples, options.folder, resume=True)
    run.explain_remaining(progress=True)
    run.write_tables()
    means = read(options.folder / "table.csv")
    ranks, _ = write_ranks(means, config, options.folder)
    tables = {
        "means": means,
        "differences": read(options.folder / "paired.csv"),
        "ranks": ranks,
        "agreement": [
            row
            for baseline in config.baselines
            for row in agreements(of_each_text(run.lines, config, baseline), baseline)
        ],
        "distribution": known_texts(first, examples, masked_lm),
        "masked_lm": report(masked_lm, first.tokenizer, dev_texts(options.data)[:N_REPORTED]),
    }
    for name in ("ranks", "agreement", "distribution", "masked_lm"):
        for row in tables[name]:
            print(name, *(f"{v:.3f}" if isinstance(v, float) else v for v in row.values()))
    if options.record:
        record(
            options.record, tables, command=command_line("tests.benchmarks.deletion"),
            figures={"accuracy": accuracy(examples), "texts": len(examples)},
        )  # fmt: skip


if __name__ == "__main__":
    main()

"""Do scores agree with people, and is that the same as being faithful? On Toxic Spans.

    python -m tests.benchmarks.rationales --data toxic-spans/test.csv --model minilm-sst2 \
        --plain rotten-tomatoes/train.tsv rotten-tomatoes/dev.tsv --folder rationales

A classifier "toxic" / "not toxic" is trained on comments with the characters that people marked,
the same comments without these characters, and sentences of other texts. So what people marked is
what tells the two versions of a comment apart: the classifier is taught to rely on it, and
agreement with people is worth more here than for a model that was not. Then the methods explain
"toxic" of comments that were held out.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path

import torch
from scipy.stats import rankdata, spearmanr
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from captum_sig import TextClassificationExplainer
from captum_sig.data.rationales import Spans
from captum_sig.data.records import Record, read_records
from captum_sig.data.statistics import paired
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.evaluation import Evaluation
from captum_sig.faithfulness.examples import Example, prepare_examples
from captum_sig.faithfulness.summary import BETTER, Line
from tests.benchmarks.record import Row, add_record_option, show_and_record
from tests.benchmarks.train_classifiers import accuracy, fit
from tests.demo_model.train import save

TOXIC, OTHER = 0, 1  # a classifier of sentiment begins with most comments right: they are negative
LABELS = {TOXIC: "toxic", OTHER: "not toxic"}
METHODS = (
    "sig", "sig:two_sided", "sig:sampled4", "ig", "gradient_shap", "input_x_gradient", "random",
)  # fmt: skip
METRICS = ("log_odds", "comprehensiveness", "sufficiency", "auprc", "token_f1", "iou")
MOST_TRAINING_WORDS = 24


def without(text: str, spans: Spans) -> str:
    """A text without some of its characters, and without the gaps that they leave."""
    ends = [0, *(place for span in spans for place in span), len(text)]
    return " ".join("".join(text[a:b] for a, b in zip(ends[::2], ends[1::2], strict=True)).split())


def shuffled(records: Sequence[Record], seed: int) -> list[Record]:
    """The records in random order."""
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    return [records[i] for i in order.tolist()]


def split(records: Sequence[Record], n: int, most_words: int) -> tuple[list[Record], list[Record]]:
    """Comments of which something is marked: n held out, of at most so many words, and the rest."""
    marked = [record for record in records if record.spans]
    held_out = [record for record in marked if len(record.text.split()) <= most_words][:n]
    known = {record.text for record in held_out}  # a comment may occur twice
    rest = [record for record in marked if record.text not in known]
    return held_out, [x for x in rest if len(x.text.split()) <= MOST_TRAINING_WORDS]


def labelled(records: Sequence[Record], others: Sequence[str]) -> tuple[list[str], list[int]]:
    """Comments, the same without what is marked, and other texts."""
    pairs = [(record.text, TOXIC) for record in records]
    pairs += [(without(record.text, record.spans or ()), OTHER) for record in records]
    pairs += [(text, OTHER) for text in others]
    texts, labels = zip(*((text, label) for text, label in pairs if text), strict=True)
    return list(texts), list(labels)


def train(
    source: Path, texts: list[str], labels: list[int], folder: Path, *, epochs: int, rate: float
) -> None:
    """Fine-tune a classifier in bfloat16, all but its embeddings, and save it."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, id2label=LABELS, label2id={name: i for i, name in LABELS.items()}
    )
    model.get_input_embeddings().requires_grad_(False)
    rows = tokenizer(texts, truncation=True)["input_ids"]
    # a cache would keep the weights of the first step
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        fit(
            model, rows, torch.tensor(labels),
            mask=tokenizer.mask_token_id, learning_rate=rate, epochs=epochs, most_masked=0.0,
        )  # fmt: skip
    save(model, tokenizer, folder)


def accuracies(
    explainer: TextClassificationExplainer, held_out: Sequence[Record], others: Sequence[str]
) -> dict[str, float]:
    """The share of right labels among held-out comments, their other versions, and other texts."""
    shares = {}
    unmarked = [without(record.text, record.spans or ()) for record in held_out]
    for name, texts, label in (
        ("comments", [record.text for record in held_out], TOXIC),
        ("without_marked", unmarked, OTHER),
        ("others", list(others), OTHER),
    ):
        rows = explainer.tokenizer([text for text in texts if text], truncation=True)["input_ids"]
        target = torch.full((len(rows),), label)
        shares[f"accuracy_{name}"] = accuracy(explainer.model, rows, target)
    return shares


def evaluated(
    explainer: TextClassificationExplainer,
    examples: Sequence[Example],
    folder: Path,
    methods: Sequence[str],
    n_steps: int,
) -> dict[str, list[Row]]:
    """Means, differences from the first method, and ranks by each metric; resumes in the folder."""
    config = EvaluationConfig(
        data="toxic spans", model="toxic", masked_lm=None, methods=tuple(methods),
        baselines=("mask",), metrics=METRICS, top_fraction=0.2, level="word", explain="label",
        n_steps=n_steps, n_draws=5, seed=0, rationale_column="spans",
    )  # fmt: skip
    evaluation = Evaluation(config, {"mask": explainer}, examples, folder, resume=True)
    evaluation.explain_remaining(progress=True)
    evaluation.write_tables()
    means, differences = (read_table(folder / f"{name}.csv") for name in ("table", "paired"))
    return {
        "methods": means,
        "differences": differences,
        "from_ig": from_reference(evaluation.lines, "ig", methods),
        "ranks": ranks(means, methods),
    }


def from_reference(lines: Sequence[Line], reference: str, methods: Sequence[str]) -> list[Row]:
    """Paired differences from another method than the first; none if it was not measured."""
    values: dict[tuple[str, str], list[float]] = {}
    for line in sorted(lines, key=itemgetter("number")):
        for metric in METRICS:
            values.setdefault((line["method"], metric), []).append(line[metric])
    return [
        {"method": method, "reference": reference, "metric": metric,
         **asdict(paired(values[reference, metric], values[method, metric]))}
        for method in methods if reference in methods and method != reference
        for metric in METRICS
    ]  # fmt: skip


def read_table(path: Path) -> list[Row]:
    """The rows of a table, its numbers as numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: _number(value) for name, value in row.items()} for row in rows]


def _number(value: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def ranks(means: Sequence[Row], methods: Sequence[str]) -> list[Row]:
    """The rank of each method by each metric; 1 is best."""
    table: dict[str, dict[str, str | float]] = {name: {"method": name} for name in methods}
    for metric in METRICS:
        sign = 1 if BETTER[metric] == "lower" else -1
        of_metric = {row["method"]: row["mean"] for row in means if row["metric"] == metric}
        for method, rank in zip(
            methods, rankdata([sign * of_metric[method] for method in methods]), strict=True
        ):
            table[method][metric] = float(rank)
    return list(table.values())


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.rationales", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--data", type=Path, required=True, help="test.csv of Toxic Spans: spans, text")
    add("--model", type=Path, required=True, help="folder of a classifier to begin with")
    add("--plain", type=Path, nargs=2, required=True, help="texts that are not toxic: train, test")
    add("--folder", type=Path, required=True, help="for the trained model and the results")
    add("--texts", type=int, default=150, help="held out")
    add("--words", type=int, default=16, help="most words in a held-out comment")
    add("--training-texts", type=int, default=10**9)
    add("--epochs", type=int, default=2)
    add("--learning-rate", type=float, default=1e-4)
    add("--methods", nargs="+", default=METHODS)
    add("--n-steps", type=int, default=20, help="of ig")
    add("--seed", type=int, default=0)
    add_record_option(options)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, unless the folder holds a model, then measure what is missing."""
    options = parser().parse_args(arguments)
    torch.manual_seed(options.seed)
    records = shuffled(read_records(options.data, rationale_column="spans"), options.seed)
    held_out, rest = split(records, options.texts, options.words)
    rest = rest[: options.training_texts]
    plain, unseen = ([record.text for record in shuffled(read_records(path), options.seed)]
                     for path in options.plain)  # fmt: skip
    texts, labels = labelled(rest, plain[: len(rest)])
    model = options.folder / "model"
    if not (model / "model.safetensors").exists():
        train(
            options.model, texts, labels, model, epochs=options.epochs, rate=options.learning_rate
        )
    explainer = TextClassificationExplainer.from_pretrained(model, level="word")
    figures: dict[str, float] = {
        "held_out": len(held_out), "training_comments": len(rest), "training_texts": len(texts),
        **accuracies(explainer, held_out, unseen[: len(held_out)]),
    }  # fmt: skip
    print(figures, flush=True)
    examples = prepare_examples(
        explainer, [Record(x.text, LABELS[TOXIC], spans=x.spans) for x in held_out], "label"
    )
    tables = evaluated(
        explainer, examples, options.folder / "results", options.methods, options.n_steps
    )
    show_and_record(options, __spec__.name, tables, figures | correlations(tables["ranks"]))


def correlations(table: Sequence[Row]) -> dict[str, float]:
    """Spearman's correlation over methods of AUPRC with the metrics of faithfulness."""
    of_people = [row["auprc"] for row in table]
    return {
        f"spearman_auprc_{metric}": float(spearmanr(of_people, [row[metric] for row in table])[0])
        for metric in METRICS[:3]
    }


if __name__ == "__main__":
    main()

"""Precision of each method on words that are known to decide: planted shortcuts.

    python -m tests.benchmarks.planted --data dev.tsv --record planted
    python -m tests.benchmarks.planted --data train.tsv --limit 5000 --model minilm-sst2 \
        --shortcuts single_token or --record planted_minilm

A second run with the same options resumes, shortcut by shortcut.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from captum_sig import TextClassificationExplainer
from captum_sig._names import ShortcutName
from captum_sig.data.records import read_records
from captum_sig.demo_model import PATH as DEMO
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.planted import METRICS, PlantedConfig, PlantedEvaluation
from captum_sig.faithfulness.planted_models import Training
from tests.benchmarks.record import add_record_option, command_line, record

METHODS = (
    "sig", "random", "input_x_gradient", "ig", "gradient_shap", "lrp", "occlusion",
    "sig:two_sided", "sig:sampled16",
)  # fmt: skip
NUMBERS = ("mean", "low", "high", "p", "p_holm")  # in the table of differences


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.planted", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = options.add_argument
    add("--folder", type=Path, default=Path("planted"), help="for the results of each text")
    add("--data", type=Path, required=True, help="labelled texts, as `captum-sig evaluate` reads")
    add("--limit", type=int, help="read only the first texts")
    add("--model", default="demo", help="a folder, or `demo`")
    add("--methods", nargs="+", default=METHODS, help="the first is the reference of differences")
    add("--baselines", nargs="+", default=["mask"])
    add("--shortcuts", nargs="+", default=get_args(ShortcutName))
    add("--texts", type=int, default=100, help="that are explained, of each shortcut")
    add("--max-steps", type=int, default=1000)
    add("--seed", type=int, default=0)
    add_record_option(options)
    return options


def evaluation(options: argparse.Namespace) -> PlantedEvaluation:
    """Set up what the options say."""
    explainer = TextClassificationExplainer.from_pretrained(
        DEMO if options.model == "demo" else options.model, level="token"
    )
    config = EvaluationConfig(
        data=options.data.name, model=Path(options.model).name, masked_lm=None,
        methods=tuple(options.methods), baselines=tuple(options.baselines), metrics=METRICS,
        top_fraction=0.2, level="token", explain="predicted", n_steps=50, n_draws=5,
        seed=options.seed,
    )  # fmt: skip
    planted = PlantedConfig(
        config, tuple(options.shortcuts), options.texts, Training(options.max_steps)
    )
    records = read_records(options.data, limit=options.limit)
    return PlantedEvaluation(planted, explainer, records, options.folder, resume=True)


def differences(folder: Path, shortcuts: Sequence[str]) -> list[dict[str, Any]]:
    """Read each method's paired differences from the reference."""
    rows = []
    for shortcut in shortcuts:
        with (folder / shortcut / "paired.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                numbers = {name: float(row[name]) for name in NUMBERS if name in row}
                rows.append({"shortcut": shortcut, **row, **numbers, "n": int(row["n"])})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, print the table, and write the record."""
    options = parser().parse_args(arguments)
    run = evaluation(options)
    started = time.process_time()
    run.measure_remaining()
    seconds = time.process_time() - started
    rows = run.write_tables()
    print((options.folder / "reliance.md").read_text(encoding="utf-8"))
    print((options.folder / "planted.md").read_text(encoding="utf-8"))
    if options.record:
        learned = list(dict.fromkeys(row["shortcut"] for row in rows))
        with (options.folder / "reliance.csv").open(encoding="utf-8", newline="") as file:
            words = {row["shortcut"]: row["words"] for row in csv.DictReader(file)}
        reliance = [
            {"shortcut": name, "learned": name in learned, **vars(one), "words": words[name]}
            for name, one in run.reliance.items()
        ]
        record(
            options.record,
            {
                "reliance": reliance,
                "planted": rows,
                "differences": differences(options.folder, learned),
            },
            command=command_line("tests.benchmarks.planted", arguments),
            figures={"cpu_seconds_of_this_run": seconds, "model": options.model},
        )


if __name__ == "__main__":
    main()

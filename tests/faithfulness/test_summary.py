"""Tables of made lines, of which is known what differs."""

import csv

import numpy as np
import pytest

from captum_sig.data.statistics import holm, paired, paired_p_value
from captum_sig.faithfulness.config import EvaluationConfig
from captum_sig.faithfulness.summary import conclusion, verdict, write_tables

N_TEXTS = 60
# What is added to a text's value, in the mean, for each baseline; the first method is compared.
EFFECTS = {"random": (0, 0), "sig": (-1, -1), "ig": (0, -1), "saliency": (2, 0)}
METRICS = ("log_odds", "sufficiency")  # of both, lower is better


def config(methods, baselines=("mask", "pad"), metrics=METRICS):
    return EvaluationConfig(
        data="made", model="demo", masked_lm=None, methods=tuple(methods), baselines=baselines,
        metrics=metrics, top_fraction=0.2, level="token", explain="predicted", n_steps=5,
        n_draws=1, seed=4,
    )  # fmt: skip


def made_lines(methods, baselines=("mask", "pad"), metrics=METRICS, n_texts=N_TEXTS):
    """Return a line for each text, method and baseline; only `log_odds` has the effects."""
    of_texts = 3 * np.random.default_rng(0).normal(size=n_texts)
    rng = np.random.default_rng(1)
    return [
        {
            "number": number, "text": f"text {number:03}", "explained": "1", "method": method,
            "baseline": baseline, "seconds": 0.5,
            **{
                metric: float(value + EFFECTS[method][i] * (metric == "log_odds") + rng.normal())
                for metric in metrics
            },
        }
        for method in methods
        for i, baseline in enumerate(baselines)
        for number, value in enumerate(of_texts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    lines = made_lines(EFFECTS)
    return folder, lines, write_tables(lines, config(EFFECTS), folder)


def values(lines, method, baseline, metric):
    return [
        line[metric] for line in lines if (line["method"], line["baseline"]) == (method, baseline)
    ]


def test_every_difference_is_tested_and_corrected_within_its_metric(written):
    folder, lines, tables = written
    rows = list(csv.DictReader((folder / "paired.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(tables.differences) == 3 * 2 * 2
    for row, of_file in zip(tables.differences, rows, strict=True):
        assert {name: str(value) for name, value in row.items()} == of_file
        pair = [values(lines, m, row["baseline"], row["metric"]) for m in ("random", row["method"])]
        interval = paired(*pair, seed=4)
        assert (row["mean"], row["low"], row["high"]) == (
            interval.mean, interval.low, interval.high
        )  # fmt: skip
        assert row["p"] == paired_p_value(*pair, seed=4)
    for metric in METRICS:
        family = [row for row in tables.differences if row["metric"] == metric]
        assert len(family) == 6
        assert [row["p_holm"] for row in family] == holm([row["p"] for row in family])


def test_only_what_differs_is_called_so(written):
    found = {
        (row["method"], row["baseline"], row["metric"]): verdict(row)
        for row in written[2].differences
    }
    expected = dict.fromkeys(found)
    for name, baseline in (("sig", "mask"), ("sig", "pad"), ("ig", "pad")):
        expected[name, baseline, "log_odds"] = "better"
    expected["saliency", "mask", "log_odds"] = "worse"
    assert found == expected


def test_higher_is_better_by_some_metrics():
    row = {"metric": "comprehensiveness", "mean": 0.1, "p_holm": 0.049}
    assert verdict(row) == "better"
    assert verdict({**row, "mean": -0.1}) == "worse"
    assert verdict({**row, "p_holm": 0.05}) is None


def test_a_sentence_says_what_differs(written):
    assert conclusion(written[2].differences) == (
        "Different from random at 5 % after Holm's correction: by log odds, sig (mask), sig (pad), "
        "ig (pad) better and saliency (mask) worse; by sufficiency, none."
    )


def test_one_baseline_needs_no_name(tmp_path):
    baselines, metrics = ("mask",), ("log_odds",)
    lines = made_lines(EFFECTS, baselines, metrics)
    tables = write_tables(lines, config(EFFECTS, baselines, metrics), tmp_path)
    assert conclusion(tables.differences) == (
        "Different from random at 5 % after Holm's correction: by log odds, sig better and "
        "saliency worse."
    )


def test_markdown_has_a_table_of_differences(written):
    shown = (written[0] / "table.md").read_text(encoding="utf-8")
    means, sentence, differences = shown.split("\n\n")
    assert means.count("\n") == 1 + 4 * 2 * 2  # with the header
    assert sentence == (
        "Differences from random, text by text. Those that hold at 5 % after Holm's correction "
        "over all of a metric are called better or worse."
    )
    rows = [line.strip("| ").split(" | ") for line in differences.splitlines()]
    assert rows[0][-3:] == ["p", "p_holm", "differs"]
    assert [row[-1] for row in rows[2:]].count("better") == 3
    assert [row[-1] for row in rows[2:]].count("worse") == 1
    assert [row[-1] for row in rows[2:]].count("–") == 8


def test_a_method_alone_is_compared_with_nothing(tmp_path):
    tables = write_tables(made_lines(["random"]), config(["random"]), tmp_path)
    assert tables.differences == []
    assert "Differences" not in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert (tmp_path / "paired.csv").read_text(encoding="utf-8").endswith(",p,p_holm\n")


@pytest.mark.parametrize("n_texts", [1, 4])
def test_few_texts_show_nothing(tmp_path, n_texts):
    lines = made_lines(EFFECTS, n_texts=n_texts)
    tables = write_tables(lines, config(EFFECTS), tmp_path)
    assert {verdict(row) for row in tables.differences} == {None}


def test_the_order_of_lines_changes_nothing(written, tmp_path):
    lines, tables = written[1:]
    assert write_tables(lines[::-1], config(EFFECTS), tmp_path) == tables

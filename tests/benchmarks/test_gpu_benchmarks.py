"""The benchmark for a GPU, tried on the CPU: its first run there has to succeed."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu
from tests.benchmarks.gpu_defaults import best_value
from tests.benchmarks.gpu_models import CLASSIFIERS, GENERATORS, TINY_CLASSIFIERS, TINY_GENERATORS
from tests.benchmarks.gpu_record import OutOfTimeError, Record, limit
from tests.benchmarks.gpu_sections import Bench, Cell
from tests.benchmarks.measure import flops

ROOT = Path(__file__).parents[2]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text().splitlines()]


def test_a_tiny_run_writes_every_section(tmp_path, capsys):
    gpu.main(["--tiny", "--minutes", "20", "--output", str(tmp_path)])
    rows = lines(tmp_path)
    assert [row for row in rows if "left out" in row] == []
    assert list(dict.fromkeys(row["section"] for row in rows)) == list(gpu.TITLES)
    assert rows[0]["torch"] == torch.__version__
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert re.findall("^## (.*)", page, re.MULTILINE) == list(gpu.TITLES.values())
    of = {name: [row for row in rows if row["section"] == name] for name in gpu.TITLES}
    assert all(row["texts/s"] > 0 and row["FeatureAblation takes"] > 0 for row in of["words"])
    assert {row["dtype"] for row in of["words"]} == {"bfloat16", "float32"}
    loops = [row for row in of["integrals"] if row["method"] == "plain loop"]
    assert [row["gradients a word"] for row in loops] == [50 * 8 / 6] * 2
    assert all(row["cache used"] and row["gap, nats"] < 0.1 for row in of["generation"])
    assert [row["constant"] for row in of["defaults"]][0] == "chunks.CHUNK_BYTES['cuda']"
    assert "defaults: " in capsys.readouterr().out


def test_what_was_done_before_it_is_cut_off_can_be_read(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.gpu", "--tiny", "--output", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    record, deadline = tmp_path / "gpu.jsonl", time.monotonic() + 600
    while not record.exists() or record.read_text().count("\n") < 6:  # so that the page has five
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert len(lines(tmp_path)) >= 5
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page.startswith("## Machine")
    assert "## Exact words" in page


def test_the_work_fits_the_minutes(capsys):
    gpu.main(["--dry"])
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == list(gpu.SECTIONS)
    for row in rows:
        needed, allowed = float(row[3]), float(row[4].strip("| "))
        assert 0 < needed < 0.6 * allowed  # first calls, and what no product counts


def test_a_cell_that_takes_too_long_or_fails_is_a_row(tmp_path):
    bench = Bench(torch.device("cpu"), gpu.sizes(True, []))
    bench.rates = {"float32": 1e9}
    record = Record(tmp_path, {"words": "Words"})

    def fail():
        yield {"first": 1}
        raise ValueError("no such model")

    def last():
        yield {"first": 2}
        time.sleep(60)

    for name, operations, run in (("large", 1e12, fail), ("bad", 0, fail), ("endless", 0, last)):
        gpu._measure_cell(bench, record, "words", Cell(name, operations, torch.float32, run), 0.2)
    assert [list(row.values())[1:] for row in lines(tmp_path)] == [
        ["large: would take 2000 s, and 0 s are left"],
        [1], ["bad: ValueError: no such model"],
        [2], ["endless: cut off after 0 s"],
    ]  # fmt: skip


def test_the_time_is_limited():
    with pytest.raises(OutOfTimeError), limit(0.01):
        time.sleep(60)
    with limit(0.01):
        pass
    time.sleep(0.02)  # no alarm rings any more


def test_the_fastest_value_is_found():
    cells = [({1: 4.0, 8: 1.0, 64: 2.0}, lambda size: size // 10)]
    assert best_value(cells, 10, [80, 640]) == (80, pytest.approx(4))
    assert best_value(cells, 90, [80, 640]) == (90, pytest.approx(1))
    assert best_value(cells, 5, [1, 2])[0] == 5  # no row at all is one


@pytest.mark.parametrize("shape", [*TINY_CLASSIFIERS, *TINY_GENERATORS], ids=lambda s: s.name)
def test_operations_are_those_that_pytorch_counts(shape):
    model = shape.build(torch.device("cpu"), torch.float32)
    model.set_attn_implementation("eager")  # the CPU's fused kernel is not counted
    ids = torch.randint(5, 200, (3, 24))
    options = {"logits_to_keep": 4} if shape.generates else {}
    counted = flops(lambda: model(input_ids=ids, **options))
    assert shape.flops(3, 24, 4 if shape.generates else 0) == pytest.approx(counted, rel=0.1)


def test_shapes_are_the_real_ones():
    millions = {s.name: round(s.parameters / 1e6) for s in (*CLASSIFIERS, *GENERATORS)}
    assert millions == {
        "BERT-base": 86, "BERT-large": 303, "Llama-3.2-1B": 973, "Llama-3.1-8B": 6979,
    }  # fmt: skip

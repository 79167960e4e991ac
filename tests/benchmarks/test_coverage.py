"""The simulation of intervals and tests counts what it says."""

import json

import pytest

from tests.benchmarks import coverage
from tests.benchmarks.record import read
from tests.populations import POPULATIONS, RARE


def test_shares_of_samples_are_counted():
    found = coverage.simulate(POPULATIONS["normal"], 30, 40, 200)
    shares = {name: share for name, share in found.items() if not name.endswith("width")}
    assert all(0 <= share <= 1 for share in shares.values())
    assert found["bca"] + found["bca_below"] + found["bca_above"] == pytest.approx(1)
    assert found["bca"] > 0.8
    assert found["sign_flips"] < 0.2


def test_the_command_prints_and_records_every_population(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tests.benchmarks.record.RESULTS", tmp_path)
    coverage.main(["--sizes", "50", "--repeats", "2", "--resamples", "100", "--record", "tried"])
    recorded = json.loads((tmp_path / "tried.json").read_text(encoding="utf-8"))
    names = [row["population"] for row in recorded["tables"]["coverage"]]
    assert names == [*POPULATIONS, *RARE]
    assert recorded["figures"]["repeats"] == 2
    assert 0 <= recorded["figures"]["least"] <= recorded["figures"]["most"] <= 1
    assert all(name in capsys.readouterr().out for name in names[:1])


def test_usual_shapes_are_covered_as_stated():
    """As the docstring of `bootstrap` says."""
    figures = read("coverage").figures
    assert figures["repeats"] >= 1000
    assert 0.90 <= figures["least"] <= figures["most"] <= 0.97

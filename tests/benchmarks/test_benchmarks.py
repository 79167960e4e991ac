"""The benchmark command measures what it says; how fast it was is nobody's test."""

import json
import math
from pathlib import Path

import pytest
import torch

from captum_sig.demo_model import PATH
from tests.benchmarks import growth, measure, methods, reference, schemes, subjects, windows
from tests.benchmarks.__main__ import figures_of, main
from tests.benchmarks.record import read

SMALL = ["--shape", "tiny", "--sentences", "2", "--few", "1", "--lengths", "12", "24",
         "--batches", "1", "2", "--words", "4"]  # fmt: skip


@pytest.fixture
def subject() -> subjects.Subject:
    return subjects.of_shape("tiny", 2, 0, "cpu", torch.float32, False)


@pytest.mark.filterwarnings("ignore:.*words did not reach tolerance")
def test_the_command_writes_what_it_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # two would wait for each other
    main([*SMALL, "--output", str(tmp_path)])
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert found["machine"]["torch"] == torch.__version__
    compare = found["compare"]
    exact, fixed = compare["exact words"], compare["n_steps=50"]
    words = exact["error_words"]["n"]
    # x̄ʷ, and each x twice: when the layer is read, and among the rows
    assert exact["rows"] == {"forward": words + 2 * 2, "backward": 0}
    assert (exact["sentences"], fixed["sentences"]) == (2, 1)
    assert fixed["rows"]["backward"] == 50 * fixed["error_features"]["n"]
    assert fixed["error_features"]["worst"] < 1e-3
    assert "error_words" not in compare["Captum LayerIG, n_steps=50"]
    assert f"{exact['seconds'] / 2:.3f}" in capsys.readouterr().out
    assert found["length"]["lengths"] == [12, 24]
    tables, memory = figures_of(found)
    missing = {*read("side_by_side").tables["methods"][0]} - {*tables["methods"][0]}
    assert missing == {"faster_than_tint_all", "faster_than_tint_median"}  # tint is not there
    assert {"s_12", "s_24", "exponent"} < {*tables["length"][0]}
    assert memory["length"] == 24


def test_help_tells_how_to_get_the_peers(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m tests.benchmarks ")
    assert "pip download --no-deps" in shown


def test_the_reference_is_converged_and_kept(subject, tmp_path):
    ids = subject.sentences[0][:, :8]
    found = reference.reference(subject, ids, 1, tmp_path)
    model = subject.model.double()
    fine = methods.LayerSequentialIntegratedGradients(
        lambda ids: model(input_ids=ids).logits, model.get_input_embeddings()
    ).integrate(ids, subject.base(ids), target=1, n_steps=150)
    scale = fine.attributions.norm(dim=-1).max()
    assert (found.features - fine.attributions).norm(dim=-1).max() < 1e-5 * scale
    assert (found.words - fine.attributions.sum(-1)).abs().max() < 1e-6 * scale
    (kept,) = tmp_path.glob("*.pt")
    torch.save({"features": found.features + 1, "words": found.words}, kept)
    subject.model.float()
    again = reference.reference(subject, ids, 1, tmp_path)
    assert torch.equal(again.features, found.features + 1)


def test_rows_and_operations_are_counted(subject):
    ids = torch.tensor([[1, 5, 6, 2]])
    with measure.rows_through(subject.model) as rows:
        subject.logits(ids).sum().backward()
        with torch.no_grad():
            subject.logits(ids.expand(3, -1))
    assert rows == measure.Rows(forward=4, backward=1)
    a = torch.randn(8, 16)
    assert measure.flops(lambda: a @ a.T) == 2 * 8 * 16 * 8


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_peak_memory_is_what_was_held_at_once():
    def hold() -> None:
        for _ in range(3):
            torch.ones(50 * 2**18)  # 50 MiB, one after the other

    # other threads and the kernel's own bookkeeping show in the peak, too
    assert 40 < measure.peak_mib(hold, torch.device("cpu")) < 100


def test_the_exponent_is_the_slope():
    sizes = [16, 32, 64]
    assert growth.exponent(sizes, [3 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert math.isclose(growth.exponent([1, 10], [5, 5]), 0, abs_tol=1e-12)


def test_the_schemes_refine_as_the_package_does(subject):
    ids = subject.sentences[0]
    words = schemes.paths(schemes.measure(subject))[: int((ids != subject.base(ids)).sum())]
    sig = methods.LayerSequentialIntegratedGradients(subject.logits, subject.embedding)
    found = sig.integrate(ids, subject.base(ids), target=subject.target(ids), tolerance=0.1)
    used = found.n_evaluations[found.n_evaluations > 0].tolist()
    assert [schemes.refining(word, 0.1)[0] for word in words] == used
    for scheme in schemes.SCHEMES.values():
        nodes, integral = scheme(words[0], 0.01)
        assert 3 <= nodes <= 129
        assert abs(integral - words[0].integral).max() < 0.01 * words[0].scale


def test_windows_are_measured_beside_a_plain_loop(tmp_path, capsys):
    data = tmp_path / "sentences.tsv"
    sentence = "The jokes are old, yet the film is charming."
    data.write_text("sentence\n" + f"{sentence}\n" * 20)
    windows.main(["--model", str(PATH), "--data", str(data), "--tokens", "150", "--stride", "16",
                  "--words", "2"])  # fmt: skip
    measured = json.loads(capsys.readouterr().out)
    assert measured["tokens"] >= 150
    assert measured["largest_error"] < 1e-5
    assert measured["words"] < measured["windows"] < measured["loop_windows"]

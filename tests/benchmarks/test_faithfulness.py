"""The benchmark of faithfulness measures what it says, and resumes."""

import itertools
import json

import pytest
import torch

from captum_sig import TextClassificationExplainer
from captum_sig.demo_model import PATH
from tests.benchmarks import faithfulness, faithfulness_report, record, train_classifiers
from tests.benchmarks.lines import LineFile
from tests.benchmarks.permutations import estimate
from tests.benchmarks.recurrent import RecurrentClassifier, RecurrentConfig

TEXTS = ["A charming film.", "Dull, and far too long.", "Not bad at all.", "Good"]


@pytest.fixture(scope="module")
def explainer() -> TextClassificationExplainer:
    return TextClassificationExplainer.from_pretrained(PATH, level="token")


@pytest.fixture
def run(tmp_path):
    data = tmp_path / "texts.tsv"
    data.write_text("sentence\n" + "".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    folder = tmp_path / "results"

    def run_with(*options: str) -> None:
        faithfulness.main(["--folder", str(folder), "--data", str(data), *options])

    return run_with, folder


def test_a_run_measures_what_is_missing_and_reports(run, capsys, explainer):
    run_with, folder = run
    methods = ["sig", "sig:two_sided", "sig:sampled4", "random"]
    shapley = ["--permutations", "16", "--time", "--time-texts", "2"]
    run_with("--methods", "sig", "unheard_of", "--texts", "2")
    assert "skipped: method 'unheard_of' is unknown" in capsys.readouterr().out
    first = (folder / "demo/mask/sig.jsonl").read_text(encoding="utf-8")
    run_with("--methods", *methods, *shapley)
    again = (folder / "demo/mask/sig.jsonl").read_text(encoding="utf-8")
    assert again.startswith(first)
    lines = [json.loads(line) for line in again.splitlines()]
    assert sorted(line["number"] for line in lines) == [0, 1, 2, 3]
    assert all(line["backward"] == 0 for line in lines)
    found = faithfulness_report.tables(folder, methods)
    assert [(row["baseline"], row["method"], row["n"]) for row in found["methods"]] == [
        (baseline, method, 4) for baseline in ("mask", "pad") for method in methods
    ]
    assert {(row["method"], row["minus"]) for row in found["differences"]} == {
        (method, other) for method in methods for other in methods[:2] if method != other
    }
    assert [row["n"] for row in found["shapley_texts"]] == [4, 4]


def test_a_folder_can_be_recorded_later(run, capsys, monkeypatch, tmp_path):
    run_with, folder = run
    run_with("--methods", "random", "--baselines", "mask")
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["", "--record", "some"])
    faithfulness.main(["--folder", str(folder), "--record", "some"])
    command = "python -m tests.benchmarks.faithfulness --record some"
    assert record.read("some").command == command
    assert "| demo | mask | random | 4 |" in capsys.readouterr().out


def test_rows_are_those_of_one_text_alone(explainer):
    (example,) = faithfulness.prepare_examples(
        explainer, [faithfulness.Record(TEXTS[0], None)], "predicted"
    )
    n_words = example.sentence.n_units
    explainer(TEXTS[0])  # which shows what the model is
    rows = {
        method: faithfulness.measured(explainer, [example], method)[0]
        for method in ("sig:two_sided", "ig")
    }
    assert rows["sig:two_sided"]["backward"] == 0
    beside = rows["sig:two_sided"]["forward"] - 2 * (n_words + 1)  # the logits, the layer, F(x)
    assert 0 <= beside <= 3
    assert rows["ig"]["backward"] == faithfulness.N_STEPS


def test_results_of_another_level_or_other_texts_are_refused(run):
    run_with, _ = run
    run_with("--methods", "random", "--texts", "1")
    with pytest.raises(ValueError, match="was made with level 'token', not 'word'"):
        run_with("--methods", "random", "--level", "word")
    with pytest.raises(ValueError, match="was made with first text"):
        run_with("--methods", "random", "--seed", "1")


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "lines.jsonl"
    LineFile(path).add([{"number": 3, "x": 1}, {"number": 5, "x": 2}])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    file = LineFile(path)
    assert list(file.by_number) == [3]
    file.add([{"number": 5, "x": 2}])
    assert path.read_bytes() == whole


def test_many_permutations_give_the_shapley_values(explainer):
    game = explainer.game(TEXTS[2])
    n = game.n_players
    found = estimate(game, n, 4000, torch.Generator().manual_seed(0))
    orders = torch.tensor(list(itertools.permutations(range(n))))
    exact = torch.zeros(n, dtype=torch.float64)
    for order in orders:
        keeps = order.argsort() < torch.arange(n + 1)[:, None]
        exact[order] += torch.from_numpy(game(keeps)).diff() / len(orders)
    assert found.rows == 2**n
    assert ((found.values - exact).abs() <= 4 * found.standard_errors + 1e-6).all()
    torch.testing.assert_close(found.halves.mean(0), found.values)


def test_a_verdict_needs_an_interval_without_zero():
    interval = faithfulness_report.Interval
    ahead, tie = interval(-0.2, -0.3, -0.1, 9), interval(-0.2, -0.3, 0.1, 9)
    assert faithfulness_report._verdict("log_odds", ahead) == "ahead"
    assert faithfulness_report._verdict("comprehensiveness", ahead) == "behind"
    assert faithfulness_report._verdict("comprehensiveness", tie) == "tie"


def test_coverage_counts_sampled_words_alone(tmp_path):
    found = {"scores": [1.0, 2.0, 3.0], "standard_errors": [None, 0.1, 0.1]}
    shapley = {"values": [0.0, 2.2, 3.4], "standard_errors": [0.1, 0.1, 0.1]}
    LineFile(tmp_path / "sig-auto.jsonl").add([{"number": 0, **found}])
    LineFile(tmp_path / "shapley.jsonl").add([{"number": 0, **shapley}])
    results = faithfulness_report.Results(tmp_path, ["sig:auto"])
    assert results.coverage("sig:auto") == 0.5
    assert results.rank_correlation("sig:auto").mean == pytest.approx(1)


def test_the_recurrent_classifier_ignores_padding_and_loads_by_its_name(tmp_path):
    torch.manual_seed(0)
    tokenizer = train_classifiers.byte_level_tokenizer(TEXTS, 300)
    config = RecurrentConfig(vocab_size=len(tokenizer), hidden_size=8)
    model = RecurrentClassifier(config).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    together = model(batch["input_ids"], batch["attention_mask"]).logits
    for text, logits in zip(TEXTS, together, strict=True):
        alone = model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0]
        torch.testing.assert_close(alone, logits)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = TextClassificationExplainer.from_pretrained(tmp_path)
    assert isinstance(loaded.model, RecurrentClassifier)
    words = loaded(TEXTS, method="sig:two_sided")[1].words
    alone = loaded(TEXTS[1], method="sig:two_sided").words
    assert [word.score for word in words] == pytest.approx([word.score for word in alone], abs=1e-6)


def test_masks_fall_on_words_alone():
    torch.manual_seed(0)
    special = range(len(train_classifiers.SPECIAL))
    ids = torch.tensor([[2, 7, 8, 9, 3, 0]]).expand(500, -1)
    masked = train_classifiers.masked(ids, 4, special)
    assert torch.equal(masked[:, [0, 4, 5]], ids[:, [0, 4, 5]])
    share = (masked == 4)[:, 1:4].float().mean()
    assert 0.1 < share < 0.2  # half of the rows, 0 to 60 % of their words
    assert len(special) == 5


def test_trained_classifiers_can_be_explained(tmp_path, capsys):
    phrases = "".join(f"{text}\t{number % 2}\n" for number, text in enumerate(TEXTS))
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("sentence\tlabel\n" + phrases, encoding="utf-8")
    train_classifiers.main(["--data", str(tmp_path), "--output", str(tmp_path), "--epochs", "1"])
    assert "lstm: " in capsys.readouterr().out
    for kind in train_classifiers.KINDS:
        explainer = TextClassificationExplainer.from_pretrained(tmp_path / kind)
        assert explainer.labels == ["NEGATIVE", "POSITIVE"]
        assert explainer(TEXTS[0], method="sig").max_abs_word_delta < 1e-5

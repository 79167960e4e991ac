"""`evaluate --ablation`: several kinds of deletion side by side, from the command line."""

import csv
import json
import shutil

import pytest
import torch
import transformers

from captum_sig.explainers.loading import pretrained_masked_lm
from captum_sig.faithfulness import MaskedLmSamples, log_odds

ROWS = ["sentence\tlabel", "A warm and funny story for the family.\t1", "Dull.\t0",
        "The plot is thin, and the jokes fall flat.\t0", "Not bad at all!\t1"]  # fmt: skip
QUICK = ("--methods", "random,sig", "--metrics", "log_odds,sufficiency,pi_soft_nc", "--n-draws", 2)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("\n".join(ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def masked_lm(demo, tmp_path_factory):
    """A random masked language model with the demo model's tokenizer."""
    config = transformers.BertConfig(
        vocab_size=len(demo.tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=16,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("masked-lm")
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def table(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_kinds_of_deletion_side_by_side(run, demo, data, masked_lm, tmp_path):
    output = tmp_path / "o"
    options = ("--ablation", "replace, remove,sample", "--masked-lm", masked_lm)
    result = run("evaluate", data, *QUICK, *options, "--output", output)
    assert result.exit_code == 0, result.output
    means = table(output / "table.csv")
    kinds = {(row["metric"], row["ablation"]) for row in means}
    assert kinds == {
        *((metric, kind) for metric in ("log_odds", "sufficiency")
          for kind in ("replace", "remove", "sample")), ("pi_soft_nc", "soft"),
    }  # fmt: skip
    assert {row["ablation"] for row in table(output / "paired.csv")} == {kind for _, kind in kinds}
    ranks = table(output / "ranks.csv")
    assert len(ranks) == 4
    assert all({row[kind] for row in ranks} == {"1.0", "2.0"} for kind in ("remove", "sample"))
    assert {row["tau"] for row in table(output / "rank_agreement.csv")} <= {"1.0", "-1.0"}
    amounts = table(output / "distribution.csv")
    assert [row["ablation"] for row in amounts[::5]] == ["replace", "remove", "sample"]
    assert "Ranks of the methods" in result.stdout
    note = (output / "table.md").read_text(encoding="utf-8").splitlines()[-1]
    assert "cannot be told from 4 labelled texts" in note
    assert note in " ".join(result.stdout.split())
    lines = map(json.loads, (output / "examples.jsonl").read_text(encoding="utf-8").splitlines())
    line = next(line for line in lines if line["method"] == "sig" and len(line["scores"]) > 5)
    sentences = demo.sentences([line["text"]], [demo.label_index(line["explained"])])
    draws = MaskedLmSamples(demo.tokenizer, pretrained_masked_lm(masked_lm), n_draws=2)
    found = log_odds(demo.log_probabilities, sentences, [line["scores"]], ablation=draws)
    assert line["log_odds_sample"] == pytest.approx(float(found), abs=1e-5)


def test_one_kind_keeps_the_columns_as_they_are(run, data, tmp_path):
    output = tmp_path / "o"
    result = run("evaluate", data, *QUICK, "--ablation", "remove", "--output", output)
    assert result.exit_code == 0, result.output
    line = json.loads((output / "examples.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {"log_odds", "sufficiency", "pi_soft_nc"} <= set(line)
    assert not (output / "ranks.csv").exists()
    assert {row["ablation"] for row in table(output / "table.csv")} == {"remove", "soft"}


def test_without_the_option_each_metric_deletes_in_its_own_way(run, data, tmp_path):
    result = run("evaluate", data, *QUICK, "--output", tmp_path / "o")
    assert result.exit_code == 0, result.output
    means = table(tmp_path / "o" / "table.csv")
    assert {(row["metric"], row["ablation"]) for row in means} == {
        ("log_odds", "replace"), ("sufficiency", "remove"), ("pi_soft_nc", "soft"),
    }  # fmt: skip


def test_resuming_with_other_kinds_is_refused(run, data, tmp_path):
    arguments = ("evaluate", data, *QUICK, "--output", tmp_path / "o")
    assert run(*arguments).exit_code == 0
    result = run(*arguments, "--resume", "--ablation", "remove")
    assert result.exit_code == 2
    assert "was made with ablation" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ablation", "remov"), "'remov' is not one of 'replace', 'remove', 'sample'"),
        (("--ablation", "remove,remove"), "must be one or several names, each once"),
        (("--ablation", "sample"), "masked language model: pass --masked-lm, one that has"),
        (("--ablation", "sample", "--masked-lm", "none"), "none"),
    ],
)
def test_errors(run, data, tmp_path, options, message):
    result = run("evaluate", data, *QUICK, *options, "--output", tmp_path / "o")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "o").exists()


def test_a_language_model_of_another_vocabulary(run, data, tmp_path):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "lm")
    options = ("--ablation", "sample", "--masked-lm", tmp_path / "lm", "--output", tmp_path / "o")
    result = run("evaluate", data, *QUICK, *options)
    assert result.exit_code == 2
    assert "another vocabulary, of 30 tokens" in " ".join(result.stderr.split())


def test_another_language_model_at_the_same_place_is_refused(run, data, masked_lm, tmp_path):
    copied, output = tmp_path / "lm", tmp_path / "o"
    shutil.copytree(masked_lm, copied)
    options = (data, *QUICK, "--ablation", "sample", "--masked-lm", copied, "--output", output)
    assert run("evaluate", *options).exit_code == 0
    model = pretrained_masked_lm(copied)
    with torch.no_grad():
        model.get_input_embeddings().weight.neg_()
    model.save_pretrained(copied)
    refused = run("evaluate", *options, "--resume")
    assert refused.exit_code == 2
    assert "was made with masked_lm_weights" in " ".join(refused.stderr.split())


def test_brackets_are_shown_as_they_are(run, data, tmp_path):
    result = run("evaluate", data, *QUICK, "--output", tmp_path / "o[x]")
    assert result.stdout.endswith(f"Tables and examples are in {tmp_path / 'o[x]'}.\n")

"""`captum-sig evaluate --planted`."""

import pytest

from tests import tiny_planted

OPTIONS = ["--planted", "--methods", "sig,random", "--shortcuts", "single_token"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_planted.model().save_pretrained(folder)
    tiny_planted.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "texts.tsv"
    lines = [f"{record.text}\t{record.label}\n" for record in tiny_planted.records()]
    path.write_text("".join(["sentence\tlabel\n", *lines]), encoding="utf-8")
    return path


def test_the_table(run, model, data, tmp_path):
    output = tmp_path / "out"
    result = run("evaluate", data, *OPTIONS, "--model", model, "--output", output, columns=120)
    assert result.exit_code == 0, result.output
    for words in ("single_token", "sig", "random", "precision at k ↑", "mean rank ↓", "reliance"):
        assert words in result.stdout
    assert f"Tables and examples are in {output}." in result.stdout
    for name in ("planted.csv", "planted.md", "reliance.csv", "reliance.md", "planted_plan.json"):
        assert (output / name).exists()
    assert (output / "single_token" / "examples.jsonl").exists()
    again = run("evaluate", data, *OPTIONS, "--model", model, "--output", output, columns=120)
    assert again.exit_code == 2
    assert "holds results already: resume, or use another folder" in again.output
    resumed = run(
        "evaluate", data, *OPTIONS, "--model", model, "--output", output, "--resume", columns=120
    )
    assert resumed.stdout == result.stdout


def test_a_model_that_did_not_learn(run, model, data, tmp_path):
    result = run(
        "evaluate", data, *OPTIONS, "--model", model, "--output", tmp_path / "out",
        "--max-steps", "1",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "warning: shortcut single_token is left out: after 1 steps" in result.stderr
    assert "no planted model has learned its shortcut" in result.stderr
    assert "raise --max-steps" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "log_odds"], "--metrics is not for --planted: leave it out"),
        (["--ablation", "remove"], "--ablation is not for --planted: leave it out"),
        (["--explain", "label"], "--explain is not for --planted: leave it out"),
        (["--rationales", "words"], "--rationales is not for --planted: leave it out"),
        (["--level", "sentence"], "level 'sentence' joins planted words with others"),
        (["--label-column", ""], "has 0 texts with a label"),
        (["--limit", "20"], "has 20 texts with a label and at least 3 words; planting takes 100"),
        (["--baselines", "blurred"], "masked"),
        (["--shortcuts", "ore"], "did you mean 'or'?"),
    ],
)
def test_mistakes(run, model, data, tmp_path, options, message):
    result = run(
        "evaluate", data, *OPTIONS, "--model", model, "--output", tmp_path / "out", *options,
        columns=300,
    )  # fmt: skip
    assert result.exit_code == 2
    assert message in result.output


def test_options_of_planting_without_it(run, data, tmp_path):
    result = run("evaluate", data, "--max-steps", 5, "--output", tmp_path / "out", columns=200)
    assert result.exit_code == 2
    assert "--max-steps is only for --planted: leave it out" in result.output

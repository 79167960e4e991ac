"""`captum-sig explain --task text-generation`."""

import json

import pytest

from captum_sig import GenerationAttribution, TextGenerationExplainer
from tests.tiny_language_models import causal, chat_tokenizer

PROMPT = "the good movie is"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    causal("llama").float().save_pretrained(path)
    chat_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def generate(run, folder):
    def command(*arguments: str, stdin: str | None = None):
        model = [] if "--model" in arguments else ["--model", folder]
        options = ["--task", "text-generation", "--baseline", "eos", *model]
        return run("explain", *options, *arguments, stdin=stdin)

    return command


def test_lines_in_a_pipe(generate):
    result = generate(PROMPT, "--target", " so good")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("log p(target) = -")
    assert lines[1] == "target:  so good"
    assert lines[3].startswith("log p\t\t-")
    assert [line.split("\t")[0] for line in lines[4:8]] == ["the", "good", "movie", "is"]
    assert all(float(cell) for line in lines[4:8] for cell in line.split("\t")[1:])


def test_json_has_an_object_a_line(generate, folder):
    result = generate("-", "--target", " good", "--contrast", " bad", "--format", "json",
                 stdin=f"{PROMPT}\na movie\n")  # fmt: skip
    found = [GenerationAttribution.from_dict(json.loads(s)) for s in result.stdout.splitlines()]
    explain = TextGenerationExplainer.from_pretrained(folder, baseline="eos")
    assert found == explain([PROMPT, "a movie"], " good", contrast=" bad")


def test_contexts_interactions_and_seed(generate, folder):
    explain = TextGenerationExplainer.from_pretrained(folder, baseline="eos", seed=3)
    result = generate(PROMPT, "--target", " good", "--contexts", "sampled3", "--interactions", "2",
                      "--seed", "3", "--format", "json")  # fmt: skip
    (line,) = result.stdout.splitlines()
    found = GenerationAttribution.from_dict(json.loads(line))
    assert found == explain(PROMPT, " good", contexts="sampled3", interactions=2)
    assert len(found.interactions) == 1
    sides = generate(PROMPT, "--target", " good", "--contexts", "two_sided")
    assert "(sig:two_sided, " in sides.stdout.splitlines()[0]


@pytest.mark.parametrize(("ending", "starts"), [("html", b"<!DOCTYPE"), ("png", b"\x89PNG"),
                                                ("jsonl", b"{"), ("txt", b"log p")])  # fmt: skip
def test_files_by_their_ending(generate, tmp_path, ending, starts):
    path = tmp_path / f"out.{ending}"
    result = generate(PROMPT, "--max-new-tokens", "3", "--attribute-target", "--output", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert path.read_bytes().startswith(starts)


def test_a_chat(generate):
    result = generate("the movie", "--chat", "--target", "good", "--format", "json")
    data = json.loads(result.stdout)
    assert data["prompt"].startswith("<|im_start|>user\nthe movie<|im_end|>")
    assert [word["word"] for word in data["words"]] == ["the", "movie"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "ig"], "--method is not for text-generation: leave it out"),
        (["--no-truncation"], "--truncation is not for text-generation: leave it out"),
        (["--format", "png"], "png cannot go to stdout"),
        (["--target", ""], "the target is empty"),
        (["--baseline", "pad"], "text-generation has one baseline, got 2: pass one --baseline"),
        (["--model", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["again", "--target", " a", "--output", "x.png"], "a picture shows one text"),
    ],
)
def test_mistakes_are_one_line(generate, options, message):
    result = generate(PROMPT, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("captum-sig: ")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contexts", "sampled0"], "'sampled0' is not one of"),
        (["--interactions", "1"], "an interaction takes two words"),
    ],
)
def test_choices_are_checked(generate, options, message):
    result = generate(PROMPT, "--target", " a", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_there_is_no_model_by_default(run):
    result = run("explain", PROMPT, "--task", "text-generation")
    assert "no model for text-generation is included: pass --model" in result.stderr


def test_random_baselines_are_not_for_generation(run, folder):
    result = run("explain", PROMPT, "--model", folder, "--baseline", "uniform")
    assert "baseline 'uniform' is not for generation" in result.stderr


def test_options_of_generation_are_for_generation_only(run):
    result = run("explain", PROMPT, "--contrast", "x")
    assert "--contrast is for text-generation only" in result.stderr


def test_a_damaged_model_is_one_line(generate, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    result = generate(PROMPT, "--model", str(tmp_path))
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1

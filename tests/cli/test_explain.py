"""The command line."""

import functools
import json

import pytest
import torch

from captum_sig import WordAttribution

TEXT = "The jokes are old, yet the film is charming."


@pytest.fixture
def explain(run):
    return functools.partial(run, "explain")


def test_plain_lines_where_there_is_no_terminal(explain):
    result = explain(TEXT)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("POSITIVE ")
    words = ["The", "jokes", "are", "old", ",", "yet", "the", "film", "is", "charming", "."]
    assert [line.split()[0] for line in lines[1:]] == words
    assert all(float(line.split()[1]) for line in lines[1:])


def test_json_has_an_object_per_text(demo, explain):
    result = explain("-", "--format", "json", stdin=f"{TEXT}\n\nIt's not <good>.\n")
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert [o["text"] for o in objects] == [TEXT, "", "It's not <good>."]
    keys = {"text", "label", "probability", "target", "method", "baseline", "max_abs_word_delta"}
    assert keys | {"words"} <= set(objects[0])
    scores = WordAttribution.from_dict(objects[0]).scores
    assert scores == pytest.approx(demo(TEXT).scores, abs=1e-5)
    assert objects[2]["label"] == "NEGATIVE"


def test_html_goes_to_a_file(tmp_path, explain):
    result = explain("<i>fun</i> movie", "--output", str(tmp_path / "out.html"))
    assert result.stdout == ""
    page = (tmp_path / "out.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<i>" not in page


def test_a_picture_goes_to_a_file(tmp_path, explain):
    result = explain(TEXT, "--output", str(tmp_path / "out.png"))
    assert (result.exit_code, result.stdout) == (0, "")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_options_reach_the_explainer(explain):
    result = explain(TEXT, "--target", "negative", "--method", "ig", "--baseline", "pad", "--level",
                 "token", "--format", "json")  # fmt: skip
    data = json.loads(result.stdout)
    assert (data["target"], data["method"], data["baseline"]) == ("NEGATIVE", "ig", "pad")
    assert data["max_abs_word_delta"] is None


def test_several_baselines_and_noise(demo, explain):
    averaged = json.loads(explain(TEXT, "--baseline", "mask", "--baseline", "pad", "--format",
                                  "json").stdout)  # fmt: skip
    assert averaged["baseline"] == "mask, pad"
    assert all(word["std"] >= 0 for word in averaged["words"])
    arguments = TEXT, "--method", "ig", "--smooth", 2, "--noise", 0.05, "--format", "json"
    smoothed = json.loads(explain(*arguments).stdout)
    assert all(word["standard_error"] >= 0 for word in smoothed["words"])
    refused = explain(TEXT, "--smooth", 2)
    assert refused.exit_code == 2
    assert "Traceback" not in refused.output


def test_interactions(explain, tmp_path):
    arguments = "A brilliant and wonderful film.", "--method", "sig:two_sided", "--interactions", 3
    lines = explain(*arguments).stdout.splitlines()
    assert lines[-1].startswith("brilliant + wonderful: say the same -")
    data = json.loads(explain(*arguments, "--format", "json").stdout)
    assert data["interactions"][0]["words"] == [1, 3]
    assert len(data["interactions"]) == 3
    explain(*arguments, "--output", tmp_path / "out.html")
    assert "one of them is enough" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_an_interaction_of_one_word(explain):
    result = explain(TEXT, "--interactions", 1, columns=200)
    assert result.exit_code == 2
    assert "an interaction takes two words: K is at least 2, not 1." in result.stderr


@pytest.mark.parametrize("arguments", [("",), (" \n", ""), ("-",), ("", "--format", "json")])
@pytest.mark.parametrize("task", ["text-classification", "text-generation"])
def test_an_empty_text_is_nothing_to_explain(explain, arguments, task):
    for stdin in ("", "\n", "\ufeff", " \r\n\t\n"):
        result = explain(*arguments, "--task", task, stdin=stdin)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "captum-sig: there is nothing to explain: the text is empty\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "happy"], "NEGATIVE (0), POSITIVE (1)"),
        (["--format", "png"], "png cannot go to stdout: pass --output FILE.png"),
        (["another text", "--output", "out.png"], "a picture shows one text, got 2: use html"),
        (["--baseline", "blurred"], "pass --masked-lm, a model that AutoModelForMaskedLM can"),
        (["--model", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["--output", "/no/such/folder/file"], "there is no folder /no/such/folder"),
        (["--output", "/tmp"], "/tmp is a folder: name a file"),
        (["--output", "/proc/file"], "/proc/file cannot be written"),
        (["--output", "out.pdf"], "out.pdf ends in none of .json, .jsonl, .html, .htm, .png, .txt"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_output(options, message, explain):
    result = explain(TEXT, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("captum-sig: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_long_texts_are_cut_with_a_warning_or_refused(explain):
    long = "good movie " * 2000
    cut = explain(long, "--format", "json")
    assert cut.exit_code == 0
    assert cut.stderr.count("captum-sig: warning: 1 of 1 texts exceed") == 1
    refused = explain(long, "--no-truncation")
    assert refused.exit_code == 2
    assert "would be dropped" in refused.stderr


@pytest.mark.parametrize("options", [["--version"], ["-h"], ["explain", "-h"]])
def test_help_and_version(options, run):
    result = run(*options)
    assert result.exit_code == 0
    assert result.stdout


def test_a_byte_order_mark_is_no_text(explain):
    result = explain("-", "--format", "json", stdin="\ufeffgood\r\nbad\n")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["good", "bad"]


def test_a_text_does_not_steer_the_terminal(explain):
    result = explain("good \x1b[2J movie")
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    "variables", [{"TERM": "xterm"}, {"TERM": "xterm-256color", "NO_COLOR": "1"}]
)
def test_a_terminal_without_colours_gets_the_lines(in_terminal, variables):
    assert "charming +" in in_terminal("explain", TEXT, COLUMNS="90", **variables)


def test_a_terminal_gets_the_coloured_sentence(in_terminal):
    colours = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    shown = in_terminal("explain", TEXT, COLUMNS="90", **colours)
    assert "\x1b[30;48;2;34;160;90m" in shown  # the strongest word in full colour
    assert "POSITIVE" in shown


@pytest.mark.parametrize("contexts", ["sampled1", "sampled2", "two_sided", "auto"])
def test_json_is_strict(explain, contexts):
    result = explain(TEXT, "--contexts", contexts, "--format", "json")
    data = json.loads(result.stdout, parse_constant=pytest.fail)
    assert ("standard_error" in data["words"][0]) == (contexts == "sampled2")
    if contexts == "two_sided":
        assert {"first", "last", "agreement"} <= data["words"][0].keys()
        total = sum(word["score"] for word in data["words"])
        assert data["residual"] == pytest.approx(total - values_apart(data["text"]), abs=1e-4)


def values_apart(text: str) -> float:
    """F(x) − F(x̄), x̄ the text with every word masked."""
    from captum_sig import TextClassificationExplainer
    from captum_sig.demo_model import PATH

    explainer = TextClassificationExplainer.from_pretrained(PATH)
    batch = explainer.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = explainer.model(**batch).logits[0]
        special = torch.tensor(
            explainer.tokenizer.get_special_tokens_mask(
                batch["input_ids"][0].tolist(), already_has_special_tokens=True
            )
        ).bool()
        batch["input_ids"] = batch["input_ids"].where(special, explainer.tokenizer.mask_token_id)
        apart = logits - explainer.model(**batch).logits[0]
    return float(apart[logits.argmax()])


def test_sides_stand_after_word_and_score(explain):
    lines = explain(TEXT, "--contexts", "two_sided").stdout.splitlines()
    assert "residual " in lines[0]
    for line in lines[1:]:
        word, score, alone, first, *_, last, agreement = line.split()
        assert alone == "alone"
        assert float(score) == pytest.approx((float(first) + float(last)) / 2, abs=2e-4)
        assert agreement in ("additive", "redundant", "synergistic")


def test_a_terminal_says_once_what_lines_mean(in_terminal):
    colours = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    texts = (TEXT, "A charming, delightful and wonderful film.")
    shown = in_terminal("explain", *texts, "--contexts", "two_sided", COLUMNS="80", **colours)
    assert "\x1b[4;30;48;2" in shown
    assert "\x1b[21;30;48;2" in shown
    assert shown.count("synergistic, stronger in the text") == 1
    assert shown.count("residual ") == 2


def test_the_strongest_words_alone(demo, explain):
    long = " ".join([TEXT] * 6)
    options = ["--method", "sig:two_sided", "--top", "5", "--format", "json"]
    data = json.loads(explain(long, *options).stdout)
    assert WordAttribution.from_dict(data).audit.n_exact == 5
    assert [word["evidence"] for word in data["words"]].count("exact") == 5
    assert ", another within ±" in explain(long, *options[:4]).stdout.splitlines()[0]
    refused = explain(long, "--method", "ig", "--top", "5")
    assert refused.exit_code != 0
    assert "top saves rows of method 'sig'" in refused.stderr
    assert explain(long, "--top", "0").exit_code == 2

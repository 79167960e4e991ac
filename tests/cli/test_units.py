"""Units from files, zoom and windows on the command line."""

import functools
import json

import pytest

from captum_sig import TextClassificationExplainer, WordAttribution
from captum_sig.demo_model import PATH
from tests.cli.test_explain_tasks import CALL, taken  # noqa: F401  a fixture

TEXT = "The plot is thin. Yet the acting is superb!"
HOSTILE = '=1+1\x1b[2J<b>"'


@pytest.fixture
def explain(run):
    return functools.partial(run, "explain")


@pytest.fixture
def file(tmp_path):
    """Write a file of units."""

    def write(value, name="units.json"):
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return write


def results(run):
    assert run.exit_code == 0, run.output
    return [WordAttribution.from_dict(json.loads(line)) for line in run.stdout.splitlines()]


def test_sentences_move_as_one(demo, explain):
    (found,) = results(explain(TEXT, "--level", "sentence", "--format", "json"))
    expected = TextClassificationExplainer(demo.model, demo.tokenizer, level="sentence")(TEXT)
    assert [word.word for word in found.words] == ["The plot is thin.", "Yet the acting is superb!"]
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)
    assert found.level == "sentence"


@pytest.mark.parametrize(
    "units",
    [
        [[0, 17, "plot"], [18, 43]],
        [{"start": 0, "end": 17, "name": "plot"}, {"start": 18, "end": 43, "side": None}],
    ],
)
def test_units_of_a_text(demo, explain, file, units):
    (found,) = results(explain(TEXT, "--units", file(units), "--format", "json"))
    expected = demo(TEXT, units=[(0, 17, "plot"), (18, 43)])
    assert [word.name for word in found.words] == ["plot", None]
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)
    assert found.level == "unit"


def test_each_text_has_its_units_or_the_level(explain, file):
    path = file([[[0, 4, "start"]], None])
    arguments = "--units", path, "--level", "sentence", "--format", "json"
    first, second = results(explain(TEXT, TEXT, *arguments))
    assert [word.label for word in first.words] == ["start"]
    assert (first.level, second.level) == ("unit", "sentence")
    assert len(second.words) == 2
    stdin = results(explain("-", *arguments, stdin=f"{TEXT}\n{TEXT}\n"))
    assert [one.words for one in stdin] == [first.words, second.words]


def test_names_do_not_steer_what_shows_them(explain, file, tmp_path):
    path = file([[0, 17, HOSTILE], [18, 43]])
    plain = explain(TEXT, "--units", path, "--interactions", 2)
    assert plain.exit_code == 0
    assert "\x1b" not in plain.stdout
    assert explain(TEXT, "--units", path, "--output", tmp_path / "a.html").exit_code == 0
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "\x1b" not in page
    assert '<b>"' not in page
    (found,) = results(explain(TEXT, "--units", path, "--format", "json"))
    assert found.words[0].name == HOSTILE
    table = found.to_csv()
    assert "'=1+1" in table
    assert WordAttribution.from_dict(found.to_dict()) == found


def test_units_in_a_terminal(in_terminal, file):
    path = str(file([[0, 17, "plot\x1b[2J"], [18, 43]]))
    colours = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "80"}
    shown = in_terminal("explain", TEXT, "--units", path, **colours)
    assert "\x1b[2J" not in shown
    assert "The plot is thin." in shown


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[[0, 17]", "units.json is not JSON in UTF-8: "),
        ("[" * 100_000, "units.json is not JSON in UTF-8: "),
        ("7", "units.json are 7; wanted a list of [start, end], [start, end, name] or"),
        ('{"start": 0, "end": 3}', "units.json are {'start': 0, 'end': 3}; wanted a list"),
        ("[7]", "units.json have 7; wanted (start, end)"),
        ("[[0]]", "units.json have [0]; wanted (start, end)"),
        ("[[0, 1.5]]", "units.json have [0, 1.5]; wanted (start, end)"),
        ("[[0, true]]", "units.json have [0, True]; wanted (start, end)"),
        ('[["0", "3"]]', "units.json have ['0', '3']; wanted (start, end)"),
        ("[[0, 3, 4]]", "units.json have the name 4; wanted a string, or None"),
        ('[[0, 3, " "]]', "the name of unit (0, 3) of"),
        ('[[0, 3, "\\ud800"]]', "is not valid Unicode"),
        ('[{"start": 0, "end": 3, "side": []}]', "have the side []; wanted a string, or None"),
        ('[{"start": 0, "end": 3, "side": "text"}]', "wanted none, as it is not a pair"),
        ('[{"begin": 0}]', "field 'begin' is unknown"),
        ("[[0, 99]]", "unit (0, 99) of text 0 is not in the text, which has 43 characters"),
        ("[[0, 3], [2, 5]]", "units (0 to 3) and (2 to 5) of text 0 overlap"),
        ("[[3, 4]]", "unit (3, 4) of text 0 is white space"),
        ("[]", "units of text 0 are empty"),
        ("[[1, 3]]", "no word of text 0 begins in unit (1 to 3)"),
    ],
)
def test_bad_units_are_one_line(explain, file, value, message):
    result = explain(TEXT, "--units", file(value))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("captum-sig: ")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[[[0, 3]]]", "units.json has 1 entries; wanted 2, the units of each text, or null"),
        ("{}", "units.json has no list; wanted 2"),
        ("[null, 5]", "units of entry 2 of"),
        ("[[[0, 3]], [[0]]]", "units.json have [0]; wanted (start, end)"),
    ],
)
def test_bad_units_of_several_texts_are_one_line(explain, file, value, message):
    result = explain(TEXT, TEXT, "--units", file(value))
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_missing_file_is_one_line(explain, tmp_path):
    result = explain(TEXT, "--units", tmp_path / "none.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "name a JSON file with units" in " ".join(result.stderr.split())


PAIR = ["a b", "--pair", "c d"]
SIDED = [{"start": 0, "end": 1, "side": "text"}, {"start": 0, "end": 3, "side": "text_pair"}]


@pytest.mark.parametrize(
    "value", [SIDED, [[[0, 1]], [[0, 3]]], [[{"start": 0, "end": 1}], [[0, 3]]]]
)
@pytest.mark.parametrize("task", ["text-classification", "sentence-similarity"])
def test_units_of_a_pair(taken, file, value, task):  # noqa: F811
    *_, keywords = taken(*PAIR, "--units", file(value), task=task)
    first, second = keywords["units"]
    assert [(one.start, one.end, one.side) for one in (*first, *second)] == [
        (0, 1, None), (0, 3, None),
    ]  # fmt: skip


def test_units_of_one_side_hold_the_other(taken, file):  # noqa: F811
    *_, keywords = taken(*PAIR, "--units", file([SIDED[1]]), task="text-classification")
    assert keywords["units"][0] is None
    *_, keywords = taken(*PAIR, "--units", file([None, [[0, 3]]]), task="text-classification")
    assert keywords["units"][0] is None


def test_units_of_a_query_and_its_documents(taken, file):  # noqa: F811
    several = ["a b", "--pair", "c d", "--pair", "e f"]
    path = file([[[0, 1]], [[[0, 3]], None]])
    *_, keywords = taken(*several, "--units", path, task="sentence-similarity")
    first, (second, third) = keywords["units"]
    assert (len(first), len(second), third) == (1, 1, None)
    for value, message in (
        ([[[0, 1]], [[[0, 3]]]], "must be two lists, the second with 2 lists"),
        ([[0, 1]], "do not say which text they are in"),
    ):
        taken(*several, "--units", file(value), task="sentence-similarity", message=message)
    taken(*PAIR, "--units", file([[0, 1]]), task="text-classification", message="do not say which")


def test_units_of_prompts(taken, file):  # noqa: F811
    _, inputs, _, keywords = taken("a b", "--units", file([[0, 1, "one"]]), task="text-generation")
    assert inputs == ["a b"]
    ((unit,),) = keywords["units"]
    assert unit.name == "one"


def test_a_chat_by_message(taken, file):  # noqa: F811
    chat = file([{"role": "user", "content": "a"}], "chat.json")
    options, inputs, _, _ = taken("--messages", chat, "--level", "message", task="text-generation")
    assert options["level"] == "message"
    assert inputs == [[{"role": "user", "content": "a"}]]


def test_windows_of_a_classifier(taken):  # noqa: F811
    arguments = "a", "--stride", 3, "--window-logits", "max"
    options, *_, keywords = taken(*arguments, task="text-classification")
    assert (options["stride"], options["window_logits"]) == (3, "max")
    assert keywords == CALL
    taken(*arguments, task="fill-mask", message="--stride is for text-classification only")
    options, *_ = taken("a", task="text-classification")
    assert "stride" not in options


def test_a_budget_is_for_a_zoom(explain):
    result = explain(TEXT, "--budget", 9)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "captum-sig: --budget is for --level auto: leave it out\n"
    assert explain(TEXT, "--budget", 0).exit_code == 2


@pytest.mark.parametrize("command", ["evaluate", "trace"])
def test_other_commands_take_levels_of_texts(run, command, tmp_path):
    arguments = ["data.tsv", "--output", str(tmp_path)] if command == "evaluate" else ["text"]
    refused = run(command, *arguments, "--level", "message", columns=200)
    assert refused.exit_code == 2
    assert "'message' is not one of 'word', 'token', 'sentence', 'paragraph'" in refused.output


def test_a_trace_of_sentences(run):
    result = run("trace", TEXT, "--level", "sentence", "--method", "sig", "--n-steps", 2,
                 "--format", "json")  # fmt: skip
    paths = json.loads(result.stdout)["paths"]
    assert [path["word"] for path in paths] == ["The plot is thin.", "Yet the acting is superb!"]


def test_an_evaluation_of_sentences(run, tmp_path):
    data, output = tmp_path / "texts.tsv", tmp_path / "out"
    data.write_text(f"text\tlabel\n{TEXT} Fine. Good.\tPOSITIVE\nDull.\tNEGATIVE\n")
    result = run("evaluate", data, "--level", "sentence", "--methods", "sig, random",
                 "--output", output)  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (output / "examples.jsonl").read_text().splitlines()]
    by_sentence = TextClassificationExplainer.from_pretrained(PATH, level="sentence")
    expected = by_sentence(f"{TEXT} Fine. Good.").scores
    assert len(expected) == 4
    scores = {len(line["scores"]): line["scores"] for line in lines if line["method"] == "sig"}
    assert scores[4] == pytest.approx(expected, abs=1e-5)

"""What all commands share: choices, completion, help, hints, and errors that name options."""

import shlex
import warnings
from typing import get_args

import pytest

from captum_sig import _names
from captum_sig.cli import terminal

METHODS, PATHS = get_args(_names.MethodName), get_args(_names.PathName)
BASELINES, METRICS = get_args(_names.BaselineName), get_args(_names.MetricName)
TASKS = get_args(_names.TaskName)
COMMANDS = ["explain", "evaluate", "corpus", "report", "trace"]
EXPLAIN, TRACE = ["explain", "text"], ["trace", "text"]
CORPUS = ["corpus", "texts.tsv", "--output", "never"]
EVALUATE = ["evaluate", "texts.tsv", "--output", "never"]


def listed(names) -> str:
    return ", ".join(map(repr, names))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*EXPLAIN, "--method", "lime"], f"'lime' is not one of {listed(METHODS)}"),
        ([*EXPLAIN, "--method", "ig:two_sided"], "ig does not take contexts"),
        ([*CORPUS, "--method", "sig:sampled0"], "'sampled0' is not one of 'input', 'two_sided'"),
        ([*CORPUS, "--method", "sig:"], "'' is not one of 'input', 'two_sided'"),
        ([*EXPLAIN, "--contexts", "all"], "'all' is not one of 'input', 'two_sided'"),
        ([*EXPLAIN, "--baseline", "zeros"], f"'zeros' is not one of {listed(BASELINES)}"),
        ([*EXPLAIN, "--level", "sentences"], "'sentences' is not one of 'word', 'token'"),
        ([*EXPLAIN, "--format", "xml"], "'xml' is not one of 'text', 'json', 'html', 'png'"),
        ([*EXPLAIN, "--task", "translation"], f"'translation' is not one of {listed(TASKS)}"),
        ([*TRACE, "--method", "saliency"], f"'saliency' is not one of {listed(PATHS)}"),
        ([*TRACE, "--format", "html"], "'html' is not one of 'text', 'json', 'png'"),
        ([*CORPUS, "--engine", "spark"], "'spark' is not one of 'local', 'ray'"),
        ([*EVALUATE, "--methods", "sig,lime"], f"'lime' is not one of {listed(METHODS)}"),
        ([*EVALUATE, "--methods", "ig:two_sided"], "ig does not take contexts"),
        ([*EVALUATE, "--baselines", "mask, zeros"], "'zeros' is not one of 'mask', 'pad'"),
        ([*EVALUATE, "--metrics", "luck"], f"'luck' is not one of {listed(METRICS)}"),
        ([*EVALUATE, "--explain", "gold"], "'gold' is not one of 'predicted', 'label'"),
        ([*EVALUATE, "--level", "letter"], "'letter' is not one of 'word', 'token'"),
        ([*EXPLAIN, "--method", "lime"], "'sig:auto', 'sig:sampled16', 'sequential_dig:"),
        ([*EXPLAIN, "--method", "sequential_dig:auto"], "sequential_dig integrates gradients: use"),
        ([*EXPLAIN, "--method", "shaply"], "(did you mean 'shapley'?)"),
        ([*EXPLAIN, "--method", "sig:2-sided"], "(did you mean 'two_sided'?)"),
        ([*EXPLAIN, "--baseline", "PAD"], "(did you mean 'pad'?)"),
        ([*TRACE, "--method", "seq_dig"], "(did you mean 'sequential_dig'?)"),
        ([*EVALUATE, "--metrics", "log-odds"], "(did you mean 'log_odds'?)"),
        ([*EXPLAIN, "--contexts", "sampled99999"], "from 1 to 10,000, got 99,999"),
        ([*EXPLAIN, "--method", "sig:sampled" + "9" * 9_000], "from 1 to 10,000, got a number of"),
        ([*TRACE, "--n-steps", "2001"], "2000"),
        ([*CORPUS, "--n-steps", "100000"], "2000"),
        ([*EVALUATE, "--n-steps", "3000"], "2000"),
        ([*EXPLAIN, "--n-draws", "1000000000"], "1000"),
    ],
)  # fmt: skip
def test_unknown_choices_are_refused_with_the_known_ones(run, arguments, message):
    result = run(*arguments, columns=600)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    name = next(argument for argument in arguments if argument.startswith("--") and
                argument != "--output")  # fmt: skip
    assert f"Invalid value for '{name}'" in result.stderr


def completed(run, line: str) -> list[str]:
    """What a shell offers for the last word of a command line."""
    n_words = len(shlex.split(line)) - (not line.endswith(" "))
    environment = {
        "_CAPTUM_SIG_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(n_words),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        result = run()
    assert result.exit_code == 0
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("captum-sig ", sorted(COMMANDS)),
        ("captum-sig explain --method ", METHODS),
        ("captum-sig explain --method si", ["sig"]),
        ("captum-sig corpus --contexts ", ["input", "two_sided", "auto", "sampled16"]),
        ("captum-sig trace --baseline ", BASELINES),
        ("captum-sig explain --level ", get_args(_names.Level)),
        ("captum-sig trace --level ", get_args(_names.TextLevel)),
        ("captum-sig explain --format ", ["text", "json", "html", "png"]),
        ("captum-sig explain --task ", sorted(TASKS)),
        ("captum-sig corpus --engine ", ["local", "ray"]),
        ("captum-sig trace --method ", PATHS),
        ("captum-sig evaluate --explain ", ["predicted", "label"]),
        ("captum-sig evaluate --methods ig,sh", ["ig,shapley"]),
        ("captum-sig evaluate --baselines mask,p", ["mask,pad"]),
        ("captum-sig evaluate --metrics log_odds,su", ["log_odds,sufficiency"]),
    ],
)
def test_choices_are_completed(run, line, values):
    assert sorted(completed(run, line)) == sorted(values)


@pytest.mark.parametrize(
    "text", ["It's not good.", 'Say "hello".', "two words", 'it\'s "$HOME" `x`!', "good-ish?"]
)
def test_a_text_in_place_of_a_command_hints_at_explain(run, text):
    result = run(text, "--level", "token")
    assert (result.exit_code, result.stdout) == (2, "")
    suggested = result.stderr.strip().partition("did you mean: ")[2].removesuffix("?")
    assert shlex.split(suggested) == ["captum-sig", "explain", text, "--level", "token"]


def test_the_hint_is_easy_to_read(run):
    assert 'captum-sig explain "It\'s not good."?\n' in run("It's not good.").stderr


def test_a_mistyped_command_gets_no_hint_at_explain(run):
    result = run("nope")
    assert result.exit_code == 2
    assert "No such command 'nope'" in result.stderr
    assert "did you mean: captum-sig explain" not in result.stderr


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_fits_80_columns_and_has_an_example(run, command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    (example,) = [line.strip() for line in lines if line.strip().startswith("Example: ")]
    program, name, *arguments = shlex.split(example.removeprefix("Example: "))
    assert (program, name) == ("captum-sig", *(command or ["explain"]))
    refused = run(name, *arguments, "--no-such-option")  # all others are known
    assert refused.exit_code == 2
    assert "--no-such-option" in refused.stderr


@pytest.mark.parametrize(
    ("command", "panels"),
    [
        ("explain", ["Input", "Explanation", "Task", "Generation", "Output"]),
        ("corpus", ["Input", "Explanation", "Ray", "Output"]),
        ("evaluate", ["Input", "Explanation", "Metrics", "Output"]),
    ],
)
def test_options_stand_in_panels(run, command, panels):
    shown = run(command, "--help").stdout
    positions = [shown.index(f"─ {panel} ─") for panel in panels]
    assert positions == sorted(positions)


def test_errors_and_warnings_name_options(capsys):
    @terminal.reporting_errors
    def command(n_steps: int, text_column: str, seed: int) -> None:
        for _ in range(2):
            warnings.warn("text_column is unusual", stacklevel=1)
        raise ValueError(
            "n_steps must be\npositive, not my_n_steps or n_steps.tsv or 'n_steps', for seed "
            "and id_column; leave n_steps out, or text_column."
        )

    with pytest.raises(terminal.typer.Exit):
        command(1, "a", 2)
    assert capsys.readouterr().err == (
        "captum-sig: warning: --text-column is unusual\n"
        "captum-sig: --n-steps must be positive, not my_n_steps or n_steps.tsv or 'n_steps', for "
        "seed and id_column; leave --n-steps out, or --text-column.\n"
    )


@pytest.mark.parametrize(
    "command",
    ["explain x --output", "explain --messages", "evaluate x --output", "corpus x --output",
     "report", "report x --terms", "trace x --output"],
)  # fmt: skip
def test_a_null_byte_in_a_file_name(run, command):
    result = run(*command.split(), "\0")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "embedded null byte" in result.stderr

"""Whatever the arguments: a result that can be read, or an exit code and one sentence.

Arguments and texts come from hypothesis, the same in every run.
"""

import contextlib
import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from captum_sig import TextClassificationExplainer
from captum_sig.cli import options, terminal

SETTINGS = settings(
    derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(["good", "not", "film", "[MASK]", "[SEP]", "ё", "映画", "\U0001f600", "\x1b[2J",
                     "\u202e", "e\u0301", "\0", "\ufeff", "-", "--", "\ud83d"]), max_size=9
).map(" ".join)  # fmt: skip
NUMBERS = st.sampled_from(
    ["0", "1", "2", "-1", "1.5", "", "nan", "inf", "2000", "2001", "9" * 40, "9" * 5000, "١", "1e3"]
)
SMALL = st.sampled_from(["1", "2", "3"])  # what is valid stays fast
PATHS = st.sampled_from(
    ["", ".", "/", "none/x.json", "x.pdf", "x.json/y", "/proc/x", "/dev/null", "a" * 300, "\0",
     "models/x", "~", "..", "owner/name/more"]
)  # fmt: skip


def one_of(names, *wrong: str):
    return st.sampled_from([*names, *wrong, "", "NONE", names[0] + " ", "sig:", ":", ","])


CONTEXTS = ["input", "two_sided", "auto", "sampled1", "sampled3"]
METHODS = [*options.METHODS, *(f"sig:{name}" for name in CONTEXTS), "ig:input", "sig:sampled0"]
EXPLAIN = {
    "--method": one_of(METHODS),
    "--contexts": one_of(CONTEXTS, "sampled", "sampled" + "9" * 40, "sampled٣"),
    "--baseline": one_of(options.BASELINES),
    "--target": one_of(
        ["POSITIVE", "0", "negative", "all", ">0.5", ">2"], "-1", "2", "9" * 5000, "١", "²", "love"
    ),
    "--level": one_of(["word", "token"]),
    "--n-draws": SMALL | NUMBERS.filter(lambda n: n != "2000"),
    "--seed": SMALL | NUMBERS,
    "--masked-lm": PATHS,
    "--model": PATHS,
    "--format": one_of(["text", "json", "html"], "png"),
    "--output": PATHS,
    "--task": one_of(["text-classification"], "text-generation", "fill-mask"),
    "--pair": TEXTS,
    "--stdin-format": one_of(["lines", "text", "tsv", "jsonl"]),
    "--messages": PATHS,
    "--candidates": TEXTS,
    "--smooth": SMALL | NUMBERS.filter(lambda n: n != "2000"),
    "--noise": NUMBERS,
    "--span": one_of(["0:1", "0:1:PER"]),
    "--max-new-tokens": NUMBERS,
    "--contrast": TEXTS,
}
TRACE = {
    "--method": one_of(["ig", "sig", "dig", "sequential_dig"]),
    "--n-steps": SMALL | NUMBERS.filter(lambda n: n != "2000"),
    **{name: EXPLAIN[name] for name in ("--baseline", "--target", "--level", "--seed", "--format",
                                        "--output", "--model", "--masked-lm")},
}  # fmt: skip
EVALUATE = {
    "--methods": one_of([*METHODS, "sig,ig"], "sig,sig"),
    "--baselines": one_of([*options.BASELINES, "mask,pad"]),
    "--metrics": one_of([*options.METRICS, "log_odds,sufficiency"]),
    "--top-fraction": NUMBERS,
    "--explain": one_of(["predicted", "label"]),
    "--limit": NUMBERS,
    "--text-column": TEXTS,
    "--label-column": TEXTS,
    "--rationales": one_of(["text"]) | TEXTS,
    **{name: TRACE[name] for name in ("--level", "--n-steps", "--seed", "--model", "--output")},
}
CORPUS = {
    "--id-column": TEXTS,
    "--shard-size": NUMBERS,
    "--batch-size": NUMBERS,
    "--device": st.sampled_from(["cpu", "cuda:99", "", "gpu"]),
    "--engine": one_of(["local"]),
    "--num-workers": NUMBERS,
    **{name: EVALUATE[name] for name in ("--limit", "--text-column", "--n-steps", "--output")},
    **{name: EXPLAIN[name] for name in ("--method", "--target", "--model", "--seed")},
}
REPORT = {"--output": PATHS, "--terms": PATHS, "--top": NUMBERS}


def arguments(of_command):
    """Up to four options of a command with a value each."""
    pairs = [st.tuples(st.just(name), values) for name, values in of_command.items()]
    return st.lists(st.one_of(pairs), max_size=4).map(lambda found: [x for y in found for x in y])


@pytest.fixture(scope="module", autouse=True)
def _demo_is_loaded_once(demo, tmp_path_factory):
    load, load_explainer = terminal.load_classifiers, terminal.load_explainer

    def loaded(model, baselines, masked_lm, **options):
        if model is not None or masked_lm is not None:
            return load(model, baselines, masked_lm, **options)
        return [
            TextClassificationExplainer(demo.model, demo.tokenizer, baseline=name, **options)
            for name in baselines
        ]

    def loaded_for(task, model, masked_lm, **options):
        if model is not None or masked_lm is not None:
            return load_explainer(task, model, masked_lm, **options)
        return TextClassificationExplainer(demo.model, demo.tokenizer, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "load_classifiers", loaded)
        patch.setattr(terminal, "load_explainer", loaded_for)
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield


def check(result, *, in_json: bool = False) -> None:
    """Fail unless the command gave a result, or told in one sentence why not."""
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "Traceback" not in result.output
    assert not set(result.output) & set("\x1b\x07\x9b\x7f")
    if result.exit_code == 0:
        for line in result.stdout.splitlines() if in_json else ():
            json.loads(line, parse_constant=pytest.fail)  # neither NaN nor Infinity
        return
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if not line.startswith("captum-sig: warning: ")]
    if not errors[0].startswith("Usage: "):  # typer's errors stand in a box
        assert len(errors) == 1
        assert re.match("captum-sig: .", errors[0])


@settings(SETTINGS, max_examples=50)
@given(st.lists(TEXTS, max_size=3), arguments(EXPLAIN), st.none() | TEXTS)
@example(["good film"], ["--contexts", "sampled1", "--format", "json"], None)
@example(["good film"], ["--target", "9" * 5000], None)
def test_explain(run, texts, given_options, stdin):
    texts = texts if stdin is None else [*texts, "-"]
    in_json = given_options[-2:] == ["--format", "json"]
    result = run("explain", *given_options, "--", *texts, stdin=_encodable(stdin))
    check(result, in_json=in_json)


def _encodable(text: str | None) -> str | None:
    return None if text is None else text.encode(errors="replace").decode()


@settings(SETTINGS, max_examples=25)
@given(TEXTS, arguments(TRACE))
def test_trace(run, text, given_options):
    in_json = given_options[-2:] == ["--format", "json"]
    check(run("trace", *given_options, "--", text), in_json=in_json)


@contextlib.contextmanager
def data_of(texts):
    """A file of texts, and a folder for results, for as long as the context is open."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "data.tsv")
        content = "text\n" + "".join(f"{text}\n" for text in texts)
        file.write_text(content, encoding="utf-8", errors="replace")
        yield str(file), f"{folder}/results"


@settings(SETTINGS, max_examples=20)
@given(st.lists(TEXTS, min_size=1, max_size=3), arguments(EVALUATE))
@example(["good film", "bad"], ["--methods", "sig:sampled1", "--metrics", "aopc_sufficiency"])
def test_evaluate(run, texts, given_options):
    with data_of(texts) as (file, results):
        check(run("evaluate", file, "--methods", "sig", "--output", results, *given_options))


PLACES = st.integers(-1, 9)
RATIONALES = (
    TEXTS | st.lists(PLACES | TEXTS) | st.lists(st.lists(PLACES, min_size=1, max_size=3))
    | st.lists(st.dictionaries(st.sampled_from(["start", "end", "start_token"]), PLACES))
)  # fmt: skip


@settings(SETTINGS, max_examples=30)
@given(st.lists(st.tuples(TEXTS, RATIONALES), min_size=1, max_size=3))
@example([("good film", [[0, 4]]), ("bad", [])])
def test_evaluate_rationales(run, rows):
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"text": text, "why": why}) + "\n" for text, why in rows]
        Path(folder, "data.jsonl").write_text("".join(lines), encoding="utf-8")
        check(run("evaluate", f"{folder}/data.jsonl", "--rationales", "why", "--methods", "sig",
                  "--metrics", "auprc", "--output", f"{folder}/results"))  # fmt: skip


@settings(SETTINGS, max_examples=20)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.none() | PATHS, arguments(CORPUS))
@example(["good film", "bad"], None, ["--method", "sig:sampled1"])
def test_corpus(run, texts, inputs, given_options):
    with data_of(texts) as (file, results):
        result = run("corpus", "--output", results, *given_options, "--", inputs or file)
        check(result)


@settings(SETTINGS, max_examples=25)
@given(TEXTS | PATHS, arguments(REPORT))
def test_report(run, folder, given_options):
    check(run("report", *given_options, "--", folder))


@settings(SETTINGS, max_examples=40)
@given(st.lists(TEXTS | PATHS | st.sampled_from(["explain", "--output", "-h", "--version"])))
def test_anything(run, given_arguments):
    result = run(*given_arguments)
    shows_help = {"-h", "--help", "--version"} & set(given_arguments) or len(given_arguments) < 2
    assert shows_help or check(result) is None

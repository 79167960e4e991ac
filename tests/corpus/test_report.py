"""`captum-sig report`: tables against sums in plain Python, and the page in a browser."""

import csv
import html
import json
import math
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from captum_sig._spreadsheets import spreadsheet_safe
from captum_sig.cli.main import app
from captum_sig.corpus.manifest import Manifest
from captum_sig.corpus.query import add_exact_sums, fetch, open_shards
from captum_sig.corpus.report import SIDE_COLUMNS, WORD_COLUMNS, make_report
from captum_sig.corpus.report_page import MAX_EXAMPLE_WORDS, around_word, to_page
from captum_sig.data.statistics import bootstrap
from tests.shards import content, multiply

parquet = pytest.importorskip("pyarrow.parquet")

SIDES = ("first", "last", "agreement")
AGREEMENTS = ("additive", "redundant", "synergistic")
LONG = "It goes on. " * 12 + "Then it is superb, superb! " + "And on it goes. " * 12
TEXTS = [
    "A good film.", "Not a good film.", "Good fun, old-fashioned fun.", "The jokes are old.",
    "This old man is superb.", "No old joke is good.", "A dull film, an OLD man.", "Dull.", "",
    "<b>Bold</b> & good <script>alert(1)</script>", "New York is charming.", "York, new and dull.",
    "The film is old, yet good.", "not good, not bad", "An old new york film is bad.", LONG,
    "A \x1b[31mred\x1b[0m film.",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An explained corpus."""
    root = tmp_path_factory.mktemp("corpus")
    path = root / "<i>texts.jsonl"
    lines = [json.dumps({"id": i % 16, "text": text}) for i, text in enumerate([*TEXTS, None])]
    path.write_text("\n".join(lines), encoding="utf-8")
    arguments = ["corpus", str(path), "--output", str(root / "out"), "--shard-size", "5"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return root / "out"


@pytest.fixture(scope="module")
def rows(folder) -> list[dict]:
    """The rows that were explained."""
    found = [dict(zip(columns, row, strict=True)) for columns in content(folder).values()
             for row in zip(*columns.values(), strict=True)]  # fmt: skip
    return [row for row in found if row["error"] is None]


@pytest.fixture(scope="module")
def two_sided(tmp_path_factory) -> Path:
    """A corpus with both sides of words."""
    root = tmp_path_factory.mktemp("two_sided")
    path = root / "texts.jsonl"
    lines = [json.dumps({"text": text}) for text in (*TEXTS[:10], None)]
    path.write_text("\n".join(lines), encoding="utf-8")
    arguments = ["corpus", str(path), "--output", str(root / "out"), "--shard-size", "4",
                 "--contexts", "two_sided"]  # fmt: skip
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return root / "out"


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    terms = ("old", "MAN", "old-fashioned", "new york", "the rapist", "nowhere")
    return make_report(folder, tmp_path_factory.mktemp("report"), terms=terms)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_words_are_summed_by_class_and_lower_case(rows, made):
    scores, texts = defaultdict(list), defaultdict(set)
    for row in rows:
        for word, score in zip(row["words"], row["scores"], strict=True):
            scores[row["target"], word.lower()].append(score)
            texts[row["target"], word.lower()].add(row["row"])
    assert {(row["class"], row["word"]) for row in made.words} == set(scores)
    for row in made.words:
        values = scores[row["class"], row["word"]]
        assert row["sum"] == pytest.approx(sum(values))
        assert row["mean"] == pytest.approx(statistics.mean(values))
        assert row["count"] == len(values)
        assert row["documents"] == len(texts[row["class"], row["word"]])
        assert row["share_for"] == sum(score > 0 for score in values) / len(values)
        if len(values) > 1:
            assert row["std"] == pytest.approx(statistics.stdev(values))
        else:
            assert row["std"] is None


def test_the_largest_sums_come_first_and_all_words_are_in_the_file(folder, made, tmp_path):
    few = make_report(folder, tmp_path / "deep" / "out", top=3)
    assert [len([row for row in few.words if row["class"] == name]) for name in
            ("NEGATIVE", "POSITIVE")] == [3, 3]  # fmt: skip
    for name in ("NEGATIVE", "POSITIVE"):
        sums = [abs(row["sum"]) for row in made.words if row["class"] == name]
        assert sums == sorted(sums, reverse=True)
    assert few.words[0] == made.words[0]
    found = read(tmp_path / "deep" / "out" / "words.csv")
    assert len(found) == len(made.words)
    assert tuple(found[0]) == WORD_COLUMNS
    by_word = {(row["class"], spreadsheet_safe(row["word"])): row for row in made.words}
    for row in found:
        assert float(row["sum"]) == pytest.approx(by_word[row["class"], row["word"]]["sum"])


def test_overview_and_classes(rows, made):
    assert made.overview == {
        "rows": 18, "failed": 2, "truncated": 0, "duplicate_ids": 2, "finished": True,
        "rows_in_input": 18, "max_abs_word_delta": max(row["max_abs_word_delta"] for row in rows),
        "mean_abs_residual": None, "mean_abs_effect": None,
    }  # fmt: skip
    assert sum(row["texts"] for row in made.classes) == 16
    for row in made.classes:
        own = [one for one in rows if one["target"] == row["class"]]
        assert row["texts"] == len(own)
        assert row["mean_confidence"] == pytest.approx(
            statistics.mean(one["probability"] for one in own)
        )
        assert row["share_predicted"] == 1


def test_both_sides_of_words_and_residuals(two_sided, tmp_path):
    sided = make_report(two_sided, tmp_path / "report")
    occurrences, residuals, effects = defaultdict(list), [], []
    for columns in content(two_sided).values():
        for row in (
            dict(zip(columns, r, strict=True)) for r in zip(*columns.values(), strict=True)
        ):
            if row["error"] is None:
                residuals.append(abs(row["residual"]))
                effects.append(abs(sum(row["scores"]) - row["residual"]))
                for word, *of_word in zip(*(row[name] for name in ("words", *SIDES)), strict=True):
                    occurrences[row["target"], word.lower()].append(of_word)
    assert sided.side_columns == SIDE_COLUMNS
    assert {(row["class"], row["word"]) for row in sided.words} == set(occurrences)
    assert {kind for of_word in occurrences.values() for *_, kind in of_word} == set(AGREEMENTS)
    for row in sided.words:
        first, last, kinds = zip(*occurrences[row["class"], row["word"]], strict=True)
        assert row["mean_first"] == pytest.approx(statistics.mean(first), abs=1e-12)
        assert row["mean_last"] == pytest.approx(statistics.mean(last), abs=1e-12)
        assert row["share_redundant"] == kinds.count("redundant") / len(kinds)
        assert row["share_synergistic"] == kinds.count("synergistic") / len(kinds)
    assert sided.overview["mean_abs_residual"] == pytest.approx(statistics.mean(residuals))
    assert sided.overview["mean_abs_effect"] == pytest.approx(statistics.mean(effects), rel=1e-5)
    found = read(tmp_path / "report" / "words.csv")
    assert tuple(found[0]) == WORD_COLUMNS + SIDE_COLUMNS


def test_the_page_shows_sides_only_where_they_are_known(two_sided, made, tmp_path):
    page = to_page(make_report(two_sided, tmp_path))
    assert "<button>redundant</button>" in page
    assert "residual of a text" in page
    assert 'aria-description="synergistic"' in page
    assert "double line</span>: synergistic" in page
    assert ", in the text " in page
    without = to_page(made)
    for text in ("redundant", "synergistic", "residual", "in the text"):
        assert text not in without


def test_shards_without_the_columns_of_others_are_read(two_sided, tmp_path):
    """Such as a version that knew no sides wrote before the run was resumed."""
    older = tmp_path / "older"
    shutil.copytree(two_sided, older)
    shard = older / "part-000000.parquet"
    table = parquet.read_table(shard)
    parquet.write_table(table.drop_columns(["first", "last", "agreement", "residual"]), shard)
    with open_shards(sorted(older.glob("*.parquet"))) as db:
        counts = fetch(db, "SELECT count(*) AS texts, count(first) AS sided FROM texts")
    assert counts == [{"texts": 11, "sided": 5}]


def test_words_whose_effect_changes_sign_and_their_strongest_texts(rows, made):
    assert made.sign_changes
    for row in made.sign_changes:
        values = [
            (score, one["row"]) for one in rows if one["target"] == row["class"]
            for word, score in zip(one["words"], one["scores"], strict=True)
            if word.lower() == row["word"]
        ]  # fmt: skip
        positive = [score for score, _ in values if score > 0]
        negative = [score for score, _ in values if score < 0]
        assert (row["n_for"], row["n_against"]) == (len(positive), len(negative))
        assert min(row["n_for"], row["n_against"]) >= 2
        assert row["sum_for"] == pytest.approx(sum(positive))
        assert row["sum_against"] == pytest.approx(sum(negative))
        assert row["row_for"] == max(values)[1]
        assert row["row_against"] == min(values)[1]
    weaker = [min(row["sum_for"], -row["sum_against"]) for row in made.sign_changes]
    assert weaker == sorted(weaker, reverse=True)


def test_a_report_made_twice_is_the_same_byte_for_byte(folder, tmp_path):
    """DuckDB adds in parallel, in the order of its threads; only many shards show it."""
    many = tmp_path / "many"
    multiply(folder, many, 100)
    terms = tmp_path / "terms.txt"
    terms.write_text("old\nnew york\n", encoding="utf-8")
    made = []
    for name in ("first", "second"):
        assert run(many, "--output", tmp_path / name, "--terms", terms).exit_code == 0
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert len(made[0]) == 5
    assert made[0] == made[1]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("max_words", [1, 5])
def test_sums_do_not_depend_on_the_order_and_are_right(size, max_words):
    duckdb, pyarrow = map(pytest.importorskip, ("duckdb", "pyarrow"))
    draw = random.Random(0)
    groups = {
        "wide": [size * draw.gauss(0, 1) * 10.0 ** draw.uniform(-6, 0) for _ in range(3000)],
        "narrow": [size * (0.5 + 1e-4 * draw.random()) for _ in range(3000)],
        "constant": [size / 3] * 3000,
        "single": [size / 7],
    }
    rows = [(name, value) for name, values in groups.items() for value in values]
    seen = []
    for _ in range(2):
        draw.shuffle(rows)
        with duckdb.connect() as db:
            table = {"name": [name for name, _ in rows], "score": [score for _, score in rows]}
            db.register("scored", pyarrow.table(table))
            db.execute(
                "CREATE VIEW explained AS SELECT [score] AS scores, [-3 * score, NULL] AS first, "
                "NULL::FLOAT[] AS last, 40 * score AS residual, 40 * score AS value FROM scored"
            )
            add_exact_sums(db, max_words)
            query = (
                "SELECT exact_sum(score), exact_mean(score), exact_std(score), "
                "exact_sum(40 * score), exact_mean(abs(-3 * score)) FROM scored"
            )
            seen.append({
                name: db.execute(f"{query} WHERE name = '{name}'").fetchone() for name in groups
            })  # fmt: skip
    assert seen[0] == seen[1]
    for name, values in groups.items():
        total, mean, std, of_texts, of_sides = seen[0][name]
        assert total == pytest.approx(math.fsum(values), rel=1e-12)
        assert mean == pytest.approx(math.fsum(values) / len(values), rel=1e-12)
        assert of_texts == pytest.approx(40 * total, rel=1e-12)
        assert of_sides == pytest.approx(3 * statistics.fmean(map(abs, values)), rel=1e-12)
        if name == "single":
            assert std is None
        elif name == "constant":
            assert std == 0
        else:
            assert std == pytest.approx(statistics.stdev(values), rel=1e-6)


def effect(row: dict, *words: str) -> list[float]:
    """Sum the neighbouring scores wherever these words occur."""
    lowered = [word.lower() for word in row["words"]]
    n = len(words)
    return [sum(row["scores"][i : i + n]) for i in range(len(lowered) - n + 1)
            if lowered[i : i + n] == list(words)]  # fmt: skip


@pytest.mark.parametrize(
    ("term", "words"),
    [("old", ["old"]), ("MAN", ["man"]), ("old-fashioned", ["old", "-", "fashioned"]),
     ("new york", ["new", "york"])],
)  # fmt: skip
def test_effects_of_terms_over_texts(term, words, rows, made):
    of_term = {row["class"]: row for row in made.terms if row["term"] == term}
    assert of_term
    for name in ("NEGATIVE", "POSITIVE"):
        found = [one for row in rows if row["target"] == name and (one := effect(row, *words))]
        if not found:
            assert name not in of_term
            continue
        row = of_term[name]
        means = [statistics.mean(one) for one in found]
        assert (row["documents"], row["count"]) == (len(found), sum(map(len, found)))
        assert row["mean"] == pytest.approx(statistics.mean(means), abs=1e-6)
        if len(found) == 1:
            assert (row["low"], row["high"]) == (None, None)
        else:
            interval = bootstrap(means)
            assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


def test_terms_that_occur_nowhere_have_empty_rows(made):
    missing = [row for row in made.terms if row["documents"] == 0]
    assert [row["term"] for row in missing] == ["the rapist", "nowhere"]


def test_words_are_not_joined_where_the_term_has_a_space(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("text\nThe therapist is good.\nThe rapist is bad.\n", encoding="utf-8")
    CliRunner().invoke(app, ["corpus", str(path), "--output", str(tmp_path / "out")])
    found = make_report(tmp_path / "out", tmp_path / "report", terms=("therapist", "the rapist"))
    rows = {row["term"]: row["row_for"] for row in found.terms}
    assert rows == {"therapist": 1, "the rapist": 2}


def test_means_over_many_texts_have_normal_intervals(folder, tmp_path):
    found = make_report(folder, tmp_path / "out", terms=("old",), max_bootstrap_texts=2)
    for row in found.terms:
        assert row["documents"] > 2
        half = 1.959964 * row["std"] / row["documents"] ** 0.5
        assert (row["low"], row["high"]) == pytest.approx((row["mean"] - half, row["mean"] + half))


def test_extremes_are_the_strongest_words_of_each_class(rows, made):
    for name in ("NEGATIVE", "POSITIVE"):
        scores = [row["score"] for row in made.extremes if row["class"] == name]
        own = [row["scores"] for row in rows if row["target"] == name and row["scores"]]
        assert scores[:3] == sorted(map(max, own), reverse=True)[:3]
        assert scores[3:] == sorted(map(min, own))[:3]
    for row in made.extremes:
        result = made.examples[row["file"], row["row"], row["class"]][0]
        assert row["word"] in [word.word for word in result.words if word.score == row["score"]]


def test_examples_are_the_explainers_results(made, demo):
    for (result,) in made.examples.values():
        again = demo(result.text)
        assert [replace(word, score=0, normalized=0) for word in result.words] == [
            replace(word, score=0, normalized=0) for word in again.words
        ]
        assert result.normalized_scores == pytest.approx(again.normalized_scores, abs=1e-5)
        assert (result.label, result.target) == (again.label, again.target)


def test_the_page_is_escaped(made):
    page = to_page(made)
    assert "<b>" not in page
    assert "<i>" not in page
    assert "alert(1)<" not in page
    assert "&lt;i&gt;texts.jsonl" in page
    assert "\x1b" not in page
    assert page.count("<script>") == 1
    assert "http" not in page.replace("https://captum", "")


def test_a_long_example_is_cut_around_its_word(made):
    (result,) = [one for (one,) in made.examples.values() if one.text == LONG]
    middle = next(i for i, word in enumerate(result.words) if word.word == "superb")
    part = around_word(result, middle)
    assert len(part.words) == MAX_EXAMPLE_WORDS
    assert "superb" in part.text
    assert (part.text[:2], part.text[-2:]) == ("… ", " …")
    for word in part.words:
        assert part.text[word.start : word.end] == word.word
    bare = replace(result, words=tuple(replace(w, start=None, end=None) for w in result.words))
    assert len(around_word(bare, middle).words) == MAX_EXAMPLE_WORDS
    assert around_word(result, middle, limit=1000) is result


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def shown(made, tmp_path):
    """The page's rows that the browser shows after a script: (class, word, mean)."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")

    def show(script: str = "", fragment: str = "") -> list[tuple[str, str, float]]:
        path = tmp_path / "page.html"
        path.write_text(to_page(made) + f"<script>{script}</script>", encoding="utf-8")
        dom = subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
             "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
             path.as_uri() + fragment],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
        table = dom[dom.index("Words that move it most") : dom.index("<h2>Terms")]
        rows = re.findall(r"<tr data-search=\"[^\"]*\"( hidden=\"\")?>(.*?)</tr>", table)
        cells = [re.findall(r"<td[^>]*?(?:data-value=\"([^\"]*)\")?>(.*?)</td>", row)
                 for hidden, row in rows if not hidden]  # fmt: skip
        return [
            (row[0][1], html.unescape(re.sub("<.*?>", "", row[1][1])), float(row[3][0]))
            for row in cells
        ]

    return show


def test_a_browser_shows_all_words_in_order(shown, made):
    assert [row[:2] for row in shown()] == [(row["class"], row["word"]) for row in made.words]


def test_a_browser_searches_words_and_classes(shown, made):
    script = 'box.value = " OLD "; box.dispatchEvent(new Event("input"));'
    wanted = [(row["class"], row["word"]) for row in made.words if "old" in row["word"]]
    assert len(wanted) >= 2
    assert [row[:2] for row in shown(script)] == wanted
    assert [row[:2] for row in shown(fragment="#q=old")] == wanted
    found = shown(fragment="#q=positive%20charming")
    assert [row[:2] for row in found] == [("POSITIVE", "charming")]


def test_a_browser_sorts_numbers_and_words(shown):
    press = "[...document.querySelectorAll('.scroll th button')].find(" \
            "b => b.textContent === '{}').click();"  # fmt: skip
    means = [row[2] for row in shown(press.format("mean"))]
    assert means == sorted(means, reverse=True)
    means = [row[2] for row in shown(press.format("mean") * 2)]
    assert means == sorted(means)
    words = [row[1] for row in shown(press.format("word") * 2)]
    assert words.index("a") < words.index("old") < words.index("york")


def run(*arguments: object):
    return CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "80"})


def test_the_command_shows_tables_and_writes_files(folder, tmp_path):
    terms = tmp_path / "terms.txt"
    terms.write_text("\ufeff# people\n\nman\nMan\n old \n", encoding="utf-8")
    result = run(folder, "--output", tmp_path / "out", "--terms", terms)
    assert (result.exit_code, result.stderr) == (0, "")
    assert max(map(len, result.stdout.replace(str(tmp_path), "").splitlines())) <= 80
    for line in ("2 texts failed and are omitted.", "2 rows repeat the id of another row",
                 "POSITIVE: ", "Words whose effect changes sign", "Terms"):  # fmt: skip
        assert line in result.stdout
    assert "\x1b" not in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "extremes.csv", "report.html", "sign_changes.csv", "terms.csv", "words.csv",
    ]  # fmt: skip
    assert {row["term"] for row in read(tmp_path / "out" / "terms.csv")} == {"Man", "old"}
    extremes = read(tmp_path / "out" / "extremes.csv")
    assert list(extremes[0]) == ["class", "word", "score", "file", "row"]


def test_cells_are_safe_in_a_spreadsheet(tmp_path):
    """Formulas and overrides in texts, terms, and names of files and labels."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from captum_sig.demo_model import PATH

    model = AutoModelForSequenceClassification.from_pretrained(PATH)
    model.config.id2label = {0: "=1+1", 1: "@\u202ePOSITIVE"}
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(PATH).save_pretrained(tmp_path / "model")
    data = tmp_path / "=cmd.tsv"
    texts = ["=good @sum(1) is good", "-good +bad @bad", "=HYPERLINK(1) ;=1 is bad"] * 2
    data.write_text("\n".join(["text", *texts]), encoding="utf-8")
    (tmp_path / "terms.txt").write_text("=good\n+bad\n@sum\n", encoding="utf-8")
    arguments = ("corpus", data, "--output", tmp_path / "out", "--model", tmp_path / "model")
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    assert run(tmp_path / "out", "--terms", tmp_path / "terms.txt").exit_code == 0
    cells = []
    for path in (tmp_path / "out" / "report").glob("*.csv"):
        for row in read(path):
            cells += [cell for cell in row.values() if not is_number(cell)]
    assert {"'=1+1", "'@\\u202ePOSITIVE", "'=", "'+", "'=cmd.tsv", "'=good"} <= set(cells)
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r")) or "\u202e" in cell]


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def limited() -> None:
    """Limit the size of files, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))


def test_a_full_or_read_only_disk_is_one_sentence(folder, tmp_path, monkeypatch):
    done = subprocess.run(
        [sys.executable, "-m", "captum_sig", "report", folder, "--output", tmp_path / "out"],
        capture_output=True, text=True, check=False, preexec_fn=limited,
    )  # fmt: skip
    assert done.returncode == 2
    *others, last = done.stderr.splitlines()
    assert last.startswith(f"captum-sig: {tmp_path}/out/words.csv cannot be written: File t")
    assert all("font_manager" in line for line in others)  # Matplotlib's cache is limited, too
    assert list((tmp_path / "out").iterdir()) == []

    def read_only(dir):
        raise OSError(30, "Read-only file system", f"{dir}/tmp123")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("captum_sig.corpus.report.open_shards", None)  # told before the work
    assert run(folder).stderr == (
        f"captum-sig: {folder}/report cannot be written to: Read-only file system\n"
    )


def test_an_error_of_duckdb_is_one_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("captum_sig.corpus.report.OVERVIEW", "SELECT no_column FROM texts")
    result = run(folder, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"captum-sig: {folder} cannot be summarised: Binder Error")
    assert result.stderr.count("\n") == 1


def test_by_default_files_go_into_the_folder_also_of_an_unfinished_run(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    manifest = Manifest.read(folder)
    manifest.counts = None
    del manifest.shards[3]
    manifest.write(tmp_path / "out")
    (tmp_path / "out" / "part-000003.parquet").unlink()
    result = run(tmp_path / "out")
    assert result.exit_code == 0
    assert "The run is not finished: 15 of 18 texts." in result.stdout
    page = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert "The run is not finished: 15 of 18 texts" in page


def test_mistakes_are_reported(folder, tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "bad.tsv").write_bytes(b"text\n\xe9\n")
    arguments = ["corpus", str(tmp_path / "bad.tsv"), "--output", str(tmp_path / "bad")]
    assert "0 explained, 1 failed" in CliRunner().invoke(app, arguments).stdout
    shutil.copytree(folder, tmp_path / "begun", ignore=shutil.ignore_patterns("part-*"))
    for arguments, why in (
        ((tmp_path,), "has no manifest.json"),
        ((tmp_path / "nowhere",), "has no manifest.json"),
        ((tmp_path / "bad",), "no text in"),
        ((tmp_path / "begun",), "part-000000.parquet is missing: rerun"),
        ((folder, "--terms", tmp_path / "empty.txt"), "contains no terms"),
        ((folder, "--terms", tmp_path / "latin.txt"), "is not UTF-8"),
        ((folder, "--terms", tmp_path / "none.txt"), "none.txt"),
        ((folder, "--output", tmp_path / "empty.txt" / "x"), "empty.txt is a file: name a folder"),
    ):
        result = run(*arguments)
        assert (result.exit_code, why in result.stderr) == (2, True), result.stderr
        assert result.stderr.count("\n") == 1

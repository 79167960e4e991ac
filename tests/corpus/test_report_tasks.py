"""`captum-sig report` of values, pairs, labels and entities, against sums in plain Python."""

import csv
import json
import statistics
from collections import defaultdict

import pytest
from typer.testing import CliRunner

from captum_sig import TextClassificationExplainer
from captum_sig.cli.main import app
from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus.engines import locally
from captum_sig.corpus.folder import CorpusFolder
from captum_sig.corpus.report import make_report
from captum_sig.corpus.report_page import MAX_EXAMPLE_WORDS, around_word, to_page
from captum_sig.corpus.shard_files import ShardWriter
from captum_sig.explainers.results import Word, WordAttribution
from tests.shards import content, scan_corpus
from tests.tiny_models import bert
from tests.tiny_tasks import (
    TokenClassificationExplainer,
    multi_label,
    pair_tokenizer,
    regression,
    token_classifier,
)

pytest.importorskip("pyarrow.parquet")
TEXTS = ["the movie is not good", "a gorgeous mess !", "bad", "movie , not movies", "not bad"] * 2
PAIRS = [*zip(TEXTS, TEXTS[1:], strict=False), ("good", "=1+1 good")]
SETTINGS = {"model": "m", "weights": "w", "method": "sig", "contexts": None, "baseline": "mask"}
RUNS = {
    "values": (TextClassificationExplainer, regression, False, {}),
    "pairs": (TextClassificationExplainer, bert, True, {}),
    "labels": (TextClassificationExplainer, lambda: multi_label(5), True, {"target": ">0.5"}),
    "entities": (TokenClassificationExplainer, token_classifier, False, {}),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    """An explained corpus: its folder, and a row for each target of each text."""
    kind, make, has_pairs, options = RUNS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    names = ("text", "text_pair") if has_pairs else ("text",)
    inputs = PAIRS if has_pairs else [(text,) for text in TEXTS]
    empty = ("",) * len(names)
    lines = [json.dumps(dict(zip(names, one, strict=True))) for one in [*inputs, empty]]
    (root / "texts.jsonl").write_text("\n".join(lines))
    explain = CorpusExplainer(
        kind(make(), pair_tokenizer()), pair_column="text_pair" if has_pairs else None, **options
    )
    settings = SETTINGS | options | {"task": explain.task, "pair_column": explain.pair_column}
    corpus = scan_corpus([str(root / "texts.jsonl")], shard_size=4)
    folder = CorpusFolder(root / "out", corpus, settings)
    with folder.entered():
        writer = ShardWriter(root / "out", explain, folder.manifest.run)
        folder.explain_remaining(locally, writer, lambda n_texts, work: None)
    return request.param, root / "out", list(targets(root / "out"))


def targets(folder):
    for columns in content(folder).values():
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            sides = row.get("sides") or [None] * len(row["words"])
            if row["error"] is not None:
                continue
            several = "targets" in row
            names = row["targets"] if several else [row["target"]]
            for number, name in enumerate(names):
                yield {
                    **row,
                    "class": name.split(": ")[0],
                    "scores": row["target_scores"][number] if several else row["scores"],
                    "value": row["target_values"][number] if several else row.get("value"),
                    "sides": sides,
                }


def test_words_are_summed_by_class_and_side(run, tmp_path):
    name, folder, rows = run
    made = make_report(folder, tmp_path)
    scores, texts = defaultdict(list), defaultdict(set)
    for row in rows:
        for word, score, side in zip(row["words"], row["scores"], row["sides"], strict=True):
            scores[row["class"], word, side].append(score)
            texts[row["class"], word, side].add(row["row"])
    found = {(row["class"], row["word"], row.get("side")): row for row in made.words}
    assert set(found) == set(scores)
    for key, row in found.items():
        assert row["sum"] == pytest.approx(sum(scores[key]), abs=1e-5)
        assert row["count"] == len(scores[key])
        assert row["documents"] == len(texts[key])
    with (tmp_path / "words.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(made.words)
    assert ("side" in written[0]) == made.has_pairs == (name in ("pairs", "labels"))
    assert not [row for row in written if row["word"].startswith("=")]


def test_classes_and_values(run, tmp_path):
    name, folder, rows = run
    made = make_report(folder, tmp_path, terms=["not", "movie is", "good a"])
    by_class = defaultdict(list)
    for row in rows:
        by_class[row["class"]].append(row)
    assert {row["class"]: row["texts"] for row in made.classes} == {
        label: len({row["row"] for row in of_class}) for label, of_class in by_class.items()
    }
    for row in made.classes:
        assert ("share_predicted" in row) == (name == "pairs")
        if name != "pairs":
            values = [one["value"] for one in by_class[row["class"]]]
            assert row["mean_value"] == pytest.approx(statistics.fmean(values), abs=1e-5)
        if name == "values":
            assert row["lowest"] == min(values)
    assert made.unit == ("value" if name == "values" else "logit")
    across = [row for row in made.terms if row["term"] == "good a"]  # of both texts of a pair
    assert [row["count"] for row in across] == [0]


def test_the_page_says_what_was_explained(run, tmp_path):
    name, folder, _ = run
    made = make_report(folder, tmp_path)
    page = to_page(made)
    assert {
        "values": "raise the value, where the others lower it",
        "pairs": "text_pair for those of the second",
        "labels": "A text belongs to each of its classes",
        "entities": "token-classification",
    }[name] in page
    assert ("logit of the class" in page) == (name != "values")
    for result in (one for examples in made.examples.values() for one in examples):
        for word in result.words:
            text = result.text_pair if word.side == "text_pair" else result.text
            assert text[word.start : word.end] == word.word
    result = CliRunner().invoke(app, ["report", str(folder), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output


def test_a_long_pair_is_cut_around_its_word():
    words = [f"w{n}" for n in range(60)]
    text, places = " ".join(words), []
    for word in words:
        start = text.index(word + " " if word != "w59" else word)
        places.append((start, start + len(word)))
    both = [Word(word, *place, 1.0, 1.0, side=side)
            for side in ("text", "text_pair")
            for word, place in zip(words, places, strict=True)]  # fmt: skip
    whole = WordAttribution(text, None, None, "x", "sig", "mask", 0.0, tuple(both), text_pair=text)
    for position, n_first in ((60, 20), (20, 40), (119, 0)):
        part = around_word(whole, position)
        assert len(part.words) == MAX_EXAMPLE_WORDS
        assert sum(word.side == "text" for word in part.words) == n_first
        for word in part.words:
            shown = part.text_pair if word.side == "text_pair" else part.text
            assert shown[word.start : word.end] == word.word
    assert part.text == "… "

"""One row a text, whatever the task: against plain loops over ids, one pass a word."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from captum_sig import SimilarityExplainer, TextClassificationExplainer
from captum_sig.cli.main import app
from captum_sig.corpus import CorpusExplainer
from captum_sig.corpus.manifest import Manifest, digest
from captum_sig.corpus.rows import from_row, is_complete, to_row
from captum_sig.demo_model import PATH
from tests.shards import content
from tests.tiny_models import bert
from tests.tiny_tasks import (
    LABELS,
    TokenClassificationExplainer,
    encoded,
    multi_label,
    pair_tokenizer,
    regression,
    token_classifier,
    word_effects,
)

ROOT = Path(__file__).parents[2]
TEXTS = ["the movie is not good", "a gorgeous mess !", "bad", "movie , not movie"]
PAIRS = [("the movie is good", "not bad"), ("a mess", "bad , bad !"), ("good", "good movie")]


@pytest.fixture(scope="module")
def emotions():
    return TextClassificationExplainer(multi_label(), pair_tokenizer())


def test_all_labels_of_a_text_are_lists_in_its_row(emotions):
    columns = CorpusExplainer(emotions, target="all").columns([*TEXTS, None])
    assert list(columns) == [
        "label", "probability", "targets", "target_values", "target_probabilities", "words",
        "offsets", "target_scores", "max_abs_word_delta", "dropped_tokens", "error",
    ]  # fmt: skip
    for number, text in enumerate(TEXTS):
        inputs = encoded(emotions.tokenizer, text)
        logits = emotions.model(**inputs).logits[0].detach()
        assert columns["targets"][number] == LABELS
        assert columns["words"][number] == text.split()
        scores = torch.tensor(columns["target_scores"][number], dtype=torch.float64)
        torch.testing.assert_close(
            scores, word_effects(emotions.model, inputs).T, atol=1e-10, rtol=0
        )
        assert columns["target_values"][number] == pytest.approx(logits.tolist(), abs=1e-10)
        probabilities = columns["target_probabilities"][number]
        assert probabilities == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)
        assert columns["label"][number] == LABELS[int(logits.argmax())]
        assert columns["max_abs_word_delta"][number] < 1e-10
    assert columns["error"][:-1] == [""] * len(TEXTS)
    assert [columns[name][-1] for name in ("targets", "target_scores", "words")] == [[], [], []]


def test_labels_above_a_probability_differ_from_text_to_text(emotions):
    every = CorpusExplainer(emotions, target="all").columns(TEXTS)
    some = CorpusExplainer(emotions, target=">0.7").columns(TEXTS)
    for number in range(len(TEXTS)):
        likely = [i for i, p in enumerate(every["target_probabilities"][number]) if p > 0.7]
        assert some["targets"][number] == [LABELS[i] for i in likely]
        for row, index in enumerate(likely):
            expected = every["target_scores"][number][index]
            assert some["target_scores"][number][row] == pytest.approx(expected, abs=1e-10)
    assert len({len(names) for names in some["targets"]}) > 1


def test_no_label_is_likely_enough(emotions):
    columns = CorpusExplainer(emotions, target=">0.999").columns(TEXTS)
    assert columns["targets"] == columns["target_scores"] == [[]] * len(TEXTS)
    assert columns["words"] == [text.split() for text in TEXTS]
    assert columns["error"] == [""] * len(TEXTS)


@pytest.mark.parametrize(
    "options",
    [
        {"contexts": "two_sided"},
        {"contexts": "sampled2"},
        {"method": "ig", "n_steps": 3},
        {"method": "sig", "top": 2},
    ],
    ids=str,
)
def test_a_list_has_what_each_label_has_alone(emotions, options):
    several = CorpusExplainer(emotions, target=[3, "emotion 5"], **options)
    columns, alone = several.columns(TEXTS), CorpusExplainer(emotions, target=5, **options)
    of_one = alone.columns(TEXTS)
    for name, values in of_one.items():
        if name in ("label", "probability", "words", "offsets", "dropped_tokens", "error"):
            assert columns[name] == values
        elif name not in ("target", "max_abs_word_delta"):
            of_five = [None if row is None else row[1] for row in columns[f"target_{name}"]]
            for got, expected in zip(of_five, values, strict=True):
                is_number = isinstance(expected, float) or (
                    isinstance(expected, list) and isinstance(expected[0], float)
                )
                assert got == (pytest.approx(expected, abs=1e-10) if is_number else expected)


def test_pairs_have_the_side_of_each_word(tmp_path):
    explainer = TextClassificationExplainer(bert(), pair_tokenizer())
    explain = CorpusExplainer(explainer, pair_column="other", target="neutral")
    batch = {"text": [a for a, _ in PAIRS] + ["alone"], "other": [b for _, b in PAIRS] + [" "]}
    columns = pickle.loads(pickle.dumps(explain))(batch)
    for number, (first, second) in enumerate(PAIRS):
        n_first = len(first.split())
        words, sides = columns["words"][number], columns["sides"][number]
        assert words == [*first.split(), *second.split()]
        assert sides == ["text"] * n_first + ["text_pair"] * (len(words) - n_first)
        for word, side, (start, end) in zip(words, sides, columns["offsets"][number], strict=True):
            assert (first if side == "text" else second)[start:end] == word
        effects = word_effects(explainer.model, encoded(explainer.tokenizer, first, second))
        assert columns["scores"][number] == pytest.approx(effects[:, 2].tolist(), abs=1e-10)
    assert columns["error"] == [""] * len(PAIRS) + ["empty second text"]
    assert explain.work(*PAIRS[0]) == explain.work("".join(PAIRS[0]))


def test_a_value_stands_in_place_of_a_label():
    explainer = TextClassificationExplainer(regression(), pair_tokenizer())
    columns = CorpusExplainer(explainer).columns([*TEXTS, ""])
    for number, text in enumerate(TEXTS):
        inputs = encoded(explainer.tokenizer, text)
        value = explainer.model(**inputs).logits.item()
        assert columns["value"][number] == pytest.approx(value, abs=1e-10)
        effects = word_effects(explainer.model, inputs)[:, 0].tolist()
        assert columns["scores"][number] == pytest.approx(effects, abs=1e-10)
    assert columns["unit"] == ["value"] * len(TEXTS) + [None]
    assert columns["label"] == columns["probability"] == [None] * (len(TEXTS) + 1)


def test_entities_are_lists_with_their_places():
    explainer = TokenClassificationExplainer(token_classifier(), pair_tokenizer())
    columns = CorpusExplainer(explainer, task="token-classification").columns(TEXTS)
    assert columns["targets"] == [["THING: movie"], [], [], ["THING: movie"] * 2]
    assert columns["target_starts"] == [[4], [], [], [0, 12]]
    assert columns["target_ends"] == [[9], [], [], [5, 17]]
    inputs = encoded(explainer.tokenizer, TEXTS[3])
    ids = inputs["input_ids"]

    def logits(ids):
        with torch.no_grad():
            return explainer.model(**{**inputs, "input_ids": ids}).logits[0, [1, 4], 1]

    for word in range(4):
        changed = ids.clone()
        changed[0, word + 1] = explainer.tokenizer.mask_token_id
        expected = (logits(ids) - logits(changed)).tolist()
        got = [scores[word] for scores in columns["target_scores"][3]]
        assert got == pytest.approx(expected, abs=1e-10)


def test_rows_of_one_target_are_turned_back_into_results():
    for model, inputs in ((regression(), TEXTS), (bert(), PAIRS)):
        explainer = TextClassificationExplainer(model, pair_tokenizer())
        for result in explainer(inputs, contexts="two_sided"):
            row = {"text": result.text, "text_pair": result.text_pair, **to_row(result)}
            again = from_row(row, result.method, result.baseline)
            assert (again.words, again.value, again.unit) == (
                result.words, result.value, result.unit,
            )  # fmt: skip
            assert again.text_pair == result.text_pair


def test_mistakes_are_one_sentence(emotions):
    for arguments, why in (
        ({"task": "token-classification"}, "the explainer is for text-classification, not token"),
        ({"target": "emotion 99"}, "unknown label 'emotion 99'"),
        ({"target": ["emotion 1", "x"]}, "unknown label 'x'"),
    ):
        with pytest.raises(ValueError, match=why):
            CorpusExplainer(emotions, **arguments)
    with pytest.raises(ValueError, match="task 'summarization' is unknown"):
        CorpusExplainer(PATH, task="summarization")
    with pytest.raises(ValueError, match="question-answering explains pairs of texts: set pair_"):
        CorpusExplainer(PATH, task="question-answering")
    explain = CorpusExplainer(emotions, pair_column="other")
    with pytest.raises(ValueError, match="no column 'other': pair_column must be one of 'text'"):
        explain({"text": ["a"]})


# The command.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders with models in float32, and of texts and pairs."""
    root = tmp_path_factory.mktemp("models")
    for name, model in (("emotions", multi_label(5)), ("value", regression()), ("pairs", bert())):
        model.float().save_pretrained(root / name)
        pair_tokenizer().save_pretrained(root / name)
    texts = [{"text": text} for text in [*TEXTS, ""]]
    pairs = [{"text": first, "text_pair": second} for first, second in [*PAIRS, ("good", None)]]
    for name, rows in (("texts", texts), ("pairs", pairs)):
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def run(models, model, data, output, *options):
    arguments = ["corpus", str(models / f"{data}.jsonl"), "--output", str(output)]
    return CliRunner().invoke(
        app, [*arguments, "--model", str(models / model), "--shard-size", "2", *options]
    )


@pytest.mark.parametrize(
    ("model", "data", "options", "extra"),
    [
        ("emotions", "texts", ["--target", "all"], {"target": "all"}),
        ("emotions", "texts", ["--target", ">0.6", "--contexts", "two_sided"],
         {"target": ">0.6", "contexts": "two_sided"}),
        ("emotions", "pairs", ["--target", "1", "--target", "emotion 3"],
         {"target": ["1", "emotion 3"], "pair_column": "text_pair"}),
        ("value", "pairs", [], {"pair_column": "text_pair"}),
        ("pairs", "pairs", [], {"pair_column": "text_pair"}),
    ],
)  # fmt: skip
def test_shards_hold_what_the_explainer_returns(models, tmp_path, model, data, options, extra):
    parquet = pytest.importorskip("pyarrow.parquet")
    result = run(models, model, data, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "1 failed" in result.stdout
    explain = CorpusExplainer(models / model, **extra)
    lines = [json.loads(line) for line in (models / f"{data}.jsonl").read_text().splitlines()]
    expected = explain({name: [line[name] for line in lines] for name in lines[0]})
    shards = content(tmp_path / "out")
    for path in (tmp_path / "out").glob("part-*.parquet"):
        assert is_complete(parquet.read_schema(path))
    got = {name: [value for shard in shards.values() for value in shard[name]]
           for name in next(iter(shards.values()))}  # fmt: skip
    assert got["error"][:-1] == [None] * (len(lines) - 1)
    if data == "pairs":
        assert got["text_pair"][:-1] == [second for _, second in PAIRS]
    for name in set(expected) - {"text", "text_pair", "error"}:
        for one, other in zip(got[name], expected[name], strict=True):
            assert close(one, other), name


def close(one, other) -> bool:
    """Whether nested lists agree, floats to float32's precision."""
    if isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == (pytest.approx(other, abs=1e-4) if isinstance(other, float) else other)


def test_another_task_target_or_column_is_refused(models, tmp_path):
    out = tmp_path / "out"
    assert run(models, "emotions", "texts", out, "--target", "all").exit_code == 0
    assert run(models, "emotions", "texts", out, "--target", "all").exit_code == 0
    for options, why in (
        (["--target", ">0.5"], "was made with target 'all', not '>0.5': use the same settings"),
        ([], "was made with target 'all', not None"),
        (["--target", "1", "--target", "2"], "was made with target 'all', not ['1', '2']"),
    ):
        result = run(models, "emotions", "texts", out, *options)
        assert (result.exit_code, why in result.stderr) == (2, True), result.stderr
        assert result.stderr.count("\n") == 1
    out = tmp_path / "pairs"
    assert run(models, "pairs", "pairs", out).exit_code == 0
    result = run(models, "pairs", "pairs", out, "--pair-column", "")
    assert "was made with pair_column 'text_pair', not None" in result.stderr.replace(
        "--pair-column", "pair_column"
    )
    result = run(models, "pairs", "pairs", out, "--task", "sentence-similarity")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    path = Manifest.read(out)
    assert path.settings["pair_column"] == "text_pair"
    assert "task" not in path.settings


def test_a_folder_of_an_earlier_version_is_resumed(models, tmp_path):
    """Its manifest has neither task nor pair column."""
    out = tmp_path / "out"
    assert run(models, "pairs", "texts", out).exit_code == 0
    manifest = Manifest.read(out)
    assert not {"task", "pair_column"} & set(manifest.settings)
    pieces = [["texts.jsonl", row, n] for row, n in ((1, 2), (3, 2), (5, 1))]
    assert manifest.run == digest([manifest.settings, pieces])  # as earlier versions name a run
    shutil.rmtree(out / "report", ignore_errors=True)
    assert "(5 from earlier runs)" in run(models, "pairs", "texts", out).stdout
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0


def test_a_task_needs_a_model(models, tmp_path):
    arguments = ["corpus", str(models / "texts.jsonl"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--task", "token-classification"])
    assert result.exit_code == 2
    assert "no model for token-classification is included: pass --model" in result.stderr


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("token-classification", {"pair_column": "b"}, "reads one text at a time: leave pair_col"),
        ("fill-mask", {"pair_column": "b"}, "reads one text at a time: leave pair_column out"),
        ("token-classification", {"target": (0, 3)}, "belongs to one text: leave target out"),
        ("question-answering", {"pair_column": "b", "target": "x"}, "belongs to one text: leave"),
        ("zero-shot-classification", {}, "task 'zero-shot-classification' is unknown"),
    ],
)
def test_what_a_corpus_has_not(task, options, message):
    with pytest.raises(ValueError, match=message):
        CorpusExplainer(PATH, task=task, **options)


def test_columns_of_different_lengths(emotions):
    explain = CorpusExplainer(emotions, pair_column="second")
    with pytest.raises(ValueError, match="columns 'text' and 'second' have 2 and 1 rows; wanted"):
        explain({"text": ["a", "b"], "second": ["b"]})


@pytest.fixture(scope="module")
def similarity():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=64, intermediate_size=24, max_position_embeddings=40, **sizes)
    return SimilarityExplainer(BertModel(config).eval(), pair_tokenizer())


def test_options_that_no_text_can_have_are_refused_at_once(similarity):
    with pytest.raises(ValueError, match="top audits the words of one text"):
        CorpusExplainer(similarity, pair_column="second", top=2)


def test_similar_texts_are_one_class_of_a_report(similarity, tmp_path):
    similarity.model.encoder.save_pretrained(tmp_path / "model")
    pair_tokenizer().save_pretrained(tmp_path / "model")
    pairs = [{"text": first, "text_pair": second} for first, second in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    result = run(tmp_path, "model", "pairs", tmp_path / "out", "--task", "sentence-similarity")
    assert result.exit_code == 0, result.output
    report = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert f"similarity: {len(PAIRS)} texts, mean cosine" in report.stdout

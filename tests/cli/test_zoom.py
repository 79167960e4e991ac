"""Level "auto" and windows of long texts, by the command line and in corpora."""

import functools
import json

import pytest
from typer.testing import CliRunner

from captum_sig import TextClassificationExplainer
from captum_sig.cli.main import app
from captum_sig.corpus import CorpusExplainer
from captum_sig.demo_model import PATH
from captum_sig.explainers.zoom_result import ZoomAttribution
from tests.shards import content
from tests.tiny_models import bert, wordpiece_tokenizer

TEXT = "It goes on. " * 12 + "Then it is superb! " + "And on it goes. " * 12


@pytest.fixture
def explain(run):
    return functools.partial(run, "explain")


def test_a_zoom_is_the_explainers(demo, explain):
    result = explain(TEXT, "--level", "auto", "--budget", 40, "--format", "json")
    found = ZoomAttribution.from_dict(json.loads(result.stdout))
    expected = demo(TEXT, level="auto", budget=40)
    assert found.n_rows <= found.budget == 40
    assert [word.word for word in found.words] == [word.word for word in expected.words]
    assert found.flat().scores == pytest.approx(expected.flat().scores, abs=1e-4)
    assert explain(TEXT, "--level", "auto").exit_code == 0
    refused = explain(TEXT, "--level", "auto", "--method", "ig")
    assert refused.exit_code == 2
    assert len(refused.stderr.splitlines()) == 1


def test_a_zoom_from_named_units(explain, tmp_path):
    (tmp_path / "units.json").write_text(json.dumps([[0, 143, "start\x1b[2J"], [144, 162, "end"]]))
    arguments = TEXT, "--level", "auto", "--budget", 20, "--units", tmp_path / "units.json"
    plain = explain(*arguments)
    assert plain.exit_code == 0
    assert "\x1b" not in plain.stdout
    found = ZoomAttribution.from_dict(json.loads(explain(*arguments, "--format", "json").stdout))
    assert {"start\x1b[2J", "end"} <= {node.name for node in found.nodes}


def test_a_zoom_in_a_corpus(demo, tmp_path):
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text("\n".join(json.dumps({"text": text}) for text in (TEXT, "Dull.", "")))
    arguments = ["corpus", str(data), "--level", "auto", "--output", str(out)]
    assert CliRunner().invoke(app, [*arguments, "--budget", "40"]).exit_code == 0
    (columns,) = content(out).values()
    flat = demo(TEXT, level="auto", budget=40).flat()
    assert columns["words"][0] == [word.word for word in flat.words]
    assert columns["scores"][0] == pytest.approx(flat.scores, abs=1e-4)
    assert columns["evidence"][0] == [word.evidence for word in flat.words]
    assert columns["level"] == ["auto", "auto", None]
    assert columns["error"][2] == "empty text"
    refused = CliRunner().invoke(app, [*arguments, "--budget", "41"])
    assert refused.exit_code == 2
    assert "budget 40, not 41" in refused.stderr
    report = CliRunner().invoke(app, ["report", str(out)])
    assert report.exit_code == 0, report.output


def test_windows_of_long_texts():
    options = {"stride": 2, "window_logits": "max"}
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_max_length = 12
    texts = ["the movie is not good . bad movies ! " * 4, "bad"]
    explainer = TextClassificationExplainer(bert(), tokenizer, **options)
    columns = CorpusExplainer(explainer).columns(texts)
    assert columns["dropped_tokens"] == [0, 0]
    for number, result in enumerate(explainer(texts)):
        assert columns["scores"][number] == pytest.approx(result.scores, abs=1e-10)


def test_windows_reach_the_corpus(tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"text": TEXT}))
    arguments = ["corpus", str(data), "--output", str(tmp_path / "out"), "--stride"]
    assert CliRunner().invoke(app, [*arguments, "8"]).exit_code == 0
    (columns,) = content(tmp_path / "out").values()
    expected = TextClassificationExplainer.from_pretrained(PATH, stride=8)(TEXT)
    assert columns["scores"][0] == pytest.approx(expected.scores, abs=1e-4)
    for stride in ("9", "99999"):
        refused = CliRunner().invoke(app, [*arguments, stride])
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1

"""Results and what they look like: JSON, Captum's records, HTML, terminal."""

import ast
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import captum_sig
from captum_sig import WordAttribution, viz
from captum_sig.explainers.results import Word
from captum_sig.viz.text import AGAINST, FOR, pieces, shades

NASTY = '<script>alert("x")</script> & good'
RESULT = WordAttribution(
    text=NASTY,
    label="<b>POSITIVE</b>",
    probability=0.75,
    target="NEGATIVE",
    method="sig",
    baseline="mask",
    max_abs_word_delta=1e-7,
    words=(Word("<script>alert", 0, 13, -3.0, -0.6), Word("good", 30, 34, 4.0, 0.8)),
    probabilities={"<b>POSITIVE</b>": 0.75, "NEGATIVE": 0.25},
)


def test_json_round_trip():
    assert WordAttribution.from_dict(json.loads(json.dumps(RESULT.to_dict()))) == RESULT


def test_strict_json_has_none_for_what_is_not_finite():
    words = (Word("good", 0, 4, 1.0, 1.0, standard_error=math.nan),)
    odd = dataclasses.replace(RESULT, words=words, residual=math.inf, probability=-math.inf)
    data = json.loads(json.dumps(odd.to_dict(), allow_nan=False))
    assert "standard_error" not in data["words"][0]
    assert "residual" not in data
    again = WordAttribution.from_dict(data)
    assert (again.probability, again.residual, again.words[0].standard_error) == (None, None, None)
    assert again == WordAttribution.from_dict(json.loads(json.dumps(again.to_dict())))


def test_one_sampled_background_has_no_standard_error(demo):
    result = demo("A fine film.", contexts="sampled1")
    assert {word.standard_error for word in result.words} == {None}
    assert WordAttribution.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_all_json_of_the_package_is_strict():
    calls = [
        (path.name, call)
        for path in Path(captum_sig.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("json.dumps", "json.dump")
    ]
    assert len(calls) > 5
    assert [name for name, call in calls if "allow_nan=False" not in ast.unparse(call)] == []


def test_keys():
    data = RESULT.to_dict()
    assert list(data)[:8] == ["text", "label", "probability", "target", "method", "baseline",
                              "max_abs_word_delta", "words"]  # fmt: skip
    assert list(data["words"][0]) == ["word", "start", "end", "score", "normalized"]


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RESULT.label = "other"
    assert hash(RESULT) == hash(RESULT)


def test_unknown_fields_are_refused():
    with pytest.raises(TypeError, match="surprise"):
        WordAttribution.from_dict({**RESULT.to_dict(), "surprise": 1})


def test_captum_record_is_escaped():
    record = RESULT.to_captum_record("<i>true</i>")
    assert record.raw_input_ids == ["&lt;script&gt;alert", "good"]
    assert record.pred_class == "&lt;b&gt;POSITIVE&lt;/b&gt;"
    assert record.true_class == "&lt;i&gt;true&lt;/i&gt;"
    assert record.attr_score == pytest.approx(1.0)
    assert record.word_attributions.tolist() == pytest.approx([-0.6, 0.8])
    nothing = dataclasses.replace(RESULT, probability=None, words=())
    assert math.isnan(nothing.to_captum_record().pred_prob)


@pytest.mark.parametrize("html", [RESULT._repr_html_(), viz.to_page([RESULT, RESULT])])
def test_html_holds_the_whole_text_and_only_our_tags(html):
    assert set(re.findall(r"</?(\w+)", html)) <= {
        "div", "span", "html", "head", "meta", "title", "body", "p", "DOCTYPE",
    }  # fmt: skip
    shown = re.sub(r"<[^>]*>", "", html)
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; good" in shown
    assert "+4.0000 logits" in html


def test_control_characters_are_visible_and_attributes_closed():
    nasty = dataclasses.replace(RESULT, text="a\x1b[2J", target='"\x9b', words=())
    page = viz.to_page([nasty])
    assert "a␛[2J" in page
    assert "&#34;\ufffd  (predicted" in page


@pytest.mark.parametrize("control", [*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"])
def test_text_cannot_turn_what_stands_after_it(control):
    words = (Word(f"{control}bad", 0, 4, 1.0, 0.7), Word("end", 5, 8, -1.0, -0.7))
    turned = dataclasses.replace(RESULT, text=f"{control}bad end", target=control, words=words)
    shown = f"\\u{ord(control):04x}"
    for output in (viz.to_page([turned]), viz.to_plain(turned), viz.to_terminal(turned).plain):
        assert f"{shown}bad" in output
        assert output.count(shown) == 2
        assert control not in output


def test_text_and_labels_have_the_direction_of_their_letters():
    assert viz.to_page([RESULT]).count('<div dir="auto"') == 2


def test_importing_it_loads_no_template_engine():
    program = "import sys, captum_sig.viz; assert not {'jinja2', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_strongest_word_has_the_full_colour():
    assert shades([word.score for word in RESULT.words])[1] == FOR
    assert shades([0.0, -1.0]) == [(255, 255, 255), AGAINST]


def test_terminal_and_plain():
    shown = viz.to_terminal(RESULT)
    assert shown.plain.startswith(NASTY)
    assert len([span for span in shown.spans if span.style]) == 3
    lines = viz.to_plain(RESULT).splitlines()
    assert lines[0] == "NEGATIVE 25.0%  (predicted <b>POSITIVE</b> 75.0%; sig, baseline mask)"
    assert lines[1:] == ["<script>alert -3.0000", "good +4.0000"]


def test_the_explained_labels_own_probability_stands_first():
    result = dataclasses.replace(RESULT, label="joy", target="love", probabilities={"love": 0.1})
    assert result.summary == "love 10.0%  (predicted joy 75.0%; sig, baseline mask)"
    unknown = dataclasses.replace(result, probability=None, probabilities={})
    assert unknown.summary == "love  (predicted joy; sig, baseline mask)"
    of_predicted = dataclasses.replace(result, target="joy")
    assert of_predicted.summary == "joy 75.0%  (sig, baseline mask)"


def test_words_without_offsets_stand_one_after_the_other():
    words = (Word("good", None, None, 1.0, 0.7), Word("movi", None, None, -1.0, -0.7))
    result = dataclasses.replace(RESULT, words=words)
    assert "".join(text for text, _, _ in pieces(result)) == "good movi "

"""Results and what they look like: JSON, Captum's records, HTML, terminal."""

import ast
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import captum_sig
from captum_sig import WordAttribution, viz
from captum_sig.explainers.results import Word
from captum_sig.viz import AGAINST, FOR, passages, pieces, shades, style
from tests import made_results as made

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


SIDED = dataclasses.replace(
    RESULT,
    text="not <b> good film",
    words=(
        Word("not", 0, 3, 3.0, 0.8, first=-1.0, last=7.0, agreement="synergistic"),
        Word("<b>", 4, 7, 0.5, 0.1, first=0.5, last=0.5, agreement="additive"),
        Word("good", 8, 12, 2.0, 0.5, first=4.0, last=0.0, agreement="redundant"),
        Word("film", 13, 17, 0.1, 0.0),
    ),
    residual=-0.4,
)


@pytest.mark.parametrize("result", [RESULT, SIDED])
def test_json_round_trip(result):
    assert WordAttribution.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_json_drops_a_side_that_is_not_finite():
    words = (dataclasses.replace(SIDED.words[0], first=math.nan), *SIDED.words[1:])
    data = dataclasses.replace(SIDED, words=words).to_dict()
    assert "first" not in data["words"][0]
    assert data["words"][0]["last"] == 7.0
    assert WordAttribution.from_dict(json.loads(json.dumps(data, allow_nan=False)))


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


def test_plain_lines_begin_with_word_and_score():
    lines = viz.to_plain(SIDED).splitlines()
    assert lines[0].endswith(
        "baseline mask)  residual -0.4000: the scores sum to +5.6000, F(x) − F(x̄) is +6.0000"
    )
    assert lines[1:] == [
        "not +3.0000   alone -1.0000  in the text +7.0000  synergistic",
        "<b> +0.5000   alone +0.5000  in the text +0.5000  additive",
        "good +2.0000  alone +4.0000  in the text +0.0000  redundant",
        "film +0.1000",
    ]


def test_a_word_of_any_length_leaves_the_columns_near():
    long = dataclasses.replace(SIDED.words[0], word="x" * 200)
    lines = viz.to_plain(dataclasses.replace(SIDED, words=(long, *SIDED.words))).splitlines()
    assert lines[1].startswith(f"{'x' * 200} +3.0000  alone")
    assert lines[2].startswith("not +3.0000   alone")


def test_lines_mark_words_whose_sides_disagree():
    html = viz.to_html(SIDED)
    marked = re.findall(r'<span aria-description="(\w+)" title="([^"]*)" style="([^"]*)">', html)
    assert [kind for kind, *_ in marked] == ["synergistic", "redundant"]
    assert [style.rpartition("border-bottom:")[2][:10] for *_, style in marked] == [
        "3px double", "2px dotted",
    ]  # fmt: skip
    assert "alone -1.0000, in the text +7.0000: synergistic (stronger in the text" in marked[0][1]
    assert "alone +0.5000, in the text +0.5000: additive" in html
    assert "residual -0.4000" in html
    assert "<b>" not in html
    for name in ("double line</span>: synergistic", "dotted line</span>: redundant"):
        assert html.count(name) == viz.to_page([SIDED, SIDED]).count(name) == 1
    assert "line</span>" not in viz.to_page([RESULT]) + viz.to_html(RESULT)


def test_a_terminal_underlines_them_and_says_why():
    shown = viz.to_terminal(SIDED)
    styles = [str(span.style) for span in shown.spans if " on rgb" in str(span.style)]
    assert [style.partition(") ")[2] for style in styles[:4]] == ["underline2", "", "underline", ""]
    lines = shown.plain.splitlines()
    assert lines[2] == "not +3.0000   good +2.0000   <b> +0.5000   film +0.1000"
    assert lines[3].startswith("residual -0.4000")
    assert lines[4] == "for and against the explained label; the strongest has the full colour"
    assert [line.split(",")[0] for line in lines[5:]] == [
        "underlined: redundant", "doubly underlined: synergistic",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert viz.to_terminal(SIDED, legend=False).plain.splitlines() == lines[:4]


def test_objects_without_sides_are_shown_as_they_are():
    words = [
        SimpleNamespace(word=word.word, start=word.start, end=word.end, score=word.score,
                        normalized=word.normalized)
        for word in RESULT.words
    ]  # fmt: skip
    bare = SimpleNamespace(text=RESULT.text, words=words, summary=RESULT.summary)
    assert viz.to_plain(bare) == viz.to_plain(RESULT)
    assert viz.to_html(bare) == viz.to_html(RESULT)
    assert viz.to_terminal(bare) == viz.to_terminal(RESULT)


@pytest.mark.parametrize("html", [RESULT._repr_html_(), viz.to_page([RESULT, RESULT])])
def test_html_holds_the_whole_text_and_only_our_tags(html):
    assert set(re.findall(r"</?(\w+)", html)) <= {
        "div", "span", "html", "head", "meta", "title", "style", "body", "p", "DOCTYPE",
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
        assert output.count(shown) == output.count(f"{shown}bad") + 1
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
    styles = [str(span.style) for span in shown.spans if str(span.style)]
    assert styles[:2] == [style(c) for c in shades([-3.0, 4.0])]
    assert shown.plain.splitlines()[2] == "good +4.0000   <script>alert -3.0000"
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
    assert (
        "".join(piece.text for part in passages(result) for piece in pieces(part)) == "good movi "
    )


@pytest.mark.parametrize(
    ("result", "explained"),
    [
        (made.LABEL, "joy 75.0%, logit +4.31"),
        (made.REWARD, "score 4.31"),
        (made.RERANKER, "score -7.90"),
        (
            dataclasses.replace(made.REWARD, target="quality", label="quality"),
            "quality: score 4.31",
        ),
        (made.SIMILARITY, "cosine 0.831"),
        (dataclasses.replace(made.SIMILARITY, value=83.1, unit="dot product"), "dot product 83.10"),
        (made.SEARCH[0], "cosine 0.500"),
        (made.QUESTION["end"], "end of the answer “Warsaw” 90.0%, logit +8.00"),
        (made.ENTITIES[0], "X: Angela Merkel 99.0%, logit +9.00"),
        (made.GENERATION[0], "of, -1.50 nats"),
        (made.one_target("", label=None), "no prediction"),
        (made.one_target("", unit="value"), "no value"),
    ],
)
def test_one_line_says_what_is_explained_and_its_value(result, explained):
    how = f"{result.method}, baseline {result.baseline}"
    assert result.summary == f"{explained}  ({how})"


def test_the_predicted_label_is_named_if_it_is_another():
    other = dataclasses.replace(made.LABEL, target="fear", value=-1.0)
    assert other.summary == ("fear 25.0%, logit -1.00  (predicted joy 75.0%; sig, baseline mask)")


def test_lines_say_which_text_of_a_pair_a_word_stands_in():
    lines = [line.split() for line in viz.to_plain(made.RERANKER).splitlines()[1:]]
    assert [line[-1] for line in lines] == ["first"] * 4 + ["second"] * 5
    assert viz.to_terminal(made.RERANKER).plain.startswith(
        "first: how tall is it\nsecond: It is 330 metres tall\nscore -7.90"
    )


def test_a_terminal_names_the_strongest_words_and_how_many_others_there_are():
    many = made.one_target(" ".join(f"w{n}" for n in range(12)))
    numbers = viz.to_terminal(many, legend=False).plain.splitlines()[2]
    assert len(re.findall(r"w\d+ [+-]", numbers)) == 10
    assert numbers.endswith("   and 2 weaker words")


def test_a_terminal_has_the_targets_characters_in_bold():
    shown = viz.to_terminal(made.ENTITIES[1])
    bold = [shown.plain[s.start : s.end] for s in shown.spans if str(s.style).startswith("bold bl")]
    assert bold == ["New", "York"]
    assert "bold: the target itself" in shown.plain

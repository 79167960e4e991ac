"""Pages of long texts: sections, targets above the text, lists, signs, no sideways scroll."""

import dataclasses
import html.parser
import json
import re

import pytest

from captum_sig import viz
from captum_sig.viz import heatmap
from captum_sig.viz.ranking import scale_of_text
from captum_sig.viz.sections import sections
from tests.long_results import generation, labels, long_text, one_label, passages_as_units
from tests.made_results import LABEL, NASTY, RESULTS, one_target

GENERATION = generation(200, 3)
LONG = {
    "generation": GENERATION, "labels": labels(200, 28), "label": one_label(200),
    "units": passages_as_units(), "sentences": one_target("It was a good film. " * 60),
}  # fmt: skip


class Elements(html.parser.HTMLParser):
    """The elements of a page: names, attributes, and the text within; all are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        texts: list[str] = []
        self.found.append((tag, dict(attrs), texts))
        if tag not in ("meta", "input"):
            self.open.append((tag, texts))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, texts in self.open:
            texts.append(data)

    def having(self, attribute: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, "".join(t)) for _, attrs, t in self.found if attribute in attrs]


@pytest.mark.parametrize("name", list(LONG))
def test_sections_have_their_sums_beside_them(name):
    result = LONG[name]
    (passage,) = viz.passages(result)
    row = getattr(result, "main_row", None)
    scores = result.scores if hasattr(result, "scores") else result.matrix.sum(0).tolist()
    scores = scores if row is None else result.matrix[row].tolist()
    told = Elements(viz.to_html(result)).having("data-sum")
    wanted = sections(passage)
    assert len(told) == len(wanted) > 1
    for (attrs, text), part in zip(told, wanted, strict=True):
        assert attrs["data-sum"] == f"{part.words.start} {part.words.stop}"
        assert float(text) == pytest.approx(part.total(scores), abs=0.006)


def test_the_words_are_those_of_the_text():
    told = Elements(viz.to_html(GENERATION)).having("data-word")
    assert [text for _, text in told] == [word.word for word in GENERATION.words]
    signs = {int(attrs["data-word"]): attrs.get("data-over") for attrs, _ in told}
    scale = scale_of_text(GENERATION, "all")
    assert {n for n, sign in signs.items() if sign} == {
        n for n, word in enumerate(GENERATION.words) if abs(word.score) > scale.limit
    }
    assert signs[len(signs) - 1] == "▲"


def test_targets_stand_above_the_text():
    for result in (GENERATION, LONG["labels"]):
        page = viz.to_html(result)
        told = Elements(page).having("data-row")
        assert [text for _, text in told] == result.rows
        assert page.rindex("data-row=") < page.index("data-word=")
        for n, (attrs, _) in enumerate(told):
            assert (attrs["role"], attrs["tabindex"]) == ("button", "0")
            row = result.matrix[n].tolist()
            assert json.loads(attrs["data-row"]) == pytest.approx(row, rel=1e-3)
            limits = [scale_of_text(result, rank, n).limit for rank in ("all", "words")]
            assert json.loads(attrs["data-limit"]) == pytest.approx(limits, rel=1e-3)


def test_one_list_is_seen_without_a_script():
    for result, n in ((GENERATION, 4), (LONG["labels"], 28), (LONG["label"], 1)):
        lists = Elements(viz.to_html(result)).having("data-list")
        assert len(lists) == n
        seen = [text for attrs, text in lists if "hidden" not in attrs]
        assert len(seen) == 1
        assert all(each.word in seen[0] for each in result.strongest(3))


def test_the_switch_is_on_at_first_if_wanted():
    def is_on(page):
        (box,) = Elements(page).having("data-rank")
        return "checked" in box[0]

    assert not is_on(GENERATION.to_html())
    assert is_on(GENERATION.to_html(rank="words"))
    no_punctuation = one_target("word " * 100)
    assert Elements(no_punctuation.to_html()).having("data-rank") == []


def test_short_texts_look_as_before():
    for result in RESULTS.values():
        page = Elements(viz.to_html(result))
        for attribute in ("data-box", "data-sum", "data-list", "data-rank", "data-over"):
            assert page.having(attribute) == []
        assert "style" not in {name for name, *_ in page.found}


def test_hostile_words_stay_text():
    for result in LONG.values():
        page = result.to_html()
        assert "<script" not in page
        assert "</script" not in page
    assert NASTY in "".join(text for _, text in Elements(GENERATION.to_html()).having("data-word"))
    names = [f"</span>{NASTY}\"' onclick=1"] * 2
    hostile = generation(100, 2)
    tokens = [
        {**vars(t), "token": name} for t, name in zip(hostile.target_tokens, names, strict=True)
    ]
    page = type(hostile).from_dict(hostile.to_dict() | {"target_tokens": tokens}).to_html()
    assert "<script" not in page
    assert [text for _, text in Elements(page).having("data-row")] == names


def test_a_map_has_the_words_with_the_strongest_cells_in_bands():
    page = viz.to_html(LONG["labels"])
    assert "The 60 words with the strongest cells of 200, in the order of the text." in page
    bands = heatmap.bands(LONG["labels"], "all")
    assert page.count("<table") == len(bands) == 5
    columns = sum(bands, [])
    assert columns == sorted(columns)
    strengths = LONG["labels"].matrix.abs().amax(0)
    others = [n for n in range(200) if n not in columns]
    assert strengths[columns].min() >= strengths[others].max()
    assert len(heatmap.bands(labels(40, 3), "all")) == 1
    assert sum(heatmap.bands(labels(50, 3), "all"), []) == list(range(50))
    assert len(heatmap.bands(labels(50, 3), "all")) == 4
    left = heatmap.columns_shown(LONG["labels"], 60, "words")
    assert not {",", "."} & {LONG["labels"].columns[n] for n in left}


def test_units_have_their_names_beside_them():
    page = viz.to_html(LONG["units"])
    assert page.count("source 1</div>") == 1
    assert 'title="source 1: ' in page


def test_a_target_of_units_has_units():
    units = passages_as_units()
    tokens = generation(10, 2)
    fields = {"words": tuple(units.words), "prompt": units.text, "level": "unit"}
    one = dataclasses.replace(tokens, **fields)[1]
    assert one.level == "unit"
    assert len(Elements(viz.to_html(one)).having("data-sum")) == 10


def test_line_breaks_of_words_are_seen():
    words = "one two\nthree"
    result = one_target(words)
    broken = type(result).from_dict(
        result.to_dict()
        | {"words": [vars(result.words[0]) | {"word": "two\n", "start": 4, "end": 8}]}
    )
    assert ">two↵\n</span>" in viz.to_html(broken)
    assert "two↵\nthree" in viz.to_terminal(broken).plain
    assert "two↵" in [t.get_text() for t in broken.plot().axes[0].get_yticklabels()]


def test_the_legend_says_what_is_beside_and_above():
    page = re.sub(r"\s+", " ", viz.to_page([GENERATION, LABEL]))
    assert "the sums of its paragraphs' or sentences' words" in html.unescape(page)
    assert "a target above the text, tap it" in viz.to_page([LONG["labels"]])
    assert "Full colour from ±" in page
    assert "strongest words have the full colour" in viz.to_page([LONG["label"]])
    assert "strongest word has the full colour" in viz.to_page([LABEL])


WIDTH = """
const wide = [...document.querySelectorAll('div')].filter(e => e.scrollWidth > e.clientWidth + 1
  && getComputedStyle(e).overflowX === 'auto');
const told = [document.documentElement.scrollWidth, innerWidth, wide.length];
parent.postMessage(told.join('/'), '*');
"""


def test_long_pages_do_not_scroll_sideways(browser):
    long_word = generation(100, 3, "x" * 300 + " " + long_text(99))
    found, inner, n_wide = browser(viz.to_page([*LONG.values(), long_word]), WIDTH).split("/")
    assert int(found) <= int(inner) == 420
    assert n_wide == "0"  # nor does a map in its box


PICK = """
const told = [], tokens = document.querySelectorAll('[data-row]');
const box = document.querySelector('[data-box]');
const last = [...document.querySelectorAll('[data-word]')].at(-1);
const tell = () => told.push([
  last.style.background, last.dataset.over || '', document.querySelector('[data-sum]').textContent,
  document.querySelector('[data-note]').textContent,
  [...document.querySelectorAll('[data-list]')].findIndex(e => !e.hidden),
]);
const send = (element, kind) => element.dispatchEvent(new MouseEvent(kind, {bubbles: true}));
send(box, 'mouseover'); tell();
send(tokens[1], 'mouseover'); tell();
send(tokens[0], 'click'); send(box, 'mouseleave'); tell();
box.dispatchEvent(new KeyboardEvent('keyup', {key: 'Escape', bubbles: true})); tell();
document.querySelector('[data-rank]').click(); tell();
parent.postMessage(JSON.stringify(told), '*');
"""


def test_a_token_colours_text_sums_and_list(browser):
    told = json.loads(browser(viz.to_page([GENERATION]), PICK))
    last, n = len(GENERATION.words) - 1, 50

    def wanted(rank, row=None):
        scores = GENERATION.totals if row is None else GENERATION.matrix[row]
        scale = scale_of_text(GENERATION, rank, row)
        (colour,) = scale.colours([float(scores[last])])
        total = f"{float(scores[:n].sum()):+.2f}"
        return [f"rgb{colour}", scale.mark(float(scores[last])), total, scale.note]

    shown = [[*each[:2], each[2], each[3]] for each in told]
    assert shown == [
        wanted("all"),
        wanted("all", 1),
        wanted("all", 0),
        wanted("all"),
        wanted("words"),
    ]
    assert [each[4] for each in told] == [0, 2, 1, 0, 0]

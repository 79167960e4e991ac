"""Pages: pairs, quantities, targets that can be picked, narrow screens."""

import html
import json
import re

from captum_sig import viz
from tests.made_results import (
    ENTITIES,
    LABEL,
    LABELS,
    NASTY,
    QUESTION,
    RERANKER,
    RESULTS,
    REWARD,
    SEARCH,
    SIMILARITY,
    numbers,
    one_target,
    several_targets,
)


def shown(page):
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def test_quantities_are_raised_and_lowered():
    page = viz.to_page([REWARD])
    assert "score 4.31  (sig, baseline mask)" in page
    assert "raises and\nlowers\nthe score; each" in shown(page)
    assert "logit" not in page
    assert "the similarity" in viz.to_page([SIMILARITY])
    assert "raises" not in viz.to_page([LABEL])
    assert "what is explained" in viz.to_page([LABEL, REWARD])


def test_both_texts_are_coloured_and_named():
    page = viz.to_page([RERANKER])
    assert ">first </span>" in page
    assert ">second </span>" in page
    colours = viz.shades(RERANKER.scores)
    for word, colour in zip(RERANKER.words, colours, strict=True):
        assert re.search(rf"rgb{re.escape(str(colour))}[^>]*>{word.word}<", page)


def test_the_characters_of_a_target_have_a_line():
    def underlined(page):
        found = re.findall(r"<span[^>]*text-decoration:underline[^>]*>([^<]*)<", page)
        return "".join(map(html.unescape, found))

    assert underlined(ENTITIES[1]._repr_html_()) == "New York"
    assert underlined(QUESTION._repr_html_()) == "Warsaw"
    assert underlined(ENTITIES._repr_html_()) == "Angela Merkel"  # until another is picked
    assert "A blue line marks" in viz.to_page([ENTITIES])
    assert "A blue line" not in viz.to_page([LABELS])


def test_a_row_holds_what_colours_the_text():
    page = viz.to_page([SEARCH])
    rows = [json.loads(html.unescape(row)) for row in re.findall('data-row="(.*?)"', page)]
    for row, wanted in zip(rows, SEARCH.matrix.tolist(), strict=True):
        assert [value is None for value in row] == [value != value for value in wanted]
    assert page.count("data-first") == 2  # in the script, and of one row
    assert page.count('role="button" tabindex="0"') == 2


def test_a_targets_own_text_keeps_its_colours():
    page = viz.to_html(SEARCH)
    for number, row in ((0, 0), (1, 1)):
        assert f">second {number + 1} </span>" in page
        own = SEARCH[row].words[-1]
        colour = viz.shades(SEARCH[row].scores)[-1]
        assert re.search(rf"rgb{re.escape(str(colour))}[^>]*>{own.word}<", page)


def test_a_page_holds_results_of_any_kind():
    page = viz.to_page(RESULTS.values())
    assert page.count("<table") == sum(bool(getattr(r, "rows", ())) for r in RESULTS.values())
    assert NASTY not in page


LONG = "x" * 400


PICK = """
const told = [], rows = document.querySelectorAll('[data-row]');
const box = rows[0].closest('[onclick]');
const send = (element, kind, more = {}) => element.dispatchEvent(
  new (kind === 'keyup' ? KeyboardEvent : MouseEvent)(kind, {bubbles: true, ...more}));
const tell = () => {
  const underlined = [...document.querySelectorAll('[data-targets]')]
    .filter(e => e.style.textDecoration.includes('underline')).map(e => e.textContent).join('');
  const pressed = [...document.querySelectorAll('[role]')]
    .findIndex(e => e.getAttribute('aria-pressed') === 'true');
  told.push([underlined, pressed, document.querySelector('[data-word]').style.background]);
};
send(rows[1], 'mouseover'); tell();
send(box, 'mouseleave'); tell();
send(rows[1].querySelector('[role]'), 'keyup', {key: 'Tab'}); send(box, 'mouseleave'); tell();
send(box, 'keyup', {key: 'Escape'}); tell();
send(rows[1], 'click'); send(box, 'mouseleave'); tell();
parent.postMessage(JSON.stringify(told), '*');
"""


def test_a_target_is_picked_by_pointer_key_and_tap(browser):
    told = json.loads(browser(viz.to_page([ENTITIES]), PICK))
    colours = [f"rgb({', '.join(map(str, viz.shades(ENTITIES[row].scores)[0]))})" for row in (0, 1)]
    first, second = ["Angela Merkel", 0, colours[0]], ["New York", 1, colours[1]]
    assert told == [second, first, second, first, second]


def test_a_narrow_page_does_not_scroll_sideways(browser):
    many = several_targets(
        " ".join(f"word{n}" for n in range(40)), LABELS.targets, matrix=numbers(7, 40), label=LONG
    )
    long = one_target(f"{LONG} good", LONG, label=LONG, target=LONG, value=1.0)
    page = viz.to_page([*RESULTS.values(), many, long])
    width = "parent.postMessage(document.documentElement.scrollWidth + '/' + innerWidth, '*')"
    found, inner = browser(page, width).split("/")
    assert int(found) <= int(inner) == 420


def test_a_page_is_light_or_dark_as_the_reader_wants():
    page = viz.to_page([LABEL])
    assert "prefers-color-scheme:dark" in page
    assert "color-scheme:light dark" in page

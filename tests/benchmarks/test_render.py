"""Pages are what their templates and the files of figures say, and no template types a figure."""

import jinja2
import pytest

from tests.benchmarks import render
from tests.benchmarks.record import read, record

TEMPLATES = sorted(render.TEMPLATES.rglob("*.jinja"))
FIGURES = [{"model": "a", "metric": "x", "mean": -0.5, "low": -1.0, "high": 0.25},
           {"model": "a", "metric": "y", "mean": 2.0, "low": 1.0, "high": 3.0}]  # fmt: skip


@pytest.mark.parametrize("template", render.pages())
def test_pages_are_rendered(template):
    on_disk = render.page_path(template).read_text(encoding="utf-8")
    assert on_disk == render.render(template), (
        f"{render.page_path(template).name} is not what its template and the figures say: run "
        "`python -m tests.benchmarks.render`, and edit the template rather than the page"
    )


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_types_a_figure(path):
    typed = render.typed_numbers(path.read_text(encoding="utf-8"))
    assert not typed, (
        f"{path.name}: " + ", ".join(f"line {line}: {text!r}" for line, text in typed) + ": "
        'take it from a record, {{ result("name")… }}, or write {{ setting("…") }} if it defines '
        "something"
    )


@pytest.mark.parametrize(
    "text",
    ["is 3.5 wide", "−.25 more", "takes 30 s", "128 MiB", "89 %", "is 12 times as fast", "1/4.1",
     "in 21 of 22", "a fifth of it", "two thirds", "110 nats", "1,000 texts/s"],
)  # fmt: skip
def test_a_typed_figure_is_found(text):
    assert render.typed_numbers(f"One line.\nThis {text}\n") != []
    line, _ = render.typed_numbers(f"One line.\nThis {text}\n")[0]
    assert line == 2
    assert render.typed_numbers(f"One line.\nThis {{{{ setting({text!r}) }}}}\n") == []


@pytest.mark.parametrize(
    "text",
    ["a GPT-2 of 4 layers", "64 sentences (seed 0)", "`budget=0.5` of", "`a\n b=0.5`", "10⁸ texts",
     "[RESULTS](a/3.5.md)", "```sh\nsleep 3 s\n```", "the top 5", "{# 3.5 #}", "one of 20 passages",
     "(arXiv 2305.15853)",
     "{% set x = 0.5 %}"],
)  # fmt: skip
def test_code_links_and_counts_are_no_figures(text):
    assert render.typed_numbers(text) == []


def test_tables_have_real_minus_signs_and_intervals():
    columns = [
        "model",
        render.Column("m", interval="mean", format=".2f"),
        render.Column("l", "low", ".0%"),
    ]
    assert render.table(FIGURES, columns).splitlines() == [
        "| model | m | l |",
        "| --- | --- | ---: |",
        "| a | −0.50 [−1.00, 0.25] | −100 % |",
        "| a | 2.00 [1.00, 3.00] | 100 % |",
    ]


def test_integers_stay_integers():
    columns = [render.Column("n", format=","), "m"]
    assert render.table([{"n": 1_000_000, "m": 1_000}], columns).endswith("| 1,000,000 | 1000 |")


def test_long_tables_become_wide_with_their_intervals():
    (wide,) = render.pivot(FIGURES, ["model"], "metric")
    assert wide == {"model": "a", "x": -0.5, "x_low": -1.0, "x_high": 0.25,
                    "y": 2.0, "y_low": 1.0, "y_high": 3.0}  # fmt: skip
    assert render.interval(wide, ".1f", "x") == "−0.5 [−1.0, 0.2]"


def test_an_unknown_figure_is_an_error(tmp_path):
    record("some", {"t": FIGURES}, command="python -m x", figures={"a": 1}, folder=tmp_path)
    made = render.environment(tmp_path, tmp_path)
    assert made.from_string("{{ result('some').figures.a }}").render() == "1"
    with pytest.raises(jinja2.UndefinedError, match="'dict object' has no attribute 'b'"):
        made.from_string("{{ result('some').figures.b }}").render()
    with pytest.raises(ValueError, match="0 rows of table 't' in 'some' have {'model': 'b'}"):
        made.from_string("{{ result('some').row('t', model='b') }}").render()
    with pytest.raises(ValueError, match="2 rows of table"):
        read("some", tmp_path).row("t", model="a")
    with pytest.raises(ValueError, match="a table has no rows"):
        render.table([], ["a"])


def test_words_for_a_figure_need_the_figure():
    assert render.says("about a fifth", 0.19, 0.17, 0.23) == "about a fifth"
    with pytest.raises(ValueError, match="'about a fifth' stands for 0.17 to 0.23, not for 0.3"):
        render.says("about a fifth", 0.3, 0.17, 0.23)


def test_a_page_says_where_its_figures_are_from(tmp_path):
    record("some", {}, command="python -m x", folder=tmp_path)
    found = read("some", tmp_path)
    assert render.provenance(found).startswith("`python -m x`\n*")
    assert "recorded before" not in render.provenance(found)

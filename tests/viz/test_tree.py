"""Trees of units: levels, targets, what is exact and what is not."""

import io

from rich.console import Console

from captum_sig import viz
from captum_sig.explainers.results import Word, WordAttribution
from captum_sig.explainers.zoom_result import ZoomAttribution, ZoomNode
from captum_sig.viz import tree


def leaf(text, effect, state="scored", level="word"):
    return ZoomNode(level, text, 1, state, (effect, -effect), start=0, end=1)


def made(names=("bad", "good"), level="sentence", name=None):
    words = (
        leaf("not", 1.0), leaf("a", 0.1, "estimated"), leaf("<b>", -0.3, "estimated"),
        leaf("film", 0.5, "audited"),
    )  # fmt: skip
    sentence = ZoomNode(level, "not a <b> film", 4, "opened", (2.0, -2.0), name=name, nodes=words)
    other = ZoomNode(level, "And more.", 2, "unopened", (0.2, -0.2), alone=(0.9, -0.9))
    root = ZoomNode("text", "not a <b> film And more.", 6, "opened", (2.5, -2.5),
                    nodes=(sentence, other))  # fmt: skip
    flat = WordAttribution(
        text="not a <b> film And more.", label="bad", probability=0.9, target="bad", method="sig",
        baseline="mask", max_abs_word_delta=0.0,
        words=(Word("not", 0, 3, 1.0, 0.7), Word("a", 4, 5, 0.1, 0.1)), level="auto",
    )  # fmt: skip
    return ZoomAttribution(root, flat, names, n_rows=9, budget=10, n_rows_of_all_words=40)


def test_lines_say_level_and_evidence():
    first, targets, *lines = tree.to_plain(made()).splitlines()
    assert first.endswith("; 9 rows, where all words take 40")
    assert targets == "effects on bad, of 2 targets"
    assert lines == [
        "the whole text +2.5000",
        "  sentence: not a <b> film +2.0000",
        "    not +1.0000",
        "    film +0.5000 (audited)",
        "    2 words (estimated, within ±0.3)",
        "  sentence: And more. +0.2000, alone +0.9000 (unopened)",
    ]


def test_one_target_and_units_with_names():
    _, root, unit, *_ = tree.to_plain(made(("bad",), "unit", "passage 1")).splitlines()
    assert (root, unit) == ("all units +2.5000", "  passage 1 +2.0000")


def test_a_terminal_and_a_page_say_the_same():
    stream = io.StringIO()
    Console(file=stream, width=100).print(tree.to_terminal(made()))
    page = viz.to_page([made()])
    for shown in ("effects on bad, of 2 targets", "2 words (estimated, within ±0.3)", "(unopened)"):
        assert shown in stream.getvalue()
        assert shown in page
    assert "<b>" not in page.split("<body")[1]
    assert page.count("9 rows, where all words take 40") == 1

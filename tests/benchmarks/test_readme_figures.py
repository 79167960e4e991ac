"""Every figure of README.md stands in a file that a command wrote, or defines something.

The quotes are in `templates/quotes`, each file's under its own path.
"""

import re
from pathlib import Path

import pytest

from tests.benchmarks import render
from tests.benchmarks.record import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = sorted(
    path.relative_to(render.QUOTES).with_suffix("") for path in render.QUOTES.rglob("*.jinja")
)


def quotes(file: Path) -> list[str]:
    template = (render.QUOTES / file).relative_to(render.TEMPLATES)
    text = render.environment().get_template(f"{template}.jinja").render()
    return [line.strip() for line in text.splitlines() if line.strip()]


def in_one_line(text: str) -> tuple[str, list[int]]:
    """The text with each white space as one blank, and the line of each character."""
    pieces, lines = [], []
    for found in re.finditer(r"\s+|\S", text):
        pieces.append(found.group() if found.group().strip() else " ")
        lines.append(text.count("\n", 0, found.start()) + 1)
    return "".join(pieces), lines


def without_blocks(text: str) -> str:
    blank = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    return blank.sub(lambda found: "\n" * found.group().count("\n"), text)


def uncovered(text: str, fragments: list[str]) -> list[str]:
    """Line and text of each number that looks measured and is in none of the fragments."""
    text = without_blocks(text)
    flat, lines = in_one_line(text)
    covered = [False] * len(flat)
    for fragment in fragments:
        for found in re.finditer(re.escape(fragment), flat):
            covered[found.start() : found.end()] = [True] * len(fragment)
    prose, _ = in_one_line(text)
    prose = render.without_code(prose)
    return [
        f"line {lines[found.start()]}: {found.group()!r}"
        for found in render.MEASURED.finditer(prose)
        if not all(covered[found.start() : found.end()])
    ]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_says_what_was_measured(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.suffix == ".py":
        text = re.sub(r"^# ", "", text, flags=re.MULTILINE)
    flat, _ = in_one_line(without_blocks(text))
    missing = [quote for quote in quotes(file) if quote not in flat]
    assert not missing, (
        f"{file} does not say: " + "; ".join(map(repr, missing)) + ": if its text was changed, "
        f"change the line in templates/quotes/{file}.jinja; if the figure was, change {file}"
    )


def test_every_figure_of_the_readme_is_quoted():
    found = uncovered(README, quotes(Path("README.md")))
    assert not found, (
        f"README.md has numbers that nothing covers: {', '.join(found)}; add a line to "
        "templates/quotes/README.md.jinja with the words around the number and its record, or with "
        "setting(…) if the number defines something"
    )


def test_a_figure_without_a_quote_is_found():
    text = "Fast.\n\nIt takes 0.31 s,\nor 12 MiB.\n```sh\nsleep 3 s\n```\n| a | 50 % |\n"
    assert uncovered(text, []) == ["line 3: '0.31'", "line 4: '12 MiB'", "line 8: '50 %'"]
    assert uncovered(text, ["takes 0.31 s, or 12 MiB", "| 50 % |"]) == []

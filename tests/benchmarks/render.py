"""Write RESULTS.md and its neighbours from templates and the files of figures.

    python -m tests.benchmarks.render

Templates are Jinja2's; what they can use is in `environment`. No template holds a measured number
of its own: `typed_numbers` finds those that look like one.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from captum_sig._files import replace_text
from captum_sig.data.tables import to_markdown
from tests.benchmarks.record import RESULTS, Figures, read

FOLDER = Path(__file__).parent
TEMPLATES = FOLDER / "templates"
QUOTES = TEMPLATES / "quotes"  # what other files say of figures, by their paths

FRACTION = r"(?:half|(?:third|quarter|fifth|sixth|seventh|eighth|ninth|tenth)s?)"
NUMBER = r"\d+(?:,\d{3})*"
TIME = r"[nµm]?s|seconds?|minutes?|hours?"
UNIT = rf"times|%|{TIME}|[kMG]i?B|nats?|logits?|(?:texts|rows|[GT]FLOP)/s"
MEASURED = re.compile(
    rf"(?<![\w.-])(?:[−+-]?\d*\.\d+|{NUMBER} ?(?:{UNIT})(?!\w)|{NUMBER} of {NUMBER}|1/\d"
    rf"|(?:a|an|one|two|three|four) {FRACTION}\b)"
)
# What holds numbers but measures nothing: code, what Jinja2 fills in, comments, links, and the
# numbers of papers.
NO_PROSE = re.compile(
    r"^[ \t]*```.*?^[ \t]*```|`[^`\n]+(?:\n[^`\n]+)?`|\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|<!--.*?-->"
    r"|\]\([^)]*\)|https?://\S+|arXiv[: ]\d{4}\.\d{4,5}",
    re.DOTALL | re.MULTILINE,
)


class Shown(float):
    """A number that is printed with a real minus sign, and a space before its percent sign."""

    def __format__(self, spec: str) -> str:
        """Format as a float does, but for the signs."""
        return number(int(self) if spec == "," else float(self), spec)


def number(value: float, spec: str = "") -> str:
    """Format a number: minus signs are real ones, and `%` follows a space.

    >>> number(-0.12345, ".3f"), number(0.893, ".0%"), number(60614, ",")
    ('−0.123', '89 %', '60,614')
    """
    shown = format(value, spec) if spec else str(value)
    return re.sub(r"^-", "−", shown).replace("%", " %")


def percent(value: float, digits: int = 0) -> str:
    """Format a fraction as a percentage."""
    return number(value, f".{digits}%")


def interval(row: Mapping[str, Any], spec: str = ".3f", key: str = "mean") -> str:
    """Format a mean with its interval.

    >>> interval({"mean": -1.2345, "low": -2, "high": 0.5}, ".2f")
    '−1.23 [−2.00, 0.50]'
    """
    low, high = ("low", "high") if key == "mean" else (f"{key}_low", f"{key}_high")
    mean, *ends = (number(row[name], spec) for name in (key, low, high))
    return f"{mean} [{', '.join(ends)}]"


def says(words: str, value: float, low: float, high: float) -> str:
    """Return words that say how large a figure is, if it is between these two.

    Raises:
        ValueError: if it is not.

    >>> says("about a fifth", 0.19, 0.17, 0.23)
    'about a fifth'
    """
    if not low <= value <= high:
        raise ValueError(f"{words!r} stands for {low} to {high}, not for {value}: change the words")
    return words


def setting(text: str) -> str:
    """Return a text with numbers that define something, so that none of them was measured."""
    return text


def where(rows: Sequence[Mapping[str, Any]], **values: Any) -> list[Mapping[str, Any]]:
    """Return the rows with these values in these columns."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def pivot(
    rows: Sequence[Mapping[str, Any]], index: Sequence[str], columns: str, value: str = "mean"
) -> list[dict[str, Any]]:
    """Return one row for each value of `index`, with a column for each value of `columns`.

    If `value` is "mean", its interval becomes `<column>_low` and `<column>_high`.
    """
    wide: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in index)
        cells = wide.setdefault(key, dict(zip(index, key, strict=True)))
        cells[row[columns]] = row[value]
        if value == "mean" and "low" in row:
            cells |= {f"{row[columns]}_{end}": row[end] for end in ("low", "high")}
    names = dict.fromkeys(name for cells in wide.values() for name in cells)
    return [{name: cells.get(name) for name in names} for cells in wide.values()]


class Column:
    """A column of a table: its heading, the figures in it, and how they are printed."""

    def __init__(
        self, heading: str, key: str = "", format: str = "", *, interval: str = ""
    ) -> None:
        self.heading, self.key, self.format = heading, key or interval or heading, format
        self.is_interval = bool(interval)

    def cell(self, row: Mapping[str, Any]) -> Any:
        """Return what `to_markdown` prints."""
        value = row[self.key]
        if value is None:
            return None
        if self.is_interval:
            return interval(row, self.format or ".3f", self.key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return Shown(value) if self.format and is_number else value


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str | Column]) -> str:
    """Return a table in Markdown; a column's name stands for a column as it is.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("a table has no rows: is a value given to `where` that no row has?")
    chosen = [Column(column) if isinstance(column, str) else column for column in columns]
    cells = [{column.heading: column.cell(row) for column in chosen} for row in rows]
    formats = {column.heading: column.format for column in chosen if column.format}
    return to_markdown(cells, [column.heading for column in chosen], formats).rstrip("\n")


def provenance(figures: Figures) -> str:
    """Return the command that wrote a file of figures, the machine, the day and the version."""
    facts = dict(figures.machine)
    names = {"python": "Python"}
    shown = [str(facts.pop("processor"))] if "processor" in facts else []
    for unit in ("core", "thread"):
        if count := facts.pop(f"{unit}s", None):
            shown.append(f"{count} {unit}{'s' if count > 1 else ''}")
    if "gpu" in facts:
        shown.append(str(facts.pop("gpu")))
    shown += [f"{names.get(key, key)} {value}" for key, value in facts.items() if value is not None]
    if figures.date:
        shown.append(figures.date)
    if figures.transcribed:
        shown.append(f"recorded before results were kept in files ({figures.transcribed})")
    elif figures.commit:
        shown.append(f"commit {figures.commit[:7]}{'+' * figures.commit.endswith('+')}")
    command = f"`{figures.command}`"
    if "\n" in figures.command:
        command = f"```sh\n{figures.command}\n```\n"
    return f"{command}\n*{', '.join(shown)}.*"


def environment(results: Path = RESULTS, templates: Path = TEMPLATES) -> jinja2.Environment:
    """Return what renders a template; a figure that is not there is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    made.filters |= {"n": number, "percent": percent, "interval": interval}
    made.globals |= {
        "result": lambda name: read(name, results),
        "exists": lambda name: (templates / "sections" / f"{name}.md.jinja").exists(),
        "table": table, "column": Column, "pivot": pivot, "where": where,
        "provenance": provenance, "says": says, "setting": setting,
    }  # fmt: skip
    return made


def render(template: str) -> str:
    """Return a page."""
    text = environment().get_template(template).render()
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def pages() -> list[str]:
    """Return the names of the templates that are pages."""
    return sorted(path.name for path in TEMPLATES.glob("*.md.jinja"))


def page_path(template: str) -> Path:
    """Return where the page of a template goes."""
    return FOLDER / template.removesuffix(".jinja")


def without_code(text: str) -> str:
    """Return a text with blanks for code, links and expressions, so that prose is left."""
    return NO_PROSE.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)


def typed_numbers(text: str) -> list[tuple[int, str]]:
    """Return line and text of all that looks like a measured number in prose."""
    prose = without_code(text)
    return [
        (prose.count("\n", 0, found.start()) + 1, found.group())
        for found in MEASURED.finditer(prose)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write all pages."""
    argparse.ArgumentParser(
        prog="python -m tests.benchmarks.render", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)  # fmt: skip
    for template in pages():
        replace_text(page_path(template), render(template))


if __name__ == "__main__":
    main()

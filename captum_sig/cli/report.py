"""`captum-sig report`: what an explained corpus says of its words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_sig.cli import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from captum_sig.corpus.report import Report


CLASSES = 4  # that the terminal shows, those of most texts
WORDS = 8  # of a class, either way
SIGN_CHANGES = 8
HEADS = {"documents": "texts", "share_for": "for"}  # that fit 80 columns


def report(
    folder: Annotated[Path, typer.Argument(help="A folder that corpus has written.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html and the tables; default: report/ in it."),
    ] = None,
    terms: Annotated[
        Path | None,
        typer.Option(help="File of words or phrases to look for, one in a line; # is a remark."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Words of each class on the page.")] = 500,
) -> None:
    """Say which words move a model over a whole corpus, and where their effect changes sign.

    Writes report.html (to search and sort, with example texts), words.csv (all words),
    sign_changes.csv, extremes.csv and, with --terms, terms.csv.
    """
    with terminal.reporting_errors():
        from captum_sig._files import replace_text
        from captum_sig.corpus.report import make_report
        from captum_sig.corpus.report_page import to_page

        target = folder / "report" if output is None else output
        found = make_report(folder, target, terms=_terms(terms) if terms else (), top=top)
        replace_text(target / "report.html", to_page(found))
        _show(found, target)


def _terms(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8") from None
    found = {line.lower(): line for line in lines if line and not line.startswith("#")}
    if not found:
        raise ValueError(f"{path} holds no terms: write one word or phrase in a line")
    return list(found.values())


def _show(found: Report, target: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    overview = found.overview
    if not overview["finished"]:
        console.print(
            f"The run is not finished: {overview['rows']:,} of {overview['rows_in_input']:,} texts."
        )
    if overview["failed"]:
        console.print(f"Left out, as they could not be explained: {overview['failed']:,} texts.")
    if overview["duplicate_ids"]:
        console.print(f"{overview['duplicate_ids']:,} rows have the id of another row.")
    for row in found.classes[:CLASSES]:
        _show_class(console, found, row)
    if len(found.classes) > CLASSES:
        console.print(f"… and {len(found.classes) - CLASSES} classes more, on the page.")
    if found.sign_changes:
        columns = {"sum_for": "+,.2f", "sum_against": "+,.2f", "n_for": ",", "n_against": ","}
        _table(
            console, "Words whose effect changes sign", found.sign_changes[:SIGN_CHANGES], columns
        )
    if found.terms:
        columns = {
            "mean": "+.4f",
            "low": "+.4f",
            "high": "+.4f",
            "documents": ",",
            "share_for": ".0%",
        }
        _table(console, "Terms", found.terms, columns, ("term", "class"))
    tables = "words.csv, sign_changes.csv, extremes.csv" + (", terms.csv" if found.terms else "")
    console.print(f"report.html, {tables} are in {target}.", soft_wrap=True)


def _show_class(console: Console, found: Report, of_class: Any) -> None:
    """The words of the largest sums for the class, and against it."""
    words = [row for row in found.words if row["class"] == of_class["class"]]
    ordered = sorted(words, key=lambda row: -row["sum"])
    strongest = [row for row in ordered[:WORDS] if row["sum"] > 0]
    strongest += [row for row in ordered[-WORDS:] if row["sum"] < 0]
    formats = {"sum": "+,.2f", "mean": "+.3f", "count": ",", "documents": ",", "std": ".3f",
               "share_for": ".0%"}  # fmt: skip
    title = f"{of_class['class']}: {of_class['texts']:,} texts"
    _table(console, title, strongest, formats, ("word",))


def _table(
    console: Console,
    title: str,
    rows: Sequence[Any],
    formats: dict[str, str],
    names: tuple[str, ...] = ("word", "class"),
) -> None:
    from rich.text import Text

    from captum_sig.data.tables import to_terminal
    from captum_sig.viz.text import on_one_line, shortened

    shown = [
        {name: shortened(on_one_line(row[name] or ""), 24) for name in names}
        | {HEADS.get(name, name): row[name] for name in formats}
        for row in rows
    ]
    spec = {HEADS.get(name, name): formats[name] for name in formats}
    console.print(Text(f"\n{on_one_line(title)}", "bold"))
    console.print(to_terminal(shown, [*names, *spec], spec))

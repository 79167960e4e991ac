"""`captum-sig report`: which words move a model over a corpus that was explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_sig._files import check_folder, replace_text
from captum_sig.cli import terminal
from captum_sig.cli.process import quitting_on_interrupt

if TYPE_CHECKING:
    from rich.console import Console

    from captum_sig.corpus.report import Report

# Limits of what a terminal shows.
MAX_CLASSES = 4  # those with most texts
MAX_WORDS = 8  # for a class, and as many against it
MAX_SIGN_CHANGES = 8
HEADS = {"documents": "texts", "share_for": "for"}  # that fit 80 columns


@terminal.reporting_errors
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder that `captum-sig corpus` wrote.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html and the tables; default: FOLDER/report."),
    ] = None,
    terms: Annotated[
        Path | None,
        typer.Option(help="File of words or phrases to look up, one per line; # starts a comment."),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="Number of words of each class on the page.")
    ] = 500,
) -> None:
    """Show which words move a model over a corpus, and where their effect changes sign.

    Writes report.html (to search and sort, with example texts), words.csv (all
    words), sign_changes.csv, extremes.csv and, with --terms, terms.csv.
    """
    target = folder / "report" if output is None else output
    if folder.is_dir():
        check_folder(target)
    with quitting_on_interrupt():
        from captum_sig.corpus.report import make_report
        from captum_sig.corpus.report_page import to_page

    made = make_report(folder, target, terms=_read_terms(terms) if terms else (), top=top)
    replace_text(target / "report.html", to_page(made))
    _print_report(made, target)


def _read_terms(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as UTF-8") from None
    terms = {line.lower(): line for line in lines if line and not line.startswith("#")}
    if not terms:
        raise ValueError(f"{path} contains no terms: write one word or phrase per line")
    return list(terms.values())


def _print_report(made: Report, target: Path) -> None:
    from rich.console import Console

    from captum_sig.corpus.report import with_side

    console = Console(highlight=False)
    overview = made.overview
    if not overview["finished"]:
        console.print(
            f"The run is not finished: {overview['rows']:,} of {overview['rows_in_input']:,} texts."
        )
    if overview["failed"]:
        console.print(f"{overview['failed']:,} texts failed and are omitted.")
    if overview["duplicate_ids"]:
        console.print(f"{overview['duplicate_ids']:,} rows repeat the id of another row.")
    for row in made.classes[:MAX_CLASSES]:
        _print_class(console, made, row)
    if len(made.classes) > MAX_CLASSES:
        console.print(f"… and {len(made.classes) - MAX_CLASSES} more classes, on the page.")
    if made.sign_changes:
        columns = {"sum_for": "+,.2f", "sum_against": "+,.2f", "n_for": ",", "n_against": ","}
        title = f"{made.kinds.capitalize()} whose effect changes sign"
        rows = made.sign_changes[:MAX_SIGN_CHANGES]
        _print_table(console, title, rows, columns, with_side(("word", "class"), made.has_pairs))
    if made.terms:
        columns = {
            "mean": "+.4f", "low": "+.4f", "high": "+.4f", "documents": ",", "share_for": ".0%",
        }  # fmt: skip
        _print_table(console, "Terms", made.terms, columns, ("term", "class"))
    tables = "words.csv, sign_changes.csv, extremes.csv" + (", terms.csv" if made.terms else "")
    console.print(f"report.html, {tables} are in {target}.", soft_wrap=True)


def _print_class(console: Console, made: Report, of_class: Any) -> None:
    """Print the words with the largest sums for and against a class."""
    from captum_sig.corpus.report import with_side

    words = [row for row in made.words if row["class"] == of_class["class"]]
    ordered = sorted(words, key=lambda row: -row["sum"])
    strongest = [row for row in ordered[:MAX_WORDS] if row["sum"] > 0]
    strongest += [row for row in ordered[-MAX_WORDS:] if row["sum"] < 0]
    formats = {"sum": "+,.2f", "mean": "+.3f", "count": ",", "documents": ",", "std": ".3f",
               "share_for": ".0%"}  # fmt: skip
    title = f"{of_class['class']}: {of_class['texts']:,} texts"
    if "mean_value" in of_class:
        title += f", mean {made.unit} {of_class['mean_value']:.4g}"
    raises = {} if made.unit == "logit" else {"share_for": "raises"}
    names = with_side(("word",), made.has_pairs)
    _print_table(console, title, strongest, formats, names, HEADS | raises)


def _print_table(
    console: Console,
    title: str,
    rows: Sequence[Any],
    formats: dict[str, str],
    names: tuple[str, ...] = ("word", "class"),
    heads: dict[str, str] = HEADS,
) -> None:
    from rich.text import Text

    from captum_sig.data.tables import to_terminal
    from captum_sig.viz.characters import on_one_line, shortened

    cells = [
        {name: shortened(on_one_line(row[name] or ""), 24) for name in names}
        | {heads.get(name, name): row[name] for name in formats}
        for row in rows
    ]
    spec = {heads.get(name, name): formats[name] for name in formats}
    console.print(Text(f"\n{on_one_line(title)}", "bold"))
    console.print(to_terminal(cells, [*names, *spec], spec))

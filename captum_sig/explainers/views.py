"""What all results can be shown as and saved to."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_sig import viz
from captum_sig._files import replace_text, replacing
from captum_sig._names import Rank
from captum_sig._spreadsheets import write_rows
from captum_sig.viz.excerpts import Excerpt, excerpts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderableType


class Views:
    """A result as a page, a picture, a table, plain lines, and in a terminal or notebook.

    `print(result)` shows plain lines, `rich.print(result)` colours with a legend, and a notebook
    the page's content.

    Of a long text, the scores that are much stronger than 99 % of all have the full colour and a
    sign, and the strongest words and sections are listed with the text around them. With
    `rank="words"`, punctuation and tokens of templates count neither for the colours nor for the
    lists, see `captum_sig.viz.ranking.left_out`.
    """

    def plot(self, *, rank: Rank = "all") -> Figure:
        """Draw the result: a bar for each word for one target, a heat map for several.

        Args:
            rank: what counts for colours and for the words that are shown of many.

        Returns:
            a `matplotlib.figure.Figure` that pyplot does not know: nothing needs to be closed.
        """
        raise NotImplementedError

    def to_plain(self, *, rank: Rank = "all") -> str:
        """Return the summary and the scores as plain text, which `print` shows."""
        raise NotImplementedError

    def to_terminal(
        self, width: int = 80, *, legend: bool = True, rank: Rank = "all"
    ) -> RenderableType:
        """Return what `rich` shows in a terminal: coloured text and numbers.

        Args:
            width: of the terminal, in characters.
            legend: whether to say what colours and lines mean.
            rank: what counts for colours and lists.
        """
        raise NotImplementedError

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return the header and the rows of the table that `to_csv` writes."""
        raise NotImplementedError

    def to_dataframe(self) -> Any:
        """Return a `pandas.DataFrame`.

        Raises:
            ImportError: if pandas is not installed.
        """
        raise NotImplementedError

    def strongest(self, limit: int = 10, *, rank: Rank = "all") -> list[Excerpt]:
        """Return the strongest words with the text around them, the strongest first.

        Of several targets, those of the whole or the main one; index a result for another.

        Args:
            limit: number of words, at most.
            rank: "words" leaves out punctuation and tokens of templates.

        Raises:
            ValueError: if the rank is unknown.
        """
        return excerpts(self, limit, rank=rank)

    def to_html(self, path: str | Path | None = None, *, rank: Rank = "all") -> str:
        """Return a self-contained HTML page, and write it to a file if one is named.

        Args:
            path: of the file.
            rank: what counts for colours and lists at first; the page of a long text has a switch.

        Raises:
            OSError: if the file cannot be written.
            ValueError: if the rank is unknown.
        """
        return _written(viz.to_page([self], rank=rank), path)

    def to_png(self, path: str | Path | None = None, *, rank: Rank = "all") -> bytes:
        """Return `plot` as a PNG picture, and write it to a file if one is named.

        No side has more than 4,096 pixels.

        Raises:
            OSError: if the file cannot be written.
            ValueError: if the rank is unknown.
        """
        picture = viz.figure_to_png(self.plot(rank=rank), bbox_inches="tight")  # labels may be long
        if path is not None:
            with replacing(Path(path)) as temporary:
                temporary.write_bytes(picture)
        return picture

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the scores as CSV, and write them to a UTF-8 file if one is named.

        For one target, a line holds a word with all that is known of it; for several, a target with
        its figures and its score of each word. Floats have every digit. An apostrophe precedes
        texts that a spreadsheet would take for a formula.

        Raises:
            OSError: if the file cannot be written.
        """
        header, rows = self.table()
        stream = io.StringIO(newline="")
        write_rows(stream, [header, *(map(_finite, row) for row in rows)])
        return _written(stream.getvalue(), path)

    def flat(self) -> Any:
        """Return the result by words alone: itself, or of a tree of units the tree's leaves."""
        return self

    def __str__(self) -> str:
        return self.to_plain()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield self.to_terminal(options.max_width)

    def _repr_html_(self) -> str:
        return viz.to_html(self)


def dataframe(
    rows: Sequence[Sequence[Any]], columns: Sequence[str], index: Sequence[str] | None = None
) -> Any:
    """Return a `pandas.DataFrame`.

    Raises:
        ImportError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe needs pandas: run pip install pandas") from error
    return pandas.DataFrame(
        [list(row) for row in rows],
        columns=pandas.Index(columns, dtype=object),
        index=None if index is None else pandas.Index(index, dtype=object),
    )


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        replace_text(Path(path), text)
    return text


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value

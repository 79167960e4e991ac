"""The report of a corpus as one HTML page that needs nothing else: tables to search and sort."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from captum_sig import viz
from captum_sig.corpus.report import Key, Report
from captum_sig.data.tables import Row
from captum_sig.explainers.results import WordAttribution

SHOWN = 40  # words of an example; around its word in a longer text

STYLE = """
<style>
body{max-width:62em!important;font-family:sans-serif;line-height:1.45}
h1{font-size:1.5em} h2{font-size:1.15em;margin-top:2.2em}
table{border-collapse:collapse;width:100%;font-size:90%}
th,td{padding:.2em .6em;text-align:left;border-bottom:1px solid #ddd;overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th button{all:unset;cursor:pointer;font-weight:bold} th button:focus-visible{outline:2px solid}
th[aria-sort=ascending] button::after{content:" ▲"}
th[aria-sort=descending] button::after{content:" ▼"}
thead th{position:sticky;top:0;background:#fff}
.scroll{max-height:30em;overflow:auto;border:1px solid #ddd}
.note{color:#666;font-size:90%} .warn{background:#fff3cd;padding:.4em .8em}
input{font:inherit;padding:.3em .5em;width:20em;max-width:100%}
[hidden]{display:none}
</style>
"""

# Sorts a table by the column whose head is pressed; shows rows that have what is searched for.
SCRIPT = """
<script>
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const column = head.cellIndex, down = head.getAttribute("aria-sort") !== "descending";
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const number = head.classList.contains("n");
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = number ? x - y : x.localeCompare(y);
      return down ? -order : order;
    });
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  });
}
const box = document.getElementById("search"), count = document.getElementById("count");
function search() {
  const wanted = box.value.trim().toLowerCase();
  let shown = 0;
  for (const row of document.querySelectorAll("[data-search]")) {
    row.hidden = !row.dataset.search.includes(wanted);
    shown += !row.hidden && row.tagName === "TR";
  }
  count.textContent = shown.toLocaleString("en") + " rows in the tables";
}
box.addEventListener("input", search);
if (location.hash.startsWith("#q=")) box.value = decodeURIComponent(location.hash.slice(3));
search();
</script>
"""


def to_page(report: Report) -> str:
    """The page; everything that comes from texts, models or options is escaped."""
    parts = [STYLE, _head(report), _classes(report)]
    parts.append(
        '<h2>Search</h2><p><input id="search" type="search" placeholder="a word, a class …" '
        'aria-label="Search words, terms and texts"> <span id="count" class="note"></span></p>'
    )
    parts.append(_words(report))
    if report.terms:
        parts.append(_terms(report))
    parts += [_flips(report), _extremes(report), SCRIPT]
    return viz.page(
        parts,
        "the explained label; each example's strongest word has the full colour. Hover a word for "
        "its score, in logits and divided by the L2 norm of the text's scores.",
        title="What moves this model",
    )


def _head(report: Report) -> str:
    found, settings = report.overview, report.settings
    named = {
        "model": f"{settings['model']} (weights {settings['weights']})",
        "method": report.method,
        "baseline": settings["baseline"],
        "explained label": settings.get("target") or "the predicted one of each text",
        "texts": f"{found['rows']:,}, of which {found['bad']:,} could not be explained and "
        f"{found['truncated']:,} were cut at the model's limit",
        "worst error of a word": _number(found["max_abs_word_delta"] or 0.0, ".2g") + " logits",
    }
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(viz.visible(str(value)))}</td></tr>"
        for name, value in named.items()
    )
    warning = ""
    if not found["finished"]:
        warning = (
            f'<p class="warn">The run is not finished: {found["rows"]:,} of '
            f"{found['rows_in_input']:,} texts are in this report.</p>"
        )
    return f"<h1>What moves this model</h1>{warning}<table>{lines}</table>"


def _classes(report: Report) -> str:
    formats = {"mean_confidence": ".3f", "share_predicted": ".1%", "words_per_text": ".1f"}
    return (
        '<h2>Classes</h2><p class="note">Texts by the label that was explained: the mean '
        "probability of the label that the model predicts for them, and how often that is the "
        "explained one.</p>"
    ) + _table(report.classes, list(report.classes[0]), formats)


def _words(report: Report) -> str:
    strongest: dict[str, float] = {}
    for row in report.words:
        strongest[row["class"]] = max(strongest.get(row["class"], 0.0), abs(row["mean"]))

    def shaded(row: Row) -> str:
        (colour,) = viz.shades([row["mean"]], strongest[row["class"]])
        return viz.mark(row["word"], f"rgb{colour}", f"mean {row['mean']:+.4f} logits")

    formats = {"sum": "+,.2f", "mean": "+.4f", "std": ".4f", "share_for": ".0%",
               "count": ",", "documents": ","}  # fmt: skip
    columns = list(formats)
    return (
        "<h2>Words that move it most</h2>"
        '<p class="note">Effect of a word on the logit of the class that was explained: its sum, '
        "mean and std (standard deviation) over all occurrences, in how many texts it occurs, "
        "and the share of occurrences that speak for the class. Of each class the words of the "
        "largest sums, either way; words.csv has all.</p><div class=scroll>"
        + _table(report.words, ["class", "word", *columns], formats, {"word": shaded}, True)
        + "</div>"
    )


def _terms(report: Report) -> str:
    formats = {"mean": "+.4f", "low": "+.4f", "high": "+.4f", "std": ".4f", "share_for": ".0%",
               "count": ",", "documents": ","}  # fmt: skip
    examples = "".join(
        _example(report, row, row["term"], side)
        for row in report.terms
        for side in ("_for", "_against")
        if row["documents"]
    )
    return (
        "<h2>Terms</h2>"
        '<p class="note">Mean effect over the texts that have the term, with its 95 % interval '
        "(bootstrap over texts); a term of several words has the sum of their effects.</p>"
        + _table(report.terms, ["term", "class", *formats], formats, {}, True)
        + f"<details><summary>The strongest texts of each term</summary>{examples}</details>"
    )


def _flips(report: Report) -> str:
    shown = "".join(
        f'<div data-search="{_searched(row["word"], row["class"])}"><h3>'
        f"{html.escape(viz.visible(row['word']))} <span class=note>in {html.escape(row['class'])}: "
        f"{row['sum_for']:+,.2f} in {row['n_for']:,} places, {row['sum_against']:+,.2f} in "
        f"{row['n_against']:,}</span></h3>"
        + _example(report, row, row["word"], "_for")
        + _example(report, row, row["word"], "_against")
        + "</div>"
        for row in report.flips
    )
    return (
        "<h2>Words whose effect turns with the context</h2>"
        '<p class="note">They speak for a class in some texts and against it in others; ordered by '
        "the weaker side's sum. Under each the text where it is strongest, either way.</p>"
        + (shown or "<p>There are none.</p>")
    )


def _extremes(report: Report) -> str:
    shown = "".join(
        f'<div data-search="{_searched(row["word"], row["class"])}">'
        f"<p class=note>{html.escape(viz.visible(row['word']))} {row['score']:+.3f} for "
        f"{html.escape(row['class'])}</p>{_example(report, row, row['word'], '')}</div>"
        for row in report.extremes
    )
    return f"<h2>The strongest words of all</h2>{shown}"


def _example(report: Report, row: Row, word: str, side: str) -> str:
    key: Key = (row[f"file{side}"], row[f"row{side}"])
    result = report.examples[key]
    place = f"{key[0]}, row {key[1]:,}"
    wanted = max if side != "_against" else min
    lowered = word.lower()
    spoken = [n for n, one in enumerate(result.words) if one.word.strip().lower() == lowered]
    middle = wanted(spoken, key=lambda n: result.scores[n]) if spoken else 0
    return (
        f"<div class=example>{viz.to_html(_around(result, middle))}"
        f'<div class="note">{html.escape(viz.visible(place))}</div></div>'
    )


def _around(result: WordAttribution, middle: int) -> WordAttribution:
    """The part of a long text that has this word in its middle."""
    first = max(0, min(middle - SHOWN // 2, len(result.words) - SHOWN))
    words = result.words[first : first + SHOWN]
    if len(words) == len(result.words):
        return result
    start, end = words[0].start, words[-1].end
    if start is None or end is None:
        return replace(result, words=words)
    before, after = ("… " if start else ""), (" …" if end < len(result.text) else "")
    moved = tuple(
        replace(
            word,
            start=None if word.start is None else word.start - start + len(before),
            end=None if word.end is None else word.end - start + len(before),
        )
        for word in words
    )
    return replace(result, text=f"{before}{result.text[start:end]}{after}", words=moved)


def _table(
    rows: Sequence[Row],
    columns: Sequence[str],
    formats: Mapping[str, str],
    cells: Mapping[str, Callable[[Row], str]] | None = None,
    searched: bool = False,
) -> str:
    """Rows with heads to press; columns that have a format are numbers."""
    numbers = {name for name in columns if any(isinstance(row[name], (int, float)) for row in rows)}
    heads = "".join(
        f"<th{' class=n' if name in numbers else ''}><button>{name.replace('_', ' ')}</button></th>"
        for name in columns
    )
    body = []
    for row in rows:
        line = []
        for name in columns:
            if name in numbers:
                value = "" if row[name] is None else row[name]
                shown = _number(row[name], formats.get(name, ","))
                line.append(f'<td class=n data-value="{value}">{shown}</td>')
            else:
                made = (cells or {}).get(name)
                text = made(row) if made else html.escape(viz.visible(str(row[name] or "")))
                line.append(f"<td>{text}</td>")
        key = _searched(*(row[name] for name in columns if name not in numbers))
        found = f' data-search="{key}"' if searched else ""
        body.append(f"<tr{found}>{''.join(line)}</tr>")
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _searched(*values: Any) -> str:
    return html.escape(viz.visible(" ".join(str(value or "") for value in values)).lower())


def _number(value: float | None, spec: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, spec)

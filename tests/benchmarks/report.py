"""The results as tables on the screen, JSON and one PNG."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show(results: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    facts = results["machine"]
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    if "compare" in results:
        console.print(_comparison(results["compare"]))
    if "memory" in results:
        peaks = results["memory"]
        console.print(f"peak memory beside the model, one text of {peaks['length']} tokens (MiB):")
        for name in list(peaks)[1:]:
            console.print(f"  {name:26} {_number(peaks[name], '.0f')}", highlight=False)
    for key, axis in [("length", "lengths"), ("batch", "sizes")]:
        if key in results:
            console.print(_growth(results[key], axis, key))


def _comparison(compare: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="same model, same sentences; errors relative to the largest word")
    for heading in ["method", "sent.", "s / sent.", "tint takes ×", "forward", "backward",
                    "words worst", "p99", "features worst", "p99", "share of rate"]:  # fmt: skip
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, of in compare.items():
        errors = [of.get(f"error_{kind}", {}) for kind in ("words", "features")]
        forward = of["rows"]["forward"] - of["rows"]["backward"]
        table.add_row(
            name,
            str(of["sentences"]),
            f"{of['seconds'] / of['sentences']:.3f}",
            _number(of.get("faster_than_tint", {}).get("all"), ".2f"),
            str(forward),
            str(of["rows"]["backward"]),
            *(_number(error.get(key), ".1e") for error in errors for key in ("worst", "p99")),
            f"{of['share_of_rate']:.0%}",
        )
    return table


def _growth(growth: dict[str, Any], axis: str, what: str) -> Table:
    table = Table(title=f"seconds by {what}")
    table.add_column("method")
    for size in growth[axis]:
        table.add_column(str(size), justify="right")
    table.add_column("exponent", justify="right")
    for name, times in growth["seconds"].items():
        exponent = f"{growth['exponents'][name]:.2f}"
        table.add_row(name, *(f"{time:.3g}" for time in times), exponent)
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def save(results: dict[str, Any], folder: Path) -> None:
    """`bench.json` and, where matplotlib is installed, `bench.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "bench.json").write_text(text + "\n", encoding="utf-8")
    try:
        import matplotlib
    except ImportError:
        Console(stderr=True).print("no bench.png: pip install matplotlib")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [
        (draw, results[part])
        for part, draw in [("compare", _draw_accuracy), ("length", _draw_growth)]
        if part in results
    ]
    if not drawn:
        return
    figure, axes = pyplot.subplots(
        1, len(drawn), figsize=(6.5 * len(drawn), 4.5), layout="constrained", squeeze=False
    )
    for axis, (draw, part) in zip(axes[0], drawn, strict=True):
        draw(axis, part)
    figure.savefig(folder / "bench.png", dpi=150)
    pyplot.close(figure)


def _draw_accuracy(axis: Any, compare: dict[str, dict[str, Any]]) -> None:
    """Worst error over seconds; the best are at the lower left."""
    for number, (name, of) in enumerate(compare.items()):
        error = of.get("error_features") or of.get("error_words")
        if error is None:
            continue
        x, y = of["seconds"] / of["sentences"], max(error["worst"], 1e-8)
        color = f"C{number}"
        filled = color if "error_features" in of else "none"
        axis.scatter(x, y, s=50, facecolors=filled, edgecolors=color, label=name)
    axis.set(xscale="log", yscale="log", xlabel="seconds per sentence",
             ylabel="worst error / largest word",
             title="accuracy (filled: features, open: words)")  # fmt: skip
    axis.legend(fontsize=8)


def _draw_growth(axis: Any, growth: dict[str, Any]) -> None:
    for name, times in growth["seconds"].items():
        exponent = growth["exponents"][name]
        axis.plot(growth["lengths"], times, "o-", label=f"{name}: length^{exponent:.2f}")
    axis.set(xscale="log", yscale="log", xlabel="tokens in the text", ylabel="seconds",
             title="growth with length")  # fmt: skip
    axis.set_xticks(growth["lengths"], [str(length) for length in growth["lengths"]])
    axis.minorticks_off()
    axis.legend(fontsize=8)

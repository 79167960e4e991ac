"""What colours and lines mean, once for all results that are shown together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from captum_sig.viz.agreement import marks_shown
from captum_sig.viz.colours import AGAINST, FOR, style
from captum_sig.viz.ranking import scale_of_text
from captum_sig.viz.sections import is_long
from captum_sig.viz.wording import Measure, common_measure

if TYPE_CHECKING:
    from rich.text import Text


def is_matrix(result: Any) -> bool:
    """Whether a result has several targets, or only one."""
    return hasattr(result, "matrix")


def has_totals(result: Any) -> bool:
    """Whether the targets of a result are parts of one whole, such as a continuation's tokens."""
    return getattr(result, "totals", None) is not None


def has_target_characters(result: Any) -> bool:
    """Whether a target of a result stands in the text."""
    targets = getattr(result, "targets", ())
    return getattr(result, "target_start", None) is not None or any(
        target.start is not None for target in targets
    )


def terminal_legend(results: Iterable[Any]) -> Text:
    """Return what the colours mean, and each mark that these results show, for `rich`."""
    from rich.text import Text

    shown = list(results)
    measure, noun = common_measure(shown)
    swatches = ((measure.raises, FOR), (measure.lowers, AGAINST))
    line = Text(" and ").join(Text(name, f"not dim {style(colour)}") for name, colour in swatches)
    line.append(f" {noun}; the strongest {_have(shown)} the full colour")
    if any(map(has_target_characters, shown)):
        line.append("; bold: the target itself")
    lines = [line]
    for agreement, mark in marks_shown(shown).items():
        of_mark = Text.assemble((mark.terminal_name, mark.style), f": {agreement}, {mark.meaning}")
        lines.append(of_mark)
    return Text("\n", "dim").join(lines)


def _have(results: Iterable[Any]) -> str:
    """Return "has" if in each text only the strongest score has the full colour, else "have"."""
    return "have" if any(scale_of_text(each, "all").is_clipped for each in results) else "has"


def page_legend(results: Iterable[Any]) -> tuple[Measure, str]:
    """Return the measure of the results on a page, and what their colours mean.

    The sentence follows the measure's two words, such as "for and against".
    """
    shown = list(results)
    measure, noun = common_measure(shown)
    matrices = [result for result in shown if is_matrix(result)]
    singles = [result for result in shown if not is_matrix(result)]
    in_units = f" in {measure.units}" if measure.units else ""
    parts = [noun]
    if singles:
        words = "words have" if _have(singles) == "have" else "word has"
        parts[-1] += f"; each text's strongest {words} the full colour"
        parts.append(
            f"Hover over a word for its score{in_units}, and divided by the L2 norm of the text's "
            "scores"
        )
    if any(has_totals(result) for result in matrices):
        parts.append(
            "The prompt is coloured by the effect on the whole target. Point at a target token "
            "(after the arrow), tap it, or press Tab, for its own effects"
        )
    of_targets = [is_long(result) for result in matrices if not has_totals(result)]
    if of_targets:
        places = {True: "a target above the text", False: "a row of the table"}
        named = " or ".join(name for long, name in places.items() if long in of_targets)
        parts.append(f"Point at {named}, tap it, or press Tab, to colour the text by its target")
    if matrices:
        parts.append(f"Hover over a word or cell for its value{in_units}")
    if any(map(is_long, shown)):
        parts.append(
            "Numbers beside a long text are the sums of its paragraphs' or sentences' words"
        )
    if any(map(has_target_characters, shown)):
        parts.append("A blue line marks the target's own characters")
    return measure, ". ".join(parts) + "."

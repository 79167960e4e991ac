"""Show a tree of units: as indented lines, in a terminal, and as a nested list on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from captum_sig.viz.characters import on_one_line, shortened, visible
from captum_sig.viz.colours import Colour, shades, style
from captum_sig.viz.legends import terminal_legend

if TYPE_CHECKING:
    from rich.console import Group

MAX_TEXT = 60  # characters of a node
MARKS = {"unopened": " (unopened)", "audited": " (audited)"}


class Node(Protocol):
    """A unit of a text, with the units or words in it."""

    @property
    def label(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def level(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def effects(self) -> Sequence[float] | None: ...
    @property
    def alone(self) -> Sequence[float] | None: ...
    @property
    def nodes(self) -> Sequence[Node]: ...


class Tree(Protocol):
    """A text as a tree, and which of its targets is shown."""

    @property
    def root(self) -> Node: ...
    @property
    def shown(self) -> int: ...
    @property
    def target_names(self) -> Sequence[str]: ...
    @property
    def summary(self) -> str: ...
    def flat(self) -> Any: ...


@dataclass(frozen=True)
class Branch:
    """A node as it is shown."""

    line: str
    colour: Colour
    branches: tuple[Branch, ...]


def branch(result: Tree) -> Branch:
    """Return the whole tree as it is shown; the strongest node has the full colour."""
    effects: list[float] = []

    def collect(node: Node) -> None:
        effects.append(_value(node.effects, result.shown) or 0.0)
        for below in node.nodes:
            collect(below)

    collect(result.root)
    colours = iter(shades(effects))

    def of(node: Node) -> Branch:
        colour = next(colours)
        below = [of(one) for one in node.nodes]
        known = [one for one, of_it in zip(below, node.nodes, strict=True) if _is_known(of_it)]
        guessed = [of_it for of_it in node.nodes if not _is_known(of_it)]
        if guessed:
            known.append(Branch(_line_of_guessed(guessed, result.shown), shades([0.0])[0], ()))
        return Branch(_line(node, result.shown), colour, tuple(known))

    return of(result.root)


def targets_of(result: Tree) -> str | None:
    """Say which of several targets the effects are on; None of one, or of parts of a whole."""
    if len(result.target_names) < 2 or result.shown < 0:
        return None
    return f"effects on {result.target_names[result.shown]}, of {len(result.target_names)} targets"


def _is_known(node: Node) -> bool:
    return node.state != "estimated"


def _line_of_guessed(nodes: Sequence[Node], shown: int) -> str:
    """Return a line for all words of a unit that have estimates."""
    most = max((abs(_value(node.effects, shown) or 0.0) for node in nodes), default=0.0)
    return f"{len(nodes)} words (estimated, within ±{most:.2g})"


def _line(node: Node, shown: int) -> str:
    """Return a node's level or name and its text, its effect, and what is known of it."""
    text = shortened(visible(" ".join(node.label.split())), MAX_TEXT)
    if node.level == "text":
        text = "all units" if any(one.level == "unit" for one in node.nodes) else "the whole text"
    elif node.level != "word" and node.name is None:
        text = f"{node.level}: {text}"
    effect, alone = _value(node.effects, shown), _value(node.alone, shown)
    text += "" if effect is None else f" {effect:+.4f}"
    text += "" if alone is None else f", alone {alone:+.4f}"
    return f"{text}{MARKS.get(node.state, '')}"


def _value(values: Sequence[float] | None, shown: int) -> float | None:
    return None if not values else values[shown]


def to_plain(result: Tree) -> str:
    """Return the summary, and an indented line for each node."""
    rows = [on_one_line(line) for line in (result.summary, targets_of(result)) if line]

    def add(one: Branch, depth: int) -> None:
        rows.append("  " * depth + one.line)
        for below in one.branches:
            add(below, depth + 1)

    add(branch(result), 0)
    return "\n".join(rows)


def to_terminal(result: Tree, *, legend: bool = True) -> Group:
    """Return the summary and the tree, with what colours mean if wanted, for `rich`."""
    from rich import tree
    from rich.console import Group
    from rich.text import Text

    def label(one: Branch) -> Text:
        return Text(one.line, style(one.colour), no_wrap=True, overflow="ellipsis")

    def add(place: tree.Tree, one: Branch) -> None:
        for below in one.branches:
            add(place.add(label(below)), below)

    whole = branch(result)
    shown = tree.Tree(label(whole))
    add(shown, whole)
    targets = targets_of(result)
    first = [] if targets is None else [Text(visible(targets))]
    last = [terminal_legend([result.flat()])] if legend else []
    return Group(Text(visible(result.summary), "bold"), *first, shown, *last)

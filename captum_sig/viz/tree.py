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
MARKS = {"unopened": " (unopened)", "estimated": " (estimated)", "audited": " (audited)"}


class Node(Protocol):
    """A unit of a text, with the units or words in it."""

    @property
    def label(self) -> str: ...
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
        return Branch(_line(node, result.shown), colour, tuple(map(of, node.nodes)))

    return of(result.root)


def _line(node: Node, shown: int) -> str:
    """Return a node's text, its effect, and what is known of it."""
    text = shortened(visible(" ".join(node.label.split())), MAX_TEXT)
    effect, alone = _value(node.effects, shown), _value(node.alone, shown)
    text += "" if effect is None else f" {effect:+.4f}"
    text += "" if alone is None else f", alone {alone:+.4f}"
    return f"{text}{MARKS.get(node.state, '')}"


def _value(values: Sequence[float] | None, shown: int) -> float | None:
    return None if not values else values[shown]


def to_plain(result: Tree) -> str:
    """Return the summary, and an indented line for each node."""
    rows = [on_one_line(result.summary)]

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
    last = [terminal_legend([result.flat()])] if legend else []
    return Group(Text(visible(result.summary), "bold"), shown, *last)

"""What `level="auto"` returns: a tree of units, opened where they matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from captum_sig._names import NodeLevel, NodeState, Rank, Side, TaskName, Unit
from captum_sig.explainers.generation_result import GenerationAttribution
from captum_sig.explainers.matrix_results import TargetsAttribution
from captum_sig.explainers.results import Audit, WordAttribution, finite, without_none
from captum_sig.explainers.views import Views, dataframe
from captum_sig.viz import tree
from captum_sig.viz.excerpts import Excerpt

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

FlatResult = WordAttribution | TargetsAttribution | GenerationAttribution
FLAT: dict[str, type[FlatResult]] = {
    "words": WordAttribution,
    "targets": TargetsAttribution,
    "generation": GenerationAttribution,
}
OPTIONAL = ("start", "end", "side", "name", "effects", "alone", "bound")


@dataclass(frozen=True)
class ZoomNode:
    """A unit of a text, or a word.

    `effects` has a number for each target of the result (for generated text each token, and the
    whole target last): F with the node's words at the input − F with them at the baseline, in the
    call's contexts. It is exact, except in the state "estimated", and None in the rare budget that
    covers all words but not all units. `alone` is the effect where all that was seen to hide the
    node is at the baseline: the other parts of the unit above, or of a unit further above.

    `state` says what is known of the words inside:

    - "opened": `nodes` are its parts;
    - "scored": a word with its exact score; "audited": one that was drawn at random;
    - "estimated": a word whose score is an estimate by slopes, in a unit in which others are exact;
    - "unopened": only the effect of the whole is known. Its words may have any effects: of two that
      cancel, or that say the same, the whole shows nothing. `bound` says what one of them may be
      worth, for each target, with the `confidence` of the result's `audit`: that is a statement
      about words drawn at random among all that have no exact score, not a bound on each.
    """

    level: NodeLevel
    text: str
    n_words: int
    state: NodeState
    effects: tuple[float, ...] | None
    start: int | None = None
    end: int | None = None
    side: Side | None = None
    name: str | None = None
    alone: tuple[float, ...] | None = None
    bound: tuple[float, ...] | None = None
    nodes: tuple[ZoomNode, ...] = ()

    @property
    def label(self) -> str:
        """The name, or if there is none the text."""
        return self.text if self.name is None else self.name

    @property
    def strength(self) -> float:
        """The largest of Σ |effect| over the targets, on either side: what units are ranked by."""
        sides = (self.effects, self.alone)
        return max((sum(map(abs, side)) for side in sides if side is not None), default=0.0)

    def walk(self) -> Iterator[tuple[int, ZoomNode]]:
        """Yield the node and all below it with their depth, in the order of the text."""
        yield 0, self
        for node in self.nodes:
            for depth, below in node.walk():
                yield depth + 1, below

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings; None is omitted."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("effects", "alone", "bound"):
            data[name] = None if data[name] is None else finite(list(data[name]))
        data["nodes"] = [node.to_dict() for node in self.nodes]
        return without_none(data, OPTIONAL)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ZoomNode:
        """Rebuild it from `to_dict`."""
        fields_of = {"effects": None, **data}
        for name in ("effects", "alone", "bound"):
            if fields_of.get(name) is not None:
                fields_of[name] = tuple(fields_of[name])
        fields_of["nodes"] = tuple(map(cls.from_dict, data.get("nodes", ())))
        return cls(**fields_of)


@dataclass(frozen=True)
class ZoomAttribution(Views):
    """Why a model gave a text its value: the units that matter, and the words in them.

    `root` is the whole text; below are its units, and theirs, as far as they were opened. `result`
    has the leaves of the tree as its words, see `flat`. `target_names` says what the nodes' effects
    are on. `n_rows` were evaluated, of the `budget`; a row with a gradient counts 3. A full sweep
    of the words takes `n_rows_of_all_words`. `audit` says what a word without an exact score may be
    worth, Σ |effect| over the targets (of generated text, over the tokens).

    Exact are the effects of all nodes that are not "estimated"; the words' are those of level
    "word". Of the words in an unopened unit, `audit` is all that is known: if they cancel each
    other, the unit has no effect, whatever theirs are. Units that say the same have no effect while
    the other is there. `alone` shows these. It is measured for the parts of a unit that have less
    than a quarter of its effect each, and together more than twice the sum of their effects.
    Contexts "two_sided" measure each unit among the others and alone, in twice the rows.
    """

    root: ZoomNode
    result: FlatResult
    target_names: tuple[str, ...]
    n_rows: int
    budget: int
    n_rows_of_all_words: int
    audit: Audit | None = None

    def flat(self) -> FlatResult:
        """Return the explanation by the tree's leaves, as other levels have it.

        Its words are those of opened units, and in their place in the text the unopened units, each
        with its effect as a whole; `evidence` says which: "exact", "audited", "estimated" or
        "unopened".
        """
        return self.result

    @property
    def units(self) -> list[ZoomNode]:
        """The coarsest units, the strongest first, on the side where each is stronger."""
        return sorted(self.root.nodes, key=lambda node: -node.strength)

    @property
    def nodes(self) -> list[ZoomNode]:
        """All nodes in the order of the text, a unit before its parts."""
        return [node for _, node in self.root.walk()]

    @property
    def words(self) -> Sequence[Any]:
        """The leaves, as the words of `flat`."""
        return self.result.words

    @property
    def text(self) -> str:
        """The text, or the first text of a pair."""
        return self.result.text

    @property
    def task(self) -> TaskName:
        """The explainer's task."""
        return self.result.task

    @property
    def unit(self) -> Unit:
        """What effects are measured in."""
        return self.result.unit

    @property
    def shown(self) -> int:
        """The number of the target that a tree shows: the whole continuation, or the main one."""
        if isinstance(self.result, GenerationAttribution):
            return -1
        return getattr(self.result, "main_row", None) or 0

    @property
    def summary(self) -> str:
        """One line: what is explained, and how many rows it took."""
        return f"{self.result.summary}; {self.cost}"

    @property
    def cost(self) -> str:
        """How many rows it took, such as "64 rows, where all words take 401"."""
        return f"{self.n_rows} rows, where all words take {self.n_rows_of_all_words}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, ready for `json.dumps`; None is omitted."""
        (kind,) = (name for name, of in FLAT.items() if type(self.result) is of)
        data = {
            "kind": kind,
            "root": self.root.to_dict(),
            "result": self.result.to_dict(),
            "target_names": list(self.target_names),
            "n_rows": self.n_rows,
            "budget": self.budget,
            "n_rows_of_all_words": self.n_rows_of_all_words,
            "audit": None if self.audit is None else finite(asdict(self.audit)),
        }
        return without_none(data, ("audit",))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ZoomAttribution:
        """Rebuild a result from `to_dict`.

        Raises:
            TypeError: if a field is missing or unknown.
        """
        fields_of = dict(data)
        kind = fields_of.pop("kind", None)
        if kind not in FLAT:
            raise TypeError(f"kind is {kind!r}; wanted one of {', '.join(FLAT)}")
        fields_of["root"] = ZoomNode.from_dict(data["root"])
        fields_of["result"] = FLAT[kind].from_dict(data["result"])
        fields_of["target_names"] = tuple(data["target_names"])
        if data.get("audit") is not None:
            fields_of["audit"] = Audit(**data["audit"])
        return cls(**fields_of)

    def plot(self, *, rank: Rank = "all") -> Figure:
        """Draw `flat`."""
        return self.result.plot(rank=rank)

    def strongest(self, limit: int = 10, *, rank: Rank = "all") -> list[Excerpt]:
        """Return the strongest leaves, as those of `flat`."""
        return self.result.strongest(limit, rank=rank)

    def to_plain(self, *, rank: Rank = "all") -> str:
        """Return the summary, and a line for each node; `rank` changes nothing."""
        return tree.to_plain(self)

    def to_terminal(self, width: int = 80, *, legend: bool = True, rank: Rank = "all") -> Group:
        """Return the tree for `rich`; `rank` changes nothing."""
        return tree.to_terminal(self, legend=legend)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        header = ["depth", "level", "state", "name", "text", "start", "end", "side", "n_words"]
        rows = []
        for depth, node in self.root.walk():
            known = [getattr(node, name) for name in header[1:]]
            effects = node.effects or (None,) * len(self.target_names)
            alone = node.alone or (None,) * len(self.target_names)
            rows.append([depth, *known, *effects, *alone])
        names = [f"alone: {name}" for name in self.target_names]
        return [*header, *self.target_names, *names], rows

    def to_dataframe(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each node.

        Raises:
            ImportError: if pandas is not installed.
        """
        header, rows = self.table()
        return dataframe(rows, header)

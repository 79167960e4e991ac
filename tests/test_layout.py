"""Who may import whom: a folder or file knows only what stands below it, and there is no circle.

Imports are read from the source, those inside functions and for type checkers among them.
"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import captum_sig

PACKAGE = Path(captum_sig.__file__).parent

# From the top down; what stands on one line does not know each other.
FLOORS = [
    {"cli"},
    {"faithfulness", "corpus"},
    {"data"},
    {"explainers"},
    {"viz"},
    {"path", "baselines"},
    {"attr", "words"},
    {"quadrature", "contexts", "demo_model", "_captum"},
    {"_files", "_locks", "_names", "_numbers", "_spreadsheets", "_warnings"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
DOORS = {"__init__": set(FLOOR) - {"cli"}, "__main__": {"cli"}}  # the package's own


def files(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def module_of(path: Path, package: Path) -> str:
    """Its dotted name within the package; a folder's `__init__` is the folder."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path: Path, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and module of each import from the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "captum_sig":
                while rest and rest not in known:  # a name in a module
                    rest = rest.rpartition(".")[0]
                yield node.lineno, rest or "__init__"


def broken_edges(package: Path) -> list[str]:
    known = {module_of(path, package) for path in files(package)}
    found = []
    for path in files(package):
        room = module_of(path, package).split(".")[0]
        for line, module in imports(path, known):
            other = module.split(".")[0]
            allowed = (
                other in DOORS[room]
                if room in DOORS
                else other == room or FLOOR[room] < FLOOR.get(other, -1)
            )
            if not allowed:
                where = f"{path.relative_to(package.parent)}:{line}"
                found.append(f"{where}: {room} may not import {other}")
    return found


def check_no_circle(package: Path) -> None:
    """Raises `graphlib.CycleError`, which names the files."""
    known = {module_of(path, package) for path in files(package)}
    graph = {
        module_of(path, package): {module for _, module in imports(path, known)}
        for path in files(package)
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_imports_go_down_only():
    assert broken_edges(PACKAGE) == []


def test_no_circle():
    check_no_circle(PACKAGE)


def test_the_guards_bite(tmp_path):
    for name, text in {
        "viz/text.py": "def f():\n    from captum_sig.explainers.results import Word\n",
        "words/grouping.py": "from captum_sig import attr\n",
        "explainers/results.py": "import captum_sig.viz.text\n",
        "attr/sig.py": "",
        "attr/__init__.py": "",
    }.items():
        path = tmp_path / "captum_sig" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert broken_edges(tmp_path / "captum_sig") == [
        "captum_sig/viz/text.py:2: viz may not import explainers",
        "captum_sig/words/grouping.py:1: words may not import attr",
    ]
    with pytest.raises(graphlib.CycleError) as caught:
        check_no_circle(tmp_path / "captum_sig")
    assert set(caught.value.args[1]) == {"viz.text", "explainers.results"}

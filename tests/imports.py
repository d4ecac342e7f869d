"""The imports of the package, read from its source without running it."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import stc_lmms

PACKAGE = "stc_lmms"
ROOT = Path(stc_lmms.__file__).parent


def files() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if "tasks" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports: at its top, in functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_graph() -> dict[str, set[str]]:
    """The modules of this package that each module imports.

    `from package import name` is an import of the module `name` if there is one, else of the package.
    """
    known = files()
    graph = {}
    for name, path in known.items():
        found = {full if full in known else full.rpartition(".")[0] for full in imported(path)}
        graph[name] = found & set(known) - {name}
    return graph


def package_of(module: str) -> str:
    """First-level file or folder; every folder and file of `models` is a package of its own."""
    parts = module.split(".")
    return ".".join(parts[: 3 if parts[1:2] == ["models"] else 2])


def package_graph() -> dict[str, set[str]]:
    """The packages that each package imports."""
    graph: dict[str, set[str]] = {}
    for module, targets in module_graph().items():
        found = graph.setdefault(package_of(module), set())
        found |= {package_of(target) for target in targets} - {package_of(module)}
    return graph


def reachable(starts: Iterable[str], graph: dict[str, set[str]]) -> set[str]:
    """The nodes that can be reached from `starts`, these included."""
    found: set[str] = set()
    todo = list(starts)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += graph.get(node, ())
    return found


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of two or more nodes that all reach each other."""
    below = {node: reachable(graph[node], graph) for node in graph}
    groups = {frozenset(other for other in below[node] if node in below[other]) for node in graph}
    return {group for group in groups if len(group) > 1}

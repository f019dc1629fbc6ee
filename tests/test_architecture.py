"""Imports point downward, type-only ones included; the public names are listed here."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import zpyro

pytestmark = pytest.mark.fast

PACKAGE = Path(zpyro.__file__).parent
LAYERS = (
    ("errors", "version"),
    ("settings",),
    ("io",),
    ("nn",),
    ("likelihoods",),
    ("datasets",),
    ("distributed",),
    ("models",),
    ("objectives",),
    ("evaluation",),
    ("training",),
    ("analysis",),
)
"""Entries of zpyro/, lowest layer first; each imports from its own layer and lower ones only."""
LEVEL = {entry: level for level, layer in enumerate(LAYERS) for entry in layer}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("zpyro", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str) -> set[str]:
    """The modules of zpyro that a source imports anywhere: in functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found & MODULES.keys()


GRAPH = {name: imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def upward(graph: dict[str, set[str]]) -> list[str]:
    """The imports that point upward, in words."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if name != "zpyro" and level(other) > level(name)
    ]


def level(module: str) -> int:
    """The layer of a module; that of ``zpyro`` itself is the highest."""
    _, _, inner = module.partition(".")
    return LEVEL[inner.partition(".")[0]] if inner else len(LAYERS)


def test_imports_point_downward() -> None:
    assert upward(GRAPH) == []


def test_an_upward_import_is_found() -> None:
    source = "if TYPE_CHECKING:\n    from zpyro.training import config"
    assert imports(source) == {"zpyro.training.config"}
    assert upward({"zpyro.nn.layers": imports(source)}) != []


def test_no_circular_imports() -> None:
    # A package's __init__ imports its modules, which are written without it.
    inner = {
        name: {other for other in others if MODULES[other].stem != "__init__"}
        for name, others in GRAPH.items()
    }
    list(TopologicalSorter(inner).static_order())


def test_every_entry_has_a_layer() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.name[0] not in "._"} - {"py"}
    assert entries - {"__init__", "__pycache__"} == LEVEL.keys()
    assert len(LEVEL) <= 14

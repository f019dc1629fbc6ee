"""Imports go one way: docs/house.toml declares the layers, and no module looks upward."""

from __future__ import annotations

import ast
import tomllib
import types
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import zpyro
from zpyro.datasets import ENTRIES
from zpyro.models import MODELS as MODELS_BY_NAME

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
PACKAGES = {"zpyro": "zpyro", "zpyro_cli": "cli", "zpyro_examples": "examples"}
LAYERS = tomllib.loads((ROOT / "docs/house.toml").read_text(encoding="utf-8"))["layer"]


def modules() -> dict[str, Path]:
    """Every module of the three packages, by name; packages by their own."""
    found: dict[str, Path] = {}
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


MODULES = modules()


def imports(name: str, source: str, *, is_package: bool) -> set[str]:
    """The modules of ours that a module imports when it runs, at the top or within functions."""
    found: set[str] = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".") if is_package else name.split(".")[:-1]
            base = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                found.add(inner if inner in MODULES else origin)
    return {module for module in found if module in MODULES} - {name}


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below ``if TYPE_CHECKING``, which never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from running(node)


def layer_of(module: str) -> int:
    """The place of a module's layer; a full name counts before a pattern."""
    for exact in (True, False):
        for place, layer in enumerate(LAYERS):
            for entry in (*layer["public"], *layer["internal"]):
                prefix = entry.removesuffix(".*")
                below = entry != prefix and (module == prefix or module.startswith(f"{prefix}."))
                if module == entry or (below and not exact):
                    return place
    raise AssertionError(f"{module} stands in no layer of docs/house.toml; add it to one")


GRAPH = {
    name: imports(name, path.read_text(encoding="utf-8"), is_package=path.stem == "__init__")
    for name, path in MODULES.items()
}


def upward(graph: dict[str, set[str]]) -> list[str]:
    return [
        f"{name} imports {other}, which stands above it"
        for name, others in graph.items()
        for other in sorted(others)
        if layer_of(other) > layer_of(name)
    ]


def test_no_module_imports_from_a_higher_layer() -> None:
    assert upward(GRAPH) == []


def test_no_modules_import_each_other() -> None:
    # A package's __init__ gathers its members, which name it only to reach each other.
    inner = {
        name: {other for other in others if MODULES[other].stem != "__init__"}
        for name, others in GRAPH.items()
    }
    list(TopologicalSorter(inner).static_order())


def test_an_upward_import_would_be_found() -> None:
    assert imports(
        "zpyro.errors", "def f():\n    from zpyro import training", is_package=False
    ) == {"zpyro.training.loop"}
    relative = imports("zpyro_cli.train", "from .common import say", is_package=False)
    assert relative == {"zpyro_cli.common"}
    unseen = "if TYPE_CHECKING:\n    from zpyro.training.loop import fit"
    assert imports("zpyro.errors", unseen, is_package=False) == set()
    assert upward({"zpyro.errors": {"zpyro.training.loop"}}) != []


def test_what_the_library_gives_stands_in_the_reference() -> None:
    """Whatever ``zpyro.__all__`` names, every model and every data set: in a public module."""
    public = {entry for layer in LAYERS for entry in layer["public"]}
    given = [getattr(zpyro, name) for name in zpyro.__all__ if not name.startswith("__")]
    given += [*MODELS_BY_NAME.values(), *(entry.settings for entry in ENTRIES.values())]
    for thing in given:
        module = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
        assert module in public, f"{thing} is not in the reference; make {module} public"


def test_every_name_in_the_layers_exists_once() -> None:
    entries = [entry for layer in LAYERS for entry in (*layer["public"], *layer["internal"])]
    assert len(entries) == len(set(entries))
    for entry in entries:
        assert entry.removesuffix(".*") in MODULES, f"docs/house.toml names {entry}"
    for module in MODULES:
        layer_of(module)

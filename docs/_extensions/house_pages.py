"""What pages take from house.toml and from the code: the picture, the layers, the reference."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import re
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import zpyro

HOUSE = Path(__file__).parents[1] / "house.toml"


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directives, and how to find what a package takes in from its modules."""
    app.add_directive("zpyro-house", Picture)
    app.add_directive("zpyro-layers", LayerTables)
    app.add_directive("zpyro-modules", LayerReference)
    app.add_directive("zpyro-names", PublicNames)
    app.connect("missing-reference", resolve_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def layers() -> list[dict[str, Any]]:
    """The layers, lowest first."""
    return tomllib.loads(HOUSE.read_text(encoding="utf-8"))["layer"]


class Picture(SphinxDirective):
    """The house: one storey a layer, those who call above those who are called."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(HOUSE))
        return [nodes.literal_block(text=picture(layers()))]


def picture(storeys: list[dict[str, Any]]) -> str:
    """The layers as boxes of text, the lowest at the bottom."""
    rows = [f"{storey['name']:<10} {storey['holds']}" for storey in reversed(storeys)]
    inner = max(map(len, rows))
    floor = "+" + "-" * (inner + 2) + "+"
    lines = [" " * (inner // 2 + 1) + "/\\", " " * 3 + "/" + "-" * (inner - 4) + "\\", floor]
    for row in rows:
        lines += [f"| {row:<{inner}} |", floor]
    return "\n".join([*lines, "a module imports from its own storey and from those below it"])


class LayerTables(SphinxDirective):
    """Every module of every layer with the first line of its docstring."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(HOUSE))
        text: list[str] = []
        for layer in reversed(layers()):
            rows = [f"## {layer['name']}", f"{layer['holds'][0].upper()}{layer['holds'][1:]}.", ""]
            rows += ["| module | what it is |", "|---|---|"]
            names = expanded([*layer["public"], *layer["internal"]])
            rows += [f"| `{name}` | {summary(name)} |" for name in sorted(names)]
            text.append("\n".join(rows))
        return self.parse_text_to_nodes("\n\n".join(text), allow_section_headings=True)


class LayerReference(SphinxDirective):
    """The reference of a layer: its public modules one after another."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(HOUSE))
        layer = next(each for each in layers() if each["name"] == self.arguments[0])
        text = [
            f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```"
            for name in expanded(layer["public"])
        ]
        return self.parse_text_to_nodes("\n\n".join(text), allow_section_headings=True)


class PublicNames(SphinxDirective):
    """What ``import zpyro`` gives: every name of ``zpyro.__all__`` and where it is explained."""

    def run(self) -> list[nodes.Node]:
        rows = ["| name | |", "|---|---|"]
        for name in sorted(zpyro.__all__, key=str.lower):
            thing = getattr(zpyro, name)
            if name.startswith("__"):
                continue
            role = "mod" if not hasattr(thing, "__qualname__") else "obj"
            path = full_name("zpyro", name) or f"zpyro.{name}"
            told = first_sentence(thing.__doc__ or "")
            rows.append(f"| {{py:{role}}}`zpyro.{name} <{path}>` | {told} |")
        return self.parse_text_to_nodes("\n".join(rows))


def expanded(names: list[str]) -> list[str]:
    """The names with every pattern ``package.*`` replaced by the modules below the package."""
    found: list[str] = []
    for name in names:
        if not name.endswith(".*"):
            found.append(name)
            continue
        package = name.removesuffix(".*")
        path = Path(str(source(package))).parent
        inner = [f"{package}.{each.name}" for each in pkgutil.iter_modules([str(path)])]
        found += [package, *(each for each in inner if not each.endswith("__main__"))]
    return found


def source(name: str) -> Path:
    """The file of a module."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"{HOUSE.name} names {name}, which is no module")
    return Path(spec.origin)


def summary(name: str) -> str:
    """The first sentence of a module's docstring, without its markup."""
    text = ast.get_docstring(ast.parse(source(name).read_text(encoding="utf-8"))) or ""
    return first_sentence(text)


def first_sentence(docstring: str) -> str:
    """The first paragraph on one line, its roles and quotes as Markdown has them."""
    first = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r":\w+:(?=`)", "", first).replace("``", "`").replace("|", "\\|")


def resolve_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.reference | None:
    """Link ``zpyro.ZForcing``, which stands in the reference under the module that defines it."""
    if node.get("refdomain") != "py":
        return None
    package, _, name = node["reftarget"].rpartition(".")
    target = full_name(package, name)
    if target is None or target == node["reftarget"]:
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def full_name(package: str, name: str) -> str | None:
    """Where what a package of ours takes in was defined, or None."""
    if package.split(".")[0] not in ("zpyro", "zpyro_examples"):
        return None
    try:
        thing = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError):
        return None
    module = getattr(thing, "__module__", None)
    return f"{module}.{thing.__qualname__}" if module and hasattr(thing, "__qualname__") else None

"""The reference: what the API pages list, and links from full names to the public ones."""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

import zpyro

PACKAGES = (
    *("zpyro.errors", "zpyro.settings", "zpyro.io", "zpyro.nn", "zpyro.likelihoods"),
    *("zpyro.datasets", "zpyro.distributed", "zpyro.models", "zpyro.objectives"),
    *("zpyro.evaluation", "zpyro.training", "zpyro.analysis"),
)
"""Modules with a reference page, in the order of their imports."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the resolver of references."""
    app.add_directive("zpyro-names", PublicNames)
    app.connect("missing-reference", link_to_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class PublicNames(SphinxDirective):
    """A table of ``zpyro.__all__`` with links to where each name is documented."""

    def run(self) -> list[nodes.Node]:
        rows = ["| name | |", "|---|---|"]
        for name in sorted(zpyro.__all__, key=str.lower):
            thing = getattr(zpyro, name)
            if name.startswith("__"):
                continue
            role, path = "obj", public_name(f"zpyro.{name}")
            if isinstance(thing, ModuleType):
                role, path = "mod", thing.__name__
            rows.append(f"| {{py:{role}}}`zpyro.{name} <{path}>` | {summary(thing)} |")
        return self.parse_text_to_nodes("\n".join(rows))


def summary(thing: object) -> str:
    """The first paragraph of a docstring on one line, as Markdown."""
    first = " ".join((thing.__doc__ or "").split("\n\n")[0].split())
    return re.sub(r":\w+:(?=`)", "", first).replace("``", "`").replace("|", "\\|")


def link_to_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Link a name to its documented path; show a private one as text; None if it does not exist."""
    if node.get("refdomain") != "py":
        return None
    public = public_name(node["reftarget"])
    if not public or public == node["reftarget"]:
        return contnode if public is not None else None
    domain = env.domains["py"]
    found = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    return found or contnode


def public_name(target: str) -> str | None:
    """The documented path of an object of ours, "" if it is private, None if there is none."""
    parts = target.split(".")
    if parts[0] not in ("zpyro", "zpyro_examples"):
        return None
    thing: Any = importlib.import_module(parts[0])
    public = ""
    for position, name in enumerate(parts[1:], 1):
        owner, thing = thing, getattr(thing, name, None)
        if thing is None and isinstance(owner, ModuleType):
            try:
                thing = importlib.import_module(".".join(parts[: position + 1]))
            except ImportError:
                return None
        rest = ".".join(parts[position + 1 :])
        public = next((f"{path}.{rest}".rstrip(".") for path in _paths(thing)), public)
        if thing is None:  # an attribute without a default
            return public if name in getattr(owner, "__annotations__", {}) else None
    return public


def _paths(thing: object) -> list[str]:
    """Where a class or function is in the ``__all__`` of a package."""
    if not hasattr(thing, "__qualname__"):
        return []
    modules = [importlib.import_module(name) for name in PACKAGES]
    return [
        f"{module.__name__}.{name}"
        for module in modules
        for name in getattr(module, "__all__", vars(module))
        if getattr(module, name) is thing
        and (hasattr(module, "__all__") or getattr(thing, "__module__", "") == module.__name__)
    ]

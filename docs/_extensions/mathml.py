"""Formulas as MathML, which browsers render without scripts and without a network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_inline(writer: Any, node: nodes.Element) -> None:
    """Write a formula within a line."""
    writer.body.append(converted(node, as_block=False))
    raise nodes.SkipNode


def write_block(writer: Any, node: nodes.Element) -> None:
    """Write a displayed formula, which scrolls if it is too wide."""
    writer.body.append(writer.starttag(node, "div", CLASS="math", STYLE="overflow-x: auto"))
    writer.body.append(converted(node, as_block=True) + "</div>")
    raise nodes.SkipNode


def converted(node: nodes.Element, *, as_block: bool) -> str:
    """The TeX of a node as MathML; invalid TeX is a warning, which fails the build."""
    try:
        return latex2mathml.tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logger.warning("invalid formula: %s", error, location=node)
        return ""

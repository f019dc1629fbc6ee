"""Formulas as MathML, which every browser draws by itself: no script, no network."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (draw_inline, None), (draw_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def draw_inline(writer: Any, node: nodes.Element) -> None:
    """A formula within a line."""
    writer.body.append(converted(node, as_block=False))
    raise nodes.SkipNode


def draw_block(writer: Any, node: nodes.Element) -> None:
    """A formula on lines of its own, which scrolls where it is too wide."""
    writer.body.append(writer.starttag(node, "div", CLASS="math", STYLE="overflow-x: auto"))
    writer.body.append(converted(node, as_block=True) + "</div>")
    raise nodes.SkipNode


def converted(node: nodes.Element, *, as_block: bool) -> str:
    """The TeX of a node as MathML; what cannot be read is a warning, so that the build fails."""
    try:
        return latex2mathml.tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logger.warning("this formula cannot be read: %s", error, location=node)
        return ""

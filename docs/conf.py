"""How Sphinx builds these pages: ``make docs``. Nothing is fetched while building or reading."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

import inventories  # noqa: E402

project = "zpyro"
author = "the authors of zpyro"
copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "api_pages",
    "mathml",
    "settings_pages",
]
exclude_patterns = ["_build", "_extensions"]

# Names of torch, Pyro, NumPy and Python that the table has become links.
intersphinx_mapping = inventories.mapping(HERE / "_build" / "inventories")

# A reference to a name of zpyro that does not exist is a warning, and warnings are errors. Names of
# other projects are not checked: that would need whole inventories from the network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!zpyro).*")]

# Notebooks are shown with the outputs that they hold; tests run them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# A block of TeX in Markdown, as GitHub shows it too.
myst_fence_as_directive = ["math"]
html_math_renderer = "mathml"
# Keep the two hyphens of options.
smartquotes = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "zpyro"
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Connect the two corrections below."""
    app.connect("autodoc-process-docstring", keep_stars)
    app.connect("sphinx-click-process-description", format_examples)


def keep_stars(
    _app: Sphinx, _what: str, _name: str, _obj: object, _opt: object, lines: list[str]
) -> None:
    """Escape the star of a shape such as (B, classes, *cells)."""
    lines[:] = [re.sub(r"(?<=[( ])\*(?=\w+[),])", r"\\*", line) for line in lines]


def format_examples(_app: Sphinx, _context: object, lines: list[str]) -> None:
    """Show the examples in a command's help as a block of code."""
    if "| Example:" in lines:
        start = lines.index("| Example:")
        shown = [line.removeprefix("|   ") for line in lines[start + 1 :]]
        block = ["", ".. code-block:: bash", "", *(f"   {line}" for line in shown), ""]
        lines[start:] = ["For example:", *block]

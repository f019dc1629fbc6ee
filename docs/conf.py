"""How Sphinx builds these pages: ``make docs``. Nothing is fetched while building or reading."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = "zpyro"
author = "the authors of zpyro"
copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "house_pages",
    "mathml",
    "settings_pages",
]
exclude_patterns = ["_build", "_extensions"]

# A reference to something of ours that is not there is a warning, and warnings are errors. What
# belongs to torch or Pyro would need their inventories from the network, and modules that are
# internal have no page.
nitpicky = True
_layers = tomllib.loads((HERE / "house.toml").read_text(encoding="utf-8"))["layer"]
_internal = [name for layer in _layers for name in layer["internal"] if "." in name]
nitpick_ignore_regex = [
    (r"py:.*", r"(?!zpyro).*"),
    (r"py:.*", r"zpyro.*\.T"),
    *((r"py:.*", re.escape(name.removesuffix(".*")) + r"(\..*)?") for name in _internal),
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# A block of TeX in Markdown, as GitHub shows it too.
myst_fence_as_directive = ["math"]
html_math_renderer = "mathml"
# Two hyphens begin an option here.
smartquotes = False

autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
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
    """Small repairs of what is read: see the functions below."""
    app.connect("source-read", leave_out_missing)
    app.connect("autodoc-process-docstring", keep_stars)
    app.connect("sphinx-click-process-description", set_examples_apart)


def leave_out_missing(app: Sphinx, docname: str, source: list[str]) -> None:
    """Drop the lines of the front page's contents that name no page."""
    if docname == "index":
        lines = source[0].splitlines()
        names = re.compile(r"[a-z_]+(/[a-z_]+)*")
        source[0] = "\n".join(
            line
            for line in lines
            if not names.fullmatch(line) or (Path(app.srcdir) / f"{line}.md").exists()
        )


def keep_stars(
    _app: Sphinx, _what: str, _name: str, _obj: object, _opt: object, lines: list[str]
) -> None:
    """A shape such as (B, classes, *cells) begins no emphasis."""
    lines[:] = [re.sub(r"(?<=[( ])\*(?=\w+[),])", r"\\*", line) for line in lines]


def set_examples_apart(_app: Sphinx, _context: object, lines: list[str]) -> None:
    """The examples in a command's help as a block of code."""
    if "| Example:" in lines:
        start = lines.index("| Example:")
        shown = [line.removeprefix("|   ") for line in lines[start + 1 :]]
        block = ["", ".. code-block:: bash", "", *(f"   {line}" for line in shown), ""]
        lines[start:] = ["For example:", *block]

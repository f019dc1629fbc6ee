"""The papers behind the models and objectives, as BibTeX.

Each stands once, in the docstring of what it is the source of; here they are only found.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping

from zpyro.errors import UserError
from zpyro.models import MODELS
from zpyro.objectives.multi_sample import MultiSampleELBO

PYRO = """\
@article{bingham2019pyro,
  title={Pyro: Deep Universal Probabilistic Programming},
  author={Bingham, Eli and Chen, Jonathan P. and Jankowiak, Martin and Obermeyer, Fritz and
          Pradhan, Neeraj and Karaletsos, Theofanis and Singh, Rohit and Szerlip, Paul and
          Horsfall, Paul and Goodman, Noah D.},
  journal={Journal of Machine Learning Research},
  volume={20},
  pages={28:1--28:6},
  year={2019}
}"""

Sources = Mapping[str, tuple[object, ...]]
"""By name: texts, or classes and functions whose docstrings hold BibTeX."""

SOURCES: Sources = {
    **{name: (kind,) for name, kind in MODELS.items()},
    "iwae": (MultiSampleELBO,),
    "dreg": (MultiSampleELBO,),
    "pyro": (PYRO,),
}
"""The models, the bounds of many paths, and Pyro itself."""

_ENTRY = re.compile(r"^@\w+\{(?P<key>[\w-]+),.*?^\}$", flags=re.DOTALL | re.MULTILINE)


def bibtex(name: str, sources: Sources = SOURCES) -> str:
    """The papers behind one name as BibTeX entries, a blank line between them.

    Args:
        name: one of the sources, or "all" for every paper once.
        sources: what can be cited.

    Raises:
        UserError: naming the nearest one if there is none of that name.
    """
    if name != "all" and name not in sources:
        nearest = difflib.get_close_matches(name, [*sources, "all"], n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UserError(f"nothing is called {name}; {hint}choose one of all, {', '.join(sources)}")
    chosen = sources.values() if name == "all" else [sources[name]]
    found: dict[str, str] = {}
    for thing in (thing for things in chosen for thing in things):
        found.update(entries(thing))
    return "\n\n".join(found.values())


def entries(thing: object) -> dict[str, str]:
    """The BibTeX entries of a text, or of what a class or function says of itself, by key."""
    text = thing if isinstance(thing, str) else inspect.getdoc(thing) or ""
    lines = text.splitlines()
    # Entries in a docstring stand further in than the words around them.
    bare = "\n".join(inspect.cleandoc("\n" + block) for block in _blocks(lines))
    return {match["key"]: match.group() for match in _ENTRY.finditer(bare)}


def _blocks(lines: list[str]) -> list[str]:
    """Lines that stand together under one indentation, each group as a text."""
    groups: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            groups.append([])
        else:
            groups[-1].append(line)
    return ["\n".join(group) for group in groups if group]

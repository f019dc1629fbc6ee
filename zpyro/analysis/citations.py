"""The papers behind the models, objectives and published data, as BibTeX.

Each is written once, in the docstring of the class that it is the source of, and found there.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping

from zpyro.datasets import music
from zpyro.errors import UserError
from zpyro.models import MODELS
from zpyro.objectives.fivo import FIVO
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
    **{name: (cls,) for name, cls in MODELS.items()},
    "iwae": (MultiSampleELBO,),
    "dreg": (MultiSampleELBO,),
    "fivo": (FIVO,),
    "music": (music.load,),
    "pyro": (PYRO,),
}
"""The models, the multi-sample bounds, the rolls of the data set ``music``, and Pyro."""

_ENTRY = re.compile(r"^@\w+\{(?P<key>[\w-]+),.*?^\}$", flags=re.DOTALL | re.MULTILINE)


def cite(name: str = "zforcing", sources: Sources = SOURCES) -> str:
    """The papers behind one name as BibTeX entries, separated by blank lines.

    Args:
        name: one of the sources, or "all" for every paper once.
        sources: what can be cited.

    Raises:
        UserError: for an unknown name; it suggests the nearest one.
    """
    if name != "all" and name not in sources:
        nearest = difflib.get_close_matches(name, [*sources, "all"], n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UserError(f"{name} is not known; {hint}choose one of all, {', '.join(sources)}")
    found: dict[str, str] = {}
    for items in sources.values() if name == "all" else [sources[name]]:
        for item in items:
            found.update(bibtex_entries(item))
    return "\n\n".join(found.values())


def bibtex_entries(source: object) -> dict[str, str]:
    """The BibTeX entries of a text, or of the docstring of a class or function, by key."""
    text = source if isinstance(source, str) else inspect.getdoc(source) or ""
    # Entries in a docstring are indented further than the text around them.
    blocks = re.split(r"\n\s*\n", text)
    plain = "\n".join(inspect.cleandoc("\n" + block) for block in blocks)
    return {match["key"]: match.group() for match in _ENTRY.finditer(plain)}

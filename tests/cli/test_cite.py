"""``zpyro cite``: the papers behind models, bounds and examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zpyro.analysis import citations
from zpyro.errors import UserError
from zpyro.models import MODELS
from zpyro_examples.easy_to_hard import tasks
from zpyro_examples.easy_to_hard.commands import HELP

from .conftest import Zpyro

pytestmark = pytest.mark.fast

README = Path(__file__).parents[2] / "README.md"


def cited(zpyro: Zpyro, *name: str) -> dict[str, str]:
    """What the command prints, entry by entry, each checked to be BibTeX with what is needed."""
    result = zpyro("cite", *name)
    assert result.exit_code == 0, result.output
    found = {}
    for entry in re.split(r"\n\n(?=@)", result.stdout.strip()):
        match = re.fullmatch(
            r"@(?:article|inproceedings)\{([a-z]+\d{4}\w+),\n(.*)\n\}", entry, re.S
        )
        assert match is not None, entry
        depth = 0
        for character in entry:
            depth += {"{": 1, "}": -1}.get(character, 0)
            assert depth >= 0, entry
        assert depth == 0, entry
        for field in ("title", "author", "year"):
            assert re.search(rf"\b{field}\s*=\s*\{{", match[2]), entry
        found[match[1]] = entry
    return found


def test_without_a_name_it_is_the_paper_of_the_readme(zpyro: Zpyro) -> None:
    assert list(cited(zpyro)) == ["goyal2017zforcing"]
    assert "{goyal2017zforcing," in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*MODELS, "iwae", "dreg", "pyro"])
def test_every_model_and_bound_has_papers(zpyro: Zpyro, name: str) -> None:
    assert cited(zpyro, name)


@pytest.mark.parametrize("name", list(HELP))
def test_every_task_cites_its_data_and_its_networks(zpyro: Zpyro, name: str) -> None:
    keys = set(cited(zpyro, name))
    assert {"schwarzschild2021datasets", "bansal2022endtoend", "schwarzschild2021can"} <= keys


def test_all_holds_each_paper_once(zpyro: Zpyro) -> None:
    everything = cited(zpyro, "all")
    single = [cited(zpyro, name) for name in (*citations.SOURCES, *tasks.MODULES)]
    assert everything == {key: text for papers in single for key, text in papers.items()}
    assert len(everything) == zpyro("cite", "all").stdout.count("@")


def test_entries_are_found_wherever_they_stand_in_a_docstring() -> None:
    def documented() -> None:
        """What it is.

        Source: two papers::

            @article{one2001paper,
              title={One},
            }
            @article{two2002paper,
              title={Two {T}},
            }
        """

    one = "@article{one2001paper,\n  title={One},\n}"
    two = "@article{two2002paper,\n  title={Two {T}},\n}"
    assert citations.bibtex_entries(documented) == {"one2001paper": one, "two2002paper": two}
    assert citations.cite("both", {"both": (documented, one)}) == f"{one}\n\n{two}"


def test_an_unknown_name_is_answered_with_the_nearest(zpyro: Zpyro) -> None:
    with pytest.raises(UserError, match="did you mean zforcing"):
        citations.cite("zforcign")
    result = zpyro("cite", "mazs")
    assert result.exit_code == 2
    assert "did you mean mazes?" in result.stderr

"""What docs/custom_guides.md and docs/generation.md show runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from zpyro_cli.main import main

pytestmark = pytest.mark.fast

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("custom_guides", "generation")


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_runs(page: str) -> None:
    # Torch modules look for the names of the module that they were made in.
    namespace: dict[str, object] = {"__name__": page}
    for block in blocks(page, "python"):
        exec(compile(block, f"{page}.md", "exec"), namespace)
    assert namespace["found"].z.shape[0] == 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("page", PAGES)
def test_every_option_exists(page: str) -> None:
    lines = [line.split() for block in blocks(page, "bash") for line in block.splitlines()]
    assert lines
    for words in lines:
        result = CliRunner().invoke(main, [words[1], "--help"])
        assert result.exit_code == 0, words
        for option in (word for word in words if word.startswith("-")):
            assert option in result.output, words

"""What docs/easy_to_hard.md shows runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from zpyro_cli.main import main

pytestmark = pytest.mark.fast

PAGE = (Path(__file__).parents[2] / "docs" / "easy_to_hard.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_python_runs() -> None:
    namespace: dict[str, object] = {}
    for block in blocks("python"):
        if "zpyro_examples.easy_to_hard" in block:
            exec(compile(block, "easy_to_hard.md", "exec"), namespace)
    assert namespace["draws"].shape == (10, 4, 16)  # pyright: ignore[reportAttributeAccessIssue]


def test_every_option_exists() -> None:
    lines = [line.split() for block in blocks("bash") for line in block.splitlines() if line]
    shown = [words for words in lines if words[:2] == ["zpyro", "example"]]
    assert shown
    for words in shown:
        result = CliRunner().invoke(main, [*words[1:4], "--help"])
        assert result.exit_code == 0, words
        for option in (word for word in words if word.startswith("--")):
            assert option in result.output, words

"""The code blocks of README and docs, in order."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "sh", "shell", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence, empty where there is none.
        text: what stands in it.
        place: page and line, for messages.
        reason: why it is not run, from ``<!-- not run: why -->`` on the line before; None if it is.
    """

    language: str
    text: str
    place: str
    reason: str | None


def all_pages() -> list[Path]:
    """README, CONTRIBUTING and every page of the docs."""
    docs = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page; directives such as ``{toctree}`` are none."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    fence = r"^(?:<!-- not run: (?P<reason>.+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$"
    for match in re.finditer(fence, text, flags=re.DOTALL | re.MULTILINE):
        line = text[: match.start()].count("\n") + 1
        place = f"{page.relative_to(ROOT)}, line {line}"
        found.append(Block(match["language"], match["text"], place, match["reason"]))
    return found


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block as words; comments, prompts and variables before them go."""
    joined = block.text.replace("\\\n", " ")
    found: list[list[str]] = []
    for line in joined.splitlines():
        for part in re.split(r"\s*(?:&&|\|)\s*", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            # Where the output goes is the shell's business.
            words = list(itertools.takewhile(lambda word: word not in (">", ">>"), words))
            if words:
                found.append(words)
    return found

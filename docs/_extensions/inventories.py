"""References to torch, Pyro, NumPy and Python, without a network.

``intersphinx`` reads which name stands where from inventories. The table ``inventories.txt`` holds
the names that the pages use; it is written as inventories when a build starts. On a machine
with a network, ``ZPYRO_DOCS_ONLINE=1`` lets the published inventories come first.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

TABLE = Path(__file__).parent / "inventories.txt"


def mapping(folder: Path) -> dict[str, tuple[str, str | tuple[str | None, str]]]:
    """The setting ``intersphinx_mapping``; inventories are written to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, tuple[str, str | tuple[str | None, str]]] = {}
    online = os.environ.get("ZPYRO_DOCS_ONLINE") == "1"
    for block in TABLE.read_text(encoding="utf-8").strip().split("\n\n"):
        head, *lines = block.splitlines()
        project, address = head.split()
        path = folder / f"{project}.inv"
        path.write_bytes(_inventory(project, lines))
        found[project] = address, (None, str(path)) if online else str(path)
    return found


def _inventory(project: str, lines: list[str]) -> bytes:
    """An inventory of version 2 of lines "role name page"; the anchor is the name."""
    header = "# Sphinx inventory version 2\n# Project: {}\n# Version: \n"
    header += "# The remainder of this file is compressed using zlib.\n"
    entries = (line.split() for line in lines)
    body = "".join(f"{name} py:{role} 1 {page}#$ -\n" for role, name, page in entries)
    return header.format(project).encode() + zlib.compress(body.encode())

"""Every file below a folder, hidden ones left out, and what to call it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from zpyro.errors import UserError, printable


def walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones, in no order; links are followed once.

    Raises:
        UserError: if part of it cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        # A link to a folder above would lead round and round.
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def relative_name(path: Path, folder: Path) -> str:
    """What a file below a folder is called: its relative path in printable characters."""
    return printable(path.relative_to(folder).as_posix())


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions")

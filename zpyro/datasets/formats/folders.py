"""Every file below a folder, hidden ones left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from zpyro.errors import UserError


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


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions")

"""The files below a folder, what to call them, and errors about them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from zpyro.errors import UserError, pluralize, printable

SHOWN = 5
"""Files that an error offers before the rest is only counted."""


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


def files_to_give(folder: Path, suffixes: Collection[str]) -> str:
    """The files in a folder, not below it, that are data by themselves: "a.mat, b.mat and 2 more".

    Args:
        folder: where to look.
        suffixes: of their names, in lower case.
    """
    names = sorted(
        printable(path.name)
        for path in folder.iterdir()
        if path.name.lower().endswith(tuple(suffixes)) and path.is_file()
    )
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def check_folder(path: Path, wanted: str, missing: str) -> None:
    """Make sure that a path is a folder.

    Args:
        path: what ``--data`` is.
        wanted: what to give in place of a file.
        missing: the advice where nothing is there.

    Raises:
        UserError: if it is none.
    """
    if path.is_dir():
        return
    if os.path.lexists(path):
        raise UserError(f"{path} is not a folder; give {wanted}")
    raise UserError(f"{path} does not exist; {missing}")


def first_of(problems: Sequence[UserError]) -> UserError:
    """One error for all the files that cannot be used: the first, and how many more there are."""
    others = len(problems) - 1
    more = f" (and {pluralize(others, 'more file')} like it)" if others else ""
    return UserError(f"{problems[0]}{more}")


def _unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); change its permissions")

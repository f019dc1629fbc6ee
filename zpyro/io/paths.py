"""Paths that a user gives: in options, settings and arguments of functions."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from zpyro.errors import UserError, printable

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes in a name and in a path, on the usual file systems."""
_SHOWN = 60


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path that a user gave, with ``~`` expanded.

    Raises:
        UserError: if it is empty or too long, if it is not UTF-8 or holds control characters
            (settings and checkpoints cannot record such a path), or if ``~`` has no meaning because
            HOME is not set.
    """
    given = os.fspath(path)
    shown = printable(given)
    if not given:
        raise UserError("a path is empty; give the name of a file or folder")
    text = os.path.expanduser(given)
    if (given == "~" or given.startswith("~/")) and (text == given or os.environ.get("HOME") == ""):
        raise UserError(f"{shown}: ~ has no meaning, HOME is not set; give the whole path")
    if "\0" in text:
        raise UserError(f"{shown}: has a NUL character, as no file name can; correct it")
    try:
        whole = os.path.abspath(text)
    except FileNotFoundError as error:
        raise UserError(f"{shown}: the current folder was removed; change to another") from error
    if printable(whole) != whole:
        raise UserError(
            f"{printable(whole)}: has control characters, or bytes that are not UTF-8, in its name;"
            " rename it or choose another"
        )
    if _is_too_long(whole):
        start = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise UserError(f"{start}: is too long for a file name; shorten it")
    return Path(text)


def _is_too_long(path: str) -> bool:
    encoded = os.fsencode(path)
    if len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        return True
    try:
        os.lstat(path)
    except OSError as error:
        # Whether it must be there is for its user to say.
        return error.errno == errno.ENAMETOOLONG
    return False

"""Paths that a user gives, and how the name of any file is shown."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

from zpyro.errors import UserError

_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reorder the text around them."""
_SHOWN = 60


def printable(text: str) -> str:
    """Text with escapes for what no terminal and no UTF-8 file should get.

    Bytes of a file name that are not UTF-8 become ``\\xe9``, control characters ``\\n`` or
    ``\\x1b``.
    """
    return "".join(map(_escaped, text))


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
        os.lstat(text)
    except OSError as error:
        # Whether it must be there is for its user to say.
        if error.errno == errno.ENAMETOOLONG:
            start = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            raise UserError(f"{start}: is too long for a file name; shorten it") from error
    try:
        whole = os.path.abspath(text)
    except FileNotFoundError as error:
        raise UserError(f"{shown}: the current folder was removed; change to another") from error
    if printable(whole) != whole:
        raise UserError(
            f"{printable(whole)}: has control characters, or bytes that are not UTF-8, in its name;"
            " rename it or choose another"
        )
    return Path(text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN and character not in _DIRECTIONS:
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()

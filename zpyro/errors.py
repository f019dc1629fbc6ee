"""The one exception for mistakes that a user can correct."""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "UserError",
]

_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reorder the text around them."""

_SHAPES = re.compile(r"\n[ ]*Trace Shapes:.*", re.DOTALL)


class UserError(ValueError):
    """A wrong file, setting or argument; the message is one line that says what to do.

    The command line prints it as ``error: MESSAGE`` and exits with code 2, so the message names
    the file or setting, what was wrong with it, and the way out.

    Attributes:
        of_one_process: whether only one of several processes that work together has it.
    """

    of_one_process = False

    def __init__(self, message: str) -> None:
        # A Pyro trace that an exception passes through raises it anew with more lines.
        super().__init__(printable(without_shapes(message)))


def printable(text: str) -> str:
    """Text on one line, with escapes for what no terminal and no UTF-8 file should get.

    Bytes of a file name that are not UTF-8 become ``\\xe9``, control characters ``\\n`` or
    ``\\x1b``.
    """
    return "".join(map(_escaped, text))


def pluralize(number: int, noun: str) -> str:
    """A number with its noun: 1 step, 12 steps, 1,350 steps."""
    plural = noun if noun.endswith("series") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN and character not in _DIRECTIONS:
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def without_shapes(message: str) -> str:
    """A message without the table of sites that Pyro's traces append to it."""
    return _SHAPES.sub("", message)

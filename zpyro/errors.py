"""The one exception for mistakes that a user can mend."""

from __future__ import annotations

import re

__all__ = [
    "UserError",
]

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
        super().__init__(without_shapes(message))


def without_shapes(message: str) -> str:
    """A message without the table of sites that Pyro's traces append to it."""
    return _SHAPES.sub("", message)

"""The one exception for mistakes that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """A wrong file, setting or argument; the message is one line that says what to do.

    The command line prints it as ``error: MESSAGE`` and exits with code 2, so the message names
    the file or setting, what was wrong with it, and the way out.
    """

"""The folder of files that zpyro can compute again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from zpyro.errors import UserError
from zpyro.io.paths import user_path

ADVICE = "set ZPYRO_CACHE to a folder that can be written"


def cache_folder() -> Path:
    """$ZPYRO_CACHE, else zpyro in the cache folder of the operating system.

    On Linux that is $XDG_CACHE_HOME or ~/.cache.

    Raises:
        UserError: if there is no home folder, or the path cannot be used.
    """
    given = os.environ.get("ZPYRO_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if not given and not base and os.environ.get("HOME") == "":
            # platformdirs would guess a home folder.
            user_path("~")
        return user_path(given or platformdirs.user_cache_dir("zpyro", appauthor=False))
    except UserError as error:
        what, _, _ = str(error).rpartition("; ")
        raise UserError(f"{what}; {ADVICE}") from error


def is_cached(path: Path) -> bool:
    """Whether a path lies in the cache folder."""
    try:
        return path.is_relative_to(cache_folder())
    except UserError:
        return False

"""Where zpyro keeps what it can always make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$ZPYRO_CACHE, else zpyro in $XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("ZPYRO_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "zpyro"

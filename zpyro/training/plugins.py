"""Plugins: a user's file that registers models, likelihoods, data sets or objective terms.

A plugin is imported once; what it registers is then available by name, as built-in entries are::

    import zpyro
    from torch import nn

    class MyModel(zpyro.models.SmoothingModel): ...

    zpyro.models.register("mine", MyModel)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from zpyro.errors import UserError
from zpyro.training import user_files
from zpyro.training.user_files import RecordedFile, UserFile

FOLDER, RECORD = "plugins", "plugins.json"


def load(paths: Iterable[Path]) -> list[UserFile]:
    """Import plugin files.

    Raises:
        UserError: if two have one name, or one is missing or fails; the message names the file
            and the line.
    """
    found = read(paths)
    for file in found:
        file.run()
    return found


def read(paths: Iterable[Path]) -> list[UserFile]:
    """Read plugin files without importing them.

    Raises:
        UserError: if two have one name, or one is missing.
    """
    different = {path.resolve(): path for path in paths}.values()
    for name, count in Counter(path.name for path in different).items():
        if count > 1:
            raise UserError(f"--plugin: {count} files are named {name}; rename one")
    return [user_files.read(path, "--plugin") for path in different]


def keep(run: Path, plugins: Sequence[UserFile]) -> None:
    """Leave copies of plugin files and their checksums in a run directory."""
    if plugins:
        user_files.keep(run / FOLDER, RECORD, [(plugin, None) for plugin in plugins])


def recorded(run: Path) -> list[RecordedFile]:
    """The recorded plugins of a run.

    Raises:
        UserError: if the record is corrupt.
    """
    return user_files.recorded(run / FOLDER, RECORD)

"""The type of every option and argument that is a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class UserPath(click.Path):
    """A path as :func:`zpyro.io.paths.user_path` takes it: ``~`` expanded, the name checked."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        # Imported when an option is used: help needs no torch.
        from zpyro.io.paths import user_path

        return user_path(os.fsdecode(super().convert(value, param, ctx)))


PATH = UserPath()

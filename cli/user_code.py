"""Options for a user's own code: --guide and --plugin, and the copies of it in a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import log
from .paths import PATH

if TYPE_CHECKING:
    from zpyro.training.custom_guides import GuideSource
    from zpyro.training.user_files import UserFile

GUIDE = (
    click.option(
        "--guide",
        metavar="FILE.py:NAME",
        help="A custom guide: a class or function that takes the built model.",
    ),
    click.option("--run-guide", is_flag=True, help="Use the copy of the guide in the run."),
)
PLUGIN = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=PATH,
    metavar="FILE.py",
    help="A file that registers models, likelihoods, data sets or objective terms; repeatable.",
)
RUN_PLUGINS = click.option(
    "--run-plugins", is_flag=True, help="Use the copies of the plugins in the run."
)
FILES = "zpyro.user_files"
"""Key of click's context under which the paths of a user's files are kept for error messages."""


def plugin_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --plugin."""
    return PLUGIN(command)


def user_code_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --guide, --run-guide, --plugin and --run-plugins, for commands on a run."""
    for option in reversed((*GUIDE, PLUGIN, RUN_PLUGINS)):
        command = option(command)
    return command


@dataclass(frozen=True)
class UserCode:
    """The user's code that a command uses.

    Attributes:
        guide: the custom guide, or None for the model's own.
        plugins: the imported plugins.
    """

    guide: GuideSource | None
    plugins: tuple[UserFile, ...]

    def keep(self, run: Path) -> None:
        """Leave copies in a run directory."""
        from zpyro.training import plugins

        if self.guide is not None:
            self.guide.keep(run)
        plugins.keep(run, self.plugins)


def load_plugins(paths: Sequence[Path]) -> tuple[UserFile, ...]:
    """Import plugin files.

    Raises:
        UserError: if one is missing or fails.
    """
    if not paths:
        return ()
    from zpyro.training import plugins

    _remember(paths)
    return tuple(plugins.load(paths))


def load_user_code(
    run: Path | None,
    *,
    guide: str | None,
    run_guide: bool,
    plugins: Sequence[Path],
    run_plugins: bool,
    guide_needed: bool = True,
) -> UserCode:
    """Import the code that the options of a command name.

    Args:
        run: the run directory, if there is one already.
        guide: of --guide.
        run_guide: of --run-guide.
        plugins: of --plugin.
        run_plugins: of --run-plugins.
        guide_needed: whether the command needs the custom guide of the run.

    Raises:
        UserError: if a run recorded code and no option allows it to be executed, options exclude
            each other, or the code fails.
    """
    loaded = _run_plugins(run, plugins, run_plugins)
    return UserCode(_run_guide(run, guide, run_guide, guide_needed), loaded)


def _run_plugins(
    run: Path | None, paths: Sequence[Path], run_plugins: bool
) -> tuple[UserFile, ...]:
    from zpyro.errors import UserError
    from zpyro.training import plugins

    if paths and run_plugins:
        raise UserError("--plugin and --run-plugins are both given; give one")
    records = [] if run is None else plugins.recorded(run)
    if records and not paths and not run_plugins:
        names = " ".join(f"--plugin {shlex.quote(record.file)}" for record in records)
        raise UserError(
            f"{run}: uses plugins, and code in a run directory is not executed by default; pass "
            f"{names}, or --run-plugins for the copies in the run"
        )
    if not run_plugins:
        loaded = load_plugins(paths)
        checksums = {record.file: record.sha256 for record in records}
        for file in loaded if run is not None else ():
            kept = checksums.get(file.path.name)
            if kept is None:
                log(f"note: {file.path} is not one of the plugins of {run}")
            elif kept != file.checksum:
                log(f"note: {file.path} differs from the {file.path.name} of the last training")
        return loaded
    if not records:
        raise UserError(f"{run}: holds no plugins; leave out --run-plugins")
    _remember([record.path for record in records])
    found = tuple(record.read("--plugin") for record in records)
    for file in found:
        file.run()
    return found


def _run_guide(
    run: Path | None, guide: str | None, run_guide: bool, needed: bool
) -> GuideSource | None:
    from zpyro.errors import UserError
    from zpyro.io.paths import user_path
    from zpyro.training import custom_guides

    if guide and run_guide:
        raise UserError("--guide and --run-guide are both given; give one")
    record = None if run is None else custom_guides.recorded(run)
    if run is not None and record is None and (guide or run_guide):
        raise UserError(f"{run}: was trained with the model's own guide; leave out --guide")
    if record is not None and needed and not (guide or run_guide):
        raise UserError(
            f"{run}: was trained with the custom guide {record.name} of {record.file}, and code "
            f"in a run directory is not executed by default; pass --guide "
            f"{shlex.quote(f'{record.file}:{record.name}')}, or --run-guide for the copy "
            f"{record.path}"
        )
    source = None
    if guide:
        _remember([user_path(guide.rpartition(":")[0] or guide)])
        source = custom_guides.load(guide)
    elif run_guide and record is not None:
        _remember([record.path])
        source = custom_guides.load_recorded(record)
    if source is not None and record is not None and source.file.checksum != record.sha256:
        log(f"note: {source.file.path} differs from the {record.file} of the last training")
    return source


def _remember(paths: Sequence[Path]) -> None:
    click.get_current_context().meta.setdefault(FILES, []).extend(paths)

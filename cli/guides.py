"""The options --guide and --run-guide: when a user's code is run, and when not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .common import log

GUIDE = click.option(
    "--guide",
    metavar="FILE.py:NAME",
    help="A guide of your own: a class or function that takes the built model.",
)
RUN_GUIDE = click.option(
    "--run-guide", is_flag=True, help="Run the copy of a guide's code that lies in the run."
)


def guide_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--guide and --run-guide, for commands on a run."""
    return GUIDE(RUN_GUIDE(command))


def use_guide(run: Path | None, guide: str | None, run_guide: bool, *, needed: bool = True) -> None:
    """Until the command ends, models get the guide that was asked for.

    Args:
        run: the run directory, if there is one already.
        guide: of --guide.
        run_guide: of --run-guide.
        needed: whether the command means nothing without the guide that a run was trained with.

    Raises:
        UserError: if a run carries a guide and neither option allows it to be run, or both are
            given, or the code fails.
    """
    from zpyro.errors import UserError
    from zpyro.training import custom_guides as custom_guides

    if guide and run_guide:
        raise UserError("--guide and --run-guide are both given; give one")
    record = None if run is None else custom_guides.recorded(run)
    if run is not None and record is None and (guide or run_guide):
        raise UserError(f"{run}: was trained with the model's own guide; leave out --guide")
    if record is not None and needed and not (guide or run_guide):
        raise UserError(
            f"{run}: was trained with a guide of its own, {record.name} of {record.file}, and no "
            f"code of a run is run unasked; pass --guide {record.file}:{record.name}, or "
            f"--run-guide to run the copy {record.path}"
        )
    source = None
    if guide:
        source = custom_guides.load(guide)
    elif run_guide and record is not None:
        source = record.load()
    if source is not None and record is not None and source.checksum != record.sha256:
        log(f"note: {source.path} is not the {record.file} that {run} was trained with last")
    click.get_current_context().with_resource(custom_guides.using(source))

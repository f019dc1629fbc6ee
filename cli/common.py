"""What several commands share: the console, waiting visibly, and loading data.

Progress goes to standard error, results to standard output.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from zpyro.datasets.sequences import Dataset
    from zpyro.datasets.vocabulary import Vocabulary
    from zpyro.distributed.processes import ProcessGroup
    from zpyro.training.config import Config


def console() -> Console:
    """Where progress goes."""
    from rich.console import Console

    return Console(stderr=True)


def _speaks() -> bool:
    """Whether this process is alone, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """A line of progress; of several processes the first one says it."""
    if _speaks():
        click.echo(line, err=True)


def counted(number: int, thing: str) -> str:
    """A number of things: 1 step, 12 steps."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def waiting(what: str) -> Generator[None, None, None]:
    """Show what is being waited for: a spinner in a terminal, else a line."""
    screen = console()
    if screen.is_terminal and _speaks():
        with screen.status(what):
            yield
    else:
        say(what)
        yield


def load_data(
    config: Config, vocabulary: Vocabulary | None = None, process_group: ProcessGroup | None = None
) -> Dataset:
    """The data set that a configuration names; text in a trained model's vocabulary if given.

    Of several processes the first one loads first, so that what is prepared is prepared once.
    """
    from zpyro import datasets
    from zpyro.distributed.processes import SINGLE_PROCESS

    folder = None if config.data_folder is None else Path(config.data_folder)
    where = "" if folder is None else f" from {folder}"
    with (
        waiting(f"loading {config.dataset}{where}"),
        (process_group or SINGLE_PROCESS).main_process_first(),
    ):
        return datasets.load(config.dataset, folder, config.data, vocabulary=vocabulary)

"""What several commands share: progress lines, a spinner, and loading data.

Progress goes to standard error, results to standard output.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from zpyro.datasets.sequences import Dataset
    from zpyro.datasets.vocabulary import Vocabulary
    from zpyro.distributed.processes import ProcessGroup
    from zpyro.evaluation import OnBatch
    from zpyro.training.config import Config

WIDEST = 1000
"""Characters in a line of a table."""


def console(*, stderr: bool = True, **options: Any) -> Console:
    """The console for progress, or for results.

    It prints text as it is: names of files may have brackets and colons, which are no markup.
    """
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, **options)


def print_table(table: Table) -> None:
    """Print a table to standard output; in a narrow terminal its lines are longer than that."""
    from rich.measure import Measurement

    screen = console(stderr=False)
    needed = Measurement.get(screen, screen.options.update(max_width=WIDEST), table).minimum
    screen.width = max(screen.width, needed)
    screen.print(table)


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def log(line: str) -> None:
    """Print a line of progress, on the main process only."""
    if is_main_process():
        click.echo(line, err=True)


@contextlib.contextmanager
def status(what: str) -> Generator[None, None, None]:
    """Show what the block does: a spinner in a terminal, a line now and then elsewhere."""
    from rich.text import Text

    screen = console()
    if screen.is_terminal and is_main_process():
        with screen.status(Text(what)):
            yield
    else:
        log(what)
        with _repeated(what):
            yield


@contextlib.contextmanager
def _repeated(what: str) -> Generator[None, None, None]:
    """Log what the block does and for how long, now and then until it ends."""
    from zpyro.training.callbacks import SECONDS_BETWEEN_LINES, duration

    started, ended = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            log(f"{what}: {duration(time.monotonic() - started)}")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def progress(what: str, noun: str = "") -> Generator[OnBatch, None, None]:
    """A function of (done, total) that shows progress: a bar in a terminal, lines elsewhere."""
    from rich.progress import Progress

    from zpyro.training.callbacks import GrowingPace

    screen = console()
    if not screen.is_terminal:
        log(what)
        pace = GrowingPace()
        pace.written()

        def on_batch(done: int, total: int) -> None:
            if pace.due():
                pace.written()
                log(f"{what}: {done:,} of {total:,} {noun}".rstrip())

        yield on_batch
        return
    with Progress(console=screen, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def load_data(
    config: Config, vocabulary: Vocabulary | None = None, process_group: ProcessGroup | None = None
) -> Dataset:
    """Load the data set of a configuration; text in the vocabulary of a trained model if given.

    The main process loads first, so that files are prepared once.
    """
    from zpyro.analysis.loading import load_dataset
    from zpyro.distributed.processes import SINGLE_PROCESS, available_cores

    where = "" if config.data_folder is None else f" from {config.data_folder}"
    with (
        status(f"loading {config.dataset}{where}"),
        (process_group or SINGLE_PROCESS).main_process_first(),
    ):
        return load_dataset(config, vocabulary, workers=available_cores())

"""Callbacks of a training, and the loggers: a bar in a terminal or notebook, lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from zpyro.errors import UserError
from zpyro.training.task import TrainingTask, TrainState

Record = Mapping[str, Any]

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WITHOUT_TERMS = 20.0

FIRST_SCALE, SMALLEST_SCALE, LARGEST_SCALE = 0.1, 0.25, 1.5
"""Factors on these seconds: before the first line, soon after it, and in the end."""
SECONDS_TO_FULL_SCALE = 100.0
"""The factor is 1 after so many seconds, and proportional to the time."""


class Callback:
    """Called during a training; every method does nothing unless a subclass defines it.

    Example::

        class PrintBound(Callback):
            def on_validation(self, record):
                print(record["step"], record["elbo"])

        zpyro.fit(model, data, minutes=5, callbacks=[PrintBound()])
    """

    def on_fit_start(self, task: TrainingTask[Any], state: TrainState) -> None:
        """Before the first step."""

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        """After a step.

        Args:
            state: where the training is.
            fraction: of it that is done, 0 to 1.
            seconds_left: an estimate, or None.
        """

    def on_train_record(self, record: Record) -> None:
        """After a record of means over the newest steps, as in metrics.jsonl."""

    def on_validation_progress(self, done: int, total: int) -> None:
        """During a validation, with the number of sequences scored and of all."""

    def on_validation(self, record: Record) -> None:
        """After a validation, with its record in metrics.jsonl."""

    def on_fit_end(self) -> None:
        """After the last step, also after an error."""


def check_methods(callback: Callback) -> None:
    """Check that a training calls every method ``on_...`` of a callback.

    Raises:
        UserError: naming one that it does not call, perhaps misspelled, and those that it calls.
    """
    known = [name for name in vars(Callback) if name.startswith("on_")]
    for name in dir(callback):
        if name.startswith("on_") and name not in known:
            raise UserError(
                f"callback {type(callback).__name__}: {name} is never called; a callback has "
                f"{', '.join(known[:-1])} and {known[-1]}"
            )


class NullLogger(Callback):
    """Shows nothing."""


class Pace:
    """When it is time for another line of progress.

    Args:
        seconds: between lines.
    """

    def __init__(self, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.seconds = seconds
        self._written = time.monotonic()

    def due(self, seconds: float | None = None) -> bool:
        """Whether so many seconds have passed since the last line."""
        return time.monotonic() - self._written >= (self.seconds if seconds is None else seconds)

    def written(self) -> None:
        """A line was written."""
        self._written = time.monotonic()


class GrowingPace(Pace):
    """Times between lines that grow with the time since the start, as in a log.

    Lines come after a quarter of the seconds at first, and after one and a half times as many in
    the end; the first line comes sooner.
    """

    def __init__(self, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        super().__init__(seconds)
        self._start = self._written
        self._smallest = FIRST_SCALE

    def due(self, seconds: float | None = None) -> bool:
        share = (time.monotonic() - self._start) / SECONDS_TO_FULL_SCALE
        scale = min(max(share, self._smallest), LARGEST_SCALE)
        return super().due(scale * (self.seconds if seconds is None else seconds))

    def written(self) -> None:
        super().written()
        self._smallest = SMALLEST_SCALE


class _TaskLogger(Callback):
    """Keeps the task, which knows how to describe its records.

    A copy or pickle writes to the standard output or error, as the console did, and is without a
    task until the next ``on_fit_start``.
    """

    _console: Console
    _task: TrainingTask[Any]

    def __getstate__(self) -> dict[str, Any]:
        # A console holds locks and an open file.
        state = {name: value for name, value in self.__dict__.items() if name != "_task"}
        return {**state, "_console": self._console.stderr}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._console = Console(stderr=state["_console"])

    def on_fit_start(self, task: TrainingTask[Any], state: TrainState) -> None:
        del state
        self._task = task


class LineLogger(_TaskLogger):
    """A line for each validation, and one now and then between them.

    Where steps are slow and records rare, lines without terms show the progress.

    Args:
        console: where to write.
        seconds: between lines; fewer at first, more in a long training.
    """

    def __init__(self, console: Console, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._console = console
        self._pace = GrowingPace(seconds)
        self._progress = ""

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"  {duration(seconds_left)} left"
        self._progress = f"{fraction:.0%}{left}"
        if self._pace.due(SECONDS_WITHOUT_TERMS):
            self._print(f"step {state.step}  {self._progress}")

    def on_train_record(self, record: Record) -> None:
        if self._pace.due():
            shown = self._task.describe_record(record)
            terms = "  ".join(f"{name} {value}" for name, value in shown.items())
            self._print(f"step {record['step']}  {self._progress}  {terms}")

    def on_validation_progress(self, done: int, total: int) -> None:
        if self._pace.due():
            self._print(f"validating {done}/{total}")

    def on_validation(self, record: Record) -> None:
        self._print(_validation_line(self._task, record))

    def _print(self, line: str) -> None:
        self._pace.written()
        with _output_may_fail():
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class ProgressLogger(_TaskLogger):
    """A bar with the time left and the newest terms below it; validations scroll above.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._make_bar()

    def __getstate__(self) -> dict[str, Any]:
        ours = ("_bar", "_id", "_live", "_is_shown")
        return {name: value for name, value in super().__getstate__().items() if name not in ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_bar()

    def _make_bar(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            expand=True,
        )
        self._id = self._bar.add_task("training", total=1.0, left="")
        self._live = Live(self._bar, console=self._console, refresh_per_second=4)
        self._is_shown = False

    def on_fit_start(self, task: TrainingTask[Any], state: TrainState) -> None:
        super().on_fit_start(task, state)
        with _output_may_fail():
            self._live.start(refresh=True)
            self._is_shown = True

    def on_fit_end(self) -> None:
        with _output_may_fail():
            if self._is_shown:
                self._live.stop()

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"{duration(seconds_left)} left"
        name = f"epoch {state.epoch + 1}, step {state.step}"
        self._bar.update(self._id, completed=fraction, description=name, left=left)

    def on_train_record(self, record: Record) -> None:
        table = Table.grid(padding=(0, 3))
        shown = list(self._task.describe_record(record).items())
        # Three in a row, so that it fits a narrow terminal.
        for first in range(0, len(shown), 3):
            row = shown[first : first + 3]
            table.add_row(*(Text.assemble((name, "dim"), f" {value}") for name, value in row))
        self._live.update(Group(self._bar, table))

    def on_validation_progress(self, done: int, total: int) -> None:
        self._bar.update(self._id, description=f"validating {done}/{total}")

    def on_validation(self, record: Record) -> None:
        style = "green" if record["best"] else ""
        with _output_may_fail():
            self._console.print(Text(_validation_line(self._task, record), style=style))


class NotebookLogger(Callback):
    """One line below the cell of a notebook, replaced while training goes on.

    Args:
        seconds: between replacements.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        self._pace = Pace(seconds)
        self._progress = self._terms = self._validation = ""
        self._display: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # The display belongs to the running cell.
        return {**self.__dict__, "_display": None, "_task": None}

    def on_fit_start(self, task: TrainingTask[Any], state: TrainState) -> None:
        from IPython.display import display

        del state
        self._task = task
        self._display = display(self._line(), raw=True, display_id=True)

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f", {duration(seconds_left)} left"
        self._progress = f"step {state.step}, {fraction:.0%}{left}"
        if self._pace.due():
            self._show()

    def on_train_record(self, record: Record) -> None:
        self._terms = f"bound {self._task.describe_record(record).get('bound', '-')} in training"

    def on_validation_progress(self, done: int, total: int) -> None:
        if self._pace.due():
            self._terms = f"validating {done}/{total}"
            self._show()

    def on_validation(self, record: Record) -> None:
        self._validation = _validation_line(self._task, record)
        self._show()

    def on_fit_end(self) -> None:
        self._progress = self._terms = ""
        self._show()

    def _line(self) -> dict[str, str]:
        parts = (self._progress, self._terms, self._validation)
        return {"text/plain": " | ".join(filter(None, parts))}

    def _show(self) -> None:
        self._pace.written()
        if self._display is not None:
            self._display.update(self._line(), raw=True)


def logger_for(console: Console) -> Callback:
    """The logger that suits a console: a bar in a terminal, one line in a notebook, else lines."""
    if console.is_jupyter:
        return NotebookLogger()
    return ProgressLogger(console) if console.is_terminal else LineLogger(console)


@contextlib.contextmanager
def _output_may_fail() -> Generator[None, None, None]:
    """A context in which output that cannot be written is lost: no training ends for it.

    The terminal or the reader of a pipe may be gone (for which rich exits), the disk may be full,
    and the encoding may lack a character.
    """
    with contextlib.suppress(OSError, ValueError, SystemExit):
        yield


def _validation_line(task: TrainingTask[Any], record: Record) -> str:
    return task.describe_validation(record) + ("  best so far" if record["best"] else "")


def duration(seconds: float) -> str:
    """Seconds in words: 41 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def shown_number(value: float | None) -> str:
    """A number with one decimal, or none where it is large; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}"

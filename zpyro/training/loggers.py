"""Telling someone how a training goes: live in a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from zpyro.training.train_state import TrainState

Record = Mapping[str, Any]

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WITHOUT_TERMS = 20.0


class Reporter(Protocol):
    """Told about a training as it goes; entered before the first step and left after the last."""

    def __enter__(self) -> object: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def step(self, position: TrainState, fraction: float, seconds_left: float | None) -> None:
        """A step was taken."""

    def train(self, record: Record) -> None:
        """Means over the newest steps, as metrics.jsonl holds them."""

    def validating(self, done: int, total: int) -> None:
        """So many of the held-out sequences are scored."""

    def valid(self, record: Record) -> None:
        """A validation, as metrics.jsonl holds it."""


class NullLogger:
    """Says nothing; the base of those that say something."""

    def __enter__(self) -> object:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def step(self, position: TrainState, fraction: float, seconds_left: float | None) -> None:
        pass

    def train(self, record: Record) -> None:
        pass

    def validating(self, done: int, total: int) -> None:
        pass

    def valid(self, record: Record) -> None:
        pass


class Pace:
    """When it is time for another line where no bar can move.

    Args:
        seconds: between lines.
    """

    def __init__(self, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self.seconds = seconds
        self._spoken = time.monotonic()

    def due(self, seconds: float | None = None) -> bool:
        """Whether the last line is as old as that, by default as the seconds between lines."""
        return time.monotonic() - self._spoken >= (self.seconds if seconds is None else seconds)

    def spoken(self) -> None:
        """A line was written."""
        self._spoken = time.monotonic()


class Lines(NullLogger):
    """A line for each validation, and one now and then between them.

    Where steps are so slow that their terms come seldom, lines go without these.

    Args:
        console: where to write.
        seconds: between lines.
    """

    def __init__(self, console: Console, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._console = console
        self._pace = Pace(seconds)
        self._left: float | None = None
        self._fraction = 0.0

    def step(self, position: TrainState, fraction: float, seconds_left: float | None) -> None:
        self._fraction, self._left = fraction, seconds_left
        if self._pace.due(SECONDS_WITHOUT_TERMS):
            self._say(f"step {position.step}  {self._progress()}")

    def train(self, record: Record) -> None:
        if not self._pace.due():
            return
        terms = "  ".join(f"{name} {value}" for name, value in shown_terms(record).items())
        self._say(f"step {record['step']}  {self._progress()}  {terms}")

    def validating(self, done: int, total: int) -> None:
        if self._pace.due():
            self._say(f"validating {done}/{total}")

    def valid(self, record: Record) -> None:
        self._say(validation_line(record))

    def _progress(self) -> str:
        left = "" if self._left is None else f"  {duration(self._left)} left"
        return f"{self._fraction:.0%}{left}"

    def _say(self, line: str) -> None:
        self._pace.spoken()
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class Screen(NullLogger):
    """A bar with the time left, the newest terms under it, validations scrolling by above.

    Args:
        console: the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("training", total=1.0, left="")
        self._live = Live(self._bar, console=console, refresh_per_second=4)

    def __enter__(self) -> object:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def step(self, position: TrainState, fraction: float, seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"{duration(seconds_left)} left"
        name = f"epoch {position.epoch + 1}, step {position.step}"
        self._bar.update(self._task, completed=fraction, description=name, left=left)

    def train(self, record: Record) -> None:
        self._live.update(Group(self._bar, _terms_table(record)))

    def validating(self, done: int, total: int) -> None:
        self._bar.update(self._task, description=f"validating {done}/{total}")

    def valid(self, record: Record) -> None:
        style = "green" if record["best"] else ""
        self._console.print(Text(validation_line(record), style=style))


def for_console(console: Console) -> Reporter:
    """The reporter that suits a console: live in a terminal, lines elsewhere."""
    return Screen(console) if console.is_terminal else Lines(console)


def validation_line(record: Record) -> str:
    """A validation on one line."""
    best = "  best so far" if record["best"] else ""
    return (
        f"step {record['step']}  epoch {record['epoch']:.1f}  {duration(record['seconds'])}  "
        f"held-out bound {_number(record['elbo'])} +- {_number(record['elbo_stderr'])} "
        f"nats/sequence  KL {_number(record['kl'])}{best}"
    )


def shown_terms(record: Record) -> dict[str, str]:
    """What is shown of a training record, by its name on the screen."""
    return {
        "bound": _number(record["bound"]),
        "log-likelihood": _number(record["log_likelihood"]),
        "KL": _number(record["kl"]),
        "auxiliary": _number(record["log_auxiliary"]),
        "reverse": _number(record["log_reverse"]),
        "KL weight": f"{record['kl_weight']:.2f}",
        "gradient norm": _number(record["gradient_norm"]),
        "frames/s": _number(record["frames_per_second"]),
        "skipped": _skipped(record),
    }


def _skipped(record: Record) -> str:
    """How many steps were skipped, and what the first of the newest ones was blamed on."""
    blamed = f" ({record['bad_term']} at step {record['bad_step']})" if "bad_step" in record else ""
    return f"{record['skipped']}{blamed}"


def duration(seconds: float) -> str:
    """Seconds in words: 41 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _terms_table(record: Record) -> Table:
    table = Table.grid(padding=(0, 3))
    shown = list(shown_terms(record).items())
    # Three to a row, so that it fits a narrow terminal.
    for first in range(0, len(shown), 3):
        table.add_row(*(f"[dim]{name}[/dim] {value}" for name, value in shown[first : first + 3]))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}"

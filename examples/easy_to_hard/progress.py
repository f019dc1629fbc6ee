"""Progress in a log: lines come often at first, and less often the longer a command runs."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from rich.console import Console

from zpyro.training import Callback, LineLogger, logger_for
from zpyro.training.callbacks import Pace
from zpyro_cli import common  # pyright: ignore[reportMissingImports]

from .tasks import OnBatch

FIRST_SCALE, LARGEST_SCALE = 0.25, 1.5
"""Factors on the library's seconds between lines, which are 10, and 20 without terms."""

START_SCALE = 0.1
"""The factor before the first line."""

SECONDS_TO_FULL_SCALE = 100.0
"""The factor is 1 after so many seconds, and proportional to the time."""


class GrowingPace(Pace):
    """Times between lines that grow with the time since the first."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()
        self._first_scale = START_SCALE

    def written(self) -> None:
        super().written()
        self._first_scale = FIRST_SCALE

    def due(self, seconds: float | None = None) -> bool:
        """Whether the scaled number of seconds has passed since the last line."""
        share = (time.monotonic() - self._start) / SECONDS_TO_FULL_SCALE
        scale = min(max(share, self._first_scale), LARGEST_SCALE)
        return super().due(scale * (self.seconds if seconds is None else seconds))


class SolverLineLogger(LineLogger):
    """The library's lines at a growing pace.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._pace = GrowingPace()


def logger(console: Console) -> Callback:
    """The library's logger for a console, with lines at a growing pace where there is no screen."""
    chosen = logger_for(console)
    return SolverLineLogger(console) if isinstance(chosen, LineLogger) else chosen


def progress(what: str, noun: str = "problems") -> AbstractContextManager[OnBatch]:
    """A bar in a terminal, lines at a growing pace elsewhere."""
    return common.progress(what, noun, GrowingPace())

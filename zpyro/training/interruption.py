"""Signals as a request to stop after the present step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if name in signal.Signals.__members__
)
"""From a keyboard, a closed terminal, and the schedulers Slurm, Grid Engine, LSF and PBS."""
ALWAYS_HANDLED = ("SIGINT", "SIGTERM")
"""The others keep what the program, or ``nohup``, set for them."""
SECOND_ENDS_AT_ONCE = ("SIGINT", "SIGTERM", "SIGQUIT")
"""The others are sent repeatedly: by a shell and the kernel, or every second by a CPU limit."""


class Interruption:
    """Within it, a first signal is noted; a second one of the keyboard acts as it did before.

    Python receives signals in the main thread alone, so elsewhere nothing changes.

    Attributes:
        signal: the one that was noted, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            defaults = (signal.SIG_DFL, signal.default_int_handler)
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before in defaults or number.name in ALWAYS_HANDLED:
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore(SIGNALS)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)
        self._restore(each for each in SIGNALS if each.name in SECOND_ENDS_AT_ONCE)

    def _restore(self, numbers: Iterable[signal.Signals]) -> None:
        for number in numbers:
            if number in self._handlers:
                signal.signal(number, self._handlers.pop(number))

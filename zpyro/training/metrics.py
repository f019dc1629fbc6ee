"""What a training tells as it goes: to metrics.jsonl, and to whoever watches."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from zpyro.evaluation import Evaluation
from zpyro.training.loggers import Reporter
from zpyro.training.runs import MetricsLog, Run
from zpyro.training.train_state import TrainState

Numbers = Mapping[str, float | int | str | None]


class Metrics:
    """Stamps records and hands them on.

    Args:
        run: the run directory whose metrics.jsonl they go to, if any.
        reporter: who watches.
        steps_per_epoch: batches in a pass over the training data.
    """

    def __init__(self, run: Run | None, reporter: Reporter, steps_per_epoch: int) -> None:
        self.reporter = reporter
        self._run = run
        self._steps_per_epoch = steps_per_epoch
        self._log: MetricsLog | None = None

    @contextlib.contextmanager
    def opened(self, step: int) -> Generator[None, None, None]:
        """Within it records are taken; those beyond ``step``, of a killed session, are dropped."""
        with self.reporter, contextlib.ExitStack() as stack:
            if self._run is not None:
                self._log = stack.enter_context(contextlib.closing(MetricsLog(self._run, step)))
            yield

    def train(self, position: TrainState, numbers: Numbers) -> None:
        """Means over the newest steps."""
        self.reporter.train(self._write("train", position, numbers))

    def valid(self, position: TrainState, numbers: Numbers) -> None:
        """A validation."""
        self.reporter.valid(self._write("valid", position, numbers))

    def flush(self) -> None:
        """Wait until every record is on the disk."""
        if self._log is not None:
            self._log.flush()

    def _write(self, kind: str, position: TrainState, numbers: Numbers) -> dict[str, Any]:
        record = {
            "kind": kind,
            "step": position.step,
            "epoch": position.epoch + position.batch / self._steps_per_epoch,
            "seconds": round(position.seconds, 3),
            **numbers,
        }
        if self._log is not None:
            self._log.append(record)
        return record


def finite_numbers(result: Evaluation) -> dict[str, float | int | None]:
    """The scalars of an evaluation; those that are not finite as None."""
    values = {name: value for name, value in vars(result).items() if isinstance(value, int | float)}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}

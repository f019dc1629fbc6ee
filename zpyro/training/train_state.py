"""Where a training stands, and how far that is on its way."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from zpyro.training.config import TrainConfig

SHORTEST_INTERVAL = 50
"""Steps between validations, at least, where none are set: tiny epochs would drown in them."""


@dataclass
class TrainState:
    """Where a training stands; a checkpoint holds all of it.

    Attributes:
        step: training steps taken.
        epoch: passes over the data completed.
        batch: batches of the present pass taken.
        seconds: spent training.
        best: best validation bound so far, nats per sequence.
        validated: step of the newest validation.
        evals_without_improvement: validations since the best.
        interval_seconds: spent on steps since the last record.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float | None = None
    validated: int | None = None
    evals_without_improvement: int = 0
    interval_seconds: float = 0.0

    def advance(self, steps_per_epoch: int) -> None:
        """One step on, into the next pass after the last batch of this one."""
        self.step += 1
        self.batch += 1
        if self.batch == steps_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TrainState:
        """The position that :meth:`state` described."""
        return cls(**state)


class Budget:
    """How long to train: epochs, steps or minutes, whichever ends first.

    Args:
        train: holds the limits.
        steps_per_epoch: batches in a pass over the data.
    """

    def __init__(self, train: TrainConfig, steps_per_epoch: int) -> None:
        limits = [
            None if train.epochs is None else train.epochs * steps_per_epoch,
            train.max_steps,
        ]
        self.steps = min((limit for limit in limits if limit is not None), default=None)
        self.seconds = None if train.max_minutes is None else 60.0 * train.max_minutes

    def fraction(self, position: TrainState) -> float:
        """How much of the training is done, 0 to 1; always 0 where nothing limits it."""
        steps = 0.0 if self.steps is None else position.step / self.steps
        seconds = 0.0 if self.seconds is None else position.seconds / self.seconds
        return min(1.0, max(steps, seconds))

    def seconds_left(self, position: TrainState) -> float | None:
        """A guess from the speed so far; None where there is nothing to guess from."""
        fraction = self.fraction(position)
        return None if fraction == 0 else position.seconds * (1 - fraction) / fraction


class Clock:
    """Seconds spent training, of earlier sessions too; changes of the time of day do not matter.

    Args:
        before: seconds of earlier sessions.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._started = time.monotonic() - before

    def seconds(self) -> float:
        """Seconds up to now."""
        return time.monotonic() - self._started


def due(position: TrainState, every: int | None, steps_per_epoch: int) -> bool:
    """Whether a step count is reached; None means at the end of epochs, 50 steps apart or more."""
    if every is None:
        every = steps_per_epoch * -(-SHORTEST_INTERVAL // steps_per_epoch)
    return position.step % every == 0

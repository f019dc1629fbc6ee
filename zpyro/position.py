"""Where a training stands, and how far that is on its way."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from zpyro.config import TrainConfig
from zpyro.elbo import ObjectiveTerms

TERMS = ("loss", "log_likelihood", "kl", "log_auxiliary", "log_reverse")
SHORTEST_INTERVAL = 50
"""Steps between validations, at least, where none are set: tiny epochs would drown in them."""


@dataclass
class Interval:
    """Sums over the steps since the last record; skipped steps count in ``seconds`` alone."""

    steps: int = 0
    sequences: int = 0
    frames: int = 0
    seconds: float = 0.0
    gradient_norm: float = 0.0
    terms: list[float] = field(default_factory=lambda: [0.0] * len(TERMS))

    def add(self, sequences: int, frames: int, terms: list[float], gradient_norm: float) -> None:
        """Take in one step; the terms are sums over its sequences."""
        self.steps += 1
        self.sequences += sequences
        self.frames += frames
        self.gradient_norm += gradient_norm
        self.terms = [total + term for total, term in zip(self.terms, terms, strict=True)]

    def means(self) -> dict[str, float | None]:
        """Each term per sequence and per frame, the gradient's norm per step, and the speed."""
        named: dict[str, float] = dict(zip(TERMS, self.terms, strict=True))
        named["bound"] = named["log_likelihood"] - named["kl"]
        per_sequence = {name: _ratio(total, self.sequences) for name, total in named.items()}
        per_frame = {
            f"{name}_per_frame": _ratio(total, self.frames) for name, total in named.items()
        }
        return {
            **per_sequence,
            **per_frame,
            "gradient_norm": _ratio(self.gradient_norm, self.steps),
            "frames_per_second": _ratio(self.frames, self.seconds),
        }


@dataclass
class Position:
    """Where a training stands; a checkpoint holds all of it.

    Attributes:
        step: training steps taken.
        epoch: passes over the data completed.
        batch: batches of the present pass taken.
        seconds: spent training.
        skipped: steps skipped because they were not finite.
        skipped_in_a_row: of them, those since the last good step.
        best: best validation bound so far, nats per sequence.
        validated: step of the newest validation.
        without_better: validations since the best.
        interval: sums since the last record.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    validated: int | None = None
    without_better: int = 0
    interval: Interval = field(default_factory=Interval)

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
    def from_state(cls, state: dict[str, Any]) -> Position:
        """The position that :meth:`state` described."""
        return cls(**{**state, "interval": Interval(**state["interval"])})


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

    def fraction(self, position: Position) -> float:
        """How much of the training is done, 0 to 1; always 0 where nothing limits it."""
        steps = 0.0 if self.steps is None else position.step / self.steps
        seconds = 0.0 if self.seconds is None else position.seconds / self.seconds
        return min(1.0, max(steps, seconds))

    def seconds_left(self, position: Position) -> float | None:
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


def due(position: Position, every: int | None, steps_per_epoch: int) -> bool:
    """Whether a step count is reached; None means at the end of epochs, 50 steps apart or more."""
    if every is None:
        every = steps_per_epoch * -(-SHORTEST_INTERVAL // steps_per_epoch)
    return position.step % every == 0


def sums(terms: ObjectiveTerms) -> list[Tensor]:
    """The terms of :data:`TERMS`, as tensors still."""
    return [getattr(terms, name) for name in TERMS]


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None

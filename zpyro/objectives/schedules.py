"""Schedules: callables from the training step (0, 1, 2, ...) to a weight.

Those of this module are values: they can be compared, copied and pickled with an objective. Any
other function of the step is a schedule too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

Schedule = Callable[[int], float]
"""A function of the number of training steps taken so far."""


@dataclass(frozen=True)
class constant:
    """The same weight at every step."""

    value: float

    def __call__(self, step: int) -> float:
        del step
        return self.value


@dataclass(frozen=True)
class linear:
    """From ``start`` to ``stop`` in equal parts over ``steps`` steps, then ``stop``.

    Raises:
        ValueError: if ``steps`` is not positive.
    """

    start: float
    stop: float
    steps: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.steps <= 0:
            raise ValueError(f"steps is {self.steps}; a linear schedule needs at least one")

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.stop
        # Weighing the two ends, rather than adding a slope, meets ``stop`` exactly.
        return self.start * (1.0 - step / self.steps) + self.stop * (step / self.steps)


@dataclass(frozen=True)
class at_rate:
    """From ``start`` towards ``stop`` by ``rate`` a step, then ``stop``.

    The published KL weight is ``at_rate(0.2, 1.0, rate=5e-5)`` (arXiv:1711.05411).

    Raises:
        ValueError: if ``rate`` is not positive.
    """

    start: float
    stop: float
    rate: float = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate is {self.rate}; give a positive number a step")

    def __call__(self, step: int) -> float:
        if self.stop >= self.start:
            return min(self.stop, self.start + self.rate * step)
        return max(self.stop, self.start - self.rate * step)


@dataclass(frozen=True)
class sigmoid:
    """From ``start`` to ``stop`` along a logistic curve over ``steps`` steps, then ``stop``.

    Args:
        start: the value at step 0, met exactly.
        stop: the value from step ``steps`` on.
        steps: how long it takes; halfway there it is halfway between.
        steepness: the curve is the logistic function between -steepness / 2 and steepness / 2,
            stretched to meet both ends.

    Raises:
        ValueError: if ``steps`` or ``steepness`` is not positive.

    Source: the KL annealing of Bowman et al., arXiv:1511.06349, section 3.1.
    """

    start: float
    stop: float
    steps: int = field(kw_only=True)
    steepness: float = field(default=10.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.steps <= 0 or self.steepness <= 0:
            raise ValueError(
                f"steps is {self.steps}, steepness {self.steepness}; give positive numbers"
            )

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.stop
        low, high = _logistic(-0.5 * self.steepness), _logistic(0.5 * self.steepness)
        risen = (_logistic(self.steepness * (step / self.steps - 0.5)) - low) / (high - low)
        return self.start * (1.0 - risen) + self.stop * risen


@dataclass(frozen=True)
class cyclical:
    """``cycles`` times from ``start`` linearly to ``stop`` and a rest there, then ``stop``.

    Args:
        start: the value at the beginning of each cycle.
        stop: the value it rises to.
        period: steps of a cycle.
        rise: the fraction of a cycle in which it rises.
        cycles: how many; ``stop`` after them.

    Raises:
        ValueError: if ``period`` or ``cycles`` is not positive, or ``rise`` not within (0, 1].

    Source: Fu et al., arXiv:1903.10145, equation 6.
    """

    start: float
    stop: float
    period: int = field(kw_only=True)
    rise: float = field(default=0.5, kw_only=True)
    cycles: int = field(default=4, kw_only=True)

    def __post_init__(self) -> None:
        if self.period <= 0 or self.cycles <= 0 or not 0 < self.rise <= 1:
            raise ValueError(
                f"period {self.period}, cycles {self.cycles}, rise {self.rise}; "
                "give positive numbers"
            )

    def __call__(self, step: int) -> float:
        if step >= self.cycles * self.period:
            return self.stop
        rising = linear(self.start, self.stop, steps=max(1, round(self.rise * self.period)))
        return rising(step % self.period)


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def as_schedule(weight: float | Schedule) -> Schedule:
    """A schedule from a number, or the schedule itself."""
    return weight if callable(weight) else constant(float(weight))

"""Schedules: functions from the training step (0, 1, 2, ...) to a weight."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[int], float]
"""A function of the number of training steps taken so far."""


def constant(value: float) -> Schedule:
    """The same weight at every step."""
    return lambda _step: value


def linear(start: float, stop: float, *, steps: int) -> Schedule:
    """From ``start`` to ``stop`` in equal parts over ``steps`` steps, then ``stop``.

    Raises:
        ValueError: if ``steps`` is not positive.
    """
    if steps <= 0:
        raise ValueError(f"steps is {steps}; a linear schedule needs at least one")
    # Weighing the two ends, rather than adding a slope, meets ``stop`` exactly.
    return lambda step: (
        stop if step >= steps else start * (1.0 - step / steps) + stop * (step / steps)
    )


def at_rate(start: float, stop: float, *, rate: float) -> Schedule:
    """From ``start`` towards ``stop`` by ``rate`` a step, then ``stop``.

    The published KL weight is ``at_rate(0.2, 1.0, rate=5e-5)`` (arXiv:1711.05411).

    Raises:
        ValueError: if ``rate`` is not positive.
    """
    if rate <= 0:
        raise ValueError(f"rate is {rate}; give a positive number a step")
    if stop >= start:
        return lambda step: min(stop, start + rate * step)
    return lambda step: max(stop, start - rate * step)


def as_schedule(weight: float | Schedule) -> Schedule:
    """A schedule from a number, or the schedule itself."""
    return weight if callable(weight) else constant(float(weight))

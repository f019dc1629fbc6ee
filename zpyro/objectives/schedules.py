"""Schedules: functions from the training step (0, 1, 2, ...) to a weight."""

from __future__ import annotations

import math
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


def sigmoid(start: float, stop: float, *, steps: int, steepness: float = 10.0) -> Schedule:
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
    if steps <= 0 or steepness <= 0:
        raise ValueError(f"steps is {steps}, steepness {steepness}; give positive numbers")
    low, high = _logistic(-0.5 * steepness), _logistic(0.5 * steepness)

    def weight(step: int) -> float:
        if step >= steps:
            return stop
        risen = (_logistic(steepness * (step / steps - 0.5)) - low) / (high - low)
        return start * (1.0 - risen) + stop * risen

    return weight


def cyclical(
    start: float, stop: float, *, period: int, rise: float = 0.5, cycles: int = 4
) -> Schedule:
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
    if period <= 0 or cycles <= 0 or not 0 < rise <= 1:
        raise ValueError(f"period {period}, cycles {cycles}, rise {rise}; give positive numbers")
    rising = linear(start, stop, steps=max(1, round(rise * period)))
    return lambda step: stop if step >= cycles * period else rising(step % period)


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def as_schedule(weight: float | Schedule) -> Schedule:
    """A schedule from a number, or the schedule itself."""
    return weight if callable(weight) else constant(float(weight))

"""When lines of progress are written in a log."""

from __future__ import annotations

import itertools

import click
import pytest
from click.testing import CliRunner

from zpyro.training.callbacks import GrowingPace
from zpyro_cli.common import progress

pytestmark = pytest.mark.fast


class Clock:
    """A clock that a test sets."""

    seconds = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    set_by_test = Clock()
    monkeypatch.setattr("time.monotonic", lambda: set_by_test.seconds)
    return set_by_test


def lines(clock: Clock, seconds: float | None, end: float) -> list[float]:
    """When lines are written that are asked for every half second."""
    pace, start, found = GrowingPace(), clock.seconds, []
    while clock.seconds < start + end:
        clock.seconds += 0.5
        if pace.due(seconds):
            pace.written()
            found.append(clock.seconds - start)
    return found


def test_lines_come_soon_then_every_5_seconds_then_every_30(clock: Clock) -> None:
    found = lines(clock, 20.0, 3600.0)
    assert found[:5] == [2.0, 7.0, 12.0, 17.0, 22.0]
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 30.0
    assert len(found) < 150
    with_terms = lines(clock, None, 3600.0)
    assert with_terms[:4] == [1.0, 3.5, 6.0, 8.5]
    assert with_terms[-1] - with_terms[-2] == 15.0


def test_a_command_writes_what_it_does_and_then_how_far_it_is(clock: Clock) -> None:
    @click.command()
    def command() -> None:
        with progress("solving size 9", "problems") as on_batch:
            for done in range(1, 11):
                clock.seconds += 1.0
                on_batch(done, 10)

    written = CliRunner().invoke(command).stderr.splitlines()
    assert written == ["solving size 9"] + [
        f"solving size 9: {n} of 10 problems" for n in (3, 6, 9)
    ]

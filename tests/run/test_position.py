"""Where a training stands, how far that is, and how it is told."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Generator
from dataclasses import asdict

import pytest
from rich.console import Console

from tests.run.small import dataset, model, settings
from zpyro.training import callbacks as reporting
from zpyro.training.config import TrainConfig
from zpyro.training.sequence_task import SequenceTask
from zpyro.training.task import TrainState
from zpyro.training.trainer import Budget, is_due

pytestmark = pytest.mark.fast

TRAIN = {
    "kind": "train",
    "step": 30,
    "bound": -1234.5,
    "log_likelihood": -1200.0,
    "kl": 34.5,
    "log_auxiliary": 1.25,
    "log_reverse": None,
    "kl_weight": 0.25,
    "gradient_norm": 3.0,
    "frames_per_second": 4321.0,
    "skipped": 2,
}
VALID = {
    "kind": "valid",
    "step": 30,
    "epoch": 1.5,
    "seconds": 65.0,
    "elbo": -900.0,
    "elbo_stderr": 12.5,
    "log_likelihood": -880.0,
    "kl": 20.0,
    "active_units": 7,
    "best": True,
}


def task() -> SequenceTask:
    return SequenceTask(model(), dataset(), settings())


@contextlib.contextmanager
def started(console: Console) -> Generator[reporting.Callback]:
    """The logger for a console, in a training."""
    logger = reporting.logger_for(console)
    logger.on_fit_start(task(), TrainState())
    yield logger
    logger.on_fit_end()


def test_a_position_survives_json() -> None:
    state = TrainState(step=3, epoch=1, batch=2, best=-4.5, interval_seconds=0.5)
    assert TrainState(**json.loads(json.dumps(asdict(state)))) == state


def test_the_last_batch_of_a_pass_begins_the_next() -> None:
    position = TrainState()
    for _ in range(5):
        position.advance(steps_per_epoch=2)
    assert (position.step, position.epoch, position.batch) == (5, 2, 1)


@pytest.mark.parametrize(
    ("limits", "position", "fraction", "left"),
    [
        ({"epochs": 4}, TrainState(step=10, seconds=5.0), 0.25, 15.0),
        ({"epochs": 4, "max_steps": 20}, TrainState(step=10, seconds=5.0), 0.5, 5.0),
        ({"max_minutes": 1.0}, TrainState(step=1, seconds=45.0), 0.75, 15.0),
        ({"max_steps": 5}, TrainState(step=9, seconds=1.0), 1.0, 0.0),
        ({}, TrainState(step=9, seconds=1.0), 0.0, None),
    ],
)
def test_the_limit_that_is_nearest_counts(
    limits: dict[str, int | float], position: TrainState, fraction: float, left: float | None
) -> None:
    train = TrainConfig(**{"epochs": None, **limits})  # pyright: ignore[reportArgumentType]
    budget = Budget(train, steps_per_epoch=10)
    assert budget.fraction(position) == fraction
    assert budget.seconds_left(position) == left


def test_what_is_due() -> None:
    assert is_due(TrainState(step=20), 10, steps_per_epoch=7)
    assert not is_due(TrainState(step=25), 10, steps_per_epoch=7)
    assert [step for step in range(1, 250) if is_due(TrainState(step=step), None, 100)] == [
        100,
        200,
    ]
    assert [step for step in range(1, 250) if is_due(TrainState(step=step), None, 20)] == [
        60,
        120,
        180,
        240,
    ]


def test_a_terminal_shows_a_bar_the_time_left_and_the_raw_terms() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with started(console) as logger:
        assert isinstance(logger, reporting.ProgressLogger)
        logger.on_step(TrainState(step=30, epoch=1), 0.25, 130.0)
        logger.on_train_record(TRAIN)
        logger.on_validation_progress(3, 9)
        logger.on_validation(VALID)
        logger.on_step(TrainState(step=31, epoch=1), 0.26, 129.0)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for text in ("epoch 2, step 31", "2 min 09 s left", "-1234", "34.5", "4321", "-900.0 +- 12.5"):
        assert text in shown


def test_a_file_gets_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=40)
    with started(console) as logger:
        logger.on_step(TrainState(step=30, epoch=1), 0.25, 130.0)
        logger.on_train_record(TRAIN)
        logger.on_validation({**VALID, "elbo": None})
        logger.on_validation(VALID)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[1] == (
        "step 30  epoch 1.5  1 min 05 s  held-out bound -900.0 +- 12.5 nats/sequence  "
        "KL 20.0  best so far"
    )
    assert len(lines) == 2


def test_slow_steps_are_told_without_their_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(reporting.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=40)
    logger = reporting.logger_for(console)
    logger.on_fit_start(task(), TrainState())
    told: list[tuple[float, str]] = []
    for now, act in (
        (1.5, lambda: logger.on_step(TrainState(step=1), 0.01, 600.0)),
        (3.0, lambda: logger.on_step(TrainState(step=2), 0.02, 500.0)),
        (7.0, lambda: logger.on_step(TrainState(step=3), 0.03, 400.0)),
        (9.0, lambda: logger.on_step(TrainState(step=4), 0.03, 300.0)),
        (11.0, lambda: logger.on_train_record(TRAIN)),
        (12.0, lambda: logger.on_train_record(TRAIN)),
        (14.0, lambda: logger.on_validation_progress(1, 9)),
        (15.0, lambda: logger.on_validation_progress(2, 9)),
    ):
        act()
        assert isinstance(console.file, io.StringIO)
        for line in console.file.getvalue().splitlines()[len(told) :]:
            told.append((now, line))
    assert told[0] == (3.0, "step 2  2%  8 min 20 s left")
    assert told[1] == (9.0, "step 4  3%  5 min 00 s left")
    assert told[2][0] == 12.0
    assert told[2][1].startswith("step 30  3%  5 min 00 s left  bound -1234")
    assert told[3:] == [(15.0, "validating 2/9")]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert reporting.duration(seconds) == words

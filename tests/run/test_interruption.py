"""Signals that ask a training to stop, and those that are left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from types import FrameType

import pytest

from zpyro.training.interruption import SIGNALS, Interruption

pytestmark = pytest.mark.fast

KEYBOARD = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
REPEATED = tuple(number for number in SIGNALS if number not in KEYBOARD)


@pytest.fixture(autouse=True)
def _handlers() -> Generator[None, None, None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_every_signal_of_schedulers_and_terminals_is_among_them() -> None:
    names = {number.name for number in SIGNALS}
    assert names >= {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU"}


@pytest.mark.parametrize("number", REPEATED)
def test_one_that_is_sent_repeatedly_is_noted_each_time(number: signal.Signals) -> None:
    with Interruption() as interruption:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert interruption.signal == number


@pytest.mark.parametrize("number", KEYBOARD)
def test_a_second_one_acts_as_before(number: signal.Signals) -> None:
    received: list[int] = []

    def own(second: int, _frame: FrameType | None) -> None:
        received.append(second)

    signal.signal(number, own if number != signal.SIGQUIT else signal.SIG_DFL)
    before = signal.getsignal(number)
    with Interruption() as interruption:
        os.kill(os.getpid(), number)
        assert (interruption.signal, received) == (number, [])
        assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", REPEATED)
def test_the_first_one_counts(first: signal.Signals) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with Interruption() as interruption:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.signal == first


def nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler of the program."""


@pytest.mark.parametrize("number", [*REPEATED, signal.SIGQUIT])
@pytest.mark.parametrize("handler", [signal.SIG_IGN, nothing])
def test_what_nohup_or_the_program_set_stays(
    number: signal.Signals, handler: Callable[..., None] | signal.Handlers
) -> None:
    signal.signal(number, handler)
    with Interruption() as interruption:
        assert signal.getsignal(number) is handler
        os.kill(os.getpid(), number)
        assert interruption.signal is None
    assert signal.getsignal(number) is handler

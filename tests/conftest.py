"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zpyro.training.interruption import SIGNALS

# nohup and shell scripts may have the tests ignore signals, which tests send to themselves.
for number in SIGNALS:
    if signal.getsignal(number) is signal.SIG_IGN:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)

# Tests run side by side, one process a core: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    """Of the processes that tests/processes.py starts, if a test did."""
    yield
    if "tests.processes" in sys.modules:
        sys.modules["tests.processes"].stop_server()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The small real data sets, at $ZPYRO_TEST_DATA or beside the repository."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ZPYRO_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set ZPYRO_TEST_DATA to have these tests run")
    return folder

"""The command line in processes of its own that begin with torch loaded.

What happens to such a process (signals, kills, two of them at once) is what is tested; starting
Python and importing torch would take most of the time. That it also starts from nothing is tested
where the program itself is run, in ``tests/cli/test_processes.py``.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed import TCPStore

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.processes",
        "zpyro_cli.main",
        "zpyro.analysis.comparison",
        "zpyro.evaluation",
        "zpyro.training.callbacks",
        "zpyro.training.fitting",
    ]
)
LIMIT = 900
"""Seconds that one process may take; more is a hang, on whatever busy machine."""


@dataclass(frozen=True)
class Ended:
    """What a process left.

    Attributes:
        returncode: its exit status, or minus the signal that killed it.
        stdout: what it printed.
        stderr: what it said.
    """

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A function in a process of its own, with its output in files.

    Args:
        folder: for the output, made if need be.
        function: what runs.
        arguments: of it.
        variables: of the environment, beside those of this process.
    """

    def __init__(
        self, folder: Path, function: Callable[..., None], *arguments: Any, **variables: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "stdout.txt", folder / "stderr.txt"
        self._process = start(
            _within, self._out, self._err, {**os.environ, **variables}, function, arguments
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> Ended:
        """End it as the machine would; nothing if it ended before."""
        self._process.kill()
        return self.wait()

    def wait(self) -> Ended:
        """Until it ends; fails if it hangs."""
        self._process.join(LIMIT)
        if self._process.exitcode is None:
            self._process.kill()
            raise RuntimeError(f"hangs: {self._err.read_text()}")
        return Ended(self._process.exitcode, self._out.read_text(), self._err.read_text())

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Until something is so; fails if the process ends before."""
        deadline = time.monotonic() + LIMIT
        while not happened():
            assert self.poll() is None, self.wait()
            assert time.monotonic() < deadline
            time.sleep(0.002)


class Module:
    """``python -m MODULE ...`` as :class:`subprocess.Popen` would run it.

    Args:
        command: all of it.
        stdout: a named file; errors go there too.
        env: the whole environment.
        more: is not looked at.
    """

    def __init__(
        self, command: Sequence[str], *, stdout: IO[bytes], env: dict[str, str], **more: object
    ) -> None:
        assert list(command[:2]) == [sys.executable, "-m"]
        self._process = start(_run_module, list(command[2:]), Path(stdout.name), env)

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self) -> int | None:
        """Until it ends."""
        self._process.join(LIMIT)
        return self._process.exitcode


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A function in a process of its own, torch already loaded."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def zpyro(arguments: Sequence[object]) -> None:
    """The command line, as the program ``zpyro`` runs it."""
    from zpyro_cli.main import main

    main([str(each) for each in arguments], prog_name="zpyro")


def stop_server() -> None:
    """End the process that the others are forked from and its helper, and wait for them.

    They would end by themselves, but too late for their coverage to be collected.
    """
    multiprocessing.forkserver._forkserver._stop()
    multiprocessing.resource_tracker._resource_tracker._stop()


def group(count: int, folder: Path, function: Callable[..., None], *arguments: Any) -> list[Ended]:
    """A function in several processes that torchrun might have started; what they left, by rank."""
    # The store is this process's, as it would be torchrun's: no port that another may take first.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    together = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    commands = [
        Command(
            folder / f"rank{rank}",
            function,
            *arguments,
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), **together},
        )
        for rank in range(count)
    ]
    return [command.wait() for command in commands]


def _run_module(words: list[str], log: Path, environment: dict[str, str]) -> None:
    sys.argv = words
    _within(log, log, environment, runpy.run_module, (words[0], None, "__main__"))


def _within(
    out: Path,
    err: Path,
    environment: dict[str, str],
    function: Callable[..., object],
    arguments: tuple[Any, ...],
) -> None:
    # The server's are those of the test that came first.
    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        with path.open("a") as file:
            os.dup2(file.fileno(), number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    warnings.filterwarnings("error", category=UserWarning)
    torch.set_num_threads(1)
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()

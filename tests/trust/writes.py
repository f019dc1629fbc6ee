"""Processes that kill themselves within the writing of a checkpoint, at a chosen file operation.

An operation is what Python audits (open, rename, mkdir, remove, rmdir) or half of the bytes of a
file being written; the process dies just before it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.processes import LIMIT, start
from tests.run.small import dataset, model, settings
from zpyro.io import files
from zpyro.training import fitting as training
from zpyro.training import runs

EVERY = 3
CONFIG = settings(max_steps=18, checkpoint_every=EVERY, validate_every=50)
AUDITED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


class Killer:
    """Counts file operations within one write of ``last``, and dies before one of them.

    Args:
        write: which write, from 1.
        operation: which operation in it, from 0; None counts alone.
    """

    def __init__(self, write: int, operation: int | None) -> None:
        self.write, self.operation = write, operation
        self.writes = self.operations = 0
        self.inside = False
        sys.addaudithook(self._audit)
        self._replace, self._write_bytes = files.replace_folder, Path.write_bytes
        files.replace_folder = self._replace_folder
        Path.write_bytes = lambda path, content: self._halves(path, content)

    def _replace_folder(
        self, folder: Path, fill: Callable[[Path], None], *, keep_previous: bool
    ) -> None:
        self.writes += folder.name == "last"
        self.inside = folder.name == "last" and self.writes == self.write
        try:
            self._replace(folder, fill, keep_previous=keep_previous)
        finally:
            self.inside = False

    def _halves(self, path: Path, content: Any) -> int:
        if self.inside:
            with path.open("wb") as file:
                file.write(memoryview(content)[: len(content) // 2])
            self._count()
        return self._write_bytes(path, content)

    def _audit(self, event: str, _arguments: Any) -> None:
        if self.inside and event in AUDITED:
            self._count()

    def _count(self) -> None:
        if self.operations == self.operation:
            os.kill(os.getpid(), signal.SIGKILL)
        self.operations += 1


def kill_within_writes(folder: Path, kills: int, *, seed: int) -> list[str]:
    """What became of each run that was killed within a write, "loads" where all is well.

    The operations are spread evenly over those of a write, so that with enough kills each is hit.

    Args:
        folder: where to work; empty.
        kills: how many.
        seed: of the choice of writes.
    """
    choice = random.Random(seed)
    counting = start(train_and_die, folder / "counting", 2, None)
    counting.join(LIMIT)
    operations = int((folder / "counting.txt").read_text())
    found: list[str] = []
    for number in range(kills):
        # The first write has no checkpoint before it, and the last one ends the training.
        write = choice.randint(2, 5)
        operation = number * operations // kills
        place = folder / f"killed{number}"
        process = start(train_and_die, place, write, operation)
        process.join(LIMIT)
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"operation {operation} of {operations} killed nothing")
        found.append(_outcome(runs.open_run(place), write))
    return found


def _outcome(run: runs.Run, write: int) -> str:
    damage = run.recover()
    if damage is not None:
        return f"damaged: {damage}"
    loaded = run.load("last")
    if loaded.step not in ((write - 1) * EVERY, write * EVERY):
        return f"step {loaded.step} after write {write}"
    outcome = training.fit(loaded.model, dataset(), CONFIG, run=run, resume=True)
    return "loads" if outcome.step == 18 else f"ended at {outcome.step}"


def train_and_die(place: Path, write: int, operation: int | None) -> None:
    """Train in a place; without an operation, write down how many there are in that write."""
    run = runs.create(place, CONFIG)
    killer = Killer(write, operation)
    training.fit(model(), dataset(), CONFIG, run=run)
    place.with_suffix(".txt").write_text(str(killer.operations))

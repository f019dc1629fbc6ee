"""Running what a comparison needs: several runs at once, each where it was left off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from zpyro.analysis.comparison.rows import (
    Row,
    count_parameters,
    matched,
    row_config,
    with_likelihood,
)
from zpyro.datasets.sequences import Dataset
from zpyro.distributed.processes import ENVIRONMENT
from zpyro.errors import UserError
from zpyro.io import files
from zpyro.training import config, runs
from zpyro.training.config import Config
from zpyro.training.interruption import Interruption

LOG, RESULT = "log.txt", "result.json"
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Spec:
    """What is compared.

    Attributes:
        folder: of the comparison; a run stands in FOLDER/ROW/seed-N.
        rows: each with the settings it starts from.
        seeds: one run a seed and row.
        match_parameters: give all rows the parameters of the largest.
        split: what is scored.
        particles: of the importance-weighted bound.
    """

    folder: Path
    rows: tuple[tuple[Row, Config], ...]
    seeds: tuple[int, ...]
    match_parameters: bool = True
    split: str = "test"
    particles: int = 25


@dataclass(frozen=True)
class Room:
    """How much may run at once.

    Attributes:
        at_once: processes.
        threads: of each, unless OMP_NUM_THREADS is set.
        devices: what CUDA_VISIBLE_DEVICES may say, dealt out in turn; empty to leave it alone.
    """

    at_once: int
    threads: int
    devices: tuple[str, ...] = ()

    def environment(self, place: int) -> dict[str, str]:
        """Of the process in a place, 0 to ``at_once`` - 1."""
        # A run trains alone, whatever torchrun told this process.
        inherited = {name: v for name, v in os.environ.items() if name not in ENVIRONMENT}
        mine = {"OMP_NUM_THREADS": str(self.threads), **inherited}
        if self.devices:
            mine["CUDA_VISIBLE_DEVICES"] = self.devices[place % len(self.devices)]
        return mine


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        row: name of its row.
        seed: its seed.
        folder: its run directory.
    """

    row: str
    seed: int
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it was trained and scored."""
        return (self.folder / RESULT).exists()

    def result(self) -> dict[str, float]:
        """What it gave.

        Raises:
            UserError: if its file is corrupt.
        """
        path = self.folder / RESULT
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); remove it and go on") from error
        return values


def prepare(spec: Spec, dataset: Dataset) -> list[Job]:
    """Make the run directories that are not there yet.

    Returns:
        All runs, those of one seed together.

    Raises:
        UserError: if a run directory is there with other settings, or cannot be written.
    """
    settled = [
        (row, with_likelihood(row_config(settings, row), dataset)) for row, settings in spec.rows
    ]
    if spec.match_parameters:
        most = max(count_parameters(settings.model, dataset) for _, settings in settled)
        settled = [
            (row, replace(settings, model=matched(settings.model, dataset, most)))
            for row, settings in settled
        ]
    jobs: list[Job] = []
    for seed in spec.seeds:
        for row, settings in settled:
            wanted = replace(settings, train=replace(settings.train, seed=seed))
            folder = spec.folder / row.name / f"seed-{seed}"
            if not (folder / runs.CONFIG).exists():
                runs.create(folder, wanted)
            elif config.write_config(runs.open_run(folder).config()) != config.write_config(wanted):
                raise UserError(
                    f"{folder}: was begun with other settings; take another --out, or the same "
                    "settings to go on"
                )
            jobs.append(Job(row.name, seed, folder))
    return jobs


def run_all(
    spec: Spec,
    jobs: list[Job],
    room: Room,
    on_end: Callable[[Job, int], None],
    on_start: Callable[[Job], None] | None = None,
) -> signal.Signals | None:
    """Run what is not done yet.

    Args:
        spec: what is scored, and how.
        jobs: all runs.
        room: how many at once, and with what.
        on_end: told of each run that ended, with its exit status.
        on_start: told of each run that begins.

    Returns:
        The signal that ended it early, with every run saved where it stood; or None.
    """
    waiting = [job for job in jobs if not job.done]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    places: dict[Job, int] = {}
    with Interruption() as interruption:
        while running or (waiting and not interruption.signal):
            while waiting and len(running) < room.at_once and not interruption.signal:
                job = waiting.pop(0)
                free = set(range(room.at_once)) - {places[other] for other in running}
                places[job] = min(free)
                running[job] = _started(spec, job, room.environment(places[job]))
                if on_start is not None:
                    on_start(job)
            if interruption.signal:
                _stop(running)
            for job, process in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[job]
                    on_end(job, status)
            time.sleep(POLL_SECONDS)
    return interruption.signal


def _stop(running: dict[Job, subprocess.Popen[bytes]]) -> None:
    """Ask every run to save and stop, and wait until it has."""
    for process in running.values():
        process.send_signal(signal.SIGTERM)
    for process in running.values():
        process.wait()


def _started(spec: Spec, job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "zpyro.analysis.comparison.work", str(job.folder)]
    command += ["--split", spec.split, "--particles", str(spec.particles)]
    with files.translate_os_errors(job.folder), (job.folder / LOG).open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

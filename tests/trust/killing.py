"""Trainings that are killed at random moments and resumed, and what they end with."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.processes import LIMIT, start
from zpyro.training import checkpoint, runs
from zpyro.training.runs import Run

SETTINGS = (
    *("model.hidden_size=12", "model.latent_size=3", "model.embedding_size=6", "model.mlp_size=8"),
    *("train.batch_size=8", "train.checkpoint_every=9", "train.validate_every=13"),
    *("train.log_every=4", "train.average=0.9", "train.learning_rate_schedule=plateau"),
    *("train.plateau_patience=1", "objective.auxiliary_weight=0.01"),
)
TIMED = ("seconds", "frames_per_second", "interval_seconds")


@dataclass(frozen=True)
class Finished:
    """What a training ended with, without what the clock said.

    Attributes:
        weights: the bytes of the last and the best weights.
        state: of the optimizer, the random numbers, the position and the sums.
        records: of metrics.jsonl.
    """

    weights: tuple[bytes, bytes]
    state: Any
    records: Any

    @classmethod
    def of(cls, run: Run) -> Finished:
        """What a finished run holds."""
        weights = [(place / checkpoint.MODEL).read_bytes() for place in (run.last, run.best)]
        state = checkpoint.load_state(run.last)
        return cls((weights[0], weights[1]), untimed(state), untimed(run.records()))

    def equals(self, other: Finished) -> bool:
        """Bit for bit."""
        return self.weights == other.weights and _same(
            [self.state, self.records], [other.state, other.records]
        )


def write_data(path: Path) -> None:
    """60 random walks of unequal lengths in 5 dimensions."""
    numbers = np.random.default_rng(0)
    lengths = numbers.integers(1, 9, size=60)
    values = np.cumsum(numbers.normal(size=(int(lengths.sum()), 5)), axis=0)
    np.savez(path, values=values, lengths=lengths)


def command(data: Path, out: Path, steps: int) -> list[str]:
    """The training as arguments of the command line."""
    chosen = [f"--set={setting}" for setting in SETTINGS]
    where = ["--dataset=npz", "--data", str(data), "--out", str(out)]
    return ["train", *where, "--max-steps", str(steps), *chosen]


def command_line(arguments: Sequence[str], log: Path) -> None:
    """``zpyro`` with these arguments; what it prints goes to a file."""
    from zpyro_cli.main import main

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    main(list(arguments))


def resume(run: Run, log: Path) -> None:
    """Let a killed training end; fails where it cannot."""
    process = start(command_line, ["train", "--resume", str(run.folder)], log)
    process.join(LIMIT)
    if process.exitcode:
        raise RuntimeError(f"{run.folder} does not resume: {log.read_text()}")


def kill_at(arguments: Sequence[str], out: Path, log: Path, records: int, seconds: float) -> bool:
    """Start a training and SIGKILL it so long after so many records; False if it was too late."""
    process = start(command_line, arguments, log)
    _wait_for(out / runs.CONFIG, process, log)
    metrics = out / runs.METRICS
    while process.is_alive() and _lines(metrics) < records:
        time.sleep(0.001)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def train_whole(arguments: Sequence[str], log: Path) -> None:
    """A training that nothing happens to."""
    process = start(command_line, arguments, log)
    process.join(LIMIT)
    if process.exitcode:
        raise RuntimeError(log.read_text())


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait_for(path: Path, process: BaseProcess, log: Path) -> None:
    started = time.monotonic()
    while not path.exists():
        if not process.is_alive() or time.monotonic() - started > LIMIT:
            process.kill()
            raise RuntimeError(f"{path.parent}: the training did not begin: {log.read_text()}")
        time.sleep(0.001)


def kill_and_resume(folder: Path, kills: int, *, steps: int, seed: int, workers: int) -> list[str]:
    """What each of so many killed and resumed trainings was found to be, "equal" where all is well.

    Args:
        folder: where to work; empty.
        kills: how many.
        steps: of each training.
        seed: of the moments.
        workers: processes at a time.
    """
    data = folder / "walks.npz"
    write_data(data)
    whole = folder / "whole"
    train_whole(command(data, whole, steps), folder / "whole.log")
    expected = Finished.of(runs.open_run(whole))
    moments = random.Random(seed)
    reached: list[int] = []

    def one(job: tuple[int, int, float]) -> str:
        number, records, seconds = job
        out, log = folder / f"killed{number}", folder / f"killed{number}.log"
        if not kill_at(command(data, out, steps), out, log, records, seconds):
            return "ended before its kill"
        run = runs.open_run(out)
        reached.append(run.load("last").step if run.has("last") else 0)
        resume(run, log)
        return "equal" if Finished.of(run).equals(expected) else f"{out} differs"

    # Drawn by how far a training is, as its speed is anybody's guess; then up to some steps more.
    most = len(expected.records) - 3
    jobs = [(i, moments.randint(0, most), moments.uniform(0.0, 0.03)) for i in range(kills)]
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, jobs))
    print(f"resumed from steps {sorted(reached)} of {steps}")
    return found


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(part) for key, part in value.items() if key not in TIMED}
    if isinstance(value, list | tuple):
        return [untimed(part) for part in value]
    return value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other

"""SIGKILL at random moments of a training: ``python -m tests.trust.kills --kills 50 --writes 20``.

Two kinds. One kills the command line's process at a moment drawn at random and resumes it: what it
ends with must equal, bit for bit, what an uninterrupted training ends with. The other lets the
process kill itself at a chosen file operation within the writing of a checkpoint: the checkpoint
before it, or the new one if it was complete, must load every time.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zpyro import checkpoint, runs
from zpyro.runs import Run

PROGRAM = (sys.executable, "-m", "zpyro_cli")
SETTINGS = (
    *("model.hidden_size=12", "model.latent_size=3", "model.embedding_size=6", "model.mlp_size=8"),
    *("train.batch_size=8", "train.checkpoint_every=9", "train.validate_every=13"),
    *("train.log_every=4", "train.average=0.9", "train.learning_rate_schedule=plateau"),
    *("train.plateau_patience=1", "objective.auxiliary_weight=0.01"),
)
STEPS = 400
TIMED = ("seconds", "frames_per_second", "interval_seconds")
LIMIT = 300
"""Seconds that one process may take; more is a hang."""


@dataclass(frozen=True)
class Finished:
    """What a training ended with, without what the clock said.

    Attributes:
        weights: the bytes of the last and the best weights.
        state: of the optimiser, the random numbers, the position and the sums.
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
    """The training as a command."""
    chosen = [f"--set={setting}" for setting in SETTINGS]
    where = ["--dataset=npz", "--data", str(data), "--out", str(out)]
    return [*PROGRAM, "train", *where, "--max-steps", str(steps), *chosen]


def resume(run: Run) -> None:
    """Let a killed training end; fails where it cannot."""
    arguments = [*PROGRAM, "train", "--resume", str(run.folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise RuntimeError(f"{run.folder} does not resume: {done.stderr}")


def kill_after(arguments: Sequence[str], out: Path, seconds: float) -> bool:
    """Start a training and SIGKILL it so long after its directory was made; False if too late."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = time.monotonic()
    while not (out / runs.CONFIG).exists():
        if process.poll() is not None or time.monotonic() - started > LIMIT:
            process.kill()
            raise RuntimeError(f"{out}: the training did not begin")
        time.sleep(0.001)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait() == -signal.SIGKILL


def duration(arguments: Sequence[str], out: Path) -> float:
    """Seconds that an uninterrupted training takes from the making of its directory on."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (out / runs.CONFIG).exists() and process.poll() is None:
        time.sleep(0.001)
    started = time.monotonic()
    _, errors = process.communicate(timeout=LIMIT)
    if process.returncode:
        raise RuntimeError(errors.decode())
    return time.monotonic() - started


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
    longest = duration(command(data, whole, steps), whole)
    expected = Finished.of(runs.open_run(whole))
    moments = random.Random(seed)

    def one(job: tuple[int, float]) -> str:
        number, moment = job
        out = folder / f"killed{number}"
        if not kill_after(command(data, out, steps), out, moment):
            return "ended before its kill"
        run = runs.open_run(out)
        resume(run)
        return "equal" if Finished.of(run).equals(expected) else f"{out} differs"

    jobs = [(number, moments.uniform(0.0, 0.95 * longest)) for number in range(kills)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, jobs))


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


def main() -> int:
    """Print the figures; the exit status is 1 where anything was lost."""
    from tests.trust.writes import kill_within_writes

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = kill_and_resume(
            place,
            options.kills,
            steps=options.steps,
            seed=options.seed,
            workers=options.workers,
        )
        for bad in sorted(set(found) - {"equal"}):
            print(f"{found.count(bad)} x {bad}")
        print(f"{found.count('equal')} of {len(found)} killed trainings end bit-equal")
        (place / "writes").mkdir()
        loads = kill_within_writes(place / "writes", options.writes, seed=options.seed)
        for bad in sorted(set(loads) - {"loads"}):
            print(f"{loads.count(bad)} x {bad}")
        print(f"{loads.count('loads')} of {len(loads)} killed writes leave a checkpoint that loads")
    whole = found.count("equal") == len(found) and loads.count("loads") == len(loads)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())

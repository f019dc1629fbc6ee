"""A long training: ``python -m tests.trust.soak --steps 2000`` prints how its memory moves.

Validations, checkpoints and records are as frequent as they get, on batches of changing shapes. The
resident memory is read after every tenth of the steps; from the third reading on (until then
libraries make their lasting buffers) it may not grow by more than the allowance.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path

from tests.run.small import dataset, model, settings
from zpyro.training import callbacks as reporting
from zpyro.training import fitting as training
from zpyro.training import runs
from zpyro.training.allocation import keep_freed_memory
from zpyro.training.task import TrainState

READINGS = 10
SETTLED = 2
ALLOWED = 4.0
"""MiB of growth between the settled readings: pages of the heap come and go."""


class Watch(reporting.NullLogger):
    """Reads the resident memory after every tenth of the steps.

    Args:
        steps: of the whole training.

    Attributes:
        readings: MiB.
        objects: what Python's collector tracked at each reading.
    """

    def __init__(self, steps: int) -> None:
        self._every = steps // READINGS
        self.readings: list[float] = []
        self.objects: list[int] = []

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        if state.step % self._every == 0:
            gc.collect()
            self.readings.append(_resident())
            self.objects.append(len(gc.get_objects()))


def soak(folder: Path, steps: int) -> Watch:
    """Train for so many steps; gives the readings."""
    config = settings(
        max_steps=steps, checkpoint_every=50, validate_every=100, log_every=1, average=0.9
    )
    watch = Watch(steps)
    run = runs.create(folder, config)
    training.fit(model(), dataset(), config, run=run, callbacks=[watch])
    return watch


def growth(readings: list[float]) -> float:
    """From the first settled reading to the highest after it."""
    return max(readings[SETTLED:]) - readings[SETTLED]


def _resident() -> float:
    """MiB of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this kernel does not report VmRSS")


def main() -> int:
    """Print the readings; the exit status is 1 where memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    with tempfile.TemporaryDirectory() as folder:
        watch = soak(Path(folder) / "run", options.steps)
    print("resident MiB:", " ".join(f"{reading:.1f}" for reading in watch.readings))
    print("objects:", " ".join(map(str, watch.objects)))
    grown = growth(watch.readings)
    print(f"{options.steps} steps, grown by {grown:.1f} MiB after the first tenths")
    return 0 if grown <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())

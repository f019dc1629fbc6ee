"""Exactness of a maze solver on held-out mazes: ``python -m benchmarks.maze_exactness RUN``.

Sizes of training alone choose between recipes. Validation mazes are solved one by one, and in
mosaics of four by four, whose middle is as far from a border as in a large maze. A maze fails if a
square of its passages is wrong after any of the last iterations, ten times as many as in training;
iterations begin from the network's first state, and from random ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro_examples.easy_to_hard import building, mazes, tasks
from zpyro_examples.easy_to_hard.mazes_task import passages
from zpyro_examples.easy_to_hard.networks import IteratedNetwork
from zpyro_examples.easy_to_hard.run_folder import RunFolder

ITERATIONS = 10
"""Times those of training."""
CHECKS = 6
"""Looks at the answers in the last third of the iterations."""
PIXELS_AT_ONCE = 60_000
STARTS = ("first", "random")


def main() -> None:
    """Print a line, or a JSON object, for each arrangement of the mazes and start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=1600, help="of mazes, filled up to mosaics")
    parser.add_argument("--across", type=int, default=4, help="mazes in a row of a mosaic")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.count < 1 or options.across < 1:
        parser.error("count and across must be at least 1")
    try:
        for line in measure(options.run, options.count, options.across):
            print(
                json.dumps(line) if options.json else "{failed} of {count}: {what}".format(**line)
            )
    except UserError as error:
        parser.error(str(error))


def measure(run: Path, count: int, across: int) -> Iterator[dict[str, int | str]]:
    """How many held-out mazes of the training's size fail, alone and in mosaics.

    Raises:
        UserError: if the run is not one of a maze solver that repeats one network.
    """
    folder = RunFolder.open(run)
    settings = folder.settings()
    if settings.task != "mazes":
        raise UserError(f"{run}: is a run of {settings.task}, not of mazes; choose another")
    task, preset = tasks.load("mazes"), settings.preset
    solver = building.build(task, preset, settings.solver, settings.depth)
    folder.load_weights(solver, averaged=True)
    network = solver.repeated_network
    if network is None:
        raise UserError(f"{run}: its solver does not repeat one network; choose another")
    count = -(-count // across**2) * across**2
    inputs, targets = task.build(settings.request("valid", preset.train_size, count))
    geometry = str(preset.options.get("geometry", "published"))
    for columns in (1, across):
        joined = (mazes.mosaics(part, columns, geometry) for part in (inputs, targets))
        examples = tuple(joined)
        for start in STARTS:
            failed = sum(
                int(wrong_mazes(wrong, columns, mazes.BORDERS[geometry]).sum())
                for wrong in wrong_squares(network.eval(), *examples, preset.iterations, start)
            )
            what = "alone" if columns == 1 else f"in mosaics of {columns} x {columns}"
            yield {"what": f"{what}, from {start} states", "failed": failed, "count": len(inputs)}


@torch.no_grad()
def wrong_squares(
    network: IteratedNetwork, inputs: Tensor, targets: Tensor, iterations: int, start: str
) -> Iterator[Tensor]:
    """Squares that are wrong at any of the checks, batch by batch, (B, side, side)."""
    torch.manual_seed(0)
    last = ITERATIONS * iterations
    checks = {last - check * (last // 3 // CHECKS) for check in range(CHECKS)}
    batch = max(1, PIXELS_AT_ONCE // inputs[0, 0].numel())
    for images, paths in zip(inputs.split(batch), targets.split(batch), strict=True):
        problems = images.float()
        state = network.initial_state(problems)
        if start == "random":
            # As in the training, see RecurrentSolver.sample_start.
            size = 5.0 * torch.rand(len(state), 1, 1, 1)
            state = torch.randn_like(state).relu() * state.mean() * size
        wrong = torch.zeros_like(paths, dtype=torch.bool)
        for iteration in range(1, last + 1):
            state = network.iterate_from(state, problems, 1)
            if iteration in checks:
                wrong |= (network.answer(state).argmax(1) != paths) & passages(problems)
        yield wrong


def wrong_mazes(wrong: Tensor, across: int, border: int) -> Tensor:
    """Whether each maze of mosaics (B, side, side) has a wrong square, (B, across^2)."""
    step = (wrong.shape[-1] - border) // across
    windows = wrong.unfold(1, step + border, step).unfold(2, step + border, step)
    return windows.flatten(3).any(-1).flatten(1)


if __name__ == "__main__":
    main()

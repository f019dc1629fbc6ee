"""Exactness of a maze solver on held-out mazes: ``python -m benchmarks.maze_exactness RUN``.

Prints how many mazes of the training's size fail, see
:mod:`zpyro_examples.easy_to_hard.exactness`, alone and in mosaics, from the network's first state
and from random ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from zpyro.errors import UserError
from zpyro_examples.easy_to_hard import running, tasks
from zpyro_examples.easy_to_hard.exactness import ACROSS, COUNT, STARTS, failing
from zpyro_examples.easy_to_hard.mazes_task import geometry_of


def main() -> None:
    """Print a line, or a JSON object, for each arrangement of the mazes and start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=COUNT, help="of mazes, filled up to mosaics")
    parser.add_argument("--across", type=int, default=ACROSS, help="mazes in a row of a mosaic")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.count < 1 or options.across < 1:
        parser.error("count and across must be at least 1")
    try:
        for line in measure(options.run, options.count, options.across):
            text = (
                json.dumps(line) if options.json else "{failed} of {count}: {what}".format(**line)
            )
            print(text, flush=True)
    except ValueError as error:
        parser.error(str(error))


def measure(run: Path, count: int, across: int) -> Iterator[dict[str, int | str]]:
    """How many held-out mazes of the training's size fail, alone and in mosaics.

    Raises:
        ValueError: if there are too few held-out mazes for a mosaic.
        UserError: if the run is not one of a maze solver that repeats one network.
    """
    task = tasks.load("mazes")
    folder, settings = running.open_run(task, run)
    solver, preset = running.load_solver(task, folder, settings), settings.preset
    network = solver.repeated_network
    if network is None:
        raise UserError(f"{run}: its solver does not repeat one network; choose another")
    count = -(-count // across**2) * across**2
    examples = task.build(settings.request("valid", preset.train_size, count))
    geometry = geometry_of(preset.options)
    for columns in dict.fromkeys((1, across)):
        for start in STARTS:
            shape = {"across": columns, "geometry": geometry, "start": start}
            failed = failing(network, examples, preset.iterations, **shape)
            what = "alone" if columns == 1 else f"in mosaics of {columns} x {columns}"
            where = f"{what}, from {start} states"
            yield {"what": where, "failed": int(failed.sum()), "count": len(failed)}


if __name__ == "__main__":
    main()

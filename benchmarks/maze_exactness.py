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
from zpyro_examples.easy_to_hard import building, tasks
from zpyro_examples.easy_to_hard.exactness import ACROSS, COUNT, STARTS, failing
from zpyro_examples.easy_to_hard.run_folder import RunFolder


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
    examples = task.build(settings.request("valid", preset.train_size, count))
    geometry = str(preset.options.get("geometry", "published"))
    for columns in dict.fromkeys((1, across)):
        for start in STARTS:
            shape = {"across": columns, "geometry": geometry, "start": start}
            failed = failing(network, examples, preset.iterations, **shape)
            what = "alone" if columns == 1 else f"in mosaics of {columns} x {columns}"
            where = f"{what}, from {start} states"
            yield {"what": where, "failed": int(failed.sum()), "count": len(failed)}


if __name__ == "__main__":
    main()

"""Forecasts of trained runs on a table and of baselines, over rolling origins in the test part.

``python -m benchmarks.forecasts runs/etth1-0 runs/etth1-1 runs/etth1-2 --steps 24 --windows 120``

With ``--part valid`` origins are in the validation part, on which settings can be chosen. Prints
a line for each run and baseline. Baselines see the values up to each origin; the runs were
trained on the training part alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from zpyro.analysis import load_run
from zpyro.analysis.table_forecasts import TableRun, baselines
from zpyro.errors import UserError
from zpyro.evaluation import Forecaster

COLUMNS = ("crps", "crps_sum", "energy_score", "coverage_50", "coverage_90", "mase", "mae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--windows", type=int, default=120)
    parser.add_argument("--part", choices=["valid", "test"], default="test", help="of the table")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--only-baselines", action="store_true")
    parser.add_argument("--skip-baselines", action="store_true")
    options = parser.parse_args()
    print(f"| | {' | '.join(COLUMNS)} | seconds |\n|{'---|' * (len(COLUMNS) + 2)}")
    try:
        opened = [TableRun(load_run(folder)) for folder in options.runs]
        label, _, table = opened[0].read(None)
    except UserError as error:
        parser.error(str(error))
    rows: list[tuple[TableRun, str, Forecaster]] = []
    if not options.only_baselines:
        rows += [
            (run, folder.name, run.forecaster)
            for folder, run in zip(options.runs, opened, strict=True)
        ]
    if not options.skip_baselines:
        known = baselines(table.columns.step)
        rows += [(opened[0], name, forecaster) for name, forecaster in known.items()]
    for run, name, forecaster in rows:
        begin = time.perf_counter()
        tested = run.backtest(
            label,
            table,
            options.steps,
            options.samples,
            {name: forecaster},
            windows=options.windows,
            part=options.part,
        )
        scores, seconds = vars(tested[name].scores), time.perf_counter() - begin
        cells = " | ".join(f"{scores[column]:.4g}" for column in COLUMNS)
        print(f"| {name} | {cells} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()

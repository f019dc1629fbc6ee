"""Imputation by a trained run, by linear interpolation and by a Kalman smoother, on a table.

``python -m benchmarks.imputation runs/impute --share 0.2`` removes single entries of the test part,
``--gap 24`` removes whole gaps of 24 rows of single columns instead, the same share in all; with
``--part valid``, of the validation part, on which settings can be chosen. Prints
the mean absolute error of the removed entries, divided by the standard deviation of each column in
the training part, and the share inside the central 90 % interval where there is one. The Kalman
smoother is the local linear trend with a daily cycle of ``statsmodels``, fitted by maximum
likelihood to each column of the test part with its gaps (``pip install "zpyro[forecast]"``).
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.analysis import load_run
from zpyro.analysis.table_forecasts import TableRun
from zpyro.datasets.linear_prediction import fill_gaps
from zpyro.datasets.table import boundaries
from zpyro.errors import UserError


def removed(shape: tuple[int, int], share: float, gap: int, seed: int) -> np.ndarray[Any, Any]:
    """Which entries are removed."""
    random = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=bool)
    while mask.mean() < share:
        row = int(random.integers(0, shape[0] - gap + 1))
        mask[row : row + gap, random.integers(0, shape[1])] = True
    return mask


def kalman(values: np.ndarray[Any, Any], season: int) -> np.ndarray[Any, Any]:
    """Each column smoothed, (T, D)."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    smoothed = np.empty_like(values)
    for column, each in enumerate(values.T):
        model = UnobservedComponents(
            each, "local linear trend", freq_seasonal=[{"period": season, "harmonics": 4}]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = model.fit(disp=False, maxiter=50)
        design, state = np.asarray(model.ssm["design"]), fitted.smoothed_state
        smoothed[:, column] = (design[..., 0] if design.ndim == 3 else design)[0] @ state
    return smoothed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="the table without gaps")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--gap", type=int, default=1)
    parser.add_argument("--part", choices=["valid", "test"], default="test", help="of the table")
    parser.add_argument("--rows", type=int, default=2880, help="rows of the part that count")
    parser.add_argument("--no-smoother", action="store_true", help="leave out the Kalman smoother")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (0 < options.share < 1 and 0 < options.gap <= options.rows and options.samples > 0):
        parser.error("--share must be between 0 and 1, --gap from 1 to --rows, --samples above 0")
    try:
        run = TableRun(load_run(options.run))
        label, _, table = run.read(options.data)
        whole = table.series[0]
        valid, test, end = boundaries(Path(label), whole, run.settings)
    except UserError as error:
        parser.error(str(error))
    first, end = (test, end) if options.part == "test" else (valid, test)
    series = whole[first : min(end, first + options.rows)]
    mask = removed(series.values.shape, options.share, options.gap, options.seed)
    gappy = replace(series, values=np.where(mask, np.nan, series.values))
    scale = np.asarray(run.normalization.scale)
    mean, std = run.impute(label, replace(table, series=(gappy,)), options.samples, options.seed)[0]
    rows = {
        "zpyro impute": mean,
        "linear interpolation": fill_gaps(gappy.values),
    }
    if not options.no_smoother:
        rows["Kalman smoother"] = kalman(gappy.values, 24)
    print(f"{mask.sum()} of {mask.size} entries removed, gaps of {options.gap}")
    for name, filled in rows.items():
        error = (np.abs(filled - series.values) / scale)[mask].mean()
        print(f"| {name} | {error:.4f} |", flush=True)
    inside = np.abs(mean - series.values) <= 1.6449 * std
    print(f"90 % intervals (Gaussian) of zpyro impute cover {inside[mask].mean():.1%}")


if __name__ == "__main__":
    main()

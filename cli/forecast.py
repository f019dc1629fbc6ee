"""``zpyro forecast``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .common import log, status
from .options import model_options
from .paths import PATH
from .sequences import open_run, read_table, table_option, write_plot

SHOWN = ("crps", "coverage_50", "coverage_90", "mase")


@click.command("forecast")
@click.argument("run", type=PATH)
@table_option
@click.option(
    "--steps", default=24, show_default=True, type=click.IntRange(1, 100_000), help="Rows ahead."
)
@click.option(
    "--samples",
    "num_samples",
    default=100,
    show_default=True,
    type=click.IntRange(2, 100_000),
    help="Futures to sample for each series.",
)
@click.option(
    "--context",
    type=click.IntRange(1, 10_000_000),
    help="Rows before the forecast that the model reads.  [default: 2 * data.segment_length]",
)
@click.option(
    "--out",
    type=PATH,
    help="A .csv or .parquet file; a picture is beside it.  [default: RUN/forecast.csv]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Forecast the last --steps rows of each series from those before, and print scores of the"
    " model and of baselines as one JSON object; with --out, write the forecast too.",
)
@click.option(
    "--windows",
    default=1,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="With --json: forecasts of each series, one after another up to its end.",
)
@model_options
def command(
    run: Path,
    data: Path | None,
    steps: int,
    num_samples: int,
    context: int | None,
    out: Path | None,
    as_json: bool,
    windows: int,
    seed: int,
    **options: Any,
) -> None:
    """Forecast every series of a table after its last value.

    The forecast has one row for each series and step, with the mean and quantiles of every column.
    Covariates of the steps ahead are read from rows whose values are empty.

    \b
    Example:
      zpyro forecast runs/load --steps 24 --out forecast.csv
      zpyro forecast runs/load --steps 24 --json
    """
    from zpyro.analysis.plots import save_figure
    from zpyro.analysis.table_forecasts import TableRun, baselines
    from zpyro.datasets.formats.tables import check_name, write_frame
    from zpyro.errors import UserError, pluralize

    if windows > 1 and not as_json:
        raise UserError("--windows is for scores; give --json too")
    scores_only = as_json and out is None
    out = out or run / "forecast.csv"
    check_name(out)
    tables = TableRun(open_run(run, **options), context)
    label, _, table = read_table(tables, data)
    count = f"{len(table.series):,} series"
    if as_json:
        with status(f"forecasting {count} {pluralize(windows, 'time')}"):
            tested = tables.backtest(
                label,
                table,
                steps,
                num_samples,
                {"model": tables.forecaster, **baselines(table.columns.step)},
                windows=windows,
                seed=seed,
                held_out=data is None,
            )
        scores = {name: vars(each.scores) for name, each in tested.items()}
        for name, each in scores.items():
            log(f"{name}: " + ", ".join(f"{score} {each[score]:.4g}" for score in SHOWN))
        model = scores.pop("model")
        sizes = {"steps": steps, "num_samples": num_samples, "seed": seed}
        click.echo(json.dumps({**sizes, **model, "baselines": scores}))
    if scores_only:
        return
    with status(f"forecasting {pluralize(steps, 'step')} of {count}"):
        found = tables.forecast(label, table, steps, num_samples, seed)
    write_frame(out, found.to_dataframe())
    # Standard output is the scores alone where they are asked for.
    tell = log if as_json else click.echo
    tell(f"forecast of {pluralize(steps, 'step')} in {out}")
    if out.is_file():
        # Beside a device or pipe there is no place for a picture.
        write_plot(lambda path: save_figure(found.plot(), path), out.with_suffix(".png"), tell)

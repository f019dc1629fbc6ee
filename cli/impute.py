"""``zpyro impute``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import status
from .options import model_options
from .paths import PATH
from .sequences import open_run, read_table, table_option


@click.command("impute")
@click.argument("run", type=PATH)
@table_option
@click.option("--out", required=True, type=PATH, help="A .csv or .parquet file to write.")
@click.option(
    "--std", is_flag=True, help="Add a column NAME_std for each column of values; 0 where known."
)
@click.option(
    "--samples",
    "num_samples",
    default=100,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Samples of every missing value, whose mean is written.",
)
@click.option(
    "--context",
    type=click.IntRange(2, 10_000_000),
    help="Rows that the model reads at a time.  [default: 2 * data.segment_length]",
)
@model_options
def command(
    run: Path,
    data: Path | None,
    out: Path,
    std: bool,
    num_samples: int,
    context: int | None,
    seed: int,
    **options: Any,
) -> None:
    """Fill the empty cells of a table.

    The same table is written, sorted by series and time, with a row for every time that had none.
    Known values do not change.

    \b
    Example:
      zpyro impute runs/load --data gaps.csv --out filled.csv --std
    """
    import numpy as np

    from zpyro.analysis.table_forecasts import TableRun, filled_frame
    from zpyro.datasets.formats.tables import check_name, write_frame
    from zpyro.errors import pluralize

    check_name(out)
    tables = TableRun(open_run(run, **options), context)
    label, frame, table = read_table(tables, data)
    missing = sum(int(np.isnan(series.values).sum()) for series in table.series)
    with status(f"filling {pluralize(missing, 'value')}"):
        filled = tables.impute(label, table, num_samples, seed)
    write_frame(out, filled_frame(table, frame, filled, std=std))
    click.echo(f"{pluralize(missing, 'value')} filled in {out}")

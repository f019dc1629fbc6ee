"""Tables of pandas as data sets of sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zpyro.datasets.arrays import Named, array_settings, assemble, checked
from zpyro.datasets.sequences import Array, Dataset
from zpyro.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

INSTALL = 'from_dataframe needs pandas; pip install "zpyro[pandas]"'


def from_dataframe(
    frame: DataFrame,
    *,
    group: str | Sequence[str] | None = None,
    time: str | None = None,
    values: str | Sequence[str] | None = None,
    valid: DataFrame | None = None,
    test: DataFrame | None = None,
    **settings: Any,
) -> Dataset:
    """A data set of a pandas table, long or wide. Rows are steps, equally long.

    With ``group`` the table is long: the rows of each group are a sequence (T_i, D) with the
    columns ``values`` as frames. Without, it is wide: each column is a sequence (T_i, 1); with two
    levels of columns, each entry of the first level is a sequence (T_i, D). Missing rows before
    the first and after the last value of a wide sequence shorten it. Empty cells, NaN or ``pd.NA``,
    are missing values, as NaN in :func:`from_arrays`.

    Args:
        frame: all sequences, or those to train on.
        group: the column, or columns, that tell the sequences of a long table apart.
        time: the column to sort by; by default the rows are in order.
        values: the columns with the numbers; by default all others.
        valid: a table of the sequences to validate on; a share of the sequences without.
        test: a table of the sequences to test on, likewise.
        **settings: as of :func:`from_arrays`. Columns are frames of numbers, unless
            ``likelihood="categorical"`` makes one column of whole numbers tokens.

    Raises:
        UserError: naming the column or sequence that cannot be used, or if pandas is not installed.

    Example::

        data = from_dataframe(hours, group="station", time="hour", values=["level", "wind"])
    """
    found = array_settings("from_dataframe", settings)
    given = {"valid": valid, "test": test}
    tables = {"train": frame, **{name: table for name, table in given.items() if table is not None}}
    if len(tables) == 1:
        tables = {"all": frame}
    tokens = found.likelihood == "categorical"
    groups: dict[str, Named] = {}
    for split, table in tables.items():
        label = "frame" if split in ("all", "train") else split
        keys = [group] if isinstance(group, str) else list(group or ())
        rows = _sorted(label, table, time, keys)
        parts = _long(label, rows, keys, time, values) if keys else _wide(label, rows, time, values)
        named = [(name, _numbers(f"{label}: {name}", part, tokens)) for name, part in parts]
        if not named:
            raise UserError(f"{label}: holds no sequences; give a table with rows and columns")
        groups[split] = named
    return assemble("dataframe", "from_dataframe", groups, found)


def _sorted(label: str, table: Any, time: str | None, keys: Sequence[str]) -> Any:
    """The rows in the order of their time; levels of the index that are asked for as columns."""
    try:
        import pandas
    except ImportError as error:
        raise UserError(INSTALL) from error
    if not isinstance(table, pandas.DataFrame):
        raise UserError(f"{label}: is {type(table).__name__}, not a pandas DataFrame; give one")
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise UserError(f"{label}: has two columns {twice}; rename one")
    wanted = [*keys, *([] if time is None else [time])]
    levels = [name for name in wanted if name in table.index.names and name not in table.columns]
    columns: Any = table.reset_index(level=levels) if levels else table
    for name in wanted:
        if name not in columns:
            raise UserError(f"{label}: has no column {name}; {_listed(columns)}")
        if columns[name].isna().any():
            raise UserError(f"{label}: column {name} has missing values; fill or drop those rows")
    return columns if time is None else columns.sort_values(time, kind="stable")


def _long(
    label: str,
    table: Any,
    keys: Sequence[str],
    time: str | None,
    values: str | Sequence[str] | None,
) -> Iterable[tuple[str, Any]]:
    """The rows of each group, in the order in which the groups appear."""
    columns = _value_columns(label, table, values, {*keys, *([] if time is None else [time])})
    for key, rows in table.groupby(list(keys), sort=False, observed=True):
        name = "/".join(map(str, key))
        if time is not None and rows[time].duplicated().any():
            moment = rows[time][rows[time].duplicated()].iloc[0]
            raise UserError(f"{label}: {name} has {time} {moment} twice; keep one row for each")
        yield name, rows[columns]


def _wide(
    label: str, table: Any, time: str | None, values: str | Sequence[str] | None
) -> Iterable[tuple[str, Any]]:
    """Each column, or each group of columns, from its first to its last value."""
    if time is not None and table[time].duplicated().any():
        raise UserError(
            f"{label}: column {time} holds a value twice; give group= for a long table, or keep one"
            " row for each"
        )
    columns = _value_columns(label, table, values, set() if time is None else {time})
    firsts: list[Any] = [table[[column]].columns.get_level_values(0)[0] for column in columns]
    for first in dict.fromkeys(firsts):
        chosen = [column for column, head in zip(columns, firsts, strict=True) if head == first]
        part = table[chosen]
        there = np.flatnonzero(part.notna().to_numpy().any(axis=1))
        if not len(there):
            raise UserError(f"{label}: column {first} holds no values; leave it out")
        yield str(first), part.iloc[there[0] : there[-1] + 1]


def _value_columns(
    label: str, table: Any, values: str | Sequence[str] | None, others: set[str]
) -> list[Any]:
    """The columns with the numbers."""
    if values is not None:
        wanted = [values] if isinstance(values, str) else list(values)
        lacking = [name for name in wanted if name not in table.columns]
        if lacking:
            raise UserError(f"{label}: has no column {lacking[0]}; {_listed(table)}")
        # Of columns with two levels, a name of the first stands for all below it.
        chosen: list[Any] = [column for name in wanted for column in table[[name]].columns]
    else:
        chosen = [name for name in table.columns if name not in others]
    # Text, dates and the like: numbers and truth values are taken.
    bad = [name for name in chosen if table[name].dtype.kind not in "biuf"]
    if bad:
        raise UserError(
            f"{label}: column {bad[0]} has type {table[bad[0]].dtype}; convert it to numbers, or"
            " choose columns with values="
        )
    if not chosen:
        raise UserError(f"{label}: has no columns of values; {_listed(table)}")
    return chosen


def _listed(table: Any) -> str:
    return f"it has {', '.join(map(str, table.columns[:20])) or 'none'}"


def _numbers(label: str, part: Any, tokens: bool) -> Array:
    """The values of a sequence, (T, D), NaN where they are missing, or (T,) of tokens."""
    if tokens and part.shape[1] == 1:
        if part.isna().to_numpy().any():
            raise UserError(
                f"{label}: column {part.columns[0]} has missing tokens; fill or drop those rows"
            )
        return checked(label, part.iloc[:, 0].to_numpy())
    return checked(label, part.to_numpy(dtype=np.float64, na_value=np.nan))

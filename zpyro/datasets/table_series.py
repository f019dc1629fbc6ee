"""Series in a table: columns by name, groups, times, gaps, and calendar features.

A table has one row for each time and group. Repaired are: rows out of order (sorted), times that
are skipped (rows of missing values), and missing covariates (the value before). Everything else
that is wrong is an error of one line.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.arrays import LARGEST_NUMBER
from zpyro.datasets.formats.tables import pandas_module, read_frame
from zpyro.errors import UserError, pluralize

Numbers = NDArray[np.float64]

LARGEST_GAP = 100
"""Rows of missing values that are inserted for each row of the table, at most."""

SECONDS = {"minute": 3600.0, "hour": 86400.0, "weekday": 604800.0}
CALENDAR = ("minute", "hour", "weekday", "day", "dayofyear", "month")
"""Calendar features; each is the sine and cosine of the place in its cycle."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are.

    Attributes:
        time: the column of times, or "" where rows are steps in order.
        group: the columns that tell series apart; none for a single series.
        values: the dimensions of the frames; none for every other column.
        covariates: columns that are known in advance.
        calendar: names from :data:`CALENDAR`, computed from the time.
        step: the time between two rows, as pandas writes it ("1h", "1D", "MS"); "" finds it out.
        wide: whether every column of values is a series of its own, of one dimension.
        header: whether a CSV file names its columns in the first line.
    """

    time: str = ""
    group: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    calendar: tuple[str, ...] = ()
    step: str = ""
    wide: bool = False
    header: bool = True


@dataclass(frozen=True, eq=False)
class Series:
    """One series of a table on its regular grid of times.

    Attributes:
        name: of its group, or column of a wide table; "" for the single series of a table.
        key: the values of the group columns.
        times: (T,), a pandas index; numbers where the table has no column of times.
        values: (T, D), NaN where missing.
        covariates: (T, C), columns and then calendar features.
        rows: (T,), the row of the table that each comes from; -1 for times without one.
    """

    name: str
    key: tuple[Any, ...]
    times: Any
    values: Numbers
    covariates: Numbers
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice) -> Series:
        return replace(
            self,
            times=self.times[rows],
            values=self.values[rows],
            covariates=self.covariates[rows],
            rows=self.rows[rows],
        )

    @property
    def num_observed(self) -> int:
        """Rows up to the last one with a value; those after it are the future."""
        rows = np.flatnonzero(np.isfinite(self.values).any(axis=1))
        return int(rows[-1]) + 1 if len(rows) else 0


@dataclass(frozen=True, eq=False)
class Table:
    """The series of a table.

    Attributes:
        columns: with ``values`` and ``step`` found out.
        series: at least one.
        notes: what was repaired.
    """

    columns: Columns
    series: tuple[Series, ...]
    notes: tuple[str, ...] = ()

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """Of the covariates: the columns, then each calendar feature's sine and cosine."""
        pairs = ((f"{name}_sin", f"{name}_cos") for name in self.columns.calendar)
        return (*self.columns.covariates, *(name for pair in pairs for name in pair))

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of the dimensions of a frame."""
        return ("value",) if self.columns.wide else self.columns.values


def read_table(path: Path, columns: Columns) -> Table:
    """The series in a CSV or Parquet file.

    Columns are found by name, so their order does not matter.

    Raises:
        UserError: naming the file, and the column, series or row that cannot be used.
    """
    return table_of(str(path), read_frame(path, header=columns.header), columns)


def table_of(label: str, frame: Any, columns: Columns) -> Table:
    """The series in a data frame; ``label`` is what errors begin with.

    Raises:
        UserError: as :func:`read_table`.
    """
    columns = _known(label, frame, columns)
    numbers = {
        name: _numbers(label, frame, name)
        for name in dict.fromkeys((*columns.values, *columns.covariates))
    }
    for name in columns.values:
        if not np.isfinite(numbers[name]).any():
            raise UserError(f"{label}: column {name} holds no values; leave it out of data.values")
    times = _times(label, frame, columns.time) if columns.time else None
    groups = list(_groups(label, frame, columns.group))
    step, whole_steps = columns.step, False
    if times is not None:
        if columns.calendar and not isinstance(times, pandas_module().DatetimeIndex):
            raise UserError(
                f"{label}: column {columns.time} has whole numbers, but data.calendar needs dates"
            )
        step = step or _step([times[rows] for _, _, rows in groups])
        whole_steps = not isinstance(times, pandas_module().DatetimeIndex)
    notes: list[str] = []
    found: list[Series] = []
    for name, key, rows in groups:
        where = f"{label}: group {name}" if name else label
        values = np.stack([numbers[column][rows] for column in columns.values], 1)
        known = np.zeros((len(rows), 0))
        if columns.covariates:
            known = np.stack([numbers[column][rows] for column in columns.covariates], 1)
        index = pandas_module().RangeIndex(len(rows))
        if times is not None:
            index, place, order = _grid(where, times[rows], step, whole_steps)
            if order:
                notes.append(f"{where}: the rows are not in the order of {columns.time}; sorted")
            if len(index) > len(rows):
                lacking = len(index) - len(rows)
                notes.append(
                    f"{where}: without a row: {lacking} of {pluralize(len(index), 'time')}; "
                    "missing values"
                )
            values, known = _laid(values, place, len(index)), _laid(known, place, len(index))
            source = np.full(len(index), -1)
            source[place] = rows
            rows = source
        known = _carried_forward(where, known, columns.covariates)
        calendar = calendar_features(index, columns.calendar)
        covariates = np.concatenate([known, calendar], 1)
        found.append(Series(name, key, index, values, covariates, rows))
    if columns.wide:
        found = [part for series in found for part in _by_column(series, columns.values)]
    return Table(replace(columns, step=step), tuple(found), tuple(notes))


def _by_column(series: Series, names: Sequence[str]) -> list[Series]:
    """Each dimension as a series of its own, with the column in its name."""
    return [
        replace(
            series,
            name="/".join(filter(None, (series.name, name))),
            values=series.values[:, column : column + 1],
        )
        for column, name in enumerate(names)
    ]


def calendar_features(times: Any, names: Sequence[str]) -> Numbers:
    """Sine and cosine of the place of each time in each cycle, (T, 2 * len(names)).

    Args:
        times: a DatetimeIndex; the clock time of its zone counts.
        names: from :data:`CALENDAR`.
    """
    parts: list[Numbers] = []
    for name in names:
        if name == "dayofyear":
            phase = (times.day_of_year.to_numpy(np.float64) - 1.0) / 366.0
        elif name == "day":
            phase = (times.day.to_numpy(np.float64) - 1.0) / 31.0
        elif name == "month":
            phase = (times.month.to_numpy(np.float64) - 1.0) / 12.0
        else:
            seconds = times.minute.to_numpy(np.float64) * 60.0 + times.second.to_numpy(np.float64)
            if name != "minute":
                seconds += times.hour.to_numpy(np.float64) * 3600.0
            if name == "weekday":
                seconds += times.day_of_week.to_numpy(np.float64) * 86400.0
            phase = seconds / SECONDS[name]
        parts += [np.sin(2.0 * np.pi * phase), np.cos(2.0 * np.pi * phase)]
    return np.stack(parts, 1) if parts else np.zeros((len(times), 0))


def future_of(label: str, series: Series, columns: Columns, steps: int) -> tuple[Any, Numbers]:
    """The times and covariates, (steps, C), of the steps after the last row with a value.

    Rows of the table without values give them; where the table ends, times go on in its step.

    Raises:
        UserError: if the table has covariate columns but not enough rows.
    """
    begin = series.num_observed
    there = series[begin : begin + steps]
    lacking = steps - len(there)
    if not lacking:
        return there.times, there.covariates
    if columns.covariates:
        where = f"{label}: group {series.name}" if series.name else label
        raise UserError(
            f"{where}: has {pluralize(len(there), 'row')} after the last value, but the covariates"
            f" {', '.join(columns.covariates)} must be known for {steps}; add rows with empty"
            " values, or forecast fewer steps"
        )
    times = series.times[: begin + steps].append(_times_after(series.times, lacking, columns.step))
    return times[begin:], calendar_features(times[begin:], columns.calendar)


def _times_after(times: Any, steps: int, step: str) -> Any:
    """The times of so many steps after the last one."""
    pandas = pandas_module()
    if isinstance(times, pandas.DatetimeIndex):
        return pandas.date_range(times[-1], periods=steps + 1, freq=step)[1:].as_unit(times.unit)
    return pandas.Index(int(times[-1]) + int(step or 1) * np.arange(1, steps + 1))


def season_of(step: str) -> int:
    """The usual season of a step: a day of hours or minutes, a week of days, a year of months.

    Args:
        step: as pandas writes it; 1 where nothing is known of it.
    """
    pandas = pandas_module()
    try:
        offset = pandas.tseries.frequencies.to_offset(step)
        start = pandas.Timestamp("2024-01-01")
        seconds = (start + offset - start).total_seconds()
    except (ValueError, TypeError):
        return 1
    name = offset.freqstr.partition("-")[0]
    if name in ("MS", "ME", "BMS", "BME", "QS", "QE"):
        return 12 if "M" in name else 4
    for whole in (3600.0, 86400.0, 604800.0):
        if seconds < whole and whole % seconds == 0 and (whole > 3600.0 or seconds < 60.0):
            return int(whole / seconds)
    return 1


def _known(label: str, frame: Any, columns: Columns) -> Columns:
    """The columns, all of them there; those of values found out where none are given."""
    others = (*filter(None, (columns.time,)), *columns.group, *columns.covariates)
    values = columns.values or tuple(name for name in frame.columns if name not in others)
    for name in (*others, *values):
        if name not in frame.columns:
            has = ", ".join(map(str, frame.columns[:20]))
            raise UserError(f"{label}: has no column {name}; it has {has}")
    twice = [name for name in values if name in others]
    if twice:
        raise UserError(f"{label}: column {twice[0]} has two roles; name it in one setting only")
    if not values:
        raise UserError(f"{label}: has no columns of values beside {', '.join(others)}; add one")
    return replace(columns, values=values)


def _numbers(label: str, frame: Any, name: str) -> Numbers:
    """A column as numbers, NaN where missing."""
    pandas, column = pandas_module(), frame[name]
    if column.dtype.kind in "biuf":
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        try:
            found = pandas.to_numeric(column, errors="coerce")
            numbers = found.to_numpy(np.float64, na_value=np.nan)
        except OverflowError as error:
            raise UserError(
                f"{label}: column {name} holds a whole number of hundreds of digits; correct it"
            ) from error
        bad = np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy())
        if len(bad) or column.dtype.kind in "mM":
            row = int(bad[0]) if len(bad) else 0
            raise UserError(
                f"{label}: column {name} holds {str(column.iloc[row])[:40]!r} in row {row + 1},"
                " which is no number; correct it, or choose columns with data.values"
            )
    odd = np.flatnonzero(np.abs(numbers) > LARGEST_NUMBER)
    if len(odd):
        raise UserError(
            f"{label}: column {name} holds {numbers[odd[0]]} in row {odd[0] + 1}; leave the cell"
            f" empty, or give numbers within {LARGEST_NUMBER:.0e}"
        )
    return numbers


def _times(label: str, frame: Any, name: str) -> Any:
    """The column of times as an index: of whole numbers, or of dates."""
    pandas, column = pandas_module(), frame[name]
    empty = np.flatnonzero(column.isna().to_numpy())
    if len(empty):
        raise UserError(f"{label}: column {name} is empty in row {empty[0] + 1}; give a time")
    if column.dtype.kind in "iu":
        if int(column.max()) > 1 << 62 or int(column.min()) < -(1 << 62):
            raise UserError(f"{label}: column {name} holds numbers beyond 2^62; scale them down")
        return pandas.Index(column.astype(np.int64))
    if column.dtype.kind == "M":
        return pandas.DatetimeIndex(column)
    if column.dtype.kind in "bf":
        raise UserError(
            f"{label}: column {name} holds {column.iloc[0]}; give dates or whole numbers"
        )
    try:
        found = pandas.DatetimeIndex(pandas.to_datetime(column, format="ISO8601"))
        return found.as_unit("us")
    except (ValueError, OverflowError, TypeError) as error:
        if "timezone" in str(error).lower() or "tz-" in str(error).lower():
            raise UserError(
                f"{label}: column {name} mixes time zones; write all times in one, such as UTC"
            ) from error
        for row, cell in enumerate(column, 1):
            try:
                pandas.to_datetime(pandas.Series([cell]), format="ISO8601")
            except (ValueError, OverflowError, TypeError):
                raise UserError(
                    f"{label}: column {name} holds {str(cell)[:40]!r} in row {row}, which is no"
                    " date; write dates as 2024-01-31 or 2024-01-31 13:00:00"
                ) from error
        raise UserError(f"{label}: column {name} holds no dates ({error}); correct it") from error


def _groups(
    label: str, frame: Any, names: Sequence[str]
) -> Iterable[tuple[str, tuple[Any, ...], NDArray[np.int64]]]:
    """Name, key and rows of each group, in the order in which they appear."""
    if not names:
        yield "", (), np.arange(len(frame))
        return
    for name in names:
        empty = np.flatnonzero(frame[name].isna().to_numpy())
        if len(empty):
            raise UserError(f"{label}: column {name} is empty in row {empty[0] + 1}; fill it")
    for key, rows in frame.groupby(list(names), sort=False, observed=True).indices.items():
        parts = key if isinstance(key, tuple) else (key,)
        yield "/".join(map(str, parts)), parts, np.asarray(rows, np.int64)


def _step(parts: Sequence[Any]) -> str:
    """The step that every series has; the most frequent one where times are skipped."""
    pandas = pandas_module()
    moments = [np.asarray(getattr(part, "asi8", part), np.int64) for part in parts]
    changes: list[NDArray[np.int64]] = [np.diff(np.sort(each)) for each in moments]
    positive: NDArray[np.int64] = np.concatenate(
        [each[each > 0] for each in changes] or [np.zeros(0, np.int64)]
    )
    dates = isinstance(parts[0], pandas.DatetimeIndex)
    if not len(positive):
        return "1D" if dates else "1"
    sizes, counts = np.unique(positive, return_counts=True)
    usual = int(sizes[np.argmax(counts)])
    if not dates:
        return str(usual)
    if (positive % usual).any():
        # Months, quarters and years have no fixed number of days.
        longest = max(parts, key=len).unique().sort_values()
        with warnings.catch_warnings():
            # pandas 3 announces that it will return an offset instead of its name.
            warnings.simplefilter("ignore")
            inferred = pandas.infer_freq(longest) if len(longest) > 2 else None
        if inferred is not None:
            return str(getattr(inferred, "freqstr", inferred))
    return pandas.tseries.frequencies.to_offset(pandas.Timedelta(usual, parts[0].unit)).freqstr


def _grid(where: str, times: Any, step: str, whole: bool) -> tuple[Any, NDArray[np.int64], bool]:
    """The regular times from first to last, the place of each row in them, and whether sorted."""
    pandas = pandas_module()
    twice = times[times.duplicated()]
    if len(twice):
        raise UserError(f"{where}: has time {twice[0]} twice; keep one row for each time")
    first, last = times.min(), times.max()
    most = 1 + LARGEST_GAP * len(times)
    try:
        offset: Any = int(step) if whole else pandas.tseries.frequencies.to_offset(step)
        if (whole and offset < 1) or (not whole and not first + offset > first):
            raise ValueError(step)
    except ValueError as error:
        example = "whole number of at least 1" if whole else "step such as 1h, 1D or MS"
        raise UserError(f"data.step is {step!r}; it must be a {example}") from error
    try:
        # Counted first, so that a wrong step takes no memory; months differ by a few days.
        size = offset if whole else (first + offset) - first
        grid: Any = None
        if (last - first) // size < most:
            if whole:
                grid = pandas.Index(np.arange(int(first), int(last) + 1, offset))
            else:
                grid = pandas.date_range(first, last, freq=offset).as_unit(times.unit)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: times of step {step} cannot be made ({error})") from error
    if grid is None:
        raise UserError(
            f"{where}: {len(times)} rows from {first} to {last} are too few for a step of {step};"
            " set data.step, or give rows at regular times"
        )
    place = grid.get_indexer(times)
    off = np.flatnonzero(place < 0)
    if len(off):
        raise UserError(
            f"{where}: time {times[off[0]]} is not a whole number of steps of {step} after {first};"
            " give rows at regular times, or set data.step"
        )
    return grid, np.asarray(place, np.int64), not times.is_monotonic_increasing


def _laid(values: Numbers, place: NDArray[np.int64], length: int) -> Numbers:
    """Rows at their places in a longer array, NaN elsewhere."""
    laid = np.full((length, values.shape[1]), np.nan)
    laid[place] = values
    return laid


def _carried_forward(where: str, known: Numbers, names: Sequence[str]) -> Numbers:
    """Covariates with missing values replaced by the value before; the first by the next."""
    filled = known.copy()
    for column, name in zip(filled.T, names, strict=True):
        seen = np.flatnonzero(np.isfinite(column))
        if not len(seen):
            raise UserError(f"{where}: covariate {name} holds no values; leave it out")
        last = np.maximum.accumulate(np.where(np.isfinite(column), np.arange(len(column)), -1))
        column[:] = column[np.where(last < 0, seen[0], last)]
    return filled

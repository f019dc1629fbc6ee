"""``table``: time series in a CSV or Parquet file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.tables import pandas_module
from zpyro.datasets.linear_prediction import LinearPrediction
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.splitting import split_by_name
from zpyro.datasets.table_series import CALENDAR, Columns, Numbers, Series, Table, read_table
from zpyro.errors import UserError, pluralize

LARGEST_LAGS = 1000
"""A fit solves for so many numbers a column, and finds the roots of a polynomial of this degree."""

CONSTANT = "is constant or missing throughout the training part; leave it out of data.values"
"""What is wrong with a column that has no scale."""


@dataclass(frozen=True)
class TableSettings:
    """How a table becomes sequences.

    Names of several columns are separated by commas; a name with a comma stands in quotes.

    Attributes:
        time: the column of times, dates or whole numbers; "" where rows are steps in order.
        group: the columns that tell series apart; "" for a single series.
        values: the columns to model, the dimensions of a frame; "" takes every other column.
        covariates: columns that are known in advance.
        calendar: features of the time that are covariates too: minute, hour, weekday, day,
            dayofyear, month.
        step: the time between two rows, such as 15min, 1h, 1D or MS; "" finds it out.
        wide: whether every column of values is a series of its own, of one dimension.
        header: whether the first line of a CSV file names the columns; else they are 0, 1, ...
        split: "time" holds out the end of every series, "group" whole series.
        valid_from: where validation begins, a date or a number of rows; "" goes by valid_fraction.
        test_from: where the test begins, likewise; "" goes by test_fraction.
        end: where the test ends, likewise; "" is the end of the table.
        valid_fraction: share of the rows of each series, or of the series, for validation.
        test_fraction: share for the test.
        valid_groups: pattern of the names of the series to validate on, in place of the fraction.
        test_groups: pattern of those to test on, likewise.
        segment_length: sequences are cut into rows of at most so many frames.
        stride: frames between the beginnings of two training sequences; None cuts without overlap.
        difference: model the change over so many steps instead of the values; 0 the values.
        lags: model the errors of a linear prediction from so many past values of the same column,
            fitted to the training part, instead of the values; 0 the values. With ``difference``
            the prediction is one of changes from past changes.
        normalize: subtract the training mean of each dimension and covariate, and divide by the
            standard deviation.
        seed: fixes which series are held out.
    """

    time: str = ""
    group: str = ""
    values: str = ""
    covariates: str = ""
    calendar: str = ""
    step: str = ""
    wide: bool = False
    header: bool = True
    split: str = "time"
    valid_from: str = ""
    test_from: str = ""
    end: str = ""
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    valid_groups: str = ""
    test_groups: str = ""
    segment_length: int = 192
    stride: int | None = None
    difference: int = 0
    lags: int = 0
    normalize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in ("time", "group"):
            raise UserError(f"data.split is {self.split!r}; choose time or group")
        for name in ("valid_fraction", "test_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"data.{name} is {getattr(self, name)}; it must be in [0, 1)")
        if self.segment_length < 2:
            raise UserError(f"data.segment_length is {self.segment_length}; give at least 2")
        if self.stride is not None and self.stride < 1:
            raise UserError(f"data.stride is {self.stride}; give a positive number")
        if self.difference < 0:
            raise UserError(f"data.difference is {self.difference}; give 0 or a number of steps")
        if not 0 <= self.lags <= LARGEST_LAGS:
            raise UserError(f"data.lags is {self.lags}; give a number from 0 to {LARGEST_LAGS}")
        for name in self.columns.calendar:
            if name not in CALENDAR:
                raise UserError(f"data.calendar has {name!r}; choose from {', '.join(CALENDAR)}")
        if self.columns.calendar and not self.time:
            raise UserError("data.calendar needs the times; name their column in data.time")

    @property
    def columns(self) -> Columns:
        """The columns of the table."""
        return Columns(
            time=self.time,
            group=_listed(self.group),
            values=_listed(self.values),
            covariates=_listed(self.covariates),
            calendar=_listed(self.calendar),
            step=self.step,
            wide=self.wide,
            header=self.header,
        )


def load(path: Path, settings: TableSettings) -> Dataset:
    """Read a table and cut its series into sequences.

    Every dimension and covariate is normalized by its own training mean and standard deviation.
    Empty cells are missing.

    Raises:
        UserError: naming the file and the column, series or setting that cannot be used.
    """
    table = read_table(path, settings.columns)
    settings = replace(settings, values=_joined(table.columns.values), step=table.columns.step)
    parts = split_series(path, table, settings)
    lag_weights = _lag_weights(path, table, parts["train"], settings)
    prediction = prediction_of(settings, lag_weights, len(table.dimensions))
    notes = table.notes
    if prediction is not None:
        parts = split_series(path, table, settings, prediction)
        notes += _left_out(path, table, prediction)
    normalization = _normalization(path, table, parts["train"], settings, lag_weights)
    train, valid, test = (
        replace(
            segments(parts[name], settings, normalization, overlap=name == "train"),
            covariate_names=table.covariate_names,
        )
        for name in ("train", "valid", "test")
    )
    for name, split in (("train", train), ("valid", valid), ("test", test)):
        if not len(split):
            raise UserError(f"{path}: the {name} split has no values; change data.{name}_from")
    size = len(table.dimensions)
    return Dataset("table", train, valid, test, "gaussian", size, notes, settings=settings)


def load_all(path: Path, settings: TableSettings, normalization: Normalization) -> Sequences:
    """Every series as one split, normalized as a trained model needs it.

    Raises:
        UserError: naming the file and the column or series that cannot be used.
    """
    table = read_table(path, settings.columns)
    prediction = prediction_of(settings, normalization.lag_weights, len(table.dimensions))
    series = [errors_of(each, prediction) for each in table.series]
    return segments(series, settings, normalization)


def split_series(
    path: Path, table: Table, settings: TableSettings, prediction: LinearPrediction | None = None
) -> dict[str, list[Series]]:
    """The series of each split: parts of every series, or whole series.

    Args:
        path: of the table, for errors.
        table: its series.
        settings: the splits.
        prediction: of each value from those before it, whose errors replace the values.

    Raises:
        UserError: if a split would be empty.
    """
    if settings.split == "group":
        found = split_by_name(
            [series.name for series in table.series],
            settings.valid_fraction,
            settings.test_fraction,
            valid_files=settings.valid_groups,
            test_files=settings.test_groups,
            seed=settings.seed,
            use_names=False,
        )
        splits = zip(("train", "valid", "test"), found, strict=True)
        return {
            name: [errors_of(table.series[i], prediction) for i in rows] for name, rows in splits
        }
    parts: dict[str, list[Series]] = {"train": [], "valid": [], "test": []}
    for series in table.series:
        valid, test, end = boundaries(path, series, settings)
        modeled = errors_of(series, prediction)
        parts["train"].append(modeled[:valid])
        parts["valid"].append(modeled[valid:test])
        parts["test"].append(modeled[test:end])
    return parts


def boundaries(path: Path, series: Series, settings: TableSettings) -> tuple[int, int, int]:
    """The first row of validation, the first row of the test, and the end, of one series.

    Raises:
        UserError: if they are not in this order, or one cannot be found.
    """
    end = series.num_observed
    if settings.end:
        end = min(end, _row(series, "end", settings.end))
    test = end - round(end * settings.test_fraction)
    if settings.test_from:
        test = _row(series, "test_from", settings.test_from)
    valid = test - round(end * settings.valid_fraction)
    if settings.valid_from:
        valid = _row(series, "valid_from", settings.valid_from)
    if not 0 < valid < test < end:
        name = f"group {series.name}" if series.name else "the series"
        raise UserError(
            f"{path}: {name} has {pluralize(end, 'row')}, which make {max(valid, 0)} to train, "
            "validation up to"
            f" row {test} and a test up to {end}; each needs rows: set data.valid_from,"
            " data.test_from, data.valid_fraction or data.test_fraction, or leave the series out"
        )
    return valid, test, end


def prediction_of(
    settings: TableSettings, lag_weights: Sequence[tuple[float, ...]], size: int
) -> LinearPrediction | None:
    """The prediction whose errors are modeled; None where the values are.

    Args:
        settings: of the table.
        lag_weights: that were fitted, for ``lags``.
        size: D, dimensions of a frame.

    Raises:
        UserError: if the weights are not those of so many lags and dimensions.
    """
    if settings.lags:
        wanted = settings.lags + settings.difference + 1
        if [len(row) for row in lag_weights] != [wanted] * size:
            raise UserError(
                f"data.lags is {settings.lags}, but the run has other weights for its prediction;"
                " restore the settings that it was trained with"
            )
        return LinearPrediction(tuple(lag_weights))
    return LinearPrediction.change(settings.difference, size) if settings.difference else None


def errors_of(series: Series, prediction: LinearPrediction | None) -> Series:
    """A series with the errors of a prediction in place of its values, the first ones missing."""
    if prediction is None:
        return series
    return replace(series, values=prediction.errors(series.values))


def _left_out(path: Path, table: Table, prediction: LinearPrediction) -> tuple[str, ...]:
    """A note for each series that is too short for an error."""
    return tuple(
        f"{path}: group {series.name} has {pluralize(len(series), 'row')}, no more than the"
        f" {prediction.lags} that a prediction is from; left out"
        for series in table.series
        if len(series) <= prediction.lags
    )


def _lag_weights(
    path: Path, table: Table, train: Sequence[Series], settings: TableSettings
) -> tuple[tuple[float, ...], ...]:
    """The weights of the prediction from ``lags`` values, fitted to the training part."""
    if not settings.lags:
        return ()
    mean, scale = _moments(np.concatenate([series.values for series in train]))
    _check_spread(path, table, mean, scale, CONSTANT)
    found = LinearPrediction.fit(
        [series.values for series in train], settings.lags, settings.difference
    )
    if found is None:
        rows = pluralize(settings.lags + settings.difference + 1, "row")
        raise UserError(
            f"{path}: data.lags is {settings.lags}, but the training part has too few stretches of"
            f" {rows} without gaps to fit it; lower data.lags"
        )
    return found.weights


def segments(
    series: Sequence[Series],
    settings: TableSettings,
    normalization: Normalization,
    *,
    overlap: bool = False,
) -> Sequences:
    """Series cut into sequences, those without any value left out.

    Args:
        series: with the values that are modeled.
        settings: the length of a sequence.
        normalization: of frames and covariates.
        overlap: whether sequences begin every ``stride`` frames.
    """
    stride = (settings.stride if overlap else None) or settings.segment_length
    pieces: list[Series] = []
    for whole in series:
        last = max(1, len(whole) - settings.segment_length + stride) if overlap else len(whole)
        for number, begin in enumerate(range(0, last, stride)):
            piece = whole[begin : begin + settings.segment_length]
            if np.isfinite(piece.values).any():
                pieces.append(replace(piece, name=f"{piece.name or 'row'}#{number}"))
    return to_sequences(pieces, normalization)


def to_sequences(series: Sequence[Series], normalization: Normalization) -> Sequences:
    """Series as sequences, each whole, NaN as missing."""
    frames = [normalization.apply(each.values) for each in series]
    seen = tuple(np.isfinite(frame) for frame in frames)
    covariates = None
    if series and series[0].covariates.shape[1]:
        covariates = tuple(normalization.apply_to_covariates(each.covariates) for each in series)
    return Sequences(
        values=tuple(np.nan_to_num(frame, nan=0.0) for frame in frames),
        names=tuple(each.name for each in series),
        normalization=normalization,
        observed=None if all(mask.all() for mask in seen) else seen,
        covariates=covariates,
    )


def _normalization(
    path: Path,
    table: Table,
    train: Sequence[Series],
    settings: TableSettings,
    lag_weights: tuple[tuple[float, ...], ...],
) -> Normalization:
    """The mean and standard deviation of each dimension and covariate in the training part."""
    if not settings.normalize:
        return Normalization(lag_weights=lag_weights)
    mean, scale = _moments(np.concatenate([series.values for series in train]))
    if settings.difference:
        # Changes are not centered: the mean change of the past is no forecast of a random walk.
        mean, scale = np.zeros_like(mean), np.hypot(mean, scale)
    problem = CONSTANT
    if settings.lags or settings.difference:
        name, what = ("lags", "errors") if settings.lags else ("difference", "changes")
        problem = (
            f"has no {what} in the training part, or only equal ones, with data.{name}="
            f"{getattr(settings, name)}; lower data.{name}, or leave the column out of data.values"
        )
    _check_spread(path, table, mean, scale, problem)
    covariates = np.concatenate([series.covariates for series in train])
    covariate_mean, covariate_scale = _moments(covariates)
    # A covariate that does not change in training stays 0 there.
    covariate_scale = np.where(covariate_scale > 0, covariate_scale, 1.0)
    return Normalization(
        tuple(mean.tolist()),
        tuple(scale.tolist()),
        tuple(covariate_mean.tolist()),
        tuple(covariate_scale.tolist()),
        lag_weights,
    )


def _check_spread(path: Path, table: Table, mean: Numbers, scale: Numbers, problem: str) -> None:
    """Raise UserError for the first column whose values are constant or missing."""
    for name, one, spread in zip(table.dimensions, mean, scale, strict=True):
        # Of a smaller share the differences would be lost in float32.
        if not spread > max(1e-6 * abs(one), 1e-30):
            raise UserError(f"{path}: column {name} {problem}")


def _moments(values: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each column without NaN; NaN where a column has no values."""
    seen = np.isfinite(values)
    count = seen.sum(0)
    safe = np.maximum(count, 1)
    mean = np.where(seen, values, 0.0).sum(0) / safe
    scale = np.sqrt((np.where(seen, values - mean, 0.0) ** 2).sum(0) / safe)
    return mean, np.where(count > 0, scale, np.nan)


def _row(series: Series, name: str, text: str) -> int:
    """The first row at or after a date, or a number of rows."""
    if text.isdecimal():
        return int(text)
    pandas: Any = pandas_module()
    if not isinstance(series.times, pandas.DatetimeIndex):
        raise UserError(f"data.{name} is {text!r}; give a number of rows, the table has no dates")
    try:
        moment = pandas.Timestamp(text)
        if moment.tzinfo is None and series.times.tz is not None:
            moment = moment.tz_localize(series.times.tz)
        return int(series.times.searchsorted(moment))
    except (ValueError, TypeError) as error:
        raise UserError(f"data.{name} is {text!r}; give a date such as 2024-01-31") from error


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for row in csv.reader([text], skipinitialspace=True) for name in row)


def _joined(names: Sequence[str]) -> str:
    return ",".join(f'"{name}"' if "," in name else name for name in names)


ENTRY = DatasetEntry(
    "table",
    "time series in a CSV or Parquet file, with gaps and covariates",
    TableSettings,
    load,
    load_all,
    "give a .csv or .parquet file with --data FILE",
)

"""Forecasts and imputations of the series in a table, on the scale of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zpyro.analysis import plots
from zpyro.analysis.forecasting import forecast, impute
from zpyro.analysis.loading import LoadedRun
from zpyro.datasets.formats.tables import pandas_module, read_frame
from zpyro.datasets.sequences import Normalization
from zpyro.datasets.table import (
    TableSettings,
    boundaries,
    errors_of,
    prediction_of,
    split_series,
    to_sequences,
)
from zpyro.datasets.table_series import Series, Table, future_of, season_of, table_of
from zpyro.errors import UserError, pluralize
from zpyro.evaluation import (
    Backtest,
    Forecaster,
    History,
    LinearAutoregression,
    SeasonalNaive,
    StatsForecast,
    backtest,
)
from zpyro.models.base import SequenceModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Numbers = NDArray[np.float64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the columns of a forecast."""

SHOWN_HISTORY = 4
"""Rows before a forecast in a picture, as a multiple of its steps."""
PANELS = 8
BATCH = 32
"""Pieces imputed at a time."""


@dataclass(frozen=True, eq=False)
class TableForecast:
    """Forecasts of every series in a table.

    Attributes:
        table: with the series up to where the forecasts begin.
        times: of the steps of each forecast, one index a series.
        samples: (S, H, D) for each series, on the scale of the table.
    """

    table: Table
    times: tuple[Any, ...]
    samples: tuple[Numbers, ...]

    def to_dataframe(self, quantiles: Sequence[float] = QUANTILES) -> DataFrame:
        """One row for each group and step: the columns of group and time, and for each column of
        values ``NAME_mean`` and ``NAME_qQ`` for each quantile Q."""

        def cells(number: int, names: Sequence[str]) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for dimension, name in enumerate(names):
                drawn = self.samples[number][..., dimension]
                found[f"{name}_mean"] = drawn.mean(0)
                for quantile in quantiles:
                    found[f"{name}_q{quantile:g}"] = np.quantile(drawn, quantile, axis=0)
            return found

        ahead = [
            replace(series, times=times)
            for series, times in zip(self.table.series, self.times, strict=True)
        ]
        return _to_frame(replace(self.table, series=tuple(ahead)), cells)

    def plot(self) -> Figure:
        """Medians and central intervals of 50 and 90 % after the end of each series."""
        names = self.table.dimensions
        panels = [
            (number, dimension)
            for number in range(len(self.samples))
            for dimension in range(len(names))
        ][:PANELS]
        figure = plots.new_figure(9.0, 1.0 + 1.8 * len(panels))
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axis, (number, dimension) in zip(axes, panels, strict=True):
            drawn = self.samples[number][..., dimension]
            steps, series = drawn.shape[1], self.table.series[number]
            before = series.values[-SHOWN_HISTORY * steps :, dimension]
            axis.plot(np.arange(-len(before), 0), before, color="black", linewidth=0.8)
            ahead = np.arange(steps)
            for level, shade in ((0.9, 0.2), (0.5, 0.4)):
                low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
                axis.fill_between(ahead, low, high, alpha=shade, color="tab:blue", linewidth=0)
            axis.plot(ahead, np.median(drawn, axis=0), color="tab:blue", linewidth=1.0)
            single = self.table.columns.wide or not series.name
            label = series.name if self.table.columns.wide else names[dimension]
            axis.set_title(label if single else f"{series.name}: {label}", fontsize=9)
        axes[-1].set_xlabel("steps after the last value")
        return figure


class TableRun:
    """A trained run on a table: forecasts, imputations and backtests.

    Args:
        loaded: a run whose data set is ``table``.
        context: rows before a forecast that the model sees; by default twice the length of its
            training sequences.

    Raises:
        UserError: if the run was trained on other data.
    """

    def __init__(self, loaded: LoadedRun, context: int | None = None) -> None:
        config = loaded.config
        if config.dataset != "table":
            raise UserError(
                f"{loaded.run.folder}: was trained on {config.dataset}; forecasts and imputations"
                " of tables need a run with --dataset table"
            )
        self.settings: TableSettings = config.data
        self.model: SequenceModel = loaded.model
        self.normalization: Normalization = loaded.checkpoint.data.normalization
        self.context = context or 2 * self.settings.segment_length
        self._run = loaded.run.folder
        self._folder = config.data_folder
        size = self.model.likelihood.size
        self._prediction = prediction_of(self.settings, self.normalization.lag_weights, size)

    def read(self, path: Path | None) -> tuple[str, DataFrame, Table]:
        """What errors call a table, by default the one of the training; itself, and its series.

        Raises:
            UserError: if it cannot be read, or lacks a column.
        """
        label = self._folder if path is None else str(path)
        if label is None:
            raise UserError("the run does not say where its table is; give it with --data")
        frame = read_frame(Path(label), header=self.settings.header)
        return label, frame, table_of(label, frame, self.settings.columns)

    def forecast(
        self, label: str, table: Table, steps: int, num_samples: int, seed: int = 0
    ) -> TableForecast:
        """Forecast what comes after the last value of each series.

        Args:
            label: what errors call the table.
            table: its covariates must be known for the steps after it.
            steps: H.
            num_samples: S.
            seed: of the samples.

        Raises:
            UserError: if a covariate is not known for so many steps.
        """
        ends, times, histories = list[Series](), list[Any](), list[History]()
        for series in table.series:
            known = series[: series.num_observed]
            moments, future = future_of(label, series, table.columns, steps)
            covariates = np.concatenate([known.covariates, future])
            ends.append(known)
            times.append(moments)
            histories.append(History(known.values, covariates, series.name))
        samples = self.forecaster(histories, steps, num_samples, seed)
        return TableForecast(
            replace(table, series=tuple(ends)),
            tuple(times),
            tuple(np.moveaxis(samples, 1, 0)),
        )

    def backtest(
        self,
        label: str,
        table: Table,
        steps: int,
        num_samples: int,
        forecasters: Mapping[str, Forecaster],
        *,
        windows: int = 1,
        seed: int = 0,
        held_out: bool = True,
        part: str = "test",
    ) -> dict[str, Backtest]:
        """Forecast the last ``windows`` times ``steps`` rows of each series from those before them.

        Args:
            label: what errors call the table.
            table: its series.
            steps: H.
            num_samples: S.
            forecasters: by name, such as :attr:`forecaster` and those of :func:`baselines`.
            windows: how many forecasts of each series, one after another.
            seed: of the samples.
            held_out: whether those rows must be in a part of the data that was not trained on.
            part: "test", or "valid" to choose settings; its last rows are forecast.

        Raises:
            UserError: if a series, or its part, is shorter than that.
        """
        candidates = list(table.series)
        if held_out and self.settings.split == "group":
            candidates = split_series(Path(label), table, self.settings)[part]
        chosen, firsts = list[Series](), list[int]()
        for series in candidates:
            first, end = 1, series.num_observed
            if held_out and self.settings.split == "time":
                valid, first, end = boundaries(Path(label), series, self.settings)
                first, end = (valid, first) if part == "valid" else (first, end)
            begin = end - windows * steps
            if begin < first:
                where = f"{label}: group {series.name}" if series.name else label
                rows = f"{part} rows" if held_out else "rows"
                raise UserError(
                    f"{where}: has {end - first} {rows}, fewer than the {windows * steps} to"
                    " forecast; lower --steps, or leave the group out"
                )
            chosen.append(series[:end])
            firsts.append(begin)
        return {
            name: backtest(
                forecaster,
                [series.values for series in chosen],
                steps=steps,
                first=firsts,
                covariates=[series.covariates for series in chosen],
                names=[series.name for series in chosen],
                num_samples=num_samples,
                season=season_of(table.columns.step),
                seed=seed,
            )
            for name, forecaster in forecasters.items()
        }

    def impute(
        self, label: str, table: Table, num_samples: int, seed: int = 0
    ) -> list[tuple[Numbers, Numbers]]:
        """Mean and standard deviation of every value of each series, (T, D) each.

        Known values are themselves, with deviation 0. A series is read in overlapping pieces of the
        length that the model was trained on, of which the middle counts.

        Raises:
            UserError: if the run models changes instead of values.
        """
        if self._prediction is not None:
            what = "the errors of a linear prediction" if self.settings.lags else "changes"
            steps = pluralize(self._prediction.lags, "step")
            raise UserError(
                f"{self._run}: the run models {what} over {steps}; for imputation train one with"
                " data.difference=0 and data.lags=0"
            )
        found: list[tuple[Numbers, Numbers]] = []
        for series in table.series:
            means = np.where(np.isfinite(series.values), series.values, 0.0)
            spreads = np.zeros_like(means)
            pieces = _pieces(label, series, self.context)
            for begin in range(0, len(pieces), BATCH):
                chosen = pieces[begin : begin + BATCH]
                sequences = to_sequences(
                    [series[piece.begin : piece.end] for piece in chosen], self.normalization
                )
                drawn = impute(self.model, sequences, num_samples=num_samples, seed=seed + begin)
                for number, piece in enumerate(chosen):
                    raw = drawn.samples[:, number, : piece.end - piece.begin]
                    _fill(series, piece, raw, means, spreads)
            found.append((means, spreads))
        return found

    def forecaster(
        self, histories: Sequence[History], steps: int, num_samples: int, seed: int
    ) -> Numbers:
        """Forecast histories on the scale of the table: the model as a :class:`Forecaster`.

        Returns:
            Samples (S, N, H, D) of the steps after each history.
        """
        prediction = self._prediction
        known: list[Series] = []
        future: list[NDArray[Any]] = []
        for history in histories:
            length = len(history.values)
            covariates = history.covariates
            if covariates is None:
                covariates = np.zeros((length + steps, 0))
            rows = np.arange(length)
            whole = Series(
                history.name or "series", (), rows, history.values, covariates[:length], rows
            )
            if prediction is not None and length <= prediction.lags:
                where = f"group {history.name}" if history.name else "the series"
                needs = "lags" if self.settings.lags else "difference"
                raise UserError(
                    f"{where}: has {pluralize(length, 'row')} before the forecast, but data.{needs}"
                    f" needs more than {prediction.lags}; give more rows, or leave the group out"
                )
            known.append(errors_of(whole, prediction)[max(0, length - self.context) :])
            future.append(covariates[length : length + steps])
        sequences = to_sequences(known, self.normalization)
        ahead = np.stack(future) if sequences.covariates is not None else None
        found = forecast(
            self.model, sequences, steps, num_samples=num_samples, covariates=ahead, seed=seed
        )
        drawn = found.samples.astype(np.float64)
        if prediction is not None:
            for number, history in enumerate(histories):
                drawn[:, number] = prediction.forecast(history.values, drawn[:, number])
        return drawn


def baselines(step: str) -> dict[str, Forecaster]:
    """Simple forecasters for tables of such a step, by name; AutoETS where it is installed."""
    season = season_of(step)
    found: dict[str, Forecaster] = {
        "seasonal_naive": SeasonalNaive(season),
        "linear": LinearAutoregression(2 * season if season > 1 else 8, season),
    }
    if StatsForecast.is_installed():
        found["auto_ets"] = StatsForecast("AutoETS", season)
    return found


def filled_frame(
    table: Table, frame: DataFrame, filled: Sequence[tuple[Numbers, Numbers]], *, std: bool
) -> DataFrame:
    """A table with every missing value filled, and a row for each time that had none.

    Rows are in the order of series and time; columns that are no values, covariates or times are
    kept, empty in new rows.

    Args:
        table: the series of the frame.
        frame: as it was read.
        filled: mean and standard deviation of every value of each series, (T, D) each.
        std: add a column ``NAME_std`` for each column of values.
    """
    pandas, columns = pandas_module(), table.columns
    parts: dict[tuple[Any, ...], Any] = {}
    for number, (series, (means, spreads)) in enumerate(zip(table.series, filled, strict=True)):
        if series.key not in parts:
            part = frame.iloc[np.maximum(series.rows, 0)].reset_index(drop=True)
            part[series.rows < 0] = None
            for name, value in zip(columns.group, series.key, strict=True):
                part[name] = value
            if columns.time:
                part[columns.time] = series.times
            for column, name in enumerate(columns.covariates):
                part[name] = series.covariates[:, column]
            parts[series.key] = part
        for column, name in enumerate(_names(table, number)):
            parts[series.key][name] = means[:, column]
            if std:
                parts[series.key][f"{name}_std"] = spreads[:, column]
    return pandas.concat(list(parts.values()), ignore_index=True)


@dataclass(frozen=True)
class _Piece:
    """Rows that are imputed together, and those of them that count."""

    begin: int
    end: int
    first: int
    last: int


def _pieces(label: str, series: Series, length: int) -> list[_Piece]:
    """The pieces of a series that have missing values in the part that counts."""
    missing = ~np.isfinite(series.values)
    hop = max(1, length // 2)
    starts = list(range(0, max(1, len(series) - length + hop), hop))
    found: list[_Piece] = []
    for begin in starts:
        end = min(begin + length, len(series))
        first = 0 if begin == 0 else begin + hop // 2
        last = len(series) if begin == starts[-1] else begin + hop // 2 + hop
        if not missing[first:last].any():
            continue
        if missing[begin:end].all():
            where = f"{label}: group {series.name}" if series.name else label
            raise UserError(
                f"{where}: has no value in {pluralize(end - begin, 'row')} "
                f"from {series.times[begin]};"
                " raise --context"
            )
        found.append(_Piece(begin, end, first, last))
    return found


def _fill(
    series: Series, piece: _Piece, drawn: NDArray[Any], means: Numbers, spreads: Numbers
) -> None:
    """Write mean and deviation of the samples (S, T, D) where values are missing."""
    rows = slice(piece.first, piece.last)
    within = slice(piece.first - piece.begin, piece.last - piece.begin)
    missing = ~np.isfinite(series.values[rows])
    means[rows] = np.where(missing, drawn.mean(0)[within], means[rows])
    spreads[rows] = np.where(missing, drawn.std(0)[within], 0.0)


def _names(table: Table, number: int) -> Sequence[str]:
    """The columns that the dimensions of a series are."""
    values = table.columns.values
    return values[number % len(values) :][:1] if table.columns.wide else values


def _to_frame(table: Table, cells: Callable[[int, Sequence[str]], Mapping[str, Any]]) -> DataFrame:
    """A table of one row for each group and time, and the cells of each series in it."""
    pandas = pandas_module()
    keys = (*table.columns.group, table.columns.time or "step")
    parts: dict[tuple[Any, ...], Any] = {}
    for number, series in enumerate(table.series):
        place = dict(zip(keys, (*series.key, series.times), strict=True))
        part = pandas.DataFrame({**place, **cells(number, _names(table, number))})
        before = parts.get(series.key)
        # The columns of a wide table may end at different times.
        parts[series.key] = part if before is None else before.merge(part, "outer", list(keys))
    return pandas.concat(list(parts.values()), ignore_index=True)

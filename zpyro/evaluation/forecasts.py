"""Scores of probabilistic forecasts given as samples, and backtests over rolling origins.

Arrays of samples have the samples first: (S, ..., D). NaN among the observed values means
missing; such values are left out of every score. Scores have the units of the data unless stated
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zpyro.errors import UserError, pluralize

Numbers = NDArray[np.float64]

LEVELS = (0.5, 0.9)
"""Of the intervals whose coverage and width are reported."""

BLOCK = 1 << 22
"""Differences of samples held in memory at once."""


def crps(samples: ArrayLike, observed: ArrayLike, *, fair: bool = True) -> Numbers:
    """Continuous ranked probability score of every value, from samples; lower is better.

    CRPS(F, y) = E|X - y| - E|X - X'| / 2, with X, X' independent under F (Gneiting and Raftery
    2007, equation 21). The second mean takes O(S log S) from the sorted samples: the sum of
    x_(j) - x_(i) over i < j is that of (2 i - S - 1) x_(i).

    Args:
        samples: (S, ...).
        observed: (...); NaN gives NaN.
        fair: divide the second sum by S (S - 1), which is unbiased for the CRPS of the distribution
            that was sampled (Ferro 2014); False divides by S^2, the CRPS of the samples themselves.

    Raises:
        UserError: if shapes differ, or there are too few samples.

    Example:
        >>> crps(np.random.randn(1000, 24, 7), np.zeros((24, 7))).mean()
    """
    x, y = _arrays("crps", samples, observed, 2 if fair else 1)
    count = len(x)
    weights = (2.0 * np.arange(1, count + 1) - count - 1.0).reshape(-1, *(1,) * y.ndim)
    ordered = np.sort(x, axis=0)
    pairs = count * (count - 1) if fair else count * count
    # Half of the mean over ordered pairs is the sum over i < j, divided by the number of pairs.
    return np.abs(x - y).mean(0) - (weights * ordered).sum(0) / pairs


def energy_score(samples: ArrayLike, observed: ArrayLike, *, fair: bool = True) -> Numbers:
    """Energy score of every vector, from samples; lower is better.

    ES(F, y) = E||X - y|| - E||X - X'|| / 2 with the Euclidean norm (Gneiting and Raftery 2007,
    equation 22); for one dimension it is the CRPS. The cost grows with S^2.

    Args:
        samples: (S, ..., D).
        observed: (..., D); entries that are NaN are left out of the norms, vectors without any
            observed entry give NaN.
        fair: see :func:`crps`.

    Raises:
        UserError: if shapes differ, or there are too few samples.
    """
    x, y = _arrays("energy_score", samples, observed, 2 if fair else 1)
    seen = np.isfinite(y)
    x, y = np.where(seen, x, 0.0), np.where(seen, y, 0.0)
    count = len(x)
    near = np.linalg.norm(x - y, axis=-1).mean(0)
    total = np.zeros_like(near)
    block = max(1, BLOCK // x.size)
    for first in range(0, count, block):
        part = x[first : first + block, None] - x[None]
        total += np.linalg.norm(part, axis=-1).sum((0, 1))
    score = near - total / (2.0 * (count * (count - 1) if fair else count * count))
    return np.where(seen.any(-1), score, np.nan)


def interval(samples: ArrayLike, level: float) -> tuple[Numbers, Numbers]:
    """Bounds of the central interval that holds a share ``level`` of the samples, each (...).

    Args:
        samples: (S, ...).
        level: in (0, 1), e.g. 0.9 for the quantiles 0.05 and 0.95.

    Raises:
        UserError: if the level is not in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise UserError(f"interval: level is {level}; it must be in (0, 1)")
    low, high = np.quantile(np.asarray(samples, np.float64), [(1 - level) / 2, (1 + level) / 2], 0)
    return low, high


def interval_coverage(samples: ArrayLike, observed: ArrayLike, level: float) -> float:
    """Share of the observed values that lie in the central interval; ``level`` is best."""
    x, y = _arrays("interval_coverage", samples, observed, 1)
    low, high = interval(x, level)
    seen = np.isfinite(y)
    return _mean(((low <= y) & (y <= high))[seen])


def interval_width(samples: ArrayLike, level: float) -> float:
    """Mean width of the central interval."""
    low, high = interval(samples, level)
    return _mean(high - low)


def naive_error(history: ArrayLike, season: int = 1) -> Numbers:
    """Mean absolute difference of values one season apart, (D,): the scale of :func:`mase`.

    Args:
        history: (T, D) or (T,); pairs with a NaN are left out.
        season: steps in a season; 1 compares with the step before.

    Raises:
        UserError: if the season is not positive.
    """
    values = np.asarray(history, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if season < 1:
        raise UserError(f"season is {season}; give the number of steps in a season, at least 1")
    change = np.abs(values[season:] - values[:-season])
    seen = np.isfinite(change)
    count = seen.sum(0)
    total = np.where(seen, change, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mase(forecast: ArrayLike, observed: ArrayLike, history: ArrayLike, season: int = 1) -> float:
    """Mean absolute scaled error of a point forecast (Hyndman and Koehler 2006).

    The mean absolute error of every dimension is divided by that of the seasonal naive forecast
    within the history, see :func:`naive_error`; the ratios are averaged. Below 1 is better than it.
    Dimensions that are constant in the history are left out.

    Args:
        forecast: (T, D), or (T,); for instance medians of samples.
        observed: of the same shape; NaN means missing.
        history: (T', D), or (T',): what came before.
        season: steps in a season.

    Raises:
        UserError: if the season is not positive.
    """
    target = np.asarray(observed, np.float64)
    error = np.abs(np.asarray(forecast, np.float64) - target)
    error = error[:, None] if error.ndim == 1 else error
    return _mean(_scaled(error, naive_error(history, season)))


@dataclass(frozen=True)
class ForecastScores:
    """Scores of forecasts, each over all observed values of all forecasts.

    Attributes:
        crps: sum of the CRPS divided by the sum of absolute observed values; no units.
        crps_sum: the same for the sum over dimensions of each step, which dependence between
            dimensions decides; steps with a missing value are left out.
        energy_score: mean over steps, over the dimensions.
        coverage_50: share of the values inside the central 50 % interval.
        coverage_90: the same for 90 %.
        width_50: mean width of the 50 % interval.
        width_90: mean width of the 90 % interval.
        mase: see :func:`mase`, of the medians.
        mae: mean absolute error of the medians.
        num_values: how many observed values were scored.
        num_forecasts: how many forecasts.
    """

    crps: float
    crps_sum: float
    energy_score: float
    coverage_50: float
    coverage_90: float
    width_50: float
    width_90: float
    mase: float
    mae: float
    num_values: int
    num_forecasts: int


def score_forecasts(samples: ArrayLike, observed: ArrayLike, scale: ArrayLike) -> ForecastScores:
    """Every score of a set of forecasts.

    Args:
        samples: (S, N, H, D), S samples of N forecasts over H steps.
        observed: (N, H, D); NaN means missing.
        scale: (N, D), the :func:`naive_error` of the values before each forecast.

    Raises:
        UserError: if shapes differ, there are too few samples, or nothing is observed.
    """
    x, y = _arrays("score_forecasts", samples, observed, 2)
    seen = np.isfinite(y)
    if x.ndim != 4 or not seen.any():
        raise UserError(
            f"score_forecasts: samples have shape {x.shape} and {int(seen.sum())} values are"
            " observed; samples must be (S, N, H, D), and at least one value observed"
        )
    whole = seen.all(-1)
    total = y.sum(-1)
    error = np.abs(np.median(x, axis=0) - y)
    per_step = energy_score(x, y)
    return ForecastScores(
        crps=_ratio(crps(x, y)[seen].sum(), np.abs(y[seen]).sum()),
        crps_sum=_ratio(crps(x.sum(-1), total)[whole].sum(), np.abs(total[whole]).sum()),
        energy_score=_mean(per_step[np.isfinite(per_step)]),
        coverage_50=interval_coverage(x, y, LEVELS[0]),
        coverage_90=interval_coverage(x, y, LEVELS[1]),
        width_50=interval_width(x, LEVELS[0]),
        width_90=interval_width(x, LEVELS[1]),
        mase=_mean(_scaled(error, np.asarray(scale, np.float64)[:, None])),
        mae=_mean(error[seen]),
        num_values=int(seen.sum()),
        num_forecasts=x.shape[1],
    )


@dataclass(frozen=True, eq=False)
class History:
    """What is known where a forecast begins.

    Attributes:
        values: (T, D), NaN where missing.
        covariates: (T + steps, C), future ones included, or None.
        name: of the series.
    """

    values: Numbers
    covariates: Numbers | None = None
    name: str = ""


Forecaster = Callable[[Sequence[History], int, int, int], NDArray[Any]]
"""From (histories, steps H, number of samples S, seed) to samples (S, N, H, D)."""


@dataclass(frozen=True, eq=False)
class Backtest:
    """Forecasts from rolling origins, and what was observed.

    Attributes:
        scores: of all forecasts together.
        samples: (S, N, H, D).
        observed: (N, H, D), NaN where missing.
        origins: the series and the first forecast step of each forecast, N pairs.
    """

    scores: ForecastScores
    samples: Numbers
    observed: Numbers
    origins: tuple[tuple[int, int], ...]


def backtest(
    forecaster: Forecaster,
    series: Sequence[ArrayLike],
    *,
    steps: int,
    first: int | Sequence[int],
    stride: int | None = None,
    covariates: Sequence[ArrayLike | None] | None = None,
    names: Sequence[str] = (),
    num_samples: int = 100,
    season: int = 1,
    seed: int = 0,
    batch_size: int = 32,
) -> Backtest:
    """Forecast from origins that move through each series, and score the forecasts.

    The forecaster sees the values before the origin only; covariates it sees over the horizon too.

    Args:
        forecaster: see :data:`Forecaster`; for instance a :class:`SeasonalNaive`.
        series: (T_i, D) or (T_i,) each, with the part to forecast; NaN means missing.
        steps: H, the horizon.
        first: the first origin, for all series or one each: values before it are never forecast.
        stride: steps between two origins; by default H, so that each value is forecast once.
        covariates: (T_i, C) for each series, or None.
        names: of the series.
        num_samples: S.
        season: steps in a season, for :func:`mase`.
        seed: of the samples.
        batch_size: forecasts asked for at a time.

    Raises:
        UserError: if no series is long enough for one forecast, or a number is not positive.

    Example:
        >>> backtest(SeasonalNaive(24), [hourly], steps=24, first=8_000, season=24).scores
    """
    if min(steps, num_samples, 1 if stride is None else stride) < 1:
        raise UserError("backtest: steps, stride and num_samples must be at least 1")
    arrays = [np.asarray(each, np.float64) for each in series]
    arrays = [each[:, None] if each.ndim == 1 else each for each in arrays]
    firsts = [first] * len(arrays) if isinstance(first, int) else list(first)
    origins = [
        (number, origin)
        for number, (values, begin) in enumerate(zip(arrays, firsts, strict=True))
        for origin in range(max(begin, 1), len(values) - steps + 1, stride or steps)
    ]
    if not origins:
        longest = max((len(values) for values in arrays), default=0)
        raise UserError(
            f"backtest: no series is long enough to forecast {pluralize(steps, 'step')} after step"
            f" {min(firsts, default=0)} (the longest has {longest}); forecast fewer steps"
        )
    found: list[NDArray[Any]] = []
    for begin in range(0, len(origins), batch_size):
        histories: list[History] = []
        for number, origin in origins[begin : begin + batch_size]:
            known = None if covariates is None else covariates[number]
            if known is not None:
                known = np.asarray(known, np.float64)[: origin + steps]
            name = names[number] if number < len(names) else str(number)
            histories.append(History(arrays[number][:origin], known, name))
        found.append(np.asarray(forecaster(histories, steps, num_samples, seed + begin)))
    samples = np.concatenate(found, axis=1).astype(np.float64)
    observed = np.stack([arrays[number][origin : origin + steps] for number, origin in origins])
    scale = np.stack([naive_error(arrays[number][:origin], season) for number, origin in origins])
    scores = score_forecasts(samples, observed, scale)
    return Backtest(scores, samples, observed, tuple(origins))


def _arrays(
    name: str, samples: ArrayLike, observed: ArrayLike, least: int
) -> tuple[Numbers, Numbers]:
    x, y = np.asarray(samples, np.float64), np.asarray(observed, np.float64)
    if x.shape[1:] != y.shape or len(x) < least:
        raise UserError(
            f"{name}: samples have shape {x.shape}, observed values {y.shape}; samples must be"
            f" (S, *{y.shape}) with S at least {least}"
        )
    return x, y


def _scaled(error: Numbers, scale: Numbers) -> Numbers:
    """The errors that are known, divided by positive scales."""
    scale = np.broadcast_to(scale, error.shape)
    usable = np.isfinite(error) & np.isfinite(scale) & (scale > 0)
    return error[usable] / scale[usable]


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else float("nan")

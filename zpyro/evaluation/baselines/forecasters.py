"""Simple forecasters to compare with; each is a :data:`~zpyro.evaluation.Forecaster`."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zpyro.datasets.linear_prediction import fill_gaps
from zpyro.errors import UserError
from zpyro.evaluation.forecasts import History, Numbers

INSTALL = 'statsforecast is not installed; pip install "zpyro[forecast]"'

NORMAL_90 = 1.6448536269514722
"""The 0.95 quantile of the standard normal: half the width of its central 90 % interval."""


@dataclass(frozen=True)
class SeasonalNaive:
    """Repeats the last season, with differences of past seasons as errors.

    x_{T+h} = x_{T+h-kS} + e, with k the least number of seasons S that leads back to the history.
    The errors e are differences k seasons apart in the history, drawn as a block of steps and for
    all dimensions together, so that they keep their correlation.

    Attributes:
        season: S, steps in a season; 1 repeats the last value.
        past: at most this many steps at the end of the history are used for the errors.
    """

    season: int = 1
    past: int = 10_000

    def __post_init__(self) -> None:
        if self.season < 1 or self.past < 1:
            raise UserError("SeasonalNaive: season and past must be at least 1")

    def __call__(
        self, histories: Sequence[History], steps: int, num_samples: int, seed: int
    ) -> Numbers:
        """Samples (S, N, H, D) of the steps after each history."""
        random = np.random.default_rng(seed)
        return np.stack(
            [self._one(history.values, steps, num_samples, random) for history in histories], 1
        )

    def _one(
        self, history: Numbers, steps: int, num_samples: int, random: np.random.Generator
    ) -> Numbers:
        values = fill_gaps(history)
        # A history shorter than a season repeats its last value.
        season = self.season if len(values) > self.season else 1
        ahead = np.arange(1, steps + 1)
        lags = -(-ahead // season) * season
        point = values[len(values) - 1 + ahead - lags]
        recent = values[-self.past :]
        errors = np.zeros((num_samples, steps, values.shape[1]))
        most = len(recent) - int(lags.max()) - steps
        if most > 0:
            # Each sample takes the errors that forecasting from one past step would have made.
            begins = random.integers(0, most + 1, num_samples) + int(lags.max()) - 1
            now = begins[:, None] + ahead
            errors = recent[now] - recent[now - lags]
        else:
            # Too short for whole blocks: single differences, of which a sum over seasons is taken.
            change = recent[season:] - recent[:-season] if len(recent) > season else recent[:1] * 0
            rows = random.integers(0, len(change), (num_samples, steps))
            errors = change[rows] * np.sqrt(lags / season)[:, None]
        return point + errors


@dataclass(frozen=True)
class LinearAutoregression:
    """Ridge regression of each dimension on its own past, iterated with resampled residuals.

    x_{t,d} = c_d + sum_l a_{d,l} x_{t-l,d} + e_{t,d}. Future errors are whole residual vectors of
    the history, so that dimensions stay correlated. Fitted anew to each history.

    Attributes:
        lags: how many steps back, 1 to ``lags``.
        season: adds the lags one and two seasons back, if longer than ``lags``.
        ridge: added to the diagonal of the normal equations, as a share of its mean.
        past: at most this many steps at the end of the history are used.
    """

    lags: int = 24
    season: int = 1
    ridge: float = 1e-4
    past: int = 10_000

    def __post_init__(self) -> None:
        if min(self.lags, self.season, self.past) < 1 or self.ridge < 0:
            raise UserError(
                "LinearAutoregression: lags, season and past must be at least 1, ridge at least 0"
            )

    def __call__(
        self, histories: Sequence[History], steps: int, num_samples: int, seed: int
    ) -> Numbers:
        """Samples (S, N, H, D) of the steps after each history."""
        random = np.random.default_rng(seed)
        return np.stack(
            [self._one(history.values, steps, num_samples, random) for history in histories], 1
        )

    def _one(
        self, history: Numbers, steps: int, num_samples: int, random: np.random.Generator
    ) -> Numbers:
        recent = history[-self.past :]
        known = np.asarray(np.isfinite(recent).all(axis=1))
        values = fill_gaps(recent)
        center, spread = values.mean(0), values.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        values = (values - center) / spread
        # A regression needs more steps than it has coefficients.
        most = max(1, (len(values) - 1) // 3)
        offsets = sorted({*range(1, self.lags + 1), self.season, 2 * self.season})
        offsets = [lag for lag in offsets if lag <= most] or [1]
        first = offsets[-1]
        if len(values) <= first + 1:
            return np.broadcast_to(
                values[-1] * spread + center, (num_samples, steps, values.shape[1])
            ).copy()
        past = np.stack([values[first - lag : len(values) - lag] for lag in offsets], 1)
        rows = known[first:] if known[first:].any() else np.ones(len(values) - first, bool)
        design = np.concatenate([past, np.ones_like(past[:, :1])], 1)[rows]  # (T', L + 1, D)
        target = values[first:][rows]
        gram = np.einsum("tld,tmd->dlm", design, design)
        ridge = self.ridge * np.einsum("dll->d", gram) / gram.shape[1] + 1e-10
        gram = gram + ridge[:, None, None] * np.eye(gram.shape[1])
        weights = np.linalg.solve(gram, np.einsum("tld,td->dl", design, target)[..., None])[..., 0]
        residuals = target - np.einsum("tld,dl->td", design, weights)
        path = np.empty((num_samples, first + steps, values.shape[1]))
        path[:, :first] = values[-first:]
        errors = residuals[random.integers(0, len(residuals), (num_samples, steps))]
        back = first - np.array(offsets)
        for step in range(steps):
            mean = np.einsum("sld,dl->sd", path[:, back + step], weights[:, :-1]) + weights[:, -1]
            # Beyond three times the range of the history an unstable fit has run away.
            path[:, first + step] = np.clip(mean + errors[:, step], -30.0, 30.0)
        return path[:, first:] * spread + center


@dataclass(frozen=True)
class StatsForecast:
    """A univariate model of the package ``statsforecast`` for each dimension; needs
    ``zpyro[forecast]``.

    Samples are independent Gaussians with the means and the 90 % intervals of the model. Scores of
    single values need no more; those of sums and vectors miss the correlation.

    Attributes:
        model: ``"AutoETS"``, ``"AutoARIMA"``, or another class of ``statsforecast.models`` that
            takes ``season_length`` and gives intervals.
        season: steps in a season.
        past: at most this many steps at the end of the history are used; fitting is slow.
    """

    model: str = "AutoETS"
    season: int = 1
    past: int = 1000

    @staticmethod
    def is_installed() -> bool:
        """Whether the package statsforecast is there."""
        return importlib.util.find_spec("statsforecast") is not None

    def __call__(
        self, histories: Sequence[History], steps: int, num_samples: int, seed: int
    ) -> Numbers:
        """Samples (S, N, H, D) of the steps after each history.

        Raises:
            UserError: if statsforecast is not installed or has no such model.
        """
        try:
            models: Any = importlib.import_module("statsforecast.models")
        except ImportError as error:
            raise UserError(INSTALL) from error
        cls = getattr(models, self.model, None)
        if cls is None:
            raise UserError(
                f"StatsForecast: statsforecast.models has no {self.model}; choose AutoETS"
            )
        random = np.random.default_rng(seed)
        found: list[Numbers] = []
        for history in histories:
            values = fill_gaps(history.values[-self.past :])
            means, spreads = np.empty((2, steps, values.shape[1]))
            for column, each in enumerate(values.T):
                means[:, column], spreads[:, column] = self._fit(cls, each, steps)
            noise = random.standard_normal((num_samples, *means.shape))
            found.append(means + noise * spreads)
        return np.stack(found, 1)

    def _fit(self, cls: Any, values: Numbers, steps: int) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation of each step."""
        season = self.season if len(values) >= 2 * self.season + 5 else 1
        if np.ptp(values) == 0:
            return np.full(steps, values[-1]), np.zeros(steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = cls(season_length=season).forecast(np.array(values), steps, level=[90])
        mean = np.asarray(result["mean"], np.float64)
        spread = (np.asarray(result["hi-90"], np.float64) - mean) / NORMAL_90
        return mean, np.where(np.isfinite(spread), np.maximum(spread, 0.0), 0.0)

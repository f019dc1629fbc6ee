"""A linear prediction of each value from those before it, whose errors a model is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

RIDGE = 1e-4
"""Added to the diagonal of the normal equations, as a share of its mean."""

ROUNDING = 1e-6
"""By how much weights of two fits to the same values may differ."""


@dataclass(frozen=True)
class LinearPrediction:
    """e_{t,d} = x_{t,d} - c_d - sum_k a_{d,k} x_{t-k,d}, k = 1..L: the errors of a prediction.

    Each dimension is predicted from its own past. The map from values to errors is invertible given
    the first L values, and its Jacobian determinant is 1, so that a log-likelihood of errors is one
    of values, in nats. A missing value in the past is replaced by its own prediction, which uses
    nothing that comes later.

    Attributes:
        weights: a_{d,1}..a_{d,L} and c_d for each dimension, (D, L + 1).
        needs_past: whether an error is missing where a value that it is predicted from is.

    Example:
        >>> walk = np.cumsum(np.random.default_rng(0).normal(size=(500, 1)), axis=0)
        >>> LinearPrediction.change(1, 1).errors(walk)[1:].std().round(1)
        1.0
    """

    weights: tuple[tuple[float, ...], ...]
    needs_past: bool = False

    @classmethod
    def change(cls, steps: int, size: int) -> LinearPrediction:
        """The prediction x_{t-steps}, whose errors are changes, of ``size`` dimensions."""
        row = (*(0.0,) * (steps - 1), 1.0, 0.0)
        return cls((row,) * size, needs_past=True)

    @classmethod
    def fit(cls, series: Sequence[Numbers], lags: int, change: int = 0) -> LinearPrediction | None:
        """Ridge regression on series (T, D), NaN where missing, all together.

        Every dimension is scaled to unit variance first. Roots outside the unit circle are moved
        onto it, so that neither forecasts nor filled gaps grow without bound.

        Args:
            series: of the training part.
            lags: values of the past that the regression sees.
            change: above 0, the regression is of changes over so many steps, without a constant:
                x_t - x_{t-S} = sum_k b_k (x_{t-k} - x_{t-S-k}) + e_t, and L = lags + S.

        Returns:
            The prediction, or None where a dimension has too few values after L others.
        """
        if change:
            series = [each[change:] - each[:-change] for each in series]
        rows: list[tuple[float, ...]] = []
        for column in range(series[0].shape[1]):
            found = _regression([each[:, column] for each in series], lags, center=not change)
            if found is None:
                return None
            lagged, intercept = found
            if change:
                # 1 - sum_k a_k B^k = (1 - B^S) (1 - sum_k b_k B^k), B the step back.
                step = np.zeros(change + 1)
                step[0], step[-1] = 1.0, -1.0
                lagged = -np.convolve(step, np.concatenate([[1.0], -lagged]))[1:]
            rows.append((*lagged.tolist(), intercept))
        return cls(tuple(rows))

    @property
    def lags(self) -> int:
        """L, values before the first error."""
        return len(self.weights[0]) - 1

    @cached_property
    def _lagged(self) -> Numbers:
        """a_{d,L}..a_{d,1}, oldest first, (L, D)."""
        return np.array(self.weights)[:, -2::-1].T

    @cached_property
    def _intercept(self) -> Numbers:
        return np.array(self.weights)[:, -1]

    def errors(self, values: Numbers) -> Numbers:
        """Errors of values (T, D), likewise.

        NaN up to L values after the first known one of a column, and where the value is missing.
        """
        found = np.full(values.shape, np.nan)
        if len(values) > self.lags:
            predicted = self._sum(self.filled(values), self._lagged) + self._intercept
            found[self.lags :] = values[self.lags :] - predicted
            found[np.arange(len(values))[:, None] < self._first(values)] = np.nan
            if self.needs_past:
                used = (self._lagged != 0).astype(np.float64)
                lacking = self._sum((~np.isfinite(values)).astype(np.float64), used) > 0
                found[self.lags :] = np.where(lacking, np.nan, found[self.lags :])
        return found

    def filled(self, values: Numbers) -> Numbers:
        """Values (T, D) with each missing one replaced by its prediction from those before it.

        Before the first known value of a column that value is taken, and missing ones among the L
        from there on are interpolated within these.
        """
        found = np.array(values, np.float64)
        for column, first in zip(found.T, self._first(values), strict=True):
            column[:first] = fill_gaps(column[:first, None])[:, 0]
        missing = ~np.isfinite(found)
        for row in np.flatnonzero(missing.any(1)):
            predicted = self._next(found[row - self.lags : row])
            found[row] = np.where(missing[row], predicted, found[row])
        return found

    def is_close(self, other: LinearPrediction, scale: Numbers) -> bool:
        """Whether the weights are the same up to rounding, which differs between processors.

        Args:
            other: of as many dimensions.
            scale: of the errors of each dimension, (D,) or one for all.
        """
        if self._lagged.shape != other._lagged.shape:
            return False
        allowed = ROUNDING * (np.abs(other._intercept) + scale)
        apart = np.abs(self._intercept - other._intercept)
        return np.allclose(self._lagged, other._lagged, 0.0, ROUNDING) and bool(
            (apart <= allowed).all()
        )

    def forecast(self, values: Numbers, errors: Numbers) -> Numbers:
        """What follows values (T, D) with the errors (S, H, D) of the H steps after them.

        Args:
            values: at least L, NaN where missing.
            errors: of S paths.

        Returns:
            Values of the paths, (S, H, D).
        """
        lags, samples = self.lags, len(errors)
        last = self.filled(values)[-lags:]
        path = np.concatenate([np.broadcast_to(last, (samples, *last.shape)), errors], axis=1)
        for step in range(lags, path.shape[1]):
            path[:, step] += self._next(path[:, step - lags : step])
        return path[:, lags:]

    def _first(self, values: Numbers) -> NDArray[np.int64]:
        """The row of the first error of each column, L after its first known value, (D,)."""
        return np.isfinite(values).argmax(0) + self.lags

    @staticmethod
    def _sum(values: Numbers, lagged: Numbers) -> Numbers:
        """sum_k a_{d,k} v_{t-k,d} of values (T, D) for t = L + 1..T, (T - L, D)."""
        windows = np.lib.stride_tricks.sliding_window_view(values[:-1], len(lagged), axis=0)
        return np.einsum("tdl,ld->td", windows, lagged)

    def _next(self, past: Numbers) -> Numbers:
        """The prediction from the last L values, (..., L, D) to (..., D)."""
        return np.einsum("...ld,ld->...d", past, self._lagged) + self._intercept


def _regression(
    series: Sequence[Numbers], lags: int, *, center: bool
) -> tuple[Numbers, float] | None:
    """a_1..a_L and c of series (T,); c is 0 where they are not centered."""
    known = np.concatenate(series)
    known = known[np.isfinite(known)]
    middle = float(known.mean()) if center and len(known) else 0.0
    scale = float(np.sqrt(np.square(known - middle).mean())) if len(known) else 0.0
    if not scale > 0:
        return None
    windows = [
        np.lib.stride_tricks.sliding_window_view((part - middle) / scale, lags + 1)
        for part in series
        if len(part) > lags
    ]
    complete = [part[np.isfinite(part).all(1)] for part in windows]
    design = np.concatenate(complete) if complete else np.zeros((0, lags + 1))
    if len(design) <= lags + 1:
        return None
    past, target = design[:, -2::-1], design[:, -1]
    if center:
        past = np.concatenate([past, np.ones_like(past[:, :1])], 1)
    gram = past.T @ past
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    found = np.linalg.solve(gram, past.T @ target)
    lagged = _stable(found[:lags])
    return lagged, found[-1] * scale + middle * (1.0 - lagged.sum()) if center else 0.0


def _stable(lagged: Numbers) -> Numbers:
    """a_1..a_L with all roots of the recursion within the unit circle."""
    companion = np.eye(len(lagged), k=-1)
    companion[0] = lagged
    radius = float(np.abs(np.linalg.eigvals(companion)).max())
    # x^L - sum_k a_k x^(L-k) has its roots divided by r where a_k becomes a_k / r^k.
    return lagged / max(1.0, radius) ** np.arange(1, len(lagged) + 1)


def fill_gaps(values: Numbers) -> Numbers:
    """Missing values (NaN) of each column (T, D) by linear interpolation over time.

    Before the first and after the last observed value that value is taken; a column without any
    becomes zeros.
    """
    filled = np.array(values, np.float64)
    moments = np.arange(len(filled))
    for column in filled.T:
        seen = np.isfinite(column)
        column[~seen] = np.interp(moments[~seen], moments[seen], column[seen]) if seen.any() else 0
    return filled

"""What a model of frames must beat: two densities fitted in closed form to the training frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.sequences import Array, Sequences

Matrix = NDArray[np.float64]

RIDGE = 1e-3
"""Added to the diagonal of the normal equations, as a share of its mean."""

SMALLEST_VARIANCE = 1e-10


@dataclass(frozen=True, eq=False)
class FrameDensity:
    """x_t ~ N(A x_{t-1} + c, diag variance).

    Attributes:
        weight: A, (D, D); zeros for a density that does not look back.
        offset: c, (D,).
        variance: (D,).
    """

    weight: Matrix
    offset: Matrix
    variance: Matrix

    @property
    def parts(self) -> dict[str, Matrix]:
        """The arrays that make it, by name."""
        return {"weight": self.weight, "offset": self.offset, "variance": self.variance}

    def score(self, sequences: Sequences) -> Matrix:
        """log-density of each sequence's frames given the one before, nats, (N,)."""
        scores = [
            self._log_density(_previous(sequences, i), np.asarray(value, np.float64))
            for i, value in enumerate(sequences.values)
        ]
        return np.array(scores)

    def _log_density(self, previous: Matrix, frames: Matrix) -> float:
        error = frames - previous @ self.weight.T - self.offset
        terms = error**2 / self.variance + np.log(2.0 * np.pi * self.variance)
        return float(-0.5 * terms.sum())


def diagonal_gaussian(train: Sequences) -> FrameDensity:
    """One Gaussian with independent samples for all frames, by maximum likelihood."""
    size, moments = train.frame_size, _Moments(train.frame_size)
    for i, value in enumerate(train.values):
        moments.add(_previous(train, i), np.asarray(value, np.float64))
    mean = moments.sum_frames / moments.count
    variance = moments.squares / moments.count - mean**2
    return FrameDensity(np.zeros((size, size)), mean, np.maximum(variance, SMALLEST_VARIANCE))


def linear_predictor(train: Sequences) -> FrameDensity:
    """The next frame as a linear map of the last one, by (slightly ridged) least squares."""
    moments = _Moments(train.frame_size)
    for i, value in enumerate(train.values):
        moments.add(_previous(train, i), np.asarray(value, np.float64))
    mean_before = moments.sum_previous / moments.count
    mean = moments.sum_frames / moments.count
    within = moments.previous / moments.count - np.outer(mean_before, mean_before)
    across = moments.cross / moments.count - np.outer(mean, mean_before)
    ridge = RIDGE * np.trace(within) / len(within) + SMALLEST_VARIANCE
    solution = np.linalg.solve(within + ridge * np.eye(len(within)), across.T)
    weight = np.asarray(solution, np.float64).T
    variance = moments.squares / moments.count - mean**2
    explained = 2.0 * (weight * across).sum(1) - ((weight @ within) * weight).sum(1)
    residual = np.maximum(variance - explained, SMALLEST_VARIANCE)
    return FrameDensity(weight, mean - weight @ mean_before, residual)


class _Moments:
    """Sums over the training frames, in double precision; memory does not grow with them."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.sum_previous = np.zeros(size)
        self.sum_frames = np.zeros(size)
        self.squares = np.zeros(size)
        self.previous = np.zeros((size, size))
        self.cross = np.zeros((size, size))

    def add(self, previous: Matrix, frames: Matrix) -> None:
        self.count += len(frames)
        self.sum_previous += previous.sum(0)
        self.sum_frames += frames.sum(0)
        self.squares += np.square(frames).sum(0)
        self.previous += previous.T @ previous
        self.cross += frames.T @ previous


def _previous(sequences: Sequences, index: int) -> Matrix:
    value: Array = sequences.values[index]
    start = np.zeros_like(value[:1]) if sequences.start is None else sequences.start[index][None]
    return np.concatenate([start, value[:-1]]).astype(np.float64)

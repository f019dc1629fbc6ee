"""The baselines for models of frames: two densities fitted in closed form to the training data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.sequences import Sequences

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

    def score(self, sequences: Sequences) -> Matrix:
        """log-density of each sequence's frames given the one before, nats, (N,)."""
        scores: list[float] = []
        for previous, frames in _pairs(sequences):
            error = frames - previous @ self.weight.T - self.offset
            terms = error**2 / self.variance + np.log(2.0 * np.pi * self.variance)
            scores.append(float(-0.5 * terms.sum()))
        return np.array(scores)


def diagonal_gaussian(train: Sequences) -> FrameDensity:
    """One Gaussian with independent samples for all frames, by maximum likelihood."""
    size, moments = train.frame_size, _Moments(train)
    mean = moments.sum_frames / moments.count
    variance = moments.squares / moments.count - mean**2
    return FrameDensity(np.zeros((size, size)), mean, np.maximum(variance, SMALLEST_VARIANCE))


def linear_predictor(train: Sequences) -> FrameDensity:
    """The next frame as a linear map of the last one, by ridge regression."""
    moments = _Moments(train)
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

    def __init__(self, train: Sequences) -> None:
        size, self.count = train.frame_size, 0
        self.sum_previous = np.zeros(size)
        self.sum_frames = np.zeros(size)
        self.squares = np.zeros(size)
        self.previous = np.zeros((size, size))
        self.cross = np.zeros((size, size))
        for previous, frames in _pairs(train):
            self.count += len(frames)
            self.sum_previous += previous.sum(0)
            self.sum_frames += frames.sum(0)
            self.squares += np.square(frames).sum(0)
            self.previous += previous.T @ previous
            self.cross += frames.T @ previous


def _pairs(sequences: Sequences) -> Iterator[tuple[Matrix, Matrix]]:
    """For each sequence the previous frame of each frame, and the frames, both (T, D)."""
    for number, value in enumerate(sequences.values):
        frames = np.asarray(value, np.float64)
        start = np.zeros_like(frames[:1])
        if sequences.start is not None:
            start = np.asarray(sequences.start[number][None], np.float64)
        yield np.concatenate([start, frames[:-1]]), frames

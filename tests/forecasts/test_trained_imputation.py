"""Imputations of a model trained with hidden values, beside the best there are."""

from __future__ import annotations

import numpy as np
import torch

import zpyro
from zpyro.datasets.linear_prediction import fill_gaps
from zpyro.likelihoods import Gaussian
from zpyro.models import DMM


def linear_gaussian(count: int, steps: int, seed: int) -> np.ndarray:
    """s_t = 0.9 s_{t-1} + N(0, 0.19), read by two numbers with noise of deviation 0.3."""
    random = np.random.default_rng(seed)
    state = random.normal(size=count)
    frames = np.empty((count, steps, 2))
    for t in range(steps):
        state = 0.9 * state + np.sqrt(0.19) * random.normal(size=count)
        frames[:, t] = state[:, None] * [1.0, -1.0] + 0.3 * random.normal(size=(count, 2))
    return frames


def smoothed(frames: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The mean given the observed numbers, by conditioning the dense Gaussian."""
    steps = np.arange(frames.shape[1])
    states = 0.9 ** abs(np.subtract.outer(steps, steps))
    covariance = np.kron(states, np.outer([1, -1], [1, -1])) + 0.09 * np.eye(2 * len(steps))
    means: list[np.ndarray] = []
    for x, mask in zip(frames, observed, strict=True):
        known = mask.ravel()
        gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known]).T
        means.append((gain @ x.ravel()[known]).reshape(x.shape))
    return np.stack(means)


def test_a_trained_model_approaches_the_smoother() -> None:
    """Its imputations are nearly as good as the best there are, those of the Kalman smoother."""
    frames = linear_gaussian(40, 24, 2)
    observed = np.random.default_rng(3).random(frames.shape) < 0.75
    gaps = np.where(observed, frames, np.nan)
    data = zpyro.datasets.from_arrays(
        linear_gaussian(300, 24, 0), valid=linear_gaussian(20, 24, 1), test=gaps, normalize=False
    )
    torch.manual_seed(0)
    model = DMM(Gaussian(2), 12, 2, 12, 12, missing=True)
    model.mask_rate, model.mask_length, model.fill = 0.25, 6, "interpolate"
    zpyro.fit(model, data, steps=300, learning_rate=1e-2, kl_weight=1.0, seed=0)
    imputed = zpyro.impute(model, data.test, num_samples=100).mean
    exact = smoothed(frames, observed)
    lines = np.stack([fill_gaps(each) for each in gaps])
    missing = ~observed
    error, best, line = (abs(each - frames)[missing].mean() for each in (imputed, exact, lines))
    assert error < 1.1 * best < 0.9 * line
    assert abs(imputed - exact)[missing].mean() < 0.12

"""Mutual information between latents and frames, against Gaussians where it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zpyro.evaluation.information import SAMPLE, FrameSample

pytestmark = pytest.mark.fast


def estimate(means: np.ndarray, variance: float, parts: int = 1) -> float:
    random = np.random.default_rng(1)
    z = means + math.sqrt(variance) * random.normal(size=means.shape)
    sample = FrameSample(len(means))
    for chosen in np.array_split(np.arange(len(means)), parts):
        sample.add(
            chosen[0], z[chosen], means[chosen], np.full_like(means[chosen], math.log(variance))
        )
    return sample.mutual_information()


def test_gaussian_channel() -> None:
    """Means N(0, 1) and noise of variance v: 1/2 log(1 + 1/v) nats a latent."""
    means = np.random.default_rng(0).normal(size=(20_000, 2))
    for variance in (0.5, 2.0):
        exact = 2 * 0.5 * math.log(1.0 + 1.0 / variance)
        assert estimate(means, variance) == pytest.approx(exact, abs=0.08)


def test_nothing_and_everything() -> None:
    assert estimate(np.zeros((500, 3)), 1.0) == pytest.approx(0.0, abs=1e-12)
    apart = 100.0 * np.arange(400.0).reshape(-1, 1)
    assert estimate(apart, 1.0) == pytest.approx(math.log(400), abs=1e-9)
    assert estimate(np.zeros((5, 0)), 1.0) == 0.0
    assert math.isnan(FrameSample(10).mutual_information())


def test_the_sample_does_not_depend_on_batches() -> None:
    means = np.random.default_rng(0).normal(size=(2 * SAMPLE + 7, 2))
    assert estimate(means, 0.5, parts=1) == pytest.approx(estimate(means, 0.5, parts=9), rel=1e-12)

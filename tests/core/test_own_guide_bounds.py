"""Bounds by a guide of the user's own, against the exact likelihood of a linear-Gaussian model."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from torch import Tensor

import zpyro
from tests.core.test_linear_gaussian import LinearGaussian, kalman_log_likelihood
from tests.core.test_particle_filter import copies, frames
from zpyro import UserError, evaluation

pytestmark = pytest.mark.fast

STEPS = 3


@pytest.fixture
def model() -> LinearGaussian:
    """Latents are proposed by independent standard normals, whatever the frames are."""
    module = LinearGaussian(slack=0.2)

    def guide(x: Tensor, lengths: Tensor | None = None, start: Tensor | None = None) -> Tensor:
        with pyro.plate("sequences", len(x)):
            zeros = x.new_zeros(len(x), x.shape[1], module.latent_size)
            return pyro.sample("z", dist.Normal(zeros, 1.0).to_event(2))

    module.custom_guide = guide
    return module


def test_weights_are_unbiased_whatever_the_guide(model: LinearGaussian) -> None:
    x = 0.5 * frames(1, STEPS)
    exact = float(kalman_log_likelihood(model, x.numpy())[0])
    told: list[tuple[int, int]] = []
    found = evaluation.iwae(
        model,
        copies(x, 1500),
        particles=20,
        batch_size=500,
        on_batch=lambda done, total: told.append((done, total)),
    )
    ratios = np.exp(found.iwae_by_sequence - exact)
    error = ratios.std() / math.sqrt(len(ratios))
    assert error < 0.05
    assert abs(ratios.mean() - 1.0) < 4 * error
    assert told == [(500, 1500), (1000, 1500), (1500, 1500)]


def test_more_paths_are_tighter_and_one_is_the_plain_bound(model: LinearGaussian) -> None:
    x = 0.5 * frames(1, STEPS)
    exact = float(kalman_log_likelihood(model, x.numpy())[0])
    many = copies(x, 1000)
    plain = evaluation.evaluate(model, many, batch_size=1000)
    one, twenty = (
        evaluation.iwae(model, many, particles=count, batch_size=1000) for count in (1, 20)
    )
    assert abs(one.iwae - plain.elbo) < 4 * math.hypot(one.stderr, plain.elbo_stderr)
    assert one.iwae < twenty.iwae - 0.05
    assert twenty.iwae < exact + 4 * twenty.stderr


def test_what_needs_the_models_own_guide_is_told(model: LinearGaussian) -> None:
    with pytest.raises(UserError, match="this run has another; take --bound iwae"):
        evaluation.smc(model, copies(frames(1, STEPS)), particles=2)
    with pytest.raises(UserError, match="has a custom guide, whose posterior has no known"):
        zpyro.posterior(model, copies(frames(1, STEPS)).batch())

"""Missing values and covariates in a linear-Gaussian model, against its Kalman filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO

import zpyro
from tests.core.linear_series import FilteringSeries, Kalman, LinearSeries, series


@pytest.mark.fast
@pytest.mark.parametrize("feedback", [0.0, 0.3])
@pytest.mark.parametrize("covariates", [0, 2])
@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_the_optimal_bound_is_the_kalman_likelihood(
    granularity: str, covariates: int, feedback: float
) -> None:
    model = LinearSeries(covariates, feedback, granularity=granularity)
    batch = series(covariates)
    kalman = Kalman(model)
    exact = np.array([kalman.filter(*batch.rows(i)).log_likelihood.sum() for i in range(3)])
    for _ in range(2):
        x, lengths, _, observed, known = batch.arguments
        terms = zpyro.sequence_terms(model, x, lengths, observed=observed, covariates=known)
        weights = (terms.log_likelihood + terms.log_prior - terms.log_posterior).sum(-1)
        np.testing.assert_allclose(weights.detach().numpy(), exact, rtol=1e-10)
        loss = Trace_ELBO().loss(model.model, model.guide, *batch.arguments)
        assert -loss == pytest.approx(exact.sum(), rel=1e-10)


@pytest.mark.fast
@pytest.mark.parametrize("covariates", [0, 2])
def test_the_kalman_filter_agrees_with_the_dense_gaussian(covariates: int) -> None:
    """The oracle itself, without feedback: the observed numbers are jointly Gaussian."""
    model = LinearSeries(covariates, feedback=0.0)
    kalman, batch = Kalman(model), series(covariates)
    x, observed, u = batch.rows(0)
    steps = np.arange(len(x))
    start = np.array([model.q * sum(model.a ** (2 * k) for k in range(t + 1)) for t in steps])
    states = start[np.minimum.outer(steps, steps)] * model.a ** abs(np.subtract.outer(steps, steps))
    c = model.c.detach().numpy()
    covariance = np.kron(states, np.outer(c, c)) + np.kron(np.eye(len(x)), np.diag(model.r))
    drift = u @ model.b.numpy()
    mean = np.array([sum(model.a ** (t - s) * drift[s] for s in range(t + 1)) for t in steps])
    error = (x - mean[:, None] * c).ravel()
    known = observed.ravel()
    part = covariance[np.ix_(known, known)]
    dense = -0.5 * error[known] @ np.linalg.solve(part, error[known])
    dense -= 0.5 * np.linalg.slogdet(2 * np.pi * part)[1]
    assert kalman.filter(x, observed, u).log_likelihood.sum() == pytest.approx(dense, rel=1e-10)


@pytest.mark.fast
def test_a_filtering_guide_leaves_the_model_as_it_is() -> None:
    smoothing, filtering = LinearSeries(2), FilteringSeries(2)
    batch = series(2)
    z = torch.randn(3, 12, 1, dtype=torch.float64)
    first, second = (
        bound.log_likelihood(bound.trajectory(z), bound.x)[:, 0]
        for bound in (model.bind(*batch.arguments) for model in (smoothing, filtering))
    )
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)

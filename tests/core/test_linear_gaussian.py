"""An exactly solvable member of the family: stock tools against a Kalman filter."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Importance, RenyiELBO, Trace_ELBO
from torch import Tensor, nn

import zpyro
from zpyro.likelihoods import Gaussian
from zpyro.models.base import SequenceModel
from zpyro.nn.layers import State

STEPS, COUNT = 6, 3


class LinearGaussian(SequenceModel):
    """z_t ~ N(a h_{t-1}, q), h_t = z_t + u_t with u_t = d w.x_{t-1}, x_t ~ N(c h_t, diag r).

    The guide is the exact posterior p(z_t | h_{t-1}, x_t..x_T) when ``slack`` is 0: its backward
    network is the information filter b_t = (eta_t, lambda_t) of the frames still to come, where
    p(x_t..x_T | h_t) is proportional to exp(eta_t h_t - lambda_t h_t^2 / 2). A ``slack`` shifts
    and widens it.
    """

    def __init__(self, slack: float = 0.0, granularity: str = "sequence") -> None:
        super().__init__(Gaussian(2), hidden_size=1, latent_size=1, granularity=granularity)
        self.slack = slack
        self.a, self.q, self.d = 0.8, 0.5, 0.3
        self.w = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor([1.3, -0.6], dtype=torch.float64))
        self.r = torch.tensor([0.4, 0.9], dtype=torch.float64)

    def initial_state(self, rows: int) -> State:
        zeros = torch.zeros(rows, 1, dtype=torch.float64)
        return zeros, zeros

    def embed(self, frames: Tensor) -> Tensor:
        return self.d * (frames * self.w).sum(-1, keepdim=True)

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        raise AssertionError("this model reads its frames, not their embedding")

    def bind(self, x: Tensor | None, lengths: object = None, start: object = None) -> object:
        process = super().bind(x, lengths, start)  # pyright: ignore
        if x is not None:
            process.__dict__["backward_states"] = self.information(x, process.inputs)
        return process

    def information(self, x: Tensor, inputs: Tensor) -> Tensor:
        """(eta_t, lambda_t, u_t), (B, T, 3); u_t lets the posterior speak of z_t = h_t - u_t."""
        eta = lam = torch.zeros(len(x), dtype=torch.float64)
        later = torch.zeros_like(eta)
        states = []
        for t in reversed(range(x.shape[1])):
            shrink = 1.0 / (1.0 + self.q * lam)
            eta, lam = self.a * (eta - lam * later) * shrink, self.a**2 * lam * shrink
            eta = eta + (x[:, t] * self.c / self.r).sum(-1)
            lam = lam + (self.c**2 / self.r).sum()
            later = inputs[:, t, 0]
            states.append(torch.stack([eta, lam, later], dim=-1))
        return torch.stack(states[::-1], dim=1)

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        return z + inputs, z + inputs

    def prior(self, previous: Tensor) -> tuple[Tensor, Tensor]:
        return self.a * previous, torch.full_like(previous, math.log(self.q))

    def posterior(self, previous: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
        eta, lam, u = backward.split(1, dim=-1)
        precision = 1.0 / self.q + lam
        mean = ((self.a * previous + u) / self.q + eta) / precision - u
        variance = (1.0 / precision).expand_as(mean)
        return mean + self.slack, (variance * (1.0 + self.slack)).log()

    def emission(self, hidden: Tensor) -> Tensor:
        mean = hidden * self.c
        return torch.cat([mean, self.r.log().expand_as(mean)], dim=-1)

    def auxiliary(self, backward: Tensor, z: Tensor, previous: Tensor) -> Tensor:
        return torch.zeros(previous.shape[:-1], dtype=torch.float64)

    def reverse(self, backward: Tensor, frames: Tensor) -> Tensor:
        return torch.zeros(backward.shape[:-1], dtype=torch.float64)


def kalman_log_likelihood(model: LinearGaussian, x: np.ndarray) -> np.ndarray:
    """Exact log p(x_1..x_T) by the Kalman filter with known inputs, nats, (B,)."""
    w, c, r = (np.asarray(v.detach()) for v in (model.w, model.c, model.r))
    total = np.zeros(len(x))
    for i, frames in enumerate(x):
        mean, variance, u, previous = 0.0, 0.0, 0.0, np.zeros(2)
        for frame in frames:
            u = model.d * previous @ w
            mean, variance = model.a * mean + u, model.a**2 * variance + model.q
            covariance = variance * np.outer(c, c) + np.diag(r)
            error = frame - c * mean
            solved = np.linalg.solve(covariance, error)
            _, determinant = np.linalg.slogdet(2.0 * np.pi * covariance)
            total[i] -= 0.5 * (error @ solved + determinant)
            gain = variance * np.linalg.solve(covariance, c)
            mean, variance = mean + gain @ error, variance * (1.0 - gain @ c)
            previous = frame
    return total


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(COUNT, STEPS, 2, dtype=torch.float64) * 1.2


@pytest.mark.fast
@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_the_optimal_guide_makes_every_weight_the_exact_likelihood(
    x: Tensor, granularity: str
) -> None:
    model = LinearGaussian(granularity=granularity)
    exact = kalman_log_likelihood(model, x.numpy())
    for _ in range(3):
        loss = Trace_ELBO().loss(model.model, model.guide, x)
        assert -loss == pytest.approx(exact.sum(), rel=1e-12)
    importance = Importance(model.model, model.guide, num_samples=2).run(x)
    for weight in importance.log_weights:
        assert float(weight) == pytest.approx(exact.sum(), rel=1e-12)


@pytest.mark.fast
def test_the_published_objective_is_exact_in_expectation(x: Tensor) -> None:
    """The analytic KL along the path: its mean over draws is the exact log-likelihood."""
    model = LinearGaussian()
    exact = kalman_log_likelihood(model, x.numpy())
    torch.manual_seed(1)
    terms = zpyro.sequence_terms(model, x.repeat(4000, 1, 1))
    bounds = (terms.log_likelihood - terms.kl).sum(-1).reshape(4000, COUNT).detach().numpy()
    error = bounds.std(0) / math.sqrt(len(bounds))
    assert (abs(bounds.mean(0) - exact) < 4.5 * error).all()


def test_bounds_rise_towards_the_exact_likelihood(x: Tensor) -> None:
    model = LinearGaussian(slack=0.3)
    exact = kalman_log_likelihood(model, x.numpy()).sum()
    pyro.set_rng_seed(2)
    copies, settings = 500, {"vectorize_particles": True, "max_plate_nesting": 1}
    batch = x.repeat(copies, 1, 1)
    bounds = [
        -RenyiELBO(alpha=0, num_particles=particles, **settings).loss(
            model.model, model.guide, batch
        )
        / copies
        for particles in (1, 10, 500)
    ]
    elbo = -Trace_ELBO().loss(model.model, model.guide, batch) / copies
    assert bounds[0] == pytest.approx(elbo, abs=0.3)
    assert bounds[0] < bounds[1] - 0.1
    assert bounds[1] < bounds[2]
    assert bounds[2] == pytest.approx(exact, abs=0.05)


@pytest.mark.fast
def test_importance_weights_are_unbiased(x: Tensor) -> None:
    """The mean of exp(log weight - exact) is 1 within Monte-Carlo error: IWAE is exact in limit."""
    model = LinearGaussian(slack=0.2)
    exact = torch.from_numpy(kalman_log_likelihood(model, x.numpy()))
    torch.manual_seed(3)
    terms = zpyro.sequence_terms(model, x.repeat(20_000, 1, 1))
    weights = (terms.log_likelihood + terms.log_prior - terms.log_posterior).sum(-1)
    ratios = (weights.reshape(20_000, COUNT) - exact).exp()
    error = ratios.std(0) / math.sqrt(len(ratios))
    assert ((ratios.mean(0) - 1.0).abs() < 4.5 * error).all()
    assert (error < 0.02).all()


@pytest.mark.fast
def test_kalman_filter_agrees_with_the_dense_gaussian(x: Tensor) -> None:
    """The oracle itself: for d = 0 the frames are jointly Gaussian with a known covariance."""
    model = LinearGaussian()
    model.d = 0.0
    c, r = model.c.detach().numpy(), model.r.numpy()
    steps = np.arange(STEPS)
    start = np.array([model.q * sum(model.a ** (2 * k) for k in range(t + 1)) for t in steps])
    earlier = np.minimum.outer(steps, steps)
    states = start[earlier] * model.a ** abs(np.subtract.outer(steps, steps))
    covariance = np.kron(states, np.outer(c, c)) + np.kron(np.eye(STEPS), np.diag(r))
    flat = x.numpy().reshape(COUNT, -1)
    solved = np.linalg.solve(covariance, flat.T).T
    dense = -0.5 * ((flat * solved).sum(-1) + np.linalg.slogdet(2 * np.pi * covariance)[1])
    np.testing.assert_allclose(kalman_log_likelihood(model, x.numpy()), dense, rtol=1e-10)

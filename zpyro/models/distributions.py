"""Distributions over whole trajectories: the sequence sites of a model and its guide.

``z`` has event shape (T, Z) and ``x`` has event shape (T, D) or (T,). For given frames the sites
factor as prod_t p(z_t | z_<t, x_<t) and prod_t p(x_t | z_<=t, x_<t), so their log-probabilities
are sums of per-step terms, which ``step_log_prob`` gives one by one.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl

from zpyro.likelihoods import Likelihood
from zpyro.models.bound_model import BoundModel
from zpyro.models.trajectory import GaussianParameters, Trajectory
from zpyro.nn.layers import gaussian_kl, gaussian_log_density


class TrajectoryDistribution(TorchDistribution):
    """Base of the sequence sites: batch shape (..., B), terms step by step.

    Args:
        bound: the model bound to a batch.
        event_shape: shape of one whole sequence.
        batch_shape: (..., B); (B,) by default.
    """

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    def __init__(
        self, bound: BoundModel, event_shape: torch.Size, batch_shape: torch.Size | None = None
    ) -> None:
        self.bound = bound
        shape = torch.Size((bound.sequences,)) if batch_shape is None else batch_shape
        super().__init__(shape, event_shape, validate_args=False)

    def step_log_prob(self, value: Tensor) -> Tensor:
        """log-probability of each step, nats, (..., B, T), zero beyond the lengths."""
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """log-probability of whole sequences, nats, (..., B)."""
        self._check(value)
        return self.step_log_prob(value).sum(-1)

    def _check(self, value: Tensor) -> None:
        expected = (*self.batch_shape[-1:], *self.event_shape)
        if value.shape[value.dim() - len(expected) :] != expected:
            raise ValueError(
                f"{type(self).__name__} scores values whose shape ends in {tuple(expected)};"
                f" got {tuple(value.shape)}"
            )


class TrajectoryNormal(TrajectoryDistribution):
    """A product of diagonal Gaussians, each given the path before it; event shape (T, Z)."""

    has_rsample = True

    def __init__(self, bound: BoundModel, batch_shape: torch.Size | None = None) -> None:
        event_shape = torch.Size((bound.steps, bound.model.latent_size))
        super().__init__(bound, event_shape, batch_shape)
        self._newest: weakref.ref[Tensor] | None = None

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, 2)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TrajectoryNormal:
        return type(self)(self.bound, torch.Size(batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 torch's signature
        shape = self._extended_shape(torch.Size(sample_shape))
        model = self.bound.model
        z = self.from_noise(model.noise_source.normal(shape, next(model.parameters()), dim=-3))
        self._newest = weakref.ref(z)
        return z

    def from_noise(self, noise: Tensor) -> Tensor:
        """The latents for standard normal draws (..., B, T, Z), same shape."""
        raise NotImplementedError

    def path(self) -> Tensor:
        """The newest sampled latents, (..., B, T, Z); sampled now if there are none."""
        newest = None if self._newest is None else self._newest()
        return self.rsample() if newest is None else newest

    def trajectory(self, z: Tensor) -> Trajectory:
        """The states along latents z (..., B, T, Z)."""
        return self.bound.trajectory(z)

    def parameters(self, z: Tensor) -> GaussianParameters:
        """Mean and log variance of every step along latents z, each (T, L, B, Z)."""
        raise NotImplementedError

    def step_log_prob(self, value: Tensor) -> Tensor:
        mean, log_variance = self.parameters(value)
        density = gaussian_log_density(self.trajectory(value).z, mean, log_variance)
        return self.bound.per_step(density.sum(-1), value.shape[:-3])


class TrajectoryPosterior(TrajectoryNormal):
    """q(z_1..z_T) = prod_t N(z_t; mu_q(h_{t-1}, b_t), diag sigma_q(h_{t-1}, b_t)^2)."""

    @property
    def backward_states(self) -> Tensor:
        """b_1..b_T, (B, T, H)."""
        return self.bound.backward_states

    def from_noise(self, noise: Tensor) -> Tensor:
        z = self.bound.sample_posterior(noise)
        self._newest = weakref.ref(z)
        return z

    def parameters(self, z: Tensor) -> GaussianParameters:
        return self.bound.posterior(self.trajectory(z))


class TrajectoryPrior(TrajectoryNormal):
    """p(z_1..z_T) = prod_t N(z_t; mu_p(h_{t-1}), diag sigma_p(h_{t-1})^2), for given frames.

    Where the frames are free (generation), the terms are conditioned on the frames sampled with z;
    see :class:`TrajectoryLikelihood` for frames that are conditioned on afterwards.
    """

    def from_noise(self, noise: Tensor) -> Tensor:
        z = self.bound.sample_prior(noise)
        self._newest = weakref.ref(z)
        return z

    def trajectory(self, z: Tensor) -> Trajectory:
        return self.bound.trajectory(z, self.bound.frames_for(z))

    def parameters(self, z: Tensor) -> GaussianParameters:
        return self.bound.prior(self.trajectory(z))


class TrajectoryLikelihood(TrajectoryDistribution):
    """p(x_1..x_T) = prod_t p(x_t | f(h_t)) along latents z (..., B, T, Z).

    The terms of the site ``z`` depend on the frames too. ``log_prob`` of frames other than those
    that site used (as under ``poutine.condition(model, data={"x": ...})`` called without x)
    therefore includes the change in its terms, so that the two sites sum to the exact joint.
    """

    def __init__(self, bound: BoundModel, z: Tensor, batch_shape: torch.Size | None = None) -> None:
        likelihood = bound.model.likelihood
        event_shape = torch.Size((bound.steps, *likelihood.event_shape))
        super().__init__(bound, event_shape, z.shape[:-2] if batch_shape is None else batch_shape)
        self.z = z

    @property
    def support(self) -> constraints.Constraint:
        support = self.bound.model.likelihood.support
        return constraints.independent(support, len(self.event_shape) - support.event_dim)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TrajectoryLikelihood:
        shape = torch.Size((*batch_shape, *self.z.shape[-2:]))
        # The same tensor object where possible: it identifies the path that the guide computed.
        z = self.z if self.z.shape == shape else self.z.expand(shape)
        return type(self)(self.bound, z, torch.Size(batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 torch's signature
        with torch.no_grad():
            if self.bound.conditions.x is None and not sample_shape:
                return self.bound.frames_for(self.z)
            shape = torch.Size((*sample_shape, *self.batch_shape, *self.z.shape[-2:]))
            return self.bound.sample_frames(self.z.expand(shape))

    def step_log_prob(self, value: Tensor) -> Tensor:
        bound = self.bound
        known_frames = bound.frames_for(self.z)
        if value is known_frames or value is bound.conditions.source[0]:
            density = bound.log_likelihood(bound.trajectory(self.z, known_frames), known_frames)
        else:
            frames = bound.conditions.without_unknown(value)
            trajectory = bound.trajectory(self.z, frames)
            density = bound.log_likelihood(trajectory, frames) + self._prior_density(trajectory)
            density = density - self._prior_density(bound.trajectory(self.z, known_frames))
        return bound.per_step(density, self.z.shape[:-3])

    def _prior_density(self, trajectory: Trajectory) -> Tensor:
        return gaussian_log_density(trajectory.z, *self.bound.prior(trajectory)).sum(-1)


class ObservedFrame(TorchDistribution):
    """p(observed part of x_t | h_t) as a density of whole frames, whose other numbers do not count.

    Args:
        likelihood: density of one frame.
        parameters: of the likelihood, (..., B, parameter_size).
        observed: True where a number is known, (B,) + event shape.
    """

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    def __init__(
        self,
        likelihood: Likelihood,
        parameters: Tensor,
        observed: Tensor,
        batch_shape: torch.Size | None = None,
    ) -> None:
        self.likelihood, self.parameters, self.observed = likelihood, parameters, observed
        shape = parameters.shape[:-1] if batch_shape is None else batch_shape
        super().__init__(shape, likelihood.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.likelihood.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> ObservedFrame:
        shape = torch.Size(batch_shape)
        parameters = self.parameters.expand(*shape, self.parameters.shape[-1])
        return type(self)(self.likelihood, parameters, self.observed, shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 torch's signature
        shape = (*sample_shape, *self.parameters.shape)
        with torch.no_grad():
            return self.likelihood.sample(self.parameters.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log-probability of the observed numbers, nats, (..., B)."""
        value = value.where(self.observed, value.new_zeros(()))
        return self.likelihood.observed_log_prob(self.parameters, value, self.observed)


@register_kl(TrajectoryNormal, TrajectoryNormal)
def kl_along_path(posterior: TrajectoryNormal, prior: TrajectoryNormal) -> Tensor:
    """sum_t KL(q(z_t | past) || p(z_t | past)) along the posterior's newest path, nats, (..., B).

    The closed form of every step given the sampled past: an unbiased, lower-variance estimate of
    the KL between the two trajectory distributions, and the one the published objective uses.
    """
    return step_kl(posterior, prior, posterior.path()).sum(-1)


def step_kl(posterior: TrajectoryNormal, prior: TrajectoryNormal, z: Tensor) -> Tensor:
    """The Gaussian KL of each step along latents z, nats, (..., B, T), zero beyond the lengths."""
    divergence = gaussian_kl(*posterior.parameters(z), *prior.parameters(z)).sum(-1)
    return posterior.bound.per_step(divergence, z.shape[:-3])

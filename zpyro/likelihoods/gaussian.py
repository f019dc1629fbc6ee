"""Gaussian frames, and mixtures of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from zpyro.errors import UserError
from zpyro.likelihoods.base import Likelihood, sample_index, sum_of_observed
from zpyro.nn.layers import gaussian_log_density

Bounds = tuple[float, float] | None
"""Smooth lower and upper bound of a log variance, or None."""


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """A diagonal Gaussian over frames; the output layer gives mean and log variance.

    Attributes:
        log_variance_bounds: smooth lower and upper bound of the log variance, or None for the
            published, unbounded choice (with which validation curves jump).
    """

    log_variance_bounds: Bounds = None

    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self.log_variance_bounds)

    @property
    def parameter_size(self) -> int:
        return 2 * self.size

    def mean_and_log_variance(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and (bounded) log variance, each (..., D)."""
        mean, log_variance = parameters.chunk(2, dim=-1)
        return mean, bounded(log_variance, self.log_variance_bounds)

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        mean, log_variance = self.mean_and_log_variance(parameters)
        scale = temperature * (0.5 * log_variance).exp()
        return dist.Normal(mean, scale, validate_args=False).to_event(1)

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        mean, log_variance = self.mean_and_log_variance(parameters)
        return mean + temperature * (0.5 * log_variance).exp() * torch.randn_like(mean)

    def log_prob(self, parameters: Tensor, value: Tensor) -> Tensor:
        # From the log variance, which saves the exp, square and log of a scale per sample.
        return gaussian_log_density(value, *self.mean_and_log_variance(parameters)).sum(-1)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        densities = gaussian_log_density(value, *self.mean_and_log_variance(parameters))
        return sum_of_observed(densities, observed)


@dataclass(frozen=True)
class GaussianMixture(Likelihood):
    """A mixture of K diagonal Gaussians over whole frames.

    p(x) = sum_k w_k prod_d N(x_d; mu_kd, sigma_kd^2), the output of RNN-GMM and VRNN-GMM (Chung et
    al., NeurIPS 2015, arXiv:1506.02216). The output layer gives, in this order, the K logits of
    the weights, the K D means and the K D log variances, component by component.

    Attributes:
        components: K.
        log_variance_bounds: as in :class:`Gaussian`, for every component.
    """

    components: int = 20
    log_variance_bounds: Bounds = None

    name: ClassVar[str] = "gaussian-mixture"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1:
            raise UserError(f"mixture components are {self.components}; give a positive number")
        check_bounds(self.log_variance_bounds)

    @property
    def parameter_size(self) -> int:
        return self.components * (1 + 2 * self.size)

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the weights (..., K), means and (bounded) log variances, each (..., K, D)."""
        frames = self.components * self.size
        logits, means, log_variances = parameters.split([self.components, frames, frames], dim=-1)
        shape = (self.components, self.size)
        limited = bounded(log_variances, self.log_variance_bounds)
        return logits, means.unflatten(-1, shape), limited.unflatten(-1, shape)

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        logits, means, log_variances = self.parts(parameters)
        scales = temperature * (0.5 * log_variances).exp()
        return dist.MixtureSameFamily(
            dist.Categorical(logits=logits / temperature, validate_args=False),
            dist.Normal(means, scales, validate_args=False).to_event(1),
            validate_args=False,
        )

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        logits, means, log_variances = self.parts(parameters)
        index = sample_index(logits / temperature)[..., None, None]
        index = index.expand(*logits.shape[:-1], 1, self.size)
        mean, log_variance = (part.gather(-2, index).squeeze(-2) for part in (means, log_variances))
        return mean + temperature * (0.5 * log_variance).exp() * torch.randn_like(mean)

    def log_prob(self, parameters: Tensor, value: Tensor) -> Tensor:
        logits, means, log_variances = self.parts(parameters)
        densities = gaussian_log_density(value.unsqueeze(-2), means, log_variances).sum(-1)
        return (logits.log_softmax(-1) + densities).logsumexp(-1)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        log_weights, _, _ = self._of_components(parameters, value, observed)
        density = log_weights.logsumexp(-1)
        # The weights sum to one only up to rounding.
        return density.where(observed.any(-1), density.new_zeros(()))

    def impute(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        """The missing numbers from the component that the observed ones suggest."""
        log_weights, means, log_variances = self._of_components(parameters, value, observed)
        index = sample_index(log_weights)[..., None, None]
        index = index.expand(*log_weights.shape[:-1], 1, self.size)
        mean, log_variance = (part.gather(-2, index).squeeze(-2) for part in (means, log_variances))
        sampled = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return value.where(observed, sampled.to(value.dtype))

    def _of_components(
        self, parameters: Tensor, value: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k p_k(observed part) (..., K), means and log variances, each (..., K, D)."""
        logits, means, log_variances = self.parts(parameters)
        densities = gaussian_log_density(value.unsqueeze(-2), means, log_variances)
        known = sum_of_observed(densities, observed.unsqueeze(-2))
        return logits.log_softmax(-1) + known, means, log_variances


def check_bounds(bounds: Bounds) -> None:
    """Raise UserError for bounds of a log variance that do not rise."""
    if bounds is not None and not bounds[0] < bounds[1]:
        raise UserError(f"log_variance_bounds ({bounds[0]}, {bounds[1]}) must rise; swap them")


def bounded(log_variance: Tensor, bounds: Bounds) -> Tensor:
    """The log variance, limited to its bounds by softplus functions if there are any."""
    if bounds is None:
        return log_variance
    low, high = bounds
    log_variance = high - nn.functional.softplus(high - log_variance)
    return low + nn.functional.softplus(log_variance - low)

"""Frames with heavy tails: independent Student-t densities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from zpyro.likelihoods.base import TemperedLikelihood, in_full_precision, sum_of_observed
from zpyro.likelihoods.gaussian import Bounds, bounded, check_bounds

LOG_FREEDOM = 1.5
"""Log of the degrees of freedom above 2 where the output layer gives 0: 6.5 degrees."""
LOG_FREEDOM_BOUNDS = (-4.0, 12.0)
"""Smooth bounds of it: from 2.02 degrees, with a finite variance, to 160,000, a Gaussian."""
SERIES_FROM = 32.0


@dataclass(frozen=True)
class StudentT(TemperedLikelihood):
    """Independent Student-t densities over the numbers of a frame, each with learned tails::

        x_d = m_d + s_d t_d,  t_d ~ Student-t(nu_d),  nu_d > 2

    The output layer gives, in this order, the D means, the D log squared scales and D numbers r,
    with nu = 2 + exp(r + 1.5) within smooth bounds. A far value costs (nu + 1) log abs(x) nats in
    place of the x^2 of a Gaussian, which is the limit of large nu. The variance is
    s^2 nu / (nu - 2). A temperature is a factor on s.

    Attributes:
        log_variance_bounds: smooth lower and upper bound of the log squared scale, or None.

    Source: Lange, Little and Taylor, *Robust statistical modeling using the t distribution*,
    Journal of the American Statistical Association 84 (1989).

    Example:
        >>> likelihood = StudentT(200, log_variance_bounds=(-14.0, 8.0))
        >>> parameters = torch.zeros(4, likelihood.parameter_size)
        >>> likelihood.log_prob(parameters, likelihood.sample(parameters)).shape
        torch.Size([4])
    """

    log_variance_bounds: Bounds = None

    name: ClassVar[str] = "student-t"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self.log_variance_bounds)

    @property
    def parameter_size(self) -> int:
        return 3 * self.size

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, (bounded) log squared scale and degrees of freedom, each (..., D)."""
        mean, log_square, freedom = in_full_precision(parameters).chunk(3, dim=-1)
        log_square = bounded(log_square, self.log_variance_bounds)
        return mean, log_square, 2.0 + bounded(freedom + LOG_FREEDOM, LOG_FREEDOM_BOUNDS).exp()

    def log_densities(self, parameters: Tensor, value: Tensor, temperature: float = 1.0) -> Tensor:
        """log p of every number, nats, (..., D).

        Args:
            parameters: (..., parameter_size).
            value: (..., D); leading dimensions are broadcast.
            temperature: factor on the scales.
        """
        mean, log_square, freedom = self.parts(parameters)
        log_square = log_square + 2.0 * math.log(temperature)
        squared = (value - mean).square() * (-log_square).exp()
        tail = 0.5 * (freedom + 1.0) * (squared / freedom).log1p()
        return (
            _log_gamma_step(0.5 * freedom) - 0.5 * ((math.pi * freedom).log() + log_square) - tail
        )

    def log_prob(self, parameters: Tensor, value: Tensor, temperature: float = 1.0) -> Tensor:
        return self.log_densities(parameters, value, temperature).sum(-1)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        return sum_of_observed(self.log_densities(parameters, value), observed)

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        mean, log_square, freedom = self.parts(parameters)
        shrink = (dist.Chi2(freedom, validate_args=False).sample() / freedom).rsqrt()
        return mean + temperature * (0.5 * log_square).exp() * shrink * torch.randn_like(mean)

    def mean(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        del temperature
        return parameters[..., : self.size]


def _log_gamma_step(z: Tensor) -> Tensor:
    """log Gamma(z + 1/2) - log Gamma(z) for z > 0.

    Both logarithms grow as z log z and lose their difference in float32; from z = 32 on it is a
    series in 1 / z (Abramowitz and Stegun, 6.1.47), exact to 1e-13.
    """
    large = z.clamp(min=SERIES_FROM)
    inverse = large.reciprocal()
    square = inverse.square()
    series = inverse * (-1.0 / 8.0 + square * (1.0 / 192.0 - square / 640.0)) + 0.5 * large.log()
    small = z.clamp(max=SERIES_FROM)
    return series.where(z >= SERIES_FROM, (small + 0.5).lgamma() - small.lgamma())

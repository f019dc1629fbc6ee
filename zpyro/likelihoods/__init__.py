"""Likelihoods of one frame or token, given the numbers of the output layer.

Parameters have shape (..., parameter_size), values (...,) + event_shape, and log-probabilities
(...,), in nats.

Example:
    >>> likelihood = Gaussian(200, log_variance_bounds=(-14.0, 8.0))
    >>> parameters = torch.zeros(4, likelihood.parameter_size)
    >>> likelihood.log_prob(parameters, likelihood.sample(parameters)).shape
    torch.Size([4])
"""

from __future__ import annotations

from zpyro.likelihoods.base import LIKELIHOODS, Likelihood, build, register
from zpyro.likelihoods.discrete import Bernoulli, Categorical
from zpyro.likelihoods.gaussian import Gaussian, GaussianMixture
from zpyro.likelihoods.logistic import LogisticMixture
from zpyro.likelihoods.nade import NADE
from zpyro.likelihoods.student import StudentT

__all__ = [
    "LIKELIHOODS",
    "NADE",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "GaussianMixture",
    "Likelihood",
    "LogisticMixture",
    "StudentT",
    "build",
    "register",
]

for _cls in (Gaussian, GaussianMixture, Bernoulli, Categorical, NADE, LogisticMixture, StudentT):
    register(_cls)

"""The base class of models with a backward RNN: the two auxiliary terms of Z-Forcing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zpyro.models.base import SequenceModel
from zpyro.nn.layers import GaussianMLP, gaussian_log_density


class SmoothingModel(SequenceModel):
    """A sequence model whose posterior reads b_t, the states of an RNN that runs backward::

        auxiliary    b_t | z_t, context_t   ~ N(tanh mu_a, diag sigma_a^2)
        reverse      x_{t-1} | b_t          ~ p(x | f_r(b_t))

    (equations 7 and 8 of arXiv:1711.05411). Model and guide hold
    neither; :class:`zpyro.ZForcingELBO` adds both with weights.

    Attributes:
        auxiliary_network: from [context_t, z_t] to the Gaussian over b_t.
        reverse_output: from b_t to the likelihood's parameters of x_{t-1}.
        forced_auxiliary: predict b_t from z_t alone (the context is zeroed).
        squared_error_auxiliary: -||b_t - tanh mu_a||^2 in place of the auxiliary log-density.
    """

    has_backward_network = True

    auxiliary_network: GaussianMLP
    reverse_output: nn.Linear
    forced_auxiliary: bool = False
    squared_error_auxiliary: bool = False

    def auxiliary(self, future: Tensor, z: Tensor, context: Tensor) -> Tensor:
        given = torch.zeros_like(context) if self.forced_auxiliary else context
        mean, log_variance = self.auxiliary_network(torch.cat([given, z], dim=-1))
        target = future.detach()
        if self.squared_error_auxiliary:
            return -(target - mean.tanh()).square().sum(-1)
        return gaussian_log_density(target, mean.tanh(), log_variance).sum(-1)

    def reverse(self, future: Tensor, frames: Tensor, observed: Tensor | None = None) -> Tensor:
        parameters = self.reverse_output(future)
        if observed is None:
            return self.likelihood.log_prob(parameters, frames)
        return self.likelihood.observed_log_prob(parameters, frames, observed)

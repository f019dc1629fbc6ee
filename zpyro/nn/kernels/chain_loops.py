"""The loops over time of the fused latent chain, in torch.

:mod:`zpyro.nn.kernels.compiled` has the same two loops in C++.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zpyro.nn.kernels.fused_blocks import Gradient, activate, activation_slope
from zpyro.nn.layers import GAUSSIAN_BOUND


class ChainWeights(NamedTuple):
    """The matrices of the chain; the posterior's hidden layer comes first, then the prior's.

    M is the width of both hidden layers together. The unclamped outputs are [mean, log variance] or
    [mean, log variance, residual mean], R = 2Z or 3Z numbers.

    Attributes:
        from_latent: from z_{t-1} to the hidden layers, (M, Z).
        to_raw: from the hidden layers to the outputs, block-diagonal, (R, M).
        bias: (R,).
    """

    from_latent: Tensor
    to_raw: Tensor
    bias: Tensor


class ChainTape(NamedTuple):
    """Buffers that the forward loop fills for the backward loop.

    Attributes:
        activations: of the hidden layers before the clamp, (T, N, M); at first the part that does
            not depend on z.
        raw: the outputs before the clamp, (T, N, R).
        z: z_0..z_T, (T + 1, N, Z).
        noise: (T, N, Z).
        mean: of the posterior, (T, N, Z).
        log_variance: likewise.
    """

    activations: Tensor
    raw: Tensor
    z: Tensor
    noise: Tensor
    mean: Tensor
    log_variance: Tensor


class ChainOutputGradients(NamedTuple):
    """Gradients of the outputs of a path, time-major (T, N, Z); None for zeros."""

    z: Gradient
    mean: Gradient
    log_variance: Gradient


class ChainInputGradients(NamedTuple):
    """Results of the backward loop: gradients of

    Attributes:
        activations: the pre-activations of the hidden layers, (T, N, M).
        raw: the outputs before the clamp, (T, N, R).
        noise: (T, N, Z).
        first: z_0, (N, Z).
    """

    activations: Tensor
    raw: Tensor
    noise: Tensor
    first: Tensor


class TorchChain:
    """The loops as torch operations, on any device."""

    def forward(self, tape: ChainTape, weights: ChainWeights, posterior_width: int) -> None:
        """Fill the tape; z_0, the noise and the part that does not depend on z are set.

        Args:
            tape: the buffers.
            weights: the matrices.
            posterior_width: width of the posterior's hidden layer, at most M.
        """
        del posterior_width
        size = tape.noise.shape[-1]
        into_hidden, into_raw = weights.from_latent.t(), weights.to_raw.t()
        for t in range(len(tape.noise)):
            linear = torch.addmm(tape.activations[t], tape.z[t], into_hidden)
            active = activate(linear, tape.activations[t])
            torch.addmm(weights.bias, active, into_raw, out=tape.raw[t])
            parts = tape.raw[t].clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND).split(size, dim=-1)
            tape.mean[t] = parts[0] if len(parts) == 2 else parts[0] + parts[2]
            tape.log_variance[t] = parts[1]
            deviation = (0.5 * parts[1]).exp_()
            torch.addcmul(tape.mean[t], deviation, tape.noise[t], out=tape.z[t + 1])

    def backward(
        self,
        tape: ChainTape,
        weights: ChainWeights,
        posterior_width: int,
        grad_outputs: ChainOutputGradients,
    ) -> ChainInputGradients:
        """The sequential part of the derivative."""
        del posterior_width
        noise, raw, size = tape.noise, tape.raw, tape.noise.shape[-1]
        grad_z, grad_mean, grad_log_variance = (
            torch.zeros_like(noise) if part is None else part for part in grad_outputs
        )
        inside = (raw.abs() <= GAUSSIAN_BOUND).to(raw.dtype)
        deviation = (0.5 * tape.log_variance).exp_()
        spread = 0.5 * deviation * noise
        d_activations = activation_slope(tape.activations)
        d_raw, d_noise = torch.empty_like(raw), torch.empty_like(noise)
        running = torch.zeros_like(noise[0])
        for t in reversed(range(len(noise))):
            total = running + grad_z[t]
            torch.mul(total, deviation[t], out=d_noise[t])
            d_mean = total + grad_mean[t]
            parts = [d_mean, total * spread[t] + grad_log_variance[t], d_mean]
            joined = torch.cat(parts[: raw.shape[-1] // size], dim=-1)
            torch.mul(joined, inside[t], out=d_raw[t])
            d_activations[t] *= d_raw[t] @ weights.to_raw
            running = d_activations[t] @ weights.from_latent
        return ChainInputGradients(d_activations, d_raw, d_noise, running)

"""The loop over time in which only z feeds back: q(z_t | z_{t-1}, a_t) of the SRNN.

Both networks are MLPs of z_{t-1} and of inputs that are known before the loop; the linear maps of
these inputs are computed for all steps at once. :func:`plain` is the readable loop. :func:`fused`
computes the same path as one autograd function, with two small products per step and direction and
one product per weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zpyro.nn import recurrence
from zpyro.nn.kernels.fused_blocks import (
    Gradient,
    activate,
    activation_slope,
    clamped,
    weight_gradient,
)
from zpyro.nn.layers import GAUSSIAN_BOUND, GaussianMLP

Chain = Callable[
    [GaussianMLP, GaussianMLP | None, Tensor, Tensor, Tensor, Tensor],
    tuple[Tensor, Tensor, Tensor],
]


def plain(
    posterior: GaussianMLP,
    prior: GaussianMLP | None,
    future: Tensor,
    input_features: Tensor,
    noise: Tensor,
    first: Tensor,
    into_next: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample a path step by step, in the order of the equations.

    Args:
        posterior: network from [z_{t-1}, a_t] to mean and log variance of z_t.
        prior: network from [z_{t-1}, d_t] whose mean is added; None for no residual.
        future: a_1..a_T, (B, T, H).
        input_features: d_1..d_T, (B, T, H).
        noise: standard normal noise, (N, T, Z) with N = K B for K particles, particles outermost.
        first: z_0, (N, Z).
        into_next: applied to z_t before it enters the next step; the identity by default.

    Returns:
        z, posterior mean and log variance, each (N, T, Z).
    """
    particles = noise.shape[0] // future.shape[0]
    future, input_features = (part.repeat(particles, 1, 1) for part in (future, input_features))
    entering, paths = first, list[tuple[Tensor, Tensor, Tensor]]()
    for t in range(noise.shape[1]):
        mean, log_variance = posterior(torch.cat([entering, future[:, t]], dim=-1))
        if prior is not None:
            mean = mean + prior(torch.cat([entering, input_features[:, t]], dim=-1))[0]
        z = mean + (0.5 * log_variance).exp() * noise[:, t]
        entering = z if into_next is None else into_next(z)
        paths.append((z, mean, log_variance))
    z, mean, log_variance = (torch.stack(step, dim=1) for step in zip(*paths, strict=True))
    return z, mean, log_variance


def fused(
    posterior: GaussianMLP,
    prior: GaussianMLP | None,
    future: Tensor,
    input_features: Tensor,
    noise: Tensor,
    first: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same path as one autograd function. Arguments as in :func:`plain`.

    The gradient cannot be differentiated again.
    """
    size = noise.shape[-1]
    networks = [(posterior, future)] + ([] if prior is None else [(prior, input_features)])
    known, from_latent, to_raw, biases = [], [], [], []
    for network, states in networks:
        latent_part, state_part = network.hidden.weight.tensor_split([size], dim=1)
        known.append(torch.nn.functional.linear(states, state_part, network.hidden.bias))
        from_latent.append(latent_part)
        # Only the mean of the prior is used.
        rows = slice(None) if network is posterior else slice(size)
        to_raw.append(network.output.weight[rows])
        biases.append(network.output.bias[rows])
    dtype = posterior.output.weight.dtype
    with torch.autocast(noise.device.type, enabled=False):
        path = ChainPath.apply(
            torch.cat(known, dim=-1).to(dtype).transpose(0, 1).contiguous(),
            noise.to(dtype).transpose(0, 1).contiguous(),
            first.to(dtype),
            torch.cat(from_latent),
            torch.block_diag(*to_raw),
            torch.cat(biases),
        )
    z, mean, log_variance = (part.transpose(0, 1) for part in path)
    return z, mean, log_variance


class ChainPath(torch.autograd.Function):
    """z, posterior mean and log variance, time-major (T, N, Z).

    M is the total width of the hidden layers. The unclamped outputs of the networks in ``raw`` are
    [mean, log variance] or [mean, log variance, residual mean], R = 2Z or 3Z numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        known: Tensor,
        noise: Tensor,
        first: Tensor,
        from_latent: Tensor,
        to_raw: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample a path.

        Args:
            ctx: of autograd.
            known: the part of the hidden layers that does not depend on z, (T, B, M).
            noise: (T, N, Z).
            first: z_0, (N, Z).
            from_latent: from z_{t-1} to the hidden layers, (M, Z).
            to_raw: from the hidden layers to the outputs, (R, M).
            bias: (R,).
        """
        ctx.set_materialize_grads(False)
        steps, rows, size = noise.shape
        particles = rows // known.shape[1]
        activations = noise.new_empty(steps, rows, known.shape[-1])
        raw = noise.new_empty(steps, rows, len(bias))
        z = noise.new_empty(steps + 1, rows, size)
        mean, log_variance = torch.empty_like(noise), torch.empty_like(noise)
        z[0] = first
        into_hidden, into_raw = from_latent.t(), to_raw.t()
        for t in range(steps):
            linear = torch.addmm(known[t].repeat(particles, 1), z[t], into_hidden)
            active = activate(linear, activations[t])
            torch.addmm(bias, active, into_raw, out=raw[t])
            parts = raw[t].clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND).split(size, dim=-1)
            mean[t] = parts[0] if len(parts) == 2 else parts[0] + parts[2]
            log_variance[t] = parts[1]
            torch.addcmul(mean[t], (0.5 * parts[1]).exp_(), noise[t], out=z[t + 1])
        ctx.particles = particles
        ctx.save_for_backward(noise, activations, raw, z, from_latent, to_raw)
        return z[1:], mean, log_variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Gradient) -> tuple[Gradient, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the arguments of ``forward``, from those of z, mean and log variance."""
        noise, activations, raw, z, from_latent, to_raw = ctx.saved_tensors
        steps, _, size = noise.shape
        grad_z, grad_mean, grad_log_variance = (
            torch.zeros_like(noise) if part is None else part for part in grad_outputs
        )
        inside = (raw.abs() <= GAUSSIAN_BOUND).to(raw.dtype)
        log_variance = raw[..., size : 2 * size].clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND)
        deviation = (0.5 * log_variance).exp_()
        spread = 0.5 * deviation * noise
        d_activations = activation_slope(activations)
        d_raw, d_noise = torch.empty_like(raw), torch.empty_like(noise)
        running = torch.zeros_like(noise[0])
        for t in reversed(range(steps)):
            total = running + grad_z[t]
            torch.mul(total, deviation[t], out=d_noise[t])
            d_mean = total + grad_mean[t]
            parts = [d_mean, total * spread[t] + grad_log_variance[t], d_mean]
            joined = torch.cat(parts[: raw.shape[-1] // size], dim=-1)
            torch.mul(joined, inside[t], out=d_raw[t])
            d_activations[t] *= d_raw[t] @ to_raw
            running = d_activations[t] @ from_latent
        d_known = d_activations.unflatten(1, (ctx.particles, -1)).sum(1)
        return (
            d_known,
            d_noise,
            running,
            weight_gradient(d_activations, z[:-1], noise.dtype),
            weight_gradient(d_raw, clamped(activations), noise.dtype),
            d_raw.sum((0, 1)),
        )


def choose(name: str) -> Chain:
    """The loop for a name of :data:`zpyro.nn.recurrence.RECURRENCES`, or "auto".

    Raises:
        ValueError: if there is none of that name.
    """
    recurrence.choose(name)
    return plain if name == "plain" else fused

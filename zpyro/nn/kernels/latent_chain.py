"""The loop over time in which only z feeds back: q(z_t | z_{t-1}, a_t) of the SRNN.

Both networks are MLPs of z_{t-1} and of inputs that are known before the loop; the linear maps of
these inputs are computed for all steps at once. :func:`plain` is the readable loop. :func:`fused`
computes the same path as one autograd function, with two small products per step and direction and
one product per weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from zpyro.nn import recurrence
from zpyro.nn.kernels.chain_loops import (
    ChainOutputGradients,
    ChainTape,
    ChainWeights,
    TorchChain,
)
from zpyro.nn.kernels.compiled import CompiledChain
from zpyro.nn.kernels.fused_blocks import (
    Gradient,
    are_transforms_active,
    clamped,
    differentiable_gradients,
    weight_gradient,
)
from zpyro.nn.layers import GAUSSIAN_BOUND, GaussianMLP, clamped_leaky_relu

Chain = Callable[
    [GaussianMLP, GaussianMLP | None, Tensor, Tensor, Tensor, Tensor],
    tuple[Tensor, Tensor, Tensor],
]

_TORCH_CHAIN = TorchChain()


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
    loops: TorchChain = _TORCH_CHAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same path as one autograd function; within torch.func, as :func:`plain`.

    Arguments are as in :func:`plain`; ``loops`` runs the loops over time.
    """
    if are_transforms_active():
        return plain(posterior, prior, future, input_features, noise, first)
    size = noise.shape[-1]
    networks = [(posterior, future)] + ([] if prior is None else [(prior, input_features)])
    known, from_latent, to_raw, biases = [], [], [], []
    for network, states in networks:
        latent_part, state_part = network.hidden.weight.tensor_split([size], dim=1)
        known.append(linear(states, state_part, network.hidden.bias))
        from_latent.append(latent_part)
        # Only the mean of the prior is used.
        rows = slice(None) if network is posterior else slice(size)
        to_raw.append(network.output.weight[rows])
        biases.append(network.output.bias[rows])
    dtype = posterior.output.weight.dtype
    with torch.autocast(noise.device.type, enabled=False):
        path = ChainPath.apply(
            loops,
            posterior.hidden.out_features,
            torch.cat(known, dim=-1).to(dtype).transpose(0, 1).contiguous(),
            noise.to(dtype).transpose(0, 1).contiguous(),
            first.to(dtype),
            torch.cat(from_latent),
            torch.block_diag(*to_raw),
            torch.cat(biases),
        )
    z, mean, log_variance = (part.transpose(0, 1) for part in path)
    return z, mean, log_variance


def readable_path(
    known: Tensor, noise: Tensor, first: Tensor, *weights: Tensor
) -> tuple[Tensor, ...]:
    """What :class:`ChainPath` computes, in operations of torch; the same arguments."""
    matrices, size = ChainWeights(*weights), noise.shape[-1]
    activations, z = known.repeat(1, noise.shape[1] // known.shape[1], 1), first
    path: list[tuple[Tensor, ...]] = []
    for t in range(len(noise)):
        active = clamped_leaky_relu(activations[t] + linear(z, matrices.from_latent))
        raw = linear(active, matrices.to_raw, matrices.bias)
        mean, log_variance, *residual = raw.clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND).split(size, -1)
        mean = sum(residual, mean)
        z = mean + (0.5 * log_variance).exp() * noise[t]
        path.append((z, mean, log_variance))
    return tuple(torch.stack(part) for part in zip(*path, strict=True))


class ChainPath(torch.autograd.Function):
    """z, posterior mean and log variance, time-major (T, N, Z)."""

    @staticmethod
    def forward(
        ctx: Any,
        loops: TorchChain,
        posterior_width: int,
        known: Tensor,
        noise: Tensor,
        first: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample a path.

        Args:
            ctx: of autograd.
            loops: the loops over time.
            posterior_width: width of the posterior's hidden layer.
            known: the part of the hidden layers that does not depend on z, (T, B, M).
            noise: (T, N, Z).
            first: z_0, (N, Z).
            *weights: see :class:`~zpyro.nn.kernels.chain_loops.ChainWeights`.
        """
        ctx.set_materialize_grads(False)
        ctx.loops, ctx.posterior_width = loops, posterior_width
        matrices = ChainWeights(*weights)
        steps, rows, size = noise.shape
        ctx.particles = rows // known.shape[1]
        tape = ChainTape(
            activations=known.repeat(1, ctx.particles, 1),
            raw=noise.new_empty(steps, rows, len(matrices.bias)),
            z=noise.new_empty(steps + 1, rows, size),
            noise=noise,
            mean=torch.empty_like(noise),
            log_variance=torch.empty_like(noise),
        )
        tape.z[0] = first
        loops.forward(tape, matrices, posterior_width)
        ctx.save_for_backward(known, first, *tape, *weights)
        return tape.z[1:], tape.mean, tape.log_variance

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Gradient) -> tuple[Gradient, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the arguments of ``forward``, from those of z, mean and log variance."""
        known, first, *saved = ctx.saved_tensors
        count = len(ChainTape._fields)
        tape, weights = ChainTape(*saved[:count]), ChainWeights(*saved[count:])
        if torch.is_grad_enabled():
            inputs = known, tape.noise, first, *weights
            return None, None, *differentiable_gradients(readable_path, inputs, grad_outputs)
        gradients = ChainOutputGradients(*grad_outputs)
        loop = ctx.loops.backward(tape, weights, ctx.posterior_width, gradients)
        dtype = tape.noise.dtype
        return (
            *(None, None),
            loop.activations.unflatten(1, (ctx.particles, -1)).sum(1),
            loop.noise,
            loop.first,
            weight_gradient(loop.activations, tape.z[:-1], dtype),
            weight_gradient(loop.raw, clamped(tape.activations), dtype),
            loop.raw.sum((0, 1)),
        )


compiled: Chain = partial(fused, loops=CompiledChain())
"""As :func:`fused`, with its loops in C++ where possible, see :mod:`zpyro.nn.kernels.compiled`."""

_CHAINS: dict[str, Chain] = {"plain": plain, "fused": fused}


def choose(name: str) -> Chain:
    """The loop for a name of :data:`zpyro.nn.recurrence.RECURRENCES`, or "auto".

    Raises:
        ValueError: if there is none of that name.
    """
    recurrence.choose(name)
    return _CHAINS.get(name, compiled)

"""The fused recurrence of :class:`zpyro.nn.layers.LatentLSTM`: one autograd function.

It computes what :func:`zpyro.nn.recurrence.plain` computes, in another order:

- products that do not depend on the sampled z are computed for all steps before the loop (b_t into
  the posterior's hidden layer, e(x_{t-1}) into the gates),
- consecutive linear maps are one matrix (g into the gates),
- the loops (:mod:`zpyro.nn.kernels.lstm_loops`) contain only the sequential part; each weight
  gradient is one product over all N T rows after the backward loop.

Buffers are time-major, (T, N, ...), for N rows (sequences times particles).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from zpyro.nn.kernels.fused_blocks import (
    Gradient,
    PathGradients,
    clamped,
    differentiable_gradients,
    gaussian,
    multiply,
    noise_gradient,
    over_particles,
    project_into,
    weight_gradient,
)
from zpyro.nn.kernels.lstm_loops import Tape, TorchLoops, Weights
from zpyro.nn.layers import GaussianMLP, LatentLSTM, clamped_leaky_relu, lstm_update


def combined_weights(posterior: GaussianMLP, cell: LatentLSTM) -> Weights:
    """The matrices of the recurrence from the parameters, differentiable."""
    input_weight, hidden_weight, input_bias, hidden_bias = cell.lstm.all_weights[0]
    projection, size = cell.projection, cell.hidden_size
    sizes = [projection.out_features, input_weight.shape[1] - projection.out_features]
    from_latent, from_embedded = input_weight.split(sizes, dim=1)
    from_hidden, from_future = posterior.hidden.weight.tensor_split([size], dim=1)
    return Weights(
        hidden=from_hidden,
        future=from_future,
        hidden_bias=posterior.hidden.bias,
        output=posterior.output.weight,
        output_bias=posterior.output.bias,
        gates=torch.cat([hidden_weight, from_latent @ projection.weight], dim=1),
        embedded=from_embedded,
        gate_bias=torch.addmv(input_bias + hidden_bias, from_latent, projection.bias),
    )


def readable_path(
    future: Tensor, embedded: Tensor, noise: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor
) -> tuple[Tensor, ...]:
    """What :class:`LSTMPath` computes, step by step in operations of torch; the same arguments."""
    matrices, particles = Weights(*weights), noise.shape[1] // future.shape[1]
    activations = linear(future, matrices.future, matrices.hidden_bias).repeat(1, particles, 1)
    gates = linear(embedded, matrices.embedded, matrices.gate_bias).repeat(1, particles, 1)
    path: list[tuple[Tensor, ...]] = []
    for t in range(len(noise)):
        active = clamped_leaky_relu(activations[t] + linear(hidden, matrices.hidden))
        mean, log_variance = gaussian(linear(active, matrices.output, matrices.output_bias))
        z = mean + (0.5 * log_variance).exp() * noise[t]
        known = torch.cat([hidden, z], dim=-1)
        hidden, cell = lstm_update(gates[t] + linear(known, matrices.gates), cell)
        path.append((z, hidden, mean, log_variance))
    return *(torch.stack(part) for part in zip(*path, strict=True)), cell


class LSTMPath(torch.autograd.Function):
    """z, h, posterior mean and log variance (all time-major) and c_T, for :class:`LatentLSTM`."""

    @staticmethod
    def forward(
        ctx: Any,
        loops: TorchLoops,
        product_dtype: torch.dtype,
        future: Tensor,
        embedded: Tensor,
        noise: Tensor,
        hidden: Tensor,
        cell: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """Args: the loops, dtype of the products, inputs (time-major), first state, Weights."""
        ctx.set_materialize_grads(False)
        ctx.loops, ctx.product_dtype = loops, product_dtype
        matrices = Weights(*weights)
        steps, rows, latent = noise.shape
        size = hidden.shape[-1]
        tape = Tape(
            activations=noise.new_empty(steps, rows, len(matrices.hidden_bias)),
            gates=noise.new_empty(steps, rows, 4 * size),
            raw=noise.new_empty(steps, rows, 2 * latent),
            z=torch.empty_like(noise),
            noise=noise,
            hidden=noise.new_empty(steps + 1, rows, size),
            cell=noise.new_empty(steps + 1, rows, size),
        )
        tape.hidden[0], tape.cell[0] = hidden, cell
        known = (
            (tape.activations, future, matrices.future, matrices.hidden_bias),
            (tape.gates, embedded, matrices.embedded, matrices.gate_bias),
        )
        with torch.autocast(noise.device.type, enabled=False):
            for target, inputs, weight, bias in known:
                project_into(target, inputs, weight, bias, product_dtype)
            loops.forward(tape, matrices, product_dtype)
        ctx.save_for_backward(future, embedded, hidden, cell, *tape, *weights)
        return tape.z, tape.hidden[1:], *gaussian(tape.raw), tape.cell[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Gradient) -> tuple[Gradient, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the inputs, first state and Weights, from those of the outputs."""
        future, embedded, hidden, cell, *saved = ctx.saved_tensors
        count = len(Tape._fields)
        tape, weights = Tape(*saved[:count]), Weights(*saved[count:])
        if torch.is_grad_enabled():
            inputs = future, embedded, tape.noise, hidden, cell, *weights
            return None, None, *differentiable_gradients(readable_path, inputs, gradients)
        grad_outputs = PathGradients(*gradients)
        outer = partial(weight_gradient, product_dtype=ctx.product_dtype)
        times = partial(multiply, product_dtype=ctx.product_dtype)
        needs_future, needs_embedded, needs_noise = ctx.needs_input_grad[2:5]
        with torch.autocast(future.device.type, enabled=False):
            loop = ctx.loops.backward(tape, weights, grad_outputs, ctx.product_dtype)
            d_activations = over_particles(loop.activations, future.shape[1])
            d_gates = over_particles(loop.gates, future.shape[1])
            before = tape.hidden[:-1]
            d_weights = Weights(
                hidden=outer(loop.activations, before),
                future=outer(d_activations, future),
                hidden_bias=d_activations.sum((0, 1)),
                output=outer(loop.raw, clamped(tape.activations)),
                output_bias=loop.raw.sum((0, 1)),
                gates=torch.cat([outer(loop.gates, before), outer(loop.gates, tape.z)], dim=1),
                embedded=outer(d_gates, embedded),
                gate_bias=d_gates.sum((0, 1)),
            )
            d_noise = None
            if needs_noise:
                d_z = times(loop.gates, weights.gates[:, before.shape[-1] :])
                d_noise = noise_gradient(d_z, grad_outputs.z, tape.raw)
            return (
                *(None, None),
                times(d_activations, weights.future) if needs_future else None,
                times(d_gates, weights.embedded) if needs_embedded else None,
                *(d_noise, loop.hidden, loop.cell),
                *d_weights,
            )

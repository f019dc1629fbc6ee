"""The fused recurrence of :class:`zpyro.nn.layers.LatentLSTM`: one autograd function.

It computes what :func:`zpyro.nn.recurrence.plain` computes, in another order:

- what does not depend on the sampled z is one product for all steps before the loop (b_t into the
  posterior's hidden layer, e(x_{t-1}) into the gates),
- linear maps that follow each other are one matrix (g into the gates),
- the loops, forward and backward (:mod:`zpyro.nn.kernels.lstm_loops`), hold only what is sequential; each
  weight gradient is one product over all N T rows after them.

Buffers are time-major, (T, N, ...), for N rows (sequences times particles).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zpyro.nn.kernels.fused_blocks import (
    Gradient,
    PathGradients,
    clamped,
    gaussian,
    multiply,
    noise_gradient,
    over_particles,
    project_into,
    weight_gradient,
)
from zpyro.nn.kernels.lstm_loops import Loops, Tape, Weights
from zpyro.nn.layers import GaussianMLP, LatentLSTM, State


def combined_weights(posterior: GaussianMLP, cell: LatentLSTM) -> Weights:
    """The matrices of the recurrence from the parameters, differentiable."""
    input_weight, hidden_weight, input_bias, hidden_bias = cell.lstm.all_weights[0]
    projection, size = cell.projection, cell.hidden_size
    sizes = [projection.out_features, input_weight.shape[1] - projection.out_features]
    from_latent, from_embedded = input_weight.split(sizes, dim=1)
    from_hidden, from_backward = posterior.hidden.weight.tensor_split([size], dim=1)
    return Weights(
        hidden=from_hidden,
        backward=from_backward,
        hidden_bias=posterior.hidden.bias,
        output=posterior.output.weight,
        output_bias=posterior.output.bias,
        gates=torch.cat([hidden_weight, from_latent @ projection.weight], dim=1),
        embedded=from_embedded,
        gate_bias=torch.addmv(input_bias + hidden_bias, from_latent, projection.bias),
    )


class LSTMPath(torch.autograd.Function):
    """z, h, posterior mean and log variance (all time-major) and c_T, for :class:`LatentLSTM`."""

    @staticmethod
    def forward(
        ctx: Any,
        loops: Loops,
        product_type: torch.dtype,
        backward: Tensor,
        embedded: Tensor,
        noise: Tensor,
        hidden: Tensor,
        cell: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """Args: the loops, type of the products, inputs (time-major), first state, Weights."""
        ctx.set_materialize_grads(False)
        ctx.loops, ctx.product_type = loops, product_type
        with torch.autocast(noise.device.type, enabled=False):
            matrices = Weights(*weights)
            tape = _tape(backward, embedded, noise, (hidden, cell), matrices, product_type)
            loops.forward(tape, matrices, product_type)
        ctx.save_for_backward(backward, embedded, *tape, *weights)
        return tape.z, tape.hidden[1:], *gaussian(tape.raw), tape.cell[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Gradient) -> tuple[Gradient, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the inputs, first state and Weights, from those of the outputs."""
        backward, embedded, *saved = ctx.saved_tensors
        with torch.autocast(embedded.device.type, enabled=False):
            return _gradients(ctx, backward, embedded, saved, gradients)


def _tape(
    backward: Tensor,
    embedded: Tensor,
    noise: Tensor,
    state: State,
    weights: Weights,
    product_type: torch.dtype,
) -> Tape:
    """Every buffer, with what is known before the loop."""
    steps, rows, latent = noise.shape
    size = state[0].shape[-1]
    tape = Tape(
        activations=noise.new_empty(steps, rows, len(weights.hidden_bias)),
        gates=noise.new_empty(steps, rows, 4 * size),
        raw=noise.new_empty(steps, rows, 2 * latent),
        z=torch.empty_like(noise),
        noise=noise,
        hidden=noise.new_empty(steps + 1, rows, size),
        cell=noise.new_empty(steps + 1, rows, size),
    )
    project_into(tape.activations, backward, weights.backward, weights.hidden_bias, product_type)
    project_into(tape.gates, embedded, weights.embedded, weights.gate_bias, product_type)
    tape.hidden[0], tape.cell[0] = state
    return tape


def _gradients(
    ctx: Any, backward: Tensor, embedded: Tensor, saved: list[Tensor], outputs: tuple[Gradient, ...]
) -> tuple[Gradient, ...]:
    count = len(Tape._fields)
    tape, weights = Tape(*saved[:count]), Weights(*saved[count:])
    arriving = PathGradients(*outputs)
    loop = ctx.loops.backward(tape, weights, arriving, ctx.product_type)
    d_activations = over_particles(loop.activations, backward.shape[1])
    d_gates = over_particles(loop.gates, backward.shape[1])
    outer = partial(weight_gradient, product_type=ctx.product_type)
    times = partial(multiply, product_type=ctx.product_type)
    size = tape.hidden.shape[-1]
    d_weights = Weights(
        hidden=outer(loop.activations, tape.hidden[:-1]),
        backward=outer(d_activations, backward),
        hidden_bias=d_activations.sum((0, 1)),
        output=outer(loop.raw, clamped(tape.activations)),
        output_bias=loop.raw.sum((0, 1)),
        gates=torch.cat([outer(loop.gates, tape.hidden[:-1]), outer(loop.gates, tape.z)], dim=1),
        embedded=outer(d_gates, embedded),
        gate_bias=d_gates.sum((0, 1)),
    )
    needs_backward, needs_embedded, needs_noise = ctx.needs_input_grad[2:5]
    d_noise = None
    if needs_noise:
        d_z = times(loop.gates, weights.gates[:, size:])
        d_noise = noise_gradient(d_z, arriving.z, tape.raw)
    return (
        None,
        None,
        times(d_activations, weights.backward) if needs_backward else None,
        times(d_gates, weights.embedded) if needs_embedded else None,
        d_noise,
        loop.hidden,
        loop.cell,
        *d_weights,
    )

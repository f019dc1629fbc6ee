"""The fused recurrence of :class:`zpyro.nn.layers.ConditionalLayerNormLSTM`: one autograd function.

As :mod:`zpyro.nn.kernels.fused_lstm`, with three differences: the part of the gates that e(x_{t-1}) gives
comes in ready (its layer norm needs no z), W_hh h_{t-1} is normalized on its own, and z sets the
gain and bias of that through an MLP of two products more.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zpyro.nn.kernels.fused_blocks import (
    Gradient,
    PathGradients,
    Sampler,
    activate,
    activation_slope,
    clamped,
    gate_slopes,
    gaussian,
    lstm_step,
    lstm_step_backward_,
    multiply,
    noise_gradient,
    over_particles,
    project_into,
    reparameterization,
    running_cell_gradient,
    weight_gradient,
)
from zpyro.nn.kernels.products import prepare
from zpyro.nn.layers import (
    ACTIVATION_BOUND,
    LAYER_NORM_EPSILON,
    ConditionalLayerNormLSTM,
    GaussianMLP,
    State,
)


class Weights(NamedTuple):
    """The matrices of the recurrence; M and P the widths of the posterior and of z's MLP.

    Attributes:
        hidden: from h_{t-1} to the posterior's hidden layer, (M, H).
        backward: from b_t to the same, (M, H).
        hidden_bias: of the same, (M,).
        output: the posterior's output layer, (2Z, M).
        output_bias: (2Z,).
        latent: first layer of z's MLP, (P, Z).
        latent_bias: (P,).
        modulation: its second layer, (8H, P).
        modulation_bias: (8H,).
        recurrent: from h_{t-1} to the gates, (4H, H).
    """

    hidden: Tensor
    backward: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    latent: Tensor
    latent_bias: Tensor
    modulation: Tensor
    modulation_bias: Tensor
    recurrent: Tensor

    @classmethod
    def of(cls, posterior: GaussianMLP, cell: ConditionalLayerNormLSTM) -> Weights:
        """From the parameters, differentiable."""
        size = cell.hidden_size
        from_hidden, from_backward = posterior.hidden.weight.tensor_split([size], dim=1)
        return cls(
            hidden=from_hidden,
            backward=from_backward,
            hidden_bias=posterior.hidden.bias,
            output=posterior.output.weight,
            output_bias=posterior.output.bias,
            latent=cell.projection.hidden.weight,
            latent_bias=cell.projection.hidden.bias,
            modulation=cell.projection.output.weight,
            modulation_bias=cell.projection.output.bias,
            recurrent=cell.hidden_weight,
        )


class Tape(NamedTuple):
    """What the forward loop fills for the backward loop; P and M are widths as in Weights.

    Attributes:
        activations: of the posterior before their clamp, (T, N, M); before the loop what b_t gives.
        gates: after their sigmoid or tanh, (T, N, 4H); before the loop what e(x_{t-1}) gives.
        normalized: W_hh h_{t-1} after its layer norm, (T, N, 4H).
        scale: what it was multiplied by in that, (T, N, 1).
        latent: activations of z's MLP before their clamp, (T, N, P).
        modulation: its outputs before their clamp, (T, N, 8H).
        raw: the posterior's mean and log variance before their clamp, (T, N, 2Z).
        z: (T, N, Z).
        noise: (T, N, Z).
        hidden: h_0..h_T, (T + 1, N, H).
        cell: c_0..c_T, (T + 1, N, H).
    """

    activations: Tensor
    gates: Tensor
    normalized: Tensor
    scale: Tensor
    latent: Tensor
    modulation: Tensor
    raw: Tensor
    z: Tensor
    noise: Tensor
    hidden: Tensor
    cell: Tensor


class LayerNormPath(torch.autograd.Function):
    """As :class:`zpyro.nn.kernels.fused_lstm.LSTMPath`, for :class:`ConditionalLayerNormLSTM`."""

    @staticmethod
    def forward(
        ctx: Any,
        product_type: torch.dtype,
        backward: Tensor,
        input_gates: Tensor,
        noise: Tensor,
        hidden: Tensor,
        cell: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """Args: type of the products, inputs (time-major), first state, Weights."""
        ctx.set_materialize_grads(False)
        ctx.product_type = product_type
        with torch.autocast(noise.device.type, enabled=False):
            matrices = Weights(*weights)
            tape = _tape(backward, input_gates, noise, (hidden, cell), matrices, product_type)
            _forward_loop(tape, matrices, product_type)
        ctx.save_for_backward(backward, *tape, *weights)
        return tape.z, tape.hidden[1:], *gaussian(tape.raw), tape.cell[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Gradient) -> tuple[Gradient, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the inputs, first state and Weights, from those of the outputs."""
        backward, *saved = ctx.saved_tensors
        with torch.autocast(backward.device.type, enabled=False):
            return _gradients(ctx, backward, saved, gradients)


def _tape(
    backward: Tensor,
    input_gates: Tensor,
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
        normalized=noise.new_empty(steps, rows, 4 * size),
        scale=noise.new_empty(steps, rows, 1),
        latent=noise.new_empty(steps, rows, len(weights.latent_bias)),
        modulation=noise.new_empty(steps, rows, 8 * size),
        raw=noise.new_empty(steps, rows, 2 * latent),
        z=torch.empty_like(noise),
        noise=noise,
        hidden=noise.new_empty(steps + 1, rows, size),
        cell=noise.new_empty(steps + 1, rows, size),
    )
    project_into(tape.activations, backward, weights.backward, weights.hidden_bias, product_type)
    tape.gates.unflatten(1, (-1, backward.shape[1])).copy_(input_gates.unsqueeze(1))
    tape.hidden[0], tape.cell[0] = state
    return tape


def _forward_loop(tape: Tape, weights: Weights, product_type: torch.dtype) -> None:
    steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
    make = partial(prepare, rows=rows, uses=steps, dtype=product_type)
    from_hidden, to_recurrent = make(weights.hidden), make(weights.recurrent)
    to_raw = make(weights.output, bias=weights.output_bias)
    from_latent = make(weights.latent, bias=weights.latent_bias)
    to_modulation = make(weights.modulation, bias=weights.modulation_bias)
    sampler = Sampler(tape.raw[0])
    bounded = torch.empty_like(tape.modulation[0])
    gain, bias = bounded.chunk(2, dim=-1)
    views = (
        *(tape.activations, tape.raw, tape.noise, tape.z),
        *(tape.latent, tape.modulation, tape.normalized, tape.scale),
        *(tape.gates, tape.gates[..., : 2 * size], *tape.gates.chunk(4, dim=-1)),
        *(tape.hidden[:-1], tape.cell[:-1], tape.hidden[1:], tape.cell[1:]),
    )
    # One tuple of views for every step, made at once: slicing costs as much as computing.
    for step in zip(*(view.unbind() for view in views), strict=True):
        activation, raw, noise, z, latent, modulation, normalized, scale, *rest = step
        entered, *gates, h, c, new_h, new_c = rest
        active = activate(from_hidden.add(h, activation), activation)
        sampler.draw(to_raw(active), raw, noise, z)
        modulation.copy_(to_modulation(activate(from_latent(z), latent)))
        torch.clamp(modulation, -ACTIVATION_BOUND, ACTIVATION_BOUND, out=bounded)
        recurrent = to_recurrent(h)
        variance, center = torch.var_mean(recurrent, dim=-1, keepdim=True)
        torch.rsqrt(variance.add_(LAYER_NORM_EPSILON), out=scale)
        torch.sub(recurrent, center, out=normalized).mul_(scale)
        linear = (entered + normalized).addcmul_(normalized, gain).add_(bias)
        lstm_step(linear, gates, c, new_c, new_h)


class LoopGradients(NamedTuple):
    """What the backward loop gives.

    Attributes:
        activations: at the linear part of the posterior's hidden layer, (T, N, M).
        gates: at the linear part of the gates, (T, N, 4H).
        recurrent: at W_hh h_{t-1}, (T, N, 4H).
        latent: at the linear part of the first layer of z's MLP, (T, N, P).
        modulation: at its outputs before their clamp, (T, N, 8H).
        raw: at the posterior's mean and log variance before their clamp, (T, N, 2Z).
        hidden: at h_0.
        cell: at c_0.
    """

    activations: Tensor
    gates: Tensor
    recurrent: Tensor
    latent: Tensor
    modulation: Tensor
    raw: Tensor
    hidden: Tensor
    cell: Tensor


def _backward_loop(
    tape: Tape, weights: Weights, arriving: PathGradients, product_type: torch.dtype
) -> LoopGradients:
    """The sequential part of the derivative; see :class:`zpyro.nn.kernels.lstm_loops.Loops`."""
    steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
    make = partial(prepare, rows=rows, uses=steps, dtype=product_type)
    to_active, to_latent = make(weights.output.t()), make(weights.modulation.t())
    to_z, through_gates = make(weights.latent.t()), make(weights.recurrent.t())
    through_posterior = make(weights.hidden.t())
    # All derivatives that do not need the running gradient, for all steps at once.
    activations, gates = activation_slope(tape.activations), torch.empty_like(tape.gates)
    to_cell = gate_slopes(tape.gates, tape.cell, gates)
    latent = activation_slope(tape.latent)
    modulation = (tape.modulation.abs() <= ACTIVATION_BOUND).to(gates.dtype)
    modulation[..., : 4 * size] *= tape.normalized
    recurrent = (1.0 + clamped(tape.modulation[..., : 4 * size])) * tape.scale
    d_hidden = torch.zeros_like(tape.hidden[0])
    d_cell = running_cell_gradient(arriving, tape.cell)
    draws = reparameterization(tape.raw, tape.noise, arriving)
    views = (
        *(activations, gates, gates[..., : 3 * size].unflatten(-1, (3, size))),
        *(gates[..., 3 * size :], tape.gates[..., size : 2 * size], to_cell),
        *(draws.constant, draws.constant.flatten(2), draws.factor),
        *(latent, modulation, modulation.unflatten(-1, (2, 4 * size)), recurrent),
        *(tape.normalized, tape.hidden[:-1] if arriving.hidden is None else arriving.hidden),
    )
    for step in reversed(list(zip(*(view.unbind() for view in views), strict=True))):
        activation, gate, into_cell, shown, kept, to_c, pair, d_raw, factor, *rest = step
        slope, both, gain_and_bias, gain, normalized, outside = rest
        if arriving.hidden is not None:
            d_hidden.add_(outside)
        lstm_step_backward_((into_cell, shown), kept, to_c, d_hidden, d_cell)
        gain_and_bias.mul_(gate.unsqueeze(1))
        slope.mul_(to_latent(both))
        pair.addcmul_(factor, to_z(slope).unsqueeze(1))
        activation.mul_(to_active(d_raw))
        _layer_norm_backward_(gain.mul_(gate), normalized)
        d_hidden = through_posterior.add(activation, through_gates(gain))
    raw = draws.constant.flatten(2)
    return LoopGradients(activations, gates, recurrent, latent, modulation, raw, d_hidden, d_cell)


def _layer_norm_backward_(gradient: Tensor, normalized: Tensor) -> None:
    """From the gradient at the normalized values, times their scale, to that of what they were.

    Args:
        gradient: (N, F), changed in place.
        normalized: values with mean 0 and unbiased variance 1, (N, F).
    """
    along = (gradient * normalized).sum(-1, keepdim=True).div_(1 - gradient.shape[-1])
    gradient.sub_(gradient.mean(-1, keepdim=True)).addcmul_(normalized, along)


def _gradients(
    ctx: Any, backward: Tensor, saved: list[Tensor], outputs: tuple[Gradient, ...]
) -> tuple[Gradient, ...]:
    count = len(Tape._fields)
    tape, weights = Tape(*saved[:count]), Weights(*saved[count:])
    arriving = PathGradients(*outputs)
    loop = _backward_loop(tape, weights, arriving, ctx.product_type)
    d_activations = over_particles(loop.activations, backward.shape[1])
    outer = partial(weight_gradient, product_type=ctx.product_type)
    times = partial(multiply, product_type=ctx.product_type)
    d_weights = Weights(
        hidden=outer(loop.activations, tape.hidden[:-1]),
        backward=outer(d_activations, backward),
        hidden_bias=d_activations.sum((0, 1)),
        output=outer(loop.raw, clamped(tape.activations)),
        output_bias=loop.raw.sum((0, 1)),
        latent=outer(loop.latent, tape.z),
        latent_bias=loop.latent.sum((0, 1)),
        modulation=outer(loop.modulation, clamped(tape.latent)),
        modulation_bias=loop.modulation.sum((0, 1)),
        recurrent=outer(loop.recurrent, tape.hidden[:-1]),
    )
    needs_backward, _, needs_noise = ctx.needs_input_grad[1:4]
    d_noise = None
    if needs_noise:
        d_noise = noise_gradient(times(loop.latent, weights.latent), arriving.z, tape.raw)
    return (
        None,
        times(d_activations, weights.backward) if needs_backward else None,
        over_particles(loop.gates, backward.shape[1]),
        d_noise,
        loop.hidden,
        loop.cell,
        *d_weights,
    )

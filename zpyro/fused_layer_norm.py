"""The fused recurrence of :class:`zpyro.networks.ConditionalLayerNormLSTM`: one autograd function.

As :mod:`zpyro.fused_lstm`, with three differences: the part of the gates that e(x_{t-1}) gives
comes in ready (its layer norm needs no z), W_hh h_{t-1} is normalised on its own, and z sets the
gain and bias of that through an MLP of two products more.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zpyro.fused_blocks import (
    Reparametrisation,
    activation_slope,
    clamped,
    gate_slopes,
    gaussian,
    leaky_relu_,
    linear,
    lstm_step_,
    lstm_step_backward_,
    multiply,
    multiply_add,
    over_particles,
    posterior_step_,
    reparametrisation,
    weight_gradient,
)
from zpyro.networks import (
    ACTIVATION_BOUND,
    GAUSSIAN_BOUND,
    LAYER_NORM_EPSILON,
    ConditionalLayerNormLSTM,
    GaussianMLP,
    State,
)

Gradient = Tensor | None


class Weights(NamedTuple):
    """The matrices of the recurrence; M and P the widths of the posterior and of z's MLP.

    Attributes:
        hidden: from h_{t-1} to the posterior's hidden layer and the gates, (M + 4H, H).
        output: the posterior's output layer, (2Z, M).
        output_bias: (2Z,).
        latent: first layer of z's MLP, (P, Z).
        latent_bias: (P,).
        modulation: its second layer, (8H, P).
        modulation_bias: (8H,).
        backward: from b_t to the posterior's hidden layer, (M, H).
        backward_bias: (M,).
    """

    hidden: Tensor
    output: Tensor
    output_bias: Tensor
    latent: Tensor
    latent_bias: Tensor
    modulation: Tensor
    modulation_bias: Tensor
    backward: Tensor
    backward_bias: Tensor

    @property
    def width(self) -> int:
        """M, of the posterior's hidden layer."""
        return self.output.shape[1]

    @classmethod
    def of(cls, posterior: GaussianMLP, cell: ConditionalLayerNormLSTM) -> Weights:
        """From the parameters, differentiable."""
        size = cell.hidden_size
        from_hidden, from_backward = posterior.hidden.weight.split([size, size], dim=1)
        return cls(
            hidden=torch.cat([from_hidden, cell.hidden_weight]),
            output=posterior.output.weight,
            output_bias=posterior.output.bias,
            latent=cell.projection.hidden.weight,
            latent_bias=cell.projection.hidden.bias,
            modulation=cell.projection.output.weight,
            modulation_bias=cell.projection.output.bias,
            backward=from_backward,
            backward_bias=posterior.hidden.bias,
        )

    def to(self, dtype: torch.dtype) -> Weights:
        """The matrices (not the biases) in another type."""
        return Weights(*(part.to(dtype) if part.dim() == 2 else part for part in self))


class Tape(NamedTuple):
    """What the forward loop fills for the backward loop; before it the buffers hold the biases.

    Attributes:
        projected: the posterior's activations before their clamp and W_hh h_{t-1} normalised,
            (T, N, M + 4H).
        scale: what W_hh h_{t-1} was divided by to normalise it, inverted, (T, N, 1).
        gates: after their sigmoid or tanh, (T, N, 4H).
        latent: activations of z's MLP before their clamp, (T, N, P).
        modulation: its outputs before their clamp, (T, N, 8H).
        raw: the posterior's mean and log variance before their clamp, (T, N, 2Z).
        z: (T, N, Z).
        noise: (T, N, Z).
        hidden: h_0..h_T, (T + 1, N, H).
        cell: c_0..c_T, (T + 1, N, H).
    """

    projected: Tensor
    scale: Tensor
    gates: Tensor
    latent: Tensor
    modulation: Tensor
    raw: Tensor
    z: Tensor
    noise: Tensor
    hidden: Tensor
    cell: Tensor


class LayerNormPath(torch.autograd.Function):
    """As :class:`zpyro.fused_lstm.LSTMPath`, for :class:`ConditionalLayerNormLSTM`."""

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
            matrices = Weights(*weights).to(product_type)
            tape = _tape(backward, input_gates, noise, (hidden, cell), matrices)
            _forward_loop(tape, matrices)
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
    backward: Tensor, input_gates: Tensor, noise: Tensor, state: State, weights: Weights
) -> Tape:
    """Every buffer, with what is known before the loop."""
    steps, sequences = backward.shape[:2]
    rows, latent = noise.shape[1:]
    projected = noise.new_zeros(steps, rows, len(weights.hidden))
    gates = noise.new_empty(steps, rows, input_gates.shape[-1])
    # Projected once a sequence, then repeated for every particle.
    activations = projected[..., : weights.width].unflatten(1, (-1, sequences))
    activations.copy_(linear(backward, weights.backward, weights.backward_bias).unsqueeze(1))
    gates.unflatten(1, (-1, sequences)).copy_(input_gates.unsqueeze(1))
    tape = Tape(
        projected=projected,
        scale=noise.new_empty(steps, rows, 1),
        gates=gates,
        latent=weights.latent_bias.repeat(steps, rows, 1),
        modulation=weights.modulation_bias.repeat(steps, rows, 1),
        raw=weights.output_bias.repeat(steps, rows, 1),
        z=noise.new_empty(steps, rows, latent),
        noise=noise,
        hidden=noise.new_empty(steps + 1, rows, state[0].shape[-1]),
        cell=noise.new_empty(steps + 1, rows, state[1].shape[-1]),
    )
    tape.hidden[0], tape.cell[0] = state
    return tape


def _forward_loop(tape: Tape, weights: Weights) -> None:
    from_hidden, output = weights.hidden.t(), weights.output.t()
    from_latent, to_modulation = weights.latent.t(), weights.modulation.t()
    size = tape.hidden.shape[-1]
    bounded = torch.empty_like(tape.raw[0])
    mean, log_variance = bounded.chunk(2, dim=-1)
    modulation = torch.empty_like(tape.modulation[0])
    gain, bias = modulation.chunk(2, dim=-1)
    views = (
        *(tape.projected, tape.projected[..., : weights.width], tape.raw, tape.noise, tape.z),
        *(tape.latent, tape.modulation, tape.projected[..., weights.width :], tape.scale),
        *(tape.gates, tape.gates[..., : 2 * size], *tape.gates.chunk(4, dim=-1)),
        *(tape.hidden[:-1], tape.cell[:-1], tape.hidden[1:], tape.cell[1:]),
    )
    # One tuple of views for every step, made at once: slicing costs as much as computing.
    for step in zip(*(view.unbind() for view in views), strict=True):
        row, activation, raw, noise, z, latent, raw_modulation, recurrent, scale, *rest = step
        gate, sigmoids, i, f, g, o, h, c, new_h, new_c = rest
        multiply_add(row, h, from_hidden)
        posterior_step_(activation, raw, output)
        torch.clamp(raw, -GAUSSIAN_BOUND, GAUSSIAN_BOUND, out=bounded)
        torch.addcmul(mean, log_variance.mul_(0.5).exp_(), noise, out=z)
        multiply_add(latent, z, from_latent)
        leaky_relu_(latent)
        multiply_add(raw_modulation, clamped(latent), to_modulation)
        torch.clamp(raw_modulation, -ACTIVATION_BOUND, ACTIVATION_BOUND, out=modulation)
        variance, centre = torch.var_mean(recurrent, dim=-1, keepdim=True)
        torch.rsqrt(variance.add_(LAYER_NORM_EPSILON), out=scale)
        recurrent.sub_(centre).mul_(scale)
        gate.add_(recurrent).addcmul_(recurrent, gain).add_(bias)
        lstm_step_(sigmoids, (i, f, g, o), c, new_c, new_h)


class LoopGradients(NamedTuple):
    """What the backward loop gives.

    Attributes:
        projected: at W h_{t-1} and b_t's part, (T, N, M + 4H).
        gates: at the gates' linear parts, (T, N, 4H).
        latent: at the first layer of z's MLP, (T, N, P).
        modulation: at its outputs, (T, N, 8H).
        hidden: at h_0.
        cell: at c_0.
    """

    projected: Tensor
    gates: Tensor
    latent: Tensor
    modulation: Tensor
    hidden: Tensor
    cell: Tensor


def _backward_loop(
    tape: Tape, weights: Weights, draws: Reparametrisation, hidden: Gradient, cell: Gradient
) -> LoopGradients:
    """Arguments as in :meth:`zpyro.fused_lstm.Loops.backward`."""
    width, size = weights.width, tape.hidden.shape[-1]
    # All derivatives that do not need the running gradient, for all steps at once.
    projected, gates = torch.empty_like(tape.projected), torch.empty_like(tape.gates)
    projected[..., :width] = activation_slope(tape.projected[..., :width])
    to_cell = gate_slopes(tape.gates, tape.cell, gates)
    latent = activation_slope(tape.latent)
    normalised = tape.projected[..., width:]
    modulation = (tape.modulation.abs() <= ACTIVATION_BOUND).to(gates.dtype)
    modulation[..., : 4 * size] *= normalised
    scale = (1.0 + clamped(tape.modulation[..., : 4 * size])) * tape.scale
    views = (
        *(projected, projected[..., :width], projected[..., width:], normalised, scale, gates),
        *(gates[..., : 3 * size].unflatten(-1, (3, size)), gates[..., 3 * size :]),
        *(tape.gates[..., size : 2 * size], to_cell, latent, modulation),
        *(modulation.unflatten(-1, (2, 4 * size)), draws.constant, draws.constant.flatten(2)),
        *(draws.factor, tape.hidden[:-1] if hidden is None else hidden),
    )
    d_hidden = torch.zeros_like(tape.hidden[0])
    d_cell = torch.zeros_like(tape.cell[0]) if cell is None else cell.clone()
    for step in reversed(list(zip(*(view.unbind() for view in views), strict=True))):
        row, slope, recurrent, normal, gain, gate, into_cell, shown, f, to_c, *rest = step
        latent_slope, d_modulation, modulation_pair, d_pair, d_raw, factor, outside = rest
        if hidden is not None:
            d_hidden.add_(outside)
        lstm_step_backward_((into_cell, shown), f, to_c, d_hidden, d_cell)
        modulation_pair.mul_(gate.unsqueeze(1))
        latent_slope.mul_(multiply(d_modulation, weights.modulation))
        d_pair.addcmul_(factor, multiply(latent_slope, weights.latent).unsqueeze(1))
        slope.mul_(multiply(d_raw, weights.output))
        _layer_norm_backward(gate * gain, normal, recurrent)
        d_hidden = multiply(row, weights.hidden)
    return LoopGradients(projected, gates, latent, modulation, d_hidden, d_cell)


def _layer_norm_backward(scaled: Tensor, normalised: Tensor, out: Tensor) -> None:
    """Write the gradient at what was normalised, (N, F).

    Args:
        scaled: gradient at the normalised values, times what they were multiplied by.
        normalised: the normalised values; their variance is the unbiased one.
        out: where the gradient goes.
    """
    along = (scaled * normalised).sum(-1, keepdim=True) / -(scaled.shape[-1] - 1)
    torch.sub(scaled, scaled.mean(-1, keepdim=True), out=out).addcmul_(normalised, along)


def _gradients(
    ctx: Any, backward: Tensor, saved: list[Tensor], outputs: tuple[Gradient, ...]
) -> tuple[Gradient, ...]:
    count = len(Tape._fields)
    tape, weights = Tape(*saved[:count]), Weights(*saved[count:])
    matrices, width = weights.to(ctx.product_type), weights.width
    d_z, d_hidden, d_mean, d_log_variance, d_cell = outputs
    draws = reparametrisation(tape.raw, tape.noise, d_z, d_mean, d_log_variance)
    loop = _backward_loop(tape, matrices, draws, d_hidden, d_cell)
    d_raw = draws.constant.flatten(2)
    d_activations = over_particles(loop.projected[..., :width], backward.shape[1])
    needs_backward, _, needs_noise = ctx.needs_input_grad[1:4]
    d_noise = None
    if needs_noise:
        total = multiply(loop.latent, matrices.latent)
        d_noise = (total if d_z is None else total + d_z) * draws.deviation
    outer = partial(weight_gradient, product_type=ctx.product_type)
    d_weights = Weights(
        hidden=outer(loop.projected, tape.hidden[:-1]),
        output=outer(d_raw, clamped(tape.projected[..., :width])),
        output_bias=d_raw.sum((0, 1)),
        latent=outer(loop.latent, tape.z),
        latent_bias=loop.latent.sum((0, 1)),
        modulation=outer(loop.modulation, clamped(tape.latent)),
        modulation_bias=loop.modulation.sum((0, 1)),
        backward=outer(d_activations, backward),
        backward_bias=d_activations.sum((0, 1)),
    )
    return (
        None,
        multiply(d_activations, matrices.backward) if needs_backward else None,
        over_particles(loop.gates, backward.shape[1]),
        d_noise,
        loop.hidden,
        loop.cell,
        *d_weights,
    )

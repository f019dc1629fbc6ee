"""The fused recurrence of :class:`zpyro.nn.layers.ConditionalLayerNormLSTM`: one autograd function.

As :mod:`zpyro.nn.kernels.fused_lstm`, with three differences: the part of the gates from e(x_{t-1})
is an input (its layer norm does not depend on z), W_hh h_{t-1} is normalized separately, and an MLP
with two more products computes its gain and bias from z.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from zpyro.nn.kernels.fused_blocks import (
    Gradient,
    PathGradients,
    Sampler,
    activate,
    activation_slope,
    clamped,
    differentiable_gradients,
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
    clamped_leaky_relu,
    layer_norm,
    lstm_update,
)


class Weights(NamedTuple):
    """The matrices of the recurrence; M and P are the widths of the posterior and of z's MLP.

    Attributes:
        hidden: from h_{t-1} to the posterior's hidden layer, (M, H).
        future: from b_t to the posterior's hidden layer, (M, H).
        hidden_bias: (M,).
        output: the posterior's output layer, (2Z, M).
        output_bias: (2Z,).
        latent: first layer of z's MLP, (P, Z).
        latent_bias: (P,).
        modulation: its second layer, (8H, P).
        modulation_bias: (8H,).
        recurrent: from h_{t-1} to the gates, (4H, H).
    """

    hidden: Tensor
    future: Tensor
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
        from_hidden, from_future = posterior.hidden.weight.tensor_split([size], dim=1)
        return cls(
            hidden=from_hidden,
            future=from_future,
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
    """Buffers that the forward loop fills for the backward loop; P and M as in :class:`Weights`.

    Attributes:
        activations: of the posterior before the clamp, (T, N, M); at first the part from b_t.
        gates: activated, (T, N, 4H); at first the pre-activations' part from e(x_{t-1}).
        normalized: W_hh h_{t-1} after its layer norm, (T, N, 4H).
        scale: reciprocal standard deviation of the layer norm, (T, N, 1).
        latent: activations of z's MLP before the clamp, (T, N, P).
        modulation: outputs of z's MLP before the clamp, (T, N, 8H).
        raw: the posterior's mean and log variance before the clamp, (T, N, 2Z).
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


def readable_path(
    future: Tensor,
    input_gates: Tensor,
    noise: Tensor,
    hidden: Tensor,
    cell: Tensor,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    """What :class:`LayerNormPath` computes, in operations of torch; the same arguments."""
    matrices, particles = Weights(*weights), noise.shape[1] // future.shape[1]
    activations = linear(future, matrices.future, matrices.hidden_bias).repeat(1, particles, 1)
    gates = input_gates.repeat(1, particles, 1)
    path: list[tuple[Tensor, ...]] = []
    for t in range(len(noise)):
        active = clamped_leaky_relu(activations[t] + linear(hidden, matrices.hidden))
        mean, log_variance = gaussian(linear(active, matrices.output, matrices.output_bias))
        z = mean + (0.5 * log_variance).exp() * noise[t]
        latent = clamped_leaky_relu(linear(z, matrices.latent, matrices.latent_bias))
        modulation = clamped(linear(latent, matrices.modulation, matrices.modulation_bias))
        gain, bias = modulation.chunk(2, dim=-1)
        recurrent = layer_norm(linear(hidden, matrices.recurrent))
        hidden, cell = lstm_update(gates[t] + recurrent * (1.0 + gain) + bias, cell)
        path.append((z, hidden, mean, log_variance))
    return *(torch.stack(part) for part in zip(*path, strict=True)), cell


class LayerNormPath(torch.autograd.Function):
    """As :class:`zpyro.nn.kernels.fused_lstm.LSTMPath`, for :class:`ConditionalLayerNormLSTM`."""

    @staticmethod
    def forward(
        ctx: Any,
        product_dtype: torch.dtype,
        future: Tensor,
        input_gates: Tensor,
        noise: Tensor,
        hidden: Tensor,
        cell: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        """Args: dtype of the products, inputs (time-major), first state, Weights."""
        ctx.set_materialize_grads(False)
        ctx.product_dtype = product_dtype
        matrices = Weights(*weights)
        steps, rows, latent = noise.shape
        size = hidden.shape[-1]
        tape = Tape(
            activations=noise.new_empty(steps, rows, len(matrices.hidden_bias)),
            gates=noise.new_empty(steps, rows, 4 * size),
            normalized=noise.new_empty(steps, rows, 4 * size),
            scale=noise.new_empty(steps, rows, 1),
            latent=noise.new_empty(steps, rows, len(matrices.latent_bias)),
            modulation=noise.new_empty(steps, rows, 8 * size),
            raw=noise.new_empty(steps, rows, 2 * latent),
            z=torch.empty_like(noise),
            noise=noise,
            hidden=noise.new_empty(steps + 1, rows, size),
            cell=noise.new_empty(steps + 1, rows, size),
        )
        tape.hidden[0], tape.cell[0] = hidden, cell
        tape.gates.unflatten(1, (-1, future.shape[1])).copy_(input_gates.unsqueeze(1))
        known = tape.activations, future, matrices.future, matrices.hidden_bias
        with torch.autocast(noise.device.type, enabled=False):
            project_into(*known, product_dtype)
            _forward_loop(tape, matrices, product_dtype)
        ctx.save_for_backward(future, input_gates, hidden, cell, *tape, *weights)
        return tape.z, tape.hidden[1:], *gaussian(tape.raw), tape.cell[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Gradient) -> tuple[Gradient, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of the inputs, first state and Weights, from those of the outputs."""
        future, input_gates, hidden, cell, *saved = ctx.saved_tensors
        count = len(Tape._fields)
        tape, weights = Tape(*saved[:count]), Weights(*saved[count:])
        if torch.is_grad_enabled():
            inputs = future, input_gates, tape.noise, hidden, cell, *weights
            return None, *differentiable_gradients(readable_path, inputs, gradients)
        grad_outputs = PathGradients(*gradients)
        outer = partial(weight_gradient, product_dtype=ctx.product_dtype)
        times = partial(multiply, product_dtype=ctx.product_dtype)
        needs_future, _, needs_noise = ctx.needs_input_grad[1:4]
        with torch.autocast(future.device.type, enabled=False):
            loop = _backward_loop(tape, weights, grad_outputs, ctx.product_dtype)
            d_activations = over_particles(loop.activations, future.shape[1])
            d_weights = Weights(
                hidden=outer(loop.activations, tape.hidden[:-1]),
                future=outer(d_activations, future),
                hidden_bias=d_activations.sum((0, 1)),
                output=outer(loop.raw, clamped(tape.activations)),
                output_bias=loop.raw.sum((0, 1)),
                latent=outer(loop.latent, tape.z),
                latent_bias=loop.latent.sum((0, 1)),
                modulation=outer(loop.modulation, clamped(tape.latent)),
                modulation_bias=loop.modulation.sum((0, 1)),
                recurrent=outer(loop.recurrent, tape.hidden[:-1]),
            )
            d_noise = None
            if needs_noise:
                d_z = times(loop.latent, weights.latent)
                d_noise = noise_gradient(d_z, grad_outputs.z, tape.raw)
            return (
                None,
                times(d_activations, weights.future) if needs_future else None,
                over_particles(loop.gates, future.shape[1]),
                *(d_noise, loop.hidden, loop.cell),
                *d_weights,
            )


def _forward_loop(tape: Tape, weights: Weights, product_dtype: torch.dtype) -> None:
    steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
    make = partial(prepare, rows=rows, uses=steps, dtype=product_dtype)
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
    # The views of all steps are made at once: slicing costs as much as computing.
    for step in zip(*(view.unbind() for view in views), strict=True):
        activation, raw, noise, z, latent, modulation, normalized, scale, *rest = step
        input_gates, *gates, h, c, new_h, new_c = rest
        active = activate(from_hidden.add(h, activation), activation)
        sampler.sample(to_raw(active), raw, noise, z)
        modulation.copy_(to_modulation(activate(from_latent(z), latent)))
        torch.clamp(modulation, -ACTIVATION_BOUND, ACTIVATION_BOUND, out=bounded)
        recurrent = to_recurrent(h)
        variance, center = torch.var_mean(recurrent, dim=-1, keepdim=True)
        torch.rsqrt(variance.add_(LAYER_NORM_EPSILON), out=scale)
        torch.sub(recurrent, center, out=normalized).mul_(scale)
        linear = (input_gates + normalized).addcmul_(normalized, gain).add_(bias)
        lstm_step(linear, gates, c, new_c, new_h)


class LoopGradients(NamedTuple):
    """Results of the backward loop: gradients of

    Attributes:
        activations: the pre-activations of the posterior's hidden layer, (T, N, M).
        gates: the pre-activations of the gates, (T, N, 4H).
        recurrent: W_hh h_{t-1}, (T, N, 4H).
        latent: the pre-activations of the hidden layer of z's MLP, (T, N, P).
        modulation: the outputs of z's MLP before the clamp, (T, N, 8H).
        raw: the posterior's mean and log variance before the clamp, (T, N, 2Z).
        hidden: h_0, (N, H).
        cell: c_0, (N, H).
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
    tape: Tape, weights: Weights, grad_outputs: PathGradients, product_dtype: torch.dtype
) -> LoopGradients:
    """The sequential part of the derivative."""
    steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
    make = partial(prepare, rows=rows, uses=steps, dtype=product_dtype)
    to_active, to_latent = make(weights.output.t()), make(weights.modulation.t())
    to_z, through_gates = make(weights.latent.t()), make(weights.recurrent.t())
    through_posterior = make(weights.hidden.t())
    # Derivatives that do not need the running gradient are computed for all steps at once.
    activations, gates = activation_slope(tape.activations), torch.empty_like(tape.gates)
    to_cell = gate_slopes(tape.gates, tape.cell, gates)
    latent = activation_slope(tape.latent)
    modulation = (tape.modulation.abs() <= ACTIVATION_BOUND).to(gates.dtype)
    modulation[..., : 4 * size] *= tape.normalized
    recurrent = (1.0 + clamped(tape.modulation[..., : 4 * size])) * tape.scale
    d_hidden = torch.zeros_like(tape.hidden[0])
    d_cell = running_cell_gradient(grad_outputs, tape.cell)
    factor, constant = reparameterization(tape.raw, tape.noise, grad_outputs)
    raw = constant.flatten(2)
    views = (
        *(activations, gates, gates[..., : 3 * size].unflatten(-1, (3, size))),
        *(gates[..., 3 * size :], tape.gates[..., size : 2 * size], to_cell),
        *(constant, raw, factor),
        *(latent, modulation, modulation.unflatten(-1, (2, 4 * size)), recurrent),
        tape.normalized,
        tape.hidden[:-1] if grad_outputs.hidden is None else grad_outputs.hidden,
    )
    for step in reversed(list(zip(*(view.unbind() for view in views), strict=True))):
        activation, gate, gate_ifg, gate_o, f, to_c, pair, d_raw, d_raw_d_z, *rest = step
        slope, both, gain_and_bias, gain, normalized, direct = rest
        if grad_outputs.hidden is not None:
            d_hidden.add_(direct)
        lstm_step_backward_((gate_ifg, gate_o), f, to_c, d_hidden, d_cell)
        gain_and_bias.mul_(gate.unsqueeze(1))
        slope.mul_(to_latent(both))
        pair.addcmul_(d_raw_d_z, to_z(slope).unsqueeze(1))
        activation.mul_(to_active(d_raw))
        _layer_norm_backward_(gain.mul_(gate), normalized)
        d_hidden = through_posterior.add(activation, through_gates(gain))
    return LoopGradients(activations, gates, recurrent, latent, modulation, raw, d_hidden, d_cell)


def _layer_norm_backward_(gradient: Tensor, normalized: Tensor) -> None:
    """The gradient of the input of a layer norm.

    Args:
        gradient: (N, F), that of the normalized values times their scale; changed in place.
        normalized: values with mean 0 and unbiased variance 1, (N, F).
    """
    along = (gradient * normalized).sum(-1, keepdim=True).div_(1 - gradient.shape[-1])
    gradient.sub_(gradient.mean(-1, keepdim=True)).addcmul_(normalized, along)

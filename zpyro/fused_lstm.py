"""The fused recurrence of :class:`zpyro.networks.LatentLSTM`: one autograd function.

It computes what :func:`zpyro.recurrence.plain` computes, in another order:

- what does not depend on the sampled z is one product for all steps before the loop (b_t into the
  posterior's hidden layer, e(x_{t-1}) into the gates),
- linear maps that follow each other are one matrix (g into the gates), and those that read the same
  h_{t-1} are one product (the posterior's hidden layer and the gates),
- the backward loop holds only the products that are sequential; each weight gradient is one product
  over all N T rows after it.

Buffers are time-major; a row of ``projected`` is [posterior hidden layer (M), gates i f g o (4H)],
R = M + 4H numbers.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zpyro.fused_blocks import (
    Reparametrisation,
    activation_slope,
    clamped,
    gate_slopes,
    gaussian,
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
from zpyro.networks import GAUSSIAN_BOUND, GaussianMLP, LatentLSTM, State

Gradient = Tensor | None


class Weights(NamedTuple):
    """The matrices of the recurrence.

    Attributes:
        hidden: from h_{t-1} to the posterior's hidden layer and the gates, (R, H).
        latent: from z_t to the gates, (4H, Z).
        output: the posterior's output layer, (2Z, M).
        output_bias: (2Z,).
        backward: from b_t to the posterior's hidden layer, (M, H).
        embedded: from e(x_{t-1}) to the gates, (4H, E).
        bias: of the posterior's hidden layer and the gates, (R,).
    """

    hidden: Tensor
    latent: Tensor
    output: Tensor
    output_bias: Tensor
    backward: Tensor
    embedded: Tensor
    bias: Tensor

    @property
    def width(self) -> int:
        """M, of the posterior's hidden layer."""
        return self.output.shape[1]

    @classmethod
    def of(cls, posterior: GaussianMLP, cell: LatentLSTM) -> Weights:
        """From the parameters, differentiable."""
        input_weight, hidden_weight, input_bias, hidden_bias = cell.lstm.all_weights[0]
        projection = cell.projection
        sizes = [projection.out_features, input_weight.shape[1] - projection.out_features]
        from_latent, from_embedded = input_weight.split(sizes, dim=1)
        size = cell.hidden_size
        from_hidden, from_backward = posterior.hidden.weight.split([size, size], dim=1)
        gate_bias = torch.addmv(input_bias + hidden_bias, from_latent, projection.bias)
        return cls(
            hidden=torch.cat([from_hidden, hidden_weight]),
            latent=from_latent @ projection.weight,
            output=posterior.output.weight,
            output_bias=posterior.output.bias,
            backward=from_backward,
            embedded=from_embedded,
            bias=torch.cat([posterior.hidden.bias, gate_bias]),
        )

    def to(self, dtype: torch.dtype) -> Weights:
        """The matrices (not the biases) in another type."""
        return Weights(*(part.to(dtype) if part.dim() == 2 else part for part in self))


class Tape(NamedTuple):
    """What the forward loop fills for the backward loop.

    Attributes:
        projected: before the loop what enters each step from outside; after it the posterior's
            activations before their clamp, and the gates after their sigmoid or tanh, (T, N, R).
        raw: the posterior's mean and log variance before their clamp, (T, N, 2Z); before the loop
            their bias.
        z: (T, N, Z).
        noise: (T, N, Z).
        hidden: h_0..h_T, (T + 1, N, H).
        cell: c_0..c_T, (T + 1, N, H).
    """

    projected: Tensor
    raw: Tensor
    z: Tensor
    noise: Tensor
    hidden: Tensor
    cell: Tensor


class Loops(Protocol):
    """The two loops over time; what is around them is the same whoever runs them."""

    def forward(self, tape: Tape, weights: Weights) -> None:
        """Fill the tape, of which only ``projected``, ``noise`` and the first state are set."""
        ...

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        draws: Reparametrisation,
        hidden: Gradient,
        cell: Gradient,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of ``projected`` before the loop (T, N, R), and of h_0 and c_0.

        Args:
            tape: as the forward loop left it.
            weights: as in the forward loop.
            draws: gradients at the posterior's output; ``constant`` becomes the complete one.
            hidden: gradient at h_1..h_T from outside, (T, N, H).
            cell: gradient at c_T from outside, (N, H).
        """
        ...


class TorchLoops:
    """The loops as torch operations; no step makes an object it need not."""

    def forward(self, tape: Tape, weights: Weights) -> None:
        width, size = weights.width, tape.hidden.shape[-1]
        from_hidden, from_latent = weights.hidden.t(), weights.latent.t()
        output = weights.output.t()
        bounded = torch.empty_like(tape.raw[0])
        mean, log_variance = bounded.chunk(2, dim=-1)
        activations, gates = tape.projected.split([width, 4 * size], dim=-1)
        entered, kept, candidates, shown = gates.chunk(4, dim=-1)
        views = (
            *(tape.projected, activations, tape.raw, tape.noise, tape.z, gates),
            *(gates[..., : 2 * size], entered, kept, candidates, shown),
            *(tape.hidden[:-1], tape.cell[:-1], tape.hidden[1:], tape.cell[1:]),
        )
        # One tuple of views for every step, made at once: slicing costs as much as computing.
        for step in zip(*(view.unbind() for view in views), strict=True):
            row, activation, raw, noise, z, gate, sigmoids, i, f, g, o, h, c, new_h, new_c = step
            multiply_add(row, h, from_hidden)
            posterior_step_(activation, raw, output)
            torch.clamp(raw, -GAUSSIAN_BOUND, GAUSSIAN_BOUND, out=bounded)
            torch.addcmul(mean, log_variance.mul_(0.5).exp_(), noise, out=z)
            multiply_add(gate, z, from_latent)
            lstm_step_(sigmoids, (i, f, g, o), c, new_c, new_h)

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        draws: Reparametrisation,
        hidden: Gradient,
        cell: Gradient,
    ) -> tuple[Tensor, Tensor, Tensor]:
        width, size = weights.width, tape.hidden.shape[-1]
        # All derivatives that do not need the running gradient, for all steps at once.
        projected = torch.empty_like(tape.projected)
        slopes, gates = projected.split([width, 4 * size], dim=-1)
        slopes.copy_(activation_slope(tape.projected[..., :width]))
        to_cell = gate_slopes(tape.projected[..., width:], tape.cell, gates)
        kept = tape.projected[..., width + size : width + 2 * size]
        views = (
            *(projected, slopes, gates, gates[..., : 3 * size].unflatten(-1, (3, size))),
            *(gates[..., 3 * size :], kept, to_cell, draws.constant, draws.constant.flatten(2)),
            *(draws.factor, tape.hidden[:-1] if hidden is None else hidden),
        )
        d_hidden = torch.zeros_like(tape.hidden[0])
        d_cell = torch.zeros_like(tape.cell[0]) if cell is None else cell.clone()
        for step in reversed(list(zip(*(view.unbind() for view in views), strict=True))):
            row, slope, gate, into_cell, shown, f, to_c, d_pair, d_raw, factor, outside = step
            if hidden is not None:
                d_hidden.add_(outside)
            lstm_step_backward_((into_cell, shown), f, to_c, d_hidden, d_cell)
            d_pair.addcmul_(factor, multiply(gate, weights.latent).unsqueeze(1))
            slope.mul_(multiply(d_raw, weights.output))
            d_hidden = multiply(row, weights.hidden)
        return projected, d_hidden, d_cell


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
        """Args: loops, type of the products, inputs (time-major), first state, Weights."""
        ctx.set_materialize_grads(False)
        ctx.loops, ctx.product_type = loops, product_type
        with torch.autocast(noise.device.type, enabled=False):
            tape = _tape(backward, embedded, noise, (hidden, cell), Weights(*weights), product_type)
            loops.forward(tape, Weights(*weights).to(product_type))
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
    steps, sequences = backward.shape[:2]
    rows, latent = noise.shape[1:]
    projected = noise.new_empty(steps, rows, len(weights.bias))
    # Projected once a sequence, then repeated for every particle.
    particles = projected.view(steps, rows // sequences, sequences, -1)
    hidden_bias, gate_bias = weights.bias.split([weights.width, len(weights.embedded)])
    activations, gates = particles.split([weights.width, len(weights.embedded)], dim=-1)
    matrices = weights.to(product_type)
    activations.copy_(linear(backward, matrices.backward, hidden_bias).unsqueeze(1))
    gates.copy_(linear(embedded, matrices.embedded, gate_bias).unsqueeze(1))
    tape = Tape(
        projected=projected,
        raw=weights.output_bias.repeat(steps, rows, 1),
        z=noise.new_empty(steps, rows, latent),
        noise=noise,
        hidden=noise.new_empty(steps + 1, rows, state[0].shape[-1]),
        cell=noise.new_empty(steps + 1, rows, state[1].shape[-1]),
    )
    tape.hidden[0], tape.cell[0] = state
    return tape


def _gradients(
    ctx: Any, backward: Tensor, embedded: Tensor, saved: list[Tensor], outputs: tuple[Gradient, ...]
) -> tuple[Gradient, ...]:
    tape, weights = Tape(*saved[:6]), Weights(*saved[6:])
    matrices, width = weights.to(ctx.product_type), weights.width
    d_z, d_hidden, d_mean, d_log_variance, d_cell = outputs
    draws = reparametrisation(tape.raw, tape.noise, d_z, d_mean, d_log_variance)
    rows, d_first_hidden, d_first_cell = ctx.loops.backward(tape, matrices, draws, d_hidden, d_cell)
    d_raw = draws.constant.flatten(2)
    shared = over_particles(rows, backward.shape[1])
    d_activations, d_gates = shared[..., :width], shared[..., width:]
    needs_backward, needs_embedded, needs_noise = ctx.needs_input_grad[2:5]
    d_noise = None
    if needs_noise:
        total = multiply(rows[..., width:], matrices.latent)
        d_noise = (total if d_z is None else total + d_z) * draws.deviation
    outer = partial(weight_gradient, product_type=ctx.product_type)
    d_weights = Weights(
        hidden=outer(rows, tape.hidden[:-1]),
        latent=outer(rows[..., width:], tape.z),
        output=outer(d_raw, clamped(tape.projected[..., :width])),
        output_bias=d_raw.sum((0, 1)),
        backward=outer(d_activations, backward),
        embedded=outer(d_gates, embedded),
        bias=shared.sum((0, 1)),
    )
    return (
        None,
        None,
        multiply(d_activations, matrices.backward) if needs_backward else None,
        multiply(d_gates, matrices.embedded) if needs_embedded else None,
        d_noise,
        d_first_hidden,
        d_first_cell,
        *d_weights,
    )

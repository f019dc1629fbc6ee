"""The loops over time of the fused LSTM recurrence, as torch operations.

They take three products a step, forward and backward, and every derivative that needs no running
gradient is taken for all steps at once. :mod:`zpyro.nn.kernels.compiled` has the same two loops in C++.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from zpyro.nn.kernels.fused_blocks import (
    PathGradients,
    Sampler,
    activate,
    activation_slope,
    gate_slopes,
    lstm_step,
    lstm_step_backward_,
    reparameterization,
    running_cell_gradient,
)
from zpyro.nn.kernels.products import prepare


class Weights(NamedTuple):
    """The matrices of the recurrence; M the width of the posterior's hidden layer.

    Attributes:
        hidden: from h_{t-1} to the posterior's hidden layer, (M, H).
        backward: from b_t to the same, (M, H).
        hidden_bias: of the same, (M,).
        output: the posterior's output layer, (2Z, M).
        output_bias: (2Z,).
        gates: from [h_{t-1}, z_t] to the gates, (4H, H + Z).
        embedded: from e(x_{t-1}) to the gates, (4H, E).
        gate_bias: (4H,).
    """

    hidden: Tensor
    backward: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    gates: Tensor
    embedded: Tensor
    gate_bias: Tensor


class Tape(NamedTuple):
    """What the forward loop fills for the backward loop.

    Attributes:
        activations: of the posterior before their clamp, (T, N, M); before the loop what b_t gives.
        gates: after their sigmoid or tanh, (T, N, 4H); before the loop what e(x_{t-1}) gives.
        raw: the posterior's mean and log variance before their clamp, (T, N, 2Z).
        z: (T, N, Z).
        noise: (T, N, Z).
        hidden: h_0..h_T, (T + 1, N, H).
        cell: c_0..c_T, (T + 1, N, H).
    """

    activations: Tensor
    gates: Tensor
    raw: Tensor
    z: Tensor
    noise: Tensor
    hidden: Tensor
    cell: Tensor


class LoopGradients(NamedTuple):
    """What the backward loop gives.

    Attributes:
        activations: at the linear part of the posterior's hidden layer, (T, N, M).
        gates: at the linear part of the gates, (T, N, 4H).
        raw: at the posterior's mean and log variance before their clamp, (T, N, 2Z).
        hidden: at h_0, (N, H).
        cell: at c_0, (N, H).
    """

    activations: Tensor
    gates: Tensor
    raw: Tensor
    hidden: Tensor
    cell: Tensor


class Loops(Protocol):
    """The two loops; all around them is the same, whoever runs them."""

    def forward(self, tape: Tape, weights: Weights, product_type: torch.dtype) -> None:
        """Fill the tape, of which h_0, c_0, the noise and what enters from outside are set."""
        ...

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        arriving: PathGradients,
        product_type: torch.dtype,
    ) -> LoopGradients:
        """The sequential part of the derivative, from the gradients at the path."""
        ...


class TorchLoops:
    """The loops as torch operations, on any device and in any precision."""

    def forward(self, tape: Tape, weights: Weights, product_type: torch.dtype) -> None:
        steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
        make = partial(prepare, rows=rows, uses=steps, dtype=product_type)
        from_hidden = make(weights.hidden)
        to_raw = make(weights.output, bias=weights.output_bias)
        to_gates = make(weights.gates)
        sampler = Sampler(tape.raw[0])
        views = (
            *(tape.activations, tape.raw, tape.noise, tape.z),
            *(tape.gates, tape.gates[..., : 2 * size], *tape.gates.chunk(4, dim=-1)),
            *(tape.hidden[:-1], tape.cell[:-1], tape.hidden[1:], tape.cell[1:]),
        )
        # One tuple of views for every step, made at once: slicing costs as much as computing.
        for step in zip(*(view.unbind() for view in views), strict=True):
            activation, raw, noise, z, entered, *gates, h, c, new_h, new_c = step
            active = activate(from_hidden.add(h, activation), activation)
            sampler.draw(to_raw(active), raw, noise, z)
            linear = to_gates.add(torch.cat([h, z], dim=-1), entered)
            lstm_step(linear, gates, c, new_c, new_h)

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        arriving: PathGradients,
        product_type: torch.dtype,
    ) -> LoopGradients:
        steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
        make = partial(prepare, rows=rows, uses=steps, dtype=product_type)
        to_joined = make(weights.gates.t())
        to_active = make(weights.output.t())
        to_hidden = make(weights.hidden.t())
        # All derivatives that do not need the running gradient, for all steps at once.
        activations, gates = activation_slope(tape.activations), torch.empty_like(tape.gates)
        to_cell = gate_slopes(tape.gates, tape.cell, gates)
        d_hidden = torch.zeros_like(tape.hidden[0])
        d_cell = running_cell_gradient(arriving, tape.cell)
        draws = reparameterization(tape.raw, tape.noise, arriving)
        views = (
            *(activations, gates, gates[..., : 3 * size].unflatten(-1, (3, size))),
            *(gates[..., 3 * size :], tape.gates[..., size : 2 * size], to_cell),
            *(draws.constant, draws.constant.flatten(2), draws.factor),
            tape.hidden[:-1] if arriving.hidden is None else arriving.hidden,
        )
        for step in reversed(list(zip(*(view.unbind() for view in views), strict=True))):
            activation, gate, into_cell, shown, kept, to_c, pair, raw, factor, outside = step
            if arriving.hidden is not None:
                d_hidden.add_(outside)
            lstm_step_backward_((into_cell, shown), kept, to_c, d_hidden, d_cell)
            through_gates, d_z = to_joined(gate).split([size, factor.shape[-1]], dim=-1)
            pair.addcmul_(factor, d_z.unsqueeze(1))
            activation.mul_(to_active(raw))
            d_hidden = to_hidden.add(activation, through_gates)
        return LoopGradients(activations, gates, draws.constant.flatten(2), d_hidden, d_cell)

"""The loops over time of the fused LSTM recurrence, in torch and as CUDA graphs.

Each step takes three products, forward and backward. Derivatives that do not need the running
gradient are computed for all steps at once. :mod:`zpyro.nn.kernels.compiled` has the same two loops
in C++.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from zpyro.nn.kernels.cuda_graph import TOLERANCE, GraphedCallable, Tensors, can_capture
from zpyro.nn.kernels.fused_blocks import (
    Gradient,
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
    """The matrices of the recurrence; M is the width of the posterior's hidden layer.

    Attributes:
        hidden: from h_{t-1} to the posterior's hidden layer, (M, H).
        future: from b_t to the posterior's hidden layer, (M, H).
        hidden_bias: (M,).
        output: the posterior's output layer, (2Z, M).
        output_bias: (2Z,).
        gates: from [h_{t-1}, z_t] to the gates, (4H, H + Z).
        embedded: from e(x_{t-1}) to the gates, (4H, E).
        gate_bias: (4H,).
    """

    hidden: Tensor
    future: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    gates: Tensor
    embedded: Tensor
    gate_bias: Tensor


class Tape(NamedTuple):
    """Buffers that the forward loop fills for the backward loop.

    Attributes:
        activations: of the posterior before the clamp, (T, N, M); at first the part from b_t.
        gates: activated, (T, N, 4H); at first the pre-activations' part from e(x_{t-1}).
        raw: the posterior's mean and log variance before the clamp, (T, N, 2Z).
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
    """Results of the backward loop: gradients of

    Attributes:
        activations: the pre-activations of the posterior's hidden layer, (T, N, M).
        gates: the pre-activations of the gates, (T, N, 4H).
        raw: the posterior's mean and log variance before the clamp, (T, N, 2Z).
        hidden: h_0, (N, H).
        cell: c_0, (N, H).
    """

    activations: Tensor
    gates: Tensor
    raw: Tensor
    hidden: Tensor
    cell: Tensor


class TorchLoops:
    """The loops as torch operations, on any device and in any precision."""

    def forward(self, tape: Tape, weights: Weights, product_dtype: torch.dtype) -> None:
        """Fill the tape; h_0, c_0, the noise and the parts from b_t and e(x_{t-1}) are set."""
        steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
        make = partial(prepare, rows=rows, uses=steps, dtype=product_dtype)
        from_hidden = make(weights.hidden)
        to_raw = make(weights.output, bias=weights.output_bias)
        to_gates = make(weights.gates)
        sampler = Sampler(tape.raw[0])
        views = (
            *(tape.activations, tape.raw, tape.noise, tape.z),
            *(tape.gates, tape.gates[..., : 2 * size], *tape.gates.chunk(4, dim=-1)),
            *(tape.hidden[:-1], tape.cell[:-1], tape.hidden[1:], tape.cell[1:]),
        )
        # The views of all steps are made at once: slicing costs as much as computing.
        for step in zip(*(view.unbind() for view in views), strict=True):
            activation, raw, noise, z, input_gates, *gates, h, c, new_h, new_c = step
            active = activate(from_hidden.add(h, activation), activation)
            sampler.sample(to_raw(active), raw, noise, z)
            linear = to_gates.add(torch.cat([h, z], dim=-1), input_gates)
            lstm_step(linear, gates, c, new_c, new_h)

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        grad_outputs: PathGradients,
        product_dtype: torch.dtype,
    ) -> LoopGradients:
        """The sequential part of the derivative."""
        steps, rows, size = tape.z.shape[0], tape.z.shape[1], tape.hidden.shape[-1]
        make = partial(prepare, rows=rows, uses=steps, dtype=product_dtype)
        to_hidden_and_z = make(weights.gates.t())
        to_active = make(weights.output.t())
        to_hidden = make(weights.hidden.t())
        activations, gates = activation_slope(tape.activations), torch.empty_like(tape.gates)
        to_cell = gate_slopes(tape.gates, tape.cell, gates)
        d_hidden = torch.zeros_like(tape.hidden[0])
        d_cell = running_cell_gradient(grad_outputs, tape.cell)
        factor, constant = reparameterization(tape.raw, tape.noise, grad_outputs)
        d_raw = constant.flatten(2)
        views = (
            *(activations, gates, gates[..., : 3 * size].unflatten(-1, (3, size))),
            *(gates[..., 3 * size :], tape.gates[..., size : 2 * size], to_cell),
            *(constant, d_raw, factor),
            tape.hidden[:-1] if grad_outputs.hidden is None else grad_outputs.hidden,
        )
        for step in reversed(list(zip(*(view.unbind() for view in views), strict=True))):
            activation, gate, gate_ifg, gate_o, f, to_c, pair, raw, d_raw_d_z, direct = step
            if grad_outputs.hidden is not None:
                d_hidden.add_(direct)
            lstm_step_backward_((gate_ifg, gate_o), f, to_c, d_hidden, d_cell)
            through_gates, d_z = to_hidden_and_z(gate).split([size, d_raw_d_z.shape[-1]], dim=-1)
            pair.addcmul_(d_raw_d_z, d_z.unsqueeze(1))
            activation.mul_(to_active(raw))
            d_hidden = to_hidden.add(activation, through_gates)
        return LoopGradients(activations, gates, d_raw, d_hidden, d_cell)


class GraphedLoops(TorchLoops):
    """The loops as CUDA graphs, one for each shape of the arguments; torch operations elsewhere."""

    def __init__(self) -> None:
        self._graphs: dict[tuple[object, ...], GraphedCallable] = {}

    def forward(self, tape: Tape, weights: Weights, product_dtype: torch.dtype) -> None:
        tensors = (*tape, *weights)
        if not can_capture(tensors):
            super().forward(tape, weights, product_dtype)
            return
        key = ("forward", product_dtype)
        if key not in self._graphs:
            function = partial(self._forward, product_dtype)
            self._graphs[key] = GraphedCallable(
                function, clone_outputs=False, tolerance=_tolerance(product_dtype)
            )
        for part, filled in zip(tape, self._graphs[key](*tensors), strict=True):
            part.copy_(filled)

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        grad_outputs: PathGradients,
        product_dtype: torch.dtype,
    ) -> LoopGradients:
        present = tuple(part is not None for part in grad_outputs)
        tensors = (*tape, *weights, *(part for part in grad_outputs if part is not None))
        if not can_capture(tensors):
            return super().backward(tape, weights, grad_outputs, product_dtype)
        key = ("backward", product_dtype, present)
        if key not in self._graphs:
            self._graphs[key] = GraphedCallable(
                partial(self._backward, product_dtype, present),
                tolerance=_tolerance(product_dtype),
            )
        return LoopGradients(*self._graphs[key](*tensors))

    def _forward(self, product_dtype: torch.dtype, *tensors: Tensor) -> Tensors:
        tape, weights, _ = _unflatten(tensors)
        super().forward(tape, weights, product_dtype)
        return tuple(tape)

    def _backward(
        self, product_dtype: torch.dtype, present: tuple[bool, ...], *tensors: Tensor
    ) -> Tensors:
        tape, weights, rest = _unflatten(tensors)
        gradients = iter(rest)
        grads: list[Gradient] = [next(gradients) if given else None for given in present]
        return tuple(super().backward(tape, weights, PathGradients(*grads), product_dtype))


def _tolerance(product_dtype: torch.dtype) -> float:
    """For results of products in a dtype, which depend on the order of the sums."""
    return max(TOLERANCE, 4.0 * torch.finfo(product_dtype).eps)


def _unflatten(tensors: Tensors) -> tuple[Tape, Weights, Tensors]:
    first = len(Tape._fields)
    second = first + len(Weights._fields)
    return Tape(*tensors[:first]), Weights(*tensors[first:second]), tensors[second:]

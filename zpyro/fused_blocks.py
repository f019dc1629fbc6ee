"""The blocks of the fused recurrences: products, posterior and LSTM gates, and their derivatives.

Buffers are time-major: T steps, N rows. Functions whose name ends in an underscore work in place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zpyro.networks import ACTIVATION_BOUND, GAUSSIAN_BOUND, LEAKY_SLOPE


def multiply_add(target: Tensor, rows: Tensor, matrix: Tensor) -> None:
    """target += rows @ matrix, in place; a matrix of lower precision sets that of the product."""
    if rows.dtype == matrix.dtype:
        target.addmm_(rows, matrix)
    else:
        target.add_(rows.to(matrix.dtype) @ matrix)


def multiply(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix for rows (..., K), in the rows' type; the matrix sets the precision."""
    return (rows.to(matrix.dtype) @ matrix).to(rows.dtype)


def weight_gradient(gradients: Tensor, inputs: Tensor, product_type: torch.dtype) -> Tensor:
    """A weight's gradient from all rows: gradients (..., J) and inputs (..., K) to (J, K)."""
    left, right = gradients.flatten(0, -2), inputs.flatten(0, -2)
    return (left.to(product_type).t() @ right.to(product_type)).to(gradients.dtype)


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """rows @ weight.T + bias; the weight sets the precision of the product, the bias its type."""
    if weight.dtype == bias.dtype:
        return torch.nn.functional.linear(rows, weight, bias)
    return torch.nn.functional.linear(rows.to(weight.dtype), weight) + bias


def over_particles(gradients: Tensor, sequences: int) -> Tensor:
    """What came from one sequence gathers all its particles: (T, K B, F) to (T, B, F)."""
    if gradients.shape[1] == sequences:
        return gradients
    return gradients.unflatten(1, (-1, sequences)).sum(1)


def leaky_relu_(values: Tensor) -> None:
    """The networks' activation before its clamp, in place."""
    torch.nn.functional.leaky_relu_(values, LEAKY_SLOPE)


def clamped(activations: Tensor) -> Tensor:
    """The networks' activation from its values before the clamp."""
    return activations.clamp(-ACTIVATION_BOUND, ACTIVATION_BOUND)


def activation_slope(activations: Tensor) -> Tensor:
    """Derivative of the clamped leaky ReLU, from its values before the clamp; 1 on its bounds."""
    slope = torch.full_like(activations, LEAKY_SLOPE).masked_fill_(activations > 0, 1.0)
    return slope.masked_fill_(~(activations.abs() <= ACTIVATION_BOUND), 0.0)


def gaussian(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance (T, N, Z) from the unclamped outputs (T, N, 2Z)."""
    mean, log_variance = raw.clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND).chunk(2, dim=-1)
    return mean, log_variance


class Reparametrisation(NamedTuple):
    """How a gradient at z_t becomes one at the posterior's unclamped output.

    gradient of raw_t = constant_t + factor_t * gradient of z_t from later steps

    Attributes:
        factor: (T, N, 2, Z), for mean and log variance.
        constant: (T, N, 2, Z), from the gradients that arrive at z, mean and log variance directly.
        deviation: exp(log_variance / 2), (T, N, Z).
    """

    factor: Tensor
    constant: Tensor
    deviation: Tensor


def reparametrisation(
    raw: Tensor, noise: Tensor, z: Tensor | None, mean: Tensor | None, log_variance: Tensor | None
) -> Reparametrisation:
    """See :class:`Reparametrisation`.

    Args:
        raw: unclamped outputs, (T, N, 2Z).
        noise: (T, N, Z).
        z: gradient at z, (T, N, Z), or None for zeros.
        mean: gradient at the mean, likewise.
        log_variance: gradient at the log variance, likewise.
    """
    pairs = raw.unflatten(-1, (2, -1))
    inside = pairs.abs() <= GAUSSIAN_BOUND
    deviation = gaussian(raw)[1].mul(0.5).exp_()
    factor = torch.empty_like(pairs)
    factor[..., 0, :] = 1.0
    torch.mul(deviation, noise, out=factor[..., 1, :]).mul_(0.5)
    constant = torch.zeros_like(pairs) if z is None else factor * z.unsqueeze(-2)
    for place, gradient in enumerate((mean, log_variance)):
        if gradient is not None:
            constant[..., place, :] += gradient
    outside = ~inside
    factor.masked_fill_(outside, 0.0)
    constant.masked_fill_(outside, 0.0)
    return Reparametrisation(factor, constant, deviation)


def posterior_step_(activation: Tensor, raw: Tensor, output: Tensor) -> None:
    """The posterior network from its hidden layer's linear part (N, M) on.

    Args:
        activation: becomes the activation before its clamp.
        raw: the output layer's bias (N, 2Z) becomes the unclamped output.
        output: weight of the output layer, transposed, (M, 2Z).
    """
    leaky_relu_(activation)
    multiply_add(raw, clamped(activation), output)


def lstm_step_(
    sigmoids: Tensor, gates: tuple[Tensor, ...], cell: Tensor, new_cell: Tensor, hidden: Tensor
) -> None:
    """The LSTM from its gates' linear part on, which become the gates.

    Args:
        sigmoids: gates i and f together, (N, 2H).
        gates: i, f, g, o, each (N, H); views of one buffer with ``sigmoids``.
        cell: c_{t-1}, (N, H).
        new_cell: c_t is written here.
        hidden: h_t is written here.
    """
    entered, kept, candidate, shown = gates
    sigmoids.sigmoid_()
    candidate.tanh_()
    shown.sigmoid_()
    torch.mul(kept, cell, out=new_cell).addcmul_(entered, candidate)
    torch.tanh(new_cell, out=hidden).mul_(shown)


def gate_slopes(gates: Tensor, cell: Tensor, slopes: Tensor) -> Tensor:
    """Derivatives of one LSTM step, for all steps at once.

    Args:
        gates: i, f, g, o after their sigmoid or tanh, (T, N, 4H).
        cell: c_0..c_T, (T + 1, N, H).
        slopes: here d c_t / d (i, f, g before) and d h_t / d (o before) are written, (T, N, 4H).

    Returns:
        d h_t / d c_t, (T, N, H).
    """
    i, f, g, o = gates.chunk(4, dim=-1)
    slope_i, slope_f, slope_g, slope_o = slopes.chunk(4, dim=-1)
    squashed = cell[1:].tanh()
    sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
    tanh_backward = torch.ops.aten.tanh_backward.grad_input
    sigmoid_backward(g, i, grad_input=slope_i)
    sigmoid_backward(cell[:-1], f, grad_input=slope_f)
    tanh_backward(i, g, grad_input=slope_g)
    sigmoid_backward(squashed, o, grad_input=slope_o)
    return tanh_backward(o, squashed, grad_input=squashed)


def lstm_step_backward_(
    slopes: tuple[Tensor, Tensor], kept: Tensor, to_cell: Tensor, hidden: Tensor, cell: Tensor
) -> None:
    """One step of the LSTM's derivative.

    Args:
        slopes: from :func:`gate_slopes`, as (N, 3, H) for i, f, g and (N, H) for o; they become
            the gradients of the gates' linear parts.
        kept: gate f, (N, H).
        to_cell: d h_t / d c_t, (N, H).
        hidden: gradient of h_t, (N, H).
        cell: gradient of c_t from later steps becomes that of c_{t-1}, (N, H).
    """
    into_cell, shown = slopes
    cell.addcmul_(hidden, to_cell)
    into_cell.mul_(cell.unsqueeze(1))
    shown.mul_(hidden)
    cell.mul_(kept)

"""The blocks of the fused recurrences: products, posterior and LSTM gates, and their derivatives.

Buffers are time-major: T steps, N rows. Functions whose name ends in an underscore work in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zpyro.nn.layers import ACTIVATION_BOUND, GAUSSIAN_BOUND, LEAKY_SLOPE

Gradient = Tensor | None
"""A gradient that arrives at an output; None for zeros."""


def multiply(rows: Tensor, matrix: Tensor, product_type: torch.dtype) -> Tensor:
    """rows @ matrix for rows (..., K), in the rows' type."""
    return (rows.to(product_type) @ matrix.to(product_type)).to(rows.dtype)


def weight_gradient(gradients: Tensor, inputs: Tensor, product_type: torch.dtype) -> Tensor:
    """A weight's gradient from all rows: gradients (..., J) and inputs (..., K) to (J, K)."""
    left, right = gradients.flatten(0, -2), inputs.flatten(0, -2)
    return (left.to(product_type).t() @ right.to(product_type)).to(gradients.dtype)


def project_into(
    target: Tensor, rows: Tensor, weight: Tensor, bias: Tensor, product_type: torch.dtype
) -> None:
    """Write rows @ weight.T + bias for rows (T, B, K), once a sequence and repeated for particles.

    Args:
        target: (T, K B, J), contiguous.
        rows: (T, B, K).
        weight: (J, K).
        bias: (J,).
        product_type: the type of the product.
    """
    particles = target.unflatten(1, (-1, rows.shape[1]))
    if particles.shape[1] == 1 and product_type == target.dtype:
        torch.addmm(bias, rows.flatten(0, 1), weight.t(), out=target.flatten(0, 1))
        return
    projected = multiply(rows, weight.t(), product_type) + bias
    particles.copy_(projected.unsqueeze(1))


def over_particles(gradients: Tensor, sequences: int) -> Tensor:
    """What came from one sequence gathers all its particles: (T, K B, F) to (T, B, F)."""
    if gradients.shape[1] == sequences:
        return gradients
    return gradients.unflatten(1, (-1, sequences)).sum(1)


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


class PathGradients(NamedTuple):
    """Gradients that arrive at a path, time-major; None for zeros.

    Attributes:
        z: (T, N, Z).
        hidden: at h_1..h_T, (T, N, H).
        mean: (T, N, Z).
        log_variance: (T, N, Z).
        cell: at c_T, (N, H).
    """

    z: Gradient
    hidden: Gradient
    mean: Gradient
    log_variance: Gradient
    cell: Gradient


def running_cell_gradient(arriving: PathGradients, cell: Tensor) -> Tensor:
    """The gradient at c_T, (N, H), to be changed in place on the way to c_0."""
    return torch.zeros_like(cell[0]) if arriving.cell is None else arriving.cell.clone()


def noise_gradient(later: Tensor, arriving: Gradient, raw: Tensor) -> Tensor:
    """Gradient of the noise, (T, N, Z).

    Args:
        later: gradient at z_t from the steps after it, (T, N, Z).
        arriving: gradient at z_t from outside.
        raw: the posterior's unclamped outputs, (T, N, 2Z).
    """
    total = later if arriving is None else later + arriving
    return total * gaussian(raw)[1].mul(0.5).exp_()


class Reparameterization(NamedTuple):
    """How a gradient at z_t becomes one at the posterior's unclamped output.

    gradient of raw_t = constant_t + factor_t * gradient of z_t from later steps

    Attributes:
        factor: (T, N, 2, Z), for mean and log variance.
        constant: (T, N, 2, Z), from the gradients that arrive at z, mean and log variance directly.
    """

    factor: Tensor
    constant: Tensor


def reparameterization(raw: Tensor, noise: Tensor, arriving: PathGradients) -> Reparameterization:
    """See :class:`Reparameterization`, for unclamped outputs (T, N, 2Z) and noise (T, N, Z)."""
    pairs = raw.unflatten(-1, (2, -1))
    outside = ~(pairs.abs() <= GAUSSIAN_BOUND)
    deviation = gaussian(raw)[1].mul(0.5).exp_()
    factor = torch.ones_like(pairs)
    torch.mul(deviation, noise, out=factor[..., 1, :]).mul_(0.5)
    z = arriving.z
    constant = torch.zeros_like(pairs) if z is None else factor * z.unsqueeze(-2)
    for place, gradient in enumerate((arriving.mean, arriving.log_variance)):
        if gradient is not None:
            constant[..., place, :] += gradient
    factor.masked_fill_(outside, 0.0)
    constant.masked_fill_(outside, 0.0)
    return Reparameterization(factor, constant)


class Sampler:
    """Draws z_t from the posterior's output, in scratch memory of its own."""

    def __init__(self, like: Tensor) -> None:
        """Args: a tensor like the posterior's output, (N, 2Z)."""
        self._bounded = torch.empty_like(like)
        self._mean, self._log_variance = self._bounded.chunk(2, dim=-1)

    def draw(self, output: Tensor, raw: Tensor, noise: Tensor, z: Tensor) -> None:
        """Write the unclamped output (N, 2Z) to ``raw`` and z_t (N, Z) to ``z``."""
        raw.copy_(output)
        torch.clamp(output, -GAUSSIAN_BOUND, GAUSSIAN_BOUND, out=self._bounded)
        torch.addcmul(self._mean, self._log_variance.mul_(0.5).exp_(), noise, out=z)


def activate(linear: Tensor, activation: Tensor) -> Tensor:
    """Write the activation before its clamp; give it after its clamp."""
    torch.ops.aten.leaky_relu.out(linear, LEAKY_SLOPE, out=activation)
    return clamped(activation)


def lstm_step(
    linear: Tensor, gates: Sequence[Tensor], cell: Tensor, new_cell: Tensor, hidden: Tensor
) -> None:
    """One LSTM step from the gates' linear parts on.

    Args:
        linear: the linear parts of i, f, g, o, (N, 4H).
        gates: [i, f] together (N, 2H), then i, f, g, o each (N, H), views of one buffer: here the
            gates are written.
        cell: c_{t-1}, (N, H).
        new_cell: c_t is written here.
        hidden: h_t is written here.
    """
    sigmoids, entered, kept, candidate, shown = gates
    size = cell.shape[-1]
    both, candidate_linear, shown_linear = linear.split([2 * size, size, size], dim=-1)
    torch.sigmoid(both, out=sigmoids)
    torch.tanh(candidate_linear, out=candidate)
    torch.sigmoid(shown_linear, out=shown)
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

"""Parts of the fused recurrences: products, posterior and LSTM gates, and their derivatives.

Buffers are time-major: T steps, N rows. Functions whose name ends in an underscore work in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zpyro.nn.layers import ACTIVATION_BOUND, GAUSSIAN_BOUND, LEAKY_SLOPE

Gradient = Tensor | None
"""The gradient of an output; None for zeros."""


def differentiable_gradients(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Gradient],
) -> list[Gradient]:
    """The gradients of a function as tensors that can be differentiated again.

    A backward pass with ``create_graph=True`` needs these: one that autograd does not record would
    count as a constant, without an error, in ``torch.autograd.grad``.

    Args:
        function: of the inputs, in operations of torch.
        inputs: its arguments.
        grad_outputs: of its results.

    Returns:
        The gradient of each input; None for those that need none.
    """
    results = zip(function(*inputs), grad_outputs, strict=True)
    outputs, given = zip(*((out, grad) for out, grad in results if grad is not None), strict=True)
    wanted = [each for each in inputs if each.requires_grad]
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, allow_unused=True))
    return [next(found) if each.requires_grad else None for each in inputs]


def are_transforms_active() -> bool:
    """Whether torch.func transforms the running code; it needs operations of torch."""
    return torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]


def multiply(rows: Tensor, matrix: Tensor, product_dtype: torch.dtype) -> Tensor:
    """rows @ matrix for rows (..., K), in the dtype of the rows."""
    return (rows.to(product_dtype) @ matrix.to(product_dtype)).to(rows.dtype)


def weight_gradient(gradients: Tensor, inputs: Tensor, product_dtype: torch.dtype) -> Tensor:
    """The gradient (J, K) of a weight from gradients (..., J) and inputs (..., K) of all rows."""
    left, right = gradients.flatten(0, -2), inputs.flatten(0, -2)
    return (left.to(product_dtype).t() @ right.to(product_dtype)).to(gradients.dtype)


def project_into(
    target: Tensor, rows: Tensor, weight: Tensor, bias: Tensor, product_dtype: torch.dtype
) -> None:
    """Write rows @ weight.T + bias, computed once per sequence and repeated for its particles.

    Args:
        target: (T, K B, J), contiguous.
        rows: (T, B, K).
        weight: (J, K).
        bias: (J,).
        product_dtype: dtype of the product.
    """
    particles = target.unflatten(1, (-1, rows.shape[1]))
    if particles.shape[1] == 1 and product_dtype == target.dtype:
        torch.addmm(bias, rows.flatten(0, 1), weight.t(), out=target.flatten(0, 1))
        return
    projected = multiply(rows, weight.t(), product_dtype) + bias
    particles.copy_(projected.unsqueeze(1))


def over_particles(gradients: Tensor, sequences: int) -> Tensor:
    """Gradients summed over the particles of each sequence: (T, K B, F) to (T, B, F)."""
    if gradients.shape[1] == sequences:
        return gradients
    return gradients.unflatten(1, (-1, sequences)).sum(1)


def clamped(activations: Tensor) -> Tensor:
    """The activation of the networks, from its values before the clamp."""
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
    """Gradients of the outputs of a path, time-major; None for zeros.

    Attributes:
        z: (T, N, Z).
        hidden: of h_1..h_T, (T, N, H).
        mean: (T, N, Z).
        log_variance: (T, N, Z).
        cell: of c_T, (N, H).
    """

    z: Gradient
    hidden: Gradient
    mean: Gradient
    log_variance: Gradient
    cell: Gradient


def running_cell_gradient(grad_outputs: PathGradients, cell: Tensor) -> Tensor:
    """A new tensor with the gradient of c_T, (N, H); the backward loop updates it in place."""
    return torch.zeros_like(cell[0]) if grad_outputs.cell is None else grad_outputs.cell.clone()


def noise_gradient(later: Tensor, direct: Gradient, raw: Tensor) -> Tensor:
    """Gradient of the noise, (T, N, Z).

    Args:
        later: gradient of z_t through later steps, (T, N, Z).
        direct: gradient of the output z_t.
        raw: the posterior's unclamped outputs, (T, N, 2Z).
    """
    total = later if direct is None else later + direct
    return total * gaussian(raw)[1].mul(0.5).exp_()


def reparameterization(
    raw: Tensor, noise: Tensor, grad_outputs: PathGradients
) -> tuple[Tensor, Tensor]:
    """The gradient of the posterior's unclamped output raw_t as an affine function.

    gradient of raw_t = constant_t + factor_t * gradient of z_t through later steps

    Args:
        raw: (T, N, 2Z).
        noise: (T, N, Z).
        grad_outputs: gradients of the outputs; those of z, mean and log variance are used.

    Returns:
        ``factor`` and ``constant``, each (T, N, 2, Z), for mean and log variance.
    """
    pairs = raw.unflatten(-1, (2, -1))
    outside = ~(pairs.abs() <= GAUSSIAN_BOUND)
    deviation = gaussian(raw)[1].mul(0.5).exp_()
    factor = torch.ones_like(pairs)
    torch.mul(deviation, noise, out=factor[..., 1, :]).mul_(0.5)
    z = grad_outputs.z
    constant = torch.zeros_like(pairs) if z is None else factor * z.unsqueeze(-2)
    for index, gradient in enumerate((grad_outputs.mean, grad_outputs.log_variance)):
        if gradient is not None:
            constant[..., index, :] += gradient
    factor.masked_fill_(outside, 0.0)
    constant.masked_fill_(outside, 0.0)
    return factor, constant


class Sampler:
    """Computes z_t from the posterior's output, with one scratch buffer for all steps.

    Args:
        like: a tensor like the posterior's output, (N, 2Z).
    """

    def __init__(self, like: Tensor) -> None:
        self._bounded = torch.empty_like(like)
        self._mean, self._log_variance = self._bounded.chunk(2, dim=-1)

    def sample(self, output: Tensor, raw: Tensor, noise: Tensor, z: Tensor) -> None:
        """Write the unclamped output (N, 2Z) to ``raw`` and z_t (N, Z) to ``z``."""
        raw.copy_(output)
        torch.clamp(output, -GAUSSIAN_BOUND, GAUSSIAN_BOUND, out=self._bounded)
        torch.addcmul(self._mean, self._log_variance.mul_(0.5).exp_(), noise, out=z)


def activate(linear: Tensor, activation: Tensor) -> Tensor:
    """Write the activation before the clamp, and return it after the clamp."""
    torch.ops.aten.leaky_relu.out(linear, LEAKY_SLOPE, out=activation)
    return clamped(activation)


def lstm_step(
    linear: Tensor, gates: Sequence[Tensor], cell: Tensor, new_cell: Tensor, hidden: Tensor
) -> None:
    """One LSTM step from the pre-activations of the gates.

    Args:
        linear: pre-activations of i, f, g, o, (N, 4H).
        gates: outputs, views of one buffer: i and f together (N, 2H), then i, f, g, o, each (N, H).
        cell: c_{t-1}, (N, H).
        new_cell: output, c_t.
        hidden: output, h_t.
    """
    i_and_f, i, f, g, o = gates
    size = cell.shape[-1]
    linear_i_and_f, linear_g, linear_o = linear.split([2 * size, size, size], dim=-1)
    torch.sigmoid(linear_i_and_f, out=i_and_f)
    torch.tanh(linear_g, out=g)
    torch.sigmoid(linear_o, out=o)
    torch.mul(f, cell, out=new_cell).addcmul_(i, g)
    torch.tanh(new_cell, out=hidden).mul_(o)


def gate_slopes(gates: Tensor, cell: Tensor, slopes: Tensor) -> Tensor:
    """Derivatives of one LSTM step, for all steps at once.

    Args:
        gates: i, f, g, o after their sigmoid or tanh, (T, N, 4H).
        cell: c_0..c_T, (T + 1, N, H).
        slopes: output, derivatives of c_t by the pre-activations of i, f, g and of h_t by that of
            o, (T, N, 4H).

    Returns:
        d h_t / d c_t, (T, N, H).
    """
    i, f, g, o = gates.chunk(4, dim=-1)
    slope_i, slope_f, slope_g, slope_o = slopes.chunk(4, dim=-1)
    tanh_cell = cell[1:].tanh()
    sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
    tanh_backward = torch.ops.aten.tanh_backward.grad_input
    sigmoid_backward(g, i, grad_input=slope_i)
    sigmoid_backward(cell[:-1], f, grad_input=slope_f)
    tanh_backward(i, g, grad_input=slope_g)
    sigmoid_backward(tanh_cell, o, grad_input=slope_o)
    return tanh_backward(o, tanh_cell, grad_input=tanh_cell)


def lstm_step_backward_(
    slopes: tuple[Tensor, Tensor], f: Tensor, to_cell: Tensor, hidden: Tensor, cell: Tensor
) -> None:
    """The derivative of one LSTM step.

    Args:
        slopes: from :func:`gate_slopes`, as (N, 3, H) for i, f, g and (N, H) for o; become the
            gradients of the pre-activations.
        f: the forget gate, (N, H).
        to_cell: d h_t / d c_t, (N, H).
        hidden: gradient of h_t, (N, H).
        cell: gradient of c_t through later steps; becomes that of c_{t-1}, (N, H).
    """
    slopes_ifg, slope_o = slopes
    cell.addcmul_(hidden, to_cell)
    slopes_ifg.mul_(cell.unsqueeze(1))
    slope_o.mul_(hidden)
    cell.mul_(f)

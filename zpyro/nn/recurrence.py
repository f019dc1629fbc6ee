"""The recurrence: the loop over time in which each sampled z_t feeds the next state.

Only the posterior network and the cell depend on the sampled path. Prior, likelihood, auxiliary and
reverse networks are computed for all steps at once from the result of this loop. Every recurrence
has the signature of :func:`plain`, the readable loop, which is the reference for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zpyro.nn.kernels import fused_layer_norm, fused_lstm
from zpyro.nn.kernels.compiled import CompiledLoops
from zpyro.nn.kernels.fused_blocks import are_transforms_active
from zpyro.nn.kernels.lstm_loops import TorchLoops
from zpyro.nn.layers import Cell, GaussianMLP, LatentLSTM, State


@dataclass(frozen=True)
class Path:
    """A sampled path of N sequences and T steps.

    Attributes:
        z: z_t = mean_t + exp(log_variance_t / 2) noise_t, (N, T, Z).
        hidden: h_1..h_T, (N, T, H).
        mean: posterior mean of z_t given h_{t-1} and b_t, (N, T, Z).
        log_variance: posterior log variance, (N, T, Z).
        state: the state after the last step; for an LSTM (h_T, c_T), each (N, H).
    """

    z: Tensor
    hidden: Tensor
    mean: Tensor
    log_variance: Tensor
    state: State


_TORCH_LOOPS = TorchLoops()

Recurrence = Callable[[GaussianMLP, Cell, Tensor, Tensor, Tensor, State], Path]


def plain(
    posterior: GaussianMLP,
    cell: Cell,
    future: Tensor,
    embedded: Tensor,
    noise: Tensor,
    state: State,
    into_cell: Callable[[Tensor], Tensor] | None = None,
) -> Path:
    """Sample a path step by step, in the order of the equations.

    Args:
        posterior: network from [h_{t-1}, b_t] to mean and log variance of z_t.
        cell: the forward cell, from z_t, e(x_{t-1}) and h_{t-1} to h_t.
        future: b_1..b_T, (B, T, H).
        embedded: e(x_0)..e(x_{T-1}), (B, T, E).
        noise: standard normal noise, (N, T, Z) with N = K B for K particles, particles outermost.
        state: h_0 and c_0, each (N, H).
        into_cell: applied to z_t before it enters the cell; the identity by default.
    """
    particles = noise.shape[0] // future.shape[0]
    future, embedded = future.repeat(particles, 1, 1), embedded.repeat(particles, 1, 1)
    paths: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for t in range(noise.shape[1]):
        mean, log_variance = posterior(torch.cat([state[0], future[:, t]], dim=-1))
        z = mean + (0.5 * log_variance).exp() * noise[:, t]
        state = cell.step(z if into_cell is None else into_cell(z), embedded[:, t], state)
        paths.append((z, state[0], mean, log_variance))
    z, hidden, mean, log_variance = (torch.stack(step, dim=1) for step in zip(*paths, strict=True))
    return Path(z, hidden, mean, log_variance, state)


def fused(
    posterior: GaussianMLP,
    cell: Cell,
    future: Tensor,
    embedded: Tensor,
    noise: Tensor,
    state: State,
    loops: TorchLoops = _TORCH_LOOPS,
) -> Path:
    """The same path as one autograd function, see :mod:`zpyro.nn.kernels.fused_lstm`.

    Arguments are as in :func:`plain`; ``loops`` runs the loops over time of a
    :class:`zpyro.nn.layers.LatentLSTM`. Under autocast the products run in its dtype, everything
    else in that of the parameters. With ``create_graph=True`` the gradient is that of a readable
    loop and can be differentiated again. Within torch.func the path is that of :func:`plain`.
    """
    if are_transforms_active():
        return plain(posterior, cell, future, embedded, noise, state)
    like = posterior.output.weight
    dtype, device = like.dtype, like.device.type
    product_dtype = dtype
    if dtype == torch.float32 and torch.is_autocast_enabled(device):
        product_dtype = torch.get_autocast_dtype(device)
    future, embedded, noise = (
        part.transpose(0, 1).to(dtype).contiguous() for part in (future, embedded, noise)
    )
    first = (part.to(dtype) for part in state)
    if isinstance(cell, LatentLSTM):
        with torch.autocast(device, enabled=False):
            weights = fused_lstm.combined_weights(posterior, cell)
        outputs = fused_lstm.LSTMPath.apply(
            loops, product_dtype, future, embedded, noise, *first, *weights
        )
    else:
        outputs = fused_layer_norm.LayerNormPath.apply(
            product_dtype,
            *(future, cell.input_gates(embedded).to(dtype), noise, *first),
            *fused_layer_norm.Weights.of(posterior, cell),
        )
    z, hidden, mean, log_variance = (part.transpose(0, 1) for part in outputs[:4])
    return Path(z, hidden, mean, log_variance, (hidden[:, -1], outputs[4]))


compiled: Recurrence = partial(fused, loops=CompiledLoops())
"""As :func:`fused`, with its loops in C++ on a CPU and as CUDA graphs on a GPU, where possible.

See :mod:`zpyro.nn.kernels.compiled` for the requirements; its ``status()`` says whether they are
met."""

RECURRENCES: dict[str, Recurrence] = {"plain": plain, "fused": fused, "compiled": compiled}
"""The loops by the name that the setting ``model.recurrence`` takes."""


def choose(name: str) -> Recurrence:
    """The recurrence of a name; "auto" is the fastest exact one.

    Raises:
        ValueError: if there is none of that name.
    """
    if name == "auto":
        return compiled
    if name not in RECURRENCES:
        raise ValueError(f"recurrence is {name!r}; choose auto or one of {tuple(RECURRENCES)}")
    return RECURRENCES[name]

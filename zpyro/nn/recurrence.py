"""The recurrence: the loop over time in which each sampled z_t feeds the next state.

Only the posterior network and the cell depend on the sampled path; prior, likelihood, auxiliary and
reverse networks are computed for all steps at once from what this loop returns. Every recurrence
has the signature of :func:`plain`, the readable loop that is the oracle of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zpyro.nn.kernels.compiled import CompiledLoops
from zpyro.nn.kernels.fused import fused_path
from zpyro.nn.layers import Cell, GaussianMLP, State


@dataclass(frozen=True)
class Path:
    """A sampled path; N sequences, T steps.

    Attributes:
        z: z_t = mean_t + exp(log_variance_t / 2) noise_t, (N, T, Z).
        hidden: h_1..h_T, (N, T, H).
        mean: posterior mean of z_t given h_{t-1} and b_t, (N, T, Z).
        log_variance: posterior log variance, (N, T, Z).
        state: what the loop carries after the last step; of an LSTM (h_T, c_T), each (N, H).
    """

    z: Tensor
    hidden: Tensor
    mean: Tensor
    log_variance: Tensor
    state: State


COMPILED_LOOPS = CompiledLoops()

Recurrence = Callable[[GaussianMLP, Cell, Tensor, Tensor, Tensor, State], Path]


def plain(
    posterior: GaussianMLP,
    cell: Cell,
    backward: Tensor,
    embedded: Tensor,
    noise: Tensor,
    state: State,
    into_cell: Callable[[Tensor], Tensor] | None = None,
) -> Path:
    """Sample a path step by step, in the order of the equations.

    Args:
        posterior: network from [h_{t-1}, b_t] to mean and log variance of z_t.
        cell: the forward cell, h_t from z_t, e(x_{t-1}) and h_{t-1}.
        backward: backward states b_1..b_T, (B, T, H).
        embedded: e(x_0)..e(x_{T-1}), (B, T, E).
        noise: standard normal draws, (N, T, Z) with N = K B for K particles, particles outermost.
        state: h_0 and c_0, each (N, H).
        into_cell: what becomes of z_t on its way into the cell; nothing by default.
    """
    particles = noise.shape[0] // backward.shape[0]
    backward, embedded = backward.repeat(particles, 1, 1), embedded.repeat(particles, 1, 1)
    paths: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for t in range(noise.shape[1]):
        mean, log_variance = posterior(torch.cat([state[0], backward[:, t]], dim=-1))
        z = mean + (0.5 * log_variance).exp() * noise[:, t]
        entering = z if into_cell is None else into_cell(z)
        state = cell.step(entering, embedded[:, t], state)
        paths.append((z, state[0], mean, log_variance))
    steps = zip(*paths, strict=True)
    z, hidden, mean, log_variance = (torch.stack(step, dim=1) for step in steps)
    return Path(z, hidden, mean, log_variance, state)


def fused(
    posterior: GaussianMLP,
    cell: Cell,
    backward: Tensor,
    embedded: Tensor,
    noise: Tensor,
    state: State,
) -> Path:
    """The same path as one autograd function; see :mod:`zpyro.nn.kernels.fused`. Arguments as in `plain`."""
    return Path(*fused_path(posterior, cell, backward, embedded, noise, state))


def compiled(
    posterior: GaussianMLP,
    cell: Cell,
    backward: Tensor,
    embedded: Tensor,
    noise: Tensor,
    state: State,
) -> Path:
    """As `fused`, with its loops in C++ on a CPU and as CUDA graphs, wherever that is possible.

    See :mod:`zpyro.nn.kernels.compiled` for what it takes; :func:`zpyro.nn.kernels.compiled.status` tells.
    """
    inputs = (backward, embedded, noise, state)
    return Path(*fused_path(posterior, cell, *inputs, loops=COMPILED_LOOPS))


RECURRENCES: dict[str, Recurrence] = {"plain": plain, "fused": fused, "compiled": compiled}
"""The loops by the name that the setting ``model.recurrence`` takes."""


def choose(name: str) -> Recurrence:
    """The recurrence of that name; "auto" is the fastest one that is exact.

    Raises:
        ValueError: if there is none of that name.
    """
    if name == "auto":
        return compiled
    if name not in RECURRENCES:
        raise ValueError(f"recurrence is {name!r}; choose auto or one of {tuple(RECURRENCES)}")
    return RECURRENCES[name]

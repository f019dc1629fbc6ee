"""The papers' equations as stock Pyro programs with a site a step, written from scratch.

The oracles of the family: they take the parameters of a module and nothing of its programs.
``nn.LSTMCell`` and ``torch.distributions`` do the work that zpyro does itself. One frame at a time,
sequences of equal length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zpyro.likelihoods import GaussianMixture
from zpyro.models import DMM, RNN, SRNN, STORN, VRNN, SequenceModel, ZForcing

Program = Callable[[Any, Tensor, Tensor], None]


def cell_of(lstm: nn.LSTM) -> nn.LSTMCell:
    """A stock cell with the weights of an LSTM's only layer."""
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size).double()
    cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh = lstm.all_weights[0]
    return cell


def sample_z(t: int, parameters: tuple[Tensor, Tensor]) -> Tensor:
    mean, log_variance = parameters
    return pyro.sample(f"z_{t + 1}", dist.Normal(mean, (log_variance / 2).exp()).to_event(1))


def observe(module: Any, t: int, parameters: Tensor, frame: Tensor) -> None:
    if module.likelihood.discrete_tokens:
        distribution: Any = dist.Categorical(logits=parameters)
    elif isinstance(module.likelihood, GaussianMixture):
        logits, means, log_variances = module.likelihood.parts(parameters)
        parts = dist.Normal(means, (log_variances / 2).exp()).to_event(1)
        distribution = dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)
    else:
        mean, log_variance = parameters.chunk(2, -1)
        distribution = dist.Normal(mean, (log_variance / 2).exp()).to_event(1)
    pyro.sample(f"x_{t + 1}", distribution, obs=frame)


def each_step(x: Tensor, start: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """t, x_{t-1} and x_t."""
    previous = start
    for t in range(x.shape[1]):
        yield t, previous, x[:, t]
        previous = x[:, t]


def zeros(module: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """h_0, c_0 and z_0."""
    hidden = torch.zeros(len(x), module.hidden_size, dtype=torch.float64)
    return hidden, hidden, torch.zeros(len(x), module.latent_size, dtype=torch.float64)


def backward_states(lstm: nn.LSTM, inputs: Tensor) -> Tensor:
    """One layer from the last frame to the first, step by step."""
    cell, state, states = cell_of(lstm), None, []
    for t in reversed(range(inputs.shape[1])):
        state = cell(inputs[:, t], state)
        states.append(state[0])
    return torch.stack(states[::-1], dim=1)


def rnn_model(m: RNN, x: Tensor, start: Tensor) -> None:
    cell, (h, c, _) = cell_of(m.lstm), zeros(m, x)
    for t, previous, frame in each_step(x, start):
        h, c = cell(m.embedding(previous), (h, c))
        observe(m, t, m.output(h), frame)


def rnn_guide(m: RNN, x: Tensor, start: Tensor) -> None:
    pass


def storn_model(m: STORN, x: Tensor, start: Tensor) -> None:
    cell, (h, c, first) = cell_of(m.cell.lstm), zeros(m, x)
    for t, previous, frame in each_step(x, start):
        z = sample_z(t, (torch.zeros_like(first), torch.zeros_like(first)))
        h, c = cell(torch.cat([m.cell.projection(z), m.embedding(previous)], -1), (h, c))
        observe(m, t, m.output(h), frame)


def storn_guide(m: STORN, x: Tensor, start: Tensor) -> None:
    cell, (r, c, _) = cell_of(m.recognition), zeros(m, x)
    for t, _, frame in each_step(x, start):
        r, c = cell(m.embedding(frame), (r, c))
        sample_z(t, m.posterior_network(r))


def vrnn_steps(m: VRNN, x: Tensor, start: Tensor, posterior: bool) -> None:
    cell, (h, c, z) = cell_of(m.cell.lstm), zeros(m, x)
    for t, previous, frame in each_step(x, start):
        h, c = cell(torch.cat([m.cell.projection(z), m.embedding(previous)], -1), (h, c))
        if posterior:
            z = sample_z(t, m.posterior_network(torch.cat([h, m.embedding(frame)], -1)))
        else:
            z = sample_z(t, m.prior_network(h))
            observe(m, t, m.output(torch.cat([z, h], -1)), frame)


def vrnn_model(m: VRNN, x: Tensor, start: Tensor) -> None:
    vrnn_steps(m, x, start, posterior=False)


def vrnn_guide(m: VRNN, x: Tensor, start: Tensor) -> None:
    vrnn_steps(m, x, start, posterior=True)


def deterministic(m: SRNN, x: Tensor, start: Tensor) -> Tensor:
    cell, (d, c, _), states = cell_of(m.lstm), zeros(m, x), []
    for _, previous, _ in each_step(x, start):
        d, c = cell(m.embedding(previous), (d, c))
        states.append(d)
    return torch.stack(states, 1)


def srnn_model(m: SRNN, x: Tensor, start: Tensor) -> None:
    d, z = deterministic(m, x, start), zeros(m, x)[2]
    for t, _, frame in each_step(x, start):
        z = sample_z(t, m.prior_network(torch.cat([z, d[:, t]], -1)))
        observe(m, t, m.output(torch.cat([z, d[:, t]], -1)), frame)


def srnn_guide(m: SRNN, x: Tensor, start: Tensor) -> None:
    d, z = deterministic(m, x, start), zeros(m, x)[2]
    a = backward_states(m.backward_lstm, torch.cat([m.embedding(x), d], -1))
    for t in range(x.shape[1]):
        mean, log_variance = m.posterior_network(torch.cat([z, a[:, t]], -1))
        if m.residual_posterior:
            mean = m.prior_network(torch.cat([z, d[:, t]], -1))[0] + mean
        z = sample_z(t, (mean, log_variance))


def dmm_model(m: DMM, x: Tensor, start: Tensor) -> None:
    z = zeros(m, x)[2]
    for t, _, frame in each_step(x, start):
        g, proposal = torch.sigmoid(m.prior_network.gate(z)), m.prior_network.proposal(z)
        mean = g * proposal + (1 - g) * m.prior_network.linear(z)
        z = sample_z(t, (mean, m.prior_network.log_variance(torch.relu(proposal))))
        observe(m, t, m.output(z), frame)


def dmm_guide(m: DMM, x: Tensor, start: Tensor) -> None:
    z, b = zeros(m, x)[2], backward_states(m.backward_lstm, m.embedding(x))
    for t in range(x.shape[1]):
        z = sample_z(t, m.posterior_network(torch.cat([z, b[:, t]], -1)))


def zforcing_steps(m: ZForcing, x: Tensor, start: Tensor, posterior: bool) -> None:
    cell, (h, c, _) = cell_of(m.cell.lstm), zeros(m, x)
    b = backward_states(m.backward_lstm, m.embedding(x))
    for t, previous, frame in each_step(x, start):
        inferred = m.posterior_network(torch.cat([h, b[:, t]], -1))
        z = sample_z(t, inferred if posterior else m.prior_network(h))
        h, c = cell(torch.cat([m.cell.projection(z), m.embedding(previous)], -1), (h, c))
        if not posterior:
            observe(m, t, m.output(h), frame)


def zforcing_model(m: ZForcing, x: Tensor, start: Tensor) -> None:
    zforcing_steps(m, x, start, posterior=False)


def zforcing_guide(m: ZForcing, x: Tensor, start: Tensor) -> None:
    zforcing_steps(m, x, start, posterior=True)


STOCK: dict[type[SequenceModel], tuple[Program, Program]] = {
    DMM: (dmm_model, dmm_guide),
    RNN: (rnn_model, rnn_guide),
    STORN: (storn_model, storn_guide),
    VRNN: (vrnn_model, vrnn_guide),
    SRNN: (srnn_model, srnn_guide),
    ZForcing: (zforcing_model, zforcing_guide),
}
"""(model, guide) by class."""

"""Z-Forcing step by step, the reference for the speed of zpyro's recurrence, and a lower bound.

This module shares no code with zpyro. :class:`PublishedZForcing` follows the equations of Goyal et
al. (arXiv:1711.05411) in the order of the authors' program: the embedding and the backward LSTM for
the whole sequence, everything else - prior, posterior, auxiliary network, g, the forward cell, the
output layer, and each term - in the loop over time. Tensors are time-major, as in that program.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Terms(NamedTuple):
    """Terms of the objective for each sequence, nats, (B,)."""

    log_likelihood: Tensor
    kl: Tensor
    log_auxiliary: Tensor
    log_reverse: Tensor


class ClampedLeakyReLU(nn.Module):
    """Leaky ReLU of slope 1/3, clamped to [-3, 3]."""

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.leaky_relu(values, 1.0 / 3.0).clamp(-3.0, 3.0)


def mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), ClampedLeakyReLU(), nn.Linear(width, outputs))


class PublishedZForcing(nn.Module):
    """The published model for frames with a Gaussian likelihood.

    Args:
        frame: D.
        hidden: H.
        latent: Z.
        embedding: E.
        width: of every MLP.
        bounds: smooth bounds of the likelihood's log variance, None for the published choice.
    """

    def __init__(
        self,
        frame: int,
        hidden: int,
        latent: int,
        embedding: int,
        width: int,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.bounds = bounds
        self.hidden, self.latent = hidden, latent
        self.embedding = nn.Linear(frame, embedding)
        self.backward_lstm = nn.LSTM(embedding, hidden)
        self.g = nn.Linear(latent, width)
        self.cell = nn.LSTMCell(width + embedding, hidden)
        self.prior = mlp(hidden, width, 2 * latent)
        self.posterior = mlp(2 * hidden, width, 2 * latent)
        self.auxiliary = mlp(hidden + latent, width, 2 * hidden)
        self.output = nn.Linear(hidden, 2 * frame)
        self.reverse_output = nn.Linear(hidden, 2 * frame)
        for module in (self.cell, self.backward_lstm):
            for name, weight in module.named_parameters():
                if name.startswith("weight_hh"):
                    for gate in weight.data.chunk(4):
                        nn.init.orthogonal_(gate)

    def forward(
        self, inputs: Tensor, targets: Tensor, noise: Tensor, mask: Tensor | None = None
    ) -> Terms:
        """The terms of frames y_1..y_T given the frames before them.

        Args:
            inputs: x_0..x_{T-1}, (T, B, D).
            targets: x_1..x_T, (T, B, D).
            noise: standard normal noise, (T, B, Z).
            mask: 1 where a frame counts, 0 in padding, (T, B); None if all count.
        """
        embedded = self.embedding(inputs)
        backward = self.backward_states(targets, mask)
        hidden = cell = inputs.new_zeros(inputs.shape[1], self.hidden)
        steps: list[Tensor] = []
        for t in range(inputs.shape[0]):
            prior = self.prior(hidden).clamp(-8.0, 8.0).chunk(2, dim=-1)
            posterior = self.posterior(torch.cat([hidden, backward[t]], dim=-1))
            mean, log_variance = posterior.clamp(-8.0, 8.0).chunk(2, dim=-1)
            z = mean + (0.5 * log_variance).exp() * noise[t]
            auxiliary = self.auxiliary(torch.cat([hidden, z], dim=-1)).clamp(-8.0, 8.0)
            center, spread = auxiliary.chunk(2, dim=-1)
            log_auxiliary = log_normal(backward[t].detach(), center.tanh(), spread)
            kl = gaussian_kl(mean, log_variance, *prior)
            entering = torch.cat([self.g(z), embedded[t]], dim=-1)
            hidden, cell = self.cell(entering, (hidden, cell))
            log_likelihood = self.log_likelihood(self.output(hidden), targets[t])
            steps.append(torch.stack([log_likelihood, kl, log_auxiliary]))
        log_reverse = self.log_likelihood(self.reverse_output(backward), inputs)
        terms = torch.cat([torch.stack(steps, dim=1), log_reverse.unsqueeze(0)])
        if mask is not None:
            terms = terms * mask
        return Terms(*terms.sum(1))

    def backward_states(self, targets: Tensor, mask: Tensor | None) -> Tensor:
        """b_1..b_T; b_t depends on the targets from step t to the end of the sequence."""
        embedded = self.embedding(targets)
        if mask is None:
            return self.backward_lstm(embedded.flip(0))[0].flip(0)
        # Each sequence is reversed within its length; padding stays in place.
        positions = torch.arange(mask.shape[0], device=mask.device).unsqueeze(-1)
        lengths = mask.sum(0, keepdim=True).long()
        order = torch.where(positions < lengths, lengths - 1 - positions, positions)
        reversed_inputs = embedded.gather(0, order.unsqueeze(-1).expand_as(embedded))
        states = self.backward_lstm(reversed_inputs)[0]
        return states.gather(0, order.unsqueeze(-1).expand_as(states))

    def log_likelihood(self, parameters: Tensor, frames: Tensor) -> Tensor:
        """log p(x), nats, summed over the frame."""
        mean, log_variance = parameters.chunk(2, dim=-1)
        if self.bounds is not None:
            low, high = self.bounds
            log_variance = high - nn.functional.softplus(high - log_variance)
            log_variance = low + nn.functional.softplus(log_variance - low)
        return log_normal(frames, mean, log_variance)


class Floor(nn.Module):
    """The same multiplications as in :class:`PublishedZForcing` without the feedback of samples.

    Two ``nn.LSTM`` calls and the MLPs of the model for all steps at once. The input of the forward
    LSTM is noise instead of samples, so no operation depends on a sampled path. No implementation
    of the model with torch's LSTM can be faster.
    """

    def __init__(self, frame: int, hidden: int, latent: int, embedding: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(frame, embedding)
        self.backward_lstm = nn.LSTM(embedding, hidden)
        self.g = nn.Linear(latent, width)
        self.forward_lstm = nn.LSTM(width + embedding, hidden)
        self.prior = mlp(hidden, width, 2 * latent)
        self.posterior = mlp(2 * hidden, width, 2 * latent)
        self.auxiliary = mlp(hidden + latent, width, 2 * hidden)
        self.output = nn.Linear(hidden, 2 * frame)
        self.reverse_output = nn.Linear(hidden, 2 * frame)

    def forward(self, inputs: Tensor, targets: Tensor, noise: Tensor) -> Terms:
        """Arguments as in the published model; the terms differ but have the same cost."""
        backward = self.backward_lstm(self.embedding(targets).flip(0))[0].flip(0)
        entering = torch.cat([self.g(noise), self.embedding(inputs)], dim=-1)
        hidden, _ = self.forward_lstm(entering)
        previous = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
        prior = self.prior(previous).clamp(-8.0, 8.0).chunk(2, dim=-1)
        posterior = self.posterior(torch.cat([previous, backward], dim=-1))
        mean, log_variance = posterior.clamp(-8.0, 8.0).chunk(2, dim=-1)
        z = mean + (0.5 * log_variance).exp() * noise
        auxiliary = self.auxiliary(torch.cat([previous, z], dim=-1)).clamp(-8.0, 8.0)
        center, spread = auxiliary.chunk(2, dim=-1)
        return Terms(
            log_normal(targets, *self.output(hidden).chunk(2, dim=-1)).sum(0),
            gaussian_kl(mean, log_variance, *prior).sum(0),
            log_normal(backward.detach(), center.tanh(), spread).sum(0),
            log_normal(inputs, *self.reverse_output(backward).chunk(2, dim=-1)).sum(0),
        )


def log_normal(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    squared = (values - mean) ** 2 / log_variance.exp()
    return -0.5 * (squared + log_variance + math.log(2.0 * math.pi)).sum(-1)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor
) -> Tensor:
    ratio = (log_variance.exp() + (mean - prior_mean) ** 2) / prior_log_variance.exp()
    return 0.5 * (prior_log_variance - log_variance + ratio - 1.0).sum(-1)

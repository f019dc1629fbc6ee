"""The floor: the same multiplications without the feedback of samples.

Two ``nn.LSTM`` calls and the MLPs of the model for all steps at once. The input of the forward LSTM
is noise instead of samples, so no operation depends on a sampled path. No implementation of the
model with torch's LSTM can be faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.published import Terms, gaussian_kl, log_normal, mlp


class Floor(nn.Module):
    """As :class:`benchmarks.published.PublishedZForcing`, without the feedback of z."""

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

"""The SRNN in plain PyTorch, the reference for the speed of zpyro's.

This module shares no code with zpyro but :mod:`benchmarks.published`. It follows equations 2 to 13
of Fraccaro et al. (arXiv:1605.07571): both LSTMs are one call each, the loop over time holds the
prior and posterior networks of z_{t-1}, and the emission is computed for all steps at once. Tensors
are time-major.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.published import Terms, gaussian_kl, log_normal, mlp


class PlainSRNN(nn.Module):
    """An SRNN with a residual posterior and a Gaussian likelihood.

    Args:
        frame: D.
        hidden: H, of both LSTMs.
        latent: Z.
        embedding: E, of e(x).
        width: of every MLP.
        smoothing_input: "embedding" for a_t = LSTM([e(x_t), d_t], a_{t+1}), the products of zpyro's
            model; "mlp" for a_t = LSTM(g([x_t, d_t]), a_{t+1}) with an MLP g of this width, which
            takes 18 % fewer multiplications at the size "small".
    """

    def __init__(
        self,
        frame: int,
        hidden: int,
        latent: int,
        embedding: int,
        width: int,
        smoothing_input: str = "embedding",
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.embedding = nn.Linear(frame, embedding)
        self.lstm = nn.LSTM(embedding, hidden)
        self.g = mlp(frame + hidden, width, width)[:2] if smoothing_input == "mlp" else None
        entering = embedding + hidden if self.g is None else width
        self.backward_lstm = nn.LSTM(entering, hidden)
        self.prior = mlp(latent + hidden, width, 2 * latent)
        self.posterior = mlp(latent + hidden, width, 2 * latent)
        self.output = mlp(latent + hidden, width, 2 * frame)

    def forward(self, inputs: Tensor, targets: Tensor, noise: Tensor) -> Terms:
        """The terms of frames y_1..y_T given the frames before them.

        Args:
            inputs: x_0..x_{T-1}, (T, B, D).
            targets: x_1..x_T, (T, B, D).
            noise: standard normal noise, (T, B, Z).
        """
        hidden, _ = self.lstm(self.embedding(inputs))
        if self.g is None:
            known = torch.cat([self.embedding(targets), hidden], dim=-1)
        else:
            known = self.g(torch.cat([targets, hidden], dim=-1))
        future = self.backward_lstm(known.flip(0))[0].flip(0)
        z = torch.zeros_like(noise[0])
        steps: list[tuple[Tensor, ...]] = []
        for t in range(len(inputs)):
            prior = self.prior(torch.cat([z, hidden[t]], dim=-1))
            prior_mean, prior_log_variance = prior.clamp(-8.0, 8.0).chunk(2, dim=-1)
            posterior = self.posterior(torch.cat([z, future[t]], dim=-1))
            mean, log_variance = posterior.clamp(-8.0, 8.0).chunk(2, dim=-1)
            mean = mean + prior_mean
            z = mean + (0.5 * log_variance).exp() * noise[t]
            steps.append((z, mean, log_variance, prior_mean, prior_log_variance))
        z, *parameters = map(torch.stack, zip(*steps, strict=True))
        emission = self.output(torch.cat([z, hidden], dim=-1))
        log_likelihood = log_normal(targets, *emission.chunk(2, dim=-1)).sum(0)
        none = torch.zeros_like(log_likelihood)
        return Terms(log_likelihood, gaussian_kl(*parameters).sum(0), none, none)

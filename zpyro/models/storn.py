"""STORN, stochastic recurrent networks (Bayer and Osendorfer, 2014)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from zpyro.likelihoods import Likelihood
from zpyro.models.base import SequenceModel
from zpyro.models.steps import OPTIONAL_SIZE, PosteriorPath, delay, missing_embedding
from zpyro.nn.layers import GaussianMLP, LatentLSTM, State, orthogonal_recurrent_weights
from zpyro.nn.noise import Dropout
from zpyro.nn.precision import run_lstm


class STORN(SequenceModel):
    """An RNN with independent noise at every step as a further input.

    With x_0 the start frame, h_0 = 0 and r_0 = 0, for t = 1..T::

        prior        z_t              ~ N(0, 1)
        recurrence   h_t = LSTM([g(z_t), e(x_{t-1})], h_{t-1})
        likelihood   x_t | h_t        ~ p(x | f(h_t))
        recognition  r_t = LSTM_q(e(x_t), r_{t-1})
        posterior    z_t | r_t        ~ N(mu_q(r_t), diag sigma_q(r_t)^2)

    The posterior does not see the sampled path, so that all latents are drawn at once and the
    recurrence is one LSTM call: there is no loop. The paper's tanh networks are LSTMs here, as in
    the rest of the family.

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`.
        hidden_size: H, of both LSTMs.
        latent_size: Z.
        embedding_size: E, of e(x).
        mlp_size: width of the posterior's MLP, and size of g(z).
        embedding_dropout: dropout on e(x) while training.
        output_dropout: dropout on the states that the output layer reads while training.
        missing: whether frames may have missing values, whose mask the networks then read.
        covariate_size: C, numbers u_t known for every step that the networks read too.
        granularity: "sequence" (one site for all steps, fast) or "step" (a site a step).

    Raises:
        ValueError: for an unknown granularity.

    Source: section 3 of arXiv:1411.7610::

        @article{bayer2014storn,
          title={Learning Stochastic Recurrent Networks},
          author={Bayer, Justin and Osendorfer, Christian},
          journal={arXiv preprint arXiv:1411.7610},
          year={2014}
        }
    """

    def __init__(
        self,
        likelihood: Likelihood,
        hidden_size: int = 256,
        latent_size: int = 64,
        embedding_size: int = 128,
        mlp_size: int = 128,
        *,
        embedding_dropout: float = 0.0,
        output_dropout: float = 0.0,
        missing: bool = False,
        covariate_size: Annotated[int, OPTIONAL_SIZE] = 0,
        granularity: str = "sequence",
    ) -> None:
        super().__init__(
            likelihood,
            hidden_size,
            latent_size,
            granularity,
            missing=missing,
            covariate_size=covariate_size,
        )
        self.embedding = likelihood.embedding(embedding_size)
        self.missing_embedding = missing_embedding(likelihood, embedding_size) if missing else None
        input_size = embedding_size + covariate_size
        self.dropout = Dropout(embedding_dropout)
        self.cell = LatentLSTM(latent_size, input_size, mlp_size, hidden_size)
        self.recognition = nn.LSTM(input_size, hidden_size, batch_first=True)
        orthogonal_recurrent_weights(self.recognition)
        self.posterior_network = GaussianMLP(hidden_size, mlp_size, latent_size)
        self.output_dropout = Dropout(output_dropout, dim=-2)
        self.output = likelihood.output(hidden_size, self.embedding)

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        """r_1..r_T: in this model the recognition network runs forward."""
        del input_features, mask
        return run_lstm(self.recognition, embedded)[0]

    def prior(self, context: Tensor) -> tuple[Tensor, Tensor]:
        zeros = context.new_zeros(()).expand(*context.shape[:-1], self.latent_size)
        return zeros, zeros

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        lead = torch.broadcast_shapes(context.shape[:-1], future.shape[:-1])
        mean, log_variance = self.posterior_network(future)
        return mean.expand(*lead, -1), log_variance.expand(*lead, -1)

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        z = self.maybe_stop_gradient(z)
        return self.cell.step(z, inputs.expand(*z.shape[:-1], -1), state)

    def sample_posterior_path(
        self, future: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> PosteriorPath:
        particles = noise.shape[0] // future.shape[0]
        parameters = self.posterior_network(future)
        mean, log_variance = (part.repeat(particles, 1, 1) for part in parameters)
        z = mean + (0.5 * log_variance).exp() * noise
        inputs = input_features.repeat(particles, 1, 1)
        hidden, last = self.cell(self.maybe_stop_gradient(z), inputs, state)
        return PosteriorPath(z, delay(state[0], hidden), hidden, mean, log_variance, last)

    def states_given_latents(
        self, z: Tensor, input_features: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        hidden = self.cell(self.maybe_stop_gradient(z), input_features, state)[0]
        return delay(state[0], hidden), hidden

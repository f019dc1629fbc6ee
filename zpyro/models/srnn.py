"""The stochastic recurrent neural network, SRNN (Fraccaro et al., NIPS 2016)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from torch import Tensor, nn

from zpyro.likelihoods import Likelihood
from zpyro.models.smoothing import SmoothingModel
from zpyro.models.steps import OPTIONAL_SIZE, PosteriorPath, delay, join, missing_embedding
from zpyro.nn.kernels import latent_chain
from zpyro.nn.layers import (
    GaussianMLP,
    HiddenLayer,
    State,
    lstm_states,
    lstm_step,
    orthogonal_recurrent_weights,
    run_backward,
)
from zpyro.nn.noise import Dropout


class SRNN(SmoothingModel):
    """A state space model of latents on top of a deterministic LSTM.

    With x_0 the start frame, z_0 = 0 and d_0 = 0, for t = 1..T::

        deterministic d_t = LSTM(e(x_{t-1}), d_{t-1})
        prior         z_t | z_{t-1}, d_t   ~ N(mu_p(z_{t-1}, d_t), diag sigma_p(z_{t-1}, d_t)^2)
        likelihood    x_t | z_t, d_t       ~ p(x | f(z_t, d_t))
        smoothing     a_t = LSTM_back([e(x_t), d_t], a_{t+1})
        posterior     z_t | z_{t-1}, a_t   ~ N(mu_q, diag sigma_q(z_{t-1}, a_t)^2)
                      mu_q = mu_p(z_{t-1}, d_t) + nu_q(z_{t-1}, a_t)   with a residual posterior

    Only z_t feeds back on a sampled path: both LSTMs are one call each for all steps, and the loop
    holds two small MLPs of z_{t-1}, see :mod:`zpyro.nn.kernels.latent_chain`. The costs of
    :class:`SmoothingModel` apply with b_t = a_t and the context [z_{t-1}, d_t].

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`.
        hidden_size: H, of both LSTMs.
        latent_size: Z.
        embedding_size: E, of e(x).
        mlp_size: width of the prior, posterior, auxiliary and output MLPs.
        backward_layers: layers of the smoothing LSTM.
        residual_posterior: let the posterior mean correct the prior's.
        forced_auxiliary: predict a_t from z_t alone (the context is zeroed).
        squared_error_auxiliary: squared error in place of the auxiliary log-density.
        embedding_dropout: dropout on e(x) while training.
        output_dropout: dropout on the hidden layer of the output MLP while training.
        missing: whether frames may have missing values, whose mask the networks then read.
        covariate_size: C, numbers u_t known for every step that the networks read too.
        granularity: "sequence" (one site for all steps, fast) or "step" (a site a step).
        recurrence: "plain" for the readable loop; any other name of
            :data:`zpyro.nn.recurrence.RECURRENCES`, or "auto", for the fused one.

    Raises:
        ValueError: for an unknown granularity or recurrence.

    Source: equations 2 to 13 of arXiv:1605.07571::

        @inproceedings{fraccaro2016srnn,
          title={Sequential Neural Models with Stochastic Layers},
          author={Fraccaro, Marco and S{\\o}nderby, S{\\o}ren Kaae and Paquet, Ulrich and
                  Winther, Ole},
          booktitle={Advances in Neural Information Processing Systems},
          year={2016}
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
        backward_layers: int = 1,
        residual_posterior: bool = True,
        forced_auxiliary: bool = False,
        squared_error_auxiliary: bool = False,
        embedding_dropout: float = 0.0,
        output_dropout: float = 0.0,
        missing: bool = False,
        covariate_size: Annotated[int, OPTIONAL_SIZE] = 0,
        granularity: str = "sequence",
        recurrence: str = "auto",
    ) -> None:
        super().__init__(
            likelihood,
            hidden_size,
            latent_size,
            granularity,
            missing=missing,
            covariate_size=covariate_size,
        )
        self.residual_posterior = residual_posterior
        self.forced_auxiliary = forced_auxiliary
        self.squared_error_auxiliary = squared_error_auxiliary
        self.recurrence = recurrence
        latent_chain.choose(recurrence)
        self.embedding = likelihood.embedding(embedding_size)
        self.missing_embedding = missing_embedding(likelihood, embedding_size) if missing else None
        input_size = embedding_size + covariate_size
        self.dropout = Dropout(embedding_dropout)
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.backward_lstm = nn.LSTM(
            input_size + hidden_size, hidden_size, num_layers=backward_layers, batch_first=True
        )
        orthogonal_recurrent_weights(self.lstm)
        orthogonal_recurrent_weights(self.backward_lstm)
        joined = latent_size + hidden_size
        self.prior_network = GaussianMLP(joined, mlp_size, latent_size)
        self.posterior_network = GaussianMLP(joined, mlp_size, latent_size)
        self.auxiliary_network = GaussianMLP(joined + latent_size, mlp_size, hidden_size)
        output = likelihood.output(mlp_size, self.embedding)
        self.output = HiddenLayer(joined, mlp_size, output, Dropout(output_dropout, dim=-2))
        self.reverse_output = nn.Linear(hidden_size, likelihood.parameter_size)

    def initial_state(self, rows: int) -> State:
        """(d_0, c_0, z_0), zeros."""
        hidden, cell = super().initial_state(rows)
        return hidden, cell, hidden.new_zeros(rows, self.latent_size)

    def input_features(self, inputs: Tensor) -> Tensor:
        """d_1..d_T, (N, T, H)."""
        return lstm_states(self.lstm, inputs, self.first_state(len(inputs))[:2])[0]

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        """a_1..a_T, the states of the smoothing LSTM."""
        return run_backward(self.backward_lstm, join(embedded, input_features), mask)

    def prepare(self, inputs: Tensor, state: State) -> State:
        hidden, cell, z = state
        return *lstm_step(self.lstm, inputs, (hidden, cell)), self.maybe_stop_gradient(z)

    def context(self, state: State) -> Tensor:
        """[z_{t-1}, d_t]."""
        return join(state[2], state[0])

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        previous = context[..., : self.latent_size]
        mean, log_variance = self.posterior_network(join(previous, future))
        if self.residual_posterior:
            mean = mean + self.prior_network(context)[0]
        return mean, log_variance

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        del inputs
        return state[0], state[1], z

    def features(self, state: State) -> Tensor:
        """[z_t, d_t]."""
        return join(state[2], state[0])

    def sample_posterior_path(
        self, future: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> PosteriorPath:
        run = latent_chain.choose(self.recurrence)
        if self.skips_gradients:
            run = partial(latent_chain.plain, into_next=self.maybe_stop_gradient)
        prior = self.prior_network if self.residual_posterior else None
        z, mean, log_variance = run(
            self.posterior_network, prior, future, input_features, noise, state[2]
        )
        hidden = input_features.repeat(noise.shape[0] // future.shape[0], 1, 1)
        contexts = self._contexts_and_features(z, hidden, state)
        return PosteriorPath(z, *contexts, mean, log_variance, (z[:, -1],))

    def states_given_latents(
        self, z: Tensor, input_features: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        return self._contexts_and_features(z, input_features, state)

    def _contexts_and_features(
        self, z: Tensor, hidden: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        """[z_{t-1}, d_t] and [z_t, d_t] for d_1..d_T (N, T, H)."""
        previous = self.maybe_stop_gradient(delay(state[2], z))
        return join(previous, hidden), join(z, hidden)

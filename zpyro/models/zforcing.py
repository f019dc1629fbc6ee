"""Z-Forcing (Goyal, Sordoni, Côté, Ke, Bengio, NeurIPS 2017)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from torch import Tensor, nn

from zpyro.errors import UserError
from zpyro.likelihoods import Likelihood
from zpyro.models.smoothing import SmoothingModel
from zpyro.models.steps import OPTIONAL_SIZE, PosteriorPath, delay, join, missing_embedding
from zpyro.nn.layers import (
    ConditionalLayerNormLSTM,
    GaussianMLP,
    HiddenLayer,
    LatentLSTM,
    State,
    orthogonal_recurrent_weights,
    run_backward,
)
from zpyro.nn.noise import Dropout
from zpyro.nn.recurrence import Recurrence, choose, plain
from zpyro.settings import Limits

EMISSION_INPUT = Limits(choices=("hidden", "latent"))
"""Of the setting ``model.emission_input``."""


class ZForcing(SmoothingModel):
    """A stochastic recurrent network whose posterior reads an RNN that runs backward.

    With x_0 the start frame and h_0 = 0, for t = 1..T::

        prior        z_t | h_{t-1}        ~ N(mu_p(h_{t-1}), diag sigma_p(h_{t-1})^2)
        recurrence   h_t = LSTM([g(z_t), e(x_{t-1})], h_{t-1})
        likelihood   x_t | h_t            ~ p(x | f(h_t))
        backward     b_t = LSTM_back(e(x_t), b_{t+1})
        posterior    z_t | h_{t-1}, b_t   ~ N(mu_q(h_{t-1}, b_t), diag sigma_q(h_{t-1}, b_t)^2)
        auxiliary    b_t | z_t, h_{t-1}   ~ N(tanh mu_a, diag sigma_a^2)
        reverse      x_{t-1} | b_t        ~ p(x | f_r(b_t))

    Model and guide hold the first five lines; :class:`zpyro.ZForcingELBO` adds the last two.

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`.
        hidden_size: H, of the forward and the backward LSTM.
        latent_size: Z.
        embedding_size: E, of e(x).
        mlp_size: width of the prior, posterior and auxiliary MLPs, and of g(z).
        backward_layers: layers of the backward LSTM.
        conditional_layer_norm: let z set the layer norm of the forward cell instead of entering
            as its input, see :class:`zpyro.nn.layers.ConditionalLayerNormLSTM`.
        forced_auxiliary: predict b_t from z_t alone (the h input is zeroed).
        squared_error_auxiliary: -||b_t - tanh mu_a||^2 in place of the auxiliary log-density.
        emission_input: "hidden", as published, or "latent": x_t depends on [z_t, h_t] through an
            MLP, as in :class:`zpyro.models.VRNN`.
        embedding_dropout: dropout on e(x) while training.
        output_dropout: dropout on the states that the output layer reads, or on the hidden layer of
            the output MLP, while training.
        missing: whether frames may have missing values, whose mask the networks then read.
        covariate_size: C, numbers u_t known for every step that the networks read too.
        granularity: "sequence" (one site for all steps, fast) or "step" (a site a step).
        recurrence: a name of :data:`zpyro.nn.recurrence.RECURRENCES`, or "auto".

    Raises:
        ValueError: for an unknown granularity or recurrence.

    Source: equations 3 to 9 of arXiv:1711.05411::

        @inproceedings{goyal2017zforcing,
          title={Z-Forcing: Training Stochastic Recurrent Networks},
          author={Goyal, Anirudh and Sordoni, Alessandro and C{\\^o}t{\\'e}, Marc-Alexandre and
                  Ke, Nan Rosemary and Bengio, Yoshua},
          booktitle={Advances in Neural Information Processing Systems},
          year={2017}
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
        conditional_layer_norm: bool = False,
        forced_auxiliary: bool = False,
        squared_error_auxiliary: bool = False,
        emission_input: Annotated[str, EMISSION_INPUT] = "hidden",
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
        self.forced_auxiliary = forced_auxiliary
        self.squared_error_auxiliary = squared_error_auxiliary
        if emission_input not in EMISSION_INPUT.choices:
            raise UserError(f"emission_input is {emission_input!r}; choose hidden or latent")
        self.emission_input = emission_input
        self.recurrence = recurrence
        choose(recurrence)
        cell = ConditionalLayerNormLSTM if conditional_layer_norm else LatentLSTM
        self.embedding = likelihood.embedding(embedding_size)
        self.missing_embedding = missing_embedding(likelihood, embedding_size) if missing else None
        input_size, context_size = (size + covariate_size for size in (embedding_size, hidden_size))
        self.dropout = Dropout(embedding_dropout)
        self.cell = cell(latent_size, input_size, mlp_size, hidden_size)
        self.backward_lstm = nn.LSTM(
            input_size, hidden_size, num_layers=backward_layers, batch_first=True
        )
        orthogonal_recurrent_weights(self.backward_lstm)
        self.prior_network = GaussianMLP(context_size, mlp_size, latent_size)
        self.posterior_network = GaussianMLP(2 * hidden_size, mlp_size, latent_size)
        self.auxiliary_network = GaussianMLP(context_size + latent_size, mlp_size, hidden_size)
        if emission_input == "latent":
            output = likelihood.output(mlp_size, self.embedding)
            dropout = Dropout(output_dropout, dim=-2)
            self.output = HiddenLayer(latent_size + hidden_size, mlp_size, output, dropout)
        else:
            self.output_dropout = Dropout(output_dropout, dim=-2)
            self.output = likelihood.output(hidden_size, self.embedding)
        self.reverse_output = nn.Linear(hidden_size, likelihood.parameter_size)

    carries_state = True

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        """b_1..b_T, the states of the backward LSTM."""
        del input_features
        return run_backward(self.backward_lstm, embedded, mask)

    def initial_state(self, rows: int) -> State:
        """(h_0, c_0), zeros; where the emission reads z_t, (h_0, c_0, z_0)."""
        state = super().initial_state(rows)
        if self.emission_input == "hidden":
            return state
        return *state, state[0].new_zeros(rows, self.latent_size)

    def prepare(self, inputs: Tensor, state: State) -> State:
        """(h_{t-1}, c_{t-1}), with covariates also u_t."""
        covariates = (inputs[..., -self.covariate_size :],) if self.covariate_size else ()
        return *state[:2], *covariates

    def context(self, state: State) -> Tensor:
        """h_{t-1}, or [h_{t-1}, u_t]."""
        return join(state[0], state[2]) if self.covariate_size else state[0]

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        # b_t has seen u_t.
        return self.posterior_network(join(context[..., : self.hidden_size], future))

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        into_cell = self.maybe_stop_gradient(z)
        after = self.cell.step(into_cell, inputs.expand(*z.shape[:-1], -1), state[:2])
        return after if self.emission_input == "hidden" else (*after, z)

    def features(self, state: State) -> Tensor:
        """h_t, or [z_t, h_t]."""
        return state[0] if self.emission_input == "hidden" else join(state[2], state[0])

    def sample_posterior_path(
        self, future: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> PosteriorPath:
        run = self._loop()
        path = run(self.posterior_network, self.cell, future, input_features, noise, state[:2])
        context = self._contexts(state, path.hidden, input_features)
        features, last = path.hidden, path.state
        if self.emission_input == "latent":
            features, last = join(path.z.to(features.dtype), features), (*last, path.z[:, -1])
        return PosteriorPath(path.z, context, features, path.mean, path.log_variance, last)

    def _loop(self) -> Recurrence:
        if self.skips_gradients:
            return partial(plain, into_cell=self.maybe_stop_gradient)
        return choose(self.recurrence)

    def states_given_latents(
        self, z: Tensor, input_features: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        hidden = self.cell(self.maybe_stop_gradient(z), input_features, state[:2])[0]
        features = hidden
        if self.emission_input == "latent":
            features = join(z.to(hidden.dtype), hidden)
        return self._contexts(state, hidden, input_features), features

    def _contexts(self, state: State, hidden: Tensor, input_features: Tensor) -> Tensor:
        """h_0..h_{T-1}, or [h_{t-1}, u_t], (N, T, ...), for h_1..h_T (N, T, H)."""
        previous = delay(state[0], hidden)
        if not self.covariate_size:
            return previous
        covariates = input_features[..., -self.covariate_size :]
        return join(previous, covariates.repeat(len(hidden) // len(covariates), 1, 1))

"""The deep Markov model, DMM (Krishnan, Shalit, Sontag, AAAI 2017), as in Pyro's own example."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from torch import Tensor, nn

from zpyro.likelihoods import Likelihood
from zpyro.models.smoothing import SmoothingModel
from zpyro.models.steps import OPTIONAL_SIZE, PosteriorPath, delay, join, missing_embedding
from zpyro.nn.kernels import latent_chain
from zpyro.nn.layers import (
    GAUSSIAN_BOUND,
    MLP,
    GaussianMLP,
    HiddenLayer,
    State,
    orthogonal_recurrent_weights,
    run_backward,
)
from zpyro.nn.noise import Dropout


class GatedTransition(nn.Module):
    """Mean and log variance of z_t given z_{t-1} and u_t: linear map and MLP, mixed by a gate."""

    def __init__(self, latent_size: int, mlp_size: int, covariate_size: int = 0) -> None:
        super().__init__()
        inputs = latent_size + covariate_size
        self.gate = MLP(inputs, mlp_size, latent_size)
        self.proposal = MLP(inputs, mlp_size, latent_size)
        self.linear = nn.Linear(inputs, latent_size)
        self.log_variance = nn.Linear(latent_size, latent_size)
        # As in Pyro's example: at first the mean stays where it was.
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, proposal = self.gate(z).sigmoid(), self.proposal(z)
        mean = (1.0 - gate) * self.linear(z) + gate * proposal
        log_variance = self.log_variance(proposal.relu())
        return (
            mean.clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND),
            log_variance.clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND),
        )


class DMM(SmoothingModel):
    """A state space model with neural networks for its transition and emission.

    With z_0 = 0, for t = 1..T::

        transition   z_t | z_{t-1}        ~ N(mu_p(z_{t-1}), diag sigma_p(z_{t-1})^2), gated
        emission     x_t | z_t            ~ p(x | f(z_t))
        backward     b_t = LSTM_back(e(x_t), b_{t+1})
        posterior    z_t | z_{t-1}, b_t   ~ N(mu_q(z_{t-1}, b_t), diag sigma_q(z_{t-1}, b_t)^2)

    Nothing is fed back but z: the frames before t are known to x_t through z_t alone, so that it
    cannot do without its latents. The start frame has no part in it. The posterior's combiner is an
    MLP of [z_{t-1}, b_t]. The costs of :class:`SmoothingModel` apply with the context z_{t-1}.

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`.
        hidden_size: H, of the backward LSTM.
        latent_size: Z.
        embedding_size: E, of e(x).
        mlp_size: width of the MLPs.
        transition_size: width of the MLPs of the transition, 0 for that of the others.
        backward_layers: layers of the backward LSTM.
        forced_auxiliary: predict b_t from z_t alone (the context is zeroed).
        squared_error_auxiliary: squared error in place of the auxiliary log-density.
        embedding_dropout: dropout on e(x) while training.
        output_dropout: dropout on the hidden layer of the output MLP while training.
        missing: whether frames may have missing values, whose mask the networks then read.
        covariate_size: C, numbers u_t known for every step that the networks read too.
        granularity: "sequence" (one site for all steps, fast) or "step" (a site a step).
        recurrence: as in :class:`zpyro.models.SRNN`.

    Raises:
        ValueError: for an unknown granularity or recurrence.

    Source: sections 3 and 4 of arXiv:1609.09869::

        @inproceedings{krishnan2017dmm,
          title={Structured Inference Networks for Nonlinear State Space Models},
          author={Krishnan, Rahul G. and Shalit, Uri and Sontag, David},
          booktitle={AAAI Conference on Artificial Intelligence},
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
        transition_size: Annotated[int, OPTIONAL_SIZE] = 0,
        backward_layers: int = 1,
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
        self.forced_auxiliary = forced_auxiliary
        self.squared_error_auxiliary = squared_error_auxiliary
        self.recurrence = recurrence
        latent_chain.choose(recurrence)
        self.embedding = likelihood.embedding(embedding_size)
        self.missing_embedding = missing_embedding(likelihood, embedding_size) if missing else None
        input_size = embedding_size + covariate_size
        self.dropout = Dropout(embedding_dropout)
        self.backward_lstm = nn.LSTM(
            input_size, hidden_size, num_layers=backward_layers, batch_first=True
        )
        orthogonal_recurrent_weights(self.backward_lstm)
        self.prior_network = GatedTransition(
            latent_size, transition_size or mlp_size, covariate_size
        )
        self.posterior_network = GaussianMLP(latent_size + hidden_size, mlp_size, latent_size)
        self.auxiliary_network = GaussianMLP(
            2 * latent_size + covariate_size, mlp_size, hidden_size
        )
        output = likelihood.output(mlp_size, self.embedding)
        self.output = HiddenLayer(
            latent_size + covariate_size, mlp_size, output, Dropout(output_dropout, dim=-2)
        )
        self.reverse_output = nn.Linear(hidden_size, likelihood.parameter_size)

    # On an H200 with torch 2.11, captured steps in bfloat16 were not finite after a few replays;
    # the same steps without graphs were. The cause is not known.
    captures_bfloat16 = False

    def initial_state(self, rows: int) -> State:
        """(z_0,), zeros; with covariates (z_0, u_0)."""
        like = self.reverse_output.weight
        z = like.new_zeros(rows, self.latent_size)
        return (z, like.new_zeros(rows, self.covariate_size)) if self.covariate_size else (z,)

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        """b_1..b_T, the states of the backward LSTM."""
        del input_features
        return run_backward(self.backward_lstm, embedded, mask)

    def prepare(self, inputs: Tensor, state: State) -> State:
        return self._with_covariates(self.maybe_stop_gradient(state[0]), inputs)

    def context(self, state: State) -> Tensor:
        """z_{t-1}, or [z_{t-1}, u_t]."""
        return join(*state) if self.covariate_size else state[0]

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        return self.posterior_network(join(context[..., : self.latent_size], future))

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        del state
        return self._with_covariates(z, inputs)

    def features(self, state: State) -> Tensor:
        """z_t, or [z_t, u_t]."""
        return join(*state) if self.covariate_size else state[0]

    def _with_covariates(self, z: Tensor, inputs: Tensor) -> State:
        if not self.covariate_size:
            return (z,)
        covariates = inputs[..., -self.covariate_size :]
        return z, covariates.expand(*z.shape[:-1], -1)

    def sample_posterior_path(
        self, future: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> PosteriorPath:
        run = latent_chain.choose(self.recurrence)
        if self.skips_gradients:
            run = partial(latent_chain.plain, into_next=self.maybe_stop_gradient)
        network = self.posterior_network
        z, mean, log_variance = run(network, None, future, input_features, noise, state[0])
        if self.covariate_size:
            input_features = input_features.repeat(len(noise) // len(future), 1, 1)
        contexts = self.states_given_latents(z, input_features, state)
        last = self._with_covariates(z[:, -1], input_features[:, -1])
        return PosteriorPath(z, *contexts, mean, log_variance, last)

    def states_given_latents(
        self, z: Tensor, input_features: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        """[z_{t-1}, u_t] and [z_t, u_t]."""
        previous = self.maybe_stop_gradient(delay(state[0], z))
        if not self.covariate_size:
            return previous, z
        covariates = input_features[..., -self.covariate_size :]
        return join(previous, covariates), join(z, covariates)

"""The variational recurrent neural network, VRNN (Chung et al., NIPS 2015)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from zpyro.likelihoods import Likelihood
from zpyro.models.base import SequenceModel
from zpyro.models.steps import OPTIONAL_SIZE, PosteriorPath, delay, join, missing_embedding
from zpyro.nn.layers import ConditionalLayerNormLSTM, GaussianMLP, HiddenLayer, LatentLSTM, State
from zpyro.nn.noise import Dropout
from zpyro.nn.recurrence import Recurrence, choose, plain


class VRNN(SequenceModel):
    """A variational autoencoder at every step, held together by an LSTM.

    With x_0 the start frame, z_0 = 0 and d_0 = 0, for t = 1..T::

        recurrence   d_t = LSTM([g(z_{t-1}), e(x_{t-1})], d_{t-1})
        prior        z_t | d_t        ~ N(mu_p(d_t), diag sigma_p(d_t)^2)
        likelihood   x_t | z_t, d_t   ~ p(x | f(z_t, d_t))
        posterior    z_t | d_t, x_t   ~ N(mu_q(d_t, e(x_t)), diag sigma_q(d_t, e(x_t))^2)

    The paper's h_{t-1} is d_t here, so that the start frame has a place; its extractors phi_x and
    phi_z are e and g, one Linear each before the LSTM, while f is an MLP of (z_t, d_t). Nothing
    runs backward: there are no auxiliary costs.

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`.
        hidden_size: H.
        latent_size: Z.
        embedding_size: E, of e(x).
        mlp_size: width of the prior, posterior and output MLPs, and of g(z).
        conditional_layer_norm: let z set the layer norm of the cell instead of entering as its
            input, see :class:`zpyro.nn.layers.ConditionalLayerNormLSTM`.
        embedding_dropout: dropout on e(x) while training.
        output_dropout: dropout on the hidden layer of the output MLP while training.
        missing: whether frames may have missing values, whose mask the networks then read.
        covariate_size: C, numbers u_t known for every step that the networks read too.
        granularity: "sequence" (one site for all steps, fast) or "step" (a site a step).
        recurrence: a name of :data:`zpyro.nn.recurrence.RECURRENCES`, or "auto".

    Raises:
        ValueError: for an unknown granularity or recurrence.

    Source: equations 5 to 9 of arXiv:1506.02216::

        @inproceedings{chung2015vrnn,
          title={A Recurrent Latent Variable Model for Sequential Data},
          author={Chung, Junyoung and Kastner, Kyle and Dinh, Laurent and Goel, Kratarth and
                  Courville, Aaron and Bengio, Yoshua},
          booktitle={Advances in Neural Information Processing Systems},
          year={2015}
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
        conditional_layer_norm: bool = False,
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
        self.recurrence = recurrence
        choose(recurrence)
        cell = ConditionalLayerNormLSTM if conditional_layer_norm else LatentLSTM
        self.embedding = likelihood.embedding(embedding_size)
        self.missing_embedding = missing_embedding(likelihood, embedding_size) if missing else None
        input_size = embedding_size + covariate_size
        self.dropout = Dropout(embedding_dropout)
        self.cell = cell(latent_size, input_size, mlp_size, hidden_size)
        self.prior_network = GaussianMLP(hidden_size, mlp_size, latent_size)
        self.posterior_network = GaussianMLP(hidden_size + input_size, mlp_size, latent_size)
        output = likelihood.output(mlp_size, self.embedding)
        self.output = HiddenLayer(
            latent_size + hidden_size, mlp_size, output, Dropout(output_dropout, dim=-2)
        )

    def initial_state(self, rows: int) -> State:
        """(d_0, c_0, z_0), zeros."""
        hidden, cell = super().initial_state(rows)
        return hidden, cell, hidden.new_zeros(rows, self.latent_size)

    def prepare(self, inputs: Tensor, state: State) -> State:
        hidden, cell, z = state
        inputs = inputs.expand(*z.shape[:-1], -1)
        return *self.cell.step(self.maybe_stop_gradient(z), inputs, (hidden, cell)), z

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        del inputs
        return state[0], state[1], z

    def features(self, state: State) -> Tensor:
        """[z_t, d_t]."""
        return join(state[2], state[0])

    def sample_posterior_path(
        self, future: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> PosteriorPath:
        # In the order z_t, d_{t+1} this is the loop of Z-Forcing; it starts from d_1, and the
        # input of its last, unused step is arbitrary.
        particles = noise.shape[0] // future.shape[0]
        hidden, cell, z = state
        inputs = input_features[:, 0].repeat(particles, 1)
        first = self.cell.step(z, inputs, (hidden, cell))
        following = torch.cat([input_features[:, 1:], future[:, -1:]], dim=1)
        path = self._loop()(self.posterior_network, self.cell, future, following, noise, first)
        context = delay(first[0], path.hidden)
        features = join(path.z.to(context.dtype), context)
        return PosteriorPath(path.z, context, features, path.mean, path.log_variance, path.state)

    def _loop(self) -> Recurrence:
        if self.skips_gradients:
            return partial(plain, into_cell=self.maybe_stop_gradient)
        return choose(self.recurrence)

    def states_given_latents(
        self, z: Tensor, input_features: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        hidden, cell, first = state
        previous = self.maybe_stop_gradient(delay(first, z))
        context = self.cell(previous, input_features, (hidden, cell))[0]
        return context, join(z.to(context.dtype), context)

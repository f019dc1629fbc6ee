"""A recurrent network without latents, the paper's RNN-Gauss and RNN-GMM."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from zpyro.likelihoods import Likelihood
from zpyro.models.base import SequenceModel
from zpyro.models.steps import OPTIONAL_SIZE, PosteriorPath, delay, missing_embedding
from zpyro.nn.layers import State, lstm_states, lstm_step, orthogonal_recurrent_weights
from zpyro.nn.noise import Dropout


class RNN(SequenceModel):
    """An LSTM that predicts each frame from those before it.

    With x_0 the start frame and h_0 = 0, for t = 1..T::

        recurrence   h_t = LSTM(e(x_{t-1}), h_{t-1})
        likelihood   x_t | h_t  ~ p(x | f(h_t))

    There are no latents (Z = 0): the model has no site ``z``, the guide samples nothing, and every
    evidence lower bound is the exact log-likelihood.

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`; a Gaussian makes it the
            RNN-Gauss, a mixture the RNN-GMM of the paper's tables.
        hidden_size: H.
        embedding_size: E, of e(x).
        embedding_dropout: dropout on e(x) while training.
        output_dropout: dropout on the states that the output layer reads while training.
        missing: whether frames may have missing values, whose mask the networks then read.
        covariate_size: C, numbers u_t known for every step that the networks read too.
        granularity: "sequence" (one site for all steps, fast) or "step" (a site a step).

    Raises:
        ValueError: for an unknown granularity.

    Source: the baseline of section 4 of arXiv:1506.02216; its sequence likelihood is that of
    arXiv:1308.0850::

        @article{graves2013generating,
          title={Generating Sequences With Recurrent Neural Networks},
          author={Graves, Alex},
          journal={arXiv preprint arXiv:1308.0850},
          year={2013}
        }
    """

    def __init__(
        self,
        likelihood: Likelihood,
        hidden_size: int = 256,
        embedding_size: int = 128,
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
            0,
            granularity,
            missing=missing,
            covariate_size=covariate_size,
        )
        self.embedding = likelihood.embedding(embedding_size)
        self.missing_embedding = missing_embedding(likelihood, embedding_size) if missing else None
        input_size = embedding_size + covariate_size
        self.dropout = Dropout(embedding_dropout)
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        orthogonal_recurrent_weights(self.lstm)
        self.output_dropout = Dropout(output_dropout, dim=-2)
        self.output = likelihood.output(hidden_size, self.embedding)

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Nothing, (B, T, 0)."""
        del input_features, mask
        return embedded[..., :0]

    def prior(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return context[..., :0], context[..., :0]

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        del future
        return self.prior(context)

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        del z
        lead = torch.broadcast_shapes(inputs.shape[:-1], state[0].shape[:-1])
        expanded = tuple(part.expand(*lead, -1) for part in state)
        return lstm_step(self.lstm, inputs.expand(*lead, -1), expanded)

    def sample_posterior_path(
        self, future: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> PosteriorPath:
        del future
        inputs = input_features.repeat(noise.shape[0] // input_features.shape[0], 1, 1)
        hidden, last = lstm_states(self.lstm, inputs, state)
        return PosteriorPath(noise, delay(state[0], hidden), hidden, noise, noise, last)

    def states_given_latents(
        self, z: Tensor, input_features: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        del z
        hidden = lstm_states(self.lstm, input_features, state)[0]
        return delay(state[0], hidden), hidden

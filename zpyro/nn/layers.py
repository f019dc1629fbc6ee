"""Network layers in plain torch: MLPs, two recurrent cells, LSTM functions, Gaussian densities.

Activation, clamps, gate order and orthogonal recurrent weights are those of the code published with
Z-Forcing (Goyal et al., NeurIPS 2017, arXiv:1711.05411).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zpyro.nn.precision import run_lstm

LEAKY_SLOPE = 1.0 / 3.0
ACTIVATION_BOUND = 3.0
GAUSSIAN_BOUND = 8.0
LAYER_NORM_EPSILON = 1e-5

State = tuple[Tensor, ...]
"""The state of a model, h first; for an LSTM (h, c), each (N, H)."""


def clamped_leaky_relu(values: Tensor) -> Tensor:
    """Leaky ReLU of slope 1/3, clamped to [-3, 3]."""
    activated = nn.functional.leaky_relu(values, LEAKY_SLOPE)
    return activated.clamp(-ACTIVATION_BOUND, ACTIVATION_BOUND)


class MLP(nn.Module):
    """Linear, clamped leaky ReLU, Linear: (..., input_size) to (..., output_size)."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_size, hidden_size)
        self.output = nn.Linear(hidden_size, output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(clamped_leaky_relu(self.hidden(inputs)))


class HiddenLayer(nn.Module):
    """An MLP with a given output layer, for example that of a likelihood.

    Args:
        input_size: numbers of an input.
        hidden_size: width.
        output: the output layer.
        dropout: applied to the hidden layer; none by default.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output: nn.Module,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_size, hidden_size)
        self.dropout = nn.Identity() if dropout is None else dropout
        self.output = output

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(self.dropout(clamped_leaky_relu(self.hidden(inputs))))


class GaussianMLP(MLP):
    """An MLP whose outputs are the mean and log variance of a Gaussian, both clamped to [-8, 8].

    Example:
        >>> mean, log_variance = GaussianMLP(16, 32, 4)(torch.zeros(3, 16))
        >>> mean.shape
        torch.Size([3, 4])
    """

    def __init__(self, input_size: int, hidden_size: int, size: int) -> None:
        super().__init__(input_size, hidden_size, 2 * size)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        outputs = super().forward(inputs).clamp(-GAUSSIAN_BOUND, GAUSSIAN_BOUND)
        mean, log_variance = outputs.chunk(2, dim=-1)
        return mean, log_variance


class MissingEmbedding(nn.Module):
    """What e(x) becomes where numbers of x, stored as zeros, are missing: e(x) + W (1 - m).

    With e(x) one Linear this is a Linear of the frame and its mask. Without missing values nothing
    changes.

    Args:
        size: D, or 1 for tokens, whose e(x) becomes a learned vector.
        embedding_size: E.
    """

    def __init__(self, size: int, embedding_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, embedding_size, bias=False)

    def forward(self, embedded: Tensor, observed: Tensor) -> Tensor:
        """The embedding of frames.

        Args:
            embedded: e(x), (..., E).
            observed: m, (..., D), or (...,) for tokens.
        """
        if observed.dim() < embedded.dim():
            observed = observed.unsqueeze(-1)
            embedded = embedded.where(observed, embedded.new_zeros(()))
        return embedded + self.linear((~observed).to(embedded.dtype))


class TiedLinear(nn.Module):
    """logits = e P h + c, where e is the weight (V, E) of an embedding of another module.

    P is a Linear without bias, or the identity where H equals E. The embedding is not a submodule,
    so the shared weight appears once among a model's parameters and in a checkpoint.

    Args:
        hidden_size: H.
        embedding: the module whose weight is shared.
    """

    def __init__(self, hidden_size: int, embedding: nn.Embedding) -> None:
        super().__init__()
        size = embedding.embedding_dim
        self.projection = (
            nn.Identity() if size == hidden_size else nn.Linear(hidden_size, size, bias=False)
        )
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        # torch does not register modules inside a tuple as submodules.
        self._table = (embedding,)

    @property
    def weight(self) -> Tensor:
        """The shared weight, (V, E)."""
        return self._table[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(self.projection(hidden), self.weight, self.bias)


class LatentLSTM(nn.Module):
    """The recurrence h_t = LSTM([g(z_t), e(x_{t-1})], h_{t-1}) with g one Linear.

    The weights belong to ``lstm``, an ``nn.LSTM`` with gates ordered i, f, g, o. For known z, all
    steps are one call.

    Args:
        latent_size: Z.
        embedding_size: size E of e(x).
        projection_size: size M of g(z).
        hidden_size: H.

    Example:
        >>> cell = LatentLSTM(latent_size=4, embedding_size=8, projection_size=6, hidden_size=16)
        >>> state = torch.zeros(3, 16), torch.zeros(3, 16)
        >>> hidden, state = cell(torch.zeros(3, 5, 4), torch.zeros(3, 5, 8), state)
        >>> hidden.shape
        torch.Size([3, 5, 16])
    """

    def __init__(
        self, latent_size: int, embedding_size: int, projection_size: int, hidden_size: int
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.projection = nn.Linear(latent_size, projection_size)
        self.lstm = nn.LSTM(projection_size + embedding_size, hidden_size, batch_first=True)
        orthogonal_recurrent_weights(self.lstm)

    def step(self, z: Tensor, embedded: Tensor, state: State) -> State:
        """The state after one step with z (N, Z) and e(x_{t-1}) (N, E)."""
        inputs = torch.cat([self.projection(z), embedded], dim=-1)
        return lstm_step(self.lstm, inputs, state)

    def forward(self, z: Tensor, embedded: Tensor, state: State) -> tuple[Tensor, State]:
        """All steps for known z (N, T, Z): h_1..h_T (N, T, H) and the last state."""
        inputs = torch.cat([self.projection(z), embedded], dim=-1)
        return lstm_states(self.lstm, inputs, state)


class ConditionalLayerNormLSTM(nn.Module):
    """An LSTM on e(x_{t-1}) with a hidden-to-gate layer norm that is conditioned on z_t.

    gates = norm(W_ih e(x_{t-1})) * gain_ih + bias_ih
          + norm(W_hh h_{t-1}) * (1 + gain(z_t)) + bias(z_t)

    where (gain, bias)(z) is an MLP clamped to [-3, 3] and norm is :func:`layer_norm`. Arguments,
    methods and example as in :class:`LatentLSTM`.
    """

    def __init__(
        self, latent_size: int, embedding_size: int, projection_size: int, hidden_size: int
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        gates = 4 * hidden_size
        self.projection = MLP(latent_size, projection_size, 2 * gates)
        self.input_weight = nn.Parameter(torch.empty(gates, embedding_size))
        self.hidden_weight = nn.Parameter(torch.empty(gates, hidden_size))
        self.input_gain = nn.Parameter(torch.ones(gates))
        self.input_bias = nn.Parameter(torch.zeros(gates))
        nn.init.xavier_uniform_(self.input_weight)
        orthogonal_gates(self.hidden_weight)

    def modulation(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and bias (..., 4H) of the hidden-to-gate term, from z."""
        outputs = self.projection(z).clamp(-ACTIVATION_BOUND, ACTIVATION_BOUND)
        gain, bias = outputs.chunk(2, dim=-1)
        return 1.0 + gain, bias

    def input_gates(self, embedded: Tensor) -> Tensor:
        """The part of the gates (..., 4H) that depends on e(x_{t-1})."""
        normalized = layer_norm(nn.functional.linear(embedded, self.input_weight))
        return normalized * self.input_gain + self.input_bias

    def step(self, z: Tensor, embedded: Tensor, state: State) -> State:
        """The state after one step with z (N, Z) and e(x_{t-1}) (N, E)."""
        return self._advance(self.input_gates(embedded), *self.modulation(z), state)

    def forward(self, z: Tensor, embedded: Tensor, state: State) -> tuple[Tensor, State]:
        """All steps for known z (N, T, Z): h_1..h_T (N, T, H) and the last state."""
        inputs = self.input_gates(embedded)
        gain, bias = self.modulation(z)
        hidden: list[Tensor] = []
        for t in range(z.shape[1]):
            state = self._advance(inputs[:, t], gain[:, t], bias[:, t], state)
            hidden.append(state[0])
        return torch.stack(hidden, dim=1), state

    def _advance(self, inputs: Tensor, gain: Tensor, bias: Tensor, state: State) -> State:
        recurrent = layer_norm(nn.functional.linear(state[0], self.hidden_weight))
        return lstm_update(inputs + recurrent * gain + bias, state[1])


Cell = LatentLSTM | ConditionalLayerNormLSTM


def layer_norm(values: Tensor) -> Tensor:
    """Center and scale the last dimension, with the unbiased variance of the published code."""
    variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
    return (values - mean) * (variance + LAYER_NORM_EPSILON).rsqrt()


def lstm_update(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The new (h, c) from the gates' pre-activations (N, 4H), ordered i, f, g, o, and c (N, H)."""
    i, f, g, o = gates.chunk(4, dim=-1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def orthogonal_gates(weight: Tensor) -> None:
    """Make each of the four square blocks of a recurrent weight (4H, H) orthogonal, in place."""
    for block in weight.chunk(4, dim=0):
        nn.init.orthogonal_(block)


def orthogonal_recurrent_weights(lstm: nn.LSTM) -> None:
    """Orthogonal hidden-to-gate weights for every layer of an LSTM, in place."""
    for name, weight in lstm.named_parameters():
        if name.startswith("weight_hh"):
            orthogonal_gates(weight.data)


def run_backward(lstm: nn.LSTM, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """States (B, T, H) of an LSTM that runs from the end of each sequence to its beginning.

    Args:
        lstm: batch-first.
        inputs: (B, T, E).
        mask: (B, T), True within each sequence; None where all have T steps.
    """
    if mask is None:
        return run_lstm(lstm, inputs.flip(1))[0].flip(1)
    # Reverse each sequence within its length and leave padding in place.
    positions = torch.arange(mask.shape[1], device=mask.device)
    order = (mask.sum(1, keepdim=True) - 1 - positions).where(mask, positions).unsqueeze(-1)
    states, _ = run_lstm(lstm, inputs.gather(1, order.expand_as(inputs)))
    return states.gather(1, order.expand_as(states))


def lstm_step(lstm: nn.LSTM, inputs: Tensor, state: State) -> State:
    """The state (h, c), each (..., H), of a one-layer LSTM after one step with inputs (..., E)."""
    input_weight, hidden_weight, input_bias, hidden_bias = lstm.all_weights[0]
    gates = nn.functional.linear(inputs, input_weight, input_bias)
    gates = gates + nn.functional.linear(state[0], hidden_weight, hidden_bias)
    return lstm_update(gates, state[1])


def lstm_states(lstm: nn.LSTM, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    """All steps of a one-layer LSTM: its states (N, T, H) and the last (h, c)."""
    h, c = (part.to(inputs.dtype).unsqueeze(0) for part in state)
    hidden, last = run_lstm(lstm, inputs, (h, c))
    return hidden, (last[0][0], last[1][0])


def gaussian_log_density(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Elementwise log N(values; mean, exp(log_variance)), nats."""
    squared = (values - mean).square() * (-log_variance).exp()
    return -0.5 * (squared + log_variance + math.log(2.0 * math.pi))


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor
) -> Tensor:
    """Elementwise KL of two Gaussians with these means and log variances, nats."""
    difference = log_variance - prior_log_variance
    scaled = (mean - prior_mean).square() * (-prior_log_variance).exp()
    return 0.5 * (difference.exp() + scaled - 1.0 - difference)

"""Frames of independent bits, and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from zpyro.errors import UserError
from zpyro.likelihoods.base import Likelihood, sample_index, sum_of_observed
from zpyro.nn.layers import TiedLinear


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Independent bits; the output layer gives their logits."""

    name: ClassVar[str] = "bernoulli"

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, 1)

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        logits = parameters / temperature
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        probabilities = (parameters / temperature).sigmoid()
        return (torch.rand_like(probabilities) < probabilities).to(parameters.dtype)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        masses = dist.Bernoulli(logits=parameters, validate_args=False).log_prob(value)
        return sum_of_observed(masses, observed)


@dataclass(frozen=True)
class Categorical(Likelihood):
    """One token out of ``size``; the output layer gives logits, e(x) is an embedding table.

    Attributes:
        start_token: x_0 when no start is given.
        tied: compute logits with the weight of the embedding: logits = e P h + c with e the table
            (size, E) and P a projection from H to E where the two sizes differ (Press and Wolf,
            EACL 2017, arXiv:1608.05859). The reverse network has a separate output layer.
    """

    start_token: int = 0
    tied: bool = False

    name: ClassVar[str] = "categorical"
    discrete_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start_token < self.size:
            raise UserError(
                f"start_token {self.start_token} is not in the vocabulary of {self.size} tokens;"
                f" give a number from 0 to {self.size - 1}"
            )

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.size - 1)

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        return dist.Categorical(logits=parameters / temperature, validate_args=False)

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        return sample_index(parameters / temperature)

    def log_prob(self, parameters: Tensor, value: Tensor) -> Tensor:
        # gather does not broadcast dimensions of size one.
        shape = torch.broadcast_shapes(parameters.shape[:-1], value.shape)
        # log_softmax reads a large vocabulary once per direction, logsumexp several times.
        log_masses = parameters.log_softmax(-1).expand(*shape, self.size)
        return log_masses.gather(-1, value.expand(shape).unsqueeze(-1)).squeeze(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(-1)

    def embedding(self, embedding_size: int) -> nn.Module:
        table = nn.Embedding(self.size, embedding_size)
        if self.tied:
            # With rows of unit variance the initial logits of a shared weight would be too large.
            nn.init.normal_(table.weight, std=embedding_size**-0.5)
        return table

    def output(self, hidden_size: int, embedding: nn.Module) -> nn.Module:
        if not self.tied:
            return super().output(hidden_size, embedding)
        if not isinstance(embedding, nn.Embedding) or embedding.num_embeddings != self.size:
            raise UserError(
                f"a tied output layer needs an embedding table of {self.size} tokens; the model's"
                f" is {embedding}; set model.tied_embedding to false"
            )
        return TiedLinear(hidden_size, embedding)

    def start(self, count: int, like: Tensor) -> Tensor:
        return torch.full((count,), self.start_token, dtype=torch.long, device=like.device)

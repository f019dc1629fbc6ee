"""Prefix sums by Z-Forcing: a learned sequential automaton, to compare with iterated networks.

The bits u_1..u_T are given and the sums y_1..y_T are modeled, one after another::

    z_t | h_{t-1}   ~ N(mu_p(h_{t-1}), sigma_p(h_{t-1})^2)
    h_t             = LSTM([g(z_t), e(u_t)], h_{t-1})
    y_t | h_t       ~ Bernoulli(f(h_t))

so y_t is sampled given u_1..u_t and the latents. The earlier sums are *not* fed back: y_t would be
the exclusive or of its inputs. The posterior reads an LSTM that runs backward over the later
sums and bits, as in :class:`zpyro.ZForcing`, whose programs and objective are used unchanged: a
frame holds y_t and the bit u_{t+1} that is read next, only the first is scored, and the
start frame holds u_1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn import functional

import zpyro
from zpyro.likelihoods import Bernoulli
from zpyro.nn.layers import State

from .solvers import Answer, Solver

SUM, NEXT_BIT = 0, 1


@dataclass(frozen=True)
class ScoredSum(Bernoulli):
    """Frames (sum, next bit) of which only the sum is scored."""

    name: ClassVar[str] = "scored-sum"

    @property
    def parameter_size(self) -> int:
        return 1

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        raise NotImplementedError("the next bit is given, not drawn; use ZForcingSolver.answers")

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        raise NotImplementedError("the next bit is given, not drawn; use ZForcingSolver.answers")

    def log_prob(self, parameters: Tensor, value: Tensor) -> Tensor:
        loss = functional.binary_cross_entropy_with_logits
        target = value[..., SUM].expand(parameters.shape[:-1])
        return -loss(parameters[..., 0], target, reduction="none")


class SumEmbedding(nn.Module):
    """(..., 2) frames to (..., 2 E): the embedding of the sum, then that of the bit."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.sum = nn.Linear(1, size)
        self.bit = nn.Linear(1, size)

    def forward(self, frames: Tensor) -> Tensor:
        return torch.cat([self.sum(frames[..., :1]), self.bit(frames[..., 1:])], dim=-1)


class PrefixSumZForcing(zpyro.ZForcing):
    """Z-Forcing whose recurrence reads only the bits; the backward LSTM reads the sums too.

    Args:
        hidden_size: H, of both LSTMs.
        latent_size: Z.
        embedding_size: E, of a bit and of a sum.
    """

    def __init__(self, hidden_size: int, latent_size: int, embedding_size: int) -> None:
        super().__init__(
            ScoredSum(2), hidden_size, latent_size, 2 * embedding_size, mlp_size=hidden_size
        )
        self.embedding = SumEmbedding(embedding_size)
        self.embedding_size = embedding_size

    def input_features(self, inputs: Tensor) -> Tensor:
        return self.bits_alone(inputs)

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        return super().transition(z, self.bits_alone(inputs), state)

    def bits_alone(self, inputs: Tensor) -> Tensor:
        """Embedded frames (..., 2 E) with the sums' half zeroed."""
        mask = torch.arange(inputs.shape[-1], device=inputs.device) >= self.embedding_size
        return inputs * mask


class ZForcingSolver(Solver):
    """Trains :class:`PrefixSumZForcing`; an answer takes one pass over the string.

    Args:
        hidden_size: H.
        auxiliary_weight: alpha of the objective.
    """

    def __init__(self, hidden_size: int, auxiliary_weight: float = 0.005) -> None:
        super().__init__()
        self.module = PrefixSumZForcing(hidden_size, latent_size=8, embedding_size=16)
        self.elbo = zpyro.ZForcingELBO(auxiliary_weight=auxiliary_weight)

    @property
    def longest(self) -> int:
        return 1

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        frames, start = frames_of(inputs, targets)
        terms = self.elbo.terms(self.module.model, self.module.guide, frames, None, start)
        return terms.loss / targets.numel()

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        """The most probable sums along the prior's mean."""
        del iterations
        module = self.module
        frames, start = frames_of(inputs, torch.zeros_like(inputs[:, 0]))
        read = torch.cat([start.unsqueeze(1), frames[:, :-1]], dim=1)
        embedded = module.embed(read)
        state, logits = module.initial_state(len(inputs)), []
        for t in range(embedded.shape[1]):
            z, _ = module.prior(state[0])
            state = module.transition(z, embedded[:, t], state)
            logits.append(module.emission(state[0]))
        one = torch.cat(logits, dim=1)
        yield Answer(torch.stack([torch.zeros_like(one), one], dim=1))


def frames_of(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Bits (B, 1, T) and sums (B, T) as frames (B, T, 2) and the start frame (B, 2)."""
    bits = inputs[:, 0] if inputs.is_floating_point() else inputs[:, 0].float()
    following = functional.pad(bits[:, 1:], (0, 1))
    frames = torch.stack([targets.to(bits.dtype), following], dim=-1)
    return frames, torch.stack([torch.zeros_like(bits[:, 0]), bits[:, 0]], dim=-1)

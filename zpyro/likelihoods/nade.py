"""Frames of bits that depend on each other: the neural autoregressive distribution estimator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from zpyro.errors import UserError
from zpyro.likelihoods.base import TemperedLikelihood, sample_index
from zpyro.settings import setting

ELEMENTS_AT_ONCE = 1 << 25
"""Of the largest intermediate tensors; more are computed again in the backward pass."""
ROWS_AT_ONCE = 512
"""Frames of about as many set bits that a CPU computes together: their hidden layers need no
padding, and stay in its cache."""
MOST_MISSING = 10
"""Bits before the last observed one of a frame that can be integrated out, 2^10 terms."""


class NADEWeights(nn.Module):
    """W and V of a NADE, each (D, H), initialized as the weights of a Linear.

    Args:
        size: D.
        hidden_size: H.
    """

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__()
        self.into_hidden = nn.Parameter(torch.empty(size, hidden_size))
        self.from_hidden = nn.Parameter(torch.empty(size, hidden_size))
        nn.init.uniform_(self.into_hidden, -(size**-0.5), size**-0.5)
        nn.init.uniform_(self.from_hidden, -(hidden_size**-0.5), hidden_size**-0.5)


@dataclass(frozen=True)
class NADE(TemperedLikelihood):
    """Bits in a fixed order, each given those before it, with one hidden layer of shared weights::

        h_d = sigmoid(c + sum_{i < d} W_i x_i)
        p(x_d = 1 | x_1..x_{d-1}) = sigmoid(b_d + V_d h_d)

    The output layer gives b (D) and c (H) of every frame, as in RNN-NADE; W and V belong to the
    model. A model makes them, see :meth:`with_weights`; the reverse network has its own b and c and
    shares them.

    Bits that are missing are summed over where observed ones follow in the frame, at most ten of
    them. :meth:`mean` is an approximation: each probability given the probabilities of the bits
    before it. A temperature divides the logits of every bit.

    Attributes:
        nade_size: H.
        weights: W and V of a model; None until :meth:`with_weights`.

    Source: equations 1 to 3 of *The Neural Autoregressive Distribution Estimator*, and for
    sequences arXiv:1206.6392::

        @inproceedings{larochelle2011nade,
          title={The Neural Autoregressive Distribution Estimator},
          author={Larochelle, Hugo and Murray, Iain},
          booktitle={International Conference on Artificial Intelligence and Statistics},
          year={2011}
        }

    Example:
        >>> likelihood, weights = NADE(88, nade_size=32).with_weights()
        >>> parameters = torch.zeros(4, likelihood.parameter_size)
        >>> likelihood.log_prob(parameters, likelihood.sample(parameters)).shape
        torch.Size([4])
    """

    nade_size: int = setting(64, "hidden units of the likelihood nade", at_least=1, at_most=1 << 14)
    weights: NADEWeights | None = field(default=None, init=False, repr=False, compare=False)

    name: ClassVar[str] = "nade"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nade_size < 1:
            raise UserError(f"nade_size is {self.nade_size}; give a positive number")

    def with_weights(self) -> tuple[NADE, NADEWeights]:
        weights = NADEWeights(self.size, self.nade_size)
        bound = replace(self)
        object.__setattr__(bound, "weights", weights)
        return bound, weights

    @property
    def parameter_size(self) -> int:
        return self.size + self.nade_size

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, 1)

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        return self._complete(parameters, temperature)

    def log_prob(self, parameters: Tensor, value: Tensor, temperature: float = 1.0) -> Tensor:
        return self.log_masses(parameters, value, temperature).sum(-1)

    def log_masses(self, parameters: Tensor, value: Tensor, temperature: float = 1.0) -> Tensor:
        """log p(x_d | x_1..x_{d-1}) of every bit, nats, (..., D).

        The hidden layer changes only after a bit that is set, so that it is computed once for each
        of those instead of for every d; on a CPU in blocks of frames sorted by their set bits.

        Args:
            parameters: (..., parameter_size).
            value: (..., D); leading dimensions are broadcast.
            temperature: divides the logits.
        """
        weights = self._weights()
        numbers = temperature, weights.into_hidden, weights.from_hidden
        lead = torch.broadcast_shapes(parameters.shape[:-1], value.shape[:-1])
        rows = [
            part.expand(*lead, part.shape[-1]).reshape(-1, part.shape[-1])
            for part in (parameters, value)
        ]
        order: Tensor | None = None
        # On an accelerator, reading the numbers of set bits would synchronize with it.
        if value.device.type == "cpu" and len(rows[1]):
            counts, order = (rows[1] != 0).sum(-1).sort()
            rows = [part[order] for part in rows]
            blocks = [part.split(ROWS_AT_ONCE) for part in rows]
            most = [int(part[-1]) for part in counts.split(ROWS_AT_ONCE)]
        else:
            elements = (self.size + 1) * self.parameter_size
            blocks = [part.split(max(1, ELEMENTS_AT_ONCE // elements)) for part in rows]
            most = [self.size] * len(blocks[1])
        steps = sum((k + 1) * len(part) for k, part in zip(most, blocks[1], strict=True))
        run = partial(_log_masses, *numbers)
        if steps * self.parameter_size > ELEMENTS_AT_ONCE:
            run = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=False)
        masses = torch.cat([run(*part) for part in zip(*blocks, most, strict=True)])
        if order is not None:
            masses = masses[order.argsort()]
        return masses.reshape(*lead, self.size)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        masses = self._completions(parameters, value, observed)[1]
        density = masses.logsumexp(0)
        return density.where(observed.any(-1), density.new_zeros(()))

    def impute(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        """The missing bits given all observed ones of the frame."""
        values, masses, scored = self._completions(parameters, value, observed)
        index = sample_index(masses.movedim(0, -1))[..., None]
        index = index.expand(*masses.shape[1:], self.size).unsqueeze(0)
        chosen = values.expand(len(values), *index.shape[1:]).gather(0, index).squeeze(0)
        return self._complete(parameters, 1.0, chosen, scored).to(value.dtype)

    def mean(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        """Probabilities of the bits, each given the probabilities before it, (..., D)."""
        return self._run(parameters, temperature, lambda _, probability: probability)

    def _complete(
        self,
        parameters: Tensor,
        temperature: float,
        value: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Sampled bits (..., D), those of a value where ``known``."""
        uniform = torch.rand_like(parameters[..., : self.size])

        def sampled(d: int, probability: Tensor) -> Tensor:
            bit = (uniform[..., d] < probability).to(probability.dtype)
            if value is None or known is None:
                return bit
            return value[..., d].to(bit.dtype).where(known[..., d], bit)

        with torch.no_grad():
            return self._run(parameters, temperature, sampled)

    def _run(
        self, parameters: Tensor, temperature: float, choose: Callable[[int, Tensor], Tensor]
    ) -> Tensor:
        """Bit by bit: what ``choose`` makes of d and p(x_d = 1 | x_1..x_{d-1}), (..., D)."""
        weights = self._weights()
        bias, hidden = parameters.split([self.size, self.nade_size], dim=-1)
        chosen: list[Tensor] = []
        for d in range(self.size):
            logit = bias[..., d] + hidden.sigmoid() @ weights.from_hidden[d].to(hidden.dtype)
            chosen.append(choose(d, (logit / temperature).sigmoid()))
            hidden = hidden + chosen[-1].unsqueeze(-1) * weights.into_hidden[d]
        return torch.stack(chosen, dim=-1)

    def _completions(
        self, parameters: Tensor, value: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Frames with all values of the missing bits that have an observed one after them.

        Returns:
            The frames (P, ..., D), their log-mass up to the last observed bit (P, ...), and which
            bits that mass counts (..., D).

        Raises:
            UserError: if there are more than :data:`MOST_MISSING` such bits in a frame.
        """
        lead = torch.broadcast_shapes(parameters.shape[:-1], value.shape[:-1])
        # The patterns are a new first dimension, so that every other one must be there.
        value, observed = (
            part.reshape(*(1,) * (len(lead) - part.dim() + 1), *part.shape)
            for part in (value, observed.expand(value.shape))
        )
        place = torch.arange(self.size, device=value.device)
        scored = place < ((place + 1) * observed).amax(-1, keepdim=True)
        missing = scored & ~observed
        count = missing.sum(-1)
        most = int(count.max()) if count.numel() else 0
        if most > MOST_MISSING:
            raise UserError(
                f"likelihood nade: {most} numbers of a frame are missing before its last observed "
                f"one, and at most {MOST_MISSING} can be summed over; mark whole frames as missing "
                "or take the likelihood bernoulli"
            )
        patterns = torch.arange(1 << most, device=value.device)
        patterns = patterns.reshape(-1, *(1,) * value.dim())
        bits = (patterns >> (missing.cumsum(-1) - 1).clamp(min=0)) & 1
        values = bits.to(value.dtype).where(missing, value)
        masses = self.log_masses(parameters, values)
        masses = masses.where(scored, masses.new_zeros(())).sum(-1)
        # Frames with fewer missing bits occur several times.
        return values, masses - (most - count).to(masses.dtype) * math.log(2.0), scored

    def _weights(self) -> NADEWeights:
        if self.weights is None:
            raise UserError(
                "likelihood nade: has no weights; use model.likelihood, or "
                "likelihood, weights = likelihood.with_weights()"
            )
        return self.weights


def _log_masses(
    temperature: float,
    into_hidden: Tensor,
    from_hidden: Tensor,
    parameters: Tensor,
    value: Tensor,
    most: int,
) -> Tensor:
    """See :meth:`NADE.log_masses`; ``most`` is at least the number of bits set in any frame."""
    size, hidden_size = into_hidden.shape
    bias, hidden_bias = parameters.split([size, hidden_size], dim=-1)
    value = value.to(parameters.dtype)
    is_set = value != 0
    # How many bits are set before each one: the row of the hidden layer that it depends on.
    before = is_set.cumsum(-1) - is_set.long()
    # The s-th set bit goes to column s, all others to a last one that is dropped.
    column = before.where(is_set, most)
    place = torch.arange(size, device=value.device).expand(value.shape)
    places = torch.zeros_like(before[..., :1]).expand(*before.shape[:-1], most + 1)
    places = places.scatter(-1, column, place)[..., :most]
    values = value.new_zeros(*value.shape[:-1], most + 1).scatter(-1, column, value)[..., :most]
    added = nn.functional.embedding(places, into_hidden) * values.unsqueeze(-1)
    sums = nn.functional.pad(added.cumsum(-2), (0, 0, 1, 0))
    logits = (sums + hidden_bias.unsqueeze(-2)).sigmoid() @ from_hidden.T
    row = before.unsqueeze(-2).expand(*logits.shape[:-2], 1, size)
    logits = (logits.gather(-2, row).squeeze(-2) + bias) / temperature
    return value * logits - softplus(logits)

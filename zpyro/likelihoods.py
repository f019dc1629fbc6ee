"""Likelihoods of one frame or token, given the numbers of the output layer.

Parameters have shape (..., parameter_size), values (...,) + event_shape, and log-probabilities
(...,), in nats.

Example:
    >>> likelihood = Gaussian(200, log_variance_bounds=(-14.0, 8.0))
    >>> parameters = torch.zeros(4, likelihood.parameter_size)
    >>> likelihood.log_prob(parameters, likelihood.sample(parameters)).shape
    torch.Size([4])
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from zpyro.errors import UserError
from zpyro.io.registry import Registry
from zpyro.nn.layers import TiedLinear, gaussian_log_density

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "GaussianMixture",
    "Likelihood",
    "build",
    "register",
]

LARGEST_SIZE = (1 << 20) - 1
"""Numbers in a frame, or tokens in a vocabulary; trigrams of so many tokens fit 64-bit numbers."""

Bounds = tuple[float, float] | None
"""Smooth lower and upper bound of a log variance, or None."""


@dataclass(frozen=True)
class Likelihood(abc.ABC):
    """Base class: the density of one frame as a frozen value.

    A subclass is a frozen dataclass with a ``name``; it defines ``distribution`` and ``sample``.
    It may override ``parameter_size`` (D by default), ``support`` (the reals), ``log_prob`` and
    ``mean`` (those of the distribution), ``observed_log_prob`` and ``impute`` (for missing values),
    ``embedding`` and ``output`` (one Linear each) and ``start`` (zeros). :func:`register` makes it
    available by name.

    Attributes:
        size: D, the numbers in a frame; for tokens the size of the vocabulary.
        name: the name in settings and checkpoints.
        discrete_tokens: whether a value is a token index instead of a frame.
    """

    size: int

    name: ClassVar[str]
    discrete_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"likelihood size is {self.size}; give a positive number")
        if self.size > LARGEST_SIZE:
            what = "a vocabulary" if self.discrete_tokens else "a frame"
            raise UserError(
                f"likelihood size is {self.size:,}; {what} has at most {LARGEST_SIZE:,}"
            )

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one frame: (D,), or () for tokens."""
        return torch.Size(() if self.discrete_tokens else (self.size,))

    @property
    def parameter_size(self) -> int:
        """Number of outputs of the output layer for one frame."""
        return self.size

    @property
    def support(self) -> constraints.Constraint:
        """Pyro constraint of one frame."""
        return constraints.real_vector

    @abc.abstractmethod
    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        """The Pyro distribution of one frame; a temperature below 1 narrows it."""

    @abc.abstractmethod
    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        """Sample from :meth:`distribution`, without checks that synchronize with the device."""

    def log_prob(self, parameters: Tensor, value: Tensor) -> Tensor:
        """log p(value), nats, (...,)."""
        return self.distribution(parameters).log_prob(value)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        """log p(observed part of value), nats, (...,): the density with the rest integrated out.

        By default whole frames can be missing; a likelihood that can also leave out single numbers
        of a frame overrides this.

        Args:
            parameters: (..., parameter_size).
            value: frames, anything finite where they are missing, (...,) + event shape.
            observed: True where a number is known, shaped as ``value``.

        Raises:
            UserError: for a frame that is known in part.
        """
        whole = observed
        if self.event_shape:
            whole = observed.all(-1)
            if bool((observed.any(-1) != whole).any()):
                raise UserError(
                    f"likelihood {self.name}: cannot leave out single numbers of a frame; define "
                    "observed_log_prob in its class, or mark whole frames as missing"
                )
        density = self.log_prob(parameters, value)
        return density.where(whole, density.new_zeros(()))

    def impute(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        """The value, its missing numbers sampled given the observed ones of the same frame.

        By default the numbers of a frame are independent given the parameters. Arguments are as in
        :meth:`observed_log_prob`.
        """
        return value.where(observed, self.sample(parameters).to(value.dtype))

    def mean(self, parameters: Tensor) -> Tensor:
        """Expected frame, (..., D); for tokens the most probable token, (...,)."""
        return self.distribution(parameters).mean

    def embedding(self, embedding_size: int) -> nn.Module:
        """A new module e(x): frames (..., D) to (..., E), by default one Linear."""
        return nn.Linear(self.size, embedding_size)

    def output(self, hidden_size: int, embedding: nn.Module) -> nn.Module:
        """A new module f(h): states (..., H) to parameters (..., parameter_size).

        Args:
            hidden_size: H.
            embedding: the model's e(x), for likelihoods that share its weight.
        """
        del embedding
        return nn.Linear(hidden_size, self.parameter_size)

    def start(self, count: int, like: Tensor) -> Tensor:
        """The default start frames x_0: zeros, (count, D)."""
        return like.new_zeros(count, self.size)


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """A diagonal Gaussian over frames; the output layer gives mean and log variance.

    Attributes:
        log_variance_bounds: smooth lower and upper bound of the log variance, or None for the
            published, unbounded choice (with which validation curves jump).
    """

    log_variance_bounds: Bounds = None

    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bounds(self.log_variance_bounds)

    @property
    def parameter_size(self) -> int:
        return 2 * self.size

    def mean_and_log_variance(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and (bounded) log variance, each (..., D)."""
        mean, log_variance = parameters.chunk(2, dim=-1)
        return mean, _bounded(log_variance, self.log_variance_bounds)

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        mean, log_variance = self.mean_and_log_variance(parameters)
        scale = temperature * (0.5 * log_variance).exp()
        return dist.Normal(mean, scale, validate_args=False).to_event(1)

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        mean, log_variance = self.mean_and_log_variance(parameters)
        return mean + temperature * (0.5 * log_variance).exp() * torch.randn_like(mean)

    def log_prob(self, parameters: Tensor, value: Tensor) -> Tensor:
        # From the log variance, which saves the exp, square and log of a scale per sample.
        return gaussian_log_density(value, *self.mean_and_log_variance(parameters)).sum(-1)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        densities = gaussian_log_density(value, *self.mean_and_log_variance(parameters))
        return _sum_of_observed(densities, observed)


@dataclass(frozen=True)
class GaussianMixture(Likelihood):
    """A mixture of K diagonal Gaussians over whole frames.

    p(x) = sum_k w_k prod_d N(x_d; mu_kd, sigma_kd^2), the output of RNN-GMM and VRNN-GMM (Chung et
    al., NeurIPS 2015, arXiv:1506.02216). The output layer gives, in this order, the K logits of
    the weights, the K D means and the K D log variances, component by component.

    Attributes:
        components: K.
        log_variance_bounds: as in :class:`Gaussian`, for every component.
    """

    components: int = 20
    log_variance_bounds: Bounds = None

    name: ClassVar[str] = "gaussian-mixture"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1:
            raise UserError(f"mixture components are {self.components}; give a positive number")
        _check_bounds(self.log_variance_bounds)

    @property
    def parameter_size(self) -> int:
        return self.components * (1 + 2 * self.size)

    def parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the weights (..., K), means and (bounded) log variances, each (..., K, D)."""
        frames = self.components * self.size
        logits, means, log_variances = parameters.split([self.components, frames, frames], dim=-1)
        shape = (self.components, self.size)
        bounded = _bounded(log_variances, self.log_variance_bounds)
        return logits, means.unflatten(-1, shape), bounded.unflatten(-1, shape)

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        logits, means, log_variances = self.parts(parameters)
        scales = temperature * (0.5 * log_variances).exp()
        return dist.MixtureSameFamily(
            dist.Categorical(logits=logits / temperature, validate_args=False),
            dist.Normal(means, scales, validate_args=False).to_event(1),
            validate_args=False,
        )

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        logits, means, log_variances = self.parts(parameters)
        index = _sample_index(logits / temperature)[..., None, None]
        index = index.expand(*logits.shape[:-1], 1, self.size)
        mean, log_variance = (part.gather(-2, index).squeeze(-2) for part in (means, log_variances))
        return mean + temperature * (0.5 * log_variance).exp() * torch.randn_like(mean)

    def log_prob(self, parameters: Tensor, value: Tensor) -> Tensor:
        logits, means, log_variances = self.parts(parameters)
        densities = gaussian_log_density(value.unsqueeze(-2), means, log_variances).sum(-1)
        return (logits.log_softmax(-1) + densities).logsumexp(-1)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        log_weights, _, _ = self._of_components(parameters, value, observed)
        density = log_weights.logsumexp(-1)
        # The weights sum to one only up to rounding.
        return density.where(observed.any(-1), density.new_zeros(()))

    def impute(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        """The missing numbers from the component that the observed ones suggest."""
        log_weights, means, log_variances = self._of_components(parameters, value, observed)
        index = _sample_index(log_weights)[..., None, None]
        index = index.expand(*log_weights.shape[:-1], 1, self.size)
        mean, log_variance = (part.gather(-2, index).squeeze(-2) for part in (means, log_variances))
        sampled = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return value.where(observed, sampled.to(value.dtype))

    def _of_components(
        self, parameters: Tensor, value: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k p_k(observed part) (..., K), means and log variances, each (..., K, D)."""
        logits, means, log_variances = self.parts(parameters)
        densities = gaussian_log_density(value.unsqueeze(-2), means, log_variances)
        known = _sum_of_observed(densities, observed.unsqueeze(-2))
        return logits.log_softmax(-1) + known, means, log_variances


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
        return _sum_of_observed(masses, observed)


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
        return _sample_index(parameters / temperature)

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


LIKELIHOODS: Registry[type[Likelihood]] = Registry("likelihood", group="zpyro.likelihoods")
"""Likelihood classes by name: the built-in ones, registered ones, and those of installed packages
that declare an entry point in the group ``zpyro.likelihoods``."""


def register(cls: type[Likelihood]) -> type[Likelihood]:
    """Add a likelihood class under its ``name``; usable as a decorator.

    Raises:
        UserError: if the name belongs to another class.
    """
    return LIKELIHOODS.register(cls.name, cls)


for _cls in (Gaussian, GaussianMixture, Bernoulli, Categorical):
    register(_cls)


def build(name: str, size: int, **settings: Any) -> Likelihood:
    """Make a likelihood by name.

    Raises:
        UserError: for a name that is not in :data:`LIKELIHOODS`.
    """
    return LIKELIHOODS.find(name)(size, **settings)


def _sum_of_observed(values: Tensor, observed: Tensor) -> Tensor:
    """The sum over a frame's numbers (..., D) that are observed, (...,)."""
    return values.where(observed, values.new_zeros(())).sum(-1)


def _sample_index(logits: Tensor) -> Tensor:
    """An index with probability softmax(logits), (...,), by the Gumbel-max trick."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


def _check_bounds(bounds: Bounds) -> None:
    if bounds is not None and not bounds[0] < bounds[1]:
        raise UserError(f"log_variance_bounds ({bounds[0]}, {bounds[1]}) must rise; swap them")


def _bounded(log_variance: Tensor, bounds: Bounds) -> Tensor:
    """The log variance, limited to its bounds by softplus functions if there are any."""
    if bounds is None:
        return log_variance
    low, high = bounds
    log_variance = high - nn.functional.softplus(high - log_variance)
    return low + nn.functional.softplus(log_variance - low)

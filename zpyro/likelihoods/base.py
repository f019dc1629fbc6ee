"""The base class of likelihoods, and the likelihoods by name."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from zpyro.errors import UserError
from zpyro.io.registry import Registry

LARGEST_SIZE = (1 << 20) - 1
"""Numbers in a frame, or tokens in a vocabulary; trigrams of so many tokens fit 64-bit numbers."""


@dataclass(frozen=True)
class Likelihood(abc.ABC):
    """Base class: the density of one frame as a frozen value.

    A subclass is a frozen dataclass with a ``name``; it defines ``distribution`` and ``sample``.
    It may override ``parameter_size`` (D by default), ``support`` (the reals), ``log_prob`` and
    ``mean`` (those of the distribution), ``observed_log_prob`` and ``impute`` (for missing values),
    ``embedding`` and ``output`` (one Linear each), ``start`` (zeros), ``with_weights`` (none) and
    ``log_bin_widths`` (of a discretized density).
    :func:`register` makes it available by name.

    Attributes:
        size: D, the numbers in a frame; for tokens the size of the vocabulary.
        name: the name in settings and checkpoints.
        discrete_tokens: whether a value is a token index instead of a frame.
        discretized: whether ``log_prob`` is the log-probability of the samples of sound that a
            frame holds, on a grid, instead of a density. Such a class has fields ``sample_mean``
            and ``sample_scale``, the normalization of the data, and overrides
            ``log_bin_widths``.
    """

    size: int

    name: ClassVar[str]
    discrete_tokens: ClassVar[bool] = False
    discretized: ClassVar[bool] = False

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

    @property
    def data_type(self) -> str:
        """Which values it scores: "tokens", "binary" or "frames" of any other numbers."""
        if self.discrete_tokens:
            return "tokens"
        support = self.support
        constraint_of_one = getattr(support, "base_constraint", support)
        return "binary" if constraint_of_one is constraints.boolean else "frames"

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

    def with_weights(self) -> tuple[Likelihood, nn.Module | None]:
        """This density with weights beside its parameters, and their module, for a new model.

        By default a density has none: itself, and None.
        """
        return self, None

    def start(self, count: int, like: Tensor) -> Tensor:
        """The default start frames x_0: zeros, (count, D)."""
        return like.new_zeros(count, self.size)

    def log_bin_widths(self, value: Tensor) -> Tensor:
        """Logarithm of the width of the bin that each number of a frame lies in, (..., D).

        A log-density plus these is about a log-probability of samples. Only discretized
        likelihoods have bins.
        """
        raise NotImplementedError(f"likelihood {self.name} has no bins")


class TemperedLikelihood(Likelihood):
    """A likelihood without a distribution of Pyro's: it computes log_prob and mean itself.

    A subclass defines ``log_prob`` and ``mean``, both with a temperature, and ``sample``.
    """

    @abc.abstractmethod
    def log_prob(self, parameters: Tensor, value: Tensor, temperature: float = 1.0) -> Tensor:
        """log p(value) at a temperature, nats, (...,)."""

    @abc.abstractmethod
    def mean(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        """Expected frame at a temperature, (..., D)."""

    def distribution(self, parameters: Tensor, temperature: float = 1.0) -> TorchDistributionMixin:
        return TemperedDistribution(self, parameters, temperature)


class TemperedDistribution(TorchDistribution):
    """The density of one frame, batch shape (...,), event shape (D,).

    Args:
        likelihood: with its weights, if it has any.
        parameters: (..., parameter_size).
        temperature: of the density.
    """

    def __init__(
        self, likelihood: TemperedLikelihood, parameters: Tensor, temperature: float
    ) -> None:
        self.likelihood, self.parameters, self.temperature = likelihood, parameters, temperature
        super().__init__(parameters.shape[:-1], likelihood.event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def support(self) -> constraints.Constraint:
        return self.likelihood.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> TemperedDistribution:
        parameters = self.parameters.expand(*batch_shape, self.parameters.shape[-1])
        return TemperedDistribution(self.likelihood, parameters, self.temperature)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 torch's signature
        shape = torch.Size(sample_shape) + self.parameters.shape
        return self.likelihood.sample(self.parameters.expand(shape), self.temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.likelihood.log_prob(self.parameters, value, self.temperature)

    @property
    def mean(self) -> Tensor:
        return self.likelihood.mean(self.parameters, self.temperature)


LIKELIHOODS: Registry[type[Likelihood]] = Registry("likelihood", group="zpyro.likelihoods")
"""Likelihood classes by name: the built-in ones, registered ones, and those of installed packages
that declare an entry point in the group ``zpyro.likelihoods``."""


def register(cls: type[Likelihood]) -> type[Likelihood]:
    """Add a likelihood class under its ``name``; usable as a decorator.

    Raises:
        UserError: if the name belongs to another class.
    """
    return LIKELIHOODS.register(cls.name, cls)


def build(name: str, size: int, **settings: Any) -> Likelihood:
    """Make a likelihood by name.

    Raises:
        UserError: for a name that is not in :data:`LIKELIHOODS`.
    """
    return LIKELIHOODS.find(name)(size, **settings)


def sum_of_observed(values: Tensor, observed: Tensor) -> Tensor:
    """The sum over a frame's numbers (..., D) that are observed, (...,)."""
    return values.where(observed, values.new_zeros(())).sum(-1)


def sample_index(logits: Tensor) -> Tensor:
    """An index with probability softmax(logits), (...,), by the Gumbel-max trick."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


def in_full_precision(parameters: Tensor) -> Tensor:
    """Parameters that autocast computed in bfloat16 as float32 numbers, others as they are."""
    return parameters.to(torch.promote_types(parameters.dtype, torch.float32))

"""The contract of a sequence model: the equations of one step, and what follows from them.

One step of every model, with s_t its state::

    s'_t  = prepare(e(x_{t-1}), s_{t-1})         what is known before z_t
    z_t   ~ prior(context(s'_t)),                or posterior(context(s'_t), b_t) in the guide
    s_t   = transition(z_t, e(x_{t-1}), s'_t)
    x_t   ~ p(x | emission(features(s_t)))

A model states these as single-step methods. The two methods for whole sequences,
:meth:`StepwiseModel.sample_posterior_path` and :meth:`StepwiseModel.states_given_latents`, have
defaults that loop over them; the models of this package override both with faster computations of
the same numbers.
"""

from __future__ import annotations

import abc
import contextlib
import inspect
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Self

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from zpyro.likelihoods import Likelihood
from zpyro.models import parameter_store
from zpyro.nn.layers import MissingEmbedding, State
from zpyro.nn.noise import NoiseSource
from zpyro.settings import Limits


@dataclass(frozen=True, eq=False)
class PosteriorPath:
    """A path of latents sampled from the posterior, N sequences of T steps.

    Attributes:
        z: z_t = mean_t + exp(log_variance_t / 2) noise_t, (N, T, Z).
        context: what prior, posterior and auxiliary network see at each step, (N, T, C).
        features: what the emission sees, (N, T, F).
        mean: posterior mean of z_t given the path before it, (N, T, Z).
        log_variance: posterior log variance, (N, T, Z).
        state: the state after the last step.
    """

    z: Tensor
    context: Tensor
    features: Tensor
    mean: Tensor
    log_variance: Tensor
    state: State


@dataclass
class InitialState:
    """The state that replaces the initial one, see :meth:`StepwiseModel.with_initial_state`.

    Attributes:
        value: the state before the first step, each part (B, ...).
        final: the state after the last step of the newest posterior path, detached; None before.
    """

    value: State
    final: State | None = None


class AbstractModuleMeta(type(PyroModule), abc.ABCMeta):
    """Lets a PyroModule, which has a metaclass of its own, declare abstract methods."""


class StepwiseModel(PyroModule, metaclass=AbstractModuleMeta):
    """The single-step equations of a sequence model and their defaults.

    Required in a subclass: :meth:`transition`; and either the attributes ``embedding``,
    ``prior_network``, ``posterior_network`` and ``output`` or the methods that use them
    (:meth:`embed`, :meth:`prior`, :meth:`posterior`, :meth:`emission`); and :meth:`encode_future`
    where the posterior needs more than e(x_t).

    Optional: :meth:`initial_state` (default: zeros (h_0, c_0)), :meth:`prepare`, :meth:`context`,
    :meth:`features`, :meth:`input_features`; :meth:`auxiliary` and :meth:`reverse` for models with
    a backward network. Overrides of :meth:`sample_posterior_path` and
    :meth:`states_given_latents` must give the numbers of their defaults.

    Covariates u_t (C numbers a step) and missing values enter through the inputs: where a model has
    them, e(x_{t-1}) above is [e(x_{t-1}), u_t] and e(x_t) in the posterior is [e(x_t), u_t], E + C
    numbers each, and e depends on which numbers of a frame are observed. A model whose context has
    not seen the present inputs takes u_t into it in :meth:`prepare`.

    Args:
        likelihood: density of one frame, see :mod:`zpyro.likelihoods`.
        hidden_size: H.
        latent_size: Z; 0 for a model without latents.
        missing: whether frames may have missing values.
        covariate_size: C, numbers known beforehand for every step.

    Attributes:
        missing_embedding: from e(x) of a zero-filled frame and its mask to the embedding that the
            networks read; None to read the zero-filled frame alone.
        word_dropout: in training, the probability that e(x_{t-1}) is zero in the recurrence, so
            that the state must use the latents (Bowman et al., arXiv:1511.06349, section 3.2).
            The posterior always sees every frame.
        mask_rate: in training, the mean share of the known numbers that the networks read as
            missing, while the likelihood scores them all, so that a model with ``missing`` learns
            to impute: the denoising criterion of Im et al., arXiv:1511.06406. The bound stays one,
            of a posterior that does not see those numbers.
        mask_length: of the hidden numbers, the longest run of steps in one dimension; see
            :func:`zpyro.models.masking.sample_hidden`.
        fill: what a posterior that reads the future is given in place of missing numbers: "zeros",
            or "interpolate", the line between the known numbers around them. The recurrence, which
            must not see the future, reads zeros.
        skip_gradient: in training, the probability, for each sequence and step, that no gradient
            flows from later states back into z_t; its direct uses (KL, auxiliary, emission) keep
            theirs. Each use in the recurrence samples its own mask. Above 0 the plain loop runs.
        metadata: plain values that are saved with the model; :func:`zpyro.fit` describes its data
            and training there.
        noise_source: the source of all random numbers in training, see :mod:`zpyro.nn.noise`.
    """

    has_backward_network: bool = False
    """Whether b_1..b_T are states of an RNN that runs backward, for the auxiliary terms."""

    carries_state: bool = False
    """Whether training can continue from the state of the previous row of a stream."""

    captures_bfloat16: bool = True
    """Whether training steps in bfloat16 may be captured as CUDA graphs."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        model = super().__new__(cls)
        # A torch module takes no attributes before its __init__.
        object.__setattr__(model, "_given", (args, kwargs))
        return model

    def __init__(
        self,
        likelihood: Likelihood,
        hidden_size: int,
        latent_size: int,
        *,
        missing: bool = False,
        covariate_size: int = 0,
    ) -> None:
        super().__init__()
        self.metadata: dict[str, Any] = {}
        # Two models in one process must not share names in Pyro's global parameter store.
        self.store_name = parameter_store.claim_name(self)
        self.likelihood, weights = likelihood.with_weights()
        if weights is not None:
            self.likelihood_weights = weights
        self.register_state_dict_pre_hook(_load_values)
        self.hidden_size = hidden_size
        self.latent_size = latent_size
        self.missing = missing
        self.covariate_size = covariate_size
        self.missing_embedding: nn.Module | None = None
        self.word_dropout = 0.0
        self.mask_rate = 0.0
        self.mask_length = 1
        self.fill = "zeros"
        self.skip_gradient = 0.0
        self.noise_source = NoiseSource()
        self.initial_state_override: InitialState | None = None
        self.dropout: nn.Module = nn.Identity()
        self.output_dropout: nn.Module = nn.Identity()

    @property
    def constructor_arguments(self) -> dict[str, Any]:
        """The arguments that this model was made with, by name, defaults included."""
        args, kwargs = self._given
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        found = dict(bound.arguments)
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                found |= found.pop(name)
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and not found[name]:
                del found[name]
        return found

    # -- one step -----------------------------------------------------------------------------

    _given: tuple[tuple[Any, ...], dict[str, Any]]
    embedding: nn.Module
    prior_network: Any
    posterior_network: Any
    output: nn.Module

    def embed(self, frames: Tensor) -> Tensor:
        """e(x), (..., E)."""
        return self.dropout(self.embedding(frames))

    def embed_frames(
        self, frames: Tensor, observed: Tensor | None = None, covariates: Tensor | None = None
    ) -> Tensor:
        """[e(x), u], (..., E + C).

        Args:
            frames: x, zeros where it is missing.
            observed: True where a number of x is known, shaped as ``frames``; None where all are.
            covariates: u, (..., C); None for a model without.
        """
        return _joined(self._embed_observed(frames, observed), covariates)

    def _embed_observed(self, frames: Tensor, observed: Tensor | None) -> Tensor:
        embedded = self.embed(frames)
        if observed is None or self.missing_embedding is None:
            return embedded
        return self.missing_embedding(embedded, observed.expand(frames.shape))

    def initial_state(self, rows: int) -> State:
        """The state before the first step, each part (rows, ...); zeros (h_0, c_0) by default."""
        zeros = next(self.parameters()).new_zeros(rows, self.hidden_size)
        return zeros, zeros

    def prepare(self, inputs: Tensor, state: State) -> State:
        """The part of a step before z_t, from e(x_{t-1}) (N, E); by default nothing changes."""
        del inputs
        return state

    def context(self, state: State) -> Tensor:
        """What prior, posterior and auxiliary network see of a prepared state, (..., C)."""
        return state[0]

    def prior(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z_t given the context (..., C), each (..., Z)."""
        return self.prior_network(context)

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z_t given the context and b_t, each (..., Z)."""
        return self.posterior_network(join(context, future))

    @abc.abstractmethod
    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        """The state after z_t (..., Z) and e(x_{t-1}) (..., E), from the prepared one."""

    def features(self, state: State) -> Tensor:
        """What the emission sees of a state, (..., F)."""
        return state[0]

    def emission(self, features: Tensor) -> Tensor:
        """The likelihood's parameters of x_t, (..., parameter_size)."""
        return self.output(self.output_dropout(features))

    def auxiliary(self, future: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """log p(stop_gradient(b_t) | z_t, context), nats, (...,)."""
        raise NotImplementedError(f"{type(self).__name__} has no auxiliary network")

    def reverse(self, future: Tensor, frames: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x_{t-1} | b_t), nats, (...,), of the observed numbers where a mask is given."""
        raise NotImplementedError(f"{type(self).__name__} has no reverse network")

    # -- whole sequences ----------------------------------------------------------------------

    def input_features(self, inputs: Tensor) -> Tensor:
        """What the inputs [e(x_{t-1}), u_t] (N, T, E + C) alone determine, (N, T, U).

        By default the inputs themselves.
        """
        return inputs

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        """b_1..b_T (B, T, H), what the posterior of z_t sees of the frames; e(x_t) by default.

        Args:
            embedded: [e(x_1), u_1]..[e(x_T), u_T], (B, T, E + C).
            input_features: the result of :meth:`input_features`, (B, T, U).
            mask: (B, T), True within each sequence; None where all have T steps.
        """
        del input_features, mask
        return embedded

    def sample_posterior_path(
        self, future: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> PosteriorPath:
        """Sample z_1..z_T from the posterior, step by step.

        Args:
            future: b_1..b_T, (B, T, H).
            input_features: the result of :meth:`input_features`, (B, T, U).
            noise: standard normal draws, (N, T, Z) with N = K B for K particles, particles
                outermost.
            state: the state before the first step, each part (N, ...).
        """
        particles = len(noise) // len(future)
        future, inputs = (each.repeat(particles, 1, 1) for each in (future, input_features))
        steps: list[tuple[Tensor, ...]] = []
        for t in range(noise.shape[1]):
            prepared = self.prepare(inputs[:, t], state)
            context = self.context(prepared)
            mean, log_variance = self.posterior(context, future[:, t])
            z = mean + (0.5 * log_variance).exp() * noise[:, t]
            state = self.transition(z, inputs[:, t], prepared)
            steps.append((z, context, self.features(state), mean, log_variance))
        parts = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        return PosteriorPath(*parts, state=state)

    def states_given_latents(
        self, z: Tensor, input_features: Tensor, state: State
    ) -> tuple[Tensor, Tensor]:
        """Contexts (N, T, C) and features (N, T, F) along known latents.

        Args:
            z: z_1..z_T, (N, T, Z).
            input_features: the result of :meth:`input_features`, (N, T, U).
            state: the state before the first step, each part (N, ...).
        """
        steps: list[tuple[Tensor, Tensor]] = []
        for t in range(z.shape[1]):
            prepared = self.prepare(input_features[:, t], state)
            state = self.transition(z[:, t], input_features[:, t], prepared)
            steps.append((self.context(prepared), self.features(state)))
        context, features = (torch.stack(part, dim=1) for part in zip(*steps, strict=True))
        return context, features

    @property
    def reads_future(self) -> bool:
        """Whether the posterior of z_t reads more than the frame x_t and the context."""
        return type(self).encode_future is not StepwiseModel.encode_future

    @abc.abstractmethod
    def bind(
        self,
        x: Tensor | None,
        lengths: Tensor | int | None,
        start: Tensor | None,
        observed: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> Any:
        """This model bound to one batch, see :meth:`zpyro.models.SequenceModel.bind`."""

    # -- training -----------------------------------------------------------------------------

    def embed_inputs(
        self, frames: Tensor, observed: Tensor | None = None, covariates: Tensor | None = None
    ) -> Tensor:
        """[e(x_{t-1}), u_t] as the recurrence receives it, (..., E + C): see ``word_dropout``.

        Args:
            frames: x_{t-1}; its mask ``observed`` and ``covariates`` u_t as in
                :meth:`embed_frames`.
        """
        embedded = self._embed_observed(frames, observed)
        if self.training and self.word_dropout:
            uniform = self.noise_source.uniform(embedded.shape[:-1], embedded)
            embedded = embedded * (uniform >= self.word_dropout).unsqueeze(-1)
        return _joined(embedded, covariates)

    def maybe_stop_gradient(self, z: Tensor) -> Tensor:
        """z (..., Z) as the recurrence receives it: see ``skip_gradient``."""
        if not self.skips_gradients:
            return z
        skipped = self.noise_source.uniform(z.shape[:-1], z) < self.skip_gradient
        return z.detach().where(skipped.unsqueeze(-1), z)

    @property
    def skips_gradients(self) -> bool:
        """Whether some gradients of z are skipped at present."""
        return self.skip_gradient > 0 and self.training and torch.is_grad_enabled()

    def noise(self, rows: int, steps: int) -> Tensor:
        """Standard normal draws (rows, steps, Z) in this model's dtype and on its device."""
        shape = torch.Size((rows, steps, self.latent_size))
        return self.noise_source.normal(shape, next(self.parameters()))

    def set_noise_source(self, source: NoiseSource) -> None:
        """Take all random numbers of training from a source, those of dropout layers too."""
        for module in self.modules():
            if hasattr(module, "noise_source"):
                setattr(module, "noise_source", source)  # noqa: B010 torch types this narrowly

    @contextlib.contextmanager
    def with_initial_state(self, state: State) -> Generator[InitialState, None, None]:
        """Within the context, sequences continue from a state instead of the initial one.

        For truncated back-propagation through rows of a longer stream: pass the detached state
        after the previous row, and read that after this row from ``final`` of the result.

        Args:
            state: the state before the first step, each part (B, ...).
        """
        outer = self.initial_state_override
        self.initial_state_override = inner = InitialState(state)
        try:
            yield inner
        finally:
            self.initial_state_override = outer

    def first_state(self, rows: int) -> State:
        """The state before the first step: the override of :meth:`with_initial_state` if any."""
        if self.initial_state_override is None:
            return self.initial_state(rows)
        value = self.initial_state_override.value
        return tuple(part.repeat(rows // len(part), *[1] * (part.dim() - 1)) for part in value)

    # -- Pyro's parameter store -----------------------------------------------------------------

    @property
    def store_name(self) -> str:
        """Prefix of the parameters' names in Pyro's parameter store, by default CLASS_NUMBER.

        The number is the smallest that no other model of the class has now. Set the name where
        several models are saved together. Of two models with one name, the store holds the
        parameters of the one in use. The entries of a model are removed with it.
        """
        return self._store_name

    @store_name.setter
    def store_name(self, name: str) -> None:
        parameter_store.claim_name(self, name, shared=True)
        self._store_name = name
        # The names that Pyro itself gives, to the parameters of a custom guide for instance.
        for path, part in self.named_modules():
            if isinstance(part, PyroModule):
                part._pyro_name = f"{name}.{path}" if path else name

    def __getstate__(self) -> dict[str, Any]:
        # A copy has what was loaded into the store, as the model itself when it is next used.
        parameter_store.load(self, self.store_name)
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # A copy of a model in the same process needs names of its own.
        self.store_name = parameter_store.claim_name(self, self._store_name)

    def register_parameters(self) -> None:
        """Register all parameters with Pyro, so that SVI trains the auxiliary networks too.

        Raises:
            UserError: if a value loaded into the parameter store has another shape, or a handler
                gives a parameter another value (``poutine.lift``, ``poutine.substitute``).
        """
        parameter_store.register(self, self.store_name)


def _load_values(model: StepwiseModel, _prefix: str, _keep_vars: bool) -> None:
    """Copy what was loaded into Pyro's store before the weights are read."""
    parameter_store.load(model, model.store_name)


OPTIONAL_SIZE = Limits(at_least=0, at_most=1 << 16)
"""Of sizes that may be 0, such as ``model.covariate_size``."""


def missing_embedding(likelihood: Likelihood, embedding_size: int) -> MissingEmbedding:
    """The part of e(x) that reads which numbers of a frame are missing."""
    size = 1 if likelihood.discrete_tokens else likelihood.size
    return MissingEmbedding(size, embedding_size)


def _joined(embedded: Tensor, covariates: Tensor | None) -> Tensor:
    return embedded if covariates is None else join(embedded, covariates.to(embedded.dtype))


def join(*parts: Tensor) -> Tensor:
    """Tensors concatenated in the last dimension, their leading dimensions broadcast."""
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, -1) for part in parts], dim=-1)


def delay(first: Tensor, values: Tensor) -> Tensor:
    """v_0, v_1..v_{T-1} for v_1..v_T (N, T, F) and v_0 (N, F).

    The result is a transposed view of a time-major tensor, as the fused recurrences return.
    """
    earlier = [first.unsqueeze(0).to(values.dtype), values.transpose(0, 1)[:-1]]
    return torch.cat(earlier).transpose(0, 1)

"""The Pyro programs that every sequence model shares: model and guide in two granularities.

A member of the family (see :mod:`zpyro.models.zforcing`) supplies the networks as the few methods
at the end of :class:`SequenceModel`; the programs, padding, generation and parameter registration
stand here once.

One step of every member, with s_t its state::

    s'_t  = prepare(e(x_{t-1}), s_{t-1})         what is known before z_t
    z_t   ~ prior(context(s'_t)),                or posterior(context(s'_t), b_t) in the guide
    s_t   = transition(z_t, e(x_{t-1}), s'_t)
    x_t   ~ p(x | emission(features(s_t)))

For a whole sequence the same is ``deterministic`` (once for all steps, before any latent),
``sample_posterior_path`` or ``replay`` (with latents sampled or known) and ``views`` (contexts and features).
"""

from __future__ import annotations

import abc
import contextlib
import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from zpyro.likelihoods import Likelihood
from zpyro.models import programs
from zpyro.models.bound_model import BoundModel, PathCache
from zpyro.models.conditions import conditions_of
from zpyro.models.generation import draw_frames, simulate
from zpyro.models.guides import latents_of
from zpyro.nn.layers import State
from zpyro.nn.noise import Dropout, NoiseSource
from zpyro.nn.recurrence import Path

Program = Callable[..., Any]
"""A Pyro model or guide called with (x, lengths, start)."""

_serial_numbers = itertools.count(1)


@dataclass
class Carried:
    """What rows of longer streams begin with and end with.

    Attributes:
        first: the state before the first step, each part (B, ...).
        last: the state after the last step of the newest path drawn from the posterior; detached.
    """

    first: State
    last: State | None = None


class AbstractModuleMeta(type(PyroModule), abc.ABCMeta):
    """Lets a PyroModule, which has a metaclass of its own, declare abstract methods."""


class SequenceModel(PyroModule, metaclass=AbstractModuleMeta):
    """A latent variable at every time step, as a Pyro ``model`` and ``guide``.

    Both are called with

    - ``x``: frames (B, T, D) or tokens (B, T); None lets the model generate,
    - ``lengths``: (B,), each at most T, by default T; with ``x=None`` the lengths to generate
      (an int for one length),
    - ``start``: x_0, (B, D) or (B,), by default zeros or the likelihood's start token,

    and hold nothing but the generative process and the posterior, within the plate ``sequences``.
    The sites are ``z`` and ``x`` in the granularity "sequence", ``z_1``.. and ``x_1``.. in "step".

    Attributes:
        word_dropout: while training, how often the recurrence is not told x_{t-1}: e(x_{t-1}) is
            zero there, so that it cannot do without the latents (Bowman et al., arXiv:1511.06349,
            section 3.2). The posterior always sees every frame.
        skip_gradient: while training, how often, by sequence and step, no gradient flows from
            later states back into z_t; its direct uses (KL, auxiliary, emission) keep theirs. Each
            use in the recurrence draws its own mask. Above 0 the plain loop runs.
    """

    def __init__(
        self, likelihood: Likelihood, hidden_size: int, latent_size: int, granularity: str
    ) -> None:
        super().__init__()
        check_granularity(granularity)
        self.likelihood = likelihood
        self.hidden_size = hidden_size
        self.latent_size = latent_size
        self.granularity = granularity
        self.word_dropout = 0.0
        self.skip_gradient = 0.0
        self.memory = PathCache()
        self.noise_source = NoiseSource()
        self.carried: Carried | None = None
        self.custom_guide: Program | None = None
        # Names in Pyro's global parameter store: two models in one process must not meet there.
        self.store_name = f"{type(self).__name__.lower()}_{next(_serial_numbers)}"

    def model(
        self,
        x: Tensor | None = None,
        lengths: Tensor | int | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The generative process; returns the frames, (..., B, T, D) or (..., B, T).

        Raises:
            ValueError: if shapes do not fit each other or the likelihood.
        """
        return self.program(self.granularity)[0](x, lengths, start)

    def guide(
        self,
        x: Tensor | None = None,
        lengths: Tensor | int | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The posterior; returns the latents, (..., B, T, Z). Arguments as in :meth:`model`.

        Raises:
            ValueError: if shapes do not fit each other or the likelihood, or x is None.
        """
        return self.program(self.granularity)[1](x, lengths, start)

    @property
    def active_guide(self) -> Program:
        """The guide to train and evaluate with: the user's own where one was attached.

        :meth:`guide` and :meth:`program` stay the built-in ones; a guide may be made of them.
        """
        return self.guide if self.custom_guide is None else self.custom_guide

    def program(self, granularity: str) -> tuple[Program, Program]:
        """The (model, guide) pair of the given granularity, whatever this module's own is."""
        check_granularity(granularity)
        model, guide = programs.PROGRAMS[granularity]
        return partial(model, self), partial(guide, self)

    def bind(
        self, x: Tensor | None, lengths: Tensor | int | None = None, start: Tensor | None = None
    ) -> BoundModel:
        """This model tied to one batch; arguments as in :meth:`model`.

        Raises:
            ValueError: if shapes do not fit each other or the likelihood.
        """
        like = next(self.parameters())
        return BoundModel(self, conditions_of(self.likelihood, like, x, lengths, start))

    @torch.no_grad()
    def generate(
        self,
        steps: int,
        *,
        num_sequences: int = 1,
        start: Tensor | None = None,
        prefix: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw frames from the prior, or frames that continue a prefix.

        Args:
            steps: how many frames to draw.
            num_sequences: how many sequences, where neither start nor prefix tells.
            start: x_0, (N, D) or (N,).
            prefix: frames x_1..x_P to continue, (N, P, D) or (N, P); its latents are drawn from
                the posterior given the prefix.
            temperature: factor on the standard deviations (logits are divided by it).

        Returns:
            The new frames, (N, steps, D) or (N, steps).
        """
        if prefix is None:
            first = self._start(num_sequences if start is None else len(start), start)
            return draw_frames(self, first, steps, self.initial_state(len(first)), temperature)
        process = self.bind(prefix, None, start)
        z = self._latents_of(process)
        first = process.conditions.start
        state = simulate(self, first, process.steps, z=z, frames=prefix).state
        return draw_frames(self, prefix[:, -1], steps, state, temperature)

    def _latents_of(self, process: BoundModel) -> Tensor:
        """Latents (B, T, Z) drawn from the guide in use."""
        if self.custom_guide is None:
            return process.draw_posterior(self.noise(process.sequences, process.steps))
        shape = torch.Size((process.sequences, process.steps, self.latent_size))
        return latents_of(self.custom_guide, shape, False, *process.conditions.source)

    def noise(self, rows: int, steps: int) -> Tensor:
        """Standard normal draws (rows, steps, Z) in this model's type and on its device."""
        shape = torch.Size((rows, steps, self.latent_size))
        return self.noise_source.normal(shape, next(self.parameters()))

    def set_noise_source(self, source: NoiseSource) -> None:
        """Take random numbers, those of dropout included, from a source."""
        for part in self.modules():
            if isinstance(part, SequenceModel | Dropout):
                part.noise_source = source

    def embed_inputs(self, frames: Tensor) -> Tensor:
        """e(x_{t-1}) as the recurrence is told it, (..., E): see ``word_dropout``."""
        embedded = self.embed(frames)
        if not (self.training and self.word_dropout):
            return embedded
        uniform = self.noise_source.uniform(embedded.shape[:-1], embedded)
        return embedded * (uniform >= self.word_dropout).unsqueeze(-1)

    def maybe_stop_gradient(self, z: Tensor) -> Tensor:
        """z (..., Z) as the recurrence takes it: see ``skip_gradient``."""
        if not self.skips_gradients:
            return z
        skipped = self.noise_source.uniform(z.shape[:-1], z) < self.skip_gradient
        return z.detach().where(skipped.unsqueeze(-1), z)

    @property
    def skips_gradients(self) -> bool:
        """Whether some gradients of z are to be skipped now."""
        return self.skip_gradient > 0 and self.training and torch.is_grad_enabled()

    def register_parameters(self) -> None:
        """Tell Pyro of every parameter, the auxiliary networks' too, so that SVI trains them."""
        store = pyro.get_param_store()
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            site = f"{self.store_name}.{name}"
            # A copied module carries its original's names: whoever runs takes them over.
            if site in store and store.param_name(parameter) != site:
                del store[site]
            pyro.param(site, parameter)

    @contextlib.contextmanager
    def carrying(self, first: State) -> Generator[Carried, None, None]:
        """Within it, sequences go on from a state in place of the initial one.

        For truncated back-propagation through rows of a longer stream: give the state after the
        row before, detached, and read that after this row from what is yielded.

        Args:
            first: the state before the first step, each part (B, ...).
        """
        self.carried = Carried(first)
        try:
            yield self.carried
        finally:
            self.carried = None

    def first_state(self, rows: int) -> State:
        """The state that sequences begin with now: carried to here, or the initial one."""
        if self.carried is None:
            return self.initial_state(rows)
        particles = rows // len(self.carried.first[0])
        return tuple(part.repeat(particles, 1) for part in self.carried.first)

    def _start(self, count: int, start: Tensor | None) -> Tensor:
        like = next(self.parameters())
        return self.likelihood.start(count, like) if start is None else start

    # -- what a member supplies ---------------------------------------------------------------

    has_backward_network: bool = False
    """Whether b_1..b_T are states of an RNN that runs backward, for the auxiliary costs."""

    def initial_state(self, rows: int) -> State:
        """The state before the first step, each part (rows, ...); zeros (h_0, c_0) by default."""
        zeros = next(self.parameters()).new_zeros(rows, self.hidden_size)
        return zeros, zeros

    carries_state: bool = False
    """Whether :meth:`carrying` is told the state after a path drawn from the posterior."""

    @abc.abstractmethod
    def embed(self, frames: Tensor) -> Tensor:
        """e(x), (..., E)."""

    def deterministic(self, inputs: Tensor) -> Tensor:
        """What e(x_0)..e(x_{T-1}) (N, T, E) alone decide, (N, T, U); by default themselves."""
        return inputs

    @abc.abstractmethod
    def backward(self, embedded: Tensor, input_features: Tensor, valid: Tensor | None) -> Tensor:
        """b_1..b_T (B, T, H), what the posterior of z_t is told of the frames.

        Args:
            embedded: e(x_1)..e(x_T), (B, T, E).
            input_features: what :meth:`deterministic` gave, (B, T, U).
            valid: (B, T), True within each sequence; it starts at its own end.
        """

    @abc.abstractmethod
    def sample_posterior_path(
        self, backward: Tensor, input_features: Tensor, noise: Tensor, state: State
    ) -> Path:
        """A path drawn from the posterior; see :func:`zpyro.nn.recurrence.plain`."""

    @abc.abstractmethod
    def replay(self, z: Tensor, input_features: Tensor, state: State) -> Tensor:
        """h_1..h_T (N, T, H) for known latents (N, T, Z)."""

    def views(self, z: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts and features along a path, (T, N, C) and (T, N, F).

        By default h_{t-1} and h_t: the state moves on once z_t is known.

        Args:
            z: latents, time-major (T, N, Z).
            hidden: h_1..h_T of ``sample_posterior_path`` or ``replay``, time-major (T, N, H).
        """
        del z
        first = self.first_state(hidden.shape[1])[0]
        return torch.cat([first.unsqueeze(0).to(hidden.dtype), hidden[:-1]]), hidden

    def prepare(self, inputs: Tensor, state: State) -> State:
        """The part of a step before z_t, from e(x_{t-1}) (N, E); by default there is none."""
        del inputs
        return state

    def context(self, state: State) -> Tensor:
        """What prior, posterior and auxiliary see of a prepared state, (..., C)."""
        return state[0]

    @abc.abstractmethod
    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        """The state after z_t (N, Z) and e(x_{t-1}) (N, E), from the prepared one."""

    def features(self, state: State) -> Tensor:
        """What the emission sees of a state, (..., F)."""
        return state[0]

    @abc.abstractmethod
    def prior(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z_t given the context (..., C), each (..., Z)."""

    @abc.abstractmethod
    def posterior(self, context: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of z_t given the context and b_t, each (..., Z)."""

    @abc.abstractmethod
    def emission(self, features: Tensor) -> Tensor:
        """The likelihood's parameters of x_t, (..., parameter_size)."""

    def auxiliary(self, backward: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """log p(stop_gradient(b_t) | z_t, context), nats, (...,)."""
        raise NotImplementedError(f"{type(self).__name__} has no auxiliary network")

    def reverse(self, backward: Tensor, frames: Tensor) -> Tensor:
        """log p(x_{t-1} | b_t), nats, (...,)."""
        raise NotImplementedError(f"{type(self).__name__} has no reverse network")


def check_granularity(granularity: str) -> None:
    """Raise ValueError unless the granularity is one of :data:`zpyro.models.programs.PROGRAMS`."""
    if granularity not in programs.PROGRAMS:
        choices = ", ".join(programs.PROGRAMS)
        raise ValueError(f"granularity is {granularity!r}; choose one of {choices}")

"""A sequence model tied to one batch: sampled paths, and every parameter along a path.

The distributions of :mod:`zpyro.models.distributions` and the programs of :mod:`zpyro.models.base` read
all they need from here, so that a hidden state is computed once and nowhere else.

Inside, tensors are time-major, (T, L, B, ...), with L the product of the leading (particle)
dimensions: every network then works on contiguous rows whatever the granularity.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zpyro.models.conditions import Conditions, zero_padding
from zpyro.models.generation import simulate
from zpyro.nn.blocks import in_blocks

if TYPE_CHECKING:
    from zpyro.models.base import SequenceModel

GaussianParameters = tuple[Tensor, Tensor]
"""Mean and log variance, each (T, L, B, Z)."""


@dataclass(frozen=True, eq=False)
class PathKey:
    """What a path was computed from besides z: the batch (by identity), the parameters, modes."""

    source: tuple[Any, ...]
    versions: tuple[int, ...]

    def matches(self, other: PathKey) -> bool:
        """Whether a path under one key is the path under the other."""
        same = all(a is b for a, b in zip(self.source, other.source, strict=True))
        return same and self.versions == other.versions


@dataclass(eq=False)
class Trajectory:
    """The states along one path of latents, and the Gaussians there once someone asked.

    Attributes:
        z: (T, L, B, Z).
        context: what prior, posterior and auxiliary see besides, (T, L, B, C).
        hidden: what the emission sees, (T, L, B, F).
        key: what the path was computed from.
        posterior: parameters of q along the path, or None if not yet computed.
        prior: parameters of p along the path, or None if not yet computed.
    """

    z: Tensor
    context: Tensor
    hidden: Tensor
    key: PathKey
    posterior: GaussianParameters | None = None
    prior: GaussianParameters | None = None


class PathCache:
    """Remembers the newest path, so that the model need not recompute what the guide just did.

    Only weak references are kept: the trace that holds the path decides how long it lives.
    """

    def __init__(self) -> None:
        self._newest: tuple[weakref.ref[Tensor], weakref.ref[Trajectory]] | None = None

    def remember(self, z: Tensor, trajectory: Trajectory) -> None:
        self._newest = weakref.ref(z), weakref.ref(trajectory)

    def recall(self, z: Tensor, key: PathKey) -> Trajectory | None:
        """The path of this very tensor z if it was computed from the same things, else None."""
        if self._newest is None or self._newest[0]() is not z:
            return None
        trajectory = self._newest[1]()
        return trajectory if trajectory is not None and trajectory.key.matches(key) else None

    def __reduce__(self) -> tuple[type[PathCache], tuple[()]]:
        return PathCache, ()


class BoundModel:
    """The model under the conditions of one call."""

    def __init__(self, model: SequenceModel, conditions: Conditions) -> None:
        self.model = model
        self.conditions = conditions
        self.sequences = conditions.start.shape[0]
        self.steps = conditions.steps
        self._trajectories: list[tuple[weakref.ref[Tensor], Trajectory]] = []
        self._drawn: list[tuple[weakref.ref[Tensor], Tensor]] = []

    # -- what the batch alone decides ---------------------------------------------------------

    @property
    def x(self) -> Tensor:
        """The frames of the batch.

        Raises:
            ValueError: if the call came without frames.
        """
        if self.conditions.x is None:
            raise ValueError("this needs frames: call it with x, not with lengths alone")
        return self.conditions.x

    @cached_property
    def inputs(self) -> Tensor:
        """e(x_0)..e(x_{T-1}), (B, T, E)."""
        return self.embedded_inputs(self.x)

    @cached_property
    def input_features(self) -> Tensor:
        """What the inputs alone decide, (B, T, U)."""
        return self.model.deterministic(self.inputs)

    @cached_property
    def backward_states(self) -> Tensor:
        """b_1..b_T, (B, T, H)."""
        embedded = self.model.embed(self.x)
        return self.model.backward(embedded, self.input_features, self.conditions.valid)

    def empty_latents(self) -> Tensor:
        """The empty z (B, T, 0) of a model that has none."""
        return self.conditions.start.new_zeros(
            self.sequences, self.steps, 0, dtype=next(self.model.parameters()).dtype
        )

    def shifted(self, frames: Tensor) -> Tensor:
        """x_0..x_{T-1} for frames x_1..x_T with any leading dimensions."""
        lead = frames.shape[: frames.dim() - self.conditions.start.dim() - 1]
        start = self.conditions.start.expand(*lead, *self.conditions.start.shape)
        time = len(lead) + 1
        return torch.cat([start.unsqueeze(time), frames.narrow(time, 0, self.steps - 1)], dim=time)

    def embedded_inputs(self, frames: Tensor) -> Tensor:
        """e(x_0)..e(x_{T-1}), (rows, T, E)."""
        embedded = self.model.embed_inputs(self.shifted(frames))
        return embedded.flatten(0, -3)

    # -- drawing ------------------------------------------------------------------------------

    def draw_posterior(self, noise: Tensor) -> Tensor:
        """Latents from the guide for standard normal draws (..., B, T, Z), same shape."""
        noise = self._without_padding(noise)
        rows = noise.flatten(0, -3)
        state = self.model.first_state(rows.shape[0])
        path = self.model.sample_posterior_path(
            self.backward_states, self.input_features, rows, state
        )
        if self.model.carried is not None:
            self.model.carried.last = tuple(part.detach() for part in path.state)
        z = self._without_padding(path.z.reshape(noise.shape))
        parameters = self._time_major(path.mean), self._time_major(path.log_variance)
        trajectory = self._trajectory_of(z, path.hidden, parameters)
        self._trajectories.append((weakref.ref(z), trajectory))
        self.model.memory.remember(z, trajectory)
        return z

    def draw_prior(self, noise: Tensor) -> Tensor:
        """Latents from the prior for standard normal draws (..., B, T, Z), same shape.

        Where x is free, frames are drawn beside them.
        """
        rows = noise.flatten(0, -3)
        start = self._rows(self.conditions.start, len(rows))
        given = None if self.conditions.x is None else self._rows(self.conditions.x, len(rows))
        drawn = simulate(self.model, start, self.steps, noise=rows, frames=given)
        z = self._without_padding(drawn.z.reshape(noise.shape))
        if given is None:
            self._keep_frames(z, drawn.frames)
        return z

    def draw_frames(self, z: Tensor) -> Tensor:
        """New frames along latents z (..., B, T, Z): one step ahead of the batch's frames where
        there are any, each fed back where x is free."""
        if self.conditions.x is None:
            rows = z.flatten(0, -3)
            start = self._rows(self.conditions.start, len(rows))
            frames = simulate(self.model, start, self.steps, z=rows).frames
        else:
            parameters = self.model.emission(self.trajectory(z).hidden)
            frames = self.model.likelihood.distribution(parameters).sample()
            frames = frames.permute(1, 2, 0, *range(3, frames.dim()))
        return self._shaped_frames(z, frames)

    def frames_for(self, z: Tensor) -> Tensor:
        """The frames that go with latents z: the batch's, or those drawn (now, if not yet)."""
        if self.conditions.x is not None:
            return self.conditions.x
        for known, frames in self._drawn:
            if known() is z:
                return frames
        frames = self.draw_frames(z)
        self._drawn.append((weakref.ref(z), frames))
        return frames

    def _keep_frames(self, z: Tensor, frames: Tensor) -> None:
        self._drawn.append((weakref.ref(z), self._shaped_frames(z, frames)))

    def _shaped_frames(self, z: Tensor, frames: Tensor) -> Tensor:
        event = self.conditions.start.shape[1:]
        shaped = frames.reshape(*z.shape[:-1], *event)
        return zero_padding(shaped, self.conditions.valid, len(event))

    # -- along a path -------------------------------------------------------------------------

    def trajectory(self, z: Tensor, frames: Tensor | None = None) -> Trajectory:
        """The states along latents z (..., B, T, Z), fed the given frames (the batch's if None)."""
        if frames is None or frames is self.conditions.x:
            return self._batch_trajectory(z)
        return self._replayed(z, self.model.deterministic(self.embedded_inputs(frames)))

    def _batch_trajectory(self, z: Tensor) -> Trajectory:
        for known, trajectory in self._trajectories:
            if known() is z:
                return trajectory
        trajectory = self.model.memory.recall(z, self.key())
        if trajectory is None:
            trajectory = self._replayed(z, self.input_features)
        self._trajectories.append((weakref.ref(z), trajectory))
        return trajectory

    def _replayed(self, z: Tensor, input_features: Tensor) -> Trajectory:
        clean = self._without_padding(z)
        rows = clean.flatten(0, -3)
        state = self.model.first_state(rows.shape[0])
        hidden = self.model.replay(rows, self._rows(input_features, rows.shape[0]), state)
        return self._trajectory_of(clean, hidden, None)

    def _trajectory_of(
        self, z: Tensor, hidden: Tensor, posterior: GaussianParameters | None
    ) -> Trajectory:
        latents = self._time_major(z.flatten(0, -3))
        states = self._time_major(hidden)
        views = self.model.views(latents.flatten(1, 2), states.flatten(1, 2))
        context, hidden = (view.unflatten(1, states.shape[1:3]) for view in views)
        return Trajectory(latents, context, hidden, self.key(), posterior)

    def key(self) -> PathKey:
        """What a path depends on besides z: the batch, the parameters, the mode."""
        versions = sum(parameter._version for parameter in self.model.parameters())
        frames = self.conditions.source[0]
        version = frames._version if isinstance(frames, Tensor) else 0
        modes = torch.is_grad_enabled(), self.model.training
        source = (*self.conditions.source, self.model.carried)
        return PathKey(source, (version, versions, *modes))

    def posterior(self, trajectory: Trajectory) -> GaussianParameters:
        """Parameters of q(z_t | context, b_t) along a path."""
        if trajectory.posterior is None:
            backward = self._time_major(self.backward_states)
            trajectory.posterior = in_blocks(self.model.posterior, trajectory.context, backward)
        return trajectory.posterior

    def prior(self, trajectory: Trajectory) -> GaussianParameters:
        """Parameters of p(z_t | context) along a path."""
        if trajectory.prior is None:
            trajectory.prior = in_blocks(self.model.prior, trajectory.context)
        return trajectory.prior

    def log_likelihood(self, trajectory: Trajectory, frames: Tensor) -> Tensor:
        """log p(x_t | h_t) along a path, nats, (T, L, B)."""

        def score(hidden: Tensor, frames: Tensor) -> Tensor:
            return self.model.likelihood.log_prob(self.model.emission(hidden), frames)

        return in_blocks(score, trajectory.hidden, self.frames_time_major(frames))

    def auxiliary(self, backward: Tensor, trajectory: Trajectory) -> Tensor:
        """log p(stop_gradient(b_t) | z_t, context) along a path, nats, (T, L, B)."""
        states = self._time_major(backward)
        return in_blocks(self.model.auxiliary, states, trajectory.z, trajectory.context)

    def reverse(self, backward: Tensor) -> Tensor:
        """log p(x_{t-1} | b_t), nats, (T, L, B)."""
        targets = self.frames_time_major(self.shifted(self.x))
        return in_blocks(self.model.reverse, self._time_major(backward), targets)

    # -- shapes -------------------------------------------------------------------------------

    def per_step(self, values: Tensor, lead: torch.Size) -> Tensor:
        """Terms (T, L, B) as (..., B, T), exactly zero beyond the lengths."""
        terms = values.permute(1, 2, 0)
        terms = terms.expand(lead.numel(), *terms.shape[1:]).reshape(*lead, *terms.shape[1:])
        return zero_padding(terms, self.conditions.valid, event_dims=0)

    def batch_major(self, values: Tensor) -> Tensor:
        """Numbers of a path without particles, (T, 1, B, F), as (B, T, F), zeros in padding."""
        return self._without_padding(values.squeeze(1).transpose(0, 1))

    def frames_time_major(self, frames: Tensor) -> Tensor:
        """Frames (..., B, T) + event shape as (T, L, B) + event shape."""
        event = self.conditions.start.shape[1:]
        rows = frames.reshape(-1, self.sequences, self.steps, *event)
        return rows.permute(2, 0, 1, *range(3, rows.dim()))

    def _time_major(self, rows: Tensor) -> Tensor:
        """(..., T, F) with L B rows as (T, L, B, F)."""
        flat = rows.flatten(0, -3).transpose(0, 1)
        return flat.contiguous().unflatten(1, (flat.shape[1] // self.sequences, self.sequences))

    def _rows(self, values: Tensor, rows: int) -> Tensor:
        """Repeat what belongs to the B sequences for every particle: (rows, ...)."""
        return values.repeat(rows // values.shape[0], *(1,) * (values.dim() - 1))

    def _without_padding(self, values: Tensor) -> Tensor:
        """(..., B, T, F) with exact zeros beyond the lengths, NaN or not."""
        return zero_padding(values, self.conditions.valid, event_dims=1)

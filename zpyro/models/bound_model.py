"""A model bound to one batch: sampled paths, and every quantity along a path.

The distributions of :mod:`zpyro.models.distributions` and the programs of
:mod:`zpyro.models.programs` read all values from here, so that each is computed once.

Inside, tensors are time-major, (T, L, B, ...), with L the product of the leading (particle)
dimensions, so that every network receives contiguous rows.
"""

from __future__ import annotations

import math
import weakref
from functools import cached_property

import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro.models import parameter_store
from zpyro.models.conditions import Conditions, conditions_of, zero_padding
from zpyro.models.generation import run_forward
from zpyro.models.masking import interpolate, sample_hidden
from zpyro.models.steps import StepwiseModel
from zpyro.models.trajectory import GaussianParameters, Trajectory
from zpyro.nn.blocks import in_blocks


def bind(
    model: StepwiseModel,
    x: Tensor | None,
    lengths: Tensor | int | None,
    start: Tensor | None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
) -> BoundModel:
    """A model bound to one batch; the arguments are those of a model or guide.

    Raises:
        ValueError: if shapes do not fit each other or the likelihood.
        UserError: if the model was built for data without missing values, or for another number of
            covariates, and under ``torch.jit.trace``.
    """
    if observed is not None and not model.missing:
        raise UserError(
            f"observed: this {type(model).__name__} was built for data without missing values; "
            "build it with missing=True (model.missing), or fill the values"
        )
    found = 0 if covariates is None else covariates.shape[-1]
    if found != model.covariate_size:
        raise UserError(
            f"covariates: this {type(model).__name__} was built for {model.covariate_size} "
            f"covariates a step, the data have {found}; give those it was built for, or build it "
            f"with covariate_size={found}"
        )
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        raise UserError(
            "torch.jit.trace: the loops over time cannot be recorded; use Trace_ELBO for "
            "JitTrace_ELBO, and NUTS without jit_compile"
        )
    parameter_store.load(model, model.store_name)
    like = next(model.parameters())
    conditions = conditions_of(model.likelihood, like, x, lengths, start, observed, covariates)
    return BoundModel(model, conditions)


class BoundModel:
    """A model under the conditions of one call.

    Args:
        model: the model.
        conditions: the checked arguments of the call.
    """

    def __init__(self, model: StepwiseModel, conditions: Conditions) -> None:
        self.model = model
        self.conditions = conditions
        self.sequences = conditions.start.shape[0]
        self.steps = conditions.steps
        # What a path depends on besides z and the values of the tensors; compared by identity.
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), model.training
        self._call = (model, *conditions.source, model.initial_state_override, *modes)
        self._trajectories: list[tuple[weakref.ref[Tensor], Trajectory]] = []
        self._frames: list[tuple[weakref.ref[Tensor], Tensor]] = []

    # -- values that depend on the batch only ---------------------------------------------------

    @property
    def x(self) -> Tensor:
        """The frames of the batch.

        Raises:
            ValueError: if the call had no frames.
        """
        if self.conditions.x is None:
            raise ValueError("this call needs frames; pass x, not only lengths")
        return self.conditions.x

    @cached_property
    def visible(self) -> Tensor | None:
        """Which numbers of x the networks read, shaped as x; None where all of them.

        In training with ``mask_rate``, a random part of the observed ones.

        Raises:
            UserError: with ``mask_rate``, if the model was built for data without missing values.
        """
        observed, model = self.conditions.observed, self.model
        if not (model.training and model.mask_rate) or self.conditions.x is None:
            return observed
        if not model.missing:
            raise UserError(
                f"mask_rate is {model.mask_rate}, but this {type(model).__name__} was built for "
                "data without missing values; build it with missing=True"
            )
        hidden = sample_hidden(model.noise_source, self.x, model.mask_rate, model.mask_length)
        return ~hidden if observed is None else observed & ~hidden

    @cached_property
    def inputs(self) -> Tensor:
        """[e(x_0), u_1]..[e(x_{T-1}), u_T], (B, T, E + C)."""
        return self._embedded_inputs(self.x)

    @cached_property
    def input_features(self) -> Tensor:
        """What the inputs alone determine, (B, T, U)."""
        return self.model.input_features(self.inputs)

    @cached_property
    def backward_states(self) -> Tensor:
        """b_1..b_T, (B, T, H)."""
        given, visible, frames = self.conditions, self.visible, self.x
        if visible is not None and self.model.fill == "interpolate" and self.model.reads_future:
            # Padding is not missing: the numbers before it are carried on instead.
            within = zero_padding(visible, given.mask, len(self.model.likelihood.event_shape))
            frames = interpolate(frames, within)
        else:
            frames = self._visible(frames)
        embedded = self.model.embed_frames(frames, visible, given.covariates)
        return self.model.encode_future(embedded, self.input_features, self.conditions.mask)

    def empty_latents(self) -> Tensor:
        """The empty z (B, T, 0) of a model without latents."""
        dtype = next(self.model.parameters()).dtype
        return self.conditions.start.new_zeros(self.sequences, self.steps, 0, dtype=dtype)

    def shifted(self, frames: Tensor) -> Tensor:
        """x_0..x_{T-1} for frames x_1..x_T with any leading dimensions."""
        lead = frames.shape[: frames.dim() - self.conditions.start.dim() - 1]
        start = self.conditions.start.expand(*lead, *self.conditions.start.shape)
        time = len(lead) + 1
        return torch.cat([start.unsqueeze(time), frames.narrow(time, 0, self.steps - 1)], dim=time)

    @staticmethod
    def _shifted_mask(mask: Tensor | None) -> Tensor | None:
        """The mask of x_0..x_{T-1} for that of x_1..x_T, shaped as x; None where all are True."""
        if mask is None:
            return None
        return torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], dim=1)

    def _visible(self, frames: Tensor) -> Tensor:
        """Frames (..., B, T) + event shape with zeros in place of numbers hidden in training."""
        if self.visible is None or self.visible is self.conditions.observed:
            return frames
        return frames.where(self.visible, frames.new_zeros(()))

    def _embedded_inputs(self, frames: Tensor) -> Tensor:
        """[e(x_0), u_1]..[e(x_{T-1}), u_T], (rows, T, E + C)."""
        covariates = self.conditions.covariates
        frames, seen = self.shifted(self._visible(frames)), self._shifted_mask(self.visible)
        inputs = self.model.embed_inputs(frames, seen, covariates)
        return inputs.flatten(0, -3)

    # -- sampling -----------------------------------------------------------------------------

    def sample_posterior(self, noise: Tensor) -> Tensor:
        """Latents from the guide for standard normal draws (..., B, T, Z), same shape."""
        noise = self._without_padding(noise)
        rows = noise.flatten(0, -3)
        state = self.model.first_state(rows.shape[0])
        path = self.model.sample_posterior_path(
            self.backward_states, self.input_features, rows, state
        )
        if self.model.initial_state_override is not None:
            self.model.initial_state_override.final = tuple(part.detach() for part in path.state)
        z = self._without_padding(path.z.reshape(noise.shape))
        trajectory = self._trajectory_of(z, path.context, path.features)
        trajectory.posterior = self._time_major(path.mean), self._time_major(path.log_variance)
        self._keep(z, trajectory)
        return z

    def sample_prior(self, noise: Tensor) -> Tensor:
        """Latents from the prior for standard normal draws (..., B, T, Z), same shape.

        Where x is free, frames are sampled with them.
        """
        rows = noise.flatten(0, -3)
        start = self._rows(self.conditions.start, len(rows))
        given = None if self.conditions.x is None else self._rows(self.conditions.x, len(rows))
        sampled = run_forward(
            self.model,
            start,
            self.steps,
            noise=rows,
            frames=given,
            observed=self._repeated(self.conditions.observed, len(rows)),
            covariates=self._repeated(self.conditions.covariates, len(rows)),
        )
        z = self._without_padding(sampled.z.reshape(noise.shape))
        if given is None:
            self._frames.append((weakref.ref(z), self._shaped_frames(z, sampled.frames)))
        return z

    def sample_frames(self, z: Tensor) -> Tensor:
        """New frames along latents z (..., B, T, Z).

        With frames in the batch each is predicted from the batch's previous one, without them from
        the previous sampled one.
        """
        if self.conditions.x is None:
            rows = z.flatten(0, -3)
            start = self._rows(self.conditions.start, len(rows))
            covariates = self._repeated(self.conditions.covariates, len(rows))
            run = run_forward(self.model, start, self.steps, z=rows, covariates=covariates)
            frames = run.frames
        else:
            parameters = self.model.emission(self.trajectory(z).features)
            frames = self.model.likelihood.distribution(parameters).sample()
            frames = frames.permute(1, 2, 0, *range(3, frames.dim()))
        return self._shaped_frames(z, frames)

    def frames_for(self, z: Tensor) -> Tensor:
        """The frames that belong to latents z: the batch's, or those sampled with or for z."""
        for known, frames in self._frames:
            if known() is z:
                return frames
        if self.conditions.x is not None:
            return self.conditions.x
        frames = self.sample_frames(z)
        self._frames.append((weakref.ref(z), frames))
        return frames

    def set_frames(self, z: Tensor, frames: Tensor) -> None:
        """Set the frames that belong to latents z, where a handler gave other than the batch's."""
        if frames is not self.conditions.x and all(
            known is not frames for _, known in self._frames
        ):
            known = self.conditions.without_unknown(frames)
            self._frames.append((weakref.ref(z), known))

    def _shaped_frames(self, z: Tensor, frames: Tensor) -> Tensor:
        event = self.conditions.start.shape[1:]
        shaped = frames.reshape(*z.shape[:-1], *event)
        return zero_padding(shaped, self.conditions.mask, len(event))

    # -- along a path -------------------------------------------------------------------------

    def trajectory(self, z: Tensor, frames: Tensor | None = None) -> Trajectory:
        """Contexts and features along latents z (..., B, T, Z).

        Args:
            z: the latents.
            frames: the frames that are fed back, by default the batch's.
        """
        if frames is None or frames is self.conditions.x:
            return self._batch_trajectory(z)
        return self._computed(z, self.model.input_features(self._embedded_inputs(frames)))

    def adopt_path(self, z: Tensor, guide: BoundModel) -> None:
        """Take over the states along z that the guide of this very call computed.

        Nothing shows that a parameter or a frame was changed in place since then, so that the
        caller vouches for it: see :func:`zpyro.models.sites.replay_directly`. The states of another
        model, batch or mode are left alone.

        Args:
            z: the sampled latents, the tensor that the guide returned.
            guide: the bound model behind the guide's site.
        """
        if all(mine is its for mine, its in zip(self._call, guide._call, strict=True)):
            self._trajectories += [entry for entry in guide._trajectories if entry[0]() is z]

    def _batch_trajectory(self, z: Tensor) -> Trajectory:
        for known, trajectory in self._trajectories:
            if known() is z:
                return trajectory
        trajectory = self._computed(z, self.input_features)
        self._keep(z, trajectory)
        return trajectory

    def _keep(self, z: Tensor, trajectory: Trajectory) -> None:
        """Keep the states along z, and release those of latents that are gone."""
        self._trajectories = [entry for entry in self._trajectories if entry[0]() is not None]
        self._trajectories.append((weakref.ref(z), trajectory))

    def _computed(self, z: Tensor, input_features: Tensor) -> Trajectory:
        z = self._without_padding(z)
        rows = z.flatten(0, -3)
        state = self.model.first_state(rows.shape[0])
        inputs = self._rows(input_features, rows.shape[0])
        return self._trajectory_of(z, *self.model.states_given_latents(rows, inputs, state))

    def _trajectory_of(self, z: Tensor, context: Tensor, features: Tensor) -> Trajectory:
        z, context, features = (self._time_major(part) for part in (z, context, features))
        return Trajectory(z, context, features)

    def posterior(self, trajectory: Trajectory) -> GaussianParameters:
        """Parameters of q(z_t | context, b_t) along a path."""
        if trajectory.posterior is None:
            future = self._time_major(self.backward_states)
            trajectory.posterior = in_blocks(self.model.posterior, trajectory.context, future)
        return trajectory.posterior

    def prior(self, trajectory: Trajectory) -> GaussianParameters:
        """Parameters of p(z_t | context) along a path."""
        if trajectory.prior is None:
            trajectory.prior = in_blocks(self.model.prior, trajectory.context)
        return trajectory.prior

    def log_likelihood(self, trajectory: Trajectory, frames: Tensor) -> Tensor:
        """log p(x_t | h_t) along a path, nats, (T, L, B); of the observed numbers of x_t."""

        def score(features: Tensor, frames: Tensor, *observed: Tensor) -> Tensor:
            parameters = self.model.emission(features)
            if observed:
                return self.model.likelihood.observed_log_prob(parameters, frames, *observed)
            return self.model.likelihood.log_prob(parameters, frames)

        known = self._mask_time_major(self.conditions.observed)
        return in_blocks(score, trajectory.features, self.frames_time_major(frames), *known)

    def auxiliary(self, backward_states: Tensor, trajectory: Trajectory) -> Tensor:
        """log p(stop_gradient(b_t) | z_t, context) along a path, nats, (T, L, B)."""
        states = self._time_major(backward_states)
        return in_blocks(self.model.auxiliary, states, trajectory.z, trajectory.context)

    def reverse(self, backward_states: Tensor, frames: Tensor) -> Tensor:
        """log p(x_{t-1} | b_t), nats, (T, L, B)."""
        targets = self.frames_time_major(self.shifted(frames))
        known = self._mask_time_major(self._shifted_mask(self.conditions.observed))
        return in_blocks(self.model.reverse, self._time_major(backward_states), targets, *known)

    # -- shapes -------------------------------------------------------------------------------

    def per_step(self, values: Tensor, lead: torch.Size) -> Tensor:
        """Values (T, L, B) as (..., B, T), exactly zero beyond the lengths."""
        terms = values.permute(1, 2, 0)
        terms = terms.expand(math.prod(lead), *terms.shape[1:]).reshape(*lead, *terms.shape[1:])
        return zero_padding(terms, self.conditions.mask, event_dims=0)

    def batch_major(self, values: Tensor) -> Tensor:
        """Values of a path without particles, (T, 1, B, F), as (B, T, F), zeros in padding."""
        return self._without_padding(values.squeeze(1).transpose(0, 1))

    def frames_time_major(self, frames: Tensor) -> Tensor:
        """Frames (..., B, T) + event shape as (T, L, B) + event shape."""
        event = self.conditions.start.shape[1:]
        rows = frames.reshape(-1, self.sequences, self.steps, *event)
        return rows.permute(2, 0, 1, *range(3, rows.dim()))

    def _mask_time_major(self, observed: Tensor | None) -> tuple[Tensor, ...]:
        """A mask of frames as (T, 1, B) + event shape; nothing where there is none."""
        return () if observed is None else (self.frames_time_major(observed),)

    def _repeated(self, values: Tensor | None, rows: int) -> Tensor | None:
        return None if values is None else self._rows(values, rows)

    def _time_major(self, rows: Tensor) -> Tensor:
        """(..., T, F) with L B rows as (T, L, B, F)."""
        flat = rows.flatten(0, -3).transpose(0, 1)
        return flat.contiguous().unflatten(1, (flat.shape[1] // self.sequences, self.sequences))

    def _rows(self, values: Tensor, rows: int) -> Tensor:
        """Values of the B sequences repeated for every particle: (rows, ...)."""
        return values.repeat(rows // values.shape[0], *(1,) * (values.dim() - 1))

    def _without_padding(self, values: Tensor) -> Tensor:
        """(..., B, T, F) with exact zeros beyond the lengths, also in place of NaN."""
        return zero_padding(values, self.conditions.mask, event_dims=1)

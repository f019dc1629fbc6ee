"""The Pyro programs of every sequence model: model and guide, in two granularities.

In the sequence granularity the whole path is one latent site ``z`` and all frames are one observed
site ``x``; in the step granularity the sites are ``z_1``, ``x_1``, ``z_2``, ... All are within
``pyro.plate("sequences", B)``, or within a plate of the user's in dimension -1, such as
``pyro.plate("data", N, subsample_size=B)``. The programs hold the generative process and the
posterior only. What an objective adds (auxiliary terms) is passed in ``infer``:

- a latent site of a guide exposes its backward states as ``infer={"backward_states": b}``,
- an observed site of a model offers ``infer={"auxiliary_costs": AuxiliaryCosts(...)}``,

both for models with a backward network only. A model without latents (Z = 0) has no latent site:
its guide samples nothing, and every bound is the exact log-likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.runtime import get_plates
from torch import Tensor

from zpyro.errors import UserError
from zpyro.models.bound_model import BoundModel
from zpyro.models.conditions import zero_padding
from zpyro.models.distributions import (
    ObservedFrame,
    TrajectoryLikelihood,
    TrajectoryPosterior,
    TrajectoryPrior,
)
from zpyro.models.steps import StepwiseModel
from zpyro.nn.layers import State

Program = Callable[..., Any]
"""A Pyro model or guide called with (x, lengths, start), or where the data have missing values or
covariates with (x, lengths, start, observed, covariates)."""

PLATE = "sequences"


@dataclass(frozen=True, eq=False)
class AuxiliaryCosts:
    """What an observed site offers an objective under ``infer={"auxiliary_costs": ...}``.

    Attributes:
        latent: name of the latent site whose guide exposes the backward states.
        log_auxiliary: from those backward states and that site's value to
            log p(stop_gradient(b_t) | z_t, context), nats, zero beyond the lengths.
        log_reverse: from the backward states to log p(x_{t-1} | b_t), likewise.
    """

    latent: str
    log_auxiliary: Callable[[Tensor, Tensor], Tensor]
    log_reverse: Callable[[Tensor], Tensor]


def sequence_model(
    model: StepwiseModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
) -> Tensor:
    """The generative process with one latent and one observed site."""
    model.register_parameters()
    bound = _bound(model, x, lengths, start, observed, covariates)
    with _sequences(bound):
        has_latents = model.latent_size > 0
        z = pyro.sample("z", TrajectoryPrior(bound)) if has_latents else bound.empty_latents()
        likelihood = TrajectoryLikelihood(bound, z)
        infer = _costs_of_sequence(bound, z)
        frames = pyro.sample("x", likelihood, obs=bound.conditions.x, infer=infer)
        # The prior of z and the auxiliary costs depend on frames that poutine.condition gives.
        bound.set_frames(z, frames)
        return frames


def sequence_guide(
    model: StepwiseModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
) -> Tensor:
    """The posterior with one latent site."""
    model.register_parameters()
    bound = _bound(model, x, lengths, start, observed, covariates)
    with _sequences(bound):
        if not model.latent_size:
            return bound.empty_latents()
        infer = _exposed(model, bound.backward_states)
        return pyro.sample("z", TrajectoryPosterior(bound), infer=infer)


def step_model(
    model: StepwiseModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
) -> Tensor:
    """The generative process with sites z_t and x_t for every step."""
    model.register_parameters()
    bound = _bound(model, x, lengths, start, observed, covariates)
    given, previous, seen = bound.conditions, bound.conditions.start, None
    frames: list[Tensor] = []
    with _sequences(bound):
        state = model.first_state(bound.sequences)
        for t in range(bound.steps):
            known = None if given.covariates is None else given.covariates[:, t]
            visible = None if bound.visible is None or t == 0 else bound.visible[:, t - 1]
            read = previous if visible is None else previous.where(visible, previous.new_zeros(()))
            inputs = model.embed_inputs(read, visible, known)
            state = model.prepare(inputs, state)
            with _masked(bound, t):
                context = model.context(state)
                if model.latent_size:
                    z = pyro.sample(f"z_{t + 1}", _normal(*model.prior(context)))
                else:
                    z = bound.empty_latents()[:, t]
                infer = _costs_of_step(bound, t, context, previous, seen)
                seen = None if given.observed is None else given.observed[:, t]
                state = model.transition(z, inputs, _expanded(state, z))
                previous = pyro.sample(
                    f"x_{t + 1}",
                    _frame_distribution(model, model.emission(model.features(state)), seen),
                    obs=None if given.x is None else given.x[:, t],
                    infer=infer,
                )
                if seen is not None:
                    # A handler may give a whole frame in place of the observed one.
                    previous = previous.where(seen, previous.new_zeros(()))
            frames.append(previous)
    return torch.stack(frames, dim=-1 - len(model.likelihood.event_shape))


def step_guide(
    model: StepwiseModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
) -> Tensor:
    """The posterior with a site z_t for every step."""
    model.register_parameters()
    bound = _bound(model, x, lengths, start, observed, covariates)
    latents: list[Tensor] = []
    with _sequences(bound):
        if not model.latent_size:
            return bound.empty_latents()
        future, inputs = bound.backward_states, bound.inputs
        state = model.first_state(bound.sequences)
        for t in range(bound.steps):
            state = model.prepare(inputs[:, t], state)
            with _masked(bound, t):
                posterior = _normal(*model.posterior(model.context(state), future[:, t]))
                infer = _exposed(model, future[:, t])
                z = pyro.sample(f"z_{t + 1}", posterior, infer=infer)
            state = model.transition(z, inputs[:, t], _expanded(state, z))
            latents.append(z)
    return torch.stack(latents, dim=-2)


PROGRAMS = {
    "sequence": (sequence_model, sequence_guide),
    "step": (step_model, step_guide),
}
"""(model, guide) by granularity."""


def _bound(
    model: StepwiseModel,
    x: Tensor | None,
    lengths: Tensor | int | None,
    start: Tensor | None,
    observed: Tensor | None,
    covariates: Tensor | None,
) -> BoundModel:
    """The model bound to its arguments."""
    if observed is None and covariates is None:
        # An override of bind in a model without either may have three arguments.
        return model.bind(x, lengths, start)
    return model.bind(x, lengths, start, observed, covariates)


def _frame_distribution(
    model: StepwiseModel, parameters: Tensor, observed: Tensor | None
) -> dist.TorchDistribution:
    if observed is None:
        return cast(dist.TorchDistribution, model.likelihood.distribution(parameters))
    return ObservedFrame(model.likelihood, parameters, observed)


def _sequences(bound: BoundModel) -> AbstractContextManager[object]:
    """The plate of the sequences; the user's, if that holds the last batch dimension already.

    Raises:
        UserError: if the user's has another size.
    """
    for plate in get_plates():
        if plate.dim == -1:
            if plate.size != bound.sequences:
                raise UserError(
                    f"plate {plate.name}: has size {plate.size} in the dimension of the sequences, "
                    f"-1, for a batch of {bound.sequences}; call the model with the rows of the "
                    "plate's subsample, or give the plate dim=-2"
                )
            return nullcontext()
    return pyro.plate(PLATE, bound.sequences)


def _costs_of_sequence(bound: BoundModel, z: Tensor) -> Any:
    """The ``infer`` of the site x; Pyro's own type lists only the keys that Pyro reads.

    Args:
        bound: the model and its batch.
        z: the latents of the model, to which the frames belong.
    """
    if not bound.model.has_backward_network:
        return {}

    def log_auxiliary(future: Tensor, latents: Tensor) -> Tensor:
        trajectory = bound.trajectory(latents, bound.frames_for(z))
        return bound.per_step(bound.auxiliary(future, trajectory), latents.shape[:-3])

    def log_reverse(future: Tensor) -> Tensor:
        return bound.per_step(bound.reverse(future, bound.frames_for(z)), torch.Size())

    return {"auxiliary_costs": AuxiliaryCosts("z", log_auxiliary, log_reverse)}


def _costs_of_step(
    bound: BoundModel, t: int, context: Tensor, frame: Tensor, observed: Tensor | None
) -> Any:
    """The ``infer`` of the site x_t; ``observed`` is the mask of the frame x_{t-1}, if any."""
    if not bound.model.has_backward_network:
        return {}
    mask = None if bound.conditions.mask is None else bound.conditions.mask[:, t]

    def log_auxiliary(future: Tensor, z: Tensor) -> Tensor:
        future, given = (part.expand(*z.shape[:-1], -1) for part in (future, context))
        return zero_padding(bound.model.auxiliary(future, z, given), mask, 0)

    def log_reverse(future: Tensor) -> Tensor:
        known = () if observed is None else (observed,)
        return zero_padding(bound.model.reverse(future, frame, *known), mask, 0)

    return {"auxiliary_costs": AuxiliaryCosts(f"z_{t + 1}", log_auxiliary, log_reverse)}


def _exposed(model: StepwiseModel, backward_states: Tensor) -> Any:
    return {"backward_states": backward_states} if model.has_backward_network else {}


def _normal(mean: Tensor, log_variance: Tensor) -> dist.TorchDistribution:
    return dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False).to_event(1)


def _masked(bound: BoundModel, t: int) -> AbstractContextManager[object]:
    if bound.conditions.mask is None:
        return nullcontext()
    return poutine.mask(mask=cast(Any, bound.conditions.mask[:, t]))


def _expanded(state: State, z: Tensor) -> State:
    """The state with the leading (particle) dimensions that z has."""
    shapes = (torch.broadcast_shapes(z.shape[:-1], part.shape[:-1]) for part in state)
    return tuple(part.expand(*shape, -1) for part, shape in zip(state, shapes, strict=True))

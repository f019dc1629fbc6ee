"""The Pyro programs that every sequence model shares: model and guide, in two granularities.

For the sequence granularity the whole path is one latent site ``z`` and all frames are one observed
site ``x``; for the step granularity the sites are ``z_1``, ``x_1``, ``z_2``, ... All stand within
``pyro.plate("sequences", B)``. The programs hold the generative process and the posterior and
nothing else; what an objective adds (auxiliary costs) only rides along in ``infer``:

- a latent site of a guide exposes its backward states as ``infer={"backward_states": b}``,
- an observed site of a model offers ``infer={"auxiliary_costs": AuxiliaryCosts(...)}``,

both for models with a backward network only. A model without latents (Z = 0) has no latent site:
its guide samples nothing, and every bound is the exact log-likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from zpyro.models.distributions import TrajectoryLikelihood, TrajectoryPosterior, TrajectoryPrior

if TYPE_CHECKING:
    from zpyro.models.base import SequenceModel
    from zpyro.models.bound_model import BoundModel
    from zpyro.nn.layers import State

PLATE = "sequences"


@dataclass(frozen=True, eq=False)
class AuxiliaryCosts:
    """What an observed site offers an objective under ``infer={"auxiliary_costs": ...}``.

    Attributes:
        latent: name of the latent site whose guide exposes the backward states.
        evaluate: from those backward states and that site's value to (log_auxiliary,
            log_reverse), nats, zero beyond the lengths.
    """

    latent: str
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def sequence_model(
    module: SequenceModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The generative process with one latent and one observed site."""
    module.register_parameters()
    process = module.bind(x, lengths, start)
    infer = _costs(module, AuxiliaryCosts("z", partial(_sequence_costs, process)))
    with pyro.plate(PLATE, process.sequences):
        has_latents = module.latent_size > 0
        z = pyro.sample("z", TrajectoryPrior(process)) if has_latents else process.empty_latents()
        likelihood = TrajectoryLikelihood(process, z)
        return pyro.sample("x", likelihood, obs=process.conditions.x, infer=infer)


def sequence_guide(
    module: SequenceModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The posterior with one latent site."""
    module.register_parameters()
    process = module.bind(x, lengths, start)
    with pyro.plate(PLATE, process.sequences):
        if not module.latent_size:
            return process.empty_latents()
        posterior = TrajectoryPosterior(process)
        return pyro.sample("z", posterior, infer=_exposed(module, process.backward_states))


def step_model(
    module: SequenceModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The generative process with sites z_t and x_t for every step."""
    module.register_parameters()
    process = module.bind(x, lengths, start)
    previous, observed = process.conditions.start, process.conditions.x
    frames: list[Tensor] = []
    with pyro.plate(PLATE, process.sequences):
        state = module.first_state(process.sequences)
        for t in range(process.steps):
            inputs = module.embed_inputs(previous)
            state = module.prepare(inputs, state)
            with _only_valid(process, t):
                context = module.context(state)
                z = _draw_prior(process, t, context)
                costs = partial(_step_costs, process, t, context, previous)
                state = module.transition(z, inputs, _like(state, z))
                frame = pyro.sample(
                    f"x_{t + 1}",
                    module.likelihood.distribution(module.emission(module.features(state))),
                    obs=None if observed is None else observed[:, t],
                    infer=_costs(module, AuxiliaryCosts(f"z_{t + 1}", costs)),
                )
            frames.append(frame)
            previous = frame
    return torch.stack(frames, dim=-1 - len(module.likelihood.event_shape))


def step_guide(
    module: SequenceModel,
    x: Tensor | None = None,
    lengths: Tensor | int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The posterior with a site z_t for every step."""
    module.register_parameters()
    process = module.bind(x, lengths, start)
    if not module.latent_size:
        with pyro.plate(PLATE, process.sequences):
            return process.empty_latents()
    backward, inputs = process.backward_states, process.inputs
    latents: list[Tensor] = []
    with pyro.plate(PLATE, process.sequences):
        state = module.first_state(process.sequences)
        for t in range(process.steps):
            state = module.prepare(inputs[:, t], state)
            with _only_valid(process, t):
                posterior = _normal(*module.posterior(module.context(state), backward[:, t]))
                infer = _exposed(module, backward[:, t])
                z = pyro.sample(f"z_{t + 1}", posterior, infer=infer)
            state = module.transition(z, inputs[:, t], _like(state, z))
            latents.append(z)
    return torch.stack(latents, dim=-2)


PROGRAMS = {
    "sequence": (sequence_model, sequence_guide),
    "step": (step_model, step_guide),
}
"""(model, guide) by granularity."""


def _sequence_costs(process: BoundModel, backward: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(log_auxiliary, log_reverse), each (..., B, T)."""
    lead = z.shape[:-3]
    auxiliary = process.auxiliary(backward, process.trajectory(z))
    return process.per_step(auxiliary, lead), process.per_step(process.reverse(backward), lead)


def _step_costs(
    process: BoundModel, t: int, context: Tensor, frame: Tensor, backward: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """(log_auxiliary, log_reverse) of step t, each (..., B)."""
    backward, context = (part.expand(*z.shape[:-1], -1) for part in (backward, context))
    auxiliary = process.model.auxiliary(backward, z, context)
    reverse = process.model.reverse(backward, frame)
    if process.conditions.valid is None:
        return auxiliary, reverse
    valid, zero = process.conditions.valid[:, t], auxiliary.new_zeros(())
    return auxiliary.where(valid, zero), reverse.where(valid, zero)


def _draw_prior(process: BoundModel, t: int, context: Tensor) -> Tensor:
    """The site z_t of the model, or the empty z_t (B, 0) of one without latents."""
    if not process.model.latent_size:
        return process.empty_latents()[:, t]
    return pyro.sample(f"z_{t + 1}", _normal(*process.model.prior(context)))


def _costs(module: SequenceModel, costs: AuxiliaryCosts) -> Any:
    # Pyro passes any keys on; its own type lists only those that Pyro itself reads.
    return {"auxiliary_costs": costs} if module.has_backward_network else {}


def _exposed(module: SequenceModel, backward: Tensor) -> Any:
    return {"backward_states": backward} if module.has_backward_network else {}


def _normal(mean: Tensor, log_variance: Tensor) -> dist.TorchDistribution:
    return dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False).to_event(1)


def _only_valid(process: BoundModel, t: int) -> AbstractContextManager[object]:
    if process.conditions.valid is None:
        return nullcontext()
    return poutine.mask(mask=cast(Any, process.conditions.valid[:, t]))


def _like(state: State, z: Tensor) -> State:
    """The state with the leading (particle) dimensions that z has."""
    shapes = (torch.broadcast_shapes(z.shape[:-1], part.shape[:-1]) for part in state)
    return tuple(part.expand(*shape, -1) for part, shape in zip(state, shapes, strict=True))

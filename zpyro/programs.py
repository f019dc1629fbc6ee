"""The Pyro programs that every sequence model shares: model and guide, in two granularities.

For the sequence granularity the whole path is one latent site ``z`` and all frames are one observed
site ``x``; for the step granularity the sites are ``z_1``, ``x_1``, ``z_2``, ... All stand within
``pyro.plate("sequences", B)``. The programs hold the generative process and the posterior and
nothing else; what an objective adds (auxiliary costs) only rides along in ``infer``:

- a latent site of a guide exposes its backward states as ``infer={"backward_states": b}``,
- an observed site of a model offers ``infer={"auxiliary_costs": AuxiliaryCosts(...)}``.
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

from zpyro.distributions import TrajectoryLikelihood, TrajectoryPosterior, TrajectoryPrior

if TYPE_CHECKING:
    from zpyro.models.base import SequenceModel
    from zpyro.process import Process

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
    costs = AuxiliaryCosts("z", partial(_sequence_costs, process))
    with pyro.plate(PLATE, process.sequences):
        z = pyro.sample("z", TrajectoryPrior(process))
        likelihood = TrajectoryLikelihood(process, z)
        observed = process.conditions.x
        return pyro.sample("x", likelihood, obs=observed, infer=_infer(auxiliary_costs=costs))


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
        posterior = TrajectoryPosterior(process)
        return pyro.sample("z", posterior, infer=_infer(backward_states=process.backward_states))


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
        state = module.initial_state(process.sequences)
        for t in range(process.steps):
            with _only_valid(process, t):
                z = pyro.sample(f"z_{t + 1}", _normal(*module.prior(state[0])))
                costs = partial(_step_costs, process, t, state[0], previous)
                state = module.transition(z, module.embed(previous), _like(state, z))
                frame = pyro.sample(
                    f"x_{t + 1}",
                    module.likelihood.distribution(module.emission(state[0])),
                    obs=None if observed is None else observed[:, t],
                    infer=_infer(auxiliary_costs=AuxiliaryCosts(f"z_{t + 1}", costs)),
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
    backward, inputs = process.backward_states, process.inputs
    latents: list[Tensor] = []
    with pyro.plate(PLATE, process.sequences):
        state = module.initial_state(process.sequences)
        for t in range(process.steps):
            with _only_valid(process, t):
                posterior = _normal(*module.posterior(state[0], backward[:, t]))
                infer = _infer(backward_states=backward[:, t])
                z = pyro.sample(f"z_{t + 1}", posterior, infer=infer)
            state = module.transition(z, inputs[:, t], _like(state, z))
            latents.append(z)
    return torch.stack(latents, dim=-2)


PROGRAMS = {
    "sequence": (sequence_model, sequence_guide),
    "step": (step_model, step_guide),
}
"""(model, guide) by granularity."""


def _sequence_costs(process: Process, backward: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(log_auxiliary, log_reverse), each (..., B, T)."""
    lead = z.shape[:-3]
    auxiliary = process.auxiliary(backward, process.trajectory(z))
    return process.per_step(auxiliary, lead), process.per_step(process.reverse(backward), lead)


def _step_costs(
    process: Process, t: int, hidden: Tensor, frame: Tensor, backward: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """(log_auxiliary, log_reverse) of step t, each (..., B)."""
    backward, hidden = backward.expand(*z.shape[:-1], -1), hidden.expand(*z.shape[:-1], -1)
    auxiliary = process.model.auxiliary(backward, z, hidden)
    reverse = process.model.reverse(backward, frame)
    if process.conditions.valid is None:
        return auxiliary, reverse
    valid, zero = process.conditions.valid[:, t], auxiliary.new_zeros(())
    return auxiliary.where(valid, zero), reverse.where(valid, zero)


def _infer(**entries: object) -> Any:
    """Pyro passes any keys on; its own type lists only those that Pyro itself reads."""
    return entries


def _normal(mean: Tensor, log_variance: Tensor) -> dist.TorchDistribution:
    return dist.Normal(mean, (0.5 * log_variance).exp(), validate_args=False).to_event(1)


def _only_valid(process: Process, t: int) -> AbstractContextManager[object]:
    if process.conditions.valid is None:
        return nullcontext()
    return poutine.mask(mask=cast(Any, process.conditions.valid[:, t]))


def _like(state: tuple[Tensor, Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The state with the leading (particle) dimensions that z has."""
    hidden, cell = (part.expand(*z.shape[:-1], -1) for part in state)
    return hidden, cell

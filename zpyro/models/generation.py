"""Running a model forward in time: the one loop behind prior samples and continuations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zpyro.nn.kernels.cuda_graph import GraphedCallable, Tensors
from zpyro.nn.layers import State

if TYPE_CHECKING:
    from zpyro.models.base import SequenceModel


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a forward run drew; N sequences, T steps.

    Attributes:
        z: latents, (N, T, Z).
        frames: frames or tokens, (N, T) + event shape.
        state: the state after the last step, for going on.
    """

    z: Tensor
    frames: Tensor
    state: State


def simulate(
    model: SequenceModel,
    start: Tensor,
    steps: int,
    *,
    state: State | None = None,
    noise: Tensor | None = None,
    z: Tensor | None = None,
    frames: Tensor | None = None,
    temperature: float = 1.0,
) -> Simulation:
    """Draw z_t from the prior and x_t from the likelihood, step by step.

    Args:
        model: the model to run.
        start: x_0, (N,) + event shape.
        steps: T.
        state: where to go on from; zeros by default.
        noise: standard normal draws behind the latents, (N, T, Z); fresh ones by default.
        z: latents to keep instead of drawing them, (N, T, Z).
        frames: frames to feed back instead of drawing them, (N, T) + event shape.
        temperature: factor on the standard deviations (logits are divided by it).
    """
    state = model.initial_state(start.shape[0]) if state is None else state
    previous = start
    latents: list[Tensor] = []
    drawn: list[Tensor] = []
    for t in range(steps):
        inputs = model.embed(previous)
        state = model.prepare(inputs, state)
        if z is None:
            draws = None if noise is None else noise[:, t]
            latent = _draw_latent(model, state, draws, temperature)
        else:
            latent = z[:, t]
        state = model.transition(latent, inputs, state)
        previous = _draw_frame(model, state, temperature) if frames is None else frames[:, t]
        latents.append(latent)
        drawn.append(previous)
    return Simulation(torch.stack(latents, dim=1), torch.stack(drawn, dim=1), state)


@torch.no_grad()
def draw_frames(
    model: SequenceModel, start: Tensor, steps: int, state: State, temperature: float = 1.0
) -> Tensor:
    """Frames drawn step by step, and nothing else kept: state and frames stay where they are.

    On CUDA a step is recorded once as a graph.

    Args:
        model: the model to run.
        start: x_0, (N,) + event shape.
        steps: T.
        state: where to go on from.
        temperature: factor on the standard deviations (logits are divided by it).

    Returns:
        The frames, (N, T) + event shape.
    """

    def step(previous: Tensor, *state: Tensor) -> Tensors:
        inputs = model.embed(previous)
        prepared = model.prepare(inputs, state)
        latent = _draw_latent(model, prepared, None, temperature)
        after = model.transition(latent, inputs, prepared)
        return (_draw_frame(model, after, temperature), *after)

    # The results of one step are copied into the places that the next reads them from.
    captured = GraphedCallable(step, own=False)
    frames = start.new_empty(start.shape[0], steps, *start.shape[1:])
    present: Tensors = (start, *state)
    for t in range(steps):
        present = captured(*present)
        frames[:, t] = present[0]
    return frames


def _draw_frame(model: SequenceModel, state: State, temperature: float) -> Tensor:
    return model.likelihood.sample(model.emission(model.features(state)), temperature)


def _draw_latent(
    model: SequenceModel, state: State, noise: Tensor | None, temperature: float
) -> Tensor:
    mean, log_variance = model.prior(model.context(state))
    noise = torch.randn_like(mean) if noise is None else noise
    return mean + temperature * (0.5 * log_variance).exp() * noise

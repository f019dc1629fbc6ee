"""Running a model forward in time: prior samples, and continuations of given frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zpyro.models.steps import StepwiseModel
from zpyro.nn.kernels.cuda_graph import GraphedCallable, Tensors
from zpyro.nn.layers import State


@dataclass(frozen=True, eq=False)
class ForwardRun:
    """The result of a forward run, N sequences of T steps.

    Attributes:
        z: latents, (N, T, Z).
        frames: frames or tokens, (N, T) + event shape.
        state: the state after the last step.
    """

    z: Tensor
    frames: Tensor
    state: State


def run_forward(
    model: StepwiseModel,
    start: Tensor,
    steps: int,
    *,
    noise: Tensor | None = None,
    z: Tensor | None = None,
    frames: Tensor | None = None,
) -> ForwardRun:
    """Sample z_t from the prior and x_t from the likelihood, step by step.

    Args:
        model: the model to run.
        start: x_0, (N,) + event shape.
        steps: T.
        noise: standard normal draws behind the latents, (N, T, Z); fresh ones by default.
        z: latents to use instead of samples, (N, T, Z).
        frames: frames to feed back instead of samples, (N, T) + event shape.
    """
    state = model.initial_state(start.shape[0])
    previous = start
    latents: list[Tensor] = []
    sampled: list[Tensor] = []
    for t in range(steps):
        inputs = model.embed(previous)
        state = model.prepare(inputs, state)
        if z is None:
            latent = _sample_latent(model, state, None if noise is None else noise[:, t], 1.0)
        else:
            latent = z[:, t]
        state = model.transition(latent, inputs, state)
        previous = _sample_frame(model, state, 1.0) if frames is None else frames[:, t]
        latents.append(latent)
        sampled.append(previous)
    return ForwardRun(torch.stack(latents, dim=1), torch.stack(sampled, dim=1), state)


@torch.no_grad()
def sample_frames(
    model: StepwiseModel, start: Tensor, steps: int, state: State, temperature: float = 1.0
) -> Tensor:
    """Sample frames step by step, keeping nothing but the frames and the present state.

    On CUDA a step is captured once as a graph.

    Args:
        model: the model to run.
        start: x_0, (N,) + event shape.
        steps: T.
        state: the state before the first step.
        temperature: factor on the standard deviations (logits are divided by it).

    Returns:
        The frames, (N, T) + event shape.
    """

    def step(previous: Tensor, *state: Tensor) -> Tensors:
        inputs = model.embed(previous)
        prepared = model.prepare(inputs, state)
        latent = _sample_latent(model, prepared, None, temperature)
        after = model.transition(latent, inputs, prepared)
        return (_sample_frame(model, after, temperature), *after)

    # The outputs of a step are copied to its inputs before the next one.
    graphed = GraphedCallable(step, clone_outputs=False)
    frames = start.new_empty(start.shape[0], steps, *start.shape[1:])
    present: Tensors = (start, *state)
    for t in range(steps):
        present = graphed(*present)
        frames[:, t] = present[0]
    return frames


def _sample_frame(model: StepwiseModel, state: State, temperature: float) -> Tensor:
    return model.likelihood.sample(model.emission(model.features(state)), temperature)


def _sample_latent(
    model: StepwiseModel, state: State, noise: Tensor | None, temperature: float
) -> Tensor:
    mean, log_variance = model.prior(model.context(state))
    noise = torch.randn_like(mean) if noise is None else noise
    return mean + temperature * (0.5 * log_variance).exp() * noise

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
    observed: Tensor | None = None,
    covariates: Tensor | None = None,
    lengths: Tensor | None = None,
) -> ForwardRun:
    """Sample z_t from the prior and x_t from the likelihood, step by step.

    Args:
        model: the model to run.
        start: x_0, (N,) + event shape.
        steps: T.
        noise: standard normal draws behind the latents, (N, T, Z); fresh ones by default.
        z: latents to use instead of samples, (N, T, Z).
        frames: frames to feed back instead of samples, (N, T) + event shape.
        observed: True where they are known, shaped as ``frames``; None where all are.
        covariates: u_1..u_T, (N, T, C), for a model that has them.
        lengths: (N,), the steps after which a state stays as it is; T by default.
    """
    state = model.initial_state(start.shape[0])
    previous, seen = start, None
    latents: list[Tensor] = []
    sampled: list[Tensor] = []
    for t in range(steps):
        inputs = model.embed_frames(
            previous, seen, None if covariates is None else covariates[:, t]
        )
        before, state = state, model.prepare(inputs, state)
        if z is None:
            latent = _sample_latent(model, state, None if noise is None else noise[:, t], 1.0)
        else:
            latent = z[:, t]
        state = model.transition(latent, inputs, state)
        previous = _sample_frame(model, state, 1.0) if frames is None else frames[:, t]
        seen = None if observed is None else observed[:, t]
        if lengths is not None:
            state = choose_rows(t < lengths, state, before)
        latents.append(latent)
        sampled.append(previous)
    return ForwardRun(torch.stack(latents, dim=1), torch.stack(sampled, dim=1), state)


def choose_rows(mask: Tensor, state: State, other: State) -> State:
    """The rows of a state where the mask (N,) is True, those of another elsewhere."""
    pairs = zip(state, other, strict=True)
    return tuple(new.where(mask.reshape(-1, *(1,) * (new.dim() - 1)), old) for new, old in pairs)


@torch.no_grad()
def sample_frames(
    model: StepwiseModel,
    start: Tensor,
    steps: int,
    state: State,
    temperature: float = 1.0,
    covariates: Tensor | None = None,
    observed: Tensor | None = None,
    output_noise: float = 1.0,
) -> Tensor:
    """Sample frames step by step, keeping nothing but the frames and the present state.

    On CUDA a step is captured once as a graph.

    Args:
        model: the model to run.
        start: x_0, (N,) + event shape.
        steps: T.
        state: the state before the first step.
        temperature: factor on the standard deviations (logits are divided by it).
        covariates: u_1..u_T, (N, T, C), for a model that has them.
        observed: True where the start frame is known, (N,) + event shape; None where all of it is.
        output_noise: factor on the deviation of returned frames from their mean given the state.
            The model is fed the whole samples.

    Returns:
        The frames, (N, T) + event shape.
    """

    def next_frame(
        seen: Tensor | None, known: Tensor | None, previous: Tensor, *state: Tensor
    ) -> Tensors:
        inputs = model.embed_frames(previous, seen, known)
        prepared = model.prepare(inputs, state)
        latent = _sample_latent(model, prepared, None, temperature)
        after = model.transition(latent, inputs, prepared)
        if output_noise == 1.0:
            return (_sample_frame(model, after, temperature), *after)
        parameters = model.emission(model.features(after))
        frame = model.likelihood.sample(parameters, temperature)
        returned = torch.lerp(model.likelihood.mean(parameters), frame, output_noise)
        return (frame, *after, returned)

    def step(*tensors: Tensor) -> Tensors:
        if covariates is None:
            return next_frame(None, None, *tensors)
        return next_frame(None, *tensors)

    # The outputs of a step are copied to its inputs before the next one.
    graphed = GraphedCallable(step, clone_outputs=False)
    frames = start.new_empty(start.shape[0], steps, *start.shape[1:])
    present: Tensors = (start, *state)
    for t in range(steps):
        known = () if covariates is None else (covariates[:, t],)
        if t == 0 and observed is not None:
            present = next_frame(observed, known[0] if known else None, *present)
        else:
            present = graphed(*known, *present)
        frames[:, t] = present[0 if output_noise == 1.0 else -1]
        present = present[: 1 + len(state)]
    return frames


def _sample_frame(model: StepwiseModel, state: State, temperature: float) -> Tensor:
    return model.likelihood.sample(model.emission(model.features(state)), temperature)


def _sample_latent(
    model: StepwiseModel, state: State, noise: Tensor | None, temperature: float
) -> Tensor:
    mean, log_variance = model.prior(model.context(state))
    noise = torch.randn_like(mean) if noise is None else noise
    return mean + temperature * (0.5 * log_variance).exp() * noise

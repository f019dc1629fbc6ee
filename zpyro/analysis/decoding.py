"""From latents back to frames: reconstruction of what was observed, and decoding of any latents."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from zpyro.datasets.batching import Batch
from zpyro.distributed.seeding import named_noise
from zpyro.errors import UserError
from zpyro.evaluation import in_type_of
from zpyro.likelihoods import Bernoulli
from zpyro.models.base import Program, SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.conditions import zero_padding
from zpyro.models.guides import latents_of
from zpyro.nn.blocks import in_blocks


@dataclass(frozen=True, eq=False)
class Decoded:
    """Latents and the frames that they stand for, zero beyond the lengths.

    Attributes:
        z: the latents, (..., B, T, Z).
        mean: the expected frame of p(x_t | h_t), (..., B, T, D); of binary frames the
            probabilities, of tokens the most probable one, (..., B, T).
        frames: one draw from p(x_t | h_t), shaped as ``mean``; with :func:`decode` the frames that
            were fed back.
    """

    z: Tensor
    mean: Tensor
    frames: Tensor


@torch.no_grad()
def reconstruct(
    module: SequenceModel,
    batch: Batch,
    *,
    seed: int = 0,
    draws: int = 1,
    use_mean: bool = False,
    guide: Program | None = None,
) -> Decoded:
    """The frames that the model expects along latents of the posterior.

    Teacher-forced, as the model is trained: h_t is given the observed x_{t-1}, so that a frame is
    told by z_1..z_t and x_0..x_{t-1}, and never by x_t but through z. What the latents alone hold
    is seen with :func:`decode` of the same ``z``.

    Args:
        module: a model with latents.
        batch: the sequences.
        seed: of the draws, which differ by the names of the sequences and leave the generators of
            the process as they are.
        draws: S, paths of latents for every sequence.
        use_mean: in place of a draw take the mean of q(z_t | h_{t-1}, b_t) at every step, given
            the means before it; S is 1.
        guide: the guide to take latents from, by default the one attached to the module, or
            its built-in one.

    Returns:
        All with a leading dimension S: z is (S, B, T, Z).

    Raises:
        UserError: if the model has no latents, or the mean is asked of a guide that has none.
    """
    check_has_latents(module)
    guide = module.custom_guide if guide is None else guide
    if draws < 1 or (use_mean and draws > 1):
        raise UserError(f"draws is {draws}; give 1 or more, and with use_mean 1")
    like = next(module.parameters())
    batch = batch.to(like.device)
    x = in_type_of(batch.x, like)
    start = None if batch.start is None else in_type_of(batch.start, like)
    steps = x.shape[1]
    with _reproducible(module, seed):
        process = module.bind(x, batch.lengths, start)
        if guide is None:
            z = process.sample_posterior(
                _noise(batch, steps, module.latent_size, seed, draws, use_mean).to(like)
            )
        else:
            shape = torch.Size((len(batch), steps, module.latent_size))
            paths = [
                latents_of(guide, shape, use_mean, x, batch.lengths, start) for _ in range(draws)
            ]
            z = torch.stack(paths)
        mean, frames = along(process, z)
    return Decoded(zero_padding(z, process.conditions.mask, 1), mean, frames)


def along(process: BoundModel, z: Tensor) -> tuple[Tensor, Tensor]:
    """Expected and drawn frames one step ahead of the batch's, given latents (..., B, T, Z)."""
    module = process.model

    def decoded(hidden: Tensor) -> tuple[Tensor, Tensor]:
        parameters = module.emission(hidden)
        return module.likelihood.mean(parameters), module.likelihood.sample(parameters)

    parts = in_blocks(decoded, process.trajectory(z).features)
    mean, frames = (_shaped(process, z, part) for part in parts)
    return mean, frames


@torch.no_grad()
def decode(
    module: SequenceModel,
    z: Tensor,
    *,
    lengths: Tensor | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    use_mean: bool = False,
    temperature: float = 1.0,
) -> Decoded:
    """Run the model freely along given latents: every frame it gives is what it is fed next.

    Args:
        module: a model with latents.
        z: the latents, (B, T, Z).
        lengths: (B,), by default T.
        start: x_0, (B, D) or (B,), by default the likelihood's own.
        seed: of the frames; the generators of the process stay as they are.
        use_mean: draw nothing: feed back the expected frame, of binary frames the more probable
            value of every bit, of tokens the most probable one.
        temperature: factor on the standard deviations (logits are divided by it).

    Returns:
        ``frames`` are those that were fed back.

    Raises:
        UserError: if the model has no latents.
        ValueError: if shapes do not fit each other or the model.
    """
    check_has_latents(module)
    if z.dim() != 3 or z.shape[-1] != module.latent_size:
        raise ValueError(
            f"z has shape {tuple(z.shape)}; this model needs (B, T, {module.latent_size})"
        )
    like = next(module.parameters())
    z = z.to(like)
    count, steps = z.shape[:2]
    first = module.likelihood.start(count, like) if start is None else start.to(like.device)
    first = first if start is None else in_type_of(first, like)
    means: list[Tensor] = []
    fed: list[Tensor] = []
    with _reproducible(module, seed):
        counted = torch.full((count,), steps) if lengths is None else lengths
        conditions = module.bind(None, counted, first).conditions
        if conditions.steps > steps:
            raise ValueError(f"lengths reach {conditions.steps}, but z has {steps} steps")
        z, state = z[:, : conditions.steps], module.initial_state(count)
        for t in range(conditions.steps):
            inputs = module.embed(first)
            state = module.transition(z[:, t], inputs, module.prepare(inputs, state))
            parameters = module.emission(module.features(state))
            means.append(module.likelihood.mean(parameters))
            drawn = None if use_mean else module.likelihood.sample(parameters, temperature)
            first = _most_probable(module, means[-1]) if drawn is None else drawn
            fed.append(first)
    event, valid = len(module.likelihood.event_shape), conditions.mask
    mean, frames = (zero_padding(torch.stack(part, 1), valid, event) for part in (means, fed))
    return Decoded(zero_padding(z, valid, 1), mean, frames)


def check_has_latents(module: SequenceModel) -> None:
    """Raise UserError for a model without latents."""
    if not module.latent_size:
        raise UserError(
            f"the model {type(module).__name__} has no latents: there is nothing to decode; "
            "take a run of another model"
        )


def _most_probable(module: SequenceModel, mean: Tensor) -> Tensor:
    return (mean > 0.5).to(mean) if isinstance(module.likelihood, Bernoulli) else mean


def _noise(batch: Batch, steps: int, size: int, seed: int, draws: int, use_mean: bool) -> Tensor:
    if use_mean:
        return torch.zeros(1, len(batch), steps, size)
    noise = [named_noise(batch.names, steps, size, seed, draw) for draw in range(draws)]
    return torch.stack(noise)


def _shaped(process: BoundModel, z: Tensor, rows: Tensor) -> Tensor:
    """(T, L, B, ...) as (..., B, T) + event shape, zero beyond the lengths."""
    event = process.model.likelihood.event_shape
    frames = rows.permute(1, 2, 0, *range(3, rows.dim())).reshape(*z.shape[:-1], *event)
    return zero_padding(frames, process.conditions.mask, len(event))


@contextlib.contextmanager
def _reproducible(module: SequenceModel, seed: int) -> Generator[None, None, None]:
    """Evaluation mode and a generator of one's own; both as before afterwards."""
    training, device = module.training, next(module.parameters()).device
    devices = [device] if device.type == "cuda" else []
    module.eval()
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        module.train(training)

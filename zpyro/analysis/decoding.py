"""From latents to frames: reconstruction, decoding of given latents, and interpolation."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from zpyro.datasets.batching import Batch
from zpyro.distributed.seeding import named_noise
from zpyro.errors import UserError
from zpyro.likelihoods import NADE, Bernoulli
from zpyro.models.base import Program, SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.conditions import zero_padding
from zpyro.models.guides import latents_of, model_inputs
from zpyro.nn.blocks import in_blocks
from zpyro.nn.devices import fork_rng
from zpyro.nn.modes import evaluation_mode


@dataclass(frozen=True, eq=False)
class Decoded:
    """Latents and their frames, zero beyond the lengths.

    Attributes:
        z: the latents, (..., B, T, Z).
        mean: the mean of p(x_t | h_t), (..., B, T, D): probabilities of binary frames; of tokens
            the most probable one, (..., B, T).
        frames: a sample from p(x_t | h_t), shaped as ``mean``; from :func:`decode` the frames that
            were fed back.
    """

    z: Tensor
    mean: Tensor
    frames: Tensor


def reconstruct(
    model: SequenceModel,
    batch: Batch,
    *,
    seed: int = 0,
    num_samples: int = 1,
    use_mean: bool = False,
    temperature: float = 1.0,
    guide: Program | None = None,
) -> Decoded:
    """Decode latents of the posterior, feeding the model the observed frames.

    As in training, h_t is computed from the observed x_{t-1}: frame t depends on z_1..z_t and
    x_0..x_{t-1}, and on x_t through z only. Where frames have missing values, both ``mean`` and
    ``frames`` fill them; :func:`zpyro.impute` also keeps the observed ones. To see what the
    latents alone determine, pass the same ``z`` to :func:`decode`.

    Args:
        model: a model with latents.
        batch: the sequences.
        seed: of the samples, which differ by sequence name. The global generators are not changed.
        num_samples: S, latent paths per sequence.
        use_mean: instead of sampling, take the mean of q(z_t | h_{t-1}, b_t) at each step, given
            the means before it; S is 1.
        temperature: of ``frames``, a factor on standard deviations; logits are divided by it.
        guide: the guide to take latents from; by default the one attached to the model, or its
            built-in one.

    Returns:
        All with a leading dimension S: z is (S, B, T, Z).

    Raises:
        UserError: if the model has no latents, or the guide has no mean.

    Example:
        >>> batch = data.test[:8].batch()
        >>> mean = zpyro.reconstruct(model, batch, use_mean=True).mean[0]
    """
    check_has_latents(model)
    if num_samples < 1 or (use_mean and num_samples > 1):
        raise UserError(f"num_samples is {num_samples}; give 1 or more, and 1 with use_mean")
    with reproducible(model, seed):
        bound = model.bind(*model_inputs(model, batch))
        z = posterior_latents(
            model, batch, bound, num_samples, seed, use_mean=use_mean, guide=guide
        )
        mean, frames = teacher_forced(bound, z, temperature)
    return Decoded(zero_padding(z, bound.conditions.mask, 1), mean, frames)


def posterior_latents(
    model: SequenceModel,
    batch: Batch,
    bound: BoundModel,
    num_samples: int,
    seed: int,
    *,
    use_mean: bool = False,
    guide: Program | None = None,
) -> Tensor:
    """Latents of a guide for each sequence, (S, B, T, Z); for use within :func:`reproducible`.

    Args:
        model: the model.
        batch: the sequences; their names and the seed fix the noise of the built-in guide.
        bound: the model bound to them.
        num_samples: S.
        seed: of the samples.
        use_mean: take means instead of samples.
        guide: by default the one attached to the model, or its built-in one.
    """
    guide = model.custom_guide if guide is None else guide
    shape = torch.Size((bound.sequences, bound.steps, model.latent_size))
    like = next(model.parameters())
    if guide is not None:
        arguments = bound.conditions.arguments
        return torch.stack(
            [latents_of(guide, shape, use_mean, *arguments) for _ in range(num_samples)]
        )
    if use_mean:
        return bound.sample_posterior(like.new_zeros(1, *shape))
    noise = [
        named_noise(batch.names, bound.steps, model.latent_size, seed, number)
        for number in range(num_samples)
    ]
    return bound.sample_posterior(torch.stack(noise).to(like))


def teacher_forced(bound: BoundModel, z: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean and sampled frames (..., B, T, D) for latents (..., B, T, Z), given observed frames."""
    likelihood, emission = bound.model.likelihood, bound.model.emission
    event = likelihood.event_shape

    def decode_block(hidden: Tensor) -> tuple[Tensor, Tensor]:
        parameters = emission(hidden)
        return likelihood.mean(parameters), likelihood.sample(parameters, temperature)

    def batch_major(rows: Tensor) -> Tensor:
        frames = rows.permute(1, 2, 0, *range(3, rows.dim())).reshape(*z.shape[:-1], *event)
        return zero_padding(frames, bound.conditions.mask, len(event))

    mean, frames = map(batch_major, in_blocks(decode_block, bound.trajectory(z).features))
    return mean, frames


def decode(
    model: SequenceModel,
    z: Tensor,
    *,
    lengths: Tensor | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    use_mean: bool = False,
    temperature: float = 1.0,
    covariates: Tensor | None = None,
) -> Decoded:
    """Decode given latents, feeding the model its own frames.

    Args:
        model: a model with latents.
        z: the latents, (B, T, Z).
        lengths: (B,), by default T.
        start: x_0, (B, D) or (B,), by default that of the likelihood.
        seed: of the sampled frames. The global generators are not changed.
        use_mean: instead of sampling, feed back the mean frame; of binary frames the more probable
            value of each bit, of tokens the most probable one.
        temperature: factor on standard deviations; logits are divided by it.
        covariates: u_1..u_T, (B, T, C), for a model with covariates.

    Returns:
        ``frames`` are those that were fed back.

    Raises:
        UserError: if the model has no latents.
        ValueError: if the shapes do not match each other or the model.
    """
    check_has_latents(model)
    if z.dim() != 3 or z.shape[-1] != model.latent_size:
        raise ValueError(
            f"z has shape {tuple(z.shape)}; this model needs (B, T, {model.latent_size})"
        )
    like, likelihood = next(model.parameters()), model.likelihood
    z = z.to(like)
    count, steps = z.shape[:2]
    if start is None:
        frame = likelihood.start(count, like)
    else:
        frame = start.to(like.device, like.dtype if start.is_floating_point() else None)
    means: list[Tensor] = []
    frames: list[Tensor] = []
    with reproducible(model, seed):
        lengths = torch.full((count,), steps) if lengths is None else lengths
        conditions = model.bind(None, lengths, frame, covariates=covariates).conditions
        if conditions.steps > steps:
            raise ValueError(f"lengths reach {conditions.steps}, but z has {steps} steps")
        z, state = z[:, : conditions.steps], model.initial_state(count)
        for t in range(conditions.steps):
            given = conditions.covariates
            inputs = model.embed_frames(frame, None, None if given is None else given[:, t])
            state = model.transition(z[:, t], inputs, model.prepare(inputs, state))
            parameters = model.emission(model.features(state))
            mean = likelihood.mean(parameters)
            if not use_mean:
                frame = likelihood.sample(parameters, temperature)
            elif isinstance(likelihood, Bernoulli | NADE):
                frame = (mean > 0.5).to(mean)
            else:
                frame = mean
            means.append(mean)
            frames.append(frame)
    event, valid = len(likelihood.event_shape), conditions.mask
    mean, fed = (zero_padding(torch.stack(part, 1), valid, event) for part in (means, frames))
    return Decoded(zero_padding(z, valid, 1), mean, fed)


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Sequences between two sequences.

    Attributes:
        positions: from 0, the first sequence, to 1, the second, (S,).
        lengths: T_s, the length at each position, (S,).
        decoded: latents and frames of S sequences, padded to the longest.
    """

    positions: Tensor
    lengths: Tensor
    decoded: Decoded


def interpolate(
    model: SequenceModel,
    first: Batch,
    second: Batch,
    steps: int,
    *,
    seed: int = 0,
    use_mean: bool = True,
    temperature: float = 1.0,
    guide: Program | None = None,
) -> Interpolation:
    """Decode latents on the straight line between the posterior means of two sequences.

    At position a there are T = round((1 - a) T_1 + a T_2) steps. Both paths of posterior means are
    resampled linearly to T steps, keeping their first and last step, and mixed as
    z = (1 - a) z_1 + a z_2. At both ends the paths are unchanged. Start frames are mixed too; of
    start tokens that of the nearer sequence is used.

    Bowman et al. (arXiv:1511.06349, section 5.3) do this with one latent per sentence.

    Args:
        model: a model with latents.
        first: a batch of one sequence.
        second: another one.
        steps: S, number of positions including both ends, 2 or more.
        seed: of sampled frames; all positions have the same noise.
        use_mean: feed back mean frames instead of sampled ones, see :func:`decode`.
        temperature: of sampled frames.
        guide: the guide to take means from, by default that of the model.

    Raises:
        UserError: if the model has no latents, or steps is below 2.

    Example:
        >>> path = interpolate(model, data.test[:1].batch(), data.test[1:2].batch(), steps=5)
        >>> path.decoded.mean.shape[0]
        5
    """
    if steps < 2:
        raise UserError(f"steps is {steps}; give 2 or more")
    ends = [reconstruct(model, end, use_mean=True, guide=guide).z[0, 0] for end in (first, second)]
    positions = torch.linspace(0.0, 1.0, steps, dtype=ends[0].dtype)
    lengths: list[int] = []
    parts: list[Decoded] = []
    for a in positions.tolist():
        length = max(1, round((1 - a) * len(ends[0]) + a * len(ends[1])))
        path = torch.lerp(resample(ends[0], length), resample(ends[1], length), a)
        start = None
        if first.start is not None and second.start is not None:
            if first.start.is_floating_point():
                start = torch.lerp(first.start, second.start, a)
            else:
                start = first.start if a < 0.5 else second.start
        # One by one, so that the noise at a position does not depend on the number of positions.
        parts.append(
            decode(
                model,
                path.unsqueeze(0),
                start=start,
                seed=seed,
                use_mean=use_mean,
                temperature=temperature,
            )
        )
        lengths.append(length)
    z, mean, frames = (
        torch.nn.utils.rnn.pad_sequence([getattr(part, name)[0] for part in parts], True)
        for name in ("z", "mean", "frames")
    )
    return Interpolation(positions, torch.tensor(lengths), Decoded(z, mean, frames))


def resample(path: Tensor, steps: int) -> Tensor:
    """A path (T, Z) with another number of steps, interpolated linearly."""
    if len(path) == steps:
        return path
    if len(path) == 1 or steps == 1:
        return path[:1].expand(steps, -1)
    places = torch.linspace(0, len(path) - 1, steps, dtype=path.dtype, device=path.device)
    below = places.floor().long().clamp(max=len(path) - 2)
    return torch.lerp(path[below], path[below + 1], (places - below).unsqueeze(-1))


def check_has_latents(model: SequenceModel) -> None:
    """Raise UserError for a model without latents."""
    if not model.latent_size:
        raise UserError(
            f"the model {type(model).__name__} has no latents, so there is nothing to decode; "
            "choose a run of another model"
        )


@contextlib.contextmanager
def reproducible(model: SequenceModel, seed: int) -> Generator[None, None, None]:
    """Evaluation mode and seeded generators within the block."""
    device = next(model.parameters()).device
    with evaluation_mode(model), fork_rng(device):
        torch.manual_seed(seed)
        yield

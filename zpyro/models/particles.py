"""The particle filter of a sequence model: one step of all particles, resampling, and the loop.

K particles of each of B sequences are K B rows, particles outermost. They move with the model's own
guide, and step t multiplies the weight of each by::

    p(x_t | z_1..z_t, x_<t) (p(z_t | z_<t, x_<t) / q(z_t | z_<t, x))^kl_weight

Where the effective number of particles, (sum w)^2 / sum w^2, falls below a fraction of K, particles
are resampled in proportion to their weights, the mean weight is a factor of the estimate of p(x),
and weights start again from one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zpyro.models.bound_model import BoundModel
from zpyro.models.generation import choose_rows
from zpyro.models.steps import StepwiseModel
from zpyro.nn.blocks import in_blocks
from zpyro.nn.devices import sum_dtype
from zpyro.nn.layers import State, gaussian_log_density


class ParticleStep(NamedTuple):
    """One step of K B particles, or all steps with a leading dimension T.

    Attributes:
        z: the sampled z_t, (K B, Z).
        context: what prior, posterior and auxiliary network saw, (K B, C).
        features: what the emission sees, (K B, F).
        mean: of q(z_t), (K B, Z).
        log_variance: of q(z_t), (K B, Z).
    """

    z: Tensor
    context: Tensor
    features: Tensor
    mean: Tensor
    log_variance: Tensor


@dataclass(frozen=True, eq=False)
class FilterRun:
    """A particle filter after the last step of every sequence.

    Attributes:
        log_likelihood: log p^(x), the logarithm of the estimate, nats, (B,).
        state: of the K B particles where each sequence ends.
        log_weights: of these particles since they were last resampled, (K, B).
        effective: effective number of particles at each step before resampling, (T, B), zero
            beyond the lengths.
        resampled: where particles were resampled, (T, B).
        log_factors: what each step's resampling adds to ``log_likelihood``, and at the last step
            the last weights, nats, (T, B).
        ancestor_scores: log-probability of the ancestors chosen at each step if they are sampled
            independently, nats, (T, B); differentiable.
        values: log p(x_t | z_1..z_t, x_<t), and log q(z_t) - log p(z_t) at the sampled z_t, nats,
            each (T, K, B).
        steps: all steps, (T, K B, ...), if they were to be kept.
    """

    log_likelihood: Tensor
    state: State
    log_weights: Tensor
    effective: Tensor
    resampled: Tensor
    log_factors: Tensor
    ancestor_scores: Tensor
    values: tuple[Tensor, Tensor]
    steps: ParticleStep | None


def run_filter(
    bound: BoundModel,
    noise: Iterable[tuple[Tensor, Tensor]],
    num_particles: int,
    threshold: float,
    *,
    kl_weight: float | Tensor = 1.0,
    multinomial: bool = False,
    keep_steps: bool = False,
) -> FilterRun:
    """Filter the sequences of a batch.

    Args:
        bound: the model and the batch, of B sequences.
        noise: for each step standard normal draws (K, B, Z), and uniform numbers in [0, 1) for
            resampling: (B,) for the systematic scheme, (K, B) for the multinomial one.
        num_particles: K.
        threshold: fraction of K below which particles are resampled; 0 never does.
        kl_weight: power of p(z_t) / q(z_t) in the weights.
        multinomial: sample ancestors independently.
        keep_steps: whether to keep every step.
    """
    module, mask = bound.model, bound.conditions.mask
    like = next(module.parameters())
    state = module.first_state(num_particles * bound.sequences)
    weights = like.new_zeros(num_particles, bound.sequences, dtype=sum_dtype(like.device))
    # On an accelerator, a look at the numbers would synchronize with it.
    on_host = like.device.type == "cpu"
    # The networks that do not move particles need no graph of every step: once the ancestors are
    # known, they run again for all steps at once, on the same numbers.
    again = torch.is_grad_enabled() and not _has_noise_of_its_own(module)
    own = torch.arange(num_particles, device=like.device).unsqueeze(1)
    steps: list[ParticleStep] = []
    values: list[tuple[Tensor, Tensor]] = []
    effective: list[Tensor] = []
    resampled: list[Tensor] = []
    ancestors: list[Tensor] = []
    for t, (draws, uniform) in zip(range(bound.steps), noise, strict=False):
        before = state
        state, step = move_particles(bound, t, state, draws.to(like))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not again):
            found = _values(bound, step, _rows(bound, num_particles, t))
        running = torch.ones_like(weights[0], dtype=torch.bool)
        if mask is not None:
            running = mask[:, t]
            if not on_host or not bool(running.all()):
                state = choose_rows(running.repeat(num_particles), state, before)
        with torch.no_grad():
            weights = weights + _gain(found, kl_weight, weights, running)
            particles = effective_particles(weights)
            poor = running & (particles < threshold * num_particles)
            chosen = own.expand_as(weights)
            if not on_host or bool(poor.any()):
                places = uniform.to(weights)
                if not multinomial:
                    places = (own + places) / num_particles
                chosen = at_places(weights, places).where(poor, own)
                weights = weights.where(~poor, 0.0)
        if not on_host or bool(poor.any()):
            state = select_particles(state, chosen)
        if keep_steps or again:
            steps.append(step)
        values.append(found)
        effective.append(particles.where(running, 0.0))
        resampled.append(poor)
        ancestors.append(chosen)
    whole = ParticleStep(*map(torch.stack, zip(*steps, strict=True))) if steps else None
    if again and whole is not None:
        together = _values(bound, whole, _rows(bound, num_particles, None))
        values = list(zip(*together, strict=True))
    # The weights once more, now with their gradients.
    weights = torch.zeros_like(weights)
    factors: list[Tensor] = []
    scores: list[Tensor] = []
    for t, (found, poor, chosen) in enumerate(zip(values, resampled, ancestors, strict=True)):
        weights = weights + _gain(found, kl_weight, weights, None if mask is None else mask[:, t])
        factors.append(mean_weight(weights).where(poor, 0.0))
        scores.append(weights.log_softmax(0).gather(0, chosen).sum(0).where(poor, 0.0))
        weights = weights.where(~poor, 0.0)
    factors[-1] = factors[-1] + mean_weight(weights)
    log_factors = torch.stack(factors)
    first, second = (
        torch.stack(part).unflatten(1, (num_particles, -1)) for part in zip(*values, strict=True)
    )
    return FilterRun(
        log_likelihood=log_factors.sum(0),
        state=state,
        log_weights=weights,
        effective=torch.stack(effective),
        resampled=torch.stack(resampled),
        log_factors=log_factors,
        ancestor_scores=torch.stack(scores),
        values=(first, second),
        steps=whole,
    )


def move_particles(
    bound: BoundModel, t: int, state: State, noise: Tensor
) -> tuple[State, ParticleStep]:
    """Sample z_t for all particles and advance their states.

    Args:
        bound: the model and the batch, of B sequences.
        t: the step.
        state: of K B particles.
        noise: standard normal draws behind z_t, (K, B, Z).
    """

    def rows(values: Tensor) -> Tensor:
        return values[:, t].repeat(len(noise), *(1,) * (values.dim() - 2))

    module, inputs = bound.model, rows(bound.inputs)
    prepared = module.prepare(inputs, state)
    context = module.context(prepared)
    z = mean = log_variance = noise.flatten(0, 1)
    if module.latent_size:
        mean, log_variance = module.posterior(context, rows(bound.backward_states))
        z = mean + (0.5 * log_variance).exp() * z
    state = module.transition(z, inputs, prepared)
    return state, ParticleStep(z, context, module.features(state), mean, log_variance)


def _rows(bound: BoundModel, num_particles: int, t: int | None) -> tuple[Tensor, ...]:
    """x_t (K B, ...) and its mask, if any; without t, of all steps, (T, K B, ...)."""
    given = bound.x, bound.conditions.observed
    parts = [part.transpose(0, 1) for part in given if part is not None]
    if t is not None:
        return tuple(part[t].repeat(num_particles, *(1,) * (part.dim() - 2)) for part in parts)
    return tuple(part.repeat(1, num_particles, *(1,) * (part.dim() - 2)) for part in parts)


def _values(
    bound: BoundModel, step: ParticleStep, frames: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """log p(x_t | ..) and log q(z_t) - log p(z_t), nats, (..., K B).

    Args:
        bound: the model and its batch.
        step: one step, or all.
        frames: see :func:`_rows`.
    """
    module, likelihood = bound.model, bound.model.likelihood

    def value(features: Tensor, z: Tensor, context: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance, *frames = rest
        parameters = module.emission(features)
        if len(frames) == 1:
            density = likelihood.log_prob(parameters, frames[0])
        else:
            density = likelihood.observed_log_prob(parameters, *frames)
        if not module.latent_size:
            return density, torch.zeros_like(density)
        prior = gaussian_log_density(z, *module.prior(context))
        return density, (gaussian_log_density(z, mean, log_variance) - prior).sum(-1)

    parts = (step.features, step.z, step.context, step.mean, step.log_variance, *frames)
    if step.z.dim() == 2:
        return value(*parts)
    first, second = in_blocks(value, *(part.unsqueeze(1) for part in parts))
    return first.squeeze(1), second.squeeze(1)


def _gain(
    values: tuple[Tensor, Tensor],
    kl_weight: float | Tensor,
    weights: Tensor,
    running: Tensor | None,
) -> Tensor:
    """The logarithm of the factor of every weight, (K, B), zero where a sequence has ended."""
    log_likelihood, divergence = values
    gain = (log_likelihood - kl_weight * divergence).to(weights).reshape(weights.shape)
    return gain if running is None else gain.where(running, gain.new_zeros(()))


def _has_noise_of_its_own(module: StepwiseModel) -> bool:
    """Whether networks beside the embedding drop units, differently at each call."""
    layers = (each for each in module.modules() if each is not module.dropout)
    return module.training and any(isinstance(each, nn.Dropout) and each.p for each in layers)


def effective_particles(weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of log weights (K, B), (B,)."""
    shares = weights.softmax(0)
    return 1.0 / (shares**2).sum(0)


def mean_weight(weights: Tensor) -> Tensor:
    """log of the mean of log weights (K, B), (B,)."""
    return weights.logsumexp(0) - math.log(len(weights))


def at_places(weights: Tensor, places: Tensor) -> Tensor:
    """The particles at places (S, B) in [0, 1) of the cumulative weights (K, B), (S, B)."""
    edges = weights.softmax(0).cumsum(0).T.contiguous()
    # Rounding may leave the last edge a little below one.
    found = torch.searchsorted(edges, places.T.contiguous(), right=True)
    return found.clamp(max=len(weights) - 1).T


def resample(state: State, weights: Tensor, offsets: Tensor, poor: Tensor) -> State:
    """The states after systematic resampling where ``poor``, unchanged elsewhere.

    Args:
        state: of K B particles.
        weights: log weights, (K, B).
        offsets: uniform numbers in [0, 1), (B,).
        poor: the sequences to resample, (B,).
    """
    own = torch.arange(len(weights), device=weights.device).unsqueeze(1)
    chosen = at_places(weights, (own + offsets) / len(weights))
    return select_particles(state, chosen.where(poor, own))


def select_particles(state: State, chosen: Tensor) -> State:
    """The states of the particles (S, B) among K B."""
    sequences = chosen.shape[1]
    rows = (chosen * sequences + torch.arange(sequences, device=chosen.device)).flatten()
    return tuple(part.index_select(0, rows) for part in state)

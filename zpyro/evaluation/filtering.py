"""Filtering of streams: one frame at a time, without what comes later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from zpyro.errors import UserError
from zpyro.models.base import SequenceModel
from zpyro.models.guides import to_model
from zpyro.models.particles import effective_particles, resample
from zpyro.nn.devices import sum_dtype
from zpyro.nn.layers import State, gaussian_log_density
from zpyro.nn.modes import evaluation_mode


@dataclass(frozen=True, eq=False)
class FilterStep:
    """What K particles say after a frame of B streams.

    Attributes:
        z: latents z_t of the particles, (K, B, Z).
        weights: of the particles, summing to one, (K, B).
        mean: E[z_t | x_1..x_t], (B, Z).
        std: its standard deviation, (B, Z).
        predictive: p(x_t | x_1..x_{t-1}), what was expected before x_t was seen; batch shape (B,).
        log_likelihood: an estimate of log p(observed part of x_t | x_1..x_{t-1}), nats, (B,);
            their sum over steps is the particle-filter bound of :func:`zpyro.smc`.
        effective_paths: (sum w)^2 / sum w^2 before resampling, (B,).
    """

    z: Tensor
    weights: Tensor
    mean: Tensor
    std: Tensor
    predictive: TorchDistributionMixin
    log_likelihood: Tensor
    effective_paths: Tensor


class Filter:
    """Follows streams frame by frame with a particle filter.

    Where the posterior of z_t reads x_t and nothing later (:class:`zpyro.models.VRNN`, and models
    that keep the default ``encode_future``), particles move with it; those of other models move
    with the prior. Each particle is weighted by p(x_t | h_t) p(z_t) / q(z_t), and particles are
    resampled where their effective number falls below ``threshold`` K. The cost of a step does not
    grow with time.

    Args:
        model: the model; it is used in evaluation mode.
        num_sequences: B, streams that are followed together.
        num_particles: K.
        start: x_0, (B, D) or (B,), by default that of the likelihood.
        threshold: 0 never resamples, 1 almost always does.
        seed: of the particles.

    Attributes:
        steps: frames seen so far.

    Raises:
        UserError: for less than one particle or stream.

    Example::

        stream = zpyro.Filter(model, num_particles=200)
        for frame in frames:  # (D,), NaN where missing
            found = stream.step(frame)
            alarm = found.log_likelihood < -20.0
        expected = stream.predict().mean  # of the next frame, (1, D)
    """

    def __init__(
        self,
        model: SequenceModel,
        *,
        num_sequences: int = 1,
        num_particles: int = 100,
        start: Tensor | None = None,
        threshold: float = 0.5,
        seed: int = 0,
    ) -> None:
        if num_sequences < 1 or num_particles < 1:
            raise UserError(
                f"Filter: num_sequences is {num_sequences} and num_particles {num_particles}; "
                "give 1 or more"
            )
        self.model = model
        self.num_sequences = num_sequences
        self.num_particles = num_particles if model.latent_size else 1
        self.threshold = threshold
        self.steps = 0
        self._like = next(model.parameters())
        self._seed = seed
        self._random = np.random.default_rng([seed, 0])
        first = model.likelihood.start(num_sequences, self._like) if start is None else start
        self._previous = to_model(model, first)
        self._seen: Tensor | None = None
        rows = self.num_particles * num_sequences
        with torch.no_grad():
            self._state = model.initial_state(rows)
        self._log_weights = torch.zeros(
            self.num_particles,
            num_sequences,
            dtype=sum_dtype(self._like.device),
            device=self._like.device,
        )

    @torch.no_grad()
    def step(self, x: Any, covariates: Any = None, observed: Any = None) -> FilterStep:
        """Take in the frames x_t.

        Args:
            x: a tensor or array (B, D), or (B,) of tokens, on the scale of the model; for one
                stream also (D,) or a number. NaN marks missing values.
            covariates: u_t, (B, C), for one stream also (C,).
            observed: False where x is missing, shaped as x; by default where it is NaN.

        Raises:
            UserError: if shapes do not fit the model, or it was built without missing values or
                covariates that are given.
        """
        frames, mask = self._frames(x, observed)
        known = self._covariates(covariates)
        with evaluation_mode(self.model):
            found = self._advance(frames, mask, known)
        self._previous, self._seen = frames, mask
        self.steps += 1
        return found

    @torch.no_grad()
    def predict(self, covariates: Any = None) -> TorchDistributionMixin:
        """p(x_{t+1} | x_1..x_t) of the next frame, batch shape (B,); nothing changes.

        A mixture over the particles, each with a latent from the prior.

        Args:
            covariates: u_{t+1}, (B, C).
        """
        known = self._covariates(covariates)
        with evaluation_mode(self.model):
            inputs, prepared = self._prepared(known)
            # Not of the generator of the steps, so that asking changes nothing.
            noise = self._noise(np.random.default_rng([self._seed, 1, self.steps]))
            mean, log_variance = self.model.prior(self.model.context(prepared))
            z = mean + (0.5 * log_variance).exp() * noise
            return self._mixture(self._emission(z, inputs, prepared))

    def _advance(self, frames: Tensor, mask: Tensor | None, known: Tensor | None) -> FilterStep:
        model = self.model
        inputs, prepared = self._prepared(known)
        context = model.context(prepared)
        noise = self._noise(self._random)
        mean, log_variance = model.prior(context)
        z = mean + (0.5 * log_variance).exp() * noise
        parameters = self._emission(z, inputs, prepared)
        predictive, gain = self._mixture(parameters), torch.zeros_like(z[:, :0]).sum(-1)
        if model.latent_size and not model.reads_future:
            future = self._rows(model.embed_frames(frames, mask, known))
            posterior = model.posterior(context, future)
            z = posterior[0] + (0.5 * posterior[1]).exp() * noise
            prior = gaussian_log_density(z, mean, log_variance)
            gain = (prior - gaussian_log_density(z, *posterior)).sum(-1)
            parameters = self._emission(z, inputs, prepared)
        gain = gain + self._score(parameters, frames, mask)
        before = self._log_weights.log_softmax(0)
        weights = before + gain.to(before).unflatten(0, (self.num_particles, -1))
        shares = weights.softmax(0)
        latents = z.unflatten(0, (self.num_particles, -1))
        expected = (shares.unsqueeze(-1) * latents).sum(0)
        spread = (shares.unsqueeze(-1) * (latents - expected) ** 2).sum(0)
        paths = effective_particles(weights)
        state = model.transition(z, inputs, prepared)
        poor = paths < self.threshold * self.num_particles
        places = torch.from_numpy(self._random.random(self.num_sequences))
        self._state, self._log_weights = state, weights
        if bool(poor.any()):
            self._state = resample(state, weights, places.to(weights), poor)
            self._log_weights = weights.where(~poor, 0.0)
        return FilterStep(
            z=latents,
            weights=shares,
            mean=expected,
            std=spread.sqrt(),
            predictive=predictive,
            log_likelihood=weights.logsumexp(0),
            effective_paths=paths,
        )

    def _prepared(self, known: Tensor | None) -> tuple[Tensor, State]:
        """The inputs [e(x_{t-1}), u_t] of every particle, and its prepared state."""
        inputs = self._rows(self.model.embed_frames(self._previous, self._seen, known))
        return inputs, self.model.prepare(inputs, self._state)

    def _emission(self, z: Tensor, inputs: Tensor, prepared: State) -> Tensor:
        after = self.model.transition(z, inputs, prepared)
        return self.model.emission(self.model.features(after))

    def _score(self, parameters: Tensor, frames: Tensor, mask: Tensor | None) -> Tensor:
        likelihood = self.model.likelihood
        if mask is None:
            return likelihood.log_prob(parameters, self._rows(frames))
        return likelihood.observed_log_prob(parameters, self._rows(frames), self._rows(mask))

    def _mixture(self, parameters: Tensor) -> TorchDistributionMixin:
        """The mixture over particles with these parameters of the likelihood."""
        by_stream = parameters.unflatten(0, (self.num_particles, -1)).transpose(0, 1)
        weights = self._log_weights.log_softmax(0).T.to(parameters.dtype)
        return dist.MixtureSameFamily(
            dist.Categorical(logits=weights, validate_args=False),
            self.model.likelihood.distribution(by_stream),
            validate_args=False,
        )

    def _noise(self, random: np.random.Generator) -> Tensor:
        """Standard normal draws for every particle, (K B, Z)."""
        rows = self.num_particles * self.num_sequences
        draws = random.standard_normal((rows, self.model.latent_size))
        return torch.from_numpy(draws).to(self._like)

    def _rows(self, values: Tensor) -> Tensor:
        return values.repeat(self.num_particles, *(1,) * (values.dim() - 1))

    def _frames(self, x: Any, observed: Any) -> tuple[Tensor, Tensor | None]:
        event = self.model.likelihood.event_shape
        values = torch.as_tensor(np.asarray(x) if not isinstance(x, Tensor) else x)
        if values.dim() == len(event):
            values = values.unsqueeze(0)
        shape = (self.num_sequences, *event)
        if tuple(values.shape) != shape:
            raise UserError(f"x: has shape {tuple(values.shape)}; it must be {shape}")
        mask = None if observed is None else torch.as_tensor(observed).reshape(shape).bool()
        if values.is_floating_point() and mask is None and bool(values.isnan().any()):
            mask = ~values.isnan()
        if mask is None:
            return to_model(self.model, values), None
        if not self.model.missing:
            raise UserError(
                f"x: has missing values, but this {type(self.model).__name__} was built for data "
                "without; build it with missing=True, or fill them"
            )
        mask = mask.to(self._like.device)
        frames = to_model(self.model, values)
        return frames.where(mask, frames.new_zeros(())), mask

    def _covariates(self, covariates: Any) -> Tensor | None:
        size = self.model.covariate_size
        if covariates is None and not size:
            return None
        if covariates is None or not size:
            has = "none were" if covariates is None else "some were"
            raise UserError(
                f"covariates: this {type(self.model).__name__} was built for {size} a step, but "
                f"{has} given; give as many"
            )
        values = torch.as_tensor(
            np.asarray(covariates) if not isinstance(covariates, Tensor) else covariates
        ).to(self._like)
        values = values.unsqueeze(0) if values.dim() == 1 else values
        if tuple(values.shape) != (self.num_sequences, size):
            raise UserError(
                f"covariates: have shape {tuple(values.shape)}; they must be "
                f"{(self.num_sequences, size)}"
            )
        return values

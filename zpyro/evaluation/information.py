"""The information that latents hold about the frames they were inferred from."""

from __future__ import annotations

import math

import numpy as np

SAMPLE = 1000
"""Frames in the estimate, at most."""
_BLOCK = 64


class FrameSample:
    """Some of the scored frames, spread evenly, with their posteriors.

    Args:
        frames: number of scored frames.
    """

    def __init__(self, frames: int) -> None:
        self.every = max(1, math.ceil(frames / SAMPLE))
        self._parts: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def add(self, first: int, z: np.ndarray, mean: np.ndarray, log_variance: np.ndarray) -> None:
        """Add frames: the number of the first, latents and their posterior (frames, Z)."""
        chosen = slice(-first % self.every, None, self.every)
        self._parts[first] = (z[chosen], mean[chosen], log_variance[chosen])

    def merge(self, other: FrameSample) -> None:
        """Add the frames of another process."""
        self._parts.update(other._parts)

    def mutual_information(self) -> float:
        """An estimate of I(frame; z_t) under the posterior, nats.

        ``1/M sum_i log q_i(z_i) - log 1/M sum_j q_j(z_i)`` over M sampled frames with posteriors
        q_i and samples z_i: how much better the posterior of a frame explains its latent than the
        aggregate of all (Hoffman and Johnson 2016, "ELBO surgery"). It is at most log M, and it
        includes what the latents repeat of the past, which the posterior of z_t depends on. NaN
        without posteriors, zero without latents.
        """
        parts = [part for _, part in sorted(self._parts.items()) if len(part[0])]
        if not parts:
            return math.nan
        z, mean, log_variance = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not z.size:
            return 0.0
        precision = np.exp(-log_variance)
        constant = -0.5 * (log_variance + math.log(2.0 * math.pi)).sum(1)
        own = constant - 0.5 * ((z - mean) ** 2 * precision).sum(1)
        total = 0.0
        for first in range(0, len(z), _BLOCK):
            rows = z[first : first + _BLOCK]
            distance = ((rows[:, None] - mean) ** 2 * precision).sum(2)
            aggregate = np.logaddexp.reduce(constant - 0.5 * distance, axis=1) - math.log(len(z))
            total += float((own[first : first + _BLOCK] - aggregate).sum())
        return total / len(z)

"""The importance-weighted bound: several paths per sequence, each with one weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zpyro.datasets.batching import Batch, similar_batches
from zpyro.datasets.sequences import Sequences
from zpyro.distributed.seeding import named_noise
from zpyro.evaluation.custom_guides import path_log_probs
from zpyro.evaluation.elbo import OnBatch, mean_and_stderr, per_frame, sorted_by_length
from zpyro.models.base import SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.distributions import (
    TrajectoryDistribution,
    TrajectoryLikelihood,
    TrajectoryPosterior,
    TrajectoryPrior,
)
from zpyro.models.guides import model_inputs
from zpyro.nn.devices import sum_dtype
from zpyro.nn.modes import evaluation_mode

MEMORY = 256 << 20
"""Default memory of the paths that are sampled together, bytes."""


@dataclass(frozen=True, eq=False)
class ImportanceEvaluation:
    """The importance-weighted bound on a set of N sequences; nats.

    Attributes:
        iwae: mean over sequences of log (1 / K) sum_k p(x, z_k) / q(z_k | x).
        stderr: standard error of that mean over sequences.
        iwae_per_frame: iwae N / F, with F frames in all.
        iwae_per_frame_stderr: its standard error over sequences, of a ratio estimator.
        monte_carlo_stderr: its standard error over draws of the paths, by the delta method.
        effective_paths: mean over sequences of (sum_k w_k)^2 / sum_k w_k^2.
        particles: K.
        names: of the sequences, in the order of ``iwae_by_sequence``.
        iwae_by_sequence: (N,).
    """

    iwae: float
    stderr: float
    iwae_per_frame: float
    iwae_per_frame_stderr: float
    monte_carlo_stderr: float
    effective_paths: float
    particles: int
    names: tuple[str, ...]
    iwae_by_sequence: np.ndarray


def iwae(
    module: SequenceModel,
    sequences: Sequences,
    *,
    particles: int = 25,
    batch_size: int = 64,
    seed: int = 0,
    memory: int = MEMORY,
    on_batch: OnBatch | None = None,
) -> ImportanceEvaluation:
    """The importance-weighted bound of a model on a set of sequences (arXiv:1509.00519).

    As many paths are sampled together as fit into ``memory``, at least one, so that memory does
    not grow with their number. Their noise depends only on ``seed`` and each sequence's name, as in
    :func:`evaluate`: the result does not depend on how many are sampled together, but for the order
    of floating-point sums. Paths of a custom guide are sampled one after the other.

    Args:
        module: the model; it is evaluated without dropout, and its mode is restored.
        sequences: what to score.
        particles: K; a model without latents has the same number for every K.
        batch_size: sequences scored together; fewer where their lengths differ much.
        seed: of the noise.
        memory: of the paths that are sampled together, bytes; the model, the data and one path of
            a batch come on top.
        on_batch: receives (done, total) after each batch.

    Raises:
        UserError: if there are no sequences.
    """
    ordered, back = sorted_by_length(sequences)
    draws = particles if module.latent_size else 1
    parts: list[np.ndarray] = []
    with evaluation_mode(module):
        for part in similar_batches(ordered.lengths, batch_size):
            batch = ordered[part].batch()
            weights = list(_log_weights(module, batch, seed, draws, memory))
            parts.append(torch.cat(weights).cpu().numpy())
            if on_batch is not None:
                on_batch(part.stop, len(sequences))
    log_weights = np.concatenate(parts, axis=1)[:, back]
    largest = log_weights.max(0)
    weights = np.exp(log_weights - largest)
    bounds = largest + np.log(weights.mean(0))
    shares = weights / weights.sum(0)
    # Of the log of a mean of K weights: their variance over K times their squared mean.
    paths = len(weights)
    variance = (shares**2).sum(0) - 1.0 / paths
    correction = paths / (paths - 1) if paths > 1 else 1.0
    mean, stderr = mean_and_stderr(bounds)
    ratio, ratio_stderr = per_frame(bounds, sequences.lengths)
    noise = float(np.sqrt(np.maximum(variance, 0.0).sum() * correction))
    return ImportanceEvaluation(
        iwae=mean,
        stderr=stderr,
        iwae_per_frame=ratio,
        iwae_per_frame_stderr=ratio_stderr,
        monte_carlo_stderr=noise / len(bounds),
        effective_paths=float((1.0 / (shares**2).sum(0)).mean()),
        particles=particles,
        names=tuple(sequences.names),
        iwae_by_sequence=bounds,
    )


def _log_weights(
    module: SequenceModel, batch: Batch, seed: int, draws: int, memory: int
) -> Iterator[Tensor]:
    """log p(x, z) / q(z | x) of all paths, some at a time, (K, B) each."""
    if module.custom_guide is not None:
        for draw in range(draws):
            likelihood, prior, posterior, _ = path_log_probs(module, batch, seed, draw)
            yield _wide(likelihood + prior - posterior).unsqueeze(0)
        return
    bound = module.bind(*model_inputs(module, batch))
    if not module.latent_size:
        yield _sum(TrajectoryLikelihood(bound, bound.empty_latents()), bound.x).unsqueeze(0)
        return
    together = max(1, memory // _path_bytes(bound))
    for first in range(0, draws, together):
        some = range(first, min(first + together, draws))
        noise = [named_noise(batch.names, bound.steps, module.latent_size, seed, k) for k in some]
        yield _weights_of_noise(bound, torch.stack(noise).to(next(module.parameters())))


def _weights_of_noise(bound: BoundModel, noise: Tensor) -> Tensor:
    """log p(x, z) / q(z | x) of the paths for standard normal draws (K, B, T, Z), (K, B)."""
    posterior = TrajectoryPosterior(bound)
    z = posterior.from_noise(noise)
    likelihood, prior = TrajectoryLikelihood(bound, z), TrajectoryPrior(bound)
    return _sum(likelihood, bound.x) + _sum(prior, z) - _sum(posterior, z)


def _sum(distribution: TrajectoryDistribution, value: Tensor) -> Tensor:
    """The log-density of whole sequences, summed over steps."""
    return _wide(distribution.step_log_prob(value)).sum(-1)


def _wide(values: Tensor) -> Tensor:
    return values.to(sum_dtype(values.device))


def _path_bytes(bound: BoundModel) -> int:
    """Memory of one path of every sequence in the batch, more than any model here was seen to take.

    What the networks compute for all steps is bounded on its own, see :mod:`zpyro.nn.blocks`.
    """
    known = (bound.inputs, bound.input_features, bound.backward_states)
    size = bound.model.hidden_size + bound.model.latent_size
    numbers = 16 * size + 2 * sum(values.shape[-1] for values in known)
    return bound.sequences * bound.steps * numbers * bound.inputs.element_size()

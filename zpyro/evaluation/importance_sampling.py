"""The importance-weighted bound: several paths per sequence, each with one weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences
from zpyro.evaluation.custom_guides import path_log_probs
from zpyro.evaluation.elbo import OnBatch, mean_and_stderr, named_terms, sorted_by_length
from zpyro.models.base import SequenceModel
from zpyro.nn.modes import evaluation_mode


@dataclass(frozen=True, eq=False)
class ImportanceEvaluation:
    """The importance-weighted bound on a set of N sequences; nats.

    Attributes:
        iwae: mean over sequences of log (1 / K) sum_k p(x, z_k) / q(z_k | x).
        stderr: standard error of that mean over sequences.
        monte_carlo_stderr: its standard error over draws of the paths, by the delta method.
        effective_paths: mean over sequences of (sum_k w_k)^2 / sum_k w_k^2.
        particles: K.
        names: of the sequences, in the order of ``iwae_by_sequence``.
        iwae_by_sequence: (N,).
    """

    iwae: float
    stderr: float
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
    on_batch: OnBatch | None = None,
) -> ImportanceEvaluation:
    """The importance-weighted bound of a model on a set of sequences (arXiv:1509.00519).

    Paths are sampled one after the other, so that memory does not grow with their number. Their
    noise depends only on ``seed`` and each sequence's name, as in :func:`evaluate`.

    Args:
        module: the model; it is evaluated without dropout, and its mode is restored.
        sequences: what to score.
        particles: K; a model without latents has the same number for every K.
        batch_size: sequences scored together.
        seed: of the noise.
        on_batch: receives (done, total) after each batch.

    Raises:
        UserError: if there are no sequences.
    """
    ordered, back = sorted_by_length(sequences)
    draws = particles if module.latent_size else 1
    parts: list[np.ndarray] = []
    with evaluation_mode(module):
        for batch in ordered.batches(batch_size):
            parts.append(
                np.stack([_log_weights(module, batch, seed, draw) for draw in range(draws)])
            )
            if on_batch is not None:
                on_batch(sum(part.shape[1] for part in parts), len(sequences))
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
    noise = float(np.sqrt(np.maximum(variance, 0.0).sum() * correction))
    return ImportanceEvaluation(
        iwae=mean,
        stderr=stderr,
        monte_carlo_stderr=noise / len(bounds),
        effective_paths=float((1.0 / (shares**2).sum(0)).mean()),
        particles=particles,
        names=tuple(sequences.names),
        iwae_by_sequence=bounds,
    )


def _log_weights(module: SequenceModel, batch: Batch, seed: int, draw: int) -> np.ndarray:
    """log p(x, z) / q(z | x) of one path a sequence, (B,)."""
    if module.custom_guide is not None:
        likelihood, prior, posterior, _ = path_log_probs(module, batch, seed, draw)
        return (likelihood + prior - posterior).double().cpu().numpy()
    terms = named_terms(module, batch, seed, draw)
    steps = terms.log_likelihood + terms.log_prior - terms.log_posterior
    return steps.double().sum(1).cpu().numpy()
